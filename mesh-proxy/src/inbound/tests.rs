use super::serve as inbound_serve;
use crate::outbound::serve as outbound_serve;

/// The size of the future that a function makes, without making one.
macro_rules! future_bytes {
    ($function:expr, $($arg:ident),+) => {{
        fn size<$($arg,)+ F>(_: impl FnOnce($($arg),+) -> F) -> usize {
            size_of::<F>()
        }
        size($function)
    }};
}

#[test]
fn a_connection_costs_what_its_budget_says() {
    // 5,000 idle connections of HTTP are to cost the calling side at most 26 MB: 5.2 KiB each, of which the kernel's
    // registration, the table of connections and the allocator take one. Stages are boxed, so that these add up.
    for (what, bytes, most) in [
        ("inbound task", future_bytes!(inbound_serve, A, B, C, D), 1024),
        ("outbound task", future_bytes!(outbound_serve, A, B), 512),
        ("inbound HTTP/1", future_bytes!(crate::inbound::http::serve_h1, A, B, C, D), 2304),
        ("outbound HTTP/1", future_bytes!(crate::outbound::http::serve_h1, A, B, C, D), 2304),
        ("inbound bytes", future_bytes!(crate::inbound::opaque::serve, A, B, C, D), 2304),
        ("outbound bytes", future_bytes!(crate::outbound::opaque::serve, A, B, C, D, E), 2048),
    ] {
        println!("{what}: {bytes} bytes");
        assert!(bytes <= most, "{what}: {bytes} bytes, at most {most}");
    }
}
