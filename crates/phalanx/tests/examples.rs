//! Every example of `examples/`, run as what it is: a program, with real processes and real HTTP.
#![cfg(target_os = "linux")]

use bench::load::Load;
use bench::process;
use bench::spawned::{Guarded, Signal};
use bench::wait::{free_port, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Far more than anything here takes, also beside a busy neighbour.
const LONG: Duration = Duration::from_secs(30);

/// The directory of the built examples.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of this test");
        // target/PROFILE/deps/THIS
        let profile = test.ancestors().nth(2).expect("a profile's directory");
        let target = profile.parent().expect("a target directory");
        let mut cargo = Command::new(env!("CARGO"));
        // The whole workspace, so that nothing is built again with other features.
        cargo.args(["build", "--quiet", "--examples", "--workspace", "--target-dir"]).arg(target);
        cargo.args(["--profile", if cfg!(debug_assertions) { "test" } else { "release" }]);
        let done = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(done.success(), "the examples do not build");
        profile.join("examples")
    })
}

/// An example that runs.
struct Example {
    process: Guarded,
    target: SocketAddr,
}

impl Example {
    fn start(name: &str, env: &[(&str, &str)]) -> Self {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = Command::new(built().join(name));
        for unwanted in ["PORT", "PHALANX_POLICY", "NODE_CLUSTER_SCHED_POLICY", "RUST_LOG"] {
            command.env_remove(unwanted);
        }
        command.env("NO_COLOR", "1").env("WORKERS", "2").env("PHALANX_LISTEN", target.to_string());
        command.envs(env.iter().copied());
        Self { process: Guarded::spawn(&mut command).expect(name), target }
    }

    /// As [`Example::start`]; returns when so many different workers have answered.
    fn serving(name: &str, env: &[(&str, &str)], workers: usize) -> (Self, BTreeSet<u64>) {
        let example = Self::start(name, env);
        let pids = example.workers_are(workers, |_| true);
        (example, pids)
    }

    fn get(&self, path: &str) -> Result<String, String> {
        get(self.target, path)
    }

    /// Requests in a thread: for what takes long, or never comes.
    fn get_beside(&self, path: &'static str) -> JoinHandle<Result<String, String>> {
        let target = self.target;
        thread::spawn(move || get(target, path))
    }

    fn pid(&self) -> Result<u64, String> {
        let body = self.get("/")?;
        json(&body)["pid"].as_u64().ok_or(body)
    }

    /// Waits until the primary has exactly so many children, each of them answers, and they are as
    /// they should be.
    fn workers_are(&self, count: usize, good: impl Fn(&BTreeSet<u64>) -> bool) -> BTreeSet<u64> {
        let mut answered = BTreeSet::new();
        let what = format!("{count} workers that answer");
        let found = until(LONG, &what, || {
            answered.extend(self.pid());
            let children = self.children();
            (children.len() == count && children.is_subset(&answered) && good(&children))
                .then_some(children)
        });
        found.unwrap_or_else(|error| panic!("{error}; its output:\n{}", self.process.output()))
    }

    fn children(&self) -> BTreeSet<u64> {
        process::children(self.process.pid()).into_iter().map(u64::from).collect()
    }

    /// Waits for a line with all these words.
    fn line(&self, words: &[&str]) -> String {
        self.line_since(0, words)
    }

    fn line_since(&self, mark: u64, words: &[&str]) -> String {
        let all = |line: &str| words.iter().all(|word| line.contains(word));
        let found = self.process.wait_for_line_since(mark, all, LONG);
        found.unwrap_or_else(|error| panic!("no line with {words:?}: {error}"))
    }

    /// SIGTERM: it exits with code 0, and nothing of it is left.
    fn stops(self) -> Guarded {
        let family = self.process.record();
        self.process.signal(Signal::TERM).expect("it runs");
        self.ends(&family)
    }

    fn ends(self, family: &[u32]) -> Guarded {
        let status = self.process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(status.code(), Some(0), "its output:\n{}", self.process.output());
        let left: Vec<_> = family.iter().filter(|pid| process::is_alive(**pid)).collect();
        assert!(left.is_empty(), "{left:?} outlive the primary");
        self.process
    }
}

/// One request on a connection of its own: the body of a complete answer with status 200.
fn get(target: SocketAddr, path: &str) -> Result<String, String> {
    let answer = exchange(target, path).map_err(|error| format!("{path}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(format!("{path}: {answer:?}"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{path}: {head}"));
    }
    let length = head.to_ascii_lowercase();
    let length =
        length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    if length == Some(body.len()) {
        Ok(body.to_owned())
    } else {
        Err(format!("{path}: {answer:?}"))
    }
}

