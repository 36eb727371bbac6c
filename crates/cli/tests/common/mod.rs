//! What the tests of the program share: clusters to test, single requests, facts about workers.
#![allow(dead_code, reason = "no test file needs all of it")]

pub(crate) mod packages;

use bench::load::{Load, Outcome, Running};
use bench::spawned::{Guarded, Signal};
use bench::{process, wait};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The program.
pub(crate) const PHALANX: &str = env!("CARGO_BIN_EXE_phalanx");
/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// Longer than fifty reloads take on a busy machine.
const RELOADING: Duration = Duration::from_secs(300);
/// Every scheduling policy.
pub(crate) const POLICIES: [&str; 3] = ["direct", "round-robin", "shared"];

/// A free port on 127.0.0.1.
pub(crate) fn v4() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, wait::free_port()))
}

/// A free port on `[::1]`.
pub(crate) fn v6() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, wait::free_port()))
}

/// The program with arguments, and nothing in the environment that would change what it does.
pub(crate) fn phalanx(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    clean(PHALANX, args)
}

/// Another program, likewise.
pub(crate) fn clean(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    // What runs in the foreground is known by name as well: here, and not where this user's own applications are.
    command.env("PHALANX_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/home"));
    for name in ["PHALANX_POLICY", "PHALANX_LOG", "PHALANX_LISTEN", "PORT"] {
        command.env_remove(name);
    }
    for name in ["NODE_UNIQUE_ID", "NODE_CHANNEL_FD", "NODE_CLUSTER_SCHED_POLICY"] {
        command.env_remove(name);
    }
    command
}

/// A program of `tests/node`.
pub(crate) fn node(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(name)
}

/// A shell script.
pub(crate) fn sh(script: &str) -> Command {
    let mut command = clean("/bin/sh", ["-c", script]);
    command.env("PHALANX", PHALANX);
    command
}

/// Starts a command under guard.
pub(crate) fn spawn(command: &mut Command) -> Guarded {
    Guarded::spawn(command).expect("the process starts")
}

/// What a worker of the demo answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) pid: u32,
    pub(crate) slot: u32,
}

/// One request on a connection of its own, over TCP. `timeout` bounds each step.
pub(crate) fn get(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    exchange(stream, path)
}

/// One request on a stream.
pub(crate) fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<Answer> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    answer(&text).ok_or_else(|| io::Error::other(format!("not the demo's answer: {text:?}")))
}

fn answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let number = |name| u32::try_from(body.get(name)?.as_u64()?).ok();
    Some(Answer { pid: number("pid")?, slot: number("slot")? })
}

/// Signals a process that is not the guarded child itself.
pub(crate) fn signal(pid: u32, signal: Signal) {
    rustix::process::kill_process(raw(pid), signal).expect("the process can be signalled");
}

fn raw(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid")
}

/// Stops a process, and waits until it has stopped.
pub(crate) fn stop_process(pid: u32) {
    signal(pid, Signal::STOP);
    wait::until(LONG, "the process to stop", || (process::state(pid) == Some('T')).then_some(()))
        .expect("SIGSTOP stops");
}

/// The peers of the connections that the process has accepted; exact while it is stopped.
///
/// Asks its sockets themselves: the kernel's table of connections takes seconds to read when tests
/// before have left a hundred thousand closed ones in it.
pub(crate) fn accepted(pid: u32) -> BTreeSet<SocketAddr> {
    try_accepted(pid).expect("the process is there")
}

/// The same, of a process that may have ended.
pub(crate) fn try_accepted(pid: u32) -> io::Result<BTreeSet<SocketAddr>> {
    let process = rustix::process::pidfd_open(raw(pid), PidfdFlags::empty())?;
    let mut peers = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        if !link.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let number = entry.file_name().to_string_lossy().parse().expect("a number");
        match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            // Listeners and connections that have ended have no peer, others no such address.
            Ok(socket) => peers.extend(
                rustix::net::getpeername(socket)
                    .ok()
                    .flatten()
                    .and_then(|peer| SocketAddr::try_from(peer).ok()),
            ),
            Err(Errno::BADF) => {}
            Err(Errno::SRCH) => return Err(Errno::SRCH.into()),
            Err(_) => return process::tcp_peers(&process::socket_inodes(pid)?),
        }
    }
    Ok(peers)
}

