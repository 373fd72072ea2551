//! What may be typed, and which command then runs.
//!
//! Each command's own arguments stand in its module under `command`, next to what it does with them. Help texts are
//! compared with a golden file, so a change of the command line shows up as a diff.

use crate::command;
use crate::failure::{EXIT_CODES, Exit, Failure};
use crate::output::Typed;
use crate::session::{Global, Session};
use clap::{CommandFactory as _, Parser, Subcommand};

/// Runs, drives and explains a service mesh: every connection encrypted and identified, every request allowed by a named
/// rule or refused.
#[derive(Parser, Debug)]
#[command(
    name = "meshctl",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = EXIT_CODES,
    before_help = "First steps:\n  \
        meshctl demo                                  a whole mesh with a small shop, in under a minute\n  \
        meshctl up                                    a control plane on this machine\n  \
        meshctl run --name web --port 8080 -- CMD…    a program with its sidecar\n  \
        meshctl apply -f policy.yaml --wait           who may call whom\n  \
        meshctl explain web payments POST /charge     why it is allowed or refused"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands, in the order of a new user's needs.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Shows a whole mesh at work: a shop of real processes, an intruder, a flood, rotated certificates
    Demo(command::demo::DemoArgs),
    /// Runs a control plane in the foreground
    Up(command::up::UpArgs),
    /// Runs a program with its sidecar: waits for its certificate, then starts the program
    Run(command::run::RunArgs),
    /// The same on another machine: brings a workload into the mesh with a one-time token
    Join(command::join::JoinArgs),
    /// Installs the control plane on a Kubernetes cluster, and waits until it is ready
    Install(command::install::InstallArgs),
    /// Brings the mesh on a Kubernetes cluster to this version; sets it back when it does not become ready
    Upgrade(command::upgrade::UpgradeArgs),
    /// Takes the mesh off a Kubernetes cluster, with everything it made there
    Uninstall(command::uninstall::UninstallArgs),
    /// Gives the pods of manifests their proxies, without asking any cluster
    Inject(command::inject::InjectArgs),
    /// Makes the mesh's resources as the files say, all or none
    Apply(command::apply::ApplyArgs),
    /// Shows resources and what became of them
    Get(command::get::GetArgs),
    /// Removes resources
    Delete(command::delete::DeleteArgs),
    /// Shows what applying files would change, or what changed between two revisions
    Diff(command::diff::DiffArgs),
    /// Lists the accepted changes: who, when, what
    History(command::history::HistoryArgs),
    /// Makes all resources as they were at a past revision
    Rollback(command::rollback::RollbackArgs),
    /// Says why a call was, or would be, allowed or refused
    Explain(command::explain::ExplainArgs),
    /// Shows whether the mesh is well: proxies, store, certificates
    Status(command::status::StatusArgs),
    /// Shows who calls whom: protocol, identity, TLS, decisions, latency
    Edges(command::edges::EdgesArgs),
    /// Shows success rate, request rate and latency of services, workloads and edges
    Stat(command::stat::StatArgs),
    /// Shows what happens right now, busiest first
    Top(command::top::TopArgs),
    /// Draws who calls whom: SVG, DOT or JSON
    Graph(command::graph::GraphArgs),
    /// Lists single requests: all that were refused or failed, a sample of those that passed
    Logs(command::logs::LogsArgs),
    /// Shows what deviates from strict mTLS and default deny, and how to mend it
    Posture(command::posture::PostureArgs),
    /// Shows what is unusual: alarms, acknowledgements, silences, sinks
    Alerts(command::alerts::AlertsArgs),
    /// Shows the mesh in the browser: graph, services, alarms, certificates, policies
    Dashboard(command::dashboard::DashboardArgs),
    /// Shows certificates: whose, from whom, on what evidence, until when
    Identity(command::identity::IdentityArgs),
    /// Shows, rotates and revokes what the certificate authority issued; makes join tokens
    Ca(command::ca::CaArgs),
    /// Lists security events: who was refused and why, what was changed, as it happens
    Events(command::events::EventsArgs),
    /// Shows, verifies and exports the hash-chained record of every change and refusal
    Audit(command::audit::AuditArgs),
    /// Writes the control plane's whole state into a sealed file
    Backup(command::backup::BackupArgs),
    /// Makes a state directory from a backup; the control plane must not run
    Restore(command::restore::RestoreArgs),
    /// Checks this machine and the running mesh, and says how to mend what is wrong
    Check(command::check::CheckArgs),
    /// Prints the completion script of a shell
    Completion(command::completion::CompletionArgs),
    /// Prints the versions of this program and of the control plane
    Version(command::version::VersionArgs),
    /// The objects of `install` as a Helm chart.
    #[command(hide = true)]
    Chart(command::chart::ChartArgs),
    /// One application of the demo's shop.
    #[command(hide = true)]
    DemoApp(command::demo::AppArgs),
    /// Becomes the given program, which is ended when its parent ends.
    #[command(hide = true)]
    ExecWithParent(crate::processes::ExecArgs),
}

