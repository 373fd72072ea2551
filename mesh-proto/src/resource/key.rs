//! What resources are called: their kind, and the key that names one object.

use crate::name::{NameError, Namespace, ObjectName};
use std::fmt;
use std::str::FromStr;

/// The ten kinds of `meshctl.io/v1alpha1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Mesh-wide settings; there is one, named `mesh`.
    MeshConfig,
    /// Who may call whom.
    AccessPolicy,
    /// A reusable set of operations, or a permission on the mesh itself.
    Role,
    /// Who holds a role.
    RoleBinding,
    /// An isolated part of the network.
    Segment,
    /// How much callers may ask.
    RateLimit,
    /// A name that callers use, and who answers for it.
    Service,
    /// A workload, and what attests it.
    Workload,
    /// Which alarms go where.
    AlertRule,
    /// A place that alarms are sent to.
    AlertSink,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::MeshConfig,
        Self::AccessPolicy,
        Self::Role,
        Self::RoleBinding,
        Self::Segment,
        Self::RateLimit,
        Self::Service,
        Self::Workload,
        Self::AlertRule,
        Self::AlertSink,
    ];

    /// The word in the `kind` field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MeshConfig => "MeshConfig",
            Self::AccessPolicy => "AccessPolicy",
            Self::Role => "Role",
            Self::RoleBinding => "RoleBinding",
            Self::Segment => "Segment",
            Self::RateLimit => "RateLimit",
            Self::Service => "Service",
            Self::Workload => "Workload",
            Self::AlertRule => "AlertRule",
            Self::AlertSink => "AlertSink",
        }
    }

    /// Whether objects of this kind live in a namespace, may do so, or belong to the whole mesh.
    pub fn home(self) -> Home {
        match self {
            Self::MeshConfig
            | Self::Role
            | Self::RoleBinding
            | Self::Segment
            | Self::AlertRule
            | Self::AlertSink => Home::Mesh,
            Self::AccessPolicy | Self::RateLimit => Home::Either,
            Self::Service | Self::Workload => Home::Namespace,
        }
    }

    /// The kind a user means on the command line: any case, plural, and the usual short forms.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Some(match word.as_str() {
            "meshconfig" | "meshconfigs" | "mc" | "mesh" => Self::MeshConfig,
            "accesspolicy" | "accesspolicies" | "ap" | "policy" | "policies" => Self::AccessPolicy,
            "role" | "roles" => Self::Role,
            "rolebinding" | "rolebindings" | "rb" => Self::RoleBinding,
            "segment" | "segments" | "seg" => Self::Segment,
            "ratelimit" | "ratelimits" | "rl" | "limit" | "limits" => Self::RateLimit,
            "service" | "services" | "svc" => Self::Service,
            "workload" | "workloads" | "wl" => Self::Workload,
            "alertrule" | "alertrules" | "ar" => Self::AlertRule,
            "alertsink" | "alertsinks" | "as" | "sink" | "sinks" => Self::AlertSink,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the objects of a kind live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// In the whole mesh; `metadata.namespace` is refused.
    Mesh,
    /// In a namespace, `default` unless given.
    Namespace,
    /// In a namespace, unless the object says that it is for the whole mesh.
    Either,
}

/// Names one object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ResourceKey {
    /// Its kind.
    pub kind: Kind,
    /// Where it lives; `None`: mesh-wide.
    pub namespace: Option<Namespace>,
    /// What it is called there.
    pub name: ObjectName,
}

impl fmt::Display for ResourceKey {
    /// `AccessPolicy shop/web`, or `Role buyer`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Why a text names no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `kind/name` or `kind/namespace/name`.
    #[error(
        "{0:?} names no object; write KIND/NAME or KIND/NAMESPACE/NAME, for instance accesspolicy/shop/web"
    )]
    Shape(String),
    /// No such kind.
    #[error(
        "unknown kind {0:?}; there are MeshConfig, AccessPolicy, Role, RoleBinding, Segment, RateLimit, Service, Workload, AlertRule, AlertSink"
    )]
    Kind(String),
    /// The namespace or the name is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A namespace was given for a kind that has none.
    #[error("{kind} objects belong to the whole mesh; write {kind}/{name}")]
    NoNamespace {
        /// The kind.
        kind: Kind,
        /// The object's name.
        name: String,
    },
}

impl FromStr for ResourceKey {
    type Err = KeyError;

    /// Parses what people type: `kind/namespace/name`, `kind/name` for an object in `default` or of a kind that belongs to
    /// the mesh, `kind/-/name` for a mesh-wide object of a kind that may have a namespace. And what is displayed: with a
    /// space after the kind the namespace is never left out, so that without one the object is mesh-wide.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let cut = |text: &str| text.chars().take(120).collect::<String>();
        let (at, separator) = text
            .char_indices()
            .find(|(_, c)| matches!(c, '/' | ' '))
            .ok_or_else(|| KeyError::Shape(cut(text)))?;
        let (word, rest) = text.split_at_checked(at).ok_or_else(|| KeyError::Shape(cut(text)))?;
        let rest = rest.strip_prefix(separator).unwrap_or(rest);
        let kind = Kind::from_word(word).ok_or_else(|| KeyError::Kind(cut(word)))?;
        let (namespace, name) = match rest.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, rest),
        };
        let namespace = match (kind.home(), namespace) {
            (Home::Mesh, None) | (Home::Either, Some("-")) => None,
            (Home::Mesh, Some(_)) => return Err(KeyError::NoNamespace { kind, name: cut(name) }),
            (Home::Either, None) if separator == ' ' => None,
            (Home::Either | Home::Namespace, Some(namespace)) => Some(namespace.parse()?),
            (Home::Either | Home::Namespace, None) => Some(Namespace::default_local()),
        };
        Ok(Self { kind, namespace, name: name.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_names_objects() {
        for (text, expected) in [
            ("accesspolicy/shop/web", "AccessPolicy shop/web"),
            ("ap/web", "AccessPolicy default/web"),
            ("AccessPolicy web", "AccessPolicy web"),
            ("policies/-/web", "AccessPolicy web"),
            ("role/buyer", "Role buyer"),
            ("svc/web", "Service default/web"),
            ("Service shop/web", "Service shop/web"),
        ] {
            assert_eq!(text.parse::<ResourceKey>().unwrap().to_string(), expected, "{text}");
        }
        for bad in ["", "web", "pod/web", "role/shop/buyer", "ap/Shop/web", "ap/a/b/c", "svc/-/web", "ap/"] {
            assert!(bad.parse::<ResourceKey>().is_err(), "{bad}");
        }
    }
}
