//! The application that is tormented: who is who among its processes, and what is said to them.

use crate::common::{LONG, clean, is_free, slot_of, try_accepted};
use crate::support::{Tool, begin, finish};
use bench::spawned::Signal;
use bench::{process, wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// What it is called.
pub(crate) const NAME: &str = "chaos";
/// How many workers it begins with.
pub(crate) const WORKERS: usize = 4;
/// By this its processes are found, whoever is their parent.
const MARK: &str = "CHAOS_MARK";
/// How long a process may take to stop, or to end when it was killed.
const BRIEF: Duration = Duration::from_secs(10);

/// Short times, so that much happens.
const OPTIONS: [&str; 11] = [
    "--heartbeat=1s",
    "--start-timeout=5s",
    "--grace=12s",
    "--kill-after=1s",
    "--max-memory=160M",
    // Never reached; where the kernel keeps it, each worker has a control group.
    "--hard-memory=2G",
    "--restart-delay=50ms",
    "--max-restart-delay=500ms",
    "--min-uptime=2s",
    "--parallel-starts=2",
    "--policy=direct",
];

pub(crate) struct Site {
    pub(crate) tool: Tool,
    mark: String,
}

/// A process, by number and time of start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) slot: Option<u32>,
    pub(crate) pid: u32,
    started: u64,
}

impl Site {
    /// Starts it; all workers serve.
    pub(crate) fn start() -> Self {
        let tool = Tool::new();
        let mark = tool.directory().display().to_string();
        let site = Self { tool, mark };
        for directory in [site.switches(), site.temporary()] {
            fs::create_dir(directory).expect("a directory");
        }
        let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/app.js");
        let count = WORKERS.to_string();
        let mut words = vec!["start", app.to_str().expect("a path"), "-i", &count, "--name", NAME];
        words.extend(OPTIONS);
        finish(begin(&mut site.command(&words))).expect(0, &["listening"]);
        site
    }

