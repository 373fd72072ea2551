//! The applications that the load calls: each gives back what it got.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpListener;

/// HTTP/1.1: the request's body is the answer's.
pub(super) async fn http(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        let service = service_fn(|request: Request<Incoming>| async {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Response::new(Full::new(body)))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// HTTP/2 as gRPC uses it: each message is given back at once, `grpc-status: 0` at the end.
pub(super) async fn grpc(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        let service = service_fn(|request: Request<Incoming>| async {
            let mut response = Response::new(Echo { body: request.into_body(), ended: false }.boxed());
            response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
            Ok::<_, Infallible>(response)
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}

/// Bytes as they come.
pub(super) async fn tcp(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut write).await
        });
    }
}

/// A request's body as an answer's, with gRPC's trailers.
struct Echo {
    body: Incoming,
    ended: bool,
}

impl Echo {
    fn boxed(self) -> BoxBody<Bytes, hyper::Error> {
        BodyExt::boxed(self)
    }
}

impl hyper::body::Body for Echo {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // The end of a request often is an empty DATA frame. Given back as one that is not the end, the `h2` crate
                // ends the connection at the hundredth (0.4.20), with a mesh or without.
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                None => {
                    self.ended = true;
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                other => return Poll::Ready(other),
            }
        }
    }
}