fn exchange(target: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, LONG)?;
    stream.set_read_timeout(Some(LONG))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// The number behind a word of a line.
fn number_after(line: &str, word: &str) -> u64 {
    let rest = line.split_once(word).map(|(_, rest)| rest).unwrap_or_default();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after {word:?} in {line:?}"))
}

#[test]
fn hello_is_answered_by_every_worker() {
    let (hello, pids) = Example::serving("hello", &[("WORKERS", "3")], 3);
    assert!(!pids.contains(&u64::from(hello.process.pid())), "the primary serves nothing");
    let body = hello.get("/").expect("an answer");
    assert_eq!(json(&body)["message"], "hello");
    hello.stops();
}

#[test]
fn hello_says_what_is_wrong_with_its_address() {
    let (first, _) = Example::serving("hello", &[], 2);
    let taken = first.target.to_string();
    let second = Example::start("hello", &[("PHALANX_LISTEN", &taken)]);
    let status = second.process.wait_exit(LONG).expect("it ends");
    assert_eq!(status.code(), Some(1));
    second.line(&["cannot listen on", &taken, "in use"]);
    second.line(&["hint: "]);
    first.stops();
}

#[test]
fn messages_go_both_ways() {
    let messages = Example::start("messages", &[]);
    let family = messages.process.record();
    for worker in 1..=3 {
        messages.line(&[&format!("worker {worker} (pid "), "says hello"]);
        let (of, is) = (worker * 11, worker * worker * 121);
        messages.line(&[&format!("worker {worker} answers: {of}² = {is}")]);
        messages.line(&[&format!("worker {worker} is gone: code 0")]);
    }
    messages.ends(&family);
}

#[test]
fn counter_counts_the_requests_of_all_workers() {
    let (counter, pids) = Example::serving("counter", &[], 3);
    let total = |body: String| json(&body)["total"].as_u64().expect("a total");
    let before = total(counter.get("/").expect("an answer"));
    let clients: Vec<JoinHandle<Vec<u64>>> = (0..4)
        .map(|_| {
            let target = counter.target;
            let ask = move || total(get(target, "/").expect("an answer"));
            thread::spawn(move || (0..25).map(|_| ask()).collect())
        })
        .collect();
    let mut totals: Vec<u64> =
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    totals.sort_unstable();
    assert_eq!(totals, (before + 1..=before + 100).collect::<Vec<_>>());

    // The count outlives a worker.
    let victim = *pids.first().expect("a worker");
    kill(victim, Signal::KILL);
    counter.workers_are(3, |now| !now.contains(&victim));
    assert!(total(counter.get("/").expect("an answer")) > before + 100);
    counter.stops();
}

#[test]
fn restart_on_crash_forks_another() {
    let (example, before) = Example::serving("restart_on_crash", &[], 3);
    example.get("/crash").expect_err("nobody to answer");
    let died = example.line(&["died: code 7"]);
    let dead = number_after(&died, "(pid ");
    assert!(before.contains(&dead), "{died}");
    let after = example.workers_are(3, |now| !now.contains(&dead));
    assert_eq!(after.intersection(&before).count(), 2, "the others stay: {before:?} {after:?}");
    let reasons = ["start", "crash"].map(|why| {
        until(LONG, why, || {
            let body = example.get("/").expect("an answer");
            (json(&body)["forked_because_of"] == why).then_some(())
        })
    });
    assert_eq!(reasons, [Ok(()), Ok(())]);
    // Those that were told to leave are not replaced.
    let mark = example.process.mark();
    let process = example.stops();
    let since = process.wait_for_line_since(mark, |line| line.contains("died"), Duration::ZERO);
    assert!(since.is_err(), "{since:?}");
}

#[test]
fn graceful_lets_finish_and_then_kills() {
    let (example, workers) = Example::serving("graceful", &[("GRACE", "4")], 2);
    let stuck_client = example.get_beside("/stuck");
    let stuck = number_after(&example.line(&["begins with a stuck request"]), "pid ");
    // Slow requests until one is with the other worker.
    let mut slow_clients = Vec::new();
    let begun = until(LONG, "a slow request at the other worker", || {
        let mark = example.process.mark();
        slow_clients.push(example.get_beside("/slow"));
        let slow = number_after(&example.line_since(mark, &["begins with a slow request"]), "pid ");
        (slow != stuck).then_some(slow)
    });
    let slow = begun.expect("two workers");
    assert_eq!(BTreeSet::from([slow, stuck]), workers);

    let process = example.stops();
    for client in slow_clients {
        let answer = client.join().expect("a client").expect("the whole answer");
        assert_eq!(json(&answer)["answer"], "slow");
    }
    stuck_client.join().expect("a client").expect_err("its worker was killed");
    let output = process.output();
    assert!(output.contains(&format!("(pid {slow}) finished: code 0")), "{output}");
    assert!(output.contains(&format!("(pid {stuck}) did not finish and was killed")), "{output}");
}

