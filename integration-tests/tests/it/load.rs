//! The load that other tests and the soak measure with.

use integration_tests::load::Load;
use integration_tests::wait;

#[test]
fn without_a_mesh_the_load_has_no_failures_of_its_own() {
    let load = Load::start_without_mesh();
    let counts = wait::until("every kind of client to have done something", || {
        let counts = load.counts();
        (counts.good.len() == 6 && counts.good.values().all(|good| *good > 100)).then_some(counts)
    });
    assert_eq!(counts.failures, Vec::<String>::new());
    assert_eq!(load.finish().failures, Vec::<String>::new());
}
