//! Names as types: parsed once at the border, never wrong afterwards.
//!
//! Everything that is named in the mesh carries a DNS label (RFC 1123, section 2.1: 1 to 63 of `a-z 0-9 -`, first and
//! last not `-`), so that any name fits into a certificate, an SNI and a Kubernetes object.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

/// The longest DNS label, in bytes (RFC 1035, section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {problem}; allowed are 1 to 63 of a-z, 0-9 and '-', not first or last")]
pub struct NameError {
    /// Which kind of name was expected.
    pub what: &'static str,
    /// The offending text, cut to 80 bytes.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Checks one DNS label; `what` names the kind of name in the error.
///
/// # Errors
/// Says which rule of RFC 1123 the text breaks.
pub fn check_label(what: &'static str, text: &str) -> Result<(), NameError> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > LABEL_BYTES_MAX {
        "is longer than 63 bytes"
    } else if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "has a character that is not allowed"
    } else if text.starts_with('-') || text.ends_with('-') {
        "starts or ends with '-'"
    } else {
        return Ok(());
    };
    Err(NameError { what, value: text.chars().take(80).collect(), problem })
}

macro_rules! label_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_label($what, text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

label_type!(
    /// A namespace: the tenant border of the mesh. Local mode uses `default` unless told otherwise.
    Namespace,
    "namespace"
);
label_type!(
    /// The account a workload runs under; with its namespace it is the workload's identity.
    ServiceAccount,
    "service account"
);
label_type!(
    /// One running instance: a pod, or a process started by `meshctl run`.
    InstanceName,
    "instance"
);
label_type!(
    /// What a resource, a service or a workload is called within its namespace.
    ObjectName,
    "name"
);

impl Namespace {
    /// The namespace of local mode, where nothing else is said.
    pub fn default_local() -> Self {
        Self("default".into())
    }
}

/// A named set of workloads, as callers know it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceRef {
    /// Where it lives.
    pub namespace: Namespace,
    /// What it is called there.
    pub name: ObjectName,
}

impl fmt::Display for ServiceRef {
    /// `namespace/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceRef {
    type Err = NameError;

    /// Parses `namespace/name`, or `name` in the namespace `default`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (namespace.parse()?, name),
            None => (Namespace::default_local(), text),
        };
        Ok(Self { namespace, name: name.parse()? })
    }
}

/// A TCP port, never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Port(NonZeroU16);

impl Port {
    /// `None` for 0, which means "any" to the system and nothing to a policy.
    pub fn new(port: u16) -> Option<Self> {
        NonZeroU16::new(port).map(Self)
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {0:?} is not a number from 1 to 65535")]
pub struct PortError(pub String);

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        // `u16::from_str` accepts a leading '+', which no one means.
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PortError(text.chars().take(40).collect()));
        }
        text.parse().ok().and_then(Self::new).ok_or_else(|| PortError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked_byte_for_byte() {
        for good in ["a", "web", "a-b", "0", &"x".repeat(63)] {
            assert!(good.parse::<Namespace>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "ä", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad}");
        }
    }

    #[test]
    fn port_is_a_plain_decimal_number_above_zero() {
        for bad in ["0", "65536", "+80", "-1", "", " 80", "8o"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
        assert_eq!("8080".parse::<Port>().unwrap().number(), 8080);
    }
}
