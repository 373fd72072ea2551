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
    // Of 25 KiB for an idle connection, TLS takes some 10; the task gets a quarter, so that buffers have the rest.
    let most = 6 * 1024;
    let inbound = future_bytes!(inbound_serve, A, B, C, D);
    let outbound = future_bytes!(outbound_serve, A, B);
    assert!(inbound <= most, "inbound task: {inbound} bytes");
    assert!(outbound <= most, "outbound task: {outbound} bytes");
    println!("inbound {inbound}, outbound {outbound}");
}
