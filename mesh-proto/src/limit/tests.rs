use super::*;
use proptest::prelude::*;

fn gcra(amount: u64, per: Duration, burst: u64) -> Gcra {
    Rate { unit: Unit::Requests, amount, per, burst }.gcra()
}

#[test]
fn a_full_bucket_gives_its_burst_at_once_and_then_the_rate() {
    let (gcra, state) = (gcra(10, Duration::from_secs(1), 3), AtomicU64::new(0));
    for _ in 0..3 {
        assert_eq!(gcra.take(&state, 1_000_000_000, 1), Ok(()));
    }
    assert_eq!(gcra.take(&state, 1_000_000_000, 1), Err(Duration::from_millis(100)));
    assert_eq!(gcra.take(&state, 1_099_999_999, 1), Err(Duration::from_nanos(1)));
    assert_eq!(gcra.take(&state, 1_100_000_000, 1), Ok(()));
    assert!(!gcra.is_full(&state, 1_399_999_999));
    assert!(gcra.is_full(&state, 1_400_000_000));
}

#[test]
fn a_burst_is_whole_however_its_rate_divides() {
    for amount in [3, 7, 11, 1_000_003] {
        let (gcra, state) = (gcra(amount, Duration::from_secs(1), 9), AtomicU64::new(0));
        let taken = (0..20).filter(|_| gcra.take(&state, 5, 1).is_ok()).count();
        assert_eq!(taken, 9, "{amount} a second");
    }
}

#[test]
fn a_cost_above_the_burst_passes_a_full_bucket_and_is_paid_for() {
    let (gcra, state) = (gcra(100, Duration::from_secs(1), 10), AtomicU64::new(0));
    assert_eq!(gcra.take(&state, 0, 50), Ok(()));
    assert_eq!(gcra.take(&state, 0, 1), Err(Duration::from_millis(410)));
    assert_eq!(gcra.take(&state, 410_000_000, 1), Ok(()));
}

#[test]
fn what_was_carried_already_is_charged_into_debt() {
    let (gcra, state) = (gcra(100, Duration::from_secs(1), 10), AtomicU64::new(0));
    assert_eq!(gcra.charge(&state, 0, 10), Duration::ZERO);
    assert_eq!(gcra.charge(&state, 0, 5), Duration::from_millis(50));
    assert_eq!(gcra.take(&state, 50_000_000, 1), Err(Duration::from_millis(10)));
}

#[test]
fn one_cost_is_the_same_however_it_is_computed() {
    for (amount, per_ns) in
        [(1, 1), (3, 1_000_000_000), (7, u64::MAX), (u64::MAX, 1_000), (1_000_000_007, 999_999_937)]
    {
        let gcra = gcra(amount, Duration::from_nanos(per_ns), 1);
        for cost in [0, 1, 2, 1_000, u64::from(u32::MAX), u64::MAX] {
            let exact = (u128::from(cost) * u128::from(per_ns)).div_ceil(u128::from(amount));
            assert_eq!(
                gcra.time_for(cost),
                u64::try_from(exact).unwrap_or(u64::MAX),
                "{cost} of {amount} in {per_ns} ns"
            );
        }
    }
}

#[test]
fn threads_together_get_the_burst_and_no_more() {
    let (gcra, state) = (gcra(1, Duration::from_secs(3600), 1_000), AtomicU64::new(0));
    let taken = |_| (0..1_000).filter(|_| gcra.take(&state, 5, 1).is_ok()).count();
    let total: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || taken(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(total, 1_000);
}

proptest! {
    /// In any stretch of time no more passes than the burst, the rate over that time, and what one cost exceeds the burst by.
    #[test]
    fn no_more_than_the_rate_passes(
        amount in 1_u64..1_000, per_ms in 1_u64..10_000, burst in 1_u64..50,
        steps in prop::collection::vec((0_u64..400_000_000, 0_u64..80), 1..60),
    ) {
        let (gcra, state) = (gcra(amount, Duration::from_millis(per_ms), burst), AtomicU64::new(0));
        let (mut now, mut admitted) = (1_000, Vec::new());
        for (step, cost) in steps {
            now += step;
            if gcra.take(&state, now, cost).is_ok() {
                admitted.push((now, cost));
            }
        }
        for (at, (start, _)) in admitted.iter().enumerate() {
            let mut sum = 0_u128;
            let mut largest = 0;
            for (end, cost) in &admitted[at..] {
                sum += u128::from(*cost);
                largest = largest.max(*cost);
                let by_rate = u128::from(end - start) * u128::from(amount) / (u128::from(per_ms) * 1_000_000);
                let bound = u128::from(burst.max(largest)) + by_rate + 1;
                prop_assert!(sum <= bound, "{sum} > {bound} in {} ns", end - start);
            }
        }
    }

    /// The answer is exact: it passes then, and not a nanosecond before; and asking takes nothing.
    #[test]
    fn the_wait_is_exact(amount in 1_u64..1_000, per_ms in 1_u64..10_000, burst in 1_u64..50, costs in prop::collection::vec(0_u64..80, 1..20)) {
        let (gcra, state) = (gcra(amount, Duration::from_millis(per_ms), burst), AtomicU64::new(0));
        for cost in costs {
            let before = state.load(Ordering::Relaxed);
            if let Err(wait) = gcra.take(&state, 7, cost) {
                prop_assert_eq!(state.load(Ordering::Relaxed), before);
                let wait = u64::try_from(wait.as_nanos()).unwrap();
                prop_assert!(gcra.take(&AtomicU64::new(before), 7 + wait - 1, cost).is_err());
                prop_assert_eq!(gcra.take(&AtomicU64::new(before), 7 + wait, cost), Ok(()));
            }
        }
    }

    /// No numbers make it panic or lend what it does not have.
    #[test]
    fn absurd_numbers_are_harmless(amount: u64, per_ns: u64, burst: u64, state: u64, now: u64, cost: u64) {
        let gcra = gcra(amount, Duration::from_nanos(per_ns), burst);
        let bucket = AtomicU64::new(state);
        if gcra.take(&bucket, now, cost).is_ok() {
            prop_assert!(bucket.load(Ordering::Relaxed) >= state);
        }
        let _ = gcra.charge(&bucket, now, cost);
        let _ = gcra.is_full(&bucket, now);
    }
}
