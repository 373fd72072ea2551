//! Unmodified HTTP programs: curl, Python's http.server, nghttpd, h2load, wrk.

use integration_tests::applications::{caller, http_server};
use integration_tests::programs;
use integration_tests::wait;
use integration_tests::world::{World, allow, free_port, loopback};
use std::process::Command;

/// A mesh with Python's http.server as `files` and a sidecar `caller` that reaches it at the given port.
fn world_with_files() -> (World, u16) {
    let mut world = World::start();
    let folder = world.folder().join("files");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("hello.txt"), "hello from an unmodified server\n").unwrap();
    std::fs::write(folder.join("big.bin"), vec![b'x'; 3_000_000]).unwrap();
    world.apply(&allow("caller", "files"));
    http_server(&mut world, "files", &folder, &[]);
    let to = caller(&mut world, "caller", "files");
    (world, to)
}

fn curl(args: &[&str]) -> (String, String) {
    let output = Command::new(programs::system("curl"))
        .args(["-sS", "--max-time", "20", "-w", "\n%{http_code} %{http_version}"])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
    (body.to_owned(), format!("{code}{error}"))
}

#[test]
fn curl_reads_from_http_server_over_http1() {
    let (_world, to) = world_with_files();
    let (body, code) = curl(&[&format!("http://127.0.0.1:{to}/hello.txt")]);
    assert_eq!((body.as_str(), code.as_str()), ("hello from an unmodified server\n", "200 1.1"));
    let (body, code) = curl(&["--http2", &format!("http://127.0.0.1:{to}/hello.txt")]);
    assert_eq!(
        (body.as_str(), code.as_str()),
        ("hello from an unmodified server\n", "200 1.1"),
        "an offered upgrade"
    );
    let (body, code) = curl(&[&format!("http://127.0.0.1:{to}/big.bin")]);
    assert_eq!((body.len(), code.as_str()), (3_000_000, "200 1.1"));
    let (_, code) = curl(&["--head", &format!("http://127.0.0.1:{to}/hello.txt")]);
    assert_eq!(code, "200 1.1");
    let (_, code) = curl(&[&format!("http://127.0.0.1:{to}/missing")]);
    assert_eq!(code, "404 1.1");
}

#[test]
fn curl_and_h2load_speak_http2_with_nghttpd() {
    let mut world = World::start();
    let (app, to) = (free_port(), free_port());
    let folder = world.folder().join("root");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("index.html"), "over http/2\n").unwrap();
    world.apply(&allow("caller", "pages"));
    let nghttpd = programs::system("nghttpd");
    let port = app.to_string();
    let command =
        [&*nghttpd.to_string_lossy(), "--no-tls", "-a", "127.0.0.1", "-d", &folder.to_string_lossy(), &port];
    world.run("pages", &["--port", &port], &command);
    wait::for_listener("nghttpd", loopback(app));
    world.run("caller", &["--to", &format!("pages=127.0.0.1:{to}")], &[]);
    let (body, code) = curl(&["--http2-prior-knowledge", &format!("http://127.0.0.1:{to}/index.html")]);
    assert_eq!((body.as_str(), code.as_str()), ("over http/2\n", "200 2"));
    let load = Command::new(programs::system("h2load"))
        .args(["-n", "4000", "-c", "8", "-m", "8", &format!("http://127.0.0.1:{to}/index.html")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&load.stdout);
    assert!(said.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
}

#[test]
fn wrk_loads_http1_without_one_failure() {
    let (_world, to) = world_with_files();
    // http.server queues five connections; on a busy machine the next ones are asked for again after some seconds.
    let load = Command::new(programs::system("wrk"))
        .args([
            "-t",
            "1",
            "-c",
            "16",
            "-d",
            "3s",
            "--timeout",
            "10s",
            &format!("http://127.0.0.1:{to}/hello.txt"),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&load.stdout);
    assert!(said.contains("Requests/sec"), "{said}");
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
}

#[test]
fn post_bodies_and_expect_continue_arrive_whole() {
    let mut world = World::start();
    let (app, to) = (free_port(), free_port());
    let echo = "import http.server,sys\n\
        class H(http.server.BaseHTTPRequestHandler):\n  protocol_version='HTTP/1.1'\n  def do_POST(self):\n    \
        n=int(self.headers.get('content-length',0)); b=self.rfile.read(n) if n else b''\n    \
        while self.headers.get('transfer-encoding')=='chunked':\n      l=int(self.rfile.readline().split(b';')[0],16); \
        b+=self.rfile.read(l); self.rfile.readline()\n      if l==0: break\n    \
        self.send_response(200); self.send_header('content-length',str(len(b))); self.end_headers(); self.wfile.write(b)\n\
        http.server.ThreadingHTTPServer(('127.0.0.1',int(sys.argv[1])),H).serve_forever()\n";
    let script = world.folder().join("echo.py");
    std::fs::write(&script, echo).unwrap();
    let body = world.folder().join("body");
    std::fs::write(&body, vec![b'z'; 1_500_000]).unwrap();
    world.apply(&allow("caller", "echo"));
    let python = programs::python();
    let port = app.to_string();
    world.run("echo", &["--port", &port], &[&python.to_string_lossy(), &script.to_string_lossy(), &port]);
    wait::for_listener("the echo server", loopback(app));
    world.run("caller", &["--to", &format!("echo=127.0.0.1:{to}")], &[]);
    let data = format!("@{}", body.display());
    let url = format!("http://127.0.0.1:{to}/echo");
    let (answer, code) = curl(&["-H", "Expect: 100-continue", "--data-binary", &data, &url]);
    assert_eq!((answer.len(), code.as_str()), (1_500_000, "200 1.1"));
    let (answer, code) = curl(&["-H", "Transfer-Encoding: chunked", "--data-binary", &data, &url]);
    assert_eq!((answer.len(), code.as_str()), (1_500_000, "200 1.1"));
}