/// The slot that a worker was started in.
pub(crate) fn slot_of(pid: u32) -> Option<u32> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|entry| {
        std::str::from_utf8(entry).ok()?.strip_prefix("NODE_APP_INSTANCE=")?.parse().ok()
    })
}

/// Whether nothing listens there any more.
pub(crate) fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// A cluster on a port.
pub(crate) struct Cluster {
    pub(crate) process: Guarded,
    pub(crate) address: SocketAddr,
}

impl Cluster {
    /// `phalanx demo` with so many workers, all of them ready.
    pub(crate) fn demo(workers: usize, more: &[&str]) -> Self {
        Self::demo_on(v4(), workers, more)
    }

    /// The same on an address of the test's.
    pub(crate) fn demo_on(address: SocketAddr, workers: usize, more: &[&str]) -> Self {
        let (listen, count) = (address.to_string(), workers.to_string());
        let args = ["demo", "--listen", &listen, "-i", &count];
        let process = spawn(&mut phalanx(args.iter().chain(more)));
        Self::serving(process, address, workers, more)
    }

    /// `phalanx run` with a program that answers as the demo does, on the port `PORT`.
    pub(crate) fn run(program: &Path, workers: usize, more: &[&str]) -> Self {
        let (address, count) = (v4(), workers.to_string());
        let program = program.to_str().expect("a path");
        let mut command = phalanx(["run", program, "-i", &count].iter().chain(more));
        let process = spawn(command.env("PORT", address.port().to_string()));
        Self::serving(process, address, workers, more)
    }

    fn serving(process: Guarded, address: SocketAddr, workers: usize, more: &[&str]) -> Self {
        let cluster = Self { process, address };
        // With `shared` the kernel need not show all workers to one client.
        cluster.wait_serving(if more.contains(&"shared") { 1 } else { workers });
        cluster.wait_workers(workers);
        cluster
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The workers whose processes run.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let mut children = process::children(self.pid());
        children.retain(|pid| process::is_alive(*pid));
        children
    }

    /// Waits until so many worker processes run.
    pub(crate) fn wait_workers(&self, count: usize) -> Vec<u32> {
        self.until("so many workers", || {
            Some(self.workers()).filter(|workers| workers.len() == count)
        })
    }

    /// Waits until so many slots answer; returns which process answered last in each.
    pub(crate) fn wait_serving(&self, count: usize) -> BTreeMap<u32, u32> {
        self.wait_answers("a number of slots to answer", |slots| slots.len() == count)
    }

    /// Asks until the answers satisfy: by slot, the process that answered last.
    pub(crate) fn wait_answers(
        &self,
        what: &str,
        accept: impl Fn(&BTreeMap<u32, u32>) -> bool,
    ) -> BTreeMap<u32, u32> {
        let mut slots = BTreeMap::new();
        self.until(what, || {
            if let Ok(Answer { pid, slot }) = get(self.address, "/", LONG) {
                slots.insert(slot, pid);
            }
            accept(&slots).then(|| slots.clone())
        })
    }

    /// Waits for a state; on failure shows what the cluster said.
    pub(crate) fn until<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        wait::until(LONG, what, probe)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.process.output()))
    }

    /// Waits for a line of the log since a mark.
    pub(crate) fn line(&self, since: u64, part: &str) -> String {
        self.process
            .wait_for_line_since(since, |line| line.contains(part), LONG)
            .unwrap_or_else(|error| panic!("{part:?}: {error}"))
    }

    /// SIGUSR2, and waits until that reload, which is the `number`th, is done.
    pub(crate) fn reload(&self, number: u32) {
        let mark = self.process.mark();
        self.process.signal(Signal::USR2).expect("the primary runs");
        self.line(mark, &format!("reload {number} is done"));
    }

    /// Waits for the exit by itself: its code, and nothing of it may be left.
    pub(crate) fn wait_gone(&self, timeout: Duration) -> i32 {
        let status = self.process.wait_exit(timeout).unwrap_or_else(|error| panic!("{error}"));
        self.assert_nothing_left();
        status.code().unwrap_or_else(|| panic!("{status}\n{}", self.process.output()))
    }

    /// No process of it runs, and its port is free.
    pub(crate) fn assert_nothing_left(&self) {
        let left = self.process.record();
        assert!(left.is_empty(), "left over: {left:?}\n{}", self.process.output());
        assert!(is_free(self.address), "{} is still in use", self.address);
    }

    /// SIGTERM: it drains and exits with 0.
    pub(crate) fn stop(self) {
        self.process.signal(Signal::TERM).expect("the primary runs");
        assert_eq!(self.wait_gone(LONG), 0, "{}", self.process.output());
    }
}

