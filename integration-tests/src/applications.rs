//! Real applications behind a sidecar, started as a user starts them, and the clients that ask them.

use crate::world::{World, free_port, loopback};
use crate::{programs, wait};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Starts Python's `http.server` as a workload that serves `folder`, with further arguments of `meshctl run`.
///
/// Gives its number among the workloads and the port that it listens on itself.
#[track_caller]
pub fn http_server(world: &mut World, name: &str, folder: &Path, args: &[&str]) -> (usize, u16) {
    let app = free_port();
    let (python, port, folder) = (programs::python(), app.to_string(), folder.to_string_lossy());
    let command = [
        &*python.to_string_lossy(),
        "-m",
        "http.server",
        &port,
        "--bind",
        "127.0.0.1",
        "--directory",
        &folder,
    ];
    let mut all = vec!["--port", &port];
    all.extend(args);
    let number = world.run(name, &all, &command);
    wait::for_listener(name, loopback(app));
    (number, app)
}

/// A sidecar without a program, through which the test reaches `service`; gives the port for it.
#[track_caller]
pub fn caller(world: &mut World, name: &str, service: &str) -> u16 {
    let to = free_port();
    world.run(name, &["--to", &format!("{service}=127.0.0.1:{to}")], &[]);
    to
}

/// What `curl` printed with `--write-out FORMAT` and further arguments; nothing of the body.
#[track_caller]
pub fn curl(format: &str, args: &[&str]) -> String {
    let output = Command::new(programs::system("curl"))
        .args(["-s", "-o", "/dev/null", "--max-time", "20", "-w", format])
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("curl: {error}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The body of an answer that must be a success.
#[track_caller]
pub fn body(url: &str) -> String {
    let fetched =
        Command::new(programs::system("curl")).args(["-sS", "-f", "--max-time", "20", url]).output();
    succeeded(url, &fetched)
}

/// The status of `GET /` at a local port, and the mesh's reason if it gave one: `200`, or `403 no_rule_allows`.
#[track_caller]
pub fn status(port: u16) -> String {
    curl("%{http_code} %header{x-mesh-reason}", &[&format!("http://127.0.0.1:{port}/")])
}

/// A folder of the test that a system user owns; servers refuse to run as root.
#[track_caller]
pub fn folder_for(world: &World, user: &str) -> PathBuf {
    let folder = world.folder().join(user);
    succeeded("chmod", &Command::new("chmod").arg("755").arg(world.folder()).output());
    let made = Command::new("install").args(["-d", "-m", "700", "-o", user]).arg(&folder).output();
    succeeded(&format!("a folder for the user {user}, which its package brings"), &made);
    folder
}

/// The standard output of a command that must have succeeded.
#[track_caller]
pub fn succeeded(what: &str, output: &std::io::Result<Output>) -> String {
    let output = output.as_ref().unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// One command through `psql`.
#[track_caller]
pub fn psql(port: u16, sql: &str) -> std::io::Result<Output> {
    Command::new(programs::system("psql"))
        .args([
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-d",
            "postgres",
        ])
        .args(["-p", &port.to_string(), "-c", sql])
        .env("PGCONNECT_TIMEOUT", "20")
        .env("PGSSLMODE", "disable")
        .output()
}

/// Starts PostgreSQL as the workload `db`, its own port `app`, with further arguments of `meshctl run`.
#[track_caller]
pub fn postgres(world: &mut World, app: u16, args: &[&str]) {
    let data = folder_for(world, "postgres").join("data");
    let made = Command::new("runuser")
        .args(["-u", "postgres", "--"])
        .arg(programs::postgres("initdb"))
        .args(["-A", "trust", "-U", "postgres", "-N", "-D"])
        .arg(&data)
        .current_dir("/")
        .output();
    succeeded("initdb", &made);
    let (server, port) = (programs::postgres("postgres"), app.to_string());
    let (server, data) = (server.to_string_lossy(), data.to_string_lossy());
    let command = ["runuser", "-u", "postgres", "--", &server, "-D", &data, "-p", &port];
    let settings =
        ["listen_addresses=127.0.0.1", "unix_socket_directories=", "ssl=off", "fsync=off"].map(|s| ["-c", s]);
    let declared = format!("{port}=tcp");
    let mut all = vec!["--port", &declared];
    all.extend(args);
    world.run("db", &all, &[&command, settings.as_flattened()].concat());
    wait::until("PostgreSQL to answer", || {
        psql(app, "select 1").is_ok_and(|answer| answer.status.success()).then_some(())
    });
}