#[test]
fn load_average_scales_within_bounds() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("loadavg");
    let put = |text: &str| {
        // At once, or not at all: the example may be reading.
        let new = directory.path().join("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).expect("a file");
    };
    put("0.31 0.20 0.10 1/100 1234\n");
    let path = file.to_str().expect("a path in UTF-8");
    let (example, first) = Example::serving("load_average", &[("LOADAVG", path)], 1);
    put("2.40 1.00 0.50 3/100 1234\n");
    let three = example.workers_are(3, |_| true);
    assert!(three.is_superset(&first), "who serves goes on: {first:?} {three:?}");
    put("no number\n");
    example.line(&["holds no load average"]);
    assert_eq!(example.children(), three);
    put("99.00 50.00 20.00 90/100 1234\n");
    example.workers_are(4, |_| true);
    put("0.00 10.00 20.00 1/100 1234\n");
    let last = example.workers_are(1, |_| true);
    assert_eq!(last, first);
    example.stops();
}

#[test]
fn heartbeat_replaces_a_worker_that_hangs() {
    let (example, before) = Example::serving("heartbeat", &[("BEAT_MS", "200")], 2);
    let client = example.get_beside("/hang");
    let hangs = number_after(&example.line(&["hangs"]), "pid ");
    assert!(before.contains(&hangs));
    // Meanwhile the other one answers.
    assert_ne!(example.pid().expect("an answer"), hangs);
    example.line(&[&format!("pid {hangs} missed 3 heartbeats and is killed")]);
    example.line(&[&format!("pid {hangs} is gone: SIGKILL")]);
    client.join().expect("a client").expect_err("its worker was killed");
    example.workers_are(2, |now| !now.contains(&hangs));
    example.stops();
}

#[test]
fn rolling_restart_loses_no_request() {
    let directory = tempfile::tempdir().expect("a directory");
    let broken = directory.path().join("broken");
    let path = broken.to_str().expect("a path in UTF-8");
    let (example, old) = Example::serving("rolling_restart", &[("BROKEN", path)], 3);
    example.line(&[&format!("kill -USR2 {}", example.process.pid())]);

    let load = Load::new(example.target).clients(2).start().expect("a load");
    example.process.signal(Signal::USR2).expect("it runs");
    example.line(&["reload 1 is done: 3 workers replaced"]);
    let new = example.workers_are(3, |now| now.is_disjoint(&old));
    let outcome = load.stop();
    assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
    assert!(outcome.answered > 0);

    // A reload to something broken leaves things as they are.
    std::fs::write(&broken, "").expect("a file");
    example.process.signal(Signal::USR2).expect("it runs");
    example.line(&["reload 2 stopped", "3 old workers go on"]);
    example.line(&["this version is broken"]);
    example.workers_are(3, |now| *now == new);
    example.stops();
}

#[test]
fn block_holds_up_nobody_else() {
    let (example, workers) = Example::serving("block", &[], 3);
    let client = example.get_beside("/block");
    let busy = number_after(&example.line(&["is busy for"]), "pid ");
    assert!(workers.contains(&busy));
    let begin = Instant::now();
    for _ in 0..20 {
        assert_ne!(example.pid().expect("an answer"), busy);
    }
    let took = begin.elapsed();
    assert!(!client.is_finished(), "twenty requests took {took:?}, as long as the busy one");
    let answer = client.join().expect("a client").expect("an answer");
    assert_eq!(json(&answer)["pid"].as_u64(), Some(busy));
    assert_eq!(example.children(), workers, "nobody was killed for being busy");
    example.stops();
}

#[test]
fn shared_imbalance_counts_every_connection() {
    let example = Example::start("shared_imbalance", &[("CONNECTIONS", "400")]);
    let family = example.process.record();
    let process = example.ends(&family);
    let counts = ["shared", "direct"].map(|policy| {
        let output = process.stdout();
        let line = output.lines().find(|line| line.starts_with(policy)).expect(policy);
        let (_, list) = line.split_once('[').expect("a list");
        let (list, _) = list.split_once(']').expect("a list");
        list.split(", ").map(|n| n.parse().expect("a count")).collect::<Vec<u32>>()
    });
    for counts in &counts {
        assert_eq!((counts.len(), counts.iter().sum::<u32>()), (4, 400), "{counts:?}");
    }
    // A fair coin of four sides: fewer than 60 of 400 on one is one case in some hundred thousand.
    assert!(counts[1].iter().all(|n| (50..=150).contains(n)), "direct is even: {:?}", counts[1]);
}

