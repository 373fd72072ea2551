//! Spans of time as people type and read them: `90s`, `15m`, `24h`, `7d`.
//!
//! Used by every command with a lifetime, a timeout or an age. Reads no clock.

use std::time::Duration;

/// Parses a number with a unit (`ms`, `s`, `m`, `h`, `d`), or several of them: `1h30m`.
///
/// # Errors
/// Says what is allowed. Zero is allowed; a span above ten years is not, since it is a typing mistake.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a span of time such as 500ms, 90s, 15m, 24h, 7d or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    if total > Duration::from_secs(3660 * 86_400) {
        return Err(format!("{text:?} is longer than ten years"));
    }
    Ok(total)
}

/// At most two units, the larger first: `2d 3h`, `23h 59m`, `41s`, `84 ms`.
pub(crate) fn show(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, 0) => format!("{} ms", span.as_millis()),
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, 0) => format!("{m}m"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, 0, _) => format!("{h}h"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, 0, _, _) => format!("{d}d"),
        (d, h, _, _) => format!("{d}d {h}h"),
    }
}

/// Microseconds as a latency: `840 µs`, `1.3 ms`, `2.4 s`.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn show_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_shown_alike() {
        for (text, ms, shown) in [
            ("500ms", 500, "500 ms"),
            ("90s", 90_000, "1m 30s"),
            ("15m", 900_000, "15m"),
            ("24h", 86_400_000, "1d"),
            ("1h30m", 5_400_000, "1h 30m"),
            ("7d", 604_800_000, "7d"),
            ("0s", 0, "0 ms"),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(show(Duration::from_millis(ms)), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "5x",
            "-5s",
            "5 s",
            "1.5h",
            "99999999999999999999s",
            "18446744073709551615d",
            "4000d",
            "5ß",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
