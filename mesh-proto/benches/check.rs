//! What checking an apply costs, by the number of documents and how they hang together.
//!
//! `cargo bench -p mesh-proto --bench check`. Growth must stay near linear: an apply may have 20,000 documents, and other
//! changes wait for it.
#![expect(clippy::unwrap_used, reason = "a benchmark's own documents parse")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_proto::resource::{Catalog, Resource, ResourceKey, SourceDocument, parse};
use std::hint::black_box;

/// The document of a number.
type Text = fn(usize) -> String;

/// How the documents hang together.
const SHAPES: [(&str, Text); 5] = [
    ("one_workload", |n| policy(n, "shop", "workload: web", &format!("c{n}"))),
    ("spread", |n| policy(n, &format!("ns{}", n % 50), &format!("workload: w{}", n % 500), &format!("c{n}"))),
    ("same_rule", |n| policy(n, "shop", "workload: web", &format!("c{}", n % 500))),
    ("unknown_services", |n| policy(n, "shop", &format!("service: s{n}"), "c")),
    ("segments", |n| document("Segment", &format!("name: s{n}"), &format!("members: [{{namespace: n{n}}}]"))),
];

fn document(kind: &str, meta: &str, spec: &str) -> String {
    format!("apiVersion: meshctl.io/v1alpha1\nkind: {kind}\nmetadata: {{{meta}}}\nspec:\n  {spec}\n")
}

fn policy(number: usize, namespace: &str, target: &str, caller: &str) -> String {
    let rule = format!(
        "from: [{{serviceAccount: {caller}}}], to: [{{methods: [GET], paths: [\"/items/{number}/*\"]}}]"
    );
    let spec = format!("target: {{{target}}}\n  rules: [{{name: reads {number}, {rule}}}]");
    document("AccessPolicy", &format!("name: p{number}, namespace: {namespace}"), &spec)
}

fn resources(count: usize, text: Text) -> Vec<Resource> {
    let read = |number| {
        let line = u32::try_from(number).unwrap() * 8 + 1;
        parse(&SourceDocument { file: "bench.yaml".to_owned(), line, yaml: text(number) }).unwrap()
    };
    (0..count).map(read).collect()
}

fn checks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("check");
    group.sample_size(10);
    for (name, text) in SHAPES {
        for count in [2_000, 20_000] {
            let resources = resources(count, text);
            let keys: Vec<ResourceKey> = resources.iter().map(Resource::key).collect();
            group.throughput(Throughput::Elements(u64::try_from(count).unwrap()));
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter_with_setup(
                    || Catalog::from_resources(resources.iter().cloned()),
                    |catalog| black_box(catalog.check(&keys, &[], 0)),
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, checks);
criterion_main!(benches);
