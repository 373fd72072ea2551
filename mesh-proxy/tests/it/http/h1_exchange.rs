//! Whole exchanges: what arrives at the origin, what comes back, and what becomes of the connections.

use super::wire::{Setup, Step, run, run_with, send, until};
use mesh_proxy::http::h1::After;
use mesh_proxy::http::{Limits, Origin, Retry};
use mesh_proxy::refusal::{Malformed, Refusal};
use std::time::Duration;

const GET: &str = "GET /a HTTP/1.1\r\nHost: app\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// A caller that sends `request` and stays until it has read something ending in `last`, then leaves.
fn caller(request: &str, last: &'static str) -> Vec<Step> {
    vec![send(request), until(last), Step::End]
}

/// An origin that answers once it has read something ending in `last`.
fn origin(last: &'static str, response: &str) -> Vec<Step> {
    vec![until(last), send(response)]
}

#[tokio::test(start_paused = true)]
async fn a_request_is_written_anew_and_its_answer_too() {
    let request = "GET //a/%7eb?x=1 HTTP/1.1\r\nHOST: App.:80\r\nAccept:  */*  \r\nConnection: keep-alive, x-hop\r\n\
                   X-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Mesh-Client: me\r\nx-forwarded-client-cert: me\r\n\r\n";
    let setup = Setup { append: b"x-ours: yes\r\n", ..Setup::default() };
    let answer = "HTTP/1.1 200 Fine\r\nDate: now\r\nX-Mesh-Reason: forged\r\nConnection: x-gone\r\nX-Gone: 1\r\n\
                  Content-Length: 2\r\n\r\nhi";
    let seen = run_with(&setup, &caller(request, "hi"), &[origin("\r\n\r\n", answer)]).await;
    assert_eq!(seen.origin.to_ascii_lowercase().matches("x-hop").count(), 0, "{}", seen.origin);
    assert_eq!(seen.origin, "GET /a/~b?x=1 HTTP/1.1\r\nhost: app\r\nAccept: */*\r\nx-ours: yes\r\n\r\n");
    assert_eq!(seen.caller, "HTTP/1.1 200 Fine\r\nDate: now\r\ncontent-length: 2\r\n\r\nhi");
    assert!(seen.outcomes[0].reusable);
    assert_eq!((seen.meter.status, seen.meter.response_bytes), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn a_peers_explanation_passes_and_an_applications_does_not() {
    let answer = "HTTP/1.1 403 No\r\nx-mesh-reason: no_rule_allows\r\nx-mesh-decision: d1\r\nx-mesh-other: 1\r\n\
                  content-length: 0\r\n\r\n";
    for (from, expected) in [(Origin::MeshPeer, 2), (Origin::Application, 0)] {
        let setup = Setup { origin: from, ..Setup::default() };
        let seen = run_with(&setup, &caller(GET, "\r\n\r\n"), &[origin("\r\n\r\n", answer)]).await;
        assert_eq!(seen.caller.matches("x-mesh-").count(), expected, "{}", seen.caller);
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_and_pipelined_requests_answered_in_turn() {
    let three = format!("{GET}{GET}{GET}");
    let origin = vec![until("\r\n\r\n"), send(OK), until("\r\n\r\n"), send(OK), until("\r\n\r\n"), send(OK)];
    // The origin reads byte by byte, so each `until` is one request.
    let seen = run(&[send(three), until("hi"), until("hi"), until("hi"), Step::End], &[origin]).await;
    assert_eq!(seen.statuses(), [200, 200, 200], "{}", seen.caller);
    assert_eq!(seen.origin.matches("GET /a").count(), 3);
    assert_eq!(seen.outcomes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn bodies_go_both_ways_in_every_framing() {
    let length = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 5\r\n\r\nhello";
    let chunked = "POST / HTTP/1.1\r\nhost: app\r\ntransfer-encoding: Chunked\r\n\r\n\
                   2;ext=1\r\nhe\r\n03\r\nllo\r\n0\r\nX-Sum: 9\r\nX-Mesh-A: no\r\n\r\n";
    let answers = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nx-t: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "HTTP/1.0 200 OK\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
    ];
    for (answer, expected) in answers {
        let seen = run(
            &[send(length), Step::Read(expected.len()), Step::End],
            &[vec![until("hello"), send(answer), Step::End]],
        )
        .await;
        assert!(seen.origin.ends_with("content-length: 5\r\n\r\nhello"), "{}", seen.origin);
        assert_eq!(seen.caller, expected);
        let seen = run(
            &[send(chunked), Step::Read(expected.len()), Step::End],
            &[vec![until("\r\n\r\n"), until("\r\n\r\n"), send(answer), Step::End]],
        )
        .await;
        assert!(
            seen.origin.ends_with("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n"),
            "{}",
            seen.origin
        );
        assert_eq!(seen.caller, expected);
        assert_eq!((seen.meter.request_bytes, seen.meter.response_bytes), (5, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn large_bodies_pass_through_small_pipes() {
    let body = "x".repeat(999_999) + "!";
    let setup = Setup { pipe: 3000, ..Setup::default() };
    for (last, framing) in [
        ("!", "content-length: 1000000\r\n\r\n".to_owned() + &body),
        ("\r\n0\r\n\r\n", {
            let mut chunks = "transfer-encoding: chunked\r\n\r\n".to_owned();
            for part in body.as_bytes().chunks(77_777) {
                chunks += &format!("{:x}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap());
            }
            chunks + "0\r\n\r\n"
        }),
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: app\r\n{framing}");
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}");
        let seen =
            run_with(&setup, &[send(&request), until(last), Step::End], &[origin(last, &answer)]).await;
        assert_eq!(seen.caller.matches('x').count(), 999_999);
        assert_eq!(seen.origin.matches('x').count(), 999_999);
        assert!(seen.outcomes[0].reusable);
        assert_eq!((seen.meter.request_bytes, seen.meter.response_bytes), (1_000_000, 1_000_000));
    }
}

#[tokio::test(start_paused = true)]
async fn responses_without_a_body_have_none() {
    let head = "HEAD /a HTTP/1.1\r\nHost: app\r\n\r\n";
    let cases = [
        (head, "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", "content-length: 99\r\n\r\n"),
        (head, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "200 OK\r\n\r\n"),
        (GET, "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", "204 No Content\r\n\r\n"),
        (GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", "content-length: 99\r\n\r\n"),
    ];
    for (request, answer, end) in cases {
        let seen = run(&caller(request, "\r\n\r\n"), &[origin("\r\n\r\n", answer)]).await;
        assert!(seen.caller.ends_with(end), "{answer:?} became {:?}", seen.caller);
        assert!(seen.outcomes[0].reusable, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn continue_is_asked_of_the_origin_and_passed_back() {
    let request = "POST / HTTP/1.1\r\nhost: app\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    let caller = [send(request), until("100 Continue\r\n\r\n"), send("body"), until("hi"), Step::End];
    let origin = vec![until("\r\n\r\n"), send("HTTP/1.1 100 Continue\r\n\r\n"), until("body"), send(OK)];
    let seen = run(&caller, &[origin]).await;
    assert_eq!(seen.statuses(), [100, 200]);
    assert!(seen.origin.contains("expect: 100-continue\r\n"));
    // An origin that refuses at once: the body is never sent, and the connection cannot go on.
    let refusal = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
    let seen = run(&[send(request), until("\r\n\r\n"), Step::End], &[origin_of(refusal)]).await;
    assert_eq!(seen.statuses(), [413]);
    assert_eq!(seen.end, After::Close);
    assert!(!seen.outcomes[0].reusable);
}

fn origin_of(answer: &str) -> Vec<Step> {
    origin("\r\n\r\n", answer)
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_reaches_a_caller_that_still_sends() {
    let request = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 1000000\r\n\r\nsome";
    let answer = "HTTP/1.1 429 Slow\r\ncontent-length: 2\r\n\r\nno";
    let seen = run(&caller(request, "no"), &[origin("some", answer)]).await;
    assert_eq!(seen.statuses(), [429]);
    assert_eq!(seen.end, After::Close);
    assert!(!seen.outcomes[0].reusable);
    assert_eq!(seen.outcomes[0].failure, None);
}

#[tokio::test(start_paused = true)]
async fn interim_responses_are_passed_and_bounded() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let seen = run(&caller(GET, "hi"), &[origin_of(&format!("{hints}{hints}{OK}"))]).await;
    assert_eq!(seen.statuses(), [103, 103, 200]);
    assert!(seen.outcomes[0].reusable);
    let seen = run(&caller(GET, "hi"), &[origin_of(&hints.repeat(9))]).await;
    assert_eq!(seen.refusals, [Refusal::BadResponse(Malformed::Interim)]);
    assert_eq!(seen.end, After::Abort);
    let old = "GET / HTTP/1.0\r\nhost: app\r\n\r\n";
    let seen = run(&caller(old, "hi"), &[origin_of(&format!("{hints}{OK}"))]).await;
    assert_eq!(seen.statuses(), [200]);
}

#[tokio::test(start_paused = true)]
async fn callers_of_1_0_get_what_they_understand() {
    let old = "GET / HTTP/1.0\r\nhost: app\r\n\r\n";
    let kept = "GET / HTTP/1.0\r\nhost: app\r\nconnection: keep-alive\r\n\r\n";
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nt: 1\r\n\r\n";
    let cases = [
        (old, OK, "content-length: 2\r\nconnection: close\r\n\r\nhi", After::Close),
        (kept, OK, "content-length: 2\r\nconnection: keep-alive\r\n\r\nhi", After::Close),
        (old, chunks, "200 OK\r\nconnection: close\r\n\r\nhi", After::Close),
        (kept, chunks, "200 OK\r\nconnection: close\r\n\r\nhi", After::Close),
    ];
    for (request, answer, end, after) in cases {
        let seen = run(&caller(request, "hi"), &[origin_of(answer)]).await;
        assert!(seen.caller.ends_with(end), "{request:?} {answer:?} became {:?}", seen.caller);
        assert_eq!(seen.end, after);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_becomes_a_tunnel_only_after_its_101() {
    let request = "GET /ws HTTP/1.1\r\nhost: app\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly";
    let yes = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\nsec-x: 1\r\n\r\nhello";
    let origin = vec![until("\r\n\r\n"), send(yes), until("early"), until("late"), send("bye"), Step::End];
    let caller = [send(request), until("hello"), send("late"), until("bye"), Step::End];
    let seen = run(&caller, &[origin]).await;
    assert!(
        seen.origin.ends_with("connection: upgrade\r\nupgrade: websocket\r\n\r\nearlylate"),
        "{}",
        seen.origin
    );
    assert_eq!(
        seen.caller,
        "HTTP/1.1 101 Switching Protocols\r\nsec-x: 1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhellobye"
    );
    assert!(seen.outcomes[0].upgraded && !seen.outcomes[0].reusable);
    assert_eq!((seen.meter.request_bytes, seen.meter.response_bytes), (9, 8));
}

#[tokio::test(start_paused = true)]
async fn half_a_tunnel_may_end_before_the_other() {
    let request = "GET /ws HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let yes = "HTTP/1.1 101 Yes\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let origin = vec![until("\r\n\r\n"), send(yes), until("up"), send("down"), Step::End];
    let seen = run(&[send(request), until("\r\n\r\n"), send("up"), Step::End], &[origin]).await;
    assert!(seen.caller.ends_with("down"), "{}", seen.caller);
    assert_eq!(seen.end, After::Close);
}

#[tokio::test(start_paused = true)]
async fn bytes_after_a_refused_upgrade_are_the_next_request() {
    let request =
        format!("GET /ws HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{GET}");
    let origin = vec![until("\r\n\r\n"), send(OK), until("\r\n\r\n"), send(OK)];
    let seen = run(&[send(request), until("hi"), until("hi"), Step::End], &[origin]).await;
    assert_eq!(seen.statuses(), [200, 200]);
}

#[tokio::test(start_paused = true)]
async fn upgrades_that_nobody_may_have_are_dropped_or_cut() {
    for upgrade in ["h2c", "h2c, websocket2, x", "HTTP/2.0", "TLS/1.0"] {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: app\r\nconnection: upgrade, http2-settings\r\n\
                               upgrade: {upgrade}\r\nhttp2-settings: AAMAAABkAAQA\r\n\r\n"
        );
        let seen = run(&caller(&request, "hi"), &[origin_of(OK)]).await;
        assert!(!seen.origin.to_ascii_lowercase().contains("upgrade"), "{upgrade}: {}", seen.origin);
        assert!(!seen.origin.to_ascii_lowercase().contains("http2-settings"), "{upgrade}");
        assert_eq!(seen.statuses(), [200]);
    }
    let asked = "GET / HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let answers = [
        (GET, "HTTP/1.1 101 Ha\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
        (asked, "HTTP/1.1 101 Ha\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n"),
        (asked, "HTTP/1.1 101 Ha\r\nupgrade: websocket\r\n\r\n"),
        (asked, "HTTP/1.1 101 Ha\r\nconnection: upgrade\r\n\r\n"),
        (asked, "HTTP/1.1 101 Ha\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 1\r\n\r\n"),
    ];
    for (request, answer) in answers {
        let seen = run(&caller(request, "\r\n\r\n"), &[origin_of(answer)]).await;
        assert_eq!(seen.refusals, [Refusal::BadResponse(Malformed::Upgrade)], "{answer:?}");
        assert_eq!(seen.statuses(), [502]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_answer_is_cut_off_for_the_caller() {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ];
    for answer in answers {
        let origin = vec![until("\r\n\r\n"), send(answer), Step::Vanish];
        let seen = run(&[send(GET)], &[origin]).await;
        assert_eq!(seen.statuses(), [200], "{answer:?}");
        assert!(!seen.caller.ends_with("0\r\n\r\n"), "{answer:?}");
        assert_eq!(seen.end, After::Abort, "{answer:?}");
        assert!(!seen.outcomes[0].reusable);
    }
}

#[tokio::test(start_paused = true)]
async fn surplus_after_an_answer_ends_the_pooled_connection() {
    for surplus in ["HTTP/1.1 200 OK\r\n\r\n", "x", "\r\n"] {
        let seen = run(&caller(GET, "hi"), &[origin_of(&format!("{OK}{surplus}"))]).await;
        assert_eq!(seen.statuses(), [200]);
        assert!(!seen.outcomes[0].reusable, "{surplus:?}");
    }
    // It may come later, while the connection is pooled.
    let late =
        vec![until("\r\n\r\n"), send(OK), until("\r\n\r\n"), send(OK), send("HTTP/1.1 200 Forged\r\n\r\n")];
    let caller = [send(GET), until("hi"), send(GET), until("hi"), send(GET), until("yo"), Step::End];
    let second = origin_of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nyo");
    let seen = run(&caller, &[late, second]).await;
    assert!(!seen.caller.contains("Forged"), "{}", seen.caller);
    assert_eq!(seen.statuses(), [200, 200, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_stale_connection_costs_nothing_but_another_one() {
    // The first origin ends its connection after one exchange without saying so.
    let first = vec![until("\r\n\r\n"), send(OK), Step::Vanish];
    let post = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\n\r\nbody";
    let caller = [send(GET), until("hi"), send(post), until("hi"), Step::End];
    let seen = run(&caller, &[first, origin("body", OK)]).await;
    assert_eq!(seen.statuses(), [200, 200]);
    assert_eq!(seen.outcomes[1].failure.unwrap().retry, Retry::Safe);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_retried_only_where_it_is_harmless() {
    let post = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\n\r\nbody";
    let dies = |last| vec![until("\r\n\r\n"), send(OK), until(last), Step::Vanish];
    // (second request, how the reused connection ends, who answers, statuses)
    let cases = [
        (GET, dies("\r\n\r\n"), Origin::Application, vec![200, 200]),
        (post, dies("body"), Origin::Application, vec![200, 502]),
        (post, dies("body"), Origin::MeshPeer, vec![200, 200]),
    ];
    for (request, first, from, statuses) in cases {
        let setup = Setup { origin: from, ..Setup::default() };
        let last = if request == GET { "\r\n\r\n" } else { "body" };
        let caller = [send(GET), until("hi"), send(request), until("\n"), Step::End];
        let seen = run_with(&setup, &caller, &[first, origin(last, OK)]).await;
        assert_eq!(seen.statuses(), statuses, "{request:?} {from:?}: {}", seen.caller);
        if statuses[1] == 200 {
            assert!(seen.origin.ends_with(last), "{}", seen.origin);
        }
    }
    // A fresh connection that ends without an answer has perhaps done the work.
    let seen = run(&[send(GET), until("\n"), Step::End], &[vec![until("\r\n\r\n"), Step::Vanish]]).await;
    assert_eq!(seen.statuses(), [502]);
    assert_eq!(seen.outcomes[0].failure.unwrap().retry, Retry::Never);
    // Half a head was an answer.
    let half = vec![until("\r\n\r\n"), send("HTTP/1.1 200"), Step::Vanish];
    let seen = run(&[send(GET), until("\n"), Step::End], &[half]).await;
    assert_eq!(seen.outcomes[0].failure.unwrap().retry, Retry::Never);
}

#[tokio::test(start_paused = true)]
async fn a_callers_bad_body_is_refused_and_nothing_after_it_is_read() {
    let bodies = [
        "zz\r\n",
        "5\nhello",
        "5 \r\nhello\r\n",
        "-1\r\n",
        "0x5\r\nhello",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "11111111111111111\r\n",
        "ffffffffffffffff\r\n",
        ";a\r\n",
        "\r\n",
        "5;\nhello",
        "5;\x01\r\nhello",
        "5\rhello",
        "0\r\nContent-Length: 4\r\n\r\n",
        "0\r\nTransfer-Encoding: x\r\n\r\n",
        "0\r\nHost: b\r\n\r\n",
        "0\r\n:path: b\r\n\r\n",
        "0\r\na: b\n\r\n",
        "0\r\n a: b\r\n\r\n",
        "0\r\na : b\r\n\r\n",
        "0\n\n",
        "0\r\n\n",
    ];
    for body in bodies {
        let request =
            format!("POST / HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n{body}{GET}");
        let seen = run(&[send(&request)], &[vec![until("never"), Step::End]]).await;
        assert_eq!(seen.statuses(), [400], "{body:?}: {:?}", seen.caller);
        assert!(seen.caller.contains("connection: close"), "{body:?}");
        assert!(!seen.origin.contains("GET"), "{body:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_wait_has_an_end() {
    // A head that never ends.
    let seen = run(&[send("GET / HTT")], &[]).await;
    assert_eq!((seen.statuses(), seen.end), (vec![408], After::Close));
    // A body that never comes.
    let seen =
        run(&[send("POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\n\r\nx")], &[vec![until("never")]])
            .await;
    assert_eq!(seen.statuses(), [408]);
    // An origin that never answers.
    let seen = run(&[send(GET)], &[vec![until("never")]]).await;
    assert_eq!(seen.statuses(), [504]);
    // An answer that stops.
    let stops =
        vec![until("\r\n\r\n"), send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nha"), until("never")];
    let seen = run(&[send(GET)], &[stops]).await;
    assert_eq!((seen.refusals, seen.end), (vec![Refusal::UpstreamTimeout], After::Abort));
    // Nothing at all.
    let seen = run(&[], &[]).await;
    assert_eq!((seen.caller.as_str(), seen.end), ("", After::Close));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_nothing_is_dropped() {
    let setup = Setup { pipe: 100, ..Setup::default() };
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n{}", "x".repeat(10_000));
    let (near, far) = tokio::io::duplex(setup.pipe);
    let (proxy_side, origin_side) = tokio::io::duplex(setup.pipe);
    let mut near = near;
    tokio::io::AsyncWriteExt::write_all(&mut near, GET.as_bytes()).await.unwrap();
    let served = super::wire::serve(&setup, far, vec![proxy_side]);
    let (seen, _) = tokio::join!(served, super::wire::play(origin_side, origin_of(&answer)));
    assert_eq!((seen.refusals, seen.end), (vec![Refusal::CallerGone], After::Abort));
    drop(near);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_cancels_its_exchange() {
    let seen = run(&[send(GET), Step::Vanish], &[vec![until("\r\n\r\n"), until("never")]]).await;
    assert_eq!((seen.refusals, seen.end), (vec![Refusal::CallerGone], After::Abort));
}

#[tokio::test(start_paused = true)]
async fn a_body_beyond_its_limit_is_refused() {
    let setup = Setup { limits: Limits { body_bytes_max: Some(4), ..Limits::default() }, ..Setup::default() };
    for body in
        ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        let request = format!("POST / HTTP/1.1\r\nhost: app\r\n{body}");
        let seen = run_with(&setup, &[send(&request)], &[vec![until("never"), Step::End]]).await;
        assert_eq!(seen.statuses(), [413], "{body:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_read_byte_by_byte_in_bounded_time() {
    let mut script: Vec<Step> = GET.bytes().map(|byte| send([byte])).collect();
    script.extend([until("hi"), Step::End]);
    let setup = Setup { pipe: 1, ..Setup::default() };
    let seen = run_with(&setup, &script, &[origin_of(OK)]).await;
    assert_eq!(seen.statuses(), [200]);
    assert_eq!(setup.limits.header_timeout, Duration::from_secs(10));
}
