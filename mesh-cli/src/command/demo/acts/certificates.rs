//! Every certificate is replaced, and the root too, while the shop works.

use super::PATIENCE;
use crate::admin_client::AdminClient;
use crate::command::demo::screen::Mark;
use crate::command::demo::stage::{Look, Stage, Verdict};
use crate::failure::Failure;
use crate::output;
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::time::Duration;

/// A root rotation waits for every sidecar several times.
const ROOT_PATIENCE: Duration = Duration::from_secs(30);

/// A new issuing certificate, and from it a new certificate for every workload.
///
/// # Errors
/// When a workload does not get one.
pub(super) async fn all_svids(stage: &mut Stage) -> Result<(), Failure> {
    stage.screen.step(Mark::Act, "Every certificate is replaced, in the middle of it")?;
    let client = stage.client()?;
    let connected = connected(&client).await?;
    let before = latest_serials(&client).await?;
    let request = v1::CaRotateRequest { action: "start".to_owned(), intermediate_only: true };
    client.answer(client.api().ca_rotate(request).await)?;
    let replaced = stage
        .until("every workload gets a new certificate", PATIENCE, async |_| {
            let now = latest_serials(&client).await?;
            let late: Vec<&String> =
                connected.iter().filter(|name| now.get(*name) == before.get(*name)).collect();
            Ok(match late.first() {
                None => Look::There(connected.len()),
                Some(first) => {
                    Look::NotYet(format!("{} still have the old one, such as {first}", late.len()))
                }
            })
        })
        .await?;
    stage.expect(
        Verdict::from(replaced > 0),
        format!("{replaced}/{replaced} certificates are new, from a new issuing certificate"),
    )
}

/// A new root, step by step, until the old one is gone.
///
/// # Errors
/// When a step does not end.
pub(super) async fn root(stage: &mut Stage) -> Result<(), Failure> {
    stage.screen.step(Mark::Act, "The root of all trust is replaced, too")?;
    let client = stage.client()?;
    let before = ca_status(&client).await?;
    let before_serials = latest_serials(&client).await?;
    let connected = connected(&client).await?;
    let request = v1::CaRotateRequest { action: "start".to_owned(), intermediate_only: false };
    client.answer(client.api().ca_rotate(request).await)?;
    let mut step = String::new();
    let started = stage.screen.elapsed();
    loop {
        let known = step.clone();
        let status = stage
            .until(&format!("the root is rotated: {known}"), ROOT_PATIENCE, async |_| {
                let status = ca_status(&client).await?;
                let waiting = format!("step {}, waiting for {}", status.rotation, status.waiting_for);
                Ok(if status.rotation == known { Look::NotYet(waiting) } else { Look::There(status) })
            })
            .await?;
        if status.rotation.starts_with("idle")
            || stage.screen.elapsed().saturating_sub(started) > ROOT_PATIENCE
        {
            break;
        }
        step.clone_from(&status.rotation);
        let text = format!(
            "{step}: {}/{} sidecars trust the new root, {}/{} certificates are from it",
            status.proxies_trusting, status.proxies_total, status.svids_on_new, status.svids_total
        );
        stage.screen.step(Mark::Note, &output::clean(&text))?;
    }
    let after = ca_status(&client).await?;
    let fingerprints = |status: &v1::CaStatusResponse| -> Vec<String> {
        status.roots.iter().map(|root| root.sha256.clone()).collect()
    };
    let (old, new) = (fingerprints(&before), fingerprints(&after));
    let is_replaced =
        new.len() == 1 && new.iter().all(|root| !old.contains(root)) && after.rotation.starts_with("idle");
    let short =
        |roots: &[String]| roots.iter().filter_map(|root| root.get(..12)).collect::<Vec<_>>().join(", ");
    stage.expect(
        Verdict::from(is_replaced),
        format!("the old root {}… is gone, {}… vouches for all", short(&old), short(&new)),
    )?;
    let now = latest_serials(&client).await?;
    let late = connected.iter().filter(|name| now.get(*name) == before_serials.get(*name)).count();
    stage.expect(
        Verdict::from(late == 0),
        format!(
            "every workload was moved to it: {}/{}",
            connected.len().saturating_sub(late),
            connected.len()
        ),
    )
}

async fn ca_status(client: &AdminClient) -> Result<v1::CaStatusResponse, Failure> {
    client.answer(client.api().ca_status(v1::CaStatusRequest {}).await)
}

/// The instances that are connected now.
async fn connected(client: &AdminClient) -> Result<Vec<String>, Failure> {
    let status = client.answer(client.api().status(v1::StatusRequest {}).await)?;
    Ok(status.proxies.into_iter().map(|proxy| proxy.instance).collect())
}

/// The serial of each instance's newest certificate.
async fn latest_serials(client: &AdminClient) -> Result<BTreeMap<String, String>, Failure> {
    let request = v1::IdentitiesRequest { name: String::new() };
    let mut identities = client.answer(client.api().identities(request).await)?.identities;
    identities.sort_by_key(|identity| identity.issued_ms);
    Ok(identities.into_iter().map(|identity| (identity.instance, identity.serial)).collect())
}
