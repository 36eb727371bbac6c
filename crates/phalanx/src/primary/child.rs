//! A worker's process, held by its pidfd: no signal can hit a stranger, no end is missed.

use super::WorkerHandle;
use phalanx_core::worker::Exit;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::io;
#[cfg(target_os = "linux")]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A child of this process that is not reaped yet.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// This process sent it SIGKILL.
    killed: AtomicBool,
    #[cfg(target_os = "linux")]
    pidfd: tokio::io::unix::AsyncFd<std::sync::Arc<rustix::fd::OwnedFd>>,
    /// Where its end is told if it is no child of this process.
    #[cfg(target_os = "linux")]
    ends: Option<std::sync::Arc<super::keeping::Ends>>,
}

/// How long the primary waits for a process to stop: it takes effect at once, unless the process has to wait
/// for a processor first.
#[cfg(target_os = "linux")]
const STOPS_WITHIN: Duration = Duration::from_millis(2);
/// How long a process may take to stop before it is let go on.
const PAUSE_LIMIT: Duration = Duration::from_millis(250);

/// How long the parent of a process may take to say how it ended.
#[cfg(target_os = "linux")]
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// How long what a worker leaves behind may take to end.
#[cfg(target_os = "linux")]
const REST_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How often its pidfd is asked meanwhile.
#[cfg(target_os = "linux")]
const LOOK: Duration = Duration::from_millis(10);
/// What is said of an end that nobody saw.
#[cfg(target_os = "linux")]
const UNKNOWN: Exit = Exit::Code(-1);

/// A process that is held still, or will be when the kernel next sees it.
pub(super) struct Paused {
    worker: WorkerHandle,
    /// Whether it is ours to let go.
    ours: bool,
    since: Instant,
}

impl Paused {
    /// Holds a worker for as long as the value lives; one that is stopped already stays so.
    pub(super) fn hold(worker: &WorkerHandle) -> io::Result<Self> {
        let child = &worker.inner.child;
        let ours = !child.is_stopped();
        if ours {
            worker.inner.marks_held(true);
            child.signal(Signal::STOP)?;
        }
        Ok(Self { worker: worker.clone(), ours, since: Instant::now() })
    }

    /// Whether it stands still. On a busy machine it may have to be asked again later.
    pub(super) fn is_still(&self) -> bool {
        self.worker.inner.child.stops_soon()
    }

    /// Whether it is not worth while to ask again.
    pub(super) fn is_over(&self) -> bool {
        self.since.elapsed() >= PAUSE_LIMIT
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if self.ours {
            let _ = self.worker.inner.child.signal(Signal::CONT);
            self.worker.inner.marks_held(false);
        }
    }
}

