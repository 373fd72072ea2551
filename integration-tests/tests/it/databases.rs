//! Unmodified databases, none of which speaks TLS by itself: PostgreSQL, Redis, MariaDB (whose server speaks first).

use integration_tests::applications::{folder_for, postgres, psql, succeeded};
use integration_tests::capture::{Capture, contains};
use integration_tests::world::{World, allow, free_port, loopback};
use integration_tests::{programs, wait};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// A text that must be seen at the application and must not be seen between the proxies.
const SECRET: &str = "the-quick-brown-secret-4711";

#[test]
fn postgresql_works_and_the_wire_shows_no_plaintext() {
    let mut world = World::start();
    let (app, mesh, to) = (free_port(), free_port(), free_port());
    world.apply(&allow("web", "db"));
    postgres(&mut world, app, &["--listen", &format!("127.0.0.1:{mesh}")]);
    world.run("web", &["--to", &format!("db=127.0.0.1:{to}/tcp")], &[]);
    let between = Capture::start(world.folder(), mesh);
    let at_application = Capture::start(world.folder(), app);
    let answer = succeeded(
        "psql",
        &psql(to, &format!("create table t(v text); insert into t values('{SECRET}'); select v from t")),
    );
    assert!(answer.contains(SECRET), "{answer}");
    let rows = succeeded("psql", &psql(to, "select count(*), sum(g) from generate_series(1, 200000) g"));
    assert_eq!(rows.trim(), "200000|20000100000");
    let bytes = between.finish();
    assert!(bytes.len() > 2_000, "the capture saw the connection: {} bytes", bytes.len());
    assert!(!contains(&bytes, SECRET) && !contains(&bytes, "insert into"), "plaintext between the proxies");
    // The control: the same capture at the application's own port does see it.
    assert!(contains(&at_application.finish(), SECRET), "the capture can see plaintext where there is some");
}

#[test]
fn redis_works_and_a_stranger_is_refused() {
    let mut world = World::start();
    let (app, to, stranger) = (free_port(), free_port(), free_port());
    world.apply(&allow("web", "cache"));
    let server = programs::system("redis-server");
    let port = app.to_string();
    let command = [
        &*server.to_string_lossy(),
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ];
    world.run("cache", &["--port", &port], &command);
    wait::for_listener("redis-server", loopback(app));
    world.run("web", &["--to", &format!("cache=127.0.0.1:{to}")], &[]);
    world.run("stranger", &["--to", &format!("cache=127.0.0.1:{stranger}")], &[]);
    let cli = |port: u16, args: &[&str]| {
        Command::new(programs::system("redis-cli")).args(["-p", &port.to_string()]).args(args).output()
    };
    assert_eq!(succeeded("redis-cli", &cli(to, &["set", "key", SECRET])).trim(), "OK");
    assert_eq!(succeeded("redis-cli", &cli(to, &["get", "key"])).trim(), SECRET);
    let refused = cli(stranger, &["get", "key"]).unwrap();
    assert!(!String::from_utf8_lossy(&refused.stdout).contains(SECRET), "a stranger read the value");
    let denied = wait::until("the refusal to be reported", || {
        let edges = world.json(&["edges"]);
        let all = edges["edges"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|edge| edge["denied"].as_u64() > Some(0))
    });
    assert!(denied["source"].as_str().unwrap_or_default().ends_with("/sa/stranger"), "{denied}");
}

fn mariadb(port: u16, sql: &str) -> std::io::Result<Output> {
    Command::new(programs::system("mariadb"))
        .args(["--no-defaults", "-h", "127.0.0.1", "-P", &port.to_string(), "-u", "root", "--skip-ssl"])
        .args(["--connect-timeout=15", "-N", "-e", sql])
        .output()
}

fn start_mariadb(world: &mut World, app: u16) {
    let folder = folder_for(world, "mysql");
    let install = Path::new("/usr/bin/mariadb-install-db");
    let made = Command::new(install)
        .args(["--no-defaults", "--user=mysql", "--skip-test-db", "--auth-root-authentication-method=normal"])
        .arg(format!("--datadir={}", folder.join("data").display()))
        .output();
    succeeded("mariadb-install-db", &made);
    let server = programs::system("mariadbd");
    let port = app.to_string();
    let options = [
        "--no-defaults".to_owned(),
        "--user=mysql".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--port={port}"),
        format!("--datadir={}", folder.join("data").display()),
        format!("--socket={}", folder.join("s").display()),
        format!("--pid-file={}", folder.join("pid").display()),
    ];
    let mut command = vec![server.to_string_lossy().into_owned()];
    command.extend(options);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    world.run("sql", &["--port", &port], &command);
    wait::until("MariaDB to answer", || {
        mariadb(app, "select 1").is_ok_and(|answer| answer.status.success()).then_some(())
    });
}

#[test]
fn mariadb_whose_server_speaks_first_connects_promptly_without_a_hint() {
    let mut world = World::start();
    let (app, to) = (free_port(), free_port());
    world.apply(&allow("web", "sql"));
    start_mariadb(&mut world, app);
    world.run("web", &["--to", &format!("sql=127.0.0.1:{to}")], &[]);
    let (output, first) = wait::timed(|| mariadb(to, "select 40 + 2"));
    assert_eq!(succeeded("mariadb", &output).trim(), "42");
    assert!(
        first < Duration::from_secs(2),
        "the first connection took {first:?}: detection waited for the client"
    );
    let (output, second) = wait::timed(|| mariadb(to, "select repeat('x', 100000) = repeat('x', 100000)"));
    assert_eq!(succeeded("mariadb", &output).trim(), "1");
    assert!(second < Duration::from_secs(2), "the second connection took {second:?}");
}
