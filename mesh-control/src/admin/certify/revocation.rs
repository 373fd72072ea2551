//! The words of a revocation: from what was typed to the certificate that is meant, and from what was done to what follows.

use crate::admin::query::hex;
use mesh_ca::authority::attest::Origin;
use mesh_ca::authority::{Among, Authority, Revocable, Revocation, SerialError, serial_digits};
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1;
use tonic::Status;

/// Names in one sentence; what is beyond is counted.
const NAMES_SHOWN: usize = 10;

/// What is to be revoked, and how it is called in the audit log.
///
/// # Errors
/// Says what is wrong with the serial or the identity, and which there are.
pub(super) fn target(
    authority: &Authority,
    request: &v1::CaRevokeRequest,
) -> Result<(Revocable, String), Status> {
    let v1::CaRevokeRequest { serial, identity, intermediate, reason: _, undo, force } = request;
    match (serial.as_str(), identity.as_str(), intermediate) {
        (digits, "", false) if !digits.is_empty() => {
            let among = if *undo { Among::Revoked } else { Among::InUse };
            match authority.find_serial(digits, among) {
                Ok(serial) => {
                    let shown = format!("serial {}", hex(&serial));
                    Ok((Revocable::Serial(serial), shown))
                }
                Err(SerialError::Unknown(digits)) if *force => {
                    let shown = format!("serial {digits}, of which nothing is known");
                    Ok((Revocable::LostSerial(bytes(&digits)?), shown))
                }
                Err(error) => Err(refused(&error)),
            }
        }
        ("", identity, false) if !identity.is_empty() => {
            let id: SpiffeId =
                identity.parse().map_err(|error| Status::invalid_argument(format!("identity: {error}")))?;
            let shown = format!("identity {id}");
            Ok((Revocable::Identity(id), shown))
        }
        ("", "", true) => Ok((Revocable::Intermediate, "the issuing intermediate".to_owned())),
        _ => Err(Status::invalid_argument(
            "say exactly one of a serial, an identity or the intermediate; `meshctl identity` lists serials",
        )),
    }
}

fn refused(error: &SerialError) -> Status {
    let text = error.to_string();
    match error {
        SerialError::Unknown(_) | SerialError::NotRevoked(_) => Status::not_found(text),
        SerialError::NotDigits(_) | SerialError::Ambiguous { .. } => Status::invalid_argument(text),
        SerialError::Root(_) => Status::failed_precondition(text),
    }
}

/// The bytes of a whole serial.
fn bytes(text: &str) -> Result<Vec<u8>, Status> {
    let digits = serial_digits(text).map_err(|error| refused(&error))?;
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    // An odd digit more is no whole serial; the authority says how long one is.
    Ok(digits.as_bytes().chunks(2).filter_map(pair).collect())
}

/// `spiffe://mesh.local/ns/default/sa/web (web-1)`.
pub(super) fn whom((id, instance): &(SpiffeId, InstanceName)) -> String {
    format!("{id} ({instance})")
}

/// What else was revoked, for the audit log; empty when nothing.
pub(super) fn extent(done: &Revocation) -> String {
    match &done.holder {
        Some(holder) => format!(
            "; {} certificates of {}, {} join tokens void",
            done.serials.len(),
            whom(holder),
            done.tokens
        ),
        None => String::new(),
    }
}

/// What follows, as sentences with the next command.
pub(super) fn notes(done: &Revocation) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some((id, instance)) = &done.holder {
        let count = done.serials.len();
        if count > 1 {
            notes.push(format!("all {count} certificates of {instance} that have not expired are revoked"));
        }
        if done.tokens > 0 {
            notes.push(format!("the join token that {instance} came with is void"));
        }
        match done.origin {
            Some(Origin::Unix { uid }) => notes.push(format!(
                "the user {uid} of this machine may still get new certificates for {id}; end that with: meshctl ca revoke {id}"
            )),
            Some(Origin::JoinToken) => notes.push(format!(
                "{instance} cannot renew; to let it back in: meshctl ca token{}",
                options(id)
            )),
            Some(Origin::PodToken) => notes.push(format!(
                "the pod may get new certificates for {id} as long as it exists; end that with: kubectl delete pod {instance}{}",
                id.workload().map(|(namespace, _)| format!(" -n {namespace}")).unwrap_or_default()
            )),
            Some(Origin::Other) | None => {}
        }
    }
    let all = done.locked_out.len();
    if all > 0 {
        let names: Vec<&str> =
            done.locked_out.iter().take(NAMES_SHOWN).map(|(_, instance)| instance.as_str()).collect();
        let more = match all.saturating_sub(names.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        notes.push(format!(
            "{}{more} joined from other machines and cannot renew any more; each needs a new token: meshctl ca token --service-account NAME",
            names.join(", ")
        ));
    }
    notes
}

fn options(id: &SpiffeId) -> String {
    match id.workload() {
        Some((namespace, account)) => format!(" --namespace {namespace} --service-account {account}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_serials_are_read_as_people_copy_them() {
        assert_eq!(bytes("0a:FF:00:01").unwrap(), [10, 255, 0, 1]);
        for bad in ["", "xyz", "0x12345678", &"1".repeat(41)] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_follows_names_the_next_command() {
        let holder = ("spiffe://mesh.local/ns/shop/sa/web".parse().unwrap(), "web-1".parse().unwrap());
        let done = Revocation {
            serials: vec![vec![1], vec![2]],
            holder: Some(holder.clone()),
            origin: Some(Origin::JoinToken),
            tokens: 1,
            locked_out: Vec::new(),
        };
        let said = notes(&done).join("\n");
        for part in
            ["all 2 certificates of web-1", "is void", "ca token --namespace shop --service-account web"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        let local = Revocation { origin: Some(Origin::Unix { uid: 7 }), ..done };
        assert!(notes(&local).join("\n").contains("the user 7"), "{local:?}");
        let below = Revocation { locked_out: vec![holder; 12], ..Revocation::default() };
        let said = notes(&below).join("\n");
        assert!(said.contains("and 2 more joined from other machines"), "{said}");
    }
}
