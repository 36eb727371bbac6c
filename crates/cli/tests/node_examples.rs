//! Every program of `examples/node/`: under plain `node` and, unmodified, under phalanx, clients get
//! the same answers, and what the program is about can be seen in both.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::{Guarded, Signal};
use bench::{process, wait};
use common::{Cluster, LONG, accepted, clean, phalanx, signal, spawn, v4};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Who is the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Primary {
    Node,
    Phalanx,
}

/// What is run, with two workers.
fn command(primary: Primary, file: &str) -> Command {
    let mut command = match primary {
        Primary::Node => clean("node", [file]),
        Primary::Phalanx => phalanx(["run", file, "-i", "2"]),
    };
    command.env("WORKERS", "2");
    command
}

/// The directory of the examples.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/node")
}

/// `node_modules` with what the examples need: installed once for each content of package.json.
fn packages() -> &'static Path {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let manifest = std::fs::read_to_string(sources().join("package.json"));
        common::packages::install(&manifest.expect("package.json")).join("node_modules")
    })
}

/// An HTTP response.
#[derive(Debug)]
struct Reply {
    head: String,
    body: String,
}

impl Reply {
    /// The process that answered: every example says `from PID`.
    fn pid(&self) -> u32 {
        let (_, rest) =
            self.body.rsplit_once("from ").unwrap_or_else(|| panic!("no `from PID`: {self:?}"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    }

    /// What must be equal whoever is the primary: numbers (of processes, bytes, views) may differ, and
    /// what is made of them or at random.
    fn normal(&self) -> String {
        let mut lines: Vec<&str> = self.head.lines().collect();
        lines.sort_unstable();
        let mut text = String::new();
        for line in lines {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            let differs = ["date", "etag", "set-cookie"].contains(&name.as_str());
            text.push_str(if differs { &name } else { line });
            text.push('\n');
        }
        text.push_str(&self.body);
        let mut normal = String::new();
        for letter in text.chars() {
            match letter {
                '0'..='9' if normal.ends_with('#') => {}
                '0'..='9' => normal.push('#'),
                other => normal.push(other),
            }
        }
        normal
    }
}

/// Sends a request on a connection of its own.
fn send(address: SocketAddr, path: &str, cookie: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    // HTTP/1.0: the body is what comes until the end, in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\nCookie: {cookie}\r\n\r\n")?;
    Ok(stream)
}

fn receive(mut stream: TcpStream) -> io::Result<Reply> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Err(io::Error::other(format!("not a response: {text:?}")));
    };
    Ok(Reply { head: head.to_owned(), body: body.to_owned() })
}

/// An example that runs, in a directory of its own.
struct Example {
    primary: Primary,
    cluster: Cluster,
    directory: TempDir,
    /// How many requests were answered.
    answered: Cell<usize>,
}

impl Example {
    fn start(primary: Primary, file: &str, env: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(file);
        std::fs::copy(sources().join(file), &program)
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        std::os::unix::fs::symlink(packages(), directory.path().join("node_modules")).unwrap();
        let address = v4();
        let mut command = command(primary, program.to_str().unwrap());
        command.env("PORT", address.port().to_string()).envs(env.iter().copied());
        command.current_dir(directory.path());
        let cluster = Cluster { process: spawn(&mut command), address };
        let example = Self { primary, cluster, directory, answered: Cell::new(0) };
        example.two_answer(&BTreeSet::new());
        example
    }

    fn try_get(&self, path: &str, timeout: Duration) -> io::Result<Reply> {
        let reply = send(self.cluster.address, path, "", timeout).and_then(receive)?;
        self.answered.set(self.answered.get() + 1);
        Ok(reply)
    }

    fn get(&self, path: &str) -> Reply {
        self.try_get(path, LONG)
            .unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.cluster.process.output()))
    }

    /// Asks until two processes have answered, neither of them one of these.
    fn two_answer(&self, gone: &BTreeSet<u32>) -> BTreeSet<u32> {
        let (mut pids, mut lost) = (BTreeSet::new(), 0);
        let what = format!("answers of two workers other than {gone:?}");
        self.cluster.until(&what, || {
            match self.try_get("/", Duration::from_secs(2)) {
                Ok(reply) => pids.extend(Some(reply.pid()).filter(|pid| !gone.contains(pid))),
                // It does not listen yet; later, Node's primary may give a connection to a dead worker, and what a
                // killed worker's child had accepted goes with both.
                Err(error) => {
                    lost += 1;
                    assert!(
                        gone.is_empty() || self.primary == Primary::Node || lost == 1,
                        "{error}; {gone:?} gone, {pids:?} answered\n{}",
                        self.cluster.process.output()
                    );
                }
            }
            (pids.len() >= 2).then(|| pids.clone())
        })
    }

    /// Waits until this worker is gone, and two others serve.
    fn wait_replaced(&self, pid: u32) {
        self.cluster.until("the worker to be gone", || (!process::is_alive(pid)).then_some(()));
        self.two_answer(&BTreeSet::from([pid]));
    }

    fn line(&self, part: &str) -> String {
        self.cluster.line(0, part)
    }

    /// What it says of a worker that exited with 1.
    fn said_exit_1(&self) {
        self.line(if self.primary == Primary::Node { "(1), forking" } else { "code 1" });
    }

    /// SIGTERM. Phalanx drains and exits with 0, Node's primary dies of it; nothing may be left.
    fn stop(self) {
        if self.primary == Primary::Phalanx {
            return self.cluster.stop();
        }
        let Cluster { process, .. } = &self.cluster;
        process.signal(Signal::TERM).expect("the primary runs");
        let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(status.signal(), Some(15), "{status}\n{}", process.output());
        self.cluster.until("the workers to leave", || process.record().is_empty().then_some(()));
        self.cluster.assert_nothing_left();
    }
}

