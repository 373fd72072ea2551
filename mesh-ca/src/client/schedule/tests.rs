use super::*;
use proptest::prelude::*;

const START: Duration = Duration::from_secs(1_800_000_000);

fn at(after: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + START + after
}

#[test]
fn a_day_is_renewed_between_eight_and_sixteen_hours() {
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(renew_at(at(Duration::ZERO), at(day), 0.0), at(day / 3));
    assert_eq!(renew_at(at(Duration::ZERO), at(day), 1.0), at(day / 3 * 2));
}

#[test]
fn an_ended_svid_is_renewed_at_once() {
    assert_eq!(renew_at(at(Duration::from_secs(9)), at(Duration::ZERO), 0.7), at(Duration::from_secs(9)));
}

#[test]
fn pauses_double_up_to_a_twentieth_of_the_life() {
    let pauses = |life: u64| -> Vec<u128> {
        (1..=10).map(|n| retry_after(n, Duration::from_secs(life), 0.0).as_millis()).collect()
    };
    assert_eq!(pauses(60), [250, 500, 1000, 2000, 3000, 3000, 3000, 3000, 3000, 3000]);
    assert_eq!(pauses(86_400)[6..], [16_000, 30_000, 30_000, 30_000]);
}

proptest! {
    #[test]
    fn renewal_lies_in_the_second_third(life in 0_u64..4_000_000_000, share in 0.0_f64..1.0) {
        let life = Duration::from_millis(life);
        let due = renew_at(at(Duration::ZERO), at(life), share);
        prop_assert!(due >= at(life / 3), "{due:?}");
        prop_assert!(due <= at(life / 3 * 2 + Duration::from_nanos(2)), "{due:?}");
    }

    #[test]
    fn no_input_panics_or_leaves_the_bounds(failures in any::<u32>(), life in any::<u32>(), share in any::<f64>()) {
        let life = Duration::from_secs(life.into());
        let pause = retry_after(failures, life, share);
        prop_assert!(pause >= RETRY_MIN / 2 && pause <= RETRY_MAX);
        prop_assert!(told_after(life, share) <= TOLD_SPREAD_MAX);
        renew_at(at(Duration::ZERO), at(life), share);
        renew_at(SystemTime::UNIX_EPOCH, at(life), share);
    }

    #[test]
    fn a_longer_row_of_failures_never_shortens_the_pause(failures in 1_u32..1000, life in 0_u64..3_000_000) {
        let life = Duration::from_secs(life);
        prop_assert!(retry_after(failures, life, 0.5) <= retry_after(failures + 1, life, 0.5));
    }
}

#[test]
fn a_fleet_that_started_together_renews_at_one_and_a_half_times_its_mean_rate() {
    let life = Duration::from_secs(86_400);
    let fleet = 6000_u32;
    let mut per_hour = [0_u32; 25];
    for n in 0..fleet {
        let due = renew_at(at(Duration::ZERO), at(life), f64::from(n) / f64::from(fleet));
        let hour = due.duration_since(at(Duration::ZERO)).unwrap().as_secs() / 3600;
        per_hour[usize::try_from(hour).unwrap()] += 1;
    }
    // Each renews every 12 hours on average.
    let mean = fleet / 12;
    assert!(per_hour.iter().all(|n| *n <= mean * 3 / 2 + 1), "{per_hour:?}");
}
