//! A large mesh on one machine: a real control plane on one core, and proxies that have real certificates and real discovery
//! streams, and no data path.
//!
//! Says what the control plane takes at rest, how long a change is on its way to whom it concerns, and how long the fleet is
//! without a control plane that was killed.

mod fleet;

use crate::wait;
use crate::world::World;
use fleet::Fleet;
use std::process::Command;
use std::time::{Duration, Instant};

/// Changes of each kind that are measured.
const CHANGES: usize = 20;
/// How long the control plane is watched at rest.
const REST: Duration = Duration::from_secs(30);
/// How long the fleet may take for anything.
const WITHIN: Duration = Duration::from_secs(300);
/// Clock ticks a second in `/proc/PID/stat`, on every Linux that matters (`sysconf(_SC_CLK_TCK)`).
const TICKS: f64 = 100.0;

/// CPU seconds and resident MB of a process. One that has ended has no figures, and must not be shown as one that takes nothing.
fn used(id: u32) -> Result<(f64, f64), String> {
    let read = |file: &str| {
        let path = format!("/proc/{id}/{file}");
        std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    };
    let (stat, status) = (read("stat")?, read("status")?);
    // The name in brackets may hold spaces; utime and stime are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let tick = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    match (tick(11), tick(12), kib) {
        (Some(user), Some(system), Some(kib)) => Ok(((user + system) / TICKS, kib / 1024.0)),
        _ => Err(format!("process {id} tells no CPU time or no memory: {stat}")),
    }
}

/// Ties all threads of a process to one core.
fn tie(id: u32, core: &str) -> Result<(), String> {
    let done = Command::new("taskset").args(["-a", "-c", "-p", core, &id.to_string()]).output();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        other => Err(format!("taskset: {other:?}")),
    }
}

fn service(number: usize) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: Service\nmetadata: {{name: extra-{number}, namespace: default}}\nspec:\n  \
         ports: [{{port: 80}}]\n  endpoints: [{{address: \"10.{}.{}.{}:80\"}}]\n---\n",
        number / 62_500 % 250,
        number / 250 % 250,
        number % 250 + 1
    )
}

fn policy(name: &str, target: &str, account: &str) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: default}}\nspec:\n{target}  \
         rules:\n  - name: one\n    from: [{{serviceAccount: {account}}}]\n"
    )
}

/// Writes a file and applies it, without waiting for anybody.
fn apply(world: &World, yaml: &str) -> Result<(), String> {
    let file = world.folder().join("scale.yaml");
    std::fs::write(&file, yaml).map_err(|error| error.to_string())?;
    world.told(&["apply", "-f", &file.to_string_lossy()]);
    Ok(())
}

/// Milliseconds at which a share of them was over.
fn at(times: &[Duration], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
    let index = (times.len().saturating_sub(1) as f64 * share).round() as usize;
    times.get(index).copied().unwrap_or_default().as_secs_f64() * 1000.0
}

/// Runs it and prints the figures.
///
/// # Errors
/// What did not hold.
#[track_caller]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "measures, and is a command's body")]
pub fn run(proxies: usize, services: usize) -> Result<(), String> {
    let mut world = World::start();
    tie(world.control().id(), "0")?;
    tie(std::process::id(), "1")?;
    let extra: String = (proxies..services).map(service).collect();
    if !extra.is_empty() {
        apply(&world, &extra)?;
    }
    println!("{proxies} proxies, {services} services, the control plane on one core");
    let began = Instant::now();
    let fleet = Fleet::start(&world, proxies, services)?;
    fleet.until_connected(WITHIN)?;
    println!("all certified and connected after {:.1?}", began.elapsed());
    fleet.until_quiet();
    rest(&mut world)?;
    changes(&world, &fleet, proxies)?;
    ends(&fleet, proxies)?;
    storm(&mut world, &fleet, proxies)?;
    if fleet.faults() > 0 {
        return Err(format!("{} updates did not fit what a proxy held", fleet.faults()));
    }
    wait::until("the fleet to be in sync", || {
        let status = world.json(&["status"]);
        let listed = status["proxies"].as_array()?;
        let synced = listed.iter().filter(|proxy| proxy["state"] == "in-sync").count();
        (synced == proxies).then_some(())
    });
    Ok(())
}

/// What the control plane takes when nothing changes.
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "measures, for a command")]
fn rest(world: &mut World) -> Result<(), String> {
    let id = world.control().id();
    let (before, resident) = used(id)?;
    let resting = Instant::now();
    while resting.elapsed() < REST {
        wait::pause();
    }
    let cpu = (used(id)?.0 - before) / resting.elapsed().as_secs_f64() * 100.0;
    println!("at rest: {cpu:.1} % of a core, {resident:.0} MB");
    Ok(())
}

/// How long a policy is on its way, to all and to one.
#[expect(clippy::disallowed_methods, reason = "measures")]
fn changes(world: &World, fleet: &Fleet, proxies: usize) -> Result<(), String> {
    let (mut all, mut one) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        fleet.forget();
        let typed = Instant::now();
        apply(world, &policy("all", "", &format!("caller-{change}")))?;
        all.extend(fleet.until_told(typed, 0..proxies, WITHIN)?);
        fleet.until_quiet();
        let number = change % proxies;
        let target = format!("  target: {{workload: app-{number}}}\n");
        fleet.forget();
        let typed = Instant::now();
        apply(world, &policy("one", &target, &format!("caller-{change}")))?;
        one.extend(fleet.until_told(typed, std::iter::once(number), WITHIN)?);
        fleet.until_quiet();
    }
    show("a policy of all, from meshctl apply on", all);
    show("a policy of one, from meshctl apply on", one);
    Ok(())
}

/// How long the end of an endpoint is on its way to those who call it.
#[expect(clippy::disallowed_methods, reason = "measures")]
fn ends(fleet: &Fleet, proxies: usize) -> Result<(), String> {
    let mut ends = Vec::new();
    for change in 0..CHANGES {
        let number = change % proxies;
        fleet.forget();
        let ended = Instant::now();
        fleet.drop_stream(number);
        ends.extend(fleet.until_told(ended, fleet.callers_of(number), WITHIN)?);
        fleet.until_connected(WITHIN)?;
        fleet.until_quiet();
    }
    show("an endpoint's end, to each of its callers", ends);
    Ok(())
}

/// The control plane is killed, and started again.
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "measures, for a command")]
fn storm(world: &mut World, fleet: &Fleet, proxies: usize) -> Result<(), String> {
    world.kill_control();
    fleet.until_connected_are(0, WITHIN)?;
    let back = Instant::now();
    world.start_control();
    tie(world.control().id(), "0")?;
    let answers = back.elapsed();
    fleet.until_connected(WITHIN)?;
    let all = back.elapsed();
    println!("killed and started again: it answers after {answers:.1?}, all are connected after {all:.1?}");
    fleet.until_quiet();
    let (cpu, resident) = used(world.control().id())?;
    println!("which took {cpu:.1} s of CPU; {resident:.0} MB");
    fleet.forget();
    let typed = Instant::now();
    apply(world, &policy("all", "", "after-the-storm"))?;
    show("a policy of all after that", fleet.until_told(typed, 0..proxies, WITHIN)?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "for a command")]
fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!(
        "{what:44} p50 {:6.0} ms  p99 {:6.0} ms  last {:6.0} ms  ({} times)",
        at(&times, 0.5),
        at(&times, 0.99),
        at(&times, 1.0),
        times.len()
    );
}