/// No request failed.
pub(crate) fn assert_lossless(what: &str, outcome: &Outcome, log: &Guarded) {
    eprintln!("{what}: {outcome}");
    assert!(outcome.answered > 0, "{what}: nothing was answered");
    if outcome.failed > 0 {
        panic!("{what}: {outcome}\n{}", tail(&log.output()));
    }
}

/// Reloads under the loads, 25 times: with each of two policies, 50 in all.
pub(crate) fn reload_under(cluster: &Cluster, loads: Vec<(&str, Running)>) {
    reload_times(25, cluster, loads);
}

/// Reloads under the loads, so many times.
pub(crate) fn reload_times(times: u32, cluster: &Cluster, loads: Vec<(&str, Running)>) {
    let begin = Instant::now();
    for number in 1..=times {
        // Each reload meets a load that goes on.
        let before: Vec<u64> = loads.iter().map(|(_, load)| load.progress().answered()).collect();
        cluster.reload(number);
        cluster.until("the load to go on", || {
            let on =
                loads.iter().zip(&before).all(|((_, load), n)| load.progress().answered() > *n);
            on.then_some(())
        });
    }
    eprintln!("{times} reloads in {:.1?}", begin.elapsed());
    for (name, load) in loads {
        assert_lossless(name, &load.stop(), &cluster.process);
    }
}

/// A load with a connection for each request.
pub(crate) fn one_per_request(cluster: &Cluster) -> Running {
    let load = Load::new(cluster.address).clients(12).duration(RELOADING);
    load.start().expect("the load starts")
}

/// Loads that keep their connections.
pub(crate) fn kept(cluster: &Cluster) -> Vec<(&'static str, Running)> {
    let start = |think| {
        let load = Load::new(cluster.address).clients(8).keep_alive(true).duration(RELOADING);
        load.think(Duration::from_millis(think)).start().expect("the load starts")
    };
    vec![
        ("busy connections", start(0)),
        ("thoughtful clients", start(20)),
        ("idle connections", start(400)),
    ]
}

/// The end of a long text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(60)).fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{line}");
        all
    })
}

/// A worker that `/block` keeps busy, and the thread that asked for it.
pub(crate) struct Blocked {
    pub(crate) pid: u32,
    thread: std::thread::JoinHandle<io::Result<Answer>>,
}

impl Blocked {
    /// Asks for `/block`, and waits until a worker is busy with it.
    pub(crate) fn one(cluster: &Cluster) -> Self {
        let stream = TcpStream::connect(cluster.address).expect("the cluster listens");
        stream.set_read_timeout(Some(LONG)).expect("a time-out");
        let local = stream.local_addr().expect("an address");
        let thread = std::thread::spawn(move || exchange(stream, "/block"));
        let pid = cluster.until("a worker to be busy", || {
            cluster.workers().into_iter().find(|pid| match wait_channel(*pid) {
                // A worker sleeps for nothing else.
                Some(place) => place.contains("nanosleep"),
                None => accepted(*pid).contains(&local),
            })
        });
        Self { pid, thread }
    }

    /// Waits until a program says itself that it is busy: `busy: PID`.
    pub(crate) fn as_it_says(cluster: &Cluster) -> Self {
        let stream = TcpStream::connect(cluster.address).expect("the cluster listens");
        stream.set_read_timeout(Some(LONG)).expect("a time-out");
        let thread = std::thread::spawn(move || exchange(stream, "/block"));
        let said = cluster.process.wait_for_line(|line| line.starts_with("busy: "), LONG);
        let said = said.unwrap_or_else(|error| panic!("{error}"));
        let pid = said.trim_start_matches("busy: ").trim().parse().expect("a number");
        Self { pid, thread }
    }

    /// Whether it is over.
    pub(crate) fn is_answered(&self) -> bool {
        self.thread.is_finished()
    }

    /// What it was answered.
    pub(crate) fn answer(self) -> io::Result<Answer> {
        self.thread.join().expect("the client does not panic")
    }
}

/// Where in the kernel a process waits, if the kernel tells.
fn wait_channel(pid: u32) -> Option<String> {
    let place = std::fs::read_to_string(format!("/proc/{pid}/wchan")).ok()?;
    (place != "0" || process::state(pid) == Some('R')).then_some(place)
}
