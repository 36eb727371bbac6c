//! The keeper's own work: hold, wait, start the next primary.

use super::KEEPER;
use super::post::{self, Word};
use crate::primary::{inherited_files, raise_descriptor_limit, this_program};
use crate::sys::keep::{next_signal, signals};
use crate::sys::launch::{FIRST_FD, Inheritance, bequeath};
use phalanx_core::keeper::{Primaries, Then};
use phalanx_core::time::Time;
use phalanx_core::worker::Exit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is passed on to the primary.
const PASSED_ON: [i32; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];
/// Ends of processes that are remembered for the next primary.
const MOST_ENDS: usize = 1024;
/// What asks a primary to stop: asked of the next one too, if the one that was asked dies.
const STOPS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

struct Keeper {
    kept: BTreeMap<String, OwnedFd>,
    begun: Instant,
    primaries: Primaries,
    /// Its number, and the post to it as long as both ends are there.
    primary: Option<(Pid, Option<OwnedFd>)>,
    /// Words for the primary, each with the name of its descriptor.
    words: VecDeque<(Word, Option<String>)>,
    ends: VecDeque<(u32, Exit)>,
    /// Signals that came while nobody heard them: as in the kernel, one of each kind.
    waiting: Vec<i32>,
    /// What last told the cluster to stop, and when that was first.
    stop: Option<i32>,
    told_to_stop: Option<Instant>,
    /// When the next primary is started, and with which program.
    again: Option<(Instant, bool)>,
}

/// How long after it was told to stop a keeper waits for a primary that can.
const ALONE_AFTER: Duration = Duration::from_secs(5);
/// How long the workers may take then, until they are killed.
const GRACE_ALONE: Duration = Duration::from_secs(10);

/// Is a keeper until its primary has ended in order; then this process ends as that did.
pub(super) fn keep<T>(kept: BTreeMap<String, OwnedFd>) -> io::Result<T> {
    if std::fs::read_dir("/proc/self/task")?.count() > 1 {
        return Err(io::Error::other(
            "a keeper has to be made before this process has threads: call `phalanx::keep` first",
        ));
    }
    raise_descriptor_limit();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut wanted = PASSED_ON.to_vec();
    wanted.push(libc::SIGCHLD);
    let heard = signals(&wanted)?;
    let mut primaries = Primaries::default();
    let adopted = !kept.is_empty();
    if adopted {
        // Its workers are there: it takes more than one bad start to leave them alone.
        primaries.ready();
    }
    let mut keeper = Keeper {
        kept,
        begun: Instant::now(),
        primaries,
        primary: None,
        words: VecDeque::new(),
        ends: VecDeque::new(),
        waiting: Vec::new(),
        stop: None,
        told_to_stop: None,
        again: None,
    };
    if let Err(error) = keeper.start(false)
        && !adopted
    {
        return Err(error);
    }
    loop {
        keeper.wait_for(&heard)?;
        while let Some(signal) = next_signal(&heard) {
            match signal {
                libc::SIGCHLD => {}
                other => keeper.pass_on(other),
            }
        }
        // A primary's last words come before its end.
        keeper.hear();
        if let Some(code) = keeper.reap() {
            std::process::exit(code);
        }
        keeper.speak();
        if keeper.stops_alone().is_some_and(|at| at <= Instant::now()) {
            keeper.stop_workers();
            std::process::exit(1);
        }
        if let Some((at, own)) = keeper.again
            && at <= Instant::now()
        {
            keeper.again = None;
            if let Err(error) = keeper.start(own) {
                keeper.say(&format!("cannot start a primary: {error}"));
                keeper.again = Some((Instant::now() + phalanx_core::keeper::CAP, !own));
            }
        }
    }
}

impl Keeper {
    fn now(&self) -> Time {
        Time::new(self.begun.elapsed())
    }

    /// Where the log goes; there may be nobody to read it, and nobody is waited for.
    #[expect(clippy::unused_self, reason = "it is the keeper that speaks")]
    fn say(&self, what: &str) {
        let err = io::stderr();
        let now = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
        if !matches!(poll(&mut [PollFd::new(&err, PollFlags::OUT)], now), Ok(1)) {
            return;
        }
        let _ = writeln!(err.lock(), "phalanx keeper {}: {what}", std::process::id());
    }