/// Runs an example both ways; what clients were answered must be the same.
fn both(file: &str, env: &[(&str, &str)], scenario: impl Fn(&Example) -> Vec<Reply>) {
    let [node, phalanx] = [Primary::Node, Primary::Phalanx].map(|primary| {
        let example = Example::start(primary, file, env);
        let replies = scenario(&example);
        example.stop();
        replies.iter().map(Reply::normal).collect::<Vec<_>>()
    });
    assert!(!node.is_empty(), "{file}: nothing to compare");
    assert_eq!(node, phalanx, "{file}: the answers under node and under phalanx");
}

#[test]
fn hello() {
    both("hello.js", &[], |example| vec![example.get("/"), example.get("/any/thing?else=1")]);
}

#[test]
fn messages_are_answered_or_done_without() {
    both("messages.js", &[("ASK_MS", "100")], |example| {
        let reply = example.get("/");
        if example.primary == Primary::Node {
            example.line("asks for the greeting");
            for pid in example.two_answer(&BTreeSet::new()) {
                example.line(&format!("worker {pid} has served"));
            }
        }
        vec![reply]
    });
}

#[test]
fn load_average() {
    both("load-average.js", &[("LOOK_MS", "100")], |example| {
        let most = std::thread::available_parallelism().unwrap().get().max(2);
        if example.primary == Primary::Node {
            example.line("workers wanted");
        }
        let count = example.cluster.workers().len();
        assert!((2..=most).contains(&count), "{count} workers");
        vec![example.get("/")]
    });
}

#[test]
fn who_exits_is_replaced() {
    both("restart.js", &[], |example| {
        let last_words = example.get("/crash");
        example.wait_replaced(last_words.pid());
        example.said_exit_1();
        let reply = example.get("/");
        signal(reply.pid(), Signal::KILL);
        example.wait_replaced(reply.pid());
        vec![last_words, reply]
    });
}

/// Asks for so many things; the log must then have one line of each, and lines of every worker.
/// `parse` tells pid and text of a line, and fails on one that is not whole.
fn one_log(example: &Example, name: &str, parse: impl Fn(&str) -> Option<(u64, String)>) -> Reply {
    let mut replies = BTreeMap::new();
    let mut workers = BTreeSet::new();
    while workers.len() < 2 || replies.len() < 50 {
        let path = format!("/item/{}", replies.len());
        let reply = example.get(&path);
        workers.insert(u64::from(reply.pid()));
        replies.insert(path, reply);
        assert!(replies.len() < 1000, "only one worker answers");
    }
    let file = example.directory.path().join(name);
    let mut log = String::new();
    let complete = wait::until(LONG, "each request in the log", || {
        log = std::fs::read_to_string(&file).unwrap_or_default();
        let mut missing: BTreeSet<&str> = replies.keys().map(String::as_str).collect();
        let mut seen = BTreeSet::new();
        // The last line may be in the making.
        for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let (pid, text) =
                parse(line).unwrap_or_else(|| panic!("not a line of the log: {line:?}\n{log}"));
            if let Some(at) = text.find("/item/") {
                assert!(missing.remove(&text[at..]), "twice: {line}\n{log}");
                seen.insert(pid);
            }
        }
        (missing.is_empty() && seen == workers).then_some(())
    });
    complete.unwrap_or_else(|error| panic!("{error}: workers {workers:?}\n{log}"));
    replies.remove("/item/0").unwrap()
}

#[test]
fn winston_into_one_log() {
    both("winston.js", &[("LOG_FILE", "all.log")], |example| {
        vec![one_log(example, "all.log", |line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let text = line.get("url").or(line.get("message"))?.as_str()?;
            Some((line.get("pid")?.as_u64()?, text.to_owned()))
        })]
    });
}

