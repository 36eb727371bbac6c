//! What workers use: memory, processors, threads, descriptors; looked at as often as somebody needs it.
//!
//! A look goes through /proc once for all workers, on a thread beside the loop. Where nothing depends on it, it
//! happens every five seconds and sees only what is cheap, for the record of a worker's end. Who asks for the state gets
//! a fresh look at the descendants of few workers; of many, or where a limit depends on it, at every process, for those
//! too whose parent is gone.

use super::record::Fact;
use super::shell::Shell;
use super::why::Life;
use super::{Status, limits::Cgroups};
use phalanx_core::ends::{Ends, Wall};
use phalanx_core::limits::Judge;
use phalanx_core::scaling::Scaler;
use phalanx_core::time::Time;
use phalanx_core::worker::{SlotId, WorkerId};
use rustix::param::{clock_ticks_per_second, page_size};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// How often workers are looked at if nothing depends on it.
const IDLY: Duration = Duration::from_secs(5);
/// How often for scaling.
pub(super) const FOR_SCALING: Duration = Duration::from_secs(1);
/// The shortest time over which processor time is counted: the kernel counts it in hundredths of a second.
const CPU_WINDOW: Duration = Duration::from_millis(900);
/// A process with more memory is not looked at page by page, which would hold it up.
const CHEAP: u64 = 1 << 30;
/// No `/proc/PID/stat` is longer: 52 numbers, and a name of 64 bytes at most.
const STAT: usize = 2048;
/// For an answer about so many workers it is not worth a look at every process.
const FEW: usize = 16;
/// Descendants of a worker that are followed without looking at every process.
const MAX_CHILDREN: usize = 64;

/// What the shell keeps of its workers' lives beside what it needs to run them.
pub(super) struct Upkeep {
    pub(super) judge: Judge,
    pub(super) scaler: Option<Scaler>,
    /// Somebody said how many workers there shall be: the load does not.
    pub(super) by_hand: bool,
    /// The application's own signal, and when it came.
    pub(super) signal: Option<(Time, f64)>,
    pub(super) scaled: Option<Time>,
    pub(super) ends: Arc<Mutex<Ends>>,
    pub(super) lives: BTreeMap<WorkerId, Life>,
    /// Workers that each slot had.
    pub(super) forks: BTreeMap<SlotId, u32>,
    pub(super) cgroups: Option<Cgroups>,
    /// Records that wait for the last words of their workers.
    pub(super) awaiting: usize,
    looking: bool,
    /// Who wants to know the state of the cluster.
    asking: Vec<oneshot::Sender<Status>>,
}

impl Upkeep {
    pub(super) fn new(judge: Judge, scaler: Option<Scaler>, ends: Arc<Mutex<Ends>>) -> Self {
        Self {
            judge,
            scaler,
            by_hand: false,
            signal: None,
            scaled: None,
            ends,
            lives: BTreeMap::new(),
            forks: BTreeMap::new(),
            cgroups: None,
            awaiting: 0,
            looking: false,
            asking: Vec::new(),
        }
    }

    /// How often workers are looked at.
    fn interval(&self) -> Duration {
        let scaling = self.scaler.as_ref().map(|_| FOR_SCALING);
        [self.judge.limits().interval(), scaling].into_iter().flatten().min().unwrap_or(IDLY)
    }

    /// Something is decided by what is seen.
    fn matters(&self) -> bool {
        self.scaler.is_some() || self.judge.limits().is_any()
    }
}

/// What one worker uses, its children included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Bytes.
    pub(super) memory: u64,
    /// Processor time since its beginning.
    pub(super) spent: Duration,
    pub(super) threads: u32,
    /// Of its first process; counted only when somebody asks.
    pub(super) descriptors: Option<u32>,
}

/// What was seen in one look.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) usage: BTreeMap<WorkerId, Usage>,
    /// The machine's load average.
    pub(super) load: Option<f64>,
}

/// How thoroughly it is looked.
#[derive(Clone, Copy, Debug)]
struct Depth {
    /// Every process of the machine, for those that belong to a worker; else only its descendants.
    all: bool,
    /// Somebody waits for it: the children of every thread, how many descriptors are open.
    asked: bool,
}

impl Shell {
    /// From now on workers are looked at.
    pub(super) fn begin_upkeep(&self) {
        if cfg!(target_os = "linux") {
            self.later(self.upkeep.interval(), Fact::LookDue);
        }
    }

    /// It is time to look.
    pub(super) fn look_due(&mut self) {
        self.later(self.upkeep.interval(), Fact::LookDue);
        self.ask_counts();
        self.look();
    }

    /// Somebody wants to know how the cluster is.
    pub(super) fn status_asked(&mut self, reply: oneshot::Sender<Status>) {
        self.upkeep.asking.push(reply);
        self.look();
    }

