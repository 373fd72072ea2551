//! `meshctl completion`: the completion script of a shell.

use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, Command, ValueEnum};
use clap_complete::aot::{Generator as _, Shell as ClapShell};

const EXAMPLES: &str = "\
Examples:
  source <(meshctl completion bash)                                       # this bash
  meshctl completion bash > ~/.local/share/bash-completion/completions/meshctl
  meshctl completion zsh  > ~/.zfunc/_meshctl                             # a directory in $fpath
  meshctl completion fish > ~/.config/fish/completions/meshctl.fish";

/// What `completion` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionArgs {
    /// For which shell
    shell: Shell,
}

/// The shells known.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script for the whole command line.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn run(args: &CompletionArgs, mut command: Command) -> Result<Exit, Failure> {
    let shell = match args.shell {
        Shell::Bash => ClapShell::Bash,
        Shell::Zsh => ClapShell::Zsh,
        Shell::Fish => ClapShell::Fish,
    };
    command.set_bin_name("meshctl");
    command.build();
    let mut script = Vec::new();
    shell.generate(&command, &mut script);
    output::print_raw(&script)?;
    Ok(Exit::Done)
}