/// Runs the command that was typed.
///
/// # Errors
/// The command's own.
pub(crate) async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    // These need no place for state.
    match cli.command {
        Command::Chart(args) => command::chart::run(&args),
        Command::Completion(args) => command::completion::run(&args, Cli::command()),
        Command::DemoApp(args) => command::demo::run_app(args).await,
        Command::Demo(args) => command::demo::run(args, &global).await,
        Command::Graph(args) => {
            // What it draws is not printed by the session's format, which decides how a cluster's name is told.
            let printed = Global { output: Typed::Json, ..global.clone() };
            command::graph::run(args, &Session::new(&printed)?, global.output).await
        }
        typed => dispatch_with(typed, &Session::new(&global)?).await,
    }
}

async fn dispatch_with(typed: Command, session: &Session) -> Result<Exit, Failure> {
    match typed {
        Command::Up(args) => command::up::run(args, session).await,
        Command::Run(args) => command::run::run(args, session).await,
        Command::Join(args) => command::join::run(args).await,
        Command::Install(args) => command::install::run(args, session).await,
        Command::Upgrade(args) => command::upgrade::run(args, session).await,
        Command::Uninstall(args) => command::uninstall::run(args, session).await,
        Command::Inject(args) => command::inject::run(&args, session),
        Command::Apply(args) => command::apply::run(args, session).await,
        Command::Get(args) => command::get::run(args, session).await,
        Command::Delete(args) => command::delete::run(args, session).await,
        Command::Diff(args) => command::diff::run(args, session).await,
        Command::History(args) => command::history::run(args, session).await,
        Command::Rollback(args) => command::rollback::run(args, session).await,
        Command::Explain(args) => command::explain::run(args, session).await,
        Command::Status(args) => command::status::run(args, session).await,
        Command::Edges(args) => command::edges::run(args, session).await,
        Command::Stat(args) => command::stat::run(args, session).await,
        Command::Top(args) => command::top::run(args, session).await,
        Command::Logs(args) => command::logs::run(args, session).await,
        Command::Posture(args) => command::posture::run(args, session).await,
        Command::Alerts(args) => command::alerts::run(args, session).await,
        Command::Dashboard(args) => command::dashboard::run(args, session).await,
        Command::Identity(args) => command::identity::run(args, session).await,
        Command::Ca(args) => command::ca::run(args, session).await,
        Command::Events(args) => command::events::run(args, session).await,
        Command::Audit(args) => command::audit::run(args, session).await,
        Command::Backup(args) => command::backup::run(args, session).await,
        Command::Restore(args) => command::restore::run(args, session).await,
        Command::Check(args) => command::check::run(args, session).await,
        Command::Version(args) => command::version::run(args, session).await,
        // Handled before, without a session.
        Command::Chart(_)
        | Command::Completion(_)
        | Command::Demo(_)
        | Command::DemoApp(_)
        | Command::Graph(_)
        | Command::ExecWithParent(_) => Ok(Exit::Done),
    }
}
