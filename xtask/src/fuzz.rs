//! `cargo xtask fuzz`: every fuzz target under libFuzzer for a while, with the stable compiler.
//!
//! The corpus of earlier runs lies in the build directory and is gone on from; the inputs in `fuzz/seeds` are read first.
//! A crash ends the run with the file that causes it and the command that shows it again.
//!
//! # Why
//! No cargo-fuzz: what it adds to cargo here is six flags, of which the only one that is not stable (a sanitizer) finds
//! faults of unsafe code, and there is none in this workspace. A nightly compiler would be a second one to keep in step.

use crate::step::{Step, root, target};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Coverage as libFuzzer reads it: counters at edges, a table of their places, compared values.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Clink-dead-code -Cdebug-assertions --cfg=fuzzing";
/// Longest input: heads and resources fit several times.
const INPUT_BYTES_MAX: &str = "-max_len=8192";
/// One input may take so many seconds, a thousand times what the slowest needs.
const TIMEOUT: &str = "-timeout=10";

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Runs this input once instead: a finding again.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

impl Args {
    /// All targets, so many seconds each.
    pub(crate) fn all(seconds: u32) -> Self {
        Self { target: None, seconds, input: None }
    }
}

/// Builds the targets and runs them one after the other.
pub(crate) fn run(args: &Args) -> Result<()> {
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| args.target.as_ref().is_none_or(|only| *name == only)).collect();
    ensure!(
        !chosen.is_empty(),
        "no fuzz target is called {}; there are: {}",
        args.target.as_deref().unwrap_or_default(),
        all.join(", ")
    );
    let host = host()?;
    let target_dir = folder("fuzz");
    // With --target, build scripts and macros are built without the flags.
    let build =
        ["build", "--release", "--locked", "--target", &host, "--target-dir", &target_dir.to_string_lossy()];
    Step::cargo("fuzz targets", &build).within("fuzz").env("RUSTFLAGS", RUSTFLAGS).run()?;
    let programs = target_dir.join(&host).join("release");
    if let Some(input) = &args.input {
        let input = std::env::current_dir()?.join(input).to_string_lossy().into_owned();
        return Step::program("the input", &programs.join(chosen[0]).to_string_lossy(), &[&input]).run();
    }
    let mut crashed = Vec::new();
    for name in chosen {
        if let Err(error) = fuzz(name, &programs.join(name), args.seconds) {
            eprintln!("error: {error:#}");
            crashed.push(name.as_str());
        }
    }
    ensure!(crashed.is_empty(), "findings in: {}", crashed.join(", "));
    Ok(())
}

/// The names of `fuzz/fuzz_targets/*.rs`.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in std::fs::read_dir(root().join("fuzz/fuzz_targets"))? {
        let path = file?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// A folder in the build directory.
fn folder(name: &str) -> PathBuf {
    target().join(name)
}

/// Runs one target and prints what it did in one line.
fn fuzz(name: &str, program: &Path, seconds: u32) -> Result<()> {
    let corpus = folder("fuzz-corpus").join(name);
    let findings = root().join("fuzz/artifacts").join(name);
    for folder in [&corpus, &findings] {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut command = Command::new(program);
    command.arg(&corpus).args(Some(root().join("fuzz/seeds").join(name)).filter(|seeds| seeds.is_dir()));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .args([INPUT_BYTES_MAX, TIMEOUT, "-print_final_stats=1"])
        .current_dir(root())
        .stdin(Stdio::null());
    let output = command.output().with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let number = |label: &str| {
        let words: Vec<&str> =
            said.lines().rev().find(|line| line.contains(label))?.split_whitespace().collect();
        let at = words.iter().position(|word| *word == label)?;
        words.get(at + 1).map(|word| (*word).to_owned())
    };
    let shown = |label| number(label).unwrap_or_else(|| "?".to_owned());
    eprintln!(
        "{name:20} {:>10} executions, {:>6} edges, {:>5} inputs kept, {} MiB",
        shown("stat::number_of_executed_units:"),
        shown("cov:"),
        shown("corp:").split('/').next().unwrap_or_default(),
        shown("stat::peak_rss_mb:")
    );
    if output.status.success() {
        return Ok(());
    }
    let tail: Vec<&str> = said.lines().rev().take(40).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    let file = said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, file)| file);
    let file = file.unwrap_or("FILE");
    bail!("{name} crashed:\n{}\nto see it again: cargo xtask fuzz {name} --input {file}", tail.join("\n"))
}
