//! Who may do what. Through the socket: the kernel says who calls, bindings of admin roles say what that user may do. In a
//! cluster its API server says both, see [`session`](crate::cluster::session).
//!
//! | caller | may |
//! |---|---|
//! | the control plane's own user (the owner) and root | everything |
//! | a uid bound to `viewer` | look: get, status, history, diff, explain, edges, identities, audit, dry runs |
//! | `operator` | look; take backups |
//! | `policy-author` | look; apply, delete, roll back |
//! | `ca-admin` | look; rotate and revoke |
//! | any other uid | nothing (it can still get the certificate of a `Workload` that names it) |
//!
//! What decides over the mesh itself stays with the owner and root, whoever holds a role: otherwise a policy author could
//! bind himself to every other role, or a workload's identity to his own uid. See [`is_owners_alone`]. Join tokens are of that
//! kind too: whoever makes one can be any workload.

use crate::admin::users;
use crate::cluster::session::ClusterUser;
use mesh_ca::authority::attest::{Caller, UnixCaller};
use mesh_proto::resource::role::{AdminAction, Grants, Holder};
use mesh_proto::resource::{Catalog, Resource};
use std::fmt;
use tonic::{Request, Status};

/// A user who asks for something.
#[derive(Clone, Debug)]
pub(crate) enum Actor {
    /// Of this machine.
    Local(LocalUser),
    /// Of the cluster.
    Cluster(ClusterUser),
}

/// A user of this machine, and the control plane's own uid.
#[derive(Clone, Debug)]
pub(crate) struct LocalUser {
    user: UnixCaller,
    name: Option<String>,
    owner: u32,
}

impl fmt::Display for Actor {
    /// `uid 1000 (alice)` or `user alice`, as the audit log has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(LocalUser { user, name: Some(name), .. }) => write!(f, "uid {} ({name})", user.uid),
            Self::Local(LocalUser { user, name: None, .. }) => write!(f, "uid {}", user.uid),
            Self::Cluster(user) => write!(f, "user {}", user.name),
        }
    }
}

impl Actor {
    /// Who makes a call; `owner` is the control plane's own uid.
    ///
    /// # Errors
    /// The call came neither through the socket nor from a user of the cluster.
    pub(crate) fn of<T>(request: &Request<T>, owner: u32) -> Result<Self, Status> {
        if let Some(user) = request.extensions().get::<ClusterUser>() {
            return Ok(Self::Cluster(user.clone()));
        }
        match request.extensions().get::<Caller>() {
            Some(Caller::Unix(user)) => {
                Ok(Self::Local(LocalUser { user: *user, name: users::name(user.uid), owner }))
            }
            _ => Err(Status::permission_denied(
                "administration goes through the control plane's Unix socket only",
            )),
        }
    }

    /// Whether it is the mesh's owner, or root. Nobody is in a cluster: there, roles of the cluster decide.
    pub(crate) fn is_owner(&self) -> bool {
        match self {
            Self::Local(local) => local.is_owner(),
            Self::Cluster(_) => false,
        }
    }

    /// Lets pass who may do it.
    ///
    /// # Errors
    /// Says which role is missing and how it is granted.
    pub(crate) fn require(&self, catalog: &Catalog, action: AdminAction) -> Result<(), Status> {
        match self {
            Self::Local(local) => local.require(catalog, action, self),
            Self::Cluster(user) if user.may.contains(&action) => Ok(()),
            Self::Cluster(user) => Err(not_granted(&user.name, action)),
        }
    }

    /// Lets only the owner and root pass.
    ///
    /// # Errors
    /// Says why no role is enough.
    pub(crate) fn require_owner(&self, what: &str) -> Result<(), Status> {
        match self {
            Self::Local(local) if local.is_owner() => Ok(()),
            Self::Local(local) => Err(Status::permission_denied(format!(
                "{self} may not {what}: whoever can do that can become everybody else, so it is not for roles; ask {}",
                local.owner_text()
            ))),
            Self::Cluster(_) => Err(Status::permission_denied(format!(
                "{self} may not {what}: in a cluster, identities are the service accounts of its pods and settings are its \
                 objects, so nobody may do that here"
            ))),
        }
    }
}

