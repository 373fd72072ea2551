//! A path as a template: segments that name one thing among many become `{id}`.
//!
//! `/carts/8f14e45f-ceea/items/3` is `/carts/{id}/items/{id}`. Numbers, hexadecimal words, UUIDs and long words with digits
//! count as names of things; a path has at most [`SEGMENTS_MAX`] segments and [`BYTES_MAX`] bytes, the rest is `…`.
//!
//! # Why
//! Without routes that somebody declared, the number of paths has no bound. The alternative, to learn which segments vary,
//! needs a state for each edge and changes its mind, so that what was counted yesterday has another name today.

/// Segments that are told apart.
const SEGMENTS_MAX: usize = 8;
/// Bytes of a template.
const BYTES_MAX: usize = 160;
/// A word so long with digits in it is a key, a hash or a token.
const WORD_BYTES_MAX: usize = 20;
/// Hexadecimal words from this length on are identifiers; shorter ones (`add`, `face`) are words.
const HEX_BYTES_MIN: usize = 8;

/// The template of a canonical path without its query.
pub(crate) fn template(path: &str) -> String {
    let mut out = String::with_capacity(path.len().min(BYTES_MAX));
    for (index, segment) in path.split('/').filter(|segment| !segment.is_empty()).enumerate() {
        // Parameters of a segment are set aside, as for matching.
        let segment = segment.split(';').next().unwrap_or_default();
        if index >= SEGMENTS_MAX || out.len().saturating_add(segment.len()) >= BYTES_MAX {
            out.push_str("/…");
            return out;
        }
        out.push('/');
        out.push_str(if is_identifier(segment) { "{id}" } else { segment });
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

fn is_identifier(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hex = segment.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    match digits {
        0 => segment.len() > WORD_BYTES_MAX.saturating_mul(2),
        _ if digits == segment.len() => true,
        _ if hex && segment.len() >= HEX_BYTES_MIN => true,
        _ if segment.len() > WORD_BYTES_MAX => true,
        // `v1`, `oauth2`, `item-7`: a word with a number at its end that begins like a word.
        _ => segment
            .rsplit(['-', '_', '.', '~'])
            .next()
            .is_some_and(|tail| tail.len() < segment.len() && tail.bytes().all(|byte| byte.is_ascii_digit())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_one_thing_among_many_is_set_aside() {
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("/items", "/items"),
            ("/items/3", "/items/{id}"),
            ("/carts/8f14e45f-ceea-467f-9575-000000000001/items/3", "/carts/{id}/items/{id}"),
            ("/v1/users/alice", "/v1/users/alice"),
            ("/oauth2/token", "/oauth2/token"),
            ("/orders/order-77", "/orders/{id}"),
            ("/add/face/decade", "/add/face/decade"),
            ("/deadbeef0/x", "/{id}/x"),
            ("/a;x=1/b", "/a/b"),
            ("/1/2/3/4/5/6/7/8/9/10", "/{id}/{id}/{id}/{id}/{id}/{id}/{id}/{id}/…"),
        ] {
            assert_eq!(template(path), expected, "{path}");
        }
        assert!(template(&format!("/{}", "x/".repeat(5_000))).len() <= BYTES_MAX + "/…".len());
    }
}
