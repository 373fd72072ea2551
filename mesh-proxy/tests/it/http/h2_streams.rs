//! HTTP/2 streams through the pump: bodies, trailers, flow control, cancellation both ways, retries.

use super::h2_world::{post, read_all, send_all, trailers, world, world_of};
use bytes::Bytes;
use h2::Reason;
use http::{Method, Request, Response, StatusCode};
use mesh_proxy::http::{Limits, Meter};
use mesh_proxy::refusal::{Malformed, Refusal};
use std::future::poll_fn;

#[tokio::test(start_paused = true)]
async fn a_call_passes_with_bodies_and_trailers_both_ways() {
    let mut world = world(Limits::default(), 1).await;
    let mut request = post("//svc/%4dethod?q=1");
    let fields = request.headers_mut();
    *fields = trailers(&[
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
        ("x-mesh-client", "me"),
        ("x-forwarded-client-cert", "me"),
        ("host", "APP.:80"),
        ("x-a", "1"),
    ]);
    let (response, mut up) = world.caller.send_request(request, false).unwrap();
    send_all(&mut up, "hello".into()).await.unwrap();
    up.send_trailers(trailers(&[("x-sum", "9"), ("x-mesh-a", "no")])).unwrap();
    let (seen, mut respond) = world.origin.recv().await.unwrap();
    let (head, mut body) = seen.into_parts();
    assert_eq!(head.uri.to_string(), "http://app/svc/Method?q=1");
    for gone in ["x-mesh-client", "x-forwarded-client-cert", "host"] {
        assert!(!head.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.headers["x-ours"], "yes");
    let (bytes, sum) = read_all(&mut body).await.unwrap();
    assert_eq!(bytes, b"hello");
    assert_eq!(sum.unwrap(), trailers(&[("x-sum", "9")]));
    let mut answer = Response::new(());
    *answer.headers_mut() = trailers(&[("content-type", "application/grpc"), ("x-mesh-reason", "forged")]);
    let mut down = respond.send_response(answer, false).unwrap();
    send_all(&mut down, "world!".into()).await.unwrap();
    down.send_trailers(trailers(&[("grpc-status", "7"), ("x-mesh-reason", "forged")])).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    assert!(!head.headers.contains_key("x-mesh-reason"));
    let (bytes, status) = read_all(&mut body).await.unwrap();
    assert_eq!(
        (bytes.as_slice(), status.unwrap()),
        (b"world!".as_slice(), trailers(&[("grpc-status", "7")]))
    );
    let (failure, meter) = world.ends.recv().await.unwrap();
    assert_eq!(failure, None);
    assert_eq!(meter, Meter { request_bytes: 5, response_bytes: 6, status: 200, grpc_status: Some(7) });
}

#[tokio::test(start_paused = true)]
async fn large_bodies_follow_the_windows() {
    let mut world = world(Limits::default(), 1).await;
    let (response, mut up) = world.caller.send_request(post("/"), false).unwrap();
    let big = Bytes::from(vec![7_u8; 3_000_000]);
    let upload = async {
        send_all(&mut up, big.clone()).await.unwrap();
        up.send_data(Bytes::new(), true).unwrap();
    };
    let origin = async {
        let (seen, mut respond) = world.origin.recv().await.unwrap();
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        let mut body = seen.into_body();
        let (bytes, _) = read_all(&mut body).await.unwrap();
        assert_eq!(bytes.len(), big.len());
        send_all(&mut down, big.clone()).await.unwrap();
        down.send_data(Bytes::new(), true).unwrap();
    };
    let download = async { read_all(response.await.unwrap().body_mut()).await.unwrap().0.len() };
    let (_, (), length) = tokio::join!(upload, origin, download);
    assert_eq!(length, big.len());
    assert_eq!(world.ends.recv().await.unwrap().0, None);
}

#[tokio::test(start_paused = true)]
async fn a_callers_reset_cancels_its_stream_and_no_other() {
    let mut world = world(Limits::default(), 1).await;
    let (kept, _) = world.caller.send_request(post("/kept"), true).unwrap();
    let (_, mut kept_respond) = world.origin.recv().await.unwrap();
    for answered in [false, true] {
        let (response, mut up) = world.caller.send_request(post("/gone"), false).unwrap();
        let (seen, mut respond) = world.origin.recv().await.unwrap();
        let mut down = answered.then(|| respond.send_response(Response::new(()), false).unwrap());
        if answered {
            let _ = response.await.unwrap();
        }
        up.send_reset(Reason::CANCEL);
        let reason = match &mut down {
            Some(down) => poll_fn(|cx| down.poll_reset(cx)).await.unwrap(),
            None => poll_fn(|cx| respond.poll_reset(cx)).await.unwrap(),
        };
        assert_eq!(reason, Reason::CANCEL);
        assert_eq!(world.ends.recv().await.unwrap().0.unwrap().refusal, Refusal::CallerGone);
        drop(seen);
    }
    kept_respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(kept.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_off_is_reset() {
    let mut world = world(Limits::default(), 1).await;
    for (reason, expected) in [
        (Some(Reason::INTERNAL_ERROR), Reason::INTERNAL_ERROR),
        (Some(Reason::CANCEL), Reason::CANCEL),
        (Some(Reason::NO_ERROR), Reason::INTERNAL_ERROR),
    ] {
        let (response, _) = world.caller.send_request(post("/"), true).unwrap();
        let (_, mut respond) = world.origin.recv().await.unwrap();
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        send_all(&mut down, "half".into()).await.unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "half");
        down.send_reset(reason.unwrap());
        let error = read_all(response.body_mut()).await.unwrap_err();
        assert_eq!(error.reason(), Some(expected));
        let failure = world.ends.recv().await.unwrap().0.unwrap();
        assert_eq!((failure.refusal, failure.answered), (Refusal::UpstreamReset, true));
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_not_as_long_as_declared_are_reset() {
    let mut world = world(Limits::default(), 1).await;
    // The response.
    let (response, _) = world.caller.send_request(post("/"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    let answer = Response::builder().header("content-length", "9").body(()).unwrap();
    respond.send_response(answer, false).unwrap().send_data("half".into(), true).unwrap();
    let error = match response.await {
        Ok(mut response) => read_all(response.body_mut()).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.is_reset(), "{error}");
    assert!(world.ends.recv().await.unwrap().0.is_some());
    // The request.
    for body in ["half", "more than nine"] {
        let mut request = post("/");
        request.headers_mut().insert("content-length", "9".parse().unwrap());
        let (response, mut up) = world.caller.send_request(request, false).unwrap();
        let (seen, _respond) = world.origin.recv().await.unwrap();
        up.send_data(body.into(), true).unwrap();
        assert!(read_all(&mut seen.into_body()).await.is_err(), "{body}");
        assert_eq!(response.await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR), "{body}");
        assert!(world.ends.recv().await.unwrap().0.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_sent_again_with_its_body() {
    let mut world = world(Limits::default(), 2).await;
    let (response, mut up) = world.caller.send_request(post("/"), false).unwrap();
    send_all(&mut up, "hello".into()).await.unwrap();
    up.send_trailers(trailers(&[("x-sum", "9")])).unwrap();
    let (first, mut respond) = world.origin.recv().await.unwrap();
    assert_eq!(read_all(&mut first.into_body()).await.unwrap().0, b"hello");
    respond.send_reset(Reason::REFUSED_STREAM);
    let (second, mut respond) = world.origin.recv().await.unwrap();
    let (bytes, sum) = read_all(&mut second.into_body()).await.unwrap();
    assert_eq!((bytes.as_slice(), sum.unwrap()), (b"hello".as_slice(), trailers(&[("x-sum", "9")])));
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.ends.recv().await.unwrap().1.request_bytes, 5);
}

#[tokio::test(start_paused = true)]
async fn any_other_reset_is_not_retried() {
    let mut world = world(Limits::default(), 2).await;
    let (response, _) = world.caller.send_request(post("/"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    respond.send_reset(Reason::INTERNAL_ERROR);
    let response = response.await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-mesh-reason"]),
        (502, &"upstream_reset".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_ends_the_upload() {
    let mut world = world(Limits::default(), 1).await;
    let (response, mut up) = world.caller.send_request(post("/"), false).unwrap();
    send_all(&mut up, "some".into()).await.unwrap();
    let (_seen, mut respond) = world.origin.recv().await.unwrap();
    let answer = Response::builder().status(413).body(()).unwrap();
    respond.send_response(answer, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 413);
    assert_eq!(world.ends.recv().await.unwrap().0, None);
    assert_eq!(poll_fn(|cx| up.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
}

#[tokio::test(start_paused = true)]
async fn interim_responses_pass() {
    let mut world = world(Limits::default(), 1).await;
    let (mut response, _) = world.caller.send_request(post("/"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
    let interim = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!(interim.status(), 103);
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_keeps_its_window_shut_loses_its_stream_only() {
    let mut world = world(Limits::default(), 1).await;
    let (shut, _) = world.caller.send_request(post("/shut"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let flood = tokio::spawn(async move { send_all(&mut down, Bytes::from(vec![0; 1_000_000])).await });
    let mut shut = shut.await.unwrap();
    // Nothing is released: the stream stalls, while others go on.
    let (open, _) = world.caller.send_request(post("/open"), true).unwrap();
    let (_, mut respond) = world.origin.recv().await.unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(open.await.unwrap().status(), 200);
    assert_eq!(world.ends.recv().await.unwrap().0, None);
    assert_eq!(world.ends.recv().await.unwrap().0.unwrap().refusal, Refusal::CallerGone);
    assert!(flood.await.unwrap().is_err());
    let error = loop {
        match shut.body_mut().data().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_reset(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_body_beyond_its_limit_is_refused() {
    let mut world = world(Limits { body_bytes_max: Some(4), ..Limits::default() }, 1).await;
    let mut declared = post("/");
    declared.headers_mut().insert("content-length", "5".parse().unwrap());
    for request in [post("/"), declared] {
        let (response, mut up) = world.caller.send_request(request, false).unwrap();
        up.send_data("hello".into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 413);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_single_reading_are_refused() {
    let mut world = world(Limits::default(), 1).await;
    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);
    let cases: &[Case] = &[
        ("http://app/a/../b", &[], "path_dot_segment"),
        ("http://app/a%2fb", &[], "path_encoded_slash"),
        ("http://app/%zz", &[], "path_bad_escape"),
        ("http://app/a", &[("host", "other")], "host_mismatch"),
        ("http://app/a", &[("host", "app"), ("host", "app")], "host"),
        ("http://u@app/a", &[], "host_user_info"),
        ("http://app/a", &[("authorization", "a"), ("authorization", "b")], "repeated_field"),
        ("http://app/a", &[("x_tenant", "a")], "look_alike"),
        ("http://app/a", &[("x-mesh_a", "a")], "look_alike"),
        ("http://app/a", &[("x-a", " a")], "field"),
        ("http://app/a", &[("x-a", "a\t")], "field"),
    ];
    for (uri, fields, code) in cases {
        let mut request = Request::builder().method(Method::POST).uri(*uri);
        for (name, value) in *fields {
            request = request.header(*name, *value);
        }
        let (response, _) = world.caller.send_request(request.body(()).unwrap(), true).unwrap();
        let mut response = response.await.unwrap();
        let (body, _) = read_all(response.body_mut()).await.unwrap();
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains(&format!("({code})")), "{uri} {fields:?}: {body}");
        assert_eq!(response.status(), 400);
    }
    let refusal = world.ends.recv().await.unwrap().0.unwrap().refusal;
    assert_eq!(refusal.label(), "bad_request");
    assert_ne!(refusal, Refusal::BadRequest(Malformed::Field));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_caller_gets_refusals_as_a_status() {
    let mut world = world(Limits::default(), 1).await;
    let mut request = post("/svc/../admin");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let (response, _) = world.caller.send_request(request, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["grpc-status"]),
        (200, &"13".parse().unwrap())
    );
    assert_eq!(response.headers()["x-mesh-reason"], "bad_request");
    assert!(response.into_body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_an_origin_has_no_room_for_goes_elsewhere_in_time() {
    let mut world = world_of(Limits::default(), 2, 2).await;
    let mut held = Vec::new();
    for path in ["/one", "/two"] {
        let (response, _) = world.caller.send_request(post(path), true).unwrap();
        held.push((response, world.origin.recv().await.unwrap()));
    }
    let (third, _) = world.caller.send_request(post("/three"), true).unwrap();
    let (seen, mut respond) = world.origin.recv().await.unwrap();
    assert_eq!(seen.uri().path(), "/three");
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(third.await.unwrap().status(), StatusCode::OK);
}
