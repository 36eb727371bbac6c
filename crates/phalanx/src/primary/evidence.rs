//! What can be seen of a process that is about to be ended: for people who want to know why it hung.

use super::connections;
use phalanx_core::worker::Leave;
use std::fmt;
use std::fs;
use std::time::Duration;

/// Frames of the kernel's stack that are kept.
const FRAMES: usize = 4;
/// Threads that are looked at.
const THREADS: usize = 1024;

/// What was seen of a worker that hangs or is unhealthy, before it is ended. What the kernel does not tell is `None`.
///
/// Displayed, it is one line for what was found and some more, indented, for what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// Its process.
    pub pid: u32,
    /// [`Leave::Hung`] or [`Leave::Unhealthy`].
    pub verdict: Leave,
    /// What it did or did not do, in words.
    pub why: String,
    /// How long it has not been heard; for one that cannot be asked: since it began.
    pub silent: Duration,
    /// The state of its first thread, as `ps` shows it: `R`unning, `S`leeping, `D`: waiting for a device, s`T`opped.
    pub state: Option<char>,
    /// How many threads it has.
    pub threads: Option<u32>,
    /// How many of its threads are running or waiting for a processor.
    pub running: u32,
    /// The CPU time that it used, and in how long: since it was found silent, or since it began.
    pub cpu: Option<(Duration, Duration)>,
    /// Where in the kernel its first thread waits.
    pub wait_channel: Option<String>,
    /// The system call that its first thread is in, with its arguments; `running` if in none.
    pub syscall: Option<String>,
    /// What its first thread does in the kernel, the innermost first. Only root may know.
    pub stack: Vec<String>,
    /// How many sockets its processes have open, listening ones included.
    pub sockets: Option<usize>,
    /// Its resident memory in bytes.
    pub memory: Option<u64>,
}

/// What is known already.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    pub(super) pid: u32,
    pub(super) verdict: Leave,
    pub(super) why: String,
    pub(super) silent: Duration,
    /// How long ago it had used so much CPU time.
    pub(super) cpu: Option<(Duration, Duration)>,
}

impl Evidence {
    /// Without a look at the process.
    pub(super) fn bare(known: &Missing) -> Self {
        Self {
            pid: known.pid,
            verdict: known.verdict,
            why: known.why.clone(),
            silent: known.silent,
            state: None,
            threads: None,
            running: 0,
            cpu: None,
            wait_channel: None,
            syscall: None,
            stack: Vec::new(),
            sockets: None,
            memory: None,
        }
    }

    /// Reads what there is. Some of it may wait for the process, so not to be called in the loop.
    pub(super) fn gather(known: &Missing) -> Self {
        let pid = known.pid;
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let stat = read("stat");
        let stat = stat.as_deref().and_then(Stat::parse);
        let since = known.cpu.or_else(|| stat.as_ref().map(|stat| (stat.age(), Duration::ZERO)));
        let used = stat.as_ref().map(|stat| stat.cpu);
        let waits = stat.as_ref().is_some_and(|stat| stat.state != 'R');
        let there = connections::processes(pid);
        let sockets = connections::sockets(&there).ok().filter(|_| !there.is_empty());
        let words =
            |text: String| Some(text.trim().to_owned()).filter(|t| !t.is_empty() && t != "0");
        Self {
            state: stat.as_ref().map(|stat| stat.state),
            threads: stat.as_ref().map(|stat| stat.threads),
            running: running(pid),
            cpu: since.zip(used).map(|((ago, then), now)| (now.saturating_sub(then), ago)),
            wait_channel: read("wchan").and_then(words),
            syscall: read("syscall").and_then(words).map(|text| syscall(&text)),
            // Of one that runs it shows where it was interrupted.
            stack: read("stack").filter(|_| waits).map(|text| frames(&text)).unwrap_or_default(),
            sockets: sockets.map(|sockets| sockets.len()),
            memory: read("status").as_deref().and_then(resident),
            ..Self::bare(known)
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, why, threads, running, .. } = self;
        write!(f, "{why}\n    process {pid}: {}", state(self.state))?;
        if let Some(threads) = threads {
            write!(f, "; {running} of its {threads} threads running")?;
        }
        if let Some((used, within)) = self.cpu {
            write!(f, "\n    CPU time: {used:.2?} in the last {within:.1?}")?;
        }
        if let Some(place) = &self.wait_channel {
            write!(f, "\n    waits in the kernel at {place}")?;
        }
        if let Some(call) = &self.syscall {
            write!(f, "\n    system call: {call}")?;
        }
        if !self.stack.is_empty() {
            write!(f, "\n    kernel stack: {}", self.stack.join(" < "))?;
        }
        if let Some(sockets) = self.sockets {
            write!(f, "\n    open sockets: {sockets}")?;
        }
        if let Some(memory) = self.memory {
            write!(f, "\n    memory: {} MB resident", memory >> 20)?;
        }
        Ok(())
    }
}

