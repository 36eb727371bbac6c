//! Processes that a dead primary left behind: who they are beyond doubt, and their end.
//!
//! A pid alone may be a stranger's by now; with the time of its start it is one process. And the primary, or its keeper,
//! is the leader of a session: the kernel gives its number to nobody as long as one of the session is left, so all that the
//! primary's workers started, and that did not make itself independent, is found as well. When none is left the number
//! may be another session's: without its leader, one is believed to be the application's only if something in it proves it.

use super::app::App;
use super::directory::write_json;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between SIGTERM and SIGKILL.
const TERM: Duration = Duration::from_secs(5);
/// After SIGKILL; only the kernel can take longer.
const KILL: Duration = Duration::from_secs(10);
/// While some end, others may begin: so often is looked again.
const ROUNDS: usize = 5;

/// In the environment of all that an application starts: its directory.
pub const MARK: &str = "PHALANX_APP_DIRECTORY";

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    state: char,
    parent: u32,
    session: u32,
    /// Clock ticks since the machine's start.
    started: u64,
    /// The CPU time it used.
    pub(super) cpu: Duration,
}

impl Stat {
    pub(super) fn of(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in parentheses may itself have blanks and parentheses.
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let ticks = number(11)?.saturating_add(number(12)?);
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(1)?).ok()?,
            session: u32::try_from(number(3)?).ok()?,
            started: number(19)?,
            cpu: Duration::from_millis(ticks.saturating_mul(1000) / per_second),
        })
    }
}

/// One process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    started: u64,
}

impl Process {
    /// The one that has that number now.
    pub fn of(pid: u32) -> Option<Self> {
        Stat::of(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// A hold on it, if it still runs.
    fn open(self) -> Option<OwnedFd> {
        let held = hold(self.pid)?;
        // What is held now cannot become another one.
        let stat = Stat::of(self.pid)?;
        (stat.started == self.started && !matches!(stat.state, 'Z' | 'X')).then_some(held)
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        self.open().is_some()
    }

    /// Stops it, so that it does nothing more before it is killed.
    pub fn freeze(self) {
        if let Some(held) = self.open() {
            let _ = signal(&held, Signal::STOP);
        }
    }

    /// Kills it, and waits for its end. Whether it ran.
    pub fn kill(self) -> bool {
        let Some(held) = self.open() else { return false };
        let killed = signal(&held, Signal::KILL).is_ok();
        wait(&held, KILL);
        killed
    }
}

/// The processes of an application, kept in a file by its primary.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Register {
    /// The version of this file.
    v: u32,
    /// Where the numbers mean anything.
    place: String,
    /// Of the session: a keeper, or the primary itself.
    pub leader: Option<Process>,
    /// The primary.
    pub primary: Option<Process>,
    /// Who would start another primary: the leader, or, after that was killed, what was the primary then.
    #[serde(default)]
    pub keeper: Option<Process>,
    /// Its workers.
    pub workers: Vec<Process>,
    /// How often those of each slot ended without having been asked to.
    #[serde(default)]
    pub restarts: BTreeMap<u32, u64>,
}

impl Register {
    /// Of this process.
    pub(super) fn of_this_primary(app: &App) -> Self {
        let pid = std::process::id();
        // Somebody's shell, if this is no session of the application's: then it is none of its business.
        let leads = |pid: &u32| app.is_lock(Path::new(&format!("/proc/{pid}/fd/0")));
        let stat = Stat::of(pid);
        let session = stat.map(|stat| stat.session).filter(leads);
        // So has a keeper; who only started this primary has not.
        let keeper = stat.map(|stat| stat.parent).filter(leads);
        Self {
            v: 1,
            place: place(),
            leader: session.and_then(Process::of),
            primary: Process::of(pid),
            keeper: keeper.and_then(Process::of),
            workers: Vec::new(),
            // What the primary before this one counted, if it was replaced and not ended.
            restarts: Self::read(app).map(|before| before.restarts).unwrap_or_default(),
        }
    }

    /// What the application's last primary wrote, if the numbers still mean something.
    pub fn read(app: &App) -> Option<Self> {
        let register: Self = serde_json::from_slice(&fs::read(app.register()).ok()?).ok()?;
        (register.place == place()).then_some(register)
    }

    pub(super) fn write(&self, app: &App) -> io::Result<()> {
        write_json(&app.register(), self, false)
    }

    /// What still runs. `proven`: the session was found to be the application's before; it is told if it is now.
    fn left(&self, directory: &Path, proven: &mut bool) -> BTreeMap<u32, Process> {
        let alive = |process: &Process| process.is_alive();
        let mut left: BTreeMap<u32, Process> = self
            .workers
            .iter()
            .copied()
            .filter(alive)
            .map(|process| (process.pid, process))
            .collect();
        let Some(leader) = self.leader else { return left };
        let members = members(leader);
        // One proves it for all: a session is of one origin.
        let known = |process: &Process| {
            self.known().any(|known| known == *process) || is_marked(process.pid, directory)
        };
        *proven = *proven || members.iter().any(known);
        if *proven {
            left.extend(members.into_iter().map(|process| (process.pid, process)));
        }
        left
    }

    /// All that the primary wrote down.
    fn known(&self) -> impl Iterator<Item = Process> {
        let others = [self.leader, self.primary, self.keeper];
        others.into_iter().flatten().chain(self.workers.iter().copied())
    }

