//! When to renew, and how long to wait after a failure: arithmetic only.
//!
//! # Why
//! Renewal falls evenly into the second third of what is left of the SVID when it arrives. From one third on, so that
//! with the default of 24 hours the authority may be away for eight hours and more unnoticed; over a whole third, so that a fleet
//! that started together renews at no more than 1.5 times its mean rate.
//! The life is counted from the arrival, not from `notBefore`, which lies before it by the allowance for skewed clocks;
//! a one-minute SVID would otherwise be due before it came.

use std::time::{Duration, SystemTime};

/// The shortest pause after a failure.
pub const RETRY_MIN: Duration = Duration::from_millis(250);
/// The longest pause after a failure: a control plane that comes back finds everybody within this time.
pub const RETRY_MAX: Duration = Duration::from_secs(30);
/// A told renewal is spread over this share of the SVID's life, at most [`TOLD_SPREAD_MAX`].
const TOLD_SPREAD_SHARE: u32 = 30;
/// The longest delay of a told renewal.
pub const TOLD_SPREAD_MAX: Duration = Duration::from_secs(5);

/// When to renew an SVID that arrived at `received` and ends at `not_after`.
///
/// `share`, drawn once from `0.0..1.0`, spreads a fleet. The result lies between one and two thirds of the life, or is
/// `received` if the SVID has already ended.
pub fn renew_at(received: SystemTime, not_after: SystemTime, share: f64) -> SystemTime {
    let life = not_after.duration_since(received).unwrap_or_default();
    let third = life / 3;
    received.checked_add(third.saturating_add(part(third, share))).unwrap_or(received)
}

/// How long to wait after `failures` in a row (from 1) for an SVID with `life` as a whole.
///
/// Doubles from [`RETRY_MIN`] to a twentieth of the life, at most [`RETRY_MAX`]; `share` from `0.0..1.0` takes off up to half.
pub fn retry_after(failures: u32, life: Duration, share: f64) -> Duration {
    let longest = (life / 20).clamp(RETRY_MIN, RETRY_MAX);
    let doubled = RETRY_MIN.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let full = doubled.min(longest);
    full.saturating_sub(part(full / 2, share))
}

/// How long to wait when told to renew now, so that a fleet told together does not come together.
pub fn told_after(life: Duration, share: f64) -> Duration {
    part((life / TOLD_SPREAD_SHARE).min(TOLD_SPREAD_MAX), share)
}

fn part(of: Duration, share: f64) -> Duration {
    of.mul_f64(if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 })
}

#[cfg(test)]
mod tests;
