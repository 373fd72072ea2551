//! The dashboard, as a person sees it in a real browser, and as those see it who should see nothing.

use integration_tests::applications::{caller, curl, http_server, status};
use integration_tests::process::Process;
use integration_tests::world::World;
use integration_tests::{programs, wait};
use serde_json::Value;
use std::process::Command;

/// Calls that pass, and calls that are refused.
const ALLOWED: usize = 8;
const REFUSED: usize = 40;

/// What would be run if the page took it for markup.
const HOSTILE: &str = "<img src=x onerror=window.hurt=1>";

/// `b` accepts everything of `a` but one path.
const POLICY: &str = "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: b, namespace: default}\n\
    spec:\n  target: {workload: b}\n  rules:\n  - name: a\n    from: [{serviceAccount: a}]\n\
    \x20 - name: keep out\n    action: deny\n    from: [{serviceAccount: a}]\n    to: [{paths: [\"/secret/*\"]}]\n";

/// Starts `meshctl dashboard`; gives the address that works once.
fn dashboard(world: &World) -> (Process, String) {
    let mut command = Command::new(programs::built("meshctl"));
    command.arg("--state-dir").arg(world.state()).args(["dashboard", "--no-open", "-o", "json"]);
    let process = Process::start("dashboard", world.folder(), &mut command);
    let url = wait::until("the dashboard's address", || {
        let told: Value = serde_json::from_str(&process.output()).ok()?;
        Some(told["url"].as_str()?.to_owned())
    });
    (process, url)
}

#[test]
fn a_browser_shows_the_mesh() {
    let mut world = World::start();
    let folder = world.folder().to_path_buf();
    http_server(&mut world, "b", &folder, &[]);
    let to = caller(&mut world, "a", "b");
    world.apply(POLICY);
    for _ in 0..ALLOWED {
        assert!(status(to).starts_with("200"));
    }
    for _ in 0..REFUSED {
        let url = format!("http://127.0.0.1:{to}/secret/%3Cimg%20src=x%20onerror=window.hurt=1%3E");
        assert_eq!(curl("%{http_code}", &[&url]), "403");
    }
    let alarm = wait::until("the alarm to burn", || {
        let alerts = world.json(&["alerts"]);
        alerts["alerts"].as_array()?.iter().find(|alarm| alarm["detector"] == "denialBurst").cloned()
    });
    world.told(&["alerts", "ack", alarm["id"].as_str().unwrap(), "--comment", HOSTILE]);
    let (_dashboard, url) = dashboard(&world);
    let seen = world.folder().join("seen");
    std::fs::create_dir(&seen).unwrap();
    let mut command = Command::new(programs::python());
    command.arg(format!("{}/tests/it/peers/browser.py", env!("CARGO_MANIFEST_DIR"))).arg(&url).arg(&seen);
    command.args([(ALLOWED + REFUSED).to_string(), REFUSED.to_string()]);
    programs::system("chromium");
    let mut browser = Process::start("browser", world.folder(), &mut command);
    reach(&mut browser, "STEP kill");
    world.kill_control();
    std::fs::write(seen.join("kill"), "").unwrap();
    reach(&mut browser, "STEP back");
    world.start_control();
    std::fs::write(seen.join("back"), "").unwrap();
    reach(&mut browser, "the address works once");
    let ended = wait::until("the browser to end", || browser.ended());
    assert!(ended.success(), "{}", browser.output());
}

/// Waits until the browser has come to a line; it has a deadline of its own for each step on the way.
fn reach(browser: &mut Process, line: &str) {
    loop {
        let before = browser.output();
        if before.contains(line) {
            return;
        }
        wait::until(&format!("the browser to reach {line}"), || {
            if let Some(status) = browser.ended() {
                assert!(browser.output().contains(line), "{status}:\n{}", browser.output());
            }
            (browser.output() != before).then_some(())
        });
    }
}

#[test]
fn the_door_lets_nobody_else_in() {
    let world = World::start();
    let (_dashboard, url) = dashboard(&world);
    let (base, _) = url.split_once("open/").unwrap();
    let jar = world.folder().join("cookies").to_string_lossy().into_owned();
    let code = |args: &[&str]| curl("%{http_code}", &[&["--path-as-is", "-b", &*jar][..], args].concat());
    assert_eq!(code(&[base]), "403", "without a cookie");
    assert_eq!(code(&["-c", &jar, &url]), "200");
    assert_eq!(code(&["-c", &jar, &url]), "403", "the secret is used up");
    let api = format!("{base}api/overview");
    assert_eq!((code(&[base]), code(&[&api])), ("200".to_owned(), "200".to_owned()));

    let rebound = ["-H", "Host: rebound.example"];
    assert_eq!(code(&[&rebound[..], &[&api]].concat()), "403", "a name that means 127.0.0.1");
    assert_eq!(code(&["-H", "Origin: http://127.0.0.1:1", &api]), "403", "another origin");
    assert_eq!(code(&["-H", "Sec-Fetch-Site: same-site", &api]), "403", "another port of this host");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        assert_eq!(code(&["-X", method, &api]), "405", "{method}");
    }
    for path in [
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2fetc/passwd",
        "api/nothing",
        "files/app.js",
    ] {
        assert_eq!(code(&[&format!("{base}{path}")]), "404", "{path}");
    }
    let huge = |bytes: usize| format!("{api}?q={}", "a".repeat(bytes));
    assert_eq!((code(&[&huge(3_000)]), code(&[&huge(60_000)])), ("414".to_owned(), "431".to_owned()));
    for query in ["window=1e9", "limit=99999", "q=%ff", "unknown=1"] {
        assert_eq!(code(&[&format!("{base}api/graph?{query}")]), "400", "{query}");
    }

    let headers = ["content-security-policy", "x-content-type-options", "referrer-policy", "cache-control"];
    let format = headers.map(|name| format!("%header{{{name}}}")).join("|");
    let told = curl(&format, &["-b", &jar, base]);
    let expected = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'|nosniff|no-referrer|no-store";
    assert_eq!(told, expected);
    let audit = world.told(&["audit"]);
    assert!(!audit.contains("dashboard"), "looking changes nothing: {audit}");
}
