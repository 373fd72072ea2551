//! `mesh-scale [PROXIES [SERVICES]]`: what `cargo xtask scale` runs; prints figures, ends with 1 when something did not hold.

use std::process::ExitCode;

/// What the README's figures are measured with.
const PROXIES: usize = 1_000;
const SERVICES: usize = 2_000;

#[expect(clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let (proxies, services) = match (numbers.next(), numbers.next()) {
        (None, None) => (PROXIES, SERVICES),
        (Some(Ok(proxies)), None) => (proxies, SERVICES.max(proxies)),
        (Some(Ok(proxies)), Some(Ok(services))) if services >= proxies => (proxies, services),
        _ => {
            eprintln!("error: usage: mesh-scale [PROXIES [SERVICES]], at least as many services as proxies");
            return ExitCode::from(2);
        }
    };
    match integration_tests::scale::run(proxies, services) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}
