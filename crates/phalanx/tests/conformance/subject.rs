//! A primary of either kind, seen from outside: orders in, events out.

use crate::primary::{NODE, ROLE};
use bench::spawned::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Nothing that a scenario waits for takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The primaries that scenarios run against, each with its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    NodeRr,
    NodeNone,
    Direct,
    RoundRobin,
    Shared,
}

impl Kind {
    /// Node first: a scenario that does not pass there is wrong.
    pub(crate) const ALL: [Self; 5] =
        [Self::NodeRr, Self::NodeNone, Self::Direct, Self::RoundRobin, Self::Shared];

    pub(crate) fn is_node(self) -> bool {
        matches!(self, Self::NodeRr | Self::NodeNone)
    }

    /// Whether the primary accepts TCP connections and hands them over.
    pub(crate) fn hands_over(self) -> bool {
        matches!(self, Self::NodeRr | Self::RoundRobin)
    }

    /// Whether all workers accept from one socket: who gets a connection is left to chance.
    pub(crate) fn races(self) -> bool {
        matches!(self, Self::NodeNone | Self::Shared)
    }

    fn policy(self) -> (&'static str, &'static str) {
        match self {
            Self::NodeRr => ("NODE_CLUSTER_SCHED_POLICY", "rr"),
            Self::NodeNone => ("NODE_CLUSTER_SCHED_POLICY", "none"),
            Self::Direct => ("PHALANX_POLICY", "direct"),
            Self::RoundRobin => ("PHALANX_POLICY", "round-robin"),
            Self::Shared => ("PHALANX_POLICY", "shared"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NodeRr => "node-rr",
            Self::NodeNone => "node-none",
            Self::Direct => "phalanx-direct",
            Self::RoundRobin => "phalanx-round-robin",
            Self::Shared => "phalanx-shared",
        })
    }
}

/// The directory of the scripts.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance")
}

/// The Node to use.
pub(crate) fn node() -> PathBuf {
    if let Some(named) = std::env::var_os(NODE) {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "there is no Node at {} ({NODE})", named.display());
        return named;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("node")).find(|f| f.is_file());
    found.expect("conformance is judged by Node: install it, or name it with PHALANX_NODE")
}

/// What came so far, each line until somebody takes it.
#[derive(Default)]
struct Heard {
    lines: Vec<(Value, bool)>,
    over: bool,
    stderr: String,
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    more: Condvar,
}

impl Ear {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub(crate) struct Subject {
    pub(crate) kind: Kind,
    child: Child,
    orders: ChildStdin,
    ear: Arc<Ear>,
    given: u64,
}

impl Subject {
    pub(crate) fn start(kind: Kind) -> Self {
        Self::spawn(kind, Self::command(kind), Stdio::piped())
    }

    /// A primary that was started with a listening socket as its descriptor 7.
    pub(crate) fn start_with_socket(kind: Kind, listener: TcpListener) -> Self {
        let plain = Self::command(kind);
        let mut command = Command::new("sh");
        command.args(["-c", "exec 7<&2 2>/dev/null; exec \"$@\"", "sh"]);
        command.arg(plain.get_program()).args(plain.get_args());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Self::spawn(kind, command, OwnedFd::from(listener).into())
    }

    fn command(kind: Kind) -> Command {
        let mut command = if kind.is_node() {
            let mut command = Command::new(node());
            command.arg(scripts().join("primary.cjs"));
            command
        } else {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.env(ROLE, "primary").env(NODE, node());
            command
        };
        let (name, value) = kind.policy();
        command.env(name, value);
        command
    }

