//! Slows an exchange down whose bytes are limited.

use crate::clock;
use crate::http::Passed;
use crate::limit::Grant;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Drives `work` to its end. What passes is charged after each of its polls, not when it has ended, and while its buckets
/// are in debt it is not polled: nothing moves, and the sender feels that its bytes are not taken. So it exceeds a limit by
/// what one poll moves (a few buffers), however long it is.
///
/// `work` is borrowed, since moving it in would cost each connection its size once more. Cancel safe if `work` is.
pub(super) async fn paced<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    grant: &Grant,
    passed: Option<&Passed>,
) -> T {
    let Some(passed) = passed else { return work.await };
    // An earlier attempt of the same request has paid for itself.
    let mut charged = passed.bytes();
    loop {
        let mut debt = std::time::Duration::ZERO;
        let done = poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            let total = passed.bytes();
            let new = total.saturating_sub(charged);
            if new > 0 {
                charged = total;
                debt = grant.charge(new, clock::now());
            }
            match polled {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if debt.is_zero() => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            }
        });
        if let Some(done) = done.await {
            return done;
        }
        tokio::time::sleep(debt).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Limits as Bounds;
    use crate::limit::{Bytes, Limits, Subject};
    use mesh_proto::limit::{LimitKey, Rate, RateLimit, Unit};
    use mesh_proto::name::Port;
    use mesh_proto::policy::evaluate::{Request, SourceFacts};
    use mesh_proto::policy::model::{Mode, PolicyName, Protocol};
    use std::net::IpAddr;
    use std::pin::pin;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test]
    async fn a_long_body_waits_for_its_limit_while_it_passes() {
        let rule = RateLimit {
            name: PolicyName { namespace: None, name: "few".parse().unwrap() },
            mode: Mode::Enforce,
            key: LimitKey::Target,
            to: Vec::new(),
            rate: Some(Rate {
                unit: Unit::Bytes,
                amount: 1_000,
                per: Duration::from_secs(3_600),
                burst: 1_000,
            }),
            concurrent: None,
            body_bytes_max: None,
        };
        let now = clock::now();
        let limits = Limits::compile(&[Arc::new(rule)], None, now);
        let ip = IpAddr::from([127, 0, 0, 1]);
        let (port, protocol) = (Port::new(80).unwrap(), Protocol::Tcp);
        let request =
            Request { source: SourceFacts::Unmeshed { ip }, port, protocol, sni: None, http: None, now: 0 };
        let grant = limits.admit(&request, Subject::Tunnel(Bytes::Declared), ip, now).unwrap();
        let bounds = Bounds { passed: Some(Passed::default()), ..Bounds::default() };
        let passed = bounds.passed.clone().unwrap();
        // Moves 400 bytes in each poll, for ever.
        let body = poll_fn(|cx| {
            bounds.tell_passed(400);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        let mut body = pin!(body);
        let mut pacing = pin!(paced(body.as_mut(), &grant, Some(&passed)));
        poll_fn(|cx| {
            // Polled often, and yet it moves no more than the burst and what one poll moves.
            for _ in 0..100 {
                assert!(pacing.as_mut().poll(cx).is_pending());
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(passed.bytes(), 1_200);
    }
}
