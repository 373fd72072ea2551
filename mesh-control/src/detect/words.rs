//! How alarms speak of identities, amounts and times. What came from outside is made harmless: no control characters, no
//! direction marks, cut to a length.

/// Characters of a name in a sentence.
const NAME_CHARS_MAX: usize = 80;

/// Characters of a sentence.
const SENTENCE_CHARS_MAX: usize = 1_000;

/// A name without what could move a cursor, end or reverse a line.
pub(crate) fn clean(text: &str) -> String {
    cleaned(text, NAME_CHARS_MAX)
}

/// The same for a sentence.
pub(crate) fn clean_long(text: &str) -> String {
    cleaned(text, SENTENCE_CHARS_MAX)
}

fn cleaned(text: &str, chars_max: usize) -> String {
    let mut harmless = text.chars().filter(|c| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !c.is_control() && !turns
    });
    let mut out: String = harmless.by_ref().take(chars_max).collect();
    if harmless.next().is_some() {
        out.push('…');
    }
    out
}

/// An identity as people say it: `shop/web` for `spiffe://mesh.local/ns/shop/sa/web`.
pub(crate) fn short(identity: &str) -> String {
    let id = identity.parse::<mesh_proto::identity::SpiffeId>().ok();
    match id.and_then(|id| id.workload()) {
        Some((namespace, account)) => format!("{namespace}/{account}"),
        None => clean(identity),
    }
}

/// The last part of an identity, as `--from` of commands finds it.
pub(crate) fn account(identity: &str) -> String {
    let short = short(identity);
    let last = short.rsplit('/').next().unwrap_or_default();
    last.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect()
}

/// A number as a person would write it.
pub(crate) fn number(value: f64) -> String {
    if value >= 100.0 || (value - value.round()).abs() < 0.005 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// A number of bytes.
pub(crate) fn bytes(value: f64) -> String {
    let units = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1_024.0)];
    let unit = units.iter().find(|(_, unit)| value >= *unit);
    unit.map_or_else(|| format!("{value:.0} B"), |(name, unit)| format!("{} {name}", number(value / unit)))
}

/// A number of microseconds.
pub(crate) fn micros(us: u64) -> String {
    let us = super::table::float(us);
    if us >= 1_000_000.0 {
        format!("{} s", number(us / 1_000_000.0))
    } else if us >= 1_000.0 {
        format!("{} ms", number(us / 1_000.0))
    } else {
        format!("{us:.0} µs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_harmless() {
        assert_eq!(short("spiffe://mesh.local/ns/shop/sa/web"), "shop/web");
        assert_eq!(account("spiffe://mesh.local/ns/shop/sa/web"), "web");
        assert_eq!(short("x\r\n\u{1b}[2J\u{202e}y"), "x[2Jy");
        assert_eq!(account("x; rm -rf /"), "");
        assert_eq!(clean(&"x".repeat(500)).chars().count(), 81);
    }

    #[test]
    fn amounts_are_what_people_write() {
        assert_eq!(number(0.25), "0.25");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(1234.5), "1234");
        assert_eq!(bytes(10.0 * 1_048_576.0), "10 MiB");
        assert_eq!(micros(1_500), "1.5 ms");
    }
}
