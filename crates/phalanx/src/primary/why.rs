//! Why workers ended: what is known of each while it lives, and the record of its end.

use super::record::Fact;
use super::shell::Shell;
use super::usage::{Usage, wall};
use super::{Primary, WorkerHandle, lock};
use crate::event::Event;
use crate::settings::Settings;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::ends::{Cause, Curve, EndRecord, LastLines, Wall, Words};
use phalanx_core::time::Time;
use phalanx_core::worker::{Exit, Leave, SlotId, WorkerId};
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, pipe_with};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// How long the last words of a dead worker are waited for; a child of its may hold its streams open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// What is read of a stream at a time.
const CHUNK: usize = 16 << 10;
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
    out_of_memory: bool,
    end: Option<(Exit, Option<Leave>)>,
    /// Both its process and its channel are gone: connections that it had then.
    buried: Option<u32>,
    stdout: Option<Captured>,
    stderr: Option<Captured>,
}

/// The last lines of a stream, while it is passed on.
#[derive(Clone)]
pub(super) struct Captured {
    lines: Arc<Mutex<LastLines>>,
    ended: watch::Receiver<bool>,
}

impl Captured {
    /// Everything that a pipe says comes out of the other one, and its last lines are kept. As before, whoever does
    /// not read holds the worker up, and whoever closes his end is noticed by it.
    pub(super) fn between(pipe: OwnedFd) -> std::io::Result<(OwnedFd, Self)> {
        let mut from = pipe::Receiver::from_owned_fd(pipe)?;
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut to = pipe::Sender::from_owned_fd(ours)?;
        let (end, ended) = watch::channel(false);
        let lines = Arc::new(Mutex::new(LastLines::default()));
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            let mut bytes = vec![0; CHUNK];
            while let Ok(n @ 1..) = from.read(&mut bytes).await {
                let said = bytes.get(..n).unwrap_or_default();
                lock(&kept).push(said);
                if to.write_all(said).await.is_err() {
                    break;
                }
            }
            end.send_replace(true);
        });
        Ok((theirs, Self { lines, ended }))
    }

    fn words(&self) -> Words {
        Words::Lines(lock(&self.lines).lines())
    }
}

/// Puts the capture between a worker's stream and whoever takes it. Where that cannot be, the stream goes on alone.
pub(super) fn capture<S: From<OwnedFd> + Into<OwnedFd>>(
    stream: Option<S>,
) -> (Option<S>, Option<Captured>) {
    let Some(fd) = stream.map(Into::into) else { return (None, None) };
    let Ok(spare) = fd.try_clone() else { return (Some(fd.into()), None) };
    match Captured::between(spare) {
        Ok((theirs, captured)) => (Some(theirs.into()), Some(captured)),
        Err(error) => {
            tracing::debug!("a worker's last words cannot be kept: {error}");
            (Some(fd.into()), None)
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
    pub(super) fn begin_life(
        &mut self,
        now: Time,
        handle: &WorkerHandle,
        settings: &Settings,
        (stdout, stderr): (Option<Captured>, Option<Captured>),
    ) {
        let (worker, slot) = (handle.id(), handle.slot());
        let generation = self.core.worker(worker).map_or(0, |worker| worker.generation);
        let life = Life {
            slot,
            pid: handle.pid(),
            generation,
            program: program(settings),
            begun: now,
            started: wall(),
            ready: None,
            curve: Curve::default(),
            usage: None,
            cpu: None,
            mark: (now, Duration::ZERO),
            accepted: None,
            open: None,
            lag: None,
            detail: None,
            out_of_memory: false,
            end: None,
            buried: None,
            stdout,
            stderr,
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
        if exit != KILLED {
            return;
        }
        let before = std::mem::replace(&mut self.upkeep.oom_kills, oom_kills());
        let by_limit = self.upkeep.cgroups.as_ref().is_some_and(|groups| groups.ran_out(worker));
        let Some(life) = self.upkeep.lives.get_mut(&worker) else { return };
        if by_limit {
            life.detail = Some("the kernel ended it at the hard memory limit (memory.max)".into());
            self.core.observe(now, CoreEvent::Lost { worker, why: Leave::Memory });
        } else if self.upkeep.oom_kills > before && life.detail.is_none() {
            life.out_of_memory = true;
            life.detail = Some(
                "killed while the kernel was ending processes for want of memory: probably by it"
                    .into(),
            );
        }
    }

    /// The core says how and why a worker ended.
    pub(super) fn note_end(&mut self, worker: WorkerId, exit: Exit, asked: Option<Leave>) {
        if let Some(life) = self.upkeep.lives.get_mut(&worker) {
            life.end = Some((exit, asked));
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
        let streams = [life.stdout.clone(), life.stderr.clone()];
        let record = life.record(worker, open);
        if streams.iter().all(Option::is_none) {
            return self.tell_end(record);
        }
        self.upkeep.awaiting += 1;
        let facts = self.facts.clone();
        tokio::spawn(async move {
            let heard = async {
                for captured in streams.iter().flatten() {
                    let _ = captured.ended.clone().wait_for(|ended| *ended).await;
                }
            };
            let _ = tokio::time::timeout(LAST_WORDS, heard).await;
            let [stdout, stderr] =
                streams.map(|s| s.map_or(Words::NotCaptured, |captured| captured.words()));
            let record = EndRecord { stdout, stderr, ..record };
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
        let (exit, asked) = self.end.unzip();
        let cause = match (asked.flatten(), exit) {
            (None, _) if self.out_of_memory => Cause::OutOfMemory,
            (Some(why), _) => Cause::Told(why),
            (None, Some(Exit::Code(0))) => Cause::Finished,
            (None, _) => Cause::Crashed,
        };
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
            cause,
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

/// How many processes the kernel has ended for want of memory, since it began.
pub(super) fn oom_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}
