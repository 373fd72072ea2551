//! Opaque connections to the workload: judged when they begin, again when they turn out to be TLS, and whenever something
//! changes; then bytes both ways.
//!
//! # Why
//! A rule may allow "only TLS" or only some server names, so what the caller claims is not enough: its first bytes are
//! looked at here. Where plain TCP is allowed too, the application is reached at once, so that a server that speaks first
//! is not kept waiting; where it is not, nothing reaches the application before a ClientHello was seen and allowed.

use super::judge::{self, Admitted, Begin, Edges, Question, Refuse, Told};
use super::{Call, Inbound};
use crate::accept::{self, detect::Finding, hello::Hello};
use crate::clock;
use crate::connections::Change;
use crate::discovery::Applied;
use crate::http::Meter;
use crate::outbound::opaque::carry;
use crate::refusal::Refusal;
use crate::transport::Transport;
use crate::tunnel::Tunnel;
use mesh_proto::policy::model::Protocol;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

/// What an opaque connection was found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Kind {
    protocol: Protocol,
    sni: Option<String>,
    /// It looks like TLS and may be anything: it must be allowed as plain TCP too.
    is_odd: bool,
    begin: Begin,
}

impl Kind {
    fn question(&self) -> Question<'_> {
        Question { protocol: self.protocol, sni: self.sni.as_deref(), http: None }
    }

    /// TLS of the application's own.
    fn tls(hello: Hello) -> Self {
        let (sni, is_odd) = match hello {
            Hello::Named(name) => (Some(name), false),
            Hello::Nameless => (None, false),
            Hello::Odd => (None, true),
        };
        Self { protocol: Protocol::Tls, sni, is_odd, begin: Begin::Uncounted }
    }

    /// Whether it may still go on.
    fn may_go_on(&self, applied: &Applied, call: &Call) -> Result<(), Refuse> {
        judge::may_go_on(applied, call, self.question())?;
        if self.is_odd { judge::may_go_on(applied, call, TCP.question()) } else { Ok(()) }
    }
}

const TCP: Kind = Kind { protocol: Protocol::Tcp, sni: None, is_odd: false, begin: Begin::Uncounted };

/// Carries one opaque connection to its end.
pub(crate) async fn serve(inbound: &Inbound, call: &Call, mut near: Transport, mut early: Vec<u8>) {
    let began = clock::now();
    let (kind, mut meter, result) = run(inbound, call, &mut near, &mut early, began).await;
    if result.is_err() {
        near.reset_on_close();
    }
    let applied = inbound.worker.applied();
    let (by, refuse) = match result {
        Ok(by) => (by, None),
        Err(refuse) => (None, Some(refuse)),
    };
    meter.status = 0;
    let told = Told {
        sni: kind.sni.as_deref(),
        begin: kind.begin,
        by,
        refuse,
        meter,
        duration: clock::now().saturating_duration_since(began),
        ..Told::new(kind.protocol)
    };
    told.record(inbound, &applied, call, &mut Edges::default());
}

type By = Option<mesh_proto::policy::evaluate::RuleRef>;

async fn run(
    inbound: &Inbound,
    call: &Call,
    near: &mut Transport,
    early: &mut Vec<u8>,
    began: Instant,
) -> (Kind, Meter, Result<By, Refuse>) {
    let mut meter = Meter::default();
    if inbound.worker.connections.is_draining() {
        return (TCP, meter, Err(Refusal::Draining.into()));
    }
    // Declared protocols are held to.
    let as_tcp = match call.port.protocol {
        Some(Protocol::Tls) => Err(Refusal::WrongProtocol.into()),
        // A port declared for requests takes no bytes that are none.
        Some(Protocol::Http1 | Protocol::Http2 | Protocol::Grpc) => {
            return (TCP, meter, Err(Refusal::WrongProtocol.into()));
        }
        _ => judge::admit(inbound, &inbound.worker.applied(), call, TCP.question(), began),
    };
    match as_tcp {
        Ok(admitted) => both(inbound, call, (near, early), admitted, &mut meter).await.with(meter),
        Err(refuse) => {
            // Whoever has no rule on this port at all need not say anything first.
            if let Some(refuse) = judge::hopeless(&inbound.worker.applied(), call) {
                return (TCP, meter, Err(refuse));
            }
            if !tls_might_pass(inbound, call) {
                return (TCP, meter, Err(refuse));
            }
            // Perhaps TLS is allowed: its first bytes must come first.
            let Some(kind) = tls_hello(inbound, near, early).await else {
                return (TCP, meter, Err(refuse));
            };
            if kind.is_odd {
                return (kind, meter, Err(Refusal::UnreadableHello.into()));
            }
            let applied = inbound.worker.applied();
            match judge::admit(inbound, &applied, call, kind.question(), clock::now()) {
                Err(refuse) => (kind, meter, Err(refuse)),
                Ok(admitted) => {
                    let opened = match admitted.app.tunnel().await {
                        Ok(opened) => opened,
                        Err(error) => return (kind, meter, Err(error.refusal().into())),
                    };
                    let tunnel = Tunnel::with_prefix(std::mem::take(early));
                    let far = opened.transport;
                    pass(inbound, call, (near, far, tunnel), (kind, &admitted), &mut meter).await.with(meter)
                }
            }
        }
    }
}

/// What a stage of [`run`] came to.
struct Ended(Kind, Result<By, Refuse>);

