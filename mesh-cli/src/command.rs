//! One module for each command: its arguments, and what it does with them.

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod delete;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod edges;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod identity;
pub(crate) mod join;
pub(crate) mod restore;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod version;

use crate::cli::{Cli, Command};
use crate::failure::{Exit, Failure};
use crate::session::Session;

/// Runs the command that was typed.
///
/// # Errors
/// The command's own.
pub(crate) async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    // These need no place for state.
    match cli.command {
        Command::Completion(args) => completion::run(&args),
        Command::DemoApp(args) => demo::run_app(args).await,
        Command::Demo(args) => demo::run(args, &global).await,
        command => dispatch_with(command, &Session::new(&global)?).await,
    }
}

async fn dispatch_with(command: Command, session: &Session) -> Result<Exit, Failure> {
    match command {
        Command::Up(args) => up::run(args, session).await,
        Command::Run(args) => run::run(args, session).await,
        Command::Join(args) => join::run(args).await,
        Command::Apply(args) => apply::run(args, session).await,
        Command::Get(args) => get::run(args, session).await,
        Command::Delete(args) => delete::run(args, session).await,
        Command::Diff(args) => diff::run(args, session).await,
        Command::History(args) => history::run(args, session).await,
        Command::Rollback(args) => rollback::run(args, session).await,
        Command::Explain(args) => explain::run(args, session).await,
        Command::Status(args) => status::run(args, session).await,
        Command::Edges(args) => edges::run(args, session).await,
        Command::Identity(args) => identity::run(args, session).await,
        Command::Ca(args) => ca::run(args, session).await,
        Command::Audit(args) => audit::run(args, session).await,
        Command::Backup(args) => backup::run(args, session).await,
        Command::Restore(args) => restore::run(args, session).await,
        Command::Check(args) => check::run(args, session).await,
        Command::Version(args) => version::run(args, session).await,
        // Handled before, without a session.
        Command::Completion(_) | Command::Demo(_) | Command::DemoApp(_) | Command::ExecWithParent(_) => {
            Ok(Exit::Done)
        }
    }
}