    fn look(&mut self) {
        // One at a time: on a machine that is too busy there is no use in more.
        if std::mem::replace(&mut self.upkeep.looking, true) {
            return;
        }
        let pids: Vec<(WorkerId, u32)> = self
            .workers
            .iter()
            .filter(|(_, r)| r.exit.is_none())
            .map(|(id, r)| (*id, r.handle.pid()))
            .collect();
        let asked = !self.upkeep.asking.is_empty();
        // Every primary is asked at the same time by a list: each going through all processes of the machine would
        // make it slower with the square of the applications.
        let all = self.upkeep.matters() || (asked && pids.len() > FEW);
        let depth = Depth { all, asked };
        let facts = self.facts.clone();
        if pids.is_empty() {
            // Nobody runs: said at once.
            let now = self.now();
            return self.looked(now, &Look::default(), asked);
        }
        tokio::spawn(async move {
            let looking = tokio::task::spawn_blocking(move || look_at(&pids, depth));
            let look = looking.await.unwrap_or_default();
            let _ = facts.send(Fact::Looked(look, asked)).await;
        });
    }

    /// So it was. `asked`: it was looked thoroughly enough for those who asked.
    pub(super) fn looked(&mut self, now: Time, look: &Look, asked: bool) {
        self.upkeep.looking = false;
        for (worker, usage) in &look.usage {
            if let Some(life) = self.upkeep.lives.get_mut(worker) {
                life.saw(now, *usage);
            }
        }
        self.keep_limits(now);
        self.keep_scale(now, look.load);
        if asked {
            for reply in std::mem::take(&mut self.upkeep.asking) {
                let _ = reply.send(self.status(now));
            }
        } else if !self.upkeep.asking.is_empty() {
            self.look();
        }
    }
}

impl Life {
    /// The part of one processor that it uses; if it was looked at only once, on average since its beginning.
    pub(super) fn share(&self, now: Time) -> Option<f32> {
        let average = || {
            let spent = self.usage?.spent.as_secs_f32();
            Some(spent / now.since(self.begun).as_secs_f32().max(0.1))
        };
        self.cpu.or_else(average)
    }

    /// What it used at this moment.
    fn saw(&mut self, now: Time, usage: Usage) {
        let age = now.since(self.begun);
        let (since, before) = self.mark;
        let window = now.since(since);
        if window >= CPU_WINDOW {
            let spent = usage.spent.saturating_sub(before);
            #[expect(clippy::cast_possible_truncation, reason = "a share need not be exact")]
            let share = (spent.as_secs_f64() / window.as_secs_f64()) as f32;
            self.cpu = Some(share);
            self.mark = (now, usage.spent);
        }
        let descriptors = usage.descriptors.or(self.usage.and_then(|before| before.descriptors));
        self.usage = Some(Usage { descriptors, ..usage });
        self.curve.push(age, usage.memory, self.cpu.unwrap_or_default());
    }
}

/// The clock on the wall.
pub(super) fn wall() -> Wall {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy)]
struct Process {
    id: u32,
    parent: u32,
    group: u32,
    ticks: u64,
    threads: u32,
    pages: u64,
}

impl Process {
    fn of(id: u32) -> Option<Self> {
        // The kernel makes the whole text at the first read. To ask for its size, and for a little at a time until there is
        // no more, would be six calls for each process of the machine.
        let mut stat = [0; STAT];
        let length = File::open(format!("/proc/{id}/stat")).ok()?.read(&mut stat).ok()?;
        Self::parse(id, stat.get(..length)?)
    }

    fn parse(id: u32, stat: &[u8]) -> Option<Self> {
        // The second field is the name in brackets, which may hold anything, brackets too.
        let rest = stat.rsplit(|byte| *byte == b')').next()?;
        let fields: Vec<&str> = std::str::from_utf8(rest).ok()?.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let small = |at: usize| u32::try_from(number(at)?).ok();
        // proc(5) counts from 1, and from the number of the process.
        Some(Self {
            id,
            parent: small(1)?,
            group: small(2)?,
            ticks: number(11)?.saturating_add(number(12)?),
            threads: small(17)?,
            pages: number(21)?,
        })
    }
}

fn look_at(workers: &[(WorkerId, u32)], depth: Depth) -> Look {
    let trees = if depth.all { all_trees(workers) } else { near_trees(workers, depth.asked) };
    let usage = trees.into_iter().filter_map(|(worker, pid, tree)| {
        let mut usage = used_by(&tree)?;
        usage.descriptors = depth.asked.then(|| descriptors(pid)).flatten();
        Some((worker, usage))
    });
    Look { usage: usage.collect(), load: load_average() }
}

/// Each worker's processes: itself, its descendants, and whoever is in its process group.
fn all_trees(workers: &[(WorkerId, u32)]) -> Vec<(WorkerId, u32, Vec<Process>)> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<Process> = names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::of)
        .collect();
    let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    let mut groups: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    for it in &all {
        children.entry(it.parent).or_default().push(it);
        groups.entry(it.group).or_default().push(it);
    }
    let tree = |pid: u32| {
        let mut next: Vec<&Process> = groups.get(&pid).cloned().unwrap_or_default();
        next.extend(all.iter().find(|it| it.id == pid));
        let (mut tree, mut seen) = (Vec::new(), BTreeSet::new());
        while let Some(it) = next.pop() {
            if seen.insert(it.id) {
                tree.push(*it);
                next.extend(children.get(&it.id).into_iter().flatten());
            }
        }
        tree
    };
    workers.iter().map(|(worker, pid)| (*worker, *pid, tree(*pid))).collect()
}