impl Ended {
    fn with(self, meter: Meter) -> (Kind, Meter, Result<By, Refuse>) {
        (self.0, meter, self.1)
    }
}

/// Plain TCP is allowed: reaches the application at once and lets the first one to speak decide.
async fn both(
    inbound: &Inbound,
    call: &Call,
    (near, early): (&mut Transport, &mut Vec<u8>),
    mut admitted: Admitted<'_>,
    meter: &mut Meter,
) -> Ended {
    let mut far = match admitted.app.tunnel().await {
        Ok(opened) => opened.transport,
        Err(error) => return Ended(TCP, Err(error.refusal().into())),
    };
    let mut words = Vec::new();
    let mut kind = TCP;
    // Cancel safe: bytes that were read are in their buffers.
    let finding = tokio::select! {
        biased;
        found = accept::find_hello(near, early) => found.ok().flatten(),
        // The application speaks first: TCP it is. What broke shows in the tunnel.
        _ = far.read_buf(&mut words) => Some(Finding::Tcp),
        () = crate::outbound::drained(&call.registration) => return Ended(TCP, Err(Refusal::Draining.into())),
    };
    if let Some(Finding::Tls(hello)) = finding {
        kind = Kind::tls(hello);
        call.registration.set_protocol(Protocol::Tls);
        let applied = inbound.worker.applied();
        if let Err(refuse) = judge::admit_as_tls(inbound, &applied, call, kind.question(), &mut admitted) {
            return Ended(kind, Err(refuse));
        }
    }
    let mut tunnel = Tunnel::with_prefix(std::mem::take(early));
    tunnel.push_backward(&words);
    pass(inbound, call, (near, far, tunnel), (kind, &admitted), meter).await
}

/// Bytes both ways, judged again when something changes, slowed down where bytes are limited.
async fn pass(
    inbound: &Inbound,
    call: &Call,
    (near, mut far, mut tunnel): (&mut Transport, Transport, Tunnel),
    (mut kind, admitted): (Kind, &Admitted<'_>),
    meter: &mut Meter,
) -> Ended {
    // Whoever waited for the first byte may have missed a change: nothing is carried on a verdict of before it.
    if let Err(refuse) = kind.may_go_on(&inbound.worker.applied(), call) {
        far.reset_on_close();
        return Ended(kind, Err(refuse));
    }
    judge::begun(inbound, &inbound.worker.applied(), call, kind.protocol);
    kind.begin = Begin::Counted;
    let pace = admitted.grant.counts_bytes();
    let (mut charged, mut free_at) = (0, clock::now());
    let result = loop {
        let due = pace_of(&admitted.grant, &tunnel, &mut charged);
        if !due.is_zero() {
            free_at = clock::now() + due;
        }
        let debt = free_at.saturating_duration_since(clock::now());
        let carrying = carry(&inbound.worker.scratch, &mut tunnel, near, &mut far);
        // Cancel safe: the tunnel's state is outside of its future; a change that was not taken comes again. A tunnel in
        // debt moves no byte, but hears of changes.
        tokio::select! {
            biased;
            ended = carrying, if debt.is_zero() => {
                if ended.is_err() {
                    near.reset_on_close();
                    far.reset_on_close();
                }
                break Ok(admitted.by);
            }
            change = call.registration.changed() => {
                if change == Change::Judge
                    && let Err(refuse) = kind.may_go_on(&inbound.worker.applied(), call)
                {
                    far.reset_on_close();
                    break Err(refuse);
                }
            }
            () = tokio::time::sleep(debt.max(PACE)), if pace => {}
        }
    };
    meter.request_bytes = tunnel.carried.forward;
    meter.response_bytes = tunnel.carried.backward;
    Ended(kind, result)
}

/// How often a tunnel whose bytes are limited is charged.
const PACE: Duration = Duration::from_millis(20);

fn pace_of(grant: &crate::limit::Grant, tunnel: &Tunnel, charged: &mut u64) -> Duration {
    let carried = tunnel.carried.total();
    let new = carried.saturating_sub(*charged);
    if !grant.counts_bytes() || new == 0 {
        return Duration::ZERO;
    }
    *charged = carried;
    grant.charge(new, clock::now())
}

/// Whether a caller that may not speak plain TCP could be allowed with a TLS of its own, whatever server it names. Where it
/// cannot, a silent caller that waits for a server to speak first is refused at once.
fn tls_might_pass(inbound: &Inbound, call: &Call) -> bool {
    if call.port.protocol == Some(Protocol::Tcp) {
        return false;
    }
    // A deny rule that matches without a server name matches with every one.
    let nameless = Question { protocol: Protocol::Tls, sni: None, http: None };
    let applied = inbound.worker.applied();
    match judge::may_go_on(&applied, call, nameless) {
        Ok(_) => true,
        Err(refuse) => match refuse.refusal {
            Refusal::Quarantined | Refusal::Isolated | Refusal::DeniedByRule => false,
            _ => applied.names_sni,
        },
    }
}

/// A ClientHello within the header timeout, or nothing.
async fn tls_hello(inbound: &Inbound, near: &mut Transport, early: &mut Vec<u8>) -> Option<Kind> {
    let within = inbound.worker.limits.header_timeout;
    match tokio::time::timeout(within, accept::find_hello(near, early)).await {
        Ok(Ok(Some(Finding::Tls(hello)))) => Some(Kind::tls(hello)),
        _ => None,
    }
}