#[test]
fn udp_echo_keeps_a_client_with_its_worker() {
    let example = Example::start("udp_echo", &[]);
    let pids = until(LONG, "answers of all three workers", || {
        let ask = |_| echo(&udp_client(example.target), "hello", Duration::from_secs(1));
        let pids: BTreeSet<u64> = (0..8).filter_map(ask).collect();
        (pids.len() == 3).then_some(pids)
    });
    assert_eq!(pids.expect("three workers"), example.children());
    for _ in 0..20 {
        let client = udp_client(example.target);
        let first = echo(&client, "once", LONG).expect("an answer");
        assert_eq!(echo(&client, "and again", LONG), Some(first));
    }
    example.stops();
}

fn udp_client(target: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    client.connect(target).expect("a target");
    client
}

/// The worker that answers; `None` where nobody does.
fn echo(client: &UdpSocket, text: &str, patience: Duration) -> Option<u64> {
    client.set_read_timeout(Some(patience)).expect("a time-out");
    client.send(text.as_bytes()).ok()?;
    let mut buffer = [0; 100];
    let length = client.recv(&mut buffer).ok()?;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(answer.ends_with(&format!(": {text}")), "{answer}");
    Some(number_after(&answer, "pid "))
}

#[test]
fn json_log_is_one_log_of_all_workers() {
    let (example, pids) = Example::serving("json_log", &[], 3);
    let messy = json(&example.get("/mess").expect("an answer"))["pid"].clone();
    example.line(&["somebody forgot"]);
    let process = example.stops();
    let lines: Vec<Value> = process.stdout().lines().map(json).collect();
    let of = |message: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["message"] == message).collect()
    };
    let requests = of("a request");
    let writers: BTreeSet<u64> = requests.iter().filter_map(|l| l["pid"].as_u64()).collect();
    assert_eq!(writers, pids);
    let numbers: BTreeSet<u64> = requests.iter().filter_map(|l| l["worker"].as_u64()).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2, 3]));
    assert!(requests.iter().all(|line| line["level"] == "INFO" && line["path"] == "/"));
    // Down to the last word of each.
    assert_eq!(of("all requests are answered").len(), 3, "{lines:?}");
    let raw = of("somebody forgot a println");
    assert_eq!(raw.len(), 1, "{lines:?}");
    assert_eq!((&raw[0]["level"], &raw[0]["pid"]), (&Value::from("RAW"), &messy));
    let own =
        |line: &Value| line["target"].as_str().is_some_and(|t| t.starts_with("phalanx::primary"));
    assert!(lines.iter().any(own), "its own");
    assert_eq!(process.stderr(), "");
}

#[test]
fn node_workers_get_their_answers_from_rust() {
    let port = free_port();
    let example = Example::start("node_workers", &[("PORT", &port.to_string())]);
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let answer = until(LONG, "an answer", || exchange(target, "/").ok());
    let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", example.process.output()));
    assert!(answer.contains("greetings in Rust from "), "{answer}");
    example.line(&["has served", "requests"]);
    example.stops();
}

#[test]
fn any_program_serves_from_every_worker() {
    let port = free_port();
    let mut example = Example::start("any_program", &[("PORT", &port.to_string())]);
    example.target.set_port(port);
    example.workers_are(3, |_| true);
    example.line(&["bound", "knows nothing"]);
    example.stops();
}

#[test]
fn panic_hook_logs_and_ends_the_worker() {
    let (example, before) = Example::serving("panic_hook", &[], 2);
    example.get("/panic").expect_err("nobody to answer");
    let entry = json(&example.line(&["\"panic\":"]));
    assert_eq!(entry["panic"], "there is always an order");
    assert!(entry["at"].as_str().is_some_and(|at| at.contains("panic_hook.rs:")), "{entry}");
    let dead = entry["pid"].as_u64().expect("a pid");
    assert!(before.contains(&dead), "{entry}");
    let worker = entry["worker"].as_u64().expect("a number");
    example.line(&[&format!("worker {worker} in slot {} ", entry["slot"]), "code 1"]);
    example.workers_are(2, |now| !now.contains(&dead));
    example.stops();
}

fn kill(pid: u64, signal: Signal) {
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(raw, signal).expect("a process");
}