impl LocalUser {
    fn is_owner(&self) -> bool {
        self.user.uid == self.owner || self.user.uid == 0
    }

    fn require(&self, catalog: &Catalog, action: AdminAction, shown: &Actor) -> Result<(), Status> {
        if self.is_owner() || catalog.uid_may(self.user.uid, action) {
            return Ok(());
        }
        let roles: Vec<&str> = action.roles().map(|role| role.as_str()).collect();
        let role = roles.first().copied().unwrap_or("viewer");
        let verb = doing(action);
        let held: Vec<&str> =
            catalog.admin_roles(self.user.uid).into_iter().map(|role| role.as_str()).collect();
        let held = if held.is_empty() {
            "it holds no role".to_owned()
        } else {
            format!("it holds {}", held.join(", "))
        };
        Err(Status::permission_denied(format!(
            "{shown} may not {verb}: that needs the role {}, and {held}. {} can grant it:\n{}",
            roles.join(" or "),
            self.owner_text(),
            binding(role, self.user.uid),
        )))
    }

    fn owner_text(&self) -> String {
        match users::name(self.owner) {
            Some(name) => format!("uid {} ({name}) or root", self.owner),
            None => format!("uid {} or root", self.owner),
        }
    }
}

fn doing(action: AdminAction) -> &'static str {
    match action {
        AdminAction::View => "look at this mesh",
        AdminAction::Operate => "take backups",
        AdminAction::Author => "change resources",
        AdminAction::Certify => "rotate or revoke certificates",
    }
}

/// What is told a user of the cluster who lacks a right.
fn not_granted(user: &str, action: AdminAction) -> Status {
    let (role, right) = match action {
        AdminAction::View => ("meshctl-viewer", "get status.meshctl.io"),
        AdminAction::Operate => ("meshctl-operator", "create operations.meshctl.io"),
        AdminAction::Author => ("meshctl-policy-author", "create the kinds of meshctl.io"),
        AdminAction::Certify => ("meshctl-ca-admin", "update certificates.meshctl.io"),
    };
    // A name is free text to the API server; quotes keep it one word for the shell that it may be pasted into.
    let quoted = user.replace('\'', "");
    Status::permission_denied(format!(
        "user {user} may not {}: the cluster does not grant it the right to {right}. An administrator of the cluster can:\n  \
         kubectl create clusterrolebinding NAME --clusterrole={role} --user='{quoted}'",
        doing(action)
    ))
}

/// What the owner types to grant a role.
fn binding(role: &str, uid: u32) -> String {
    format!(
        "  meshctl apply -f - <<'END'\n\
         apiVersion: meshctl.io/v1alpha1\n\
         kind: Role\n\
         metadata: {{name: {role}}}\n\
         spec: {{admin: {role}}}\n\
         ---\n\
         apiVersion: meshctl.io/v1alpha1\n\
         kind: RoleBinding\n\
         metadata: {{name: {role}-uid-{uid}}}\n\
         spec: {{role: {role}, subjects: [{{uid: {uid}}}]}}\n\
         END"
    )
}

/// Why only the owner may create, change or delete an object; `None` when a policy author may.
pub(crate) fn is_owners_alone(resource: &Resource) -> Option<&'static str> {
    match resource {
        Resource::MeshConfig(_) => Some("change the settings of the whole mesh"),
        Resource::Role(role) if matches!(role.grants, Grants::Admin(_)) => Some("change an admin role"),
        Resource::RoleBinding(binding) => {
            let binds_users = binding.subjects.iter().any(|holder| matches!(holder, Holder::Uid(_)));
            binds_users.then_some("bind users to admin roles")
        }
        Resource::Workload(_) => Some("say which user may have a workload's identity"),
        // It makes the control plane call places of its author's choice, and an alarm that goes nowhere is none.
        Resource::AlertSink(_) => Some("say where alarms are sent"),
        Resource::Role(_)
        | Resource::AlertRule(_)
        | Resource::AccessPolicy(_)
        | Resource::Segment(_)
        | Resource::RateLimit(_)
        | Resource::Service(_) => None,
    }
}

#[cfg(test)]
mod tests;