#[cfg(target_os = "linux")]
impl Child {
    pub(crate) fn new(pid: u32) -> io::Result<Self> {
        use rustix::process::{PidfdFlags, pidfd_open};
        let pid = to_pid(pid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        let pidfd = crate::sys::watch(pidfd.into(), tokio::io::Interest::READABLE)?;
        Ok(Self { pid, killed: AtomicBool::new(false), pidfd, ends: None })
    }

    /// One that another primary forked.
    pub(super) fn inherited(
        pid: u32,
        pidfd: std::sync::Arc<rustix::fd::OwnedFd>,
        ends: std::sync::Arc<super::keeping::Ends>,
    ) -> io::Result<Self> {
        let pidfd = crate::sys::watch(pidfd, tokio::io::Interest::READABLE)?;
        Ok(Self { pid: to_pid(pid)?, killed: AtomicBool::new(false), pidfd, ends: Some(ends) })
    }

    /// How it ended, as the process tells that is its parent.
    async fn told_elsewhere(&self) -> Exit {
        let Some(ends) = &self.ends else { return UNKNOWN };
        let mut ends = ends.subscribe();
        let told = async {
            let ends = ends.wait_for(|ends| ends.contains_key(&self.pid())).await;
            ends.ok().and_then(|ends| ends.get(&self.pid()).copied())
        };
        let seen = async {
            // Whoever reaps it may take a moment.
            loop {
                if let Some(status) = crate::sys::keep::status_of(self.pidfd.get_ref()) {
                    return of_status(status);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            // Most of them are told, and then at once.
            biased;
            Some(exit) = told => exit,
            exit = seen => exit,
            () = tokio::time::sleep(TOLD_WITHIN) => UNKNOWN,
        }
    }

    /// Waits for the end and reaps. To be called once.
    pub(crate) async fn wait(&self) -> io::Result<Exit> {
        use rustix::fd::AsFd;
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        loop {
            let mut guard = self.pidfd.readable().await?;
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let process = || WaitId::PidFd(self.pidfd.get_ref().as_fd());
            match waitid(process(), look | WaitIdOptions::NOWAIT) {
                Ok(Some(status)) => {
                    // As long as it is not reaped, its number is no other group's.
                    self.end_group(Signal::TERM);
                    let _ = waitid(process(), look);
                    end_rest(self.pid);
                    return Ok(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::Code(code),
                        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
                    });
                }
                Ok(None) | Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(Errno::CHILD) if self.ends.is_some() => {
                    let exit = self.told_elsewhere().await;
                    self.end_orphans();
                    return Ok(exit);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends what a process left behind that somebody else reaped. Its number is its group's as long as anybody is left
    /// there, and if it names a process, that is a new one.
    fn end_orphans(&self) {
        if rustix::process::test_kill_process(self.pid) == Err(Errno::SRCH) {
            self.end_group(Signal::TERM);
            end_rest(self.pid);
        }
    }

    /// What it is held by.
    pub(super) fn pidfd(&self) -> &std::sync::Arc<rustix::fd::OwnedFd> {
        self.pidfd.get_ref()
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.note(signal);
        Ok(rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal)?)
    }

    /// Whether a process that was told to stop does so in a moment.
    fn stops_soon(&self) -> bool {
        let begun = Instant::now();
        while !self.is_stopped() {
            if begun.elapsed() >= STOPS_WITHIN {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Whether every thread of it is stopped, by /proc (proc(5)).
    pub(super) fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.is_ok_and(|mut tasks| {
            tasks.all(|task| {
                let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
                let state =
                    stat.ok().and_then(|s| s.rsplit_once(')')?.1.trim_start().chars().next());
                matches!(state, Some('T' | 't'))
            })
        })
    }

    /// A duplicate of one of its descriptors (`pidfd_getfd(2)`), where the kernel allows it.
    pub(crate) fn descriptor(&self, number: i32) -> io::Result<rustix::fd::OwnedFd> {
        use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
        Ok(pidfd_getfd(self.pidfd.get_ref(), number, PidfdGetfdFlags::empty())?)
    }
}

/// Without pidfds: a thread waits, and the number is used for signals until it was reaped.
#[cfg(not(target_os = "linux"))]
impl Child {
    pub(crate) fn new(pid: u32) -> io::Result<Self> {
        Ok(Self { pid: to_pid(pid)?, killed: AtomicBool::new(false) })
    }

    pub(crate) async fn wait(&self) -> io::Result<Exit> {
        use rustix::process::{WaitOptions, waitpid};
        let pid = self.pid;
        let waited = tokio::task::spawn_blocking(move || {
            loop {
                match waitpid(Some(pid), WaitOptions::empty()) {
                    Err(Errno::INTR) => {}
                    other => return other,
                }
            }
        });
        match waited.await.map_err(io::Error::other)?? {
            Some((_, status)) => Ok(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or_default()),
            }),
            None => Err(io::Error::other("the process is not a child")),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.note(signal);
        Ok(rustix::process::kill_process(self.pid, signal)?)
    }

    pub(super) fn is_stopped(&self) -> bool {
        false
    }

    fn stops_soon(&self) -> bool {
        false
    }

    pub(crate) fn descriptor(&self, _: i32) -> io::Result<rustix::fd::OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Child {
    /// Kills it, and what it started.
    pub(crate) fn kill(&self) {
        self.end_group(Signal::KILL);
        // It may have ended in the meantime; then there is nothing to kill.
        let _ = self.signal(Signal::KILL);
    }

    /// Whether it has ended, though it may not be reaped yet.
    #[cfg(target_os = "linux")]
    pub(super) fn has_ended(&self) -> bool {
        use crate::sys::portable::poll_now;
        use rustix::event::PollFlags;
        poll_now(self.pidfd.get_ref(), PollFlags::IN).is_ok_and(|ready| !ready.is_empty())
    }

    fn note(&self, signal: Signal) {
        if signal == Signal::KILL {
            self.killed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether this process sent it SIGKILL.
    pub(super) fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// What it started goes with it: the processes of its group. Only while the number is not another process's.
    fn end_group(&self, signal: Signal) {
        // Nobody may be left, or it has made itself another group.
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }
}

/// How far what /proc says of a process's beginning may be from what was noted of it: it was noted after the fork.
#[cfg(target_os = "linux")]
const NOTED_WITHIN: Duration = Duration::from_secs(2);

/// Kills a process that another primary forked and this one cannot hold, and its group. Without its pidfd, only if
/// /proc says that it began when the worker did: its number may be another process's by now.
#[cfg(target_os = "linux")]
pub(super) fn kill_lost(
    pid: u32,
    pidfd: Option<&rustix::fd::OwnedFd>,
    begun: Option<Instant>,
) -> io::Result<()> {
    use rustix::process::{kill_process, kill_process_group, pidfd_send_signal};
    let number = to_pid(pid)?;
    let sent = match pidfd {
        Some(pidfd) => pidfd_send_signal(pidfd, Signal::KILL),
        None => {
            let there = age_of(pid)?;
            let noted = begun.ok_or_else(|| io::Error::other("its age is not known"))?.elapsed();
            if there.abs_diff(noted) > NOTED_WITHIN {
                return Err(io::Error::other("its number is another process's"));
            }
            kill_process(number, Signal::KILL)
        }
    };
    match sent {
        Ok(()) => {
            // It may have made itself another group.
            let _ = kill_process_group(number, Signal::KILL);
            Ok(())
        }
        // It has ended: that is as good.
        Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How long ago a process began, by /proc (proc(5)).
#[cfg(target_os = "linux")]
fn age_of(pid: u32) -> io::Result<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse::<u64>().ok())
        .ok_or_else(|| io::Error::other("/proc does not say when it began"))?;
    let hertz = rustix::param::clock_ticks_per_second().max(1);
    let began = Duration::from_millis(ticks.saturating_mul(1000) / hertz);
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    Ok(now.saturating_sub(began))
}

/// What wait(2) calls a status.
#[cfg(target_os = "linux")]
fn of_status(status: i32) -> Exit {
    match status & 0x7f {
        0 => Exit::Code((status >> 8) & 0xff),
        signal => Exit::Signal(signal),
    }
}

/// Kills those of a group, whose first process was reaped, that do not end when they are told to.
#[cfg(target_os = "linux")]
fn end_rest(group: Pid) {
    use rustix::process::test_kill_process_group;
    if test_kill_process_group(group).is_err() {
        return;
    }
    let rest = Rest::new(group);
    tokio::spawn(async move {
        let begun = Instant::now();
        while rest.is_there() && begun.elapsed() < REST_ENDS_WITHIN {
            tokio::time::sleep(LOOK * 5).await;
        }
    });
}

/// Processes that a worker left behind: with this value their time is over, also at the end of the primary.
#[cfg(target_os = "linux")]
struct Rest(Pid);

/// So many there are.
#[cfg(target_os = "linux")]
static RESTS: AtomicUsize = AtomicUsize::new(0);

#[cfg(target_os = "linux")]
impl Rest {
    fn new(group: Pid) -> Self {
        RESTS.fetch_add(1, Ordering::Relaxed);
        Self(group)
    }

    /// The number stays the group's as long as anybody is left in it; a process of that number is a new one, and the
    /// group its own.
    fn is_there(&self) -> bool {
        use rustix::process::{test_kill_process, test_kill_process_group};
        test_kill_process(self.0) == Err(Errno::SRCH) && test_kill_process_group(self.0).is_ok()
    }
}

#[cfg(target_os = "linux")]
impl Drop for Rest {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = rustix::process::kill_process_group(self.0, Signal::KILL);
        }
        RESTS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until nothing is left of what workers started.
pub(super) async fn rests_end() {
    #[cfg(target_os = "linux")]
    while RESTS.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(LOOK).await;
    }
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the process has no valid number"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn one_that_cannot_be_held_is_killed_but_no_stranger() {
        use std::os::unix::process::ExitStatusExt;
        for held in [true, false] {
            let begun = Instant::now();
            let mut lost = std::process::Command::new("sleep").arg("60").spawn().expect("forked");
            let pidfd = rustix::process::pidfd_open(
                to_pid(lost.id()).expect("a number"),
                rustix::process::PidfdFlags::empty(),
            );
            let pidfd = pidfd.ok().filter(|_| held);
            let hour = begun.checked_sub(Duration::from_secs(3600));
            if !held {
                kill_lost(lost.id(), None, hour).expect_err("an older one had this number");
                assert!(lost.try_wait().expect("a child").is_none(), "a stranger was killed");
            }
            let killed = kill_lost(lost.id(), pidfd.as_ref(), Some(begun));
            let seen = killed.map(|()| lost.wait().map(|status| status.signal()).ok().flatten());
            let _ = lost.kill();
            assert_eq!(seen.expect("killed"), Some(9), "held: {held}");
        }
    }
}
