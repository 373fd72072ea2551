//! The table of refusals: closed labels, sensible statuses, and answers that a parser reads in one way.

use super::render::{BodyOf, Dialect, Persistence};
use super::{Malformed, Refusal, Refused};
use std::collections::BTreeSet;
use std::time::Duration;

fn all() -> Vec<Refusal> {
    use Refusal as R;
    let mut all = vec![
        R::HeaderTooLarge,
        R::RequestTimeout,
        R::ConnectMethod,
        R::UpgradeRefused,
        R::Quarantined,
        R::Isolated,
        R::DeniedByRule,
        R::GuardrailNotMet,
        R::NeedsHttp,
        R::NoRuleAllows,
        R::TooManyConcurrent,
        R::TooManyConnections,
        R::CallerShareUsed,
        R::TooManyHandshakes,
        R::HelloTimeout,
        R::UnreadableHello,
        R::NameUnreadable,
        R::PeerExpired,
        R::BodyTooLarge,
        R::PlaintextRefused,
        R::HandshakeFailed,
        R::WrongProtocol,
        R::UnknownPort,
        R::UnknownDestination,
        R::NoEndpoints,
        R::ConnectFailed,
        R::ConnectTimeout,
        R::WrongPeer,
        R::EndpointExpired,
        R::UpstreamTls,
        R::CertificateExpired,
        R::ResponseTooLarge,
        R::UpstreamClosed,
        R::UpstreamTimeout,
        R::UpstreamReset,
        R::CallerGone,
        R::BodiesHeld,
        R::Overloaded,
        R::NotReady,
        R::Draining,
        R::Limited { retry_after: Duration::from_millis(1) },
    ];
    all.extend(Malformed::ALL.iter().map(|fault| R::BadRequest(*fault)));
    all.extend(Malformed::ALL.iter().map(|fault| R::BadResponse(*fault)));
    all
}

#[test]
fn labels_are_words_and_name_one_reason_each() {
    let mut seen = BTreeSet::new();
    for refusal in all() {
        let label = refusal.label();
        assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{label}");
        assert!(!refusal.text().ends_with('.') && !refusal.text().is_empty(), "{label}");
        if !matches!(refusal, Refusal::BadRequest(_) | Refusal::BadResponse(_)) {
            assert!(seen.insert(label), "{label} twice");
        }
    }
    let codes: BTreeSet<_> = Malformed::ALL.iter().map(|fault| fault.code()).collect();
    assert_eq!(codes.len(), Malformed::ALL.len());
}

#[test]
fn faults_of_callers_are_4xx_and_of_origins_502() {
    for fault in Malformed::ALL {
        assert_eq!(Refusal::BadRequest(*fault).status(), 400);
        assert!(Refusal::BadRequest(*fault).ends_connection());
        assert_eq!(Refusal::BadResponse(*fault).status(), 502);
    }
}

#[test]
fn an_answer_is_one_complete_response() {
    for refusal in all() {
        let mut out = Vec::new();
        let refused = Refused { refusal, decision: "k3-00000000000001" };
        refused.write_h1(&mut out, Persistence::Close, BodyOf::Full);
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut fields);
        let head = response.parse(&out).unwrap().unwrap();
        assert_eq!(response.code, Some(refusal.status()));
        let of = |name: &str| {
            response
                .headers
                .iter()
                .find(|h| h.name == name)
                .map(|h| String::from_utf8_lossy(h.value).into_owned())
        };
        assert_eq!(of("content-length").unwrap(), (out.len() - head).to_string());
        assert_eq!(of("x-mesh-reason").unwrap(), refusal.label());
        assert_eq!(of("x-mesh-decision").unwrap(), "k3-00000000000001");
        assert_eq!(of("retry-after").is_some(), refusal.retry_after_secs().is_some());
        assert_eq!(of("connection").unwrap(), "close");
        assert!(String::from_utf8_lossy(&out).contains("meshctl explain k3-00000000000001"));
    }
}

#[test]
fn a_grpc_caller_gets_a_status_and_no_body() {
    for refusal in all() {
        let (response, body) = Refused { refusal, decision: "d1" }.response_h2(Dialect::Grpc);
        assert_eq!(response.status(), 200);
        assert!(body.is_empty());
        assert_eq!(response.headers()["grpc-status"], refusal.grpc_code().to_string().as_str());
        assert!(
            response.headers()["grpc-message"].to_str().unwrap().contains("%0A"),
            "line breaks are encoded"
        );
        assert!(refusal.grpc_code() != 0);
    }
}

#[test]
fn a_decision_id_cannot_smuggle_a_header() {
    for decision in ["a\r\nx: y", "a b", "ä", &"x".repeat(65)] {
        let mut out = Vec::new();
        let refused = Refused { refusal: Refusal::NoRuleAllows, decision };
        refused.write_h1(&mut out, Persistence::Keep, BodyOf::Full);
        assert!(!String::from_utf8_lossy(&out).contains("x-mesh-decision"), "{decision:?}");
    }
}

#[test]
fn waiting_time_is_rounded_up_to_whole_seconds() {
    for (wait, seconds) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (59_001, 60)] {
        let refusal = Refusal::Limited { retry_after: Duration::from_millis(wait) };
        assert_eq!(refusal.retry_after_secs(), Some(seconds), "{wait} ms");
    }
}
