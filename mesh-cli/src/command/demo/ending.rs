//! The end of the demo: what was expected, and what to type next.

use super::screen::edge_table;
use super::stage::Stage;
use crate::failure::Failure;
use crate::output::{self, Tone};
use std::path::Path;

/// Prints every expectation and the table of edges.
///
/// # Errors
/// When the reader is gone.
pub(crate) fn summary(stage: &mut Stage) -> Result<(), Failure> {
    let mut text = format!("\n{}\n\n", output::bold("Who called whom"));
    text.push_str(&edge_table(stage.known_edges(), output::terminal_width()));
    text.push_str(&format!("\n{}\n\n", output::bold("What had to be so")));
    for expectation in &stage.expectations {
        let verdict = match expectation.is_met {
            true => output::paint(Tone::Good, "PASS"),
            false => output::paint(Tone::Bad, "FAIL"),
        };
        text.push_str(&format!("  {verdict}  {}\n", expectation.what));
    }
    let met = stage.expectations.iter().filter(|expectation| expectation.is_met).count();
    let all = stage.expectations.len();
    let verdict = match met == all {
        true => output::paint(Tone::Good, &format!("all {all} as they must be")),
        false => {
            output::paint(Tone::Bad, &format!("{} of {all} NOT as they must be", all.saturating_sub(met)))
        }
    };
    text.push_str(&format!(
        "\n  {verdict}; {} processes, {:.1} s\n",
        stage.process_count,
        stage.screen.elapsed().as_secs_f64()
    ));
    stage.screen.text(&text)
}

/// Prints how to look around in the running shop.
///
/// # Errors
/// When the reader is gone.
pub(crate) fn keeping(stage: &mut Stage, state_dir: &Path) -> Result<(), Failure> {
    let head = output::bold("The shop goes on until Ctrl-C. In another terminal");
    let dir = state_dir.display();
    let text = format!(
        "\n{head}\n\n  \
         export MESHCTL_STATE_DIR={dir}\n  \
         meshctl status\n  \
         meshctl edges --watch\n  \
         meshctl explain --denied\n  \
         meshctl explain shop/web shop/payments POST /charge\n  \
         meshctl explain shop/intruder shop/payments POST /charge\n  \
         meshctl identity\n  \
         meshctl ca rotate\n  \
         meshctl get\n  \
         less {dir}/logs/web.log\n"
    );
    stage.screen.text(&text)
}

/// Prints what to type after the demo.
///
/// # Errors
/// When the reader is gone.
pub(crate) fn next_steps(stage: &mut Stage) -> Result<(), Failure> {
    let head = output::bold("Next");
    stage.screen.text(&format!(
        "\n{head}\n\n  \
         meshctl demo --keep                                  the same shop, left running to look around in\n  \
         meshctl up                                           a mesh of your own; then, in another terminal:\n  \
         meshctl run --name web --port 8080 -- CMD…           a program with its sidecar\n  \
         meshctl apply -f deploy/examples/minimal.yaml --wait a first policy\n  \
         meshctl --help                                       everything else\n"
    ))
}
