//! `Role` and `RoleBinding`: a reusable set of operations or a permission on the mesh, and who holds it.

use super::meta::Meta;
use super::operation;
use super::problem::Code;
use super::reader::{At, Reader};
use super::subject::{self, Subject, only_one};
use super::yaml::{Map, Yaml};
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
    /// Take backups.
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
    /// Take backups.
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

/// The most holders of one binding.
const HOLDERS_MAX: usize = 1000;

/// The words for holders of a role.
const HOLDERS: [&str; 5] = ["serviceAccount", "namespace", "identity", "segment", "uid"];

impl Role {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        const WORDS: [&str; 2] = ["operations", "admin"];
        let fields = reader.fields(spec, &WORDS)?;
        let word = only_one(reader, &fields, &WORDS, "make two roles");
        if word.is_none() && fields.present(&WORDS).is_empty() && !fields.is_empty() {
            reader.error(fields.whole(), Code::MissingField, "says nothing; write operations or admin");
        }
        let value = fields.optional(word?)?;
        let grants = match word? {
            "operations" => operation::read_list(reader, Some(value)).map(Grants::Operations),
            _ => reader.word(&value, &AdminRole::ALL.map(|role| (role.as_str(), role))).map(Grants::Admin),
        };
        Some(Self { meta, grants: grants? })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta: _, grants } = self;
        match grants {
            Grants::Operations(operations) => {
                Map::new().with_list("operations", operations.iter().map(operation::write))
            }
            Grants::Admin(role) => Map::new().with("admin", role.as_str()),
        }
    }
}

impl RoleBinding {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        let fields = reader.fields(spec, &["role", "subjects"])?;
        let role =
            fields.required(reader, "role", "write the name of a Role").and_then(|at| reader.parse(&at));
        let subjects = fields.required(reader, "subjects", "write who holds the role");
        let subjects = subjects.and_then(|at| reader.each(&at, HOLDERS_MAX, Holder::read));
        Some(Self { meta, role: role?, subjects: subjects? })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta: _, role, subjects } = self;
        Map::new().with("role", role.as_str()).with_list("subjects", subjects.iter().map(Holder::write))
    }
}

impl Holder {
    fn read(reader: &mut Reader, at: At<'_>) -> Option<Self> {
        let Some(uid) = at.node.peek("uid").map(|_| at.clone()) else {
            return subject::read(reader, at, None, &HOLDERS).map(Self::Peers);
        };
        let fields = reader.fields(uid, &HOLDERS)?;
        only_one(reader, &fields, &HOLDERS, "two entries of the list are alternatives")?;
        // A uid is 32 bits on every Unix; the last one means "none" to the kernel.
        let uid = reader.number(&fields.optional("uid")?, 0..=u64::from(u32::MAX) - 1)?;
        u32::try_from(uid).ok().map(Self::Uid)
    }

    fn write(&self) -> Yaml {
        match self {
            Self::Peers(subject) => subject.write().into(),
            Self::Uid(uid) => Map::new().with("uid", Yaml::bare(uid)).into(),
        }
    }
}