#[test]
fn log4js_into_one_log() {
    both("log4js.js", &[("LOG_FILE", "all.log")], |example| {
        vec![one_log(example, "all.log", |line| {
            let (head, text) = line.trim_end().split_once(" pid=")?;
            let (pid, text) = text.split_once(' ')?;
            let (_, level) = head.split_once(' ')?;
            ["INFO", "WARN"].contains(&level).then_some(())?;
            Some((pid.parse().ok()?, text.to_owned()))
        })]
    });
}

#[test]
fn what_nobody_caught_is_logged_and_ends_the_worker() {
    both("uncaught.js", &[], |example| {
        for (path, logged) in [
            ("/throw", ": uncaughtException: Error: thrown in a handler"),
            ("/reject", ": unhandledRejection: Error: rejected in a handler"),
        ] {
            let failed = example.try_get(path, LONG);
            assert!(failed.is_err(), "{path} was answered: {failed:?}");
            let line = example.line(logged);
            let pid = line.strip_prefix("worker ").and_then(|rest| rest.split(':').next());
            example.wait_replaced(pid.and_then(|pid| pid.parse().ok()).expect("a pid"));
            example.said_exit_1();
        }
        vec![example.get("/")]
    });
}

/// Asks for this, and waits until a worker has taken it up; returns who, and the connection.
fn occupy(example: &Example, path: &str) -> (u32, TcpStream) {
    let stream = send(example.cluster.address, path, "", LONG).expect("the cluster listens");
    let local = stream.local_addr().unwrap();
    let pid = example.cluster.until("a worker to be busy", || {
        let mut workers = example.cluster.workers().into_iter();
        workers.find(|pid| accepted(*pid).contains(&local) && process::state(*pid) == Some('R'))
    });
    (pid, stream)
}

#[test]
fn who_misses_three_heartbeats_holds_up_nobody() {
    both("heartbeat.js", &[("BEAT_MS", "500")], |example| {
        let reply = example.get("/");
        let (hangs, stream) = occupy(example, "/hang");
        if example.primary == Primary::Node {
            example.line(&format!("worker {hangs} missed 3 heartbeats"));
        } else {
            for _ in 0..20 {
                assert_ne!(example.get("/").pid(), hangs);
            }
            // It would be given half a minute to finish.
            if process::is_alive(hangs) {
                signal(hangs, Signal::KILL);
            }
        }
        example.wait_replaced(hangs);
        receive(stream).expect_err("nobody answers for the one that hung");
        vec![reply]
    });
}

#[test]
fn who_holds_too_much_memory_is_replaced() {
    both("memory-limit.js", &[("LIMIT_MB", "250"), ("LOOK_MS", "50")], |example| {
        let replies = vec![example.get("/"), example.get("/leak")];
        let part = "more than 250 MB: it exits";
        let line = example.cluster.until("a worker over the limit", || {
            // Its last requests may be lost with it.
            let _ = example.try_get("/leak", Duration::from_secs(2));
            example
                .cluster
                .process
                .stderr()
                .lines()
                .find(|line| line.contains(part))
                .map(str::to_owned)
        });
        let pid = line.split(' ').nth(1).and_then(|pid| pid.parse().ok());
        example.wait_replaced(pid.unwrap_or_else(|| panic!("no pid: {line}")));
        example.said_exit_1();
        replies
    });
}

#[test]
fn a_rolling_restart_replaces_every_worker() {
    both("rolling-restart.js", &[], |example| {
        let before: BTreeSet<u32> = example.cluster.workers().into_iter().collect();
        let (address, over) = (example.cluster.address, AtomicBool::new(false));
        let reply = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut last = None;
                while !over.load(Ordering::Relaxed) {
                    last = Some(send(address, "/", "", LONG).and_then(receive)?);
                }
                last.ok_or_else(|| io::Error::other("nothing was asked"))
            });
            example.cluster.process.signal(Signal::USR2).unwrap();
            let node = example.primary == Primary::Node;
            let done = if node { "all workers are new" } else { "reload 1 is done" };
            let line = example.cluster.process.wait_for_line(|line| line.contains(done), LONG);
            over.store(true, Ordering::Relaxed);
            line.unwrap_or_else(|error| panic!("{error}"));
            client.join().unwrap()
        });
        example.cluster.until("the old workers to leave", || {
            example.cluster.workers().iter().all(|pid| !before.contains(pid)).then_some(())
        });
        example.two_answer(&before);
        if example.primary == Primary::Phalanx {
            reply.expect("no request fails");
        }
        vec![example.get("/")]
    });
}

#[test]
fn requests_are_counted() {
    both("counter.js", &[("PRINT_MS", "50")], |example| {
        let replies = vec![example.get("/"), example.get("/other")];
        if example.primary == Primary::Node {
            example.line(&format!("total: {} requests", example.answered.get()));
        }
        replies
    });
}

