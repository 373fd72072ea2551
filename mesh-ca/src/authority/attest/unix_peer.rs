//! Evidence of the local mode: the kernel says which user is at the other end of the Unix socket.
//!
//! # Why
//! A user may run what it likes under its own identity, so the user is the border: the control plane's own user and root may
//! have any workload's identity, others only what a `Workload` resource gives them by `uid`, and what is given to one user
//! by name is closed to the control plane's own user too (not to root, who can become anybody).

use super::{AttestError, Attested};
use mesh_proto::identity::SpiffeId;

/// What the kernel says of the other end (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixCaller {
    /// Effective user.
    pub uid: u32,
    /// Process, for the record only: it may have ended by now.
    pub pid: Option<i32>,
}

/// Who may have which identity over the Unix socket.
pub struct Owners<'a> {
    /// The user that the control plane runs as.
    pub own_uid: u32,
    /// The user that a `Workload` resource names for an identity, if one does.
    pub named: &'a (dyn Fn(&SpiffeId) -> Option<u32> + Send + Sync),
}

/// Decides whether the caller may have `id`.
pub(super) fn attest(
    caller: UnixCaller,
    owners: &Owners<'_>,
    id: &SpiffeId,
) -> Result<Attested, AttestError> {
    const ROOT: u32 = 0;
    let allowed = (owners.named)(id).unwrap_or(owners.own_uid);
    if caller.uid != allowed && caller.uid != ROOT {
        return Err(AttestError::NotOwner { uid: caller.uid, id: id.clone(), allowed });
    }
    let pid = caller.pid.map(|pid| format!(" pid={pid}")).unwrap_or_default();
    Ok(Attested { id: id.clone(), attestor: format!("unix_peer uid={}{pid}", caller.uid) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(uid: u32, named: Option<u32>) -> bool {
        let id: SpiffeId = "spiffe://mesh.local/ns/default/sa/web".parse().unwrap();
        let named = move |_: &SpiffeId| named;
        let owners = Owners { own_uid: 1000, named: &named };
        attest(UnixCaller { uid, pid: None }, &owners, &id).is_ok()
    }

    #[test]
    fn the_user_decides() {
        let cases = [
            (1000, None, true),
            (0, None, true),
            (1001, None, false),
            (1001, Some(1001), true),
            (1000, Some(1001), false),
            (0, Some(1001), true),
            (1002, Some(1001), false),
        ];
        for (uid, named, expected) in cases {
            assert_eq!(attempt(uid, named), expected, "uid {uid}, named {named:?}");
        }
    }
}
