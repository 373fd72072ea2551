use super::*;
use mesh_proto::wire::v1;
use std::path::Path;

fn id(name: &str) -> String {
    format!("spiffe://mesh.local/ns/shop/sa/{name}")
}

fn flow(source: &str, service: &str, allowed: u64) -> v1::Flow {
    v1::Flow {
        source: id(source),
        destination: id(service),
        service: format!("shop/{service}"),
        protocol: "http1".to_owned(),
        tls_version: "TLSv1.3".to_owned(),
        allowed,
        latency_us: vec![v1::Bucket { index: 80, count: allowed }],
        ..v1::Flow::default()
    }
}

/// A shop in all conditions that a drawing shows.
fn shop() -> Vec<v1::Flow> {
    vec![
        flow("shopper", "web", 600),
        flow("web", "catalog", 1_200),
        v1::Flow { errors: 9, ..flow("web", "payments", 300) },
        flow("payments", "store", 300),
        v1::Flow { failed: 40, ..flow("catalog", "store", 100) },
        flow("store", "catalog", 3),
        v1::Flow { allowed: 0, denied: 57, latency_us: Vec::new(), ..flow("intruder", "store", 0) },
        v1::Flow { source: "unmeshed".to_owned(), tls_version: String::new(), ..flow("", "web", 5) },
    ]
}

fn drawn(flows: Vec<v1::Flow>) -> Graph {
    drawn_up_to(flows, usize::MAX)
}

fn drawn_up_to(flows: Vec<v1::Flow>, limit: usize) -> Graph {
    let span = Span::of_test(flows, 1_700_000_000_000, 1_700_000_060_000);
    graph(&span.picture(), &span, None, limit)
}

/// Rewritten by `UPDATE_GOLDEN=1`, and looked at in a browser.
#[expect(clippy::disallowed_methods, reason = "golden files are rewritten when the environment says so")]
fn check_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == golden, "{} differs; look at it with UPDATE_GOLDEN=1", path.display());
}

#[test]
fn a_shop_is_drawn_as_reviewed() {
    let graph = drawn(shop());
    check_golden("graph.svg", &svg::draw(&graph));
    check_golden("graph.dot", &dot::draw(&graph));
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let mut reversed = shop();
    reversed.reverse();
    assert_eq!(svg::draw(&drawn(shop())), svg::draw(&drawn(reversed)));
}

#[test]
fn a_hostile_name_is_text_in_every_language() {
    let evil = "x\"]; n9 [URL=\"javascript:1\"]\\N</text><script>alert(1)</script>&amp;\x1b[2J\u{202e}";
    let graph = drawn(vec![v1::Flow {
        service: evil.to_owned(),
        destination: String::new(),
        ..flow("web", "pay", 3)
    }]);
    let svg = svg::draw(&graph);
    assert!(!svg.contains("<script") && !svg.contains(['\x1b', '\u{202e}']), "{svg}");
    assert!(svg.contains("&lt;script&gt;") && svg.contains("&amp;amp;"), "{svg}");
    let dot = dot::draw(&graph);
    assert!(
        dot.contains(r#"x\"]; n9 [URL=\"javascript:1\"]\\N"#) && !dot.contains(['\x1b', '\u{202e}']),
        "{dot}"
    );
    assert_eq!(dot.matches("\n  n").count(), 4, "two nodes, one edge and the defaults: {dot}");
}

#[test]
fn no_traffic_is_a_drawing_that_says_so() {
    let graph = drawn(Vec::new());
    assert!(svg::draw(&graph).contains("no traffic"));
    assert!(dot::draw(&graph).ends_with("}\n"));
}

#[test]
fn of_ten_thousand_edges_the_busiest_are_drawn() {
    let flows = (0..10_000)
        .map(|number| flow(&format!("w{}", number % 100), &format!("s{number}"), number))
        .collect();
    let graph = drawn_up_to(flows, EDGES);
    assert_eq!((graph.edges.len(), graph.left_out), (EDGES, 9_800));
    assert!(svg::draw(&graph).len() < 300_000, "a picture that opens");
}
