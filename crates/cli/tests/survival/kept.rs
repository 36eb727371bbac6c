//! A cluster with a keeper: who is who among its processes, and what kills of them lead to.

use crate::common::{LONG, PHALANX, clean, is_free, signal, slot_of, tail, v4};
use bench::load::{Load, Outcome, Running};
use bench::spawned::{Guarded, Signal};
use bench::{process, wait};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a primary says that has taken over.
pub(crate) const TOOK_OVER: &str = "took over from the last primary";
/// Longer than any load goes on.
const LOADED: Duration = Duration::from_secs(300);
/// By this its processes are found, whoever is their parent.
const MARK: &str = "SURVIVAL";

/// A cluster, and the environment by which its processes are known.
pub(crate) struct Kept {
    pub(crate) process: Guarded,
    pub(crate) address: SocketAddr,
    mark: String,
    keeper: Cell<u32>,
}

/// A program of `tests/node` or `tests/programs`.
pub(crate) fn program(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    directory.join(name).to_str().expect("a path").to_owned()
}

/// The command line of Python, a thread for each connection.
pub(crate) fn python(address: SocketAddr) -> Vec<String> {
    let words = ["--", "/usr/bin/python3", &program("programs/threads.py")];
    words.iter().map(ToString::to_string).chain([address.port().to_string()]).collect()
}

impl Kept {
    /// `phalanx` with these words, so many workers of which serve.
    pub(crate) fn start(words: &[&str], workers: usize) -> Self {
        Self::start_on(PHALANX, v4(), words, workers)
    }

    /// Node's server.
    pub(crate) fn node(workers: usize, more: &[&str]) -> Self {
        let (script, count) = (program("node/server.js"), workers.to_string());
        Self::start(&[&["run", &script, "--keeper", "-i", &count], more].concat(), workers)
    }

    /// The demo: workers on the crate.
    pub(crate) fn demo(workers: usize, more: &[&str]) -> Self {
        let (address, count) = (v4(), workers.to_string());
        let listen = address.to_string();
        let words = ["demo", "--keeper", "-i", &count, "--listen", &listen];
        Self::start_on(PHALANX, address, &[&words, more].concat(), workers)
    }

    /// Python's server, which binds for itself.
    pub(crate) fn python(workers: usize, more: &[&str]) -> Self {
        let (address, count) = (v4(), workers.to_string());
        let python = python(address);
        let python: Vec<&str> = python.iter().map(String::as_str).collect();
        let words = [&["run", "--keeper", "-i", &count], more, &python].concat();
        Self::start_on(PHALANX, address, &words, workers)
    }

    /// Another file of the program, on an address of the test's.
    pub(crate) fn start_on(file: &str, at: SocketAddr, words: &[&str], workers: usize) -> Self {
        Self::of(clean(file, words), at, workers)
    }

