//! Which requests of a browser are let in. Pure but for the one-time secret.
//!
//! | danger | what keeps it out |
//! |---|---|
//! | another user or program of this machine | the one-time secret in the printed address, then a cookie of 256 bits |
//! | a page of the internet that sends requests here | no answer without the cookie, which is `SameSite=Strict`; `Origin` and `Sec-Fetch-Site` must be ours |
//! | a name that suddenly means 127.0.0.1 (DNS rebinding) | `Host` must be the very address that was printed |
//! | a program on another port of 127.0.0.1 | browsers send cookies to all ports of a host, so the cookie is for a path that nobody else knows |
//! | the address in a log, a history or over a shoulder | the secret works once, and never for a prefetch |

use http::header::{COOKIE, HOST, HeaderMap, ORIGIN};
use http::{Method, Uri};
use mesh_ca::seal::{digest_text, random_key_text};
use std::sync::{Mutex, PoisonError};

/// The longest query that is passed on.
const QUERY_BYTES_MAX: usize = 2_048;
/// The longest path below the base.
const PATH_BYTES_MAX: usize = 100;
/// Digits of the base path: 64 random bits that no page of another origin can learn.
const BASE_DIGITS: usize = 16;
/// The cookie's name.
const COOKIE_NAME: &str = "meshctl";

/// What becomes of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It brought the secret: here is the cookie to set.
    Enter {
        /// The whole header value.
        cookie: String,
    },
    /// It is the user's; ask the control plane.
    Relay {
        /// Below the base, without a leading slash.
        path: String,
        /// Still encoded.
        query: String,
    },
    /// The base without its slash.
    Moved,
    /// No.
    Refused(Refusal),
}

/// Why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Something else than GET.
    Method,
    /// The `Host` is not the printed one.
    Host,
    /// A page of another origin asks.
    Origin,
    /// No or another cookie.
    Cookie,
    /// The secret is not, or no longer, the one.
    Secret,
    /// Not a path of the dashboard.
    Path,
    /// The query is too long.
    Query,
}

impl Refusal {
    /// The status code.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Method => 405,
            Self::Host | Self::Origin | Self::Cookie | Self::Secret => 403,
            Self::Path => 404,
            Self::Query => 414,
        }
    }

    /// What happened and what to do.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Method => "The dashboard only shows: it answers GET and nothing else.",
            Self::Host => "This address is not the one that meshctl dashboard printed.",
            Self::Origin => "A page of another origin asked for this.",
            Self::Cookie => {
                "This browser has not been let in. Open the address that meshctl dashboard printed last."
            }
            Self::Secret => {
                "This address has been used, and works once. Open the one that meshctl dashboard printed last."
            }
            Self::Path => "There is nothing here.",
            Self::Query => "The query is longer than 2,048 bytes.",
        }
    }
}

/// The door of one `meshctl dashboard`.
pub(crate) struct Door {
    /// `127.0.0.1:41231`.
    host: String,
    /// The first part of every path.
    base: String,
    cookie: String,
    /// The digest of the secret that opens it next; the secret itself is only in the printed address.
    secret: Mutex<String>,
}

impl Door {
    /// A door at an address; `None` when the system has no random bits.
    pub(crate) fn new(host: String) -> Option<Self> {
        let random = || random_key_text().map(|text| text.as_str().to_owned());
        let base = random()?.get(..BASE_DIGITS)?.to_owned();
        Some(Self { host, base, cookie: random()?, secret: Mutex::new(String::new()) })
    }

    /// A new address to open, once; the one before opens nothing any more. `None` without random bits.
    pub(crate) fn address(&self) -> Option<String> {
        let secret = random_key_text()?;
        *self.secret.lock().unwrap_or_else(PoisonError::into_inner) = digest_text(&secret);
        Some(format!("http://{}/{}/open/{}", self.host, self.base, &*secret))
    }

    /// Where the page is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Judges a request.
    pub(crate) fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let refused = Verdict::Refused;
        if !is_only(headers, HOST, &self.host) {
            return refused(Refusal::Host);
        }
        if method != Method::GET {
            return refused(Refusal::Method);
        }
        let origin = format!("http://{}", self.host);
        if headers.contains_key(ORIGIN) && !is_only(headers, ORIGIN, &origin) {
            return refused(Refusal::Origin);
        }
        let Some((base, path)) = uri.path().strip_prefix('/').map(|path| path.split_once('/').unzip()) else {
            return refused(Refusal::Path);
        };
        if base.unwrap_or_else(|| uri.path().trim_start_matches('/')) != self.base {
            return refused(Refusal::Path);
        }
        // Whoever knows the secret may come from anywhere: a terminal, another page, a file.
        if let Some(secret) = path.and_then(|path| path.strip_prefix("open/")) {
            return self.enter(secret, headers);
        }
        let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
        if !matches!(site, None | Some(b"same-origin" | b"none")) {
            return refused(Refusal::Origin);
        }
        if !self.has_cookie(headers) {
            return refused(Refusal::Cookie);
        }
        let Some(path) = path else { return Verdict::Moved };
        let query = uri.query().unwrap_or_default();
        if query.len() > QUERY_BYTES_MAX {
            return refused(Refusal::Query);
        }
        if !is_path(path) {
            return refused(Refusal::Path);
        }
        Verdict::Relay { path: path.to_owned(), query: query.to_owned() }
    }

    fn enter(&self, secret: &str, headers: &HeaderMap) -> Verdict {
        let is_prefetch = |name: &str| {
            headers.get(name).is_some_and(|value| value.as_bytes().windows(8).any(|part| part == b"prefetch"))
        };
        if is_prefetch("sec-purpose") || is_prefetch("purpose") {
            return Verdict::Refused(Refusal::Secret);
        }
        let mut expected = self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        // Digests are compared: how long that takes says nothing about the secret.
        if expected.is_empty() || digest_text(secret) != *expected {
            return Verdict::Refused(Refusal::Secret);
        }
        expected.clear();
        let Self { base, cookie, .. } = self;
        Verdict::Enter { cookie: format!("{COOKIE_NAME}={cookie}; Path=/{base}/; HttpOnly; SameSite=Strict") }
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut values = cookies
            .flat_map(|text| text.split(';'))
            .filter_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='));
        let expected = digest_text(&self.cookie);
        values.any(|value| digest_text(value) == expected)
    }
}

/// Whether a header is there exactly once, with this value.
fn is_only(headers: &HeaderMap, name: http::HeaderName, expected: &str) -> bool {
    let mut values = headers.get_all(name).iter();
    values.next().is_some_and(|value| value.as_bytes() == expected.as_bytes()) && values.next().is_none()
}

/// Whether it can be a path of the dashboard: a file, or `api/` and a word.
fn is_path(path: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'/');
    path.len() <= PATH_BYTES_MAX
        && path.bytes().all(is_plain)
        && !path.starts_with('/')
        && !["..", "//", "./"].iter().any(|part| path.contains(part))
}

#[cfg(test)]
mod tests;
