//! What the HTTP/1 codec costs for one request, without system calls: `cargo bench -p mesh-proxy --bench http1`.

use criterion::{Criterion, criterion_group, criterion_main};
use mesh_proxy::http::canonical::{Canonical, Intake};
use mesh_proxy::http::exchange::{Forward, forward};
use mesh_proxy::http::h1::{After, Client, RequestHead, Server};
use mesh_proxy::http::{Limits, Meter, Origin};
use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const REQUEST: &[u8] = b"GET /api/v1/orders/12345?expand=items HTTP/1.1\r\nHost: orders.shop\r\nUser-Agent: curl/8.0\r\n\
    Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nX-Request-Id: 0123456789abcdef0123456789abcdef\r\n\
    Cookie: session=0123456789abcdef\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\n\
    Cache-Control: no-cache\r\n\r\n";

fn response() -> Vec<u8> {
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 07:00:00 GMT\r\n\
        Server: app\r\nContent-Length: 200\r\n\r\n";
    [head.as_slice(), &[b'x'; 200]].concat()
}

/// A transport that gives its message once for each time it is armed; writing arms an origin.
struct Wire {
    message: Vec<u8>,
    armed: bool,
    answers: bool,
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::take(&mut this.armed) {
            return Poll::Pending;
        }
        buffer.put_slice(&this.message);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.armed = this.answers;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(black_box(bytes).len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn heads(criterion: &mut Criterion) {
    let limits = Limits::default();
    let intake = Intake { judged: &["x-tenant".into()], default_port: None };
    criterion.bench_function("read a head of 8 fields", |bencher| {
        bencher.iter(|| RequestHead::parse(black_box(REQUEST), &limits));
    });
    let Ok(Some(head)) = RequestHead::parse(REQUEST, &limits) else { return };
    criterion.bench_function("make it canonical", |bencher| {
        bencher.iter(|| black_box(Canonical::from_h1(black_box(&head), &intake).is_ok()));
    });
}

/// Reads `count` requests, one after the other, and forwards each.
async fn serve(count: u64) {
    let limits = Limits::default();
    let mut meter = Meter::default();
    let mut client = Client::new(Wire { message: response(), armed: false, answers: true });
    for _ in 0..count {
        let mut server =
            Server::new(Wire { message: Vec::new(), armed: false, answers: false }, REQUEST.to_vec());
        let Ok(Some(head)) = server.read_request(&limits).await else { return };
        let Ok(request) = Canonical::from_h1(&head, &Intake::default()) else { return };
        let what = Forward { request: &request, append: b"", origin: Origin::Application };
        let outcome = forward(&mut server, what, &mut client, &limits, &mut meter).await;
        assert!(outcome.reusable && outcome.caller == After::NextRequest, "the exchange must go well");
    }
}

fn exchanges(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    criterion.bench_function("read, judge, forward and answer 100 GETs", |bencher| {
        bencher.iter(|| runtime.block_on(serve(100)));
    });
}

criterion_group!(benches, heads, exchanges);
criterion_main!(benches);
