//! What one decision costs, by the number of rules and how they differ.
//!
//! `cargo bench -p mesh-proto --bench decision`; results are noted in `policy::evaluate`.
#![expect(clippy::unwrap_used, reason = "a benchmark's own constants parse")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh_proto::identity::SpiffeId;
use mesh_proto::matching::{Fields, canonical_host, canonical_path};
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

/// How the rules of a set differ.
#[derive(Clone, Copy)]
enum Shape {
    /// Each has its own caller and its own path.
    CallerAndPath,
    /// A hundred callers, each with its own paths (templates), and as many namespaces.
    Grid,
    /// One for all callers, told apart by path alone; one deny rule in four.
    PathOnly,
}

impl Shape {
    const ALL: [(&'static str, Self); 3] =
        [("caller_and_path", Self::CallerAndPath), ("grid", Self::Grid), ("path_only", Self::PathOnly)];

    fn rule(self, number: usize) -> Rule {
        let (from, path, action) = match self {
            Self::CallerAndPath => {
                (Source::Identity(identity(number).to_string().parse().unwrap()), number, Action::Allow)
            }
            Self::Grid => (
                Source::Identity(identity(number % 100).to_string().parse().unwrap()),
                number / 100,
                Action::Allow,
            ),
            Self::PathOnly => {
                (Source::AnyMeshed, number, if number % 4 == 3 { Action::Deny } else { Action::Allow })
            }
        };
        let path = match self {
            Self::Grid => format!("/v1/service-{path}/{{id}}/items"),
            Self::CallerAndPath | Self::PathOnly => format!("/v1/service-{path}/items"),
        };
        let operation = Operation {
            ports: vec!["8080".parse().unwrap()],
            methods: vec!["GET".parse().unwrap(), "POST".parse().unwrap()],
            paths: vec![path.parse().unwrap()],
            ..Operation::default()
        };
        Rule {
            name: format!("rule {number}").into(),
            line: 1,
            action,
            from: vec![from],
            except: Vec::new(),
            to: vec![operation],
            valid_until: None,
        }
    }

    /// The path that rule `number` means, for the caller `number`.
    fn path(self, number: usize) -> String {
        match self {
            Self::Grid => format!("/v1/service-{}/4711/items", number / 100),
            Self::CallerAndPath | Self::PathOnly => format!("/v1/service-{number}/items"),
        }
    }

    fn caller(self, number: usize) -> SpiffeId {
        match self {
            Self::Grid => identity(number % 100),
            Self::CallerAndPath | Self::PathOnly => identity(number),
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
        for rules in [10, 1_000, 10_000] {
            let set = PolicySet::compile(&policies(shape, rules));
            // Requests over the whole range, so that caches are as warm as in use, not warmer.
            let asked: Vec<_> =
                (0..997).map(|at| at * 7919 % rules).map(|n| (shape.caller(n), shape.path(n))).collect();
            let mut next = 0;
            group.bench_function(BenchmarkId::from_parameter(rules), |bencher| {
                bencher.iter(|| {
                    next = (next + 1) % asked.len();
                    let (caller, path) = &asked[next];
                    let http = HttpFacts { host: "pay.shop", method: "GET", path, headers: &NoFields };
                    let request = Request {
                        source: SourceFacts::Meshed { id: caller, instance: None },
                        port: mesh_proto::name::Port::new(8080).unwrap(),
                        protocol: Protocol::Http1,
                        sni: None,
                        http: Some(http),
                        now: 1_000,
                    };
                    matches!(set.authorize(black_box(&request)).outcome, Outcome::Allowed { .. })
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
