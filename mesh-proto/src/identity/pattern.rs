//! Which identities a rule means: one exactly, or all below a prefix that ends at a path segment.

use super::{IdentityError, SpiffeId, TrustDomain};
use crate::name::Namespace;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A set of identities. There is no wildcard inside a name: `spiffe://td/ns/shop/*` means every identity below `/ns/shop/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IdentityPattern {
    /// This identity and no other.
    Exact(SpiffeId),
    /// Every identity whose text starts with this; always ends in `/`.
    Below(Arc<str>),
}

impl IdentityPattern {
    /// Every identity of a namespace.
    pub fn namespace(domain: &TrustDomain, namespace: &Namespace) -> Self {
        Self::Below(format!("{}/ns/{namespace}/", domain.uri()).into())
    }

    /// Every identity of a trust domain.
    pub fn trust_domain(domain: &TrustDomain) -> Self {
        Self::Below(format!("{}/", domain.uri()).into())
    }

    /// Whether the identity is meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Below(prefix) => id.as_str().starts_with(&**prefix),
        }
    }

    /// Whether every identity that `other` means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(prefix), Self::Exact(id)) => id.as_str().starts_with(&**prefix),
            (Self::Below(prefix), Self::Below(longer)) => longer.starts_with(&**prefix),
        }
    }
}

impl FromStr for IdentityPattern {
    type Err = IdentityError;

    /// Parses a SPIFFE ID, or `spiffe://<trust-domain>/[<segments>/]*`.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let prefix = text.strip_suffix('*');
        if prefix.unwrap_or(text).contains('*') || prefix.is_some_and(|prefix| !prefix.ends_with('/')) {
            return Err(IdentityError::new(text, "'*' may only stand for whole path segments at the end"));
        }
        let Some(prefix) = prefix else {
            return text.parse().map(Self::Exact);
        };
        // What stands before the star must be an identity itself once something follows it.
        format!("{prefix}x").parse::<SpiffeId>().map_err(|error| IdentityError::new(text, error.problem))?;
        Ok(Self::Below(prefix.into()))
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => id.fmt(f),
            Self::Below(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let shop: IdentityPattern = "spiffe://m/ns/shop/*".parse().unwrap();
        assert!(shop.matches(&"spiffe://m/ns/shop/sa/web".parse().unwrap()));
        assert!(!shop.matches(&"spiffe://m/ns/shopping/sa/web".parse().unwrap()));
        for bad in
            ["spiffe://m/ns/sh*", "*", "spiffe://*", "spiffe://m/*/sa/x", "spiffe://m//*", "spiffe://M/*"]
        {
            assert!(bad.parse::<IdentityPattern>().is_err(), "{bad}");
        }
        assert_eq!(shop.to_string().parse::<IdentityPattern>().unwrap(), shop);
    }
}
