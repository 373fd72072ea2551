//! Runs a sidecar and its program: start order, signals, end order, exit code.
//!
//! Called by `run` and `join`. The program starts when the sidecar is ready, is told every signal we are told, and its end
//! ends the sidecar; the sidecar's failure ends the program. It never restarts anything: that is a process manager's work,
//! and this command behaves under one as the program itself would.
//!
//! SIGTERM, SIGINT and SIGQUIT reach a program that is called by others half a second late: first they are told to call its
//! siblings, so that a rollout fails no request. A second one is passed on at once.
//!
//! # Why
//! On a terminal the program stays in our process group, so that it can read the keyboard and Ctrl-C reaches it from the
//! kernel; then we do not send it a second time. Elsewhere it leads a group of its own: a manager that signals the whole
//! group does not hit it twice, and what it leaves behind can be ended.

use super::SidecarArgs;
use crate::config;
use crate::duration;
use crate::failure::{Exit, Failure, Kind, chain};
use crate::output;
use crate::processes::{self, Signals};
use mesh_proxy::capture::namespace::Namespace;
use mesh_proxy::{Config, LEAVE_AFTER, ProxyError, Ready, Stops};
use rustix::process::Signal;
use std::future::Future;
use std::io::IsTerminal as _;
use std::pin::Pin;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How much longer than its drain a sidecar may take to end before it is left.
const END_SLACK: Duration = Duration::from_secs(5);
/// How long a program may take to end after the sidecar failed, before it is killed.
const CHILD_GRACE: Duration = Duration::from_secs(10);

type Proxy<'a> = Pin<&'a mut (dyn Future<Output = Result<(), ProxyError>> + Send)>;

/// Whether the kernel itself sends the program the terminal's signals.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Terminal {
    Shared,
    Apart,
}

/// Runs the sidecar, and the program if there is one.
///
/// # Errors
/// When the sidecar does not become ready in time, fails, or the program cannot be started.
pub(crate) async fn run(config: Config, args: &SidecarArgs) -> Result<Exit, Failure> {
    super::super::up::start_log(&args.log, args.log_format)?;
    let mut signals = Signals::take()?;
    let descriptors = mesh_proxy::descriptors::SoftLimit::current();
    let stops = Stops::default();
    let shutdown = stops.shutdown.clone();
    let (ready_sender, ready) = oneshot::channel();
    let drain = config.drain;
    let instance = config.instance.clone();
    let namespace = config.transparent.clone();
    let proxy = std::pin::pin!(mesh_proxy::run_until(config, ready_sender, stops.clone()));
    let mut proxy: Proxy<'_> = proxy;

    let Some(ready) = until_ready(&mut proxy, ready, &mut signals, args.ready_timeout).await? else {
        shutdown.cancel();
        finish(proxy, drain).await?;
        return Ok(Exit::Done);
    };
    announce(&instance.to_string(), &ready, args);
    if args.command.is_empty() {
        return sidecar_alone(proxy, &mut signals, &shutdown, drain).await;
    }

    let terminal = if std::io::stdin().is_terminal() { Terminal::Shared } else { Terminal::Apart };
    let mut child = descriptors.during(|| start_program(args, &ready, terminal, namespace.as_ref()))?;
    let group = child.id().filter(|_| terminal == Terminal::Apart);
    // A program that nobody calls is told at once.
    let leave_for = if args.ports.is_empty() { Duration::ZERO } else { LEAVE_AFTER.min(drain / 4) };
    let mut held: Option<(Signal, Instant)> = None;
    let status = loop {
        // Each branch is cancel safe: `wait` and `next` by contract, the proxy because it is only borrowed.
        tokio::select! {
            status = child.wait() => break status,
            ended = &mut proxy => {
                let failure = sidecar_failure(ended);
                output::note("the sidecar ended: ending its program");
                end_program(&mut child).await;
                return Err(failure);
            }
            signal = signals.next() => {
                let by_kernel = terminal == Terminal::Shared && (signal == Signal::INT || signal == Signal::QUIT);
                match (by_kernel, signal == Signal::HUP || !processes::asks_to_end(signal)) {
                    (true, _) => {}
                    (false, true) => processes::send(&child, signal),
                    // The first time, the others stop calling before the program stops answering.
                    (false, false) if !stops.leaving.is_cancelled() => {
                        stops.leaving.cancel();
                        held = Some((signal, deadline(leave_for)));
                    }
                    (false, false) => processes::send(&child, signal),
                }
            }
            () = until(held) => {
                if let Some((signal, _)) = held.take() {
                    processes::send(&child, signal);
                }
            }
        }
    };
    if let Some(leader) = group {
        processes::end_group(leader);
    }
    shutdown.cancel();
    // The program's own code matters more than how the sidecar took its end.
    if let Err(failure) = finish(proxy, drain).await {
        output::warn(&failure.message);
    }
    let status = status.map_err(|error| Failure::new(Kind::Sidecar, format!("lost the program: {error}")))?;
    Ok(Exit::Child(processes::exit_code(status)))
}