fn state(letter: Option<char>) -> String {
    let name = match letter {
        Some('R') => "running (R)",
        Some('S') => "sleeping (S)",
        Some('D') => "waiting for a device (D)",
        Some('T' | 't') => "stopped (T)",
        Some('Z' | 'X') => "ended (Z)",
        Some(letter) => return format!("in state {letter}"),
        None => "nothing more can be seen of it",
    };
    name.to_owned()
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: char,
    cpu: Duration,
    threads: u32,
    /// Since the machine was started.
    began: Duration,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the name in brackets, which may hold anything, brackets too.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            cpu: ticks(number(11)?.checked_add(number(12)?)?),
            threads: u32::try_from(number(17)?).ok()?,
            began: ticks(number(19)?),
        })
    }

    /// How long the process has been there.
    fn age(&self) -> Duration {
        let uptime = fs::read_to_string("/proc/uptime").ok();
        let seconds =
            uptime.as_deref().and_then(|text| text.split_whitespace().next()?.parse().ok());
        let uptime = seconds.and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
        uptime.unwrap_or_default().saturating_sub(self.began)
    }
}

fn ticks(ticks: u64) -> Duration {
    let second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_secs(ticks / second) + Duration::from_secs(ticks % second) / narrow(second)
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The CPU time that a process has used. Waits for nothing.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&text).map(|stat| stat.cpu)
}

/// The process that traces another one: a debugger.
pub(super) fn tracer(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = field(&status, "TracerPid:")?.parse().ok()?;
    Some(tracer).filter(|tracer| *tracer != 0)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

fn resident(status: &str) -> Option<u64> {
    field(status, "VmRSS:")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// How many threads want a processor.
fn running(pid: u32) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let runs = |stat: String| Stat::parse(&stat).is_some_and(|stat| stat.state == 'R');
    let stats = tasks.take(THREADS).filter_map(|t| fs::read_to_string(t.path().join("stat")).ok());
    narrow(stats.filter(|stat| runs(stat.clone())).count() as u64)
}

/// The number and the arguments of a system call; its stack pointer and program counter say nothing to people.
fn syscall(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [number, ref arguments @ .., _, _] if !arguments.is_empty() => {
            format!("number {number} ({})", arguments.join(", "))
        }
        _ => text.to_owned(),
    }
}

/// `[<0>] do_nanosleep+0x70/0x170`, a line for each.
fn frames(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| {
        let name = line.split_whitespace().last()?.split('+').next()?;
        Some(name.to_owned())
    });
    names.take(FRAMES).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn missing(pid: u32) -> Missing {
        let why = "it says nothing".to_owned();
        Missing { pid, verdict: Leave::Hung, why, silent: Duration::from_secs(3), cpu: None }
    }

    #[test]
    fn of_a_process_that_is_there() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let evidence = Evidence::gather(&missing(child.id()));
        assert!(child.kill().is_ok());
        child.wait().unwrap();
        assert!(matches!(evidence.state, Some('S' | 'R' | 'D')), "{evidence:?}");
        assert_eq!(evidence.threads, Some(1), "{evidence:?}");
        assert!(evidence.memory.is_some() && evidence.sockets.is_some(), "{evidence:?}");
        let text = evidence.to_string();
        assert!(text.starts_with("it says nothing\n"), "{text}");
        assert!(text.contains(&format!("process {}", child.id())), "{text}");
        assert!(text.lines().count() <= 8, "{text}");
    }

    #[test]
    fn of_one_that_is_gone_it_is_what_was_known() {
        let gone = missing(4_194_305);
        assert_eq!(Evidence::gather(&gone), Evidence::bare(&gone));
        assert_eq!((tracer(gone.pid), cpu_time(gone.pid)), (None, None));
    }

    #[test]
    fn the_kernels_words() {
        let stat = "12 (a ) R b) S 3 4 0 0 0 0 0 0 0 0 150 50 0 0 0 0 3 0 700 0";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.state, stat.threads), ('S', 3));
        assert_eq!((stat.cpu, stat.began), (ticks(200), ticks(700)));
        assert_eq!(Stat::parse("12 (a").map(|stat| stat.state), None);
        assert_eq!(syscall("running"), "running");
        assert_eq!(syscall("35 0x1 0x2 0x7ffe 0x4005"), "number 35 (0x1, 0x2)");
        let stack = "[<0>] do_nanosleep+0x70/0x170\n[<0>] do_syscall_64+0x1/0x2\n";
        assert_eq!(frames(stack), ["do_nanosleep", "do_syscall_64"]);
        assert_eq!(field("Name:\tx\nTracerPid:\t7\n", "TracerPid:"), Some("7"));
    }
}
