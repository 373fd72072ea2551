//! Who somebody is: trust domains and SPIFFE IDs, by the byte-exact grammar of the SPIFFE specification.
//!
//! `mesh-ca` reads identities from certificates with [`SpiffeId::from_str`]; everything else receives the parsed type.
//! Nothing here normalises: an identity is equal to another only byte for byte.

pub mod pattern;

use crate::name::{Namespace, ServiceAccount};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest SPIFFE ID in bytes (SPIFFE-ID, section 2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;
/// The longest trust domain in bytes (SPIFFE-ID, section 2.3).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is not a SPIFFE ID: {problem}; expected spiffe://<trust-domain>/ns/<namespace>/sa/<account>"
)]
pub struct IdentityError {
    /// The offending text, cut to 120 characters.
    pub value: String,
    /// Which rule of the grammar it breaks.
    pub problem: &'static str,
}

impl IdentityError {
    fn new(value: &str, problem: &'static str) -> Self {
        Self { value: value.chars().take(120).collect(), problem }
    }
}

/// A trust domain name: `a-z 0-9 . - _`, at most 255 bytes (SPIFFE-ID, section 2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://<trust-domain>`, the identity of the domain itself, as its roots carry it.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.is_empty() {
            return Err(IdentityError::new(text, "the trust domain is empty"));
        }
        if text.len() > TRUST_DOMAIN_BYTES_MAX {
            return Err(IdentityError::new(text, "the trust domain is longer than 255 bytes"));
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b)) {
            return Err(IdentityError::new(
                text,
                "the trust domain has a character other than a-z 0-9 . - _",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A SPIFFE ID with a path, that is, the identity of a workload (SPIFFE-ID, section 2).
///
/// Any valid path is accepted, since foreign trust domains shape theirs as they like; [`SpiffeId::workload`] gives the
/// namespace and account where the path has this mesh's shape. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Length of `spiffe://<trust-domain>`.
    path_at: u16,
}

impl SpiffeId {
    /// The identity of a workload of this mesh.
    pub fn for_workload(domain: &TrustDomain, namespace: &Namespace, account: &ServiceAccount) -> Self {
        let text = format!("{SCHEME}{domain}/ns/{namespace}/sa/{account}");
        // At most 9 + 255 bytes, since a trust domain is at most 255.
        #[expect(clippy::cast_possible_truncation, reason = "bounded by TRUST_DOMAIN_BYTES_MAX")]
        let path_at = (SCHEME.len() + domain.as_str().len()) as u16;
        Self { text: text.into(), path_at }
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain as text.
    pub fn trust_domain_str(&self) -> &str {
        self.text.get(SCHEME.len()..usize::from(self.path_at)).unwrap_or_default()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_str().into())
    }

    /// The path, with its leading `/`.
    pub fn path(&self) -> &str {
        self.text.get(usize::from(self.path_at)..).unwrap_or_default()
    }

    /// Namespace and account, if the path is exactly `/ns/<namespace>/sa/<account>`.
    pub fn workload(&self) -> Option<(Namespace, ServiceAccount)> {
        let rest = self.path().strip_prefix("/ns/")?;
        let (namespace, rest) = rest.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        Some((namespace.parse().ok()?, account.parse().ok()?))
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    /// Parses by SPIFFE-ID, section 2: lower-case scheme and trust domain, no port, user, query or fragment, no
    /// percent-encoding, no empty, `.` or `..` segment, segments of `A-Z a-z 0-9 . - _` only.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let error = |problem| Err(IdentityError::new(text, problem));
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return error("it is longer than 2048 bytes");
        }
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return error("it does not start with spiffe://");
        };
        let Some((domain, path)) = rest.split_once('/') else {
            return error("it has no path");
        };
        let domain: TrustDomain = domain.parse()?;
        for segment in path.split('/') {
            match segment {
                "" => return error("it has an empty path segment"),
                "." | ".." => return error("it has a relative path segment"),
                _ => {}
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
                return error("a path segment has a character other than A-Z a-z 0-9 . - _");
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded by TRUST_DOMAIN_BYTES_MAX")]
        let path_at = (SCHEME.len() + domain.as_str().len()) as u16;
        Ok(Self { text: text.into(), path_at })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_is_byte_exact() {
        let good = ["spiffe://mesh.local/ns/default/sa/web", "spiffe://a/b", "spiffe://a.b-c_d/X/1.2/..."];
        for text in good {
            assert_eq!(text.parse::<SpiffeId>().unwrap().as_str(), text);
        }
        let bad = [
            "",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///b",
            "SPIFFE://a/b",
            "spiffe://A/b",
            "spiffe://a//b",
            "spiffe://a/b/",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b%20c",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a:80/b",
            "spiffe://u@a/b",
            "spiffe://a/b\0",
            "spiffe://a/ä",
            " spiffe://a/b",
            "spiffe://a/b ",
            "spiffe:/a/b",
            "https://a/b",
            "spiffe://a/b\n",
        ];
        for text in bad {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn parts_of_a_workload_identity() {
        let id: SpiffeId = "spiffe://mesh.local/ns/shop/sa/web".parse().unwrap();
        assert_eq!(id.trust_domain_str(), "mesh.local");
        assert_eq!(id.path(), "/ns/shop/sa/web");
        let (namespace, account) = id.workload().unwrap();
        assert_eq!((namespace.as_str(), account.as_str()), ("shop", "web"));
        assert_eq!(SpiffeId::for_workload(&id.trust_domain(), &namespace, &account), id);
        let other: SpiffeId = "spiffe://mesh.local/ns/shop/sa/web/x".parse().unwrap();
        assert!(other.workload().is_none());
    }
}
