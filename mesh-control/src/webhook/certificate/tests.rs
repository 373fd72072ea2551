//! The authority through its years.

use super::*;
use crate::cluster::testing::{self, Answer};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

fn at(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + DAY * u32::try_from(days).unwrap()
}

fn secret(kept: &Kept) -> Secret {
    Secret { data: Some(kept.data()), ..Secret::default() }
}

#[test]
fn what_one_replica_keeps_another_reads() {
    let kept = Kept::make(None, at(0)).unwrap();
    let read = Kept::read(&secret(&kept)).unwrap();
    assert_eq!(read.bundle(at(0)), kept.bundle(at(0)));
    assert_eq!(read.bundle(at(0)).matches("BEGIN CERTIFICATE").count(), 1);
    for damaged in [CERTIFICATE, KEY] {
        let mut secret = secret(&kept);
        secret.data.as_mut().unwrap().insert(damaged.to_owned(), ByteString(b"nonsense".to_vec()));
        assert!(Kept::read(&secret).is_err(), "{damaged}");
        secret.data.as_mut().unwrap().remove(damaged);
        assert!(Kept::read(&secret).is_err(), "without {damaged}");
    }
}

#[test]
fn an_authority_is_followed_while_the_old_one_is_still_believed() {
    let old = Kept::make(None, at(0)).unwrap();
    for (day, is_due) in [(0, false), (240, false), (244, true), (400, true)] {
        assert_eq!(old.is_due(at(day)), is_due, "day {day}");
    }
    let new = Kept::make(Some(old.authority.certificate_pem()), at(244)).unwrap();
    let read = Kept::read(&secret(&new)).unwrap();
    let both = read.bundle(at(244));
    assert!(
        both.contains(&old.authority.certificate_pem()) && both.contains(&new.authority.certificate_pem())
    );
    assert_eq!(read.bundle(at(366)), new.authority.certificate_pem(), "the old one is over");
}

#[test]
fn a_clock_that_went_back_makes_an_authority_due() {
    assert!(Kept::make(None, at(10)).unwrap().is_due(at(0)));
}

#[test]
fn a_leaf_is_renewed_long_before_its_end() {
    let shown = Shown { authority_pem: String::new(), made: at(0), ends: at(30) };
    for (day, is_due) in [(0, false), (9, false), (10, true), (40, true)] {
        assert_eq!(shown.is_due(at(day)), is_due, "day {day}");
    }
}

#[test]
fn configurations_are_written_only_when_something_differs() {
    let webhook = |name: &str| json!({"name": name, "clientConfig": {"service": {"name": "mesh-control", "path": "/inject"}}});
    let mut configuration = json!({"metadata": {}, "webhooks": [webhook("a"), webhook("b")]});
    assert!(edit(&mut configuration, "bundle"));
    for index in [0, 1] {
        let client = &configuration["webhooks"][index]["clientConfig"];
        assert_eq!(
            (&client["caBundle"], &client["service"]["path"]),
            (&json!("YnVuZGxl"), &json!("/inject"))
        );
    }
    assert!(!edit(&mut configuration, "bundle"), "nothing to do");
    assert!(edit(&mut configuration, "bundle of two"));
    for odd in [json!({}), json!({"webhooks": 1}), json!({"webhooks": [1, {"name": 1}]})] {
        assert!(!edit(&mut odd.clone(), "bundle"), "{odd}");
    }
}

/// A keeper whose API server has one Secret, which another replica makes just before this one would, and one configuration
/// that another replica changes just before this one does.
fn racing() -> (Keeper, watch::Receiver<bool>, watch::Receiver<Option<Arc<ServerConfig>>>) {
    let faster = serde_json::to_value(secret(&Kept::make(None, clock::wall()).unwrap())).unwrap();
    let (is_made, is_told) = (AtomicBool::new(false), AtomicBool::new(false));
    let cluster =
        testing::cluster(move |call| match (call.method.as_str(), call.path.as_str()) {
            ("GET", path) if path.ends_with("/secrets/mesh-webhook") => {
                if is_made.load(Relaxed) {
                    Answer::Ok(faster.clone())
                } else {
                    Answer::NotFound
                }
            }
            ("POST", path) if path.ends_with("/secrets") => {
                is_made.store(true, Relaxed);
                Answer::Conflict
            }
            ("GET", path) if path.contains("/mutatingwebhookconfigurations/") => Answer::Ok(
                json!({"metadata": {"name": "meshctl"}, "webhooks": [{"name": "a", "clientConfig": {}}]}),
            ),
            ("PUT", path) if path.contains("/mutatingwebhookconfigurations/") => {
                if is_told.swap(true, Relaxed) { Answer::Ok(call.body.clone()) } else { Answer::Conflict }
            }
            _ => Answer::NotFound,
        });
    let (serving, shown) = watch::channel(None);
    let (is_kept, kept) = watch::channel(false);
    (Keeper { client: cluster.client, namespace: cluster.namespace, serving, is_kept }, kept, shown)
}

#[tokio::test]
async fn who_loses_a_race_reads_the_winners_authority_at_once() {
    let (keeper, mut kept, shown) = racing();
    let (mut own, mut told) = (None, BTreeMap::new());
    for lost in ["the Secret", "the configuration"] {
        let round = keeper.round(&mut own, &mut told).await;
        assert!(matches!(round, Err(Trouble::Race)), "{lost} is a fault, and the next attempt comes late");
        assert!(!*kept.borrow(), "{lost}: it says that the API server can ask");
    }
    // Cancel safe: nothing is used of what ends early.
    tokio::select! {
        () = keeper.run(CancellationToken::new()) => panic!("it ends by itself"),
        kept = kept.wait_for(|kept| *kept) => assert!(*kept.unwrap()),
    }
    assert!(shown.borrow().is_some(), "it is ready without a certificate");
}