/// The moment a held signal is due.
#[expect(clippy::disallowed_methods, reason = "supervision owns its timers")]
fn deadline(span: Duration) -> Instant {
    Instant::now() + span
}

/// Ready when the held signal is due; never when there is none.
async fn until(held: Option<(Signal, Instant)>) {
    match held {
        Some((_, due)) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Waits until the sidecar can carry calls. `None`: a signal asked for the end before.
async fn until_ready(
    proxy: &mut Proxy<'_>,
    ready: oneshot::Receiver<Ready>,
    signals: &mut Signals,
    timeout: Duration,
) -> Result<Option<Ready>, Failure> {
    let deadline = async {
        if timeout.is_zero() { std::future::pending::<()>().await } else { tokio::time::sleep(timeout).await }
    };
    let mut deadline = std::pin::pin!(deadline);
    let mut ready = std::pin::pin!(ready);
    loop {
        tokio::select! {
            answer = &mut ready => match answer {
                Ok(ready) => return Ok(Some(ready)),
                // The sender is gone, so the sidecar is ending: its own result says why.
                Err(_) => return Err(sidecar_failure(proxy.as_mut().await)),
            },
            ended = &mut *proxy => return Err(sidecar_failure(ended)),
            signal = signals.next() => if processes::asks_to_end(signal) {
                return Ok(None);
            },
            () = &mut deadline => {
                return Err(Failure::new(
                    Kind::Sidecar,
                    format!("the sidecar got no certificate and policy within {}", duration::show(timeout)),
                )
                .next("meshctl status   # does the control plane run?")
                .next("meshctl run --ready-timeout 0s …   # waits for ever"));
            }
        }
    }
}

/// Says in one line where everything is.
fn announce(instance: &str, ready: &Ready, args: &SidecarArgs) {
    let mut text = format!("sidecar {instance} is ready: mesh {}", ready.mesh_address);
    if let Some(admin) = ready.admin_address {
        text.push_str(&format!(", admin http://{admin}"));
    }
    for (to, address) in args.to.iter().zip(&ready.outbound) {
        text.push_str(&format!(", {} at {address}", to.typed));
    }
    output::note(&text);
}

/// Without a program: until a signal asks for the end.
async fn sidecar_alone(
    mut proxy: Proxy<'_>,
    signals: &mut Signals,
    shutdown: &CancellationToken,
    drain: Duration,
) -> Result<Exit, Failure> {
    loop {
        tokio::select! {
            ended = &mut proxy => return Err(sidecar_failure(ended)),
            signal = signals.next() => if processes::asks_to_end(signal) {
                break;
            },
        }
    }
    shutdown.cancel();
    finish(proxy, drain).await?;
    Ok(Exit::Done)
}

fn start_program(
    args: &SidecarArgs,
    ready: &Ready,
    terminal: Terminal,
    namespace: Option<&Namespace>,
) -> Result<Child, Failure> {
    let mut command = processes::tied_command(&args.command, namespace.map(Namespace::path).as_deref())?;
    for (to, address) in args.to.iter().zip(&ready.outbound) {
        command.env(config::outbound_variable(&to.typed), address.to_string());
    }
    if terminal == Terminal::Apart {
        command.process_group(0);
    }
    command.spawn().map_err(|error| Failure::new(Kind::Sidecar, format!("cannot start the program: {error}")))
}

/// Asks the program to end, then makes it.
async fn end_program(child: &mut Child) {
    processes::send(child, Signal::TERM);
    if tokio::time::timeout(CHILD_GRACE, child.wait()).await.is_err() {
        // It is gone or will be: there is nothing else to try.
        drop(child.kill().await);
    }
}

/// Waits for the sidecar's end.
async fn finish(proxy: Proxy<'_>, drain: Duration) -> Result<(), Failure> {
    match tokio::time::timeout(drain.saturating_add(END_SLACK), proxy).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(sidecar_failure(Err(error))),
        Err(_) => Err(Failure::new(Kind::Sidecar, "the sidecar did not end in time and was left")),
    }
}

fn sidecar_failure(ended: Result<(), ProxyError>) -> Failure {
    match ended {
        Ok(()) => Failure::new(Kind::Sidecar, "the sidecar ended by itself"),
        Err(error) => Failure::new(Kind::Sidecar, format!("the sidecar failed: {}", chain(&error)))
            .next("meshctl check"),
    }
}
