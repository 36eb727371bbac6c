//! How programs that know nothing of phalanx leave: reloads to code that does not serve, requests that take long, stops.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::Signal;
use common::{Cluster, LONG, assert_lossless, get, one_per_request, phalanx, spawn, v4};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// The demo's answers, on threads; `/slow` takes two seconds. It dies of SIGTERM at once.
const SERVER: &str = r#"
import http.server, json, os, sys, time

BODY = json.dumps({"pid": os.getpid(), "slot": int(os.environ["NODE_APP_INSTANCE"])}).encode()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            os.write(1, b"slow\n")
            time.sleep(2)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.daemon_threads = True
server.serve_forever()
"#;

struct App {
    cluster: Cluster,
    script: PathBuf,
    _directory: TempDir,
}

fn start(options: &[&str]) -> App {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("server.py");
    fs::write(&script, SERVER).unwrap();
    let (address, program) = (v4(), script.to_str().unwrap().to_owned());
    let port = address.port().to_string();
    let mut args = vec!["run", "-i", "2"];
    args.extend(options);
    args.extend(["--", "/usr/bin/python3", &program, &port]);
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    cluster.wait_serving(2);
    App { cluster, script, _directory: directory }
}

impl App {
    /// Loads code that does not serve where the old one does: nobody notices.
    fn bad_reload(self, code: &str, words: &[&str]) {
        let before = self.cluster.wait_serving(2);
        let load = one_per_request(&self.cluster);
        fs::write(&self.script, code).unwrap();
        let mark = self.cluster.process.mark();
        self.cluster.process.signal(Signal::USR2).unwrap();
        for word in words {
            self.cluster.line(mark, word);
        }
        assert_lossless("a connection per request", &load.stop(), &self.cluster.process);
        let after: BTreeMap<u32, u32> = self.cluster.wait_serving(2);
        assert_eq!(after, before, "{}", self.cluster.process.output());
        fs::write(&self.script, SERVER).unwrap();
        self.cluster.reload(2);
        self.cluster.wait_answers("successors", |slots| {
            slots.len() == 2 && slots.values().all(|pid| before.values().all(|old| old != pid))
        });
        self.cluster.stop();
    }

    /// Requests that a worker is at work on, each the first of its connection and sent at once.
    fn slow_requests(&self, count: usize) -> Vec<thread::JoinHandle<io::Result<usize>>> {
        let mark = self.cluster.process.mark();
        let address = self.cluster.address;
        let clients = (0..count).map(|_| thread::spawn(move || slow(address))).collect();
        let mut begun = 0;
        let all = |line: &str| {
            begun += usize::from(line == "slow");
            begun == count
        };
        let found = self.cluster.process.wait_for_line_since(mark, all, LONG);
        found.unwrap_or_else(|error| panic!("{error}"));
        clients
    }
}

/// How many bytes of an answer came.
fn slow(address: SocketAddr) -> io::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)
}

fn all_answered(clients: Vec<thread::JoinHandle<io::Result<usize>>>, cluster: &Cluster) {
    let answers: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let good = answers.iter().all(|answer| matches!(answer, Ok(1..)));
    assert!(good, "{answers:?}\n{}", cluster.process.output());
}

#[test]
fn code_that_listens_and_never_serves() {
    let code = SERVER.replace("server.serve_forever()", "time.sleep(1000)");
    let words = ["reload 1 begins", "was not ready within", "reload 1 stopped"];
    start(&["--start-timeout", "4s"]).bad_reload(&code, &words);
}

#[test]
fn code_that_ends_soon_after_it_listens() {
    let code = SERVER.replace("server.serve_forever()", "time.sleep(0.4); sys.exit(3)");
    start(&[]).bad_reload(&code, &["reload 1 begins", "reload 1 stopped", "code 3"]);
}

#[test]
fn code_that_listens_elsewhere() {
    let other = v4().port();
    let code = SERVER.replace("int(sys.argv[1])", &other.to_string());
    let words = ["a program that changes its port", "reload 1 stopped"];
    start(&["--start-timeout", "3s"]).bad_reload(&code, &words);
}

#[test]
fn requests_in_work_are_waited_for_in_a_reload() {
    let app = start(&["--drain-idle", "200ms"]);
    let clients = app.slow_requests(8);
    app.cluster.reload(1);
    all_answered(clients, &app.cluster);
    app.cluster.stop();
}

#[test]
fn requests_in_work_are_waited_for_in_a_stop() {
    let app = start(&["--drain-idle", "200ms"]);
    let clients = app.slow_requests(8);
    app.cluster.process.signal(Signal::TERM).unwrap();
    all_answered(clients, &app.cluster);
    assert_eq!(app.cluster.wait_gone(LONG), 0);
}

/// Sockets that nobody has any more, and those of workers that leave already, are deaf as well.
#[test]
fn nobody_is_let_in_and_cut_while_the_cluster_stops() {
    let app = start(&[]);
    app.cluster.reload(1);
    let clients = app.slow_requests(2);
    let mark = app.cluster.process.mark();
    app.cluster.process.signal(Signal::TERM).unwrap();
    app.cluster.line(mark, "draining");
    // One that was being let in at this very moment is answered.
    let _ = get(app.cluster.address, "/", Duration::from_millis(300));
    for _ in 0..12 {
        let timeout = Duration::from_millis(50);
        let refused = TcpStream::connect_timeout(&app.cluster.address, timeout);
        let error = refused.expect_err("the cluster stops");
        assert!(
            [io::ErrorKind::TimedOut, io::ErrorKind::ConnectionRefused].contains(&error.kind()),
            "{error}"
        );
    }
    all_answered(clients, &app.cluster);
    assert_eq!(app.cluster.wait_gone(LONG), 0);
}