    /// Ends what a primary that is gone has left behind. What that was, in words.
    pub fn end_leftovers(&self, app: &App) -> Vec<String> {
        let mut words = Vec::new();
        // What proved it may end in the first round.
        let mut proven = false;
        for _ in 0..ROUNDS {
            let left = self.left(&app.directory, &mut proven);
            if left.is_empty() {
                break;
            }
            end(left.values(), &mut words);
        }
        words
    }
}

/// Who is in the session with that leader's number now.
fn members(leader: Process) -> Vec<Process> {
    // Another process with its number: the session is long gone, and this one's is its own.
    if Stat::of(leader.pid).is_some_and(|stat| stat.started != leader.started) {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| {
        let stat = Stat::of(pid)?;
        let member = stat.session == leader.pid && stat.started >= leader.started;
        let runs = !matches!(stat.state, 'Z' | 'X');
        (member && runs).then_some(Process { pid, started: stat.started })
    })
    .collect()
}

/// Whether the application with that directory, or something of it, started it.
fn is_marked(pid: u32, directory: &Path) -> bool {
    let mark = [MARK.as_bytes(), b"=", directory.as_os_str().as_bytes()].concat();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

fn end<'a>(left: impl Iterator<Item = &'a Process>, words: &mut Vec<String>) {
    let held: Vec<(u32, OwnedFd)> =
        left.filter_map(|process| Some((process.pid, process.open()?))).collect();
    for (_, process) in &held {
        let _ = signal(process, Signal::TERM);
    }
    let deadline = Instant::now() + TERM;
    for (pid, process) in &held {
        if wait(process, deadline.saturating_duration_since(Instant::now())) {
            words.push(format!("process {pid} was left: ended by SIGTERM"));
            continue;
        }
        let killed = signal(process, Signal::KILL);
        words.push(match killed {
            Ok(()) if wait(process, KILL) => {
                format!("process {pid} was left, and did not end for SIGTERM: killed")
            }
            Ok(()) => format!("process {pid} was left, and does not end for SIGKILL"),
            Err(error) => format!("process {pid} was left, and cannot be killed: {error}"),
        });
    }
}

#[cfg(target_os = "linux")]
fn hold(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(target_os = "linux")]
fn signal(process: &OwnedFd, signal: Signal) -> rustix::io::Result<()> {
    rustix::process::pidfd_send_signal(process, signal)
}

/// Elsewhere a process cannot be held: what is left has to be ended by hand.
#[cfg(not(target_os = "linux"))]
const fn hold(_pid: u32) -> Option<OwnedFd> {
    None
}

#[cfg(not(target_os = "linux"))]
const fn signal(_process: &OwnedFd, _signal: Signal) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::NOSYS)
}

/// Waits for a process's end. Whether it came.
fn wait(process: &OwnedFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut fds, left.try_into().ok().as_ref()) {
            Ok(0) => return false,
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}

/// This start of this machine, and the namespace of process numbers.
fn place() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_not_another_one() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let process = Process::of(child.id()).expect("it runs");
        assert!(process.is_alive());
        let other = Process { started: process.started + 1, ..process };
        assert!(!other.is_alive());
        assert!(!other.kill(), "a stranger");
        assert!(child.try_wait().expect("mine").is_none(), "it was hit");
        assert!(process.kill());
        child.wait().expect("mine");
        assert!(!process.is_alive());
    }

    /// A session whose leader is gone, and of which only a child is left: `mark` is in its environment.
    fn orphan(mark: &Path) -> (Register, Process) {
        let child = Command::new("setsid")
            .args([
                "--fork",
                "sh",
                "-c",
                "sleep 60 >/dev/null 2>&1 & echo $$ $(cut -d' ' -f22 /proc/$$/stat) $!",
            ])
            .env(MARK, mark)
            .output()
            .expect("setsid");
        let text = String::from_utf8_lossy(&child.stdout);
        let numbers: Vec<u64> =
            text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [leader, started, child] = numbers[..] else { panic!("{text:?}") };
        let pid = |number: u64| u32::try_from(number).expect("a pid");
        let leader = Process { pid: pid(leader), started };
        let child = Process::of(pid(child)).expect("it runs");
        // It ends by itself after its line.
        if let Some(held) = leader.open() {
            assert!(wait(&held, KILL), "it does not end");
        }
        (Register { leader: Some(leader), ..Register::default() }, child)
    }

    #[test]
    fn a_session_without_its_leader_has_to_be_proven() {
        let (ours, others) = (Path::new("/nowhere/ours"), Path::new("/nowhere/others"));
        let left = |register: &Register| register.left(ours, &mut false).into_values().collect();
        let (register, stranger) = orphan(others);
        let found: Vec<Process> = left(&register);
        let known = Register { workers: vec![stranger], ..register.clone() };
        let other = Process { started: stranger.started + 1, ..stranger };
        let reused = Register { workers: vec![other], ..register };
        let (by_worker, by_number): (Vec<_>, Vec<_>) = (left(&known), left(&reused));
        assert!(stranger.kill(), "it ran all the time");
        assert_eq!(found, [], "by the number alone");
        assert_eq!(by_number, [], "by a pid alone");
        assert_eq!(by_worker, [stranger]);
        let (register, child) = orphan(ours);
        let found: Vec<Process> = left(&register);
        assert!(child.kill(), "it ran all the time");
        assert_eq!(found, [child]);
    }

    #[test]
    fn names_with_parentheses() {
        let text = "7 (a) b (c) S 1 7 5 0 -1 0 0 0 0 0 100 50 0 0 20 0 1 0 4711 0";
        let stat = Stat::parse(text).expect("understood");
        assert_eq!((stat.state, stat.session, stat.started), ('S', 5, 4711));
        assert!(stat.cpu > Duration::ZERO);
        assert!(Stat::parse("").is_none());
    }
}
