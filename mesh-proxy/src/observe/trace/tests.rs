use super::*;
use crate::http::Limits;
use crate::http::canonical::Intake;
use crate::http::h1::RequestHead;
use proptest::prelude::*;

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SPAN: u64 = 0xb7ad_6b71_6920_3331;

fn with_request<T>(fields: &str, look: impl FnOnce(&Canonical<'_>) -> T) -> T {
    let text = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    let head = RequestHead::parse(text.as_bytes(), &Limits::default()).unwrap().unwrap();
    look(&Canonical::from_h1(&head, &Intake::default()).unwrap())
}

fn read(fields: &str) -> Incoming {
    with_request(fields, Incoming::of)
}

fn begin(tracer: &Tracer, sampling: u32, hop: Hop, fields: &str) -> Option<Box<Span>> {
    let tracing = Tracing { endpoint: String::new(), ca: None, sampling };
    let began = clock::now();
    with_request(fields, |request| tracer.begin(&tracing, Asked { request, hop, began }, |_| 5_000, || ()))
}

#[test]
fn contexts_are_read_in_all_forms() {
    let id = "0af7651916cd43dd8448eb211c80319c";
    let context = |sampled| Some(Context { trace_id: TRACE, span_id: SPAN, sampled });
    let (yes, no, open) = (context(Some(true)), context(Some(false)), context(None));
    let short = Some(Context { trace_id: u128::from(SPAN), span_id: SPAN, sampled: None });
    for (fields, expected) in [
        (format!("traceparent: 00-{id}-b7ad6b7169203331-01\r\n"), yes),
        (format!("TraceParent: 00-{id}-b7ad6b7169203331-03\r\n"), yes),
        (format!("traceparent: 00-{id}-b7ad6b7169203331-00\r\n"), no),
        // A later version has more behind it; version 0 has not, and 255 is none.
        (format!("traceparent: cc-{id}-b7ad6b7169203331-01-more\r\n"), yes),
        (format!("traceparent: 00-{id}-b7ad6b7169203331-01-more\r\n"), None),
        (format!("traceparent: ff-{id}-b7ad6b7169203331-01\r\n"), None),
        (format!("traceparent: 00-{}-b7ad6b7169203331-01\r\n", id.to_uppercase()), None),
        (format!("traceparent: 00-{}-b7ad6b7169203331-01\r\n", "0".repeat(32)), None),
        (format!("traceparent: 00-{id}-0000000000000000-01\r\n"), None),
        (format!("traceparent: 00-{id}-b7ad6b7169203331\r\n"), None),
        (format!("traceparent: 00-{id}-b7ad6b716920333é-01\r\n"), None),
        ("traceparent: \r\n".to_owned(), None),
        // Two of them are none.
        (format!("traceparent: 00-{id}-b7ad6b7169203331-01\r\n").repeat(2), None),
        (format!("b3: {id}-b7ad6b7169203331-1\r\n"), yes),
        (format!("b3: {id}-b7ad6b7169203331-d\r\n"), yes),
        (format!("b3: {id}-b7ad6b7169203331-0-b7ad6b7169203331\r\n"), no),
        (format!("b3: {id}-b7ad6b7169203331\r\n"), open),
        ("b3: b7ad6b7169203331-b7ad6b7169203331\r\n".to_owned(), short),
        (format!("b3: {id}-b7ad6b7169203331-x\r\n"), None),
        ("b3: 0\r\n".to_owned(), None),
        (format!("X-B3-TraceId: {id}\r\nX-B3-SpanId: b7ad6b7169203331\r\nX-B3-Sampled: 1\r\n"), yes),
        (format!("x-b3-sampled: 0\r\nx-b3-spanid: b7ad6b7169203331\r\nx-b3-traceid: {id}\r\n"), no),
        (format!("x-b3-traceid: {id}\r\nx-b3-spanid: b7ad6b7169203331\r\nx-b3-flags: 1\r\n"), yes),
        (format!("x-b3-traceid: {id}\r\n"), None),
        // W3C's counts where both are there.
        (format!("b3: {id}-b7ad6b7169203331-1\r\ntraceparent: 00-{id}-b7ad6b7169203331-00\r\n"), no),
    ] {
        assert_eq!(read(&fields).context, expected, "{fields}");
    }
}

#[test]
fn who_decides_depends_on_where_the_request_is() {
    let tracer = Tracer::default();
    let (yes, no) = (
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n",
    );
    // The random number is 5,000: a share of 5,001 draws it, one of 5,000 does not.
    for (share, hop, fields, is_traced) in [
        (5_001, Hop::Calling, "", true),
        (5_000, Hop::Calling, "", false),
        (5_001, Hop::CalledByStranger, "", true),
        (10_000, Hop::CalledByPeer, "", false),
        (0, Hop::CalledByPeer, yes, true),
        (0, Hop::Calling, yes, true),
        (10_000, Hop::Calling, no, false),
        (10_000, Hop::Calling, "b3: 0\r\n", false),
        (10_000, Hop::Calling, "x-b3-sampled: 0\r\n", false),
        (10_000, Hop::Calling, "traceparent: rubbish\r\n", true),
    ] {
        let span = begin(&tracer, share, hop, fields);
        assert_eq!(span.is_some(), is_traced, "{share} {hop:?} {fields}");
        if let Some(span) = span {
            assert_eq!(span.parent.is_some(), fields == yes);
            assert!(span.trace_id != 0 && span.span_id != 0);
        }
    }
}

#[test]
fn a_state_without_a_trace_that_goes_on_is_left_behind() {
    let span = begin(&Tracer::default(), 10_000, Hop::Calling, "tracestate: a=b\r\n").unwrap();
    assert!(!String::from_utf8_lossy(span.lines()).contains("tracestate"));
    assert_eq!(span.fields().len(), 1);
}

#[test]
fn a_flood_of_sampled_parents_is_bounded() {
    let (tracer, over) = (Tracer::default(), Cell::new(0_u32));
    let tracing = Tracing { endpoint: String::new(), ca: None, sampling: 0 };
    let fields = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let now = clock::now();
    let traced = |began| {
        with_request(fields, |request| {
            let asked = Asked { request, hop: Hop::Calling, began };
            (0..5_000)
                .filter(|_| tracer.begin(&tracing, asked, |_| 0, || over.set(over.get() + 1)).is_some())
                .count()
        })
    };
    assert_eq!(traced(now), 1_000);
    assert_eq!(over.get(), 4_000, "each is counted");
    assert_eq!(traced(now + Duration::from_secs(1)), 1_000, "each second anew");
}

proptest! {
    /// Whatever stands there: nothing breaks, and what is written is read again as the same trace.
    #[test]
    fn what_is_written_is_read_back(
        values in proptest::collection::vec((0_usize..7, "[ -~]{0,70}"), 0..6),
        (trace_id, span_id) in (1_u128.., 1_u64..),
    ) {
        let names =
            ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"];
        let fields: String =
            values.iter().map(|(name, value)| format!("{}: {}\r\n", names[*name], value.trim())).collect();
        let lines = with_request(&fields, |request| {
            context::write(request, &Incoming::of(request), (trace_id, span_id))
        });
        let context = read(std::str::from_utf8(&lines).unwrap()).context;
        prop_assert_eq!(context, Some(Context { trace_id, span_id, sampled: Some(true) }));
    }
}
