//! What one decision costs, by the number of rules and how they differ.
//!
//! `cargo bench -p mesh-proto --bench decision`; results are noted in `policy::evaluate`.
#![expect(clippy::unwrap_used, reason = "a benchmark's own constants parse")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh_proto::identity::SpiffeId;
use mesh_proto::matching::{Fields, canonical_host, canonical_path};
use mesh_proto::name::Port;
use mesh_proto::policy::compile::PolicySet;
use mesh_proto::policy::evaluate::{HttpFacts, Outcome, Request, SourceFacts};
use mesh_proto::policy::model::{
    Action, Mode, Operation, Policy, PolicyInputs, PolicyName, Protocol, Rule, Scope, Source,
};
use std::hint::black_box;
use std::sync::Arc;

struct NoFields;

impl Fields for NoFields {
    fn each(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}
}

fn identity(number: usize) -> SpiffeId {
    format!("spiffe://mesh.local/ns/shop/sa/caller-{number}").parse().unwrap()
}

/// A rule's number, and who asks for which path to be allowed by it.
type Asked = (usize, SpiffeId, String);

/// How the rules of a set differ.
#[derive(Clone, Copy)]
enum Shape {
    /// Each has its own caller and its own path.
    CallerAndPath,
    /// A hundred callers, each with its own paths (templates), and as many namespaces.
    Grid,
    /// One for all callers, told apart by path alone; one deny rule in four.
    PathOnly,
    /// Every rule names the one caller and a namespace of its own, and wants another port: none can be told by its path.
    SameCaller,
    /// One for all callers and a template of its own each, all of which begin with an open segment.
    Templates,
    /// Every rule is of a prefix of identities of its own.
    Prefixes,
}

impl Shape {
    const ALL: [(&'static str, Self); 6] = [
        ("caller_and_path", Self::CallerAndPath),
        ("grid", Self::Grid),
        ("path_only", Self::PathOnly),
        ("same_caller", Self::SameCaller),
        ("templates", Self::Templates),
        ("prefixes", Self::Prefixes),
    ];

    fn rule(self, number: usize) -> Rule {
        let one = |number: usize| vec![Source::Identity(identity(number).to_string().parse().unwrap())];
        let below =
            |text: String| Source::Identity(format!("spiffe://mesh.local/ns/{text}/*").parse().unwrap());
        let from = match self {
            Self::CallerAndPath => one(number),
            Self::Grid => one(number % 100),
            Self::PathOnly | Self::Templates => vec![Source::AnyMeshed],
            Self::SameCaller => [one(0), vec![below(format!("team-{number}"))]].concat(),
            Self::Prefixes => vec![below(format!("shop/sa/caller-{number}"))],
        };
        let action = match self {
            Self::PathOnly if number % 4 == 3 => Action::Deny,
            _ => Action::Allow,
        };
        let paths = match self {
            Self::Grid => vec![format!("/v1/service-{}/{{id}}/items", number / 100)],
            Self::CallerAndPath | Self::PathOnly => vec![format!("/v1/service-{number}/items")],
            Self::Templates => vec![format!("/{{tenant}}/service-{number}/{{id}}/items")],
            Self::SameCaller | Self::Prefixes => Vec::new(),
        };
        let operation = Operation {
            ports: vec![self.port(number).to_string().parse().unwrap()],
            methods: vec!["GET".parse().unwrap(), "POST".parse().unwrap()],
            paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
            ..Operation::default()
        };
        Rule {
            name: format!("rule {number}").into(),
            line: 1,
            action,
            from,
            except: Vec::new(),
            to: vec![operation],
            valid_until: None,
        }
    }

    /// The path that rule `number` means, for the caller `number`.
    fn path(self, number: usize) -> String {
        match self {
            Self::Grid => format!("/v1/service-{}/4711/items", number / 100),
            Self::Templates => format!("/blue/service-{number}/4711/items"),
            _ => format!("/v1/service-{number}/items"),
        }
    }

    fn port(self, number: usize) -> u16 {
        match self {
            Self::SameCaller => 10_000 + u16::try_from(number).unwrap(),
            _ => 8080,
        }
    }

    fn request(self, (number, caller, path): &Asked) -> Request<'_> {
        Request {
            source: SourceFacts::Meshed { id: caller, instance: None },
            port: Port::new(self.port(*number)).unwrap(),
            protocol: Protocol::Http1,
            sni: None,
            http: Some(HttpFacts { host: "pay.shop", method: "GET", path, headers: &NoFields }),
            now: 1_000,
        }
    }

    fn caller(self, number: usize) -> SpiffeId {
        match self {
            Self::Grid => identity(number % 100),
            Self::SameCaller => identity(0),
            Self::Prefixes => format!("{}/web", identity(number)).parse().unwrap(),
            Self::CallerAndPath | Self::PathOnly | Self::Templates => identity(number),
        }
    }
}

fn policies(shape: Shape, rules: usize) -> PolicyInputs {
    let policy = |at: usize| Policy {
        name: PolicyName {
            namespace: Some("shop".parse().unwrap()),
            name: format!("p{at}").parse().unwrap(),
        },
        scope: Scope::Ordinary,
        mode: Mode::Enforce,
        rules: (at * 10..(at + 1) * 10).map(|number| shape.rule(number)).collect(),
        file: "bench.yaml".into(),
    };
    PolicyInputs {
        policies: (0..rules / 10).map(|at| Arc::new(policy(at))).collect(),
        ..PolicyInputs::default()
    }
}

fn decision(criterion: &mut Criterion) {
    for (name, shape) in Shape::ALL {
        let mut group = criterion.benchmark_group(format!("decision/{name}"));
        for rules in [10, 10_000] {
            let set = PolicySet::compile(&policies(shape, rules));
            // Requests over the whole range, so that caches are as warm as in use, not warmer.
            let asked: Vec<_> =
                (0..997).map(|at| at * 7919 % rules).map(|n| (n, shape.caller(n), shape.path(n))).collect();
            group.bench_function(BenchmarkId::new("connection", rules), |bencher| {
                let mut next = asked.iter().cycle();
                bencher.iter(|| {
                    let request = shape.request(next.next().unwrap());
                    matches!(set.authorize(black_box(&request)).outcome, Outcome::Allowed { .. })
                });
            });
            group.bench_function(BenchmarkId::new("request", rules), |bencher| {
                let standings = asked.iter().map(|asked| set.standing(&shape.request(asked).source));
                let mut kept: Vec<_> = asked.iter().zip(standings).collect();
                let mut at = 0;
                bencher.iter(|| {
                    at = (at + 1) % kept.len();
                    let (asked, standing) = &mut kept[at];
                    let request = shape.request(asked);
                    let verdict = set.authorize_as(standing, black_box(&request));
                    matches!(verdict.outcome, Outcome::Allowed { .. })
                });
            });
        }
        group.finish();
    }
}

fn compile(criterion: &mut Criterion) {
    let inputs = policies(Shape::CallerAndPath, 10_000);
    criterion
        .bench_function("compile/10000", |bencher| bencher.iter(|| PolicySet::compile(black_box(&inputs))));
}

fn canonical(criterion: &mut Criterion) {
    let path = b"/v1/orders/4711/items/8/comments/latest";
    criterion
        .bench_function("canonical/path", |bencher| bencher.iter(|| canonical_path(black_box(path)).is_ok()));
    criterion.bench_function("canonical/host", |bencher| {
        bencher.iter(|| canonical_host(black_box(b"payments.shop.svc:8080"), Some(80)).is_ok());
    });
}

criterion_group!(benches, decision, compile, canonical);
criterion_main!(benches);
