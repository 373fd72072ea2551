//! Unmodified programs of every kind between meshed pods.

use super::Scenario;
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "http", says: "HTTP/1.1 with bodies, large ones and kept connections", run: http },
    Scenario {
        name: "grpc",
        says: "gRPC by grpcio: unary, streams, errors; refusals are statuses",
        run: grpc,
    },
    Scenario { name: "websocket", says: "WebSocket both ways, a megabyte in one message", run: websocket },
    Scenario { name: "postgres", says: "PostgreSQL with psql, a bulk load among it", run: postgres },
    Scenario { name: "redis", says: "Redis with redis-cli", run: redis },
    Scenario {
        name: "server-first",
        says: "a server that speaks first and a client that waits for it",
        run: server_first,
    },
];

/// A server with its client, who is allowed to call it.
fn pair<'a>(stage: &Stage<'a>, server: App) -> Result<Area<'a>> {
    let area = stage.meshed("a")?;
    area.apply(&allow("client", server.name()))?;
    area.run(&[server, App::client("client")])?;
    Ok(area)
}

/// What a program says in the client's pod, once it succeeds: the policy may be on its way still.
fn until_ok(area: &Area<'_>, argv: &[&str]) -> Result<String> {
    wait::until(&argv.join(" "), Duration::from_secs(20), || {
        area.exec("deploy/client", argv)?.ok(argv.first().copied().unwrap_or_default())
    })
}

fn http(stage: &Stage<'_>) -> Result<()> {
    let area = pair(stage, App::http("web"))?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    let script = "head -c 3000000 /dev/zero > /tmp/big; \
         curl -sf --max-time 20 -X POST --data-binary @/tmp/big http://web:8080/big; \
         curl -sf --max-time 20 http://web:8080/a http://web:8080/b http://web:8080/c -w '%{num_connects} '";
    let said = area.exec("deploy/client", &["sh", "-c", script])?.ok("curl")?;
    ensure!(said.contains("POST /big 3000000"), "{said}");
    let connects: Vec<&str> = said.split_whitespace().filter(|word| ["0", "1"].contains(word)).collect();
    ensure!(said.contains("GET /c 0") && connects.ends_with(&["0"]), "{said}");
    Ok(())
}

fn grpc(stage: &Stage<'_>) -> Result<()> {
    let probe = json!({"tcpSocket": {"port": "grpc"}});
    let server = App::new("peer", &["python3", "/pods/grpc_server.py", "9090", "0.0.0.0"])
        .port("grpc", 9090)
        .ready_when(probe);
    let area = stage.meshed("a")?;
    area.apply(
        &json!({
            "apiVersion": "meshctl.io/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "peer"},
            "spec": {"target": {"workload": "peer"}, "rules": [{
                "name": "three-methods", "from": [{"serviceAccount": "client"}],
                "to": [{"grpc": ["test.Peer/Reverse", "test.Peer/Count", "test.Peer/Chat"]}],
            }]},
        })
        .to_string(),
    )?;
    area.run(&[server, App::client("client")])?;
    let expected = [
        "reverse desserts yes",
        "big True",
        "fail FAILED_PRECONDITION as you asked",
        "count 1000",
        "chat ['echo a', 'echo b', 'echo c']",
        "forbidden PERMISSION_DENIED no_rule_allows",
    ];
    let said = until_ok(&area, &["python3", "/pods/grpc_client.py", "9090", "peer"])?;
    ensure!(said.lines().collect::<Vec<_>>() == expected, "{said}");
    Ok(())
}

fn websocket(stage: &Stage<'_>) -> Result<()> {
    let probe = json!({"tcpSocket": {"port": "http"}});
    let server = App::new("chat", &["python3", "/pods/websocket_server.py", "8080", "0.0.0.0"])
        .port("http", 8080)
        .ready_when(probe);
    let area = pair(stage, server)?;
    let said = until_ok(&area, &["python3", "/pods/websocket_client.py", "8080", "chat"])?;
    ensure!(said == "echoed", "{said}");
    Ok(())
}

fn postgres(stage: &Stage<'_>) -> Result<()> {
    let script = "initdb -A trust -U postgres -N -D /tmp/data --no-locale && \
         echo 'host all all all trust' >> /tmp/data/pg_hba.conf && \
         exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off";
    let probe = json!({"exec": {"command": ["pg_isready", "-h", "127.0.0.1"]}});
    let area = pair(stage, App::new("db", &["sh", "-c", script]).port("tcp-pg", 5432).ready_when(probe))?;
    let psql = ["psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "db", "-U", "postgres", "-c"];
    let said = until_ok(&area, &[&psql[..], &["select 40 + 2"]].concat())?;
    ensure!(said == "42", "{said}");
    let bulk = "create table t as select generate_series(1, 200000) as n; select sum(n) from t";
    let said = until_ok(&area, &[&psql[..], &[bulk]].concat())?;
    ensure!(said.ends_with("20000100000"), "{said}");
    Ok(())
}

fn redis(stage: &Stage<'_>) -> Result<()> {
    let command = ["redis-server", "--port", "6379", "--save", "", "--protected-mode", "no", "--dir", "/tmp"];
    let probe = json!({"tcpSocket": {"port": "tcp-redis"}});
    let area = pair(stage, App::new("cache", &command).port("tcp-redis", 6379).ready_when(probe))?;
    let said = until_ok(&area, &["redis-cli", "-h", "cache", "set", "greeting", "hello"])?;
    ensure!(said == "OK", "{said}");
    let said = until_ok(&area, &["redis-cli", "-h", "cache", "get", "greeting"])?;
    ensure!(said == "hello", "{said}");
    Ok(())
}

fn server_first(stage: &Stage<'_>) -> Result<()> {
    // A name of the port that says nothing: who speaks first must be found out.
    let probe = json!({"tcpSocket": {"port": "line"}});
    let area = pair(
        stage,
        App::new("mail", &["python3", "/pods/greet.py", "2525"]).port("line", 2525).ready_when(probe),
    )?;
    let said = until_ok(&area, &["python3", "/pods/greeted.py", "mail", "2525"])?;
    ensure!(said == "220 ready\nHELLO", "{said}");
    Ok(())
}