    fn wait_for(&self, heard: &OwnedFd) -> io::Result<()> {
        let mut polled = vec![PollFd::new(heard, PollFlags::IN)];
        if let Some((_, Some(post))) = &self.primary {
            let wanted =
                if self.words.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            polled.push(PollFd::new(post, wanted));
        }
        let next = self.again.map(|(at, _)| at).into_iter().chain(self.stops_alone()).min();
        let wait = next.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = wait.map(|wait| (wait + Duration::from_millis(1)).min(Duration::from_secs(60)));
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut polled, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a primary, and gives it everything.
    fn start(&mut self, own_program: bool) -> io::Result<()> {
        let (ours, theirs) = post::pair()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let own = Path::new("/proc/self/exe").to_owned();
        let program = if own_program { own } else { this_program().map_err(io::Error::other)? };
        let mut command = Command::new(&program);
        let mut words = std::env::args_os();
        command.arg0(words.next().unwrap_or_default()).args(words);
        // Its terminal's signals are the keeper's to pass on.
        command.env(KEEPER, FIRST_FD.to_string()).process_group(0);
        command.env_remove(super::INHERIT).env_remove(super::REHEARSE);
        let files = inherited_files();
        bequeath(
            &mut command,
            Inheritance { descriptors: vec![theirs], files, ..Inheritance::default() },
        )?;
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("no valid process number"))?;
        self.primaries.started(self.now());
        self.words.clear();
        for name in self.kept.keys() {
            self.words.push_back((Word::Keep(name.clone()), Some(name.clone())));
        }
        self.words.extend(self.ends.iter().map(|(pid, exit)| (Word::Exited(*pid, *exit), None)));
        self.words.push_back((Word::Ready, None));
        self.primary = Some((pid, Some(ours)));
        Ok(())
    }

    /// Says what is to be said, as far as the primary reads.
    fn speak(&mut self) {
        let Some((_, Some(post))) = &self.primary else { return };
        while let Some((word, name)) = self.words.front() {
            let fd = name.as_ref().and_then(|name| self.kept.get(name));
            // What was dropped meanwhile is nobody's any more.
            if name.is_some() && fd.is_none() {
                self.words.pop_front();
                continue;
            }
            match post::send(post, word, fd) {
                Ok(()) => drop(self.words.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.words.clear(),
            }
        }
    }

    /// Hears what the primary says.
    fn hear(&mut self) {
        loop {
            let Some((_, Some(post))) = &self.primary else { return };
            match post::receive(post) {
                Ok(Some((Word::Keep(name), Some(fd)))) => drop(self.kept.insert(name, fd)),
                Ok(Some((Word::Drop(name), _))) => drop(self.kept.remove(&name)),
                Ok(Some((Word::Changing, _))) => self.primaries.changing(),
                Ok(Some((Word::Ready, _))) => {
                    self.primaries.ready();
                    for signal in std::mem::take(&mut self.waiting) {
                        self.pass_on(signal);
                    }
                }
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It has ended, or will.
                Ok(None) | Err(_) => {
                    if let Some((_, post)) = &mut self.primary {
                        *post = None;
                    }
                }
            }
        }
    }

    fn pass_on(&mut self, signal: i32) {
        if STOPS.contains(&signal) && self.stop != Some(libc::SIGQUIT) {
            self.stop = Some(signal);
            self.told_to_stop.get_or_insert_with(Instant::now);
        }
        match (&self.primary, Signal::from_named_raw(signal)) {
            (Some((pid, _)), Some(signal)) if self.primaries.is_ready() => {
                // It may have ended, and not be reaped.
                let _ = kill_process(*pid, signal);
            }
            _ if !self.waiting.contains(&signal) => self.waiting.push(signal),
            _ => {}
        }
    }

    /// When it is over without a primary: told to stop, and there is none that could.
    fn stops_alone(&self) -> Option<Instant> {
        self.told_to_stop.filter(|_| !self.primaries.is_ready()).map(|since| since + ALONE_AFTER)
    }

    /// Ends the workers, and the primary that does not come up.
    fn stop_workers(&mut self) {
        self.say("told to stop, and no primary comes up: the workers are ended");
        if let Some((pid, _)) = self.primary.take() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let processes = self.kept.iter().filter(|(name, _)| name.ends_with(".process"));
        let processes: Vec<&OwnedFd> = processes.map(|(_, pidfd)| pidfd).collect();
        let end = |signal| {
            for process in &processes {
                // It may have ended.
                let _ = rustix::process::pidfd_send_signal(process, signal);
            }
        };
        end(Signal::TERM);
        let deadline = Instant::now() + GRACE_ALONE;
        for process in &processes {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], left.as_ref());
        }
        end(Signal::KILL);
    }

    /// Takes note of all that ended; the exit code if it is over.
    fn reap(&mut self) -> Option<i32> {
        loop {
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else { return None };
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => continue,
            };
            if self.primary.as_ref().is_some_and(|(primary, _)| *primary == pid) {
                self.hear();
                self.primary = None;
                match self.primaries.ended(self.now(), exit) {
                    Then::End(code) => return Some(code),
                    Then::Again { after, own_program } => {
                        // It may have died before it heard it, or wrote it down.
                        self.waiting.extend(self.stop.filter(|stop| !self.waiting.contains(stop)));
                        self.say(&format!(
                            "the primary (process {}) ended with {exit}: another one takes over{}",
                            pid.as_raw_nonzero(),
                            if own_program { ", with the keeper's own program" } else { "" }
                        ));
                        self.again = Some((Instant::now() + after, own_program));
                    }
                }
                continue;
            }
            let number = pid.as_raw_nonzero().get().unsigned_abs();
            if self.ends.len() == MOST_ENDS {
                self.ends.pop_front();
            }
            self.ends.push_back((number, exit));
            if self.primary.is_some() {
                self.words.push_back((Word::Exited(number, exit), None));
            }
        }
    }
}
