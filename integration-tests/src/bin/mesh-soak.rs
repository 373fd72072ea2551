//! `mesh-soak [MINUTES]`: what `cargo xtask soak` runs; ends with 1 and everything that did not hold.

use std::process::ExitCode;

/// As long as two generations of intermediates live.
const MINUTES: f64 = 10.0;

#[expect(clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    let minutes = std::env::args().nth(1).map_or(Ok(MINUTES), |text| text.parse());
    let Ok(minutes) = minutes else {
        eprintln!("error: usage: mesh-soak [MINUTES], for instance mesh-soak 10");
        return ExitCode::from(2);
    };
    match integration_tests::soak::run(minutes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            eprintln!("error: the soak did not hold:\n{problems}");
            ExitCode::FAILURE
        }
    }
}
