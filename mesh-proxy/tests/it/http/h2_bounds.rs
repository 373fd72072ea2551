//! What one HTTP/2 stream may cost others, and how long and how much is waited for.

use super::h2_world::{World, post, read_all, send_all, world};
use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use mesh_proxy::http::{Limits, Passed};
use mesh_proxy::refusal::Refusal;
use std::time::Duration;
use tokio::time::Instant;

/// A request whose answer of so many bytes its caller never reads.
async fn unread(world: &mut World, bytes: usize) -> Response<h2::RecvStream> {
    let (response, _) = world.caller.send_request(post("/unread"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    tokio::spawn(async move { send_all(&mut down, Bytes::from(vec![0; bytes])).await });
    response.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_holds_up_nobody_elses_answers() {
    let began = Instant::now();
    let mut world = world(Limits::default(), 1).await;
    let mut shut = Vec::new();
    for _ in 0..12 {
        shut.push(unread(&mut world, 300_000).await);
    }
    let (open, _) = world.another.send_request(post("/open"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let sending = async {
        send_all(&mut down, Bytes::from(vec![1; 200_000])).await.unwrap();
        down.send_data(Bytes::new(), true).unwrap();
    };
    let reading = async { read_all(open.await.unwrap().body_mut()).await.unwrap().0.len() };
    assert_eq!(tokio::join!(sending, reading).1, 200_000);
    // Time stands still unless everybody waits: the answer did not have to wait for the others to be given up.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(world.ends.recv().await.unwrap().0.is_none(), "the open one ends first");
}

#[tokio::test(start_paused = true)]
async fn small_frames_that_nobody_reads_do_not_end_the_connection() {
    let mut world = world(Limits::default(), 1).await;
    let (response, _) = world.caller.send_request(post("/unread"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let shut = response.await.unwrap();
    // Fills the caller's window, then trickles: each frame below 256 bytes that lies unread counts against the sender.
    send_all(&mut down, Bytes::from(vec![0; 80_000])).await.unwrap();
    for _ in 0..40_000 {
        send_all(&mut down, Bytes::from_static(b"tick")).await.unwrap();
    }
    let (open, _) = world.another.send_request(post("/open"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(open.await.unwrap().status(), 200);
    drop(shut);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_for_receivers_that_do_not_read_is_bounded_for_all_together() {
    let limits = Limits { h2_held_bytes_max: 400_000, ..Limits::default() };
    let mut world = world(limits, 1).await;
    let began = Instant::now();
    let mut shut = Vec::new();
    for _ in 0..4 {
        shut.push(unread(&mut world, 300_000).await);
    }
    // All but the first find no room, or are given up soon; long before the time that a single one has.
    for _ in 0..3 {
        assert!(world.bodies.held() <= 400_000, "{}", world.bodies.held());
        let failure = world.ends.recv().await.unwrap().0.unwrap();
        assert_eq!((failure.refusal, failure.answered), (Refusal::BodiesHeld, true));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let last = world.ends.recv().await.unwrap().0.unwrap();
    assert!(matches!(last.refusal, Refusal::CallerGone | Refusal::BodiesHeld), "{last:?}");
    assert_eq!(world.bodies.held(), 0, "all is given back");
    let error = read_all(shut.last_mut().unwrap().body_mut()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_does_not_answer_is_given_up() {
    let mut world = world(Limits::default(), 1).await;
    let began = Instant::now();
    let (response, _) = world.caller.send_request(post("/"), true).unwrap();
    let (_, _respond) = world.origin.recv().await.unwrap();
    let response = response.await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-mesh-reason"]),
        (504, &"upstream_timeout".parse().unwrap())
    );
    let limits = Limits::default();
    assert!(began.elapsed() >= limits.exchange_timeout, "{:?}", began.elapsed());
    assert!(began.elapsed() < limits.exchange_timeout * 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_finish_its_body_is_given_up() {
    let mut world = world(Limits::default(), 1).await;
    let began = Instant::now();
    let (response, mut up) = world.caller.send_request(post("/"), false).unwrap();
    let (_seen, _respond) = world.origin.recv().await.unwrap();
    send_all(&mut up, "begin".into()).await.unwrap();
    let response = response.await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-mesh-reason"]),
        (408, &"request_timeout".parse().unwrap())
    );
    let limits = Limits::default();
    assert!(began.elapsed() >= limits.progress_timeout, "{:?}", began.elapsed());
    assert!(began.elapsed() < limits.progress_timeout * 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stops_half_way_is_cut_off() {
    let mut world = world(Limits::default(), 1).await;
    let (response, _) = world.caller.send_request(post("/"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    send_all(&mut down, "half".into()).await.unwrap();
    assert!(read_all(response.await.unwrap().body_mut()).await.unwrap_err().is_reset());
    assert_eq!(world.ends.recv().await.unwrap().0.unwrap().refusal, Refusal::UpstreamTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_grpc_call_lives_longer_and_is_told_its_end() {
    let mut world = world(Limits::default(), 1).await;
    let began = Instant::now();
    let request = Request::post("http://app/pkg.Watch/Watch").header("content-type", "application/grpc");
    let (response, _up) = world.caller.send_request(request.body(()).unwrap(), false).unwrap();
    let (_seen, _respond) = world.origin.recv().await.unwrap();
    let response = response.await.unwrap();
    // DEADLINE_EXCEEDED.
    assert_eq!(response.headers()["grpc-status"], "4");
    assert!(began.elapsed() >= Limits::default().grpc_quiet_timeout, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bytes_of_an_answer_that_waits_count_against_limits_of_bytes() {
    let passed = Passed::default();
    let limits = Limits { passed: Some(passed.clone()), ..Limits::default() };
    let mut world = world(limits, 1).await;
    // The caller's window takes 64 KiB of it; the rest is taken in and waits.
    let shut = unread(&mut world, 200_000).await;
    let _ = world.ends.recv().await.unwrap();
    assert_eq!(passed.bytes(), 200_000);
    drop(shut);
}