/// The same without looking at every process: only descendants, of each process's first thread or of all.
fn near_trees(
    workers: &[(WorkerId, u32)],
    every_thread: bool,
) -> Vec<(WorkerId, u32, Vec<Process>)> {
    let tree = |pid: u32| {
        let (mut tree, mut next) = (Vec::new(), vec![pid]);
        while let Some(id) = next.pop().filter(|_| tree.len() < MAX_CHILDREN) {
            let process = Process::of(id);
            // With one thread there is no need to look for others.
            let several = every_thread && process.is_some_and(|it| it.threads > 1);
            tree.extend(process);
            match several {
                true => threads(id).for_each(|thread| next.extend(children(id, thread))),
                false => next.extend(children(id, id)),
            }
        }
        tree
    };
    workers.iter().map(|(worker, pid)| (*worker, *pid, tree(*pid))).collect()
}

fn threads(id: u32) -> impl Iterator<Item = u32> {
    let names = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Those that a thread has started.
fn children(id: u32, thread: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{thread}/children"));
    let children = children.unwrap_or_default();
    children.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn used_by(tree: &[Process]) -> Option<Usage> {
    let page = page_size() as u64;
    let resident = |it: &Process| it.pages.saturating_mul(page);
    // Processes that were forked share much of their memory: their shares are added up, if that is cheap.
    let memory = |it: &Process| {
        let resident = resident(it);
        if tree.len() == 1 || resident > CHEAP {
            resident
        } else {
            proportional(it.id).unwrap_or(resident)
        }
    };
    let ticks: u64 = tree.iter().map(|it| it.ticks).sum();
    let per_second = clock_ticks_per_second().max(1);
    (!tree.is_empty()).then(|| Usage {
        memory: tree.iter().map(memory).sum(),
        spent: Duration::from_millis(ticks.saturating_mul(1000) / per_second),
        threads: tree.iter().map(|it| it.threads).sum(),
        descriptors: None,
    })
}

/// A process's memory, what it shares counted in parts.
fn proportional(id: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    kilobytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn descriptors(id: u32) -> Option<u32> {
    u32::try_from(fs::read_dir(format!("/proc/{id}/fd")).ok()?.count()).ok()
}

/// Of the last minute.
fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_are_no_fields() {
        let stat = b"7 (a) b) S 3 7 7 0 -1 4194304 1 2 3 4 50 60 7 8 20 0 5 0 99 1000 250 18446744073709551615";
        let it = Process::parse(7, stat).unwrap();
        assert_eq!((it.parent, it.group, it.ticks, it.threads, it.pages), (3, 7, 110, 5, 250));
        assert!(Process::parse(7, b"7 (x) S 3").is_none());
        assert!(Process::parse(7, b"").is_none());
    }

    #[test]
    fn children_count() {
        // 30 MB in a child of a child.
        let fat = "import subprocess, sys\nx = bytearray(30 << 20)\nprint('on', flush=True)\nsys.stdin.read()";
        let middle =
            format!("import subprocess, sys\nsubprocess.run([sys.executable, '-c', {fat:?}])");
        let mut child = std::process::Command::new("python3")
            .args(["-c", &middle])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let workers = [(WorkerId(1), child.id())];
        let looks = [true, false].map(|all| look_at(&workers, Depth { all, asked: true }));
        let alone = used_by(&[Process::of(child.id()).unwrap()]).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        for look in looks {
            let usage = look.usage[&WorkerId(1)];
            assert!(usage.memory > 30 << 20, "{usage:?}");
            assert!(usage.memory < 120 << 20, "{usage:?}");
            assert!(usage.threads >= 2 && usage.descriptors >= Some(3), "{usage:?}");
            assert!(alone.memory < 30 << 20, "{alone:?}");
        }
    }

    #[test]
    fn who_asks_sees_the_children_of_every_thread() {
        let script = "import subprocess, sys, threading
sleep = lambda: subprocess.Popen(['sleep', '600'])
started = []
thread = threading.Thread(target=lambda: (started.append(sleep()), print('on', flush=True), sys.stdin.read()))
thread.start()
thread.join()
started[0].kill()
started[0].wait()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut String::new()).unwrap();
        let workers = [(WorkerId(1), child.id())];
        let seen = [false, true].map(|every| near_trees(&workers, every)[0].2.len());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(seen, [1, 2]);
    }

    #[test]
    fn nobody_has_nothing() {
        let look = look_at(&[(WorkerId(1), u32::MAX)], Depth { all: true, asked: true });
        assert!(look.usage.is_empty() && look.load.is_some(), "{look:?}");
    }
}
