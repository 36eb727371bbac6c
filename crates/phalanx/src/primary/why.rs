//! Why workers ended: what is known of each while it lives, and the record of its end.

use super::output::Heard;
use super::record::Fact;
use super::shell::Shell;
use super::usage::{Usage, wall};
use super::{Primary, WorkerHandle, lock};
use crate::event::Event;
use crate::settings::Settings;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::ends::{Cause, Curve, EndRecord, LastLines, Wall, Words};
use phalanx_core::time::Time;
use phalanx_core::worker::{EndKind, Exit, Leave, Phase, SlotId, WorkerId};
use rustix::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the last words of a dead worker are waited for; a child of its may hold its streams open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// What is copied at most from a stream that nobody reads.
#[cfg(target_os = "linux")]
const MAX_LEFT: usize = 64 << 10;
/// Characters of a program's name and arguments that are kept.
const MAX_PROGRAM: usize = 400;
/// What SIGKILL is.
const KILLED: Exit = Exit::Signal(9);

/// What is kept of a worker for the record of its end, and for whoever judges it.
pub(super) struct Life {
    slot: SlotId,
    pid: u32,
    generation: u64,
    program: String,
    pub(super) begun: Time,
    started: Wall,
    ready: Option<Wall>,
    pub(super) curve: Curve,
    pub(super) usage: Option<Usage>,
    /// The part of a processor that it uses.
    pub(super) cpu: Option<f32>,
    /// Since when that is counted, and what it had used by then.
    pub(super) mark: (Time, Duration),
    /// Connections that it accepted, and has open, as far as it says.
    pub(super) accepted: Option<u64>,
    pub(super) open: Option<u32>,
    /// By how many milliseconds its event loop was late.
    pub(super) lag: Option<f64>,
    /// More about why it goes.
    pub(super) detail: Option<String>,
    end: Option<(Exit, Cause)>,
    /// Both its process and its channel are gone: connections that it had then.
    buried: Option<u32>,
    handle: WorkerHandle,
    /// Which of its streams come to the primary.
    piped: [bool; 2],
}

/// What is in a pipe that nobody reads, and stays there.
#[cfg(target_os = "linux")]
fn look_into(pipe: &OwnedFd) -> LastLines {
    use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, tee};
    let mut lines = LastLines::default();
    let copied = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).and_then(|(from, to)| {
        let n = tee(pipe, &to, MAX_LEFT, SpliceFlags::NONBLOCK)?;
        let mut bytes = vec![0; n];
        let n = rustix::io::read(&from, &mut bytes[..])?;
        lines.push(bytes.get(..n).unwrap_or_default());
        Ok(())
    });
    if let Err(error) = copied
        && error != rustix::io::Errno::AGAIN
    {
        tracing::debug!("a worker's last words cannot be copied: {error}");
    }
    lines
}

#[cfg(not(target_os = "linux"))]
fn look_into(_: &OwnedFd) -> LastLines {
    LastLines::default()
}

/// A worker's stream when it ends.
enum Left {
    /// It went past the primary.
    Elsewhere,
    /// Nobody took it: this is in it.
    Untaken(LastLines),
    /// Somebody reads it.
    Read(Arc<Heard>),
}

impl Left {
    /// The two streams of a worker.
    fn of(handle: &WorkerHandle, piped: [bool; 2]) -> [Self; 2] {
        let inner = &handle.inner;
        let left =
            |piped: bool, pipe: &Mutex<Option<Arc<OwnedFd>>>, heard: &Arc<Heard>| match lock(pipe)
                .as_ref()
            {
                Some(pipe) => Self::Untaken(look_into(pipe)),
                None if piped => Self::Read(Arc::clone(heard)),
                None => Self::Elsewhere,
            };
        let ([out, err], [first, second]) = (piped, &inner.heard);
        [left(out, &inner.stdout, first), left(err, &inner.stderr, second)]
    }

    /// Waits for the end of the stream.
    async fn ended(&self) {
        if let Self::Read(heard) = self {
            let _ = heard.ended.subscribe().wait_for(|ended| *ended).await;
        }
    }