    /// Any command that becomes phalanx.
    pub(crate) fn of(mut command: Command, address: SocketAddr, workers: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}.{number}", std::process::id());
        command.env(MARK, &mark).env("PORT", address.port().to_string());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let process = Guarded::spawn(&mut command).expect("the process starts");
        let keeper = Cell::new(process.pid());
        let kept = Self { process, address, mark, keeper };
        kept.until("ready workers", || {
            let ready = kept.process.output().matches(" is ready: process ").count();
            (ready >= workers).then_some(())
        });
        kept.wait_workers(workers);
        kept
    }

    pub(crate) fn keeper(&self) -> u32 {
        self.keeper.get()
    }

    /// Every process of it that is there.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let all = process::all().expect("the table of processes");
        let alive = all.into_iter().filter(|stat| stat.state != 'Z').map(|stat| stat.pid);
        alive.filter(|pid| self.is_of(*pid)).collect()
    }

    fn is_of(&self, pid: u32) -> bool {
        variable(pid, MARK).as_ref() == Some(&self.mark)
    }

    /// The primary, if there is one now.
    pub(crate) fn find_primary(&self) -> Option<u32> {
        let primary = |pid: &u32| {
            variable(*pid, "PHALANX_REHEARSE").is_none()
                && (variable(*pid, "PHALANX_KEEPER").is_some()
                    || variable(*pid, "PHALANX_INHERIT").is_some())
        };
        process::children(self.keeper())
            .into_iter()
            .find(|pid| process::is_alive(*pid) && primary(pid) && !is_worker(*pid))
    }

    pub(crate) fn primary(&self) -> u32 {
        self.until("a primary", || self.find_primary())
    }

    /// The workers: by slot and process.
    pub(crate) fn workers(&self) -> Vec<(u32, u32)> {
        let mut workers: Vec<_> = self
            .processes()
            .into_iter()
            .filter(|pid| is_worker(*pid))
            .filter_map(|pid| Some((slot_of(pid)?, pid)))
            .collect();
        workers.sort_unstable();
        workers
    }

    /// Waits until so many workers are there, one in each slot.
    pub(crate) fn wait_workers(&self, count: usize) -> Vec<(u32, u32)> {
        self.until("one worker in each slot", || {
            let workers = self.workers();
            let slots = workers.iter().map(|(slot, _)| *slot);
            slots.eq(0..u32::try_from(count).ok()?).then_some(workers)
        })
    }

    /// Waits until so many workers answer, the last ones within this call; by slot.
    pub(crate) fn wait_answers(&self, count: usize) -> BTreeMap<u32, u32> {
        let mut slots = BTreeMap::new();
        self.until("so many slots to answer", || {
            let answer = ask(self.address, LONG)?;
            slots.insert(answer.0, answer.1);
            (slots.len() >= count).then(|| slots.clone())
        })
    }

    /// Waits for a state; on failure shows what the cluster said and its processes.
    pub(crate) fn until<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        wait::until(LONG, what, probe).unwrap_or_else(|error| self.fail(&error))
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        let processes: Vec<String> = self.processes().into_iter().map(describe).collect();
        panic!("{what}\n{}\n{}", processes.join("\n"), tail(&self.process.output()))
    }

    pub(crate) fn line(&self, since: u64, part: &str) -> String {
        self.process
            .wait_for_line_since(since, |line| line.contains(part), LONG)
            .unwrap_or_else(|error| self.fail(&format!("{part:?}: {}", tail(&error))))
    }

    /// Kills the primary, and waits for the next one; how long that took.
    pub(crate) fn kill_primary(&self) -> Duration {
        let (mark, begin) = (self.process.mark(), Instant::now());
        signal(self.primary(), Signal::KILL);
        self.line(mark, TOOK_OVER);
        begin.elapsed()
    }

    /// Kills the keeper, and waits until the primary is one; how long that took.
    pub(crate) fn kill_keeper(&self) -> Duration {
        let (mark, begin) = (self.process.mark(), Instant::now());
        let primary = self.primary();
        signal(self.keeper(), Signal::KILL);
        self.keeper.set(primary);
        self.line(mark, TOOK_OVER);
        begin.elapsed()
    }

    /// SIGUSR1, and waits for the next program in the same process; how long that took.
    pub(crate) fn upgrade(&self) -> Duration {
        let (mark, begin, primary) = (self.process.mark(), Instant::now(), self.primary());
        signal(self.keeper(), Signal::USR1);
        self.line(mark, TOOK_OVER);
        assert_eq!(self.primary(), primary, "the process stays");
        begin.elapsed()
    }

    /// SIGUSR2, and waits for the end of that reload.
    pub(crate) fn reload(&self) {
        let mark = self.process.mark();
        signal(self.keeper(), Signal::USR2);
        self.line(mark, " is done");
    }

    /// One worker in each slot, all of them ready, and nobody else; returns them.
    pub(crate) fn assert_settled(&self, workers: usize) -> Vec<(u32, u32)> {
        self.wait_answers(workers.min(2));
        self.wait_workers(workers)
    }

    /// A load of a connection for each request.
    pub(crate) fn one_per_request(&self) -> Running {
        let load = Load::new(self.address).clients(6).think(Duration::from_millis(2));
        load.duration(LOADED).start().expect("the load starts")
    }

    /// A load whose connections are kept.
    pub(crate) fn keep_alive(&self) -> Running {
        let load = Load::new(self.address).clients(4).keep_alive(true);
        let load = load.requests_per_connection(Some(50)).think(Duration::from_millis(3));
        load.duration(LOADED).start().expect("the load starts")
    }

    pub(crate) fn loads(&self) -> [(&'static str, Running); 2] {
        [("a connection for each", self.one_per_request()), ("kept", self.keep_alive())]
    }

    /// Waits until each load got some answers more.
    pub(crate) fn wait_load<'a>(&self, loads: impl IntoIterator<Item = &'a Running>) {
        let loads: Vec<_> = loads
            .into_iter()
            .map(|load| (load.progress(), load.progress().answered() + 5))
            .collect();
        self.until("the load to go on", || {
            loads.iter().all(|(now, wanted)| now.answered() >= *wanted).then_some(())
        });
    }

    pub(crate) fn assert_lossless(&self, what: &str, outcome: &Outcome) {
        eprintln!("{what}: {outcome}");
        if outcome.failed > 0 || outcome.answered == 0 {
            self.fail(&format!("{what}: {outcome}"));
        }
    }

    /// SIGTERM to the keeper: the end is in order and nothing is left.
    pub(crate) fn stop(self) {
        signal(self.keeper(), Signal::TERM);
        if self.keeper() == self.process.pid() {
            self.wait_end(0);
        }
        self.assert_nothing_left();
    }

    /// It ends by itself, with this code.
    pub(crate) fn wait_end(&self, code: i32) {
        let status = self.process.wait_exit(LONG).unwrap_or_else(|error| self.fail(&tail(&error)));
        if status.code() != Some(code) {
            self.fail(&format!("ended with {status}, not with {code}"));
        }
    }

    /// No process of it runs, and its port is free.
    pub(crate) fn assert_nothing_left(&self) {
        self.until("the end of every process", || self.processes().is_empty().then_some(()));
        // One that is ending closes its descriptors after it is without an environment.
        let address = self.address;
        self.until(&format!("{address} to be free"), || is_free(address).then_some(()));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Not all are below the process that was started.
        for pid in self.processes() {
            let _ = rustix::process::Pid::from_raw(pid.cast_signed())
                .map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        }
    }
}

/// Who answers: slot and process.
pub(crate) fn ask(address: SocketAddr, timeout: Duration) -> Option<(u32, u32)> {
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let body: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
    let number = |name| u32::try_from(body.get(name)?.as_u64()?).ok();
    Some((number("slot")?, number("pid")?))
}

/// A worker's process, not one that it started.
fn is_worker(pid: u32) -> bool {
    let leads = || process::stat(pid).is_ok_and(|stat| stat.group == pid);
    slot_of(pid).is_some() && leads()
}

/// A variable of a process's environment, as it began.
fn variable(pid: u32, name: &str) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let (found, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
        (found == name).then(|| value.to_owned())
    })
}

fn describe(pid: u32) -> String {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    match process::stat(pid) {
        Ok(stat) => {
            format!("{pid} {} below {} slot {:?}: {command}", stat.state, stat.parent, slot_of(pid))
        }
        Err(_) => format!("{pid} is gone"),
    }
}