    /// `phalanx` with what makes its processes known.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.tool.command(words);
        command.env(MARK, &self.mark).env("CHAOS_DIR", self.switches());
        command.env("TMPDIR", self.temporary());
        command
    }

    /// Begins a command of `phalanx`; its process is none of the application's.
    pub(crate) fn client(&self, words: &[&str]) -> Child {
        begin(&mut self.tool.command(words))
    }

    fn switches(&self) -> PathBuf {
        self.tool.directory().join("switches")
    }

    /// Where its processes put temporary files.
    fn temporary(&self) -> PathBuf {
        self.tool.directory().join("tmp")
    }

    /// Sets how workers behave from now on.
    pub(crate) fn switch(&self, name: &str, value: &str) {
        fs::write(self.switches().join(name), value).expect("written");
    }

    pub(crate) fn switch_off(&self, name: &str) {
        // It may be off.
        let _ = fs::remove_file(self.switches().join(name));
    }

    /// Everything that belongs to it, but zombies.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let all = process::all().expect("the table of processes");
        let alive = all.into_iter().filter(|stat| !matches!(stat.state, 'Z' | 'X'));
        alive.map(|stat| stat.pid).filter(|pid| self.is_of(*pid)).collect()
    }

    fn is_of(&self, pid: u32) -> bool {
        has_variable(pid, &format!("{MARK}={}", self.mark))
    }

    /// Every worker that is there, whatever its state; by slot.
    pub(crate) fn workers(&self) -> Vec<Target> {
        let of = |pid| {
            let stat = process::stat(pid).ok()?;
            let slot = slot_of(pid).filter(|_| stat.group == pid)?;
            Some(Target { slot: Some(slot), pid, started: stat.started })
        };
        let mut workers: Vec<Target> = self.processes().into_iter().filter_map(of).collect();
        workers.sort_unstable();
        workers
    }

    /// What it tells of itself; what its files tell if it does not.
    pub(crate) fn about(&self) -> Value {
        let done = finish(self.client(&["describe", NAME, "--json"]));
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
    }

    /// The primary and its keeper, as far as the table of processes tells.
    pub(crate) fn pair(&self) -> Option<(Target, Target)> {
        let leads = |pid: &u32| slot_of(*pid).is_none() && !has_variable(*pid, "PHALANX_REHEARSE");
        let stats: Vec<_> = self.processes().into_iter().filter(leads).map(process::stat).collect();
        let stats: Vec<_> = stats.into_iter().flatten().collect();
        let is_known = |pid: u32| stats.iter().any(|stat| stat.pid == pid);
        let keeper = stats.iter().find(|stat| !is_known(stat.parent))?;
        let primary = stats.iter().find(|stat| stat.parent == keeper.pid)?;
        Some((Target::of(primary.pid)?, Target::of(keeper.pid)?))
    }

    /// The same, if the primary says that it serves.
    pub(crate) fn serving_pair(&self) -> Option<(Target, Target)> {
        let about = self.about();
        let (primary, keeper) = self.pair()?;
        let serves = about["state"] == "running" && about["primary_pid"] == primary.pid;
        serves.then_some((primary, keeper))
    }

    /// The end of the primary's log.
    pub(crate) fn log(&self, lines: usize) -> String {
        let text = fs::read(self.tool.app(NAME).join("primary.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Its processes, in words.
    pub(crate) fn who(&self) -> String {
        let words = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let stat =
                process::stat(pid).map(|stat| format!("{} below {}", stat.state, stat.parent));
            format!("{pid} {} slot {:?}: {line}", stat.unwrap_or_default(), slot_of(pid))
        };
        let all: Vec<String> = self.processes().into_iter().map(words).collect();
        all.join("\n")
    }

    /// What is wrong if something of it is still there when it has been deleted.
    pub(crate) fn leftovers(&self, primaries: &BTreeSet<u32>) -> Vec<String> {
        let mut wrong = Vec::new();
        let ended = wait::until(LONG, "the end of every process", || {
            self.processes().is_empty().then_some(())
        });
        if let Err(error) = ended {
            wrong.push(format!("{error}: {}", self.who()));
        }
        if !is_free(self.tool.address) {
            wrong.push(format!("{} is still in use", self.tool.address));
        }
        for directory in [self.tool.home.join("apps"), self.temporary()] {
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            wrong.extend(entries.map(|entry| format!("{} is left", entry.path().display())));
        }
        let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let ours = sockets.lines().filter(|line| line.contains(&self.mark));
        wrong.extend(ours.map(|line| format!("a socket is left: {line}")));
        let groups = control_groups().into_iter().filter(|group| {
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = name.strip_prefix("phalanx-").and_then(|pid| pid.parse().ok());
            number.is_some_and(|pid: u32| primaries.contains(&pid))
        });
        wrong.extend(groups.map(|group| format!("a control group is left: {}", group.display())));
        wrong
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for pid in self.processes() {
            if let Some(target) = Target::of(pid) {
                target.signal(Signal::KILL);
            }
        }
    }
}

impl Target {
    fn of(pid: u32) -> Option<Self> {
        process::stat(pid).ok().map(|stat| Self { slot: None, pid, started: stat.started })
    }

    /// What its descriptors are; no two kinds of processes have the same numbers.
    pub(crate) fn descriptors(self) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten();
        let name = |link: PathBuf| {
            let text = link.display().to_string();
            text.split(['[', ' ']).next().unwrap_or_default().to_owned()
        };
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let mut names: Vec<String> = links.map(name).collect();
        names.sort();
        names
    }

    /// A hold on this very process: what is held cannot become another one.
    fn hold(self) -> Option<OwnedFd> {
        let held = pidfd_open(Pid::from_raw(self.pid.cast_signed())?, PidfdFlags::empty()).ok()?;
        let same = process::stat(self.pid).is_ok_and(|stat| stat.started == self.started);
        same.then_some(held)
    }

    /// Whether any thread of it runs. Its first thread may have ended long before, and the connections are still open.
    pub(crate) fn is_alive(self) -> bool {
        let Some(held) = self.hold() else { return false };
        let mut fds = [PollFd::new(&held, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Whether it was still there to be signalled.
    pub(crate) fn signal(self, signal: Signal) -> bool {
        self.hold().is_some_and(|held| pidfd_send_signal(held, signal).is_ok()) && self.is_alive()
    }

    /// Stops it; the clients' ends of the connections that it has accepted. `None`: it ended.
    pub(crate) fn stop(self) -> Option<BTreeSet<SocketAddr>> {
        if !self.signal(Signal::STOP) {
            return None;
        }
        wait::until(BRIEF, "the process to stop", || {
            (!self.is_alive() || process::state(self.pid) == Some('T')).then_some(())
        })
        .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        let held = try_accepted(self.pid).ok()?;
        self.is_alive().then_some(held)
    }

    /// The other ends of its connections: of those to the server's address its own ends are second.
    pub(crate) fn ends(self, server: SocketAddr) -> (BTreeSet<SocketAddr>, BTreeSet<SocketAddr>) {
        let inodes = process::socket_inodes(self.pid).unwrap_or_default();
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
        let (mut clients, mut own) = (BTreeSet::new(), BTreeSet::new());
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let inode = fields.get(9).and_then(|text| text.parse::<u64>().ok());
            let end = |index: usize| {
                // Address and port in hexadecimal digits, as `0100007F:1F90`; all is on one address here.
                let (_, port) = fields.get(index)?.split_once(':')?;
                let port = u16::from_str_radix(port, 16).ok()?;
                Some(SocketAddr::new(server.ip(), port))
            };
            if inode.is_none_or(|inode| !inodes.contains(&inode)) {
                continue;
            }
            match (end(1), end(2)) {
                (Some(here), Some(there)) if here == server => drop(clients.insert(there)),
                (Some(here), Some(there)) if there == server => drop(own.insert(here)),
                _ => {}
            }
        }
        (clients, own)
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        wait::until(BRIEF, "the end of the process", || (!self.is_alive()).then_some(()))
            .unwrap_or_else(|error| panic!("{self:?}: {error}"));
    }
}

/// Whether a variable of its environment begins so.
fn has_variable(pid: u32, begin: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|one| one.starts_with(begin.as_bytes()))
}

/// Every control group of version 2 that is called as those of phalanx are.
fn control_groups() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let is_group = |line: &&str| line.split(' ').nth(2) == Some("cgroup2");
    let mut found = Vec::new();
    for root in mounts.lines().filter(is_group).filter_map(|line| line.split(' ').nth(1)) {
        let words = [root, "-maxdepth", "8", "-type", "d", "-name", "phalanx-*"];
        let output = clean("find", words).output().expect("find runs");
        found.extend(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from));
    }
    found
}