    fn words(self) -> Words {
        match self {
            Self::Elsewhere => Words::NotCaptured,
            Self::Untaken(lines) => Words::Lines(lines.lines()),
            Self::Read(heard) => Words::Lines(lock(&heard.lines).lines()),
        }
    }
}

impl Primary {
    /// Why the last workers ended, oldest first; at most a hundred. They are kept when the cluster has stopped, too.
    ///
    /// ```no_run
    /// # fn f(primary: &phalanx::Primary) {
    /// if let Some(last) = primary.ends().last() {
    ///     println!("{last}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn ends(&self) -> Vec<EndRecord> {
        lock(&self.ends).iter().map(|record| EndRecord::clone(record)).collect()
    }
}

impl Shell {
    /// A worker's process was made.
    pub(super) fn begin_life(&mut self, now: Time, handle: &WorkerHandle, settings: &Settings) {
        let (worker, slot) = (handle.id(), handle.slot());
        let known = self.core.worker(worker);
        let generation = known.map_or(0, |worker| worker.generation);
        // One that was taken over from the last primary has a past.
        let age = handle.inner.started.elapsed();
        let begun = Time::new(now.since_start().saturating_sub(age));
        let ago = |time: Duration| {
            Wall(wall().0.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
        };
        let ready = known.and_then(|worker| match worker.phase {
            Phase::Ready { since } => Some(ago(now.since(since))),
            _ => None,
        });
        let life = Life {
            slot,
            pid: handle.pid(),
            generation,
            program: program(settings),
            begun,
            started: ago(age),
            ready,
            curve: Curve::default(),
            usage: None,
            cpu: None,
            mark: (begun, Duration::ZERO),
            accepted: None,
            open: None,
            lag: None,
            detail: None,
            end: None,
            buried: None,
            handle: handle.clone(),
            piped: [&handle.inner.stdout, &handle.inner.stderr].map(|pipe| lock(pipe).is_some()),
        };
        self.upkeep.lives.insert(worker, life);
        let forks = self.upkeep.forks.entry(slot).or_default();
        *forks = forks.saturating_add(1);
        self.limit(handle);
    }

    /// A worker is ready.
    pub(super) fn ready_in_life(&mut self, worker: WorkerId) {
        if let Some(life) = self.upkeep.lives.get_mut(&worker) {
            life.ready.get_or_insert_with(wall);
        }
    }

    /// A process ended; before anybody draws conclusions: was it the kernel, for want of memory?
    pub(super) fn look_at_end(&mut self, now: Time, worker: WorkerId, exit: Exit) {
        let killed = self.workers.get(&worker).is_some_and(|r| r.handle.inner.child.was_killed());
        if exit != KILLED || killed {
            return;
        }
        let oom = self.oom.explains();
        let by_limit = self.upkeep.cgroups.as_ref().is_some_and(|groups| groups.ran_out(worker));
        let (event, detail) = match oom {
            _ if by_limit => (
                CoreEvent::Lost { worker, why: Leave::Memory },
                "the kernel ended it at the hard memory limit (memory.max)",
            ),
            Some(true) => (
                CoreEvent::OutOfMemory { worker, certain: true },
                "ended by the kernel, for want of memory in its control group",
            ),
            Some(false) => (
                CoreEvent::OutOfMemory { worker, certain: false },
                "killed while the kernel was ending processes for want of memory: probably by it",
            ),
            None => return,
        };
        if let Some(life) = self.upkeep.lives.get_mut(&worker) {
            life.detail = Some(detail.into());
        }
        self.core.observe(now, event);
    }

    /// The core says how and why a worker ended.
    pub(super) fn note_end(
        &mut self,
        worker: WorkerId,
        exit: Exit,
        asked: Option<Leave>,
        kind: EndKind,
    ) {
        if let Some(life) = self.upkeep.lives.get_mut(&worker) {
            life.end = Some((exit, cause_of(exit, asked, kind)));
        }
        self.write_down(worker);
    }

    /// A worker could not be started: that is an end, too.
    pub(super) fn note_not_started(&mut self, worker: WorkerId, slot: SlotId, why: &str) {
        let now = wall();
        self.tell_end(EndRecord {
            worker,
            slot,
            pid: None,
            generation: 0,
            program: program(&lock(&self.settings)),
            started: now,
            ready: None,
            ended: now,
            exit: None,
            cause: Cause::NotStarted(why.to_owned()),
            detail: None,
            curve: Curve::default(),
            connections: None,
            stdout: Words::NotCaptured,
            stderr: Words::NotCaptured,
        });
    }

    /// A worker is gone.
    pub(super) fn buried(&mut self, worker: WorkerId, open: u32) {
        if let Some(cgroups) = &mut self.upkeep.cgroups {
            cgroups.remove(worker);
        }
        if let Some(life) = self.upkeep.lives.get_mut(&worker) {
            life.buried = Some(open);
        }
        self.write_down(worker);
    }

    /// When all is known of a worker that is gone, it is written down, with its last words.
    fn write_down(&mut self, worker: WorkerId) {
        let whole = |life: &Life| life.end.is_some().then_some(life.buried).flatten();
        let Some(open) = self.upkeep.lives.get(&worker).and_then(whole) else { return };
        let Some(life) = self.upkeep.lives.remove(&worker) else { return };
        let [stdout, stderr] = Left::of(&life.handle, life.piped);
        let record = life.record(worker, open);
        let finish = |record, stdout: Left, stderr: Left| EndRecord {
            stdout: stdout.words(),
            stderr: stderr.words(),
            ..record
        };
        if !matches!((&stdout, &stderr), (Left::Read(_), _) | (_, Left::Read(_))) {
            return self.tell_end(finish(record, stdout, stderr));
        }
        self.upkeep.awaiting += 1;
        let facts = self.facts.clone();
        tokio::spawn(async move {
            let heard = async {
                stdout.ended().await;
                stderr.ended().await;
            };
            let _ = tokio::time::timeout(LAST_WORDS, heard).await;
            let record = finish(record, stdout, stderr);
            let _ = facts.send(Fact::WrittenDown(Box::new(record))).await;
        });
    }

    /// The last words of a worker were heard.
    pub(super) fn written_down(&mut self, record: EndRecord) {
        self.upkeep.awaiting = self.upkeep.awaiting.saturating_sub(1);
        self.tell_end(record);
    }

    fn tell_end(&self, record: EndRecord) {
        let record = lock(&self.upkeep.ends).push(record);
        self.audience.tell(&Event::Ended(record));
    }
}

impl Life {
    fn record(self, worker: WorkerId, open: u32) -> EndRecord {
        let (exit, cause) = self.end.unzip();
        EndRecord {
            worker,
            slot: self.slot,
            pid: Some(self.pid),
            generation: self.generation,
            program: self.program,
            started: self.started,
            ready: self.ready,
            ended: wall(),
            exit,
            cause: cause.unwrap_or(Cause::Crashed),
            detail: self.detail,
            curve: self.curve,
            connections: self.open.or((open > 0).then_some(open)),
            stdout: Words::NotCaptured,
            stderr: Words::NotCaptured,
        }
    }
}

/// What is run, as one would type it.
fn program(settings: &Settings) -> String {
    let exec = settings.exec.as_ref().map_or_else(
        || std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        |path| path.display().to_string(),
    );
    let args = settings.exec_args.iter().chain(&settings.args);
    let all = args.fold(exec, |all, arg| all + " " + &arg.to_string_lossy());
    all.chars().take(MAX_PROGRAM).collect()
}

/// What the record says of an end.
const fn cause_of(exit: Exit, asked: Option<Leave>, kind: EndKind) -> Cause {
    match (kind, asked, exit) {
        (EndKind::OutOfMemory { .. }, ..) => Cause::OutOfMemory,
        (_, Some(why), _) => Cause::Told(why),
        (_, None, Exit::Code(0)) => Cause::Finished,
        (_, None, _) => Cause::Crashed,
    }
}
