//! Applications that know nothing of a mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Binds an application and runs `serve` for each of its connections.
pub(crate) async fn tcp<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Sends back what it gets, then closes when the other side has.
pub(crate) async fn echo() -> SocketAddr {
    tcp(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// Reads one request head; `None` at the end.
pub(crate) async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0u8; 1];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    String::from_utf8(text).ok()
}

/// HTTP/1.1 with keep-alive: answers with the request line, its Host and its body.
pub(crate) async fn http1() -> SocketAddr {
    tcp(|mut stream| async move {
        while let Some(head) = head(&mut stream).await {
            let field = |name: &str| {
                let of =
                    |line: &str| line.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()));
                head.lines().filter_map(of).find(|(n, _)| n == name).map(|(_, value)| value)
            };
            let length = field("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            if stream.read_exact(&mut body).await.is_err() {
                return;
            }
            let line = head.lines().next().unwrap_or_default();
            let body =
                format!("{line}\n{}\n{}", field("host").unwrap_or_default(), String::from_utf8_lossy(&body));
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Answers in chunks: the first at once, the second when `go` is notified.
pub(crate) async fn trickle(go: Arc<Notify>) -> SocketAddr {
    tcp(move |mut stream| {
        let go = Arc::clone(&go);
        async move {
            while head(&mut stream).await.is_some() {
                let begin = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
                if stream.write_all(begin).await.is_err() {
                    return;
                }
                go.notified().await;
                let _ = stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await;
            }
        }
    })
    .await
}

/// A server that speaks first, then echoes.
pub(crate) async fn banner() -> SocketAddr {
    tcp(|mut stream| async move {
        let _ = stream.write_all(b"220 hello\r\n").await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// HTTP/2 with prior knowledge: echoes the body of each stream, then sends the trailer `grpc-status: 0`.
pub(crate) async fn grpc() -> SocketAddr {
    tcp(|stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let response = http::Response::builder().header("content-type", "application/grpc").body(());
                let mut send = respond.send_response(response.unwrap(), false).unwrap();
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    if send.send_data(data, false).is_err() {
                        return;
                    }
                }
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let _ = send.send_trailers(trailers);
            });
        }
    })
    .await
}

/// gRPC over HTTP/2: answers each call with a first message, and goes on with a second when `go` is notified. A call of
/// `/pkg.App/HangUp` ends its connection with everything on it.
pub(crate) async fn watch(go: Arc<Notify>) -> SocketAddr {
    tcp(move |stream| {
        let go = Arc::clone(&go);
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/pkg.App/HangUp" {
                    return;
                }
                let response = http::Response::builder().header("content-type", "application/grpc").body(());
                let mut send = respond.send_response(response.unwrap(), false).unwrap();
                let go = Arc::clone(&go);
                tokio::spawn(async move {
                    let _request = request;
                    let _ = send.send_data("first".into(), false);
                    go.notified().await;
                    let _ = send.send_data("second".into(), true);
                });
            }
        }
    })
    .await
}

/// An address on which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
