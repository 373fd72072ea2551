//! Proxies of a test's mesh, and short words for its policies.

use super::control::Control;
use mesh_proto::identity::SpiffeId;
use mesh_proto::limit::{LimitKey, Rate, RateLimit, Unit};
use mesh_proto::name::Port;
use mesh_proto::policy::model::{Action, Mode, Operation, Policy, PolicyName, Protocol, Rule, Scope, Source};
use mesh_proxy::{
    AccessLogTarget, Config, ExplicitListener, InboundPort, IssuerConfig, Multiplexing, ProxyError, Ready,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The port that every service of these tests has.
pub(crate) const PORT: u16 = 80;

/// A running proxy; it is shut down when dropped.
pub(crate) struct Proxy {
    pub(crate) ready: Ready,
    pub(crate) shutdown: CancellationToken,
    pub(crate) log: std::path::PathBuf,
    running: JoinHandle<Result<(), ProxyError>>,
    _dir: tempfile::TempDir,
}

impl Proxy {
    /// The local port that stands for the first service this proxy calls.
    pub(crate) fn to(&self) -> SocketAddr {
        self.ready.outbound[0]
    }

    /// The text of an admin path, with its status.
    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        let answer = super::requests::get(self.ready.admin_address.unwrap(), path, "localhost").await;
        (answer.status, answer.body)
    }

    /// Waits until the metrics have a line that begins so.
    pub(crate) async fn metric(&self, begins: &str) -> String {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let (_, text) = self.admin("/metrics").await;
            let found = text.lines().find(|line| line.starts_with(begins) && !line.ends_with(" 0"));
            if let Some(line) = found {
                return line.to_owned();
            }
            assert!(tokio::time::Instant::now() < deadline, "no metric {begins:?} in\n{text}");
            tokio::task::yield_now().await;
        }
    }

    /// Shuts down and waits for the end.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.running).await.unwrap().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.running.abort();
    }
}

/// What a proxy of a test is.
pub(crate) struct Plan<'a> {
    pub(crate) name: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) app: Option<SocketAddr>,
    pub(crate) declared: Option<Protocol>,
    pub(crate) calls: Option<&'a str>,
    pub(crate) speaks: Option<Protocol>,
    pub(crate) drain: Duration,
    pub(crate) multiplexing: Multiplexing,
    pub(crate) workers: usize,
    /// What connections have beyond the end of a certificate.
    pub(crate) grace: Duration,
}

/// A workload that serves.
pub(crate) fn serves(name: &str, app: SocketAddr) -> Plan<'_> {
    Plan {
        name,
        instance: name,
        app: Some(app),
        declared: None,
        calls: None,
        speaks: None,
        drain: Duration::from_secs(2),
        multiplexing: Multiplexing::On,
        workers: 1,
        grace: mesh_proxy::CERTIFICATE_GRACE,
    }
}

/// A workload that calls.
pub(crate) fn calls<'a>(name: &'a str, service: &'a str) -> Plan<'a> {
    Plan {
        name,
        instance: name,
        app: None,
        declared: None,
        calls: Some(service),
        speaks: None,
        drain: Duration::from_secs(2),
        multiplexing: Multiplexing::On,
        workers: 1,
        grace: mesh_proxy::CERTIFICATE_GRACE,
    }
}

impl Plan<'_> {
    pub(crate) async fn start(self, control: &Control) -> Proxy {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("access.log");
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let port = self.app.map(|app| InboundPort {
            port: Port::new(PORT).unwrap(),
            protocol: self.declared,
            name: None,
            app,
        });
        let outbound = self.calls.map(|service| ExplicitListener {
            service: service.parse().unwrap(),
            port: None,
            listen: loopback,
            protocol: self.speaks,
        });
        let config = Config {
            instance: self.instance.parse().unwrap(),
            namespace: "default".parse().unwrap(),
            account: self.name.parse().unwrap(),
            workload: self.name.parse().unwrap(),
            issuer: IssuerConfig::Unix { socket: control.socket.clone() },
            svid_lifetime: None,
            certificate_grace: self.grace,
            labels: BTreeMap::new(),
            ports: port.into_iter().collect(),
            outbound: outbound.into_iter().collect(),
            listen: loopback,
            admin: Some(loopback),
            access_log: AccessLogTarget::File(log.clone()),
            workers: self.workers,
            multiplexing: self.multiplexing,
            drain: self.drain,
            transparent: None,
            pod: None,
        };
        let shutdown = CancellationToken::new();
        let (tell, told) = oneshot::channel();
        let running = tokio::spawn(mesh_proxy::run(config, tell, shutdown.clone()));
        let Ok(ready) = soon("the proxy is ready", told).await else { panic!("ended: {:?}", running.await) };
        Proxy { ready, shutdown, log, running, _dir: dir }
    }
}

pub(crate) fn id(workload: &str) -> SpiffeId {
    format!("spiffe://{}/ns/default/sa/{workload}", super::control::DOMAIN).parse().unwrap()
}

/// A policy with one rule.
pub(crate) fn policy(name: &str, action: Action, from: &str, to: Vec<Operation>) -> Policy {
    let source = match from {
        "*" => Source::AnyMeshed,
        "anyone" => Source::Anyone,
        workload => Source::Identity(id(workload).as_str().parse().unwrap()),
    };
    let rule = Rule {
        name: "rule 1".into(),
        line: 3,
        action,
        from: vec![source],
        except: Vec::new(),
        to,
        valid_until: None,
    };
    Policy {
        name: PolicyName { namespace: Some("default".parse().unwrap()), name: name.parse().unwrap() },
        scope: Scope::Ordinary,
        mode: Mode::Enforce,
        rules: vec![rule],
        file: "policies.yaml".into(),
    }
}

/// Lets `from` call everything.
pub(crate) fn allow(from: &str) -> Policy {
    policy(&format!("allow-{}", from.replace('*', "all")), Action::Allow, from, Vec::new())
}

/// So many a minute for each caller.
pub(crate) fn limit(unit: Unit, amount: u64) -> RateLimit {
    RateLimit {
        name: PolicyName { namespace: Some("default".parse().unwrap()), name: "few".parse().unwrap() },
        mode: Mode::Enforce,
        key: LimitKey::SourceIdentity,
        to: Vec::new(),
        rate: Some(Rate { unit, amount, per: Duration::from_secs(60), burst: amount }),
        concurrent: None,
        body_bytes_max: None,
    }
}

/// A mesh with a service `api` before an application, a caller `web`, and whatever is allowed between them.
pub(crate) struct Pair {
    pub(crate) control: Control,
    pub(crate) api: Proxy,
    pub(crate) web: Proxy,
}

impl Pair {
    pub(crate) async fn start(app: SocketAddr, policies: Vec<Policy>) -> Self {
        let control = Control::start();
        control.change(|state| {
            state.policies.insert("api".to_owned(), policies);
        });
        let api = serves("api", app).start(&control).await;
        let web = calls("web", "api").start(&control).await;
        control.settled().await;
        Self { control, api, web }
    }
}

/// Fails the test when `work` takes longer than it ever should.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(Duration::from_secs(10), work).await else {
        panic!("took too long: {what}")
    };
    done
}
