//! `Role` and `RoleBinding`: a reusable set of operations or a permission on the mesh, and who holds it.

use super::meta::Meta;
use super::subject::Subject;
use crate::name::ObjectName;
use crate::policy::model::Operation;

/// A reusable set of operations, or a permission on the mesh itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// Name and origin.
    pub meta: Meta,
    /// What its holders may do.
    pub grants: Grants,
}

/// What a role is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grants {
    /// Operations on workloads, wherever a policy names the role; at least one.
    Operations(Vec<Operation>),
    /// A permission on the control plane.
    Admin(AdminRole),
}

/// What its holders may do with the mesh itself. Every one of them may also look.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AdminRole {
    /// Look at everything that is not secret.
    Viewer,
    /// Enrol machines, take backups.
    Operator,
    /// Apply, delete and roll back resources.
    PolicyAuthor,
    /// Rotate and revoke certificates.
    CaAdmin,
}

impl AdminRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::PolicyAuthor, Self::CaAdmin];

    /// The word in resources.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::PolicyAuthor => "policy-author",
            Self::CaAdmin => "ca-admin",
        }
    }

    /// The one that a word means.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// Whether a holder may do it.
    pub fn permits(self, action: AdminAction) -> bool {
        match action {
            AdminAction::View => true,
            AdminAction::Operate => self == Self::Operator,
            AdminAction::Author => self == Self::PolicyAuthor,
            AdminAction::Certify => self == Self::CaAdmin,
        }
    }
}

/// What somebody wants to do with the mesh itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AdminAction {
    /// Read: get, status, history, diff, explain, edges, identities, audit, dry runs.
    View,
    /// Create join tokens, take backups.
    Operate,
    /// Change resources: apply, delete, roll back.
    Author,
    /// Rotate the authority, revoke certificates and identities.
    Certify,
}

impl AdminAction {
    /// The roles that permit it, for the message of a refusal.
    pub fn roles(self) -> impl Iterator<Item = AdminRole> {
        AdminRole::ALL.into_iter().filter(move |role| role.permits(self))
    }
}

/// Who holds a role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleBinding {
    /// Name and origin.
    pub meta: Meta,
    /// The role's name.
    pub role: ObjectName,
    /// Who holds it; at least one.
    pub subjects: Vec<Holder>,
}

/// One holder of a role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Meshed peers; for roles with operations.
    Peers(Subject),
    /// A user of this machine; for admin roles.
    Uid(u32),
}