    fn spawn(kind: Kind, mut command: Command, stderr: Stdio) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().expect("the primary starts");
        let ear = Arc::new(Ear::default());
        let (out, hearing) = (child.stdout.take().expect("piped"), Arc::clone(&ear));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                hearing.lock().lines.push((line, false));
                hearing.more.notify_all();
            }
            hearing.lock().over = true;
            hearing.more.notify_all();
        });
        if let Some(mut errors) = child.stderr.take() {
            let hearing = Arc::clone(&ear);
            std::thread::spawn(move || {
                let mut some = [0; 4096];
                while let Ok(n @ 1..) = errors.read(&mut some) {
                    hearing.lock().stderr.push_str(&String::from_utf8_lossy(&some[..n]));
                }
            });
        }
        let orders = child.stdin.take().expect("piped");
        Self { kind, child, orders, ear, given: 0 }
    }

    /// Takes the first line that is what the scenario waits for.
    pub(crate) fn take<T>(&mut self, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        self.look(PATIENCE, wanted).unwrap_or_else(|| panic!("waited in vain for {what}"))
    }

    /// As `take`, but not to find it is no failure.
    pub(crate) fn look<T>(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut heard = self.ear.lock();
        loop {
            for (line, taken) in heard.lines.iter_mut().filter(|(_, taken)| !taken) {
                if let Some(found) = wanted(line) {
                    *taken = true;
                    return Some(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if heard.over || left.is_zero() {
                return None;
            }
            heard = match self.ear.more.wait_timeout(heard, left) {
                Ok((heard, _)) => heard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Whether the primary ended by itself, and how.
    pub(crate) fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Gives an order without waiting for its reply.
    pub(crate) fn order(&mut self, mut order: Value) -> u64 {
        self.given += 1;
        order["n"] = json!(self.given);
        // A primary that died says so by silence.
        let _ = writeln!(self.orders, "{order}");
        self.given
    }

    pub(crate) fn reply(&mut self, n: u64) -> Value {
        let line = self.take(&format!("the reply to order {n}"), |line| {
            (line["reply"] == n).then(|| line.clone())
        });
        assert!(line["error"].is_null(), "the primary could not do it: {line}");
        line["ok"].clone()
    }

    pub(crate) fn ask(&mut self, order: Value) -> Value {
        let n = self.order(order);
        self.reply(n)
    }

    /// Forks a worker with a script, and returns its number at once.
    pub(crate) fn fork(&mut self, script: &str, env: Value) -> u64 {
        let mut order = json!({});
        order["env"] = env;
        self.fork_as(script, order)
    }

    /// Forks a worker, with more than its environment to say about it.
    pub(crate) fn fork_as(&mut self, script: &str, mut order: Value) -> u64 {
        order["do"] = json!("fork");
        order["exec"] = json!(scripts().join("workers").join(script));
        self.ask(order)["id"].as_u64().expect("a number")
    }

    /// Forks a worker whose servers are `net.cjs`, and waits until it is there.
    pub(crate) fn net(&mut self, listen: &Value) -> u64 {
        let id = self.fork("net.cjs", json!({ "LISTEN": listen.to_string() }));
        assert_eq!(self.message(id), "ready");
        id
    }

    pub(crate) fn pid_of(&mut self, id: u64) -> Pid {
        let heard = self.ear.lock();
        let fork = heard.lines.iter().find(|(e, _)| e["event"] == "fork" && e["id"] == id);
        let pid = fork.and_then(|(e, _)| e["pid"].as_i64()).expect("a forked worker");
        i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process")
    }

    pub(crate) fn signal(&mut self, id: u64, signal: Signal) {
        kill_process(self.pid_of(id), signal).expect("signalled");
    }

    /// The next event of that name from that worker.
    pub(crate) fn event(&mut self, id: u64, name: &str) -> Value {
        self.take(&format!("{name} of worker {id}"), |line| {
            (line["event"] == name && line["id"] == id).then(|| line.clone())
        })
    }

    /// The next message from that worker.
    pub(crate) fn message(&mut self, id: u64) -> Value {
        self.event(id, "message")["message"].clone()
    }

    /// The next message with that member.
    pub(crate) fn message_with(&mut self, id: u64, member: &str) -> Value {
        self.take(&format!("{member} from worker {id}"), |line| {
            let said = &line["message"];
            (line["event"] == "message" && line["id"] == id && !said[member].is_null())
                .then(|| said.clone())
        })
    }

    pub(crate) fn send(&mut self, id: u64, message: Value) {
        let mut order = json!({ "do": "send", "id": id });
        order["message"] = message;
        self.ask(order);
    }

    /// Sends a message, and returns the next one that comes back.
    pub(crate) fn talk(&mut self, id: u64, message: Value) -> Value {
        self.send(id, message);
        self.message(id)
    }

    /// Where `net.cjs` listens with its n-th server.
    pub(crate) fn address(&mut self, id: u64, n: usize) -> Value {
        self.take(&format!("server {n} of worker {id}"), |line| {
            let said = &line["message"];
            let it = line["id"] == id && said["n"] == n;
            assert!(!it || said["error"].is_null(), "server {n} of worker {id}: {said}");
            (it && !said["address"].is_null()).then(|| said["address"].clone())
        })
    }

    /// Why it does not.
    pub(crate) fn refusal(&mut self, id: u64, n: usize) -> Value {
        self.take(&format!("the error of server {n} of worker {id}"), |line| {
            let said = &line["message"];
            let it = line["id"] == id && said["n"] == n;
            (it && !said["error"].is_null()).then(|| said["error"].clone())
        })
    }

    pub(crate) fn disconnect(&mut self, id: u64) {
        self.ask(json!({ "do": "disconnect", "id": id }));
    }

    /// A worker's end: code, signal, and what `exitedAfterDisconnect` says.
    pub(crate) fn exit(&mut self, id: u64) -> (Value, Value, Value) {
        let exit = self.event(id, "exit");
        (exit["code"].clone(), exit["signal"].clone(), exit["exitedAfterDisconnect"].clone())
    }

    pub(crate) fn state(&mut self, id: u64) -> Value {
        self.ask(json!({ "do": "state", "id": id }))
    }

    /// The names of a worker's events so far, in their order.
    pub(crate) fn names(&self, id: u64) -> Vec<String> {
        let heard = self.ear.lock();
        let mine = heard.lines.iter().filter(|(line, _)| line["id"] == id);
        mine.filter_map(|(line, _)| line["event"].as_str().map(ToOwned::to_owned)).collect()
    }

    /// The workers that were forked and have not been seen to end.
    fn alive(&self) -> Vec<Pid> {
        let heard = self.ear.lock();
        let of = |name: &'static str| {
            heard.lines.iter().map(|(l, _)| l).filter(move |l| l["event"] == name)
        };
        let ended: Vec<_> = of("exit").map(|line| line["id"].clone()).collect();
        let left = of("fork").filter(|line| !ended.contains(&line["id"]));
        left.filter_map(|line| Pid::from_raw(i32::try_from(line["pid"].as_i64()?).ok()?)).collect()
    }

    /// Kills the primary alone, at once.
    pub(crate) fn kill_primary(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let heard = self.ear.lock();
            eprintln!("{} said:", self.kind);
            for (line, _) in &heard.lines {
                eprintln!("  {line:.400}");
            }
            eprintln!("{} wrote to standard error:\n{}", self.kind, heard.stderr);
        }
        // While the primary lives, the numbers of its workers belong to nobody else.
        if self.has_ended().is_none() {
            for pid in self.alive() {
                let _ = kill_process(pid, Signal::KILL);
            }
            self.order(json!({ "do": "quit" }));
            let limit = Duration::from_secs(5);
            let ended = bench::wait::until(limit, "the primary's end", || self.has_ended());
            if ended.is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}