#[test]
fn health_is_asked_for() {
    both("health.js", &[("CHECK_MS", "1000")], |example| {
        if example.primary == Primary::Node {
            for pid in example.two_answer(&BTreeSet::new()) {
                example.line(&format!("worker {pid} is well"));
            }
        }
        vec![example.get("/"), example.get("/health")]
    });
}

#[test]
fn a_busy_worker_does_not_hold_up_the_others() {
    both("block.js", &[("BLOCK_MS", "4000")], |example| {
        let (busy, stream) = occupy(example, "/block");
        let mut others: Vec<Reply> = Vec::new();
        let mut held_up = 0;
        for _ in 0..8 {
            match example.try_get("/", Duration::from_millis(1500)) {
                Ok(reply) => others.push(reply),
                Err(_) => held_up += 1,
            }
        }
        assert!(others.iter().all(|reply| reply.pid() != busy), "{busy}: {others:?}");
        // Node gives the busy worker one connection or more; under phalanx others take them over.
        if example.primary != Primary::Node {
            assert_eq!(held_up, 0, "{}", example.cluster.process.output());
        }
        let was_busy = receive(stream).expect("an answer in the end");
        assert_eq!(was_busy.pid(), busy);
        vec![was_busy, others.remove(0)]
    });
}

/// A Redis of the test's own, with nothing on disk.
fn redis() -> (Guarded, SocketAddr) {
    let (address, directory) = (v4(), std::env::temp_dir());
    let mut command = clean("redis-server", ["--save", "", "--appendonly", "no"]);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.arg("--dir").arg(directory);
    let server = Guarded::spawn(&mut command)
        .unwrap_or_else(|error| panic!("redis-server (Debian's package of that name): {error}"));
    let ready = server.wait_for_line(|line| line.contains("Ready to accept connections"), LONG);
    ready.unwrap_or_else(|error| panic!("{error}"));
    (server, address)
}

#[test]
fn a_session_is_known_to_every_worker() {
    let (redis, store) = redis();
    let url = format!("redis://{store}");
    both("session.mjs", &[("REDIS_URL", &url)], |example| {
        let first = example.get("/");
        let cookie = first.header("Set-Cookie").and_then(|value| value.split(';').next());
        let cookie = cookie.unwrap_or_else(|| panic!("no cookie: {first:?}")).to_owned();
        let mut workers = BTreeSet::from([first.pid()]);
        let mut view = 1;
        while workers.len() < 2 || view < 10 {
            view += 1;
            let reply =
                send(example.cluster.address, "/", &cookie, LONG).and_then(receive).unwrap();
            assert!(reply.body.starts_with(&format!("view {view} from ")), "{view}: {reply:?}");
            workers.insert(reply.pid());
            assert!(view < 1000, "only one worker answers");
        }
        // It also outlives the worker that began it.
        signal(first.pid(), Signal::KILL);
        example.wait_replaced(first.pid());
        let reply = send(example.cluster.address, "/", &cookie, LONG).and_then(receive).unwrap();
        assert!(reply.body.starts_with(&format!("view {} from ", view + 1)), "{reply:?}");
        vec![first, reply]
    });
    drop(redis);
}

#[test]
fn a_listening_handle_is_handed_to_children() {
    both("send-handle.js", &[], |example| {
        let parents = match example.primary {
            Primary::Node => BTreeSet::from([example.cluster.pid()]),
            Primary::Phalanx => example.cluster.workers().into_iter().collect(),
        };
        let mut missing = parents.clone();
        let mut children = BTreeSet::new();
        // With each parent at least one child: they all accept from the same socket.
        example.cluster.until("a child of each parent to answer", || {
            let pid = example.get("/").pid();
            let parent = process::stat(pid).expect("it runs").parent;
            if parents.contains(&parent) && !parents.contains(&pid) {
                missing.remove(&parent);
                children.insert(pid);
            }
            missing.is_empty().then_some(())
        });
        if example.primary == Primary::Phalanx {
            let killed = *parents.first().unwrap();
            let orphans: Vec<u32> = process::children(killed);
            signal(killed, Signal::KILL);
            example.wait_replaced(killed);
            example.cluster.until("its children to leave", || {
                orphans.iter().all(|pid| !process::is_alive(*pid)).then_some(())
            });
        }
        vec![example.get("/")]
    });
}

#[test]
fn every_file_has_a_test() {
    let this = include_str!("node_examples.rs");
    let mut programs = 0;
    for entry in std::fs::read_dir(sources()).expect("the examples") {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".js") || name.ends_with(".mjs") {
            programs += 1;
            assert!(this.contains(&format!("\"{name}\"")), "{name} has no test here");
        }
    }
    assert!(programs > 0, "no examples");
}
