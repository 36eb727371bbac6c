//! The primary's side of the control socket. Whatever a client does, the primary goes on: lines, clients and waits are
//! bounded, and nothing here waits on the primary's thread.

use super::app::App;
use super::facts::Facts;
use super::register::Stat;
use super::spec::Spec;
use super::words::{
    Answer, Description, LONGEST_REQUEST, Logs, Port, Refusal, Waiting, Word, Worker, changed,
};
use crate::event::{Event, Events};
use crate::policy::Policy;
use crate::primary::{Primary, Reloaded, Status, WorkerHandle, WorkerState, WorkerStatus};
use phalanx_core::cluster::Receipt;
use phalanx_core::report::Report;
use phalanx_core::worker::WorkerId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};
use rustix::process::geteuid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Clients at a time.
const CLIENTS: usize = 32;
/// How long a client may say nothing, and how long it may take to read a line.
const IDLE: Duration = Duration::from_secs(10);
/// After an error of accept(2), as when there are no descriptors left.
const AGAIN: Duration = Duration::from_millis(100);
/// Lines of progress that wait for a slow client; the rest is left out.
const PROGRESS: usize = 256;
/// How long the last answers may take when the cluster has stopped.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the command waits for the old workers of a reload that is done.
const RECEIPT: Duration = Duration::from_secs(10);

/// Words that only some applications know, and what they do for them.
pub(super) type More = BTreeMap<String, Box<dyn Fn() -> Result<Value, Refusal> + Send + Sync>>;

/// What answers.
pub(super) struct Server {
    pub(super) app: App,
    pub(super) spec: Spec,
    pub(super) started: Instant,
    pub(super) policy: Policy,
    pub(super) facts: Facts,
    /// What the application itself tells.
    pub(super) about: Description,
    pub(super) more: More,
    pub(super) primary: Primary,
}

/// Lines that say how far something is. Nobody may read them.
#[derive(Clone)]
pub(super) struct Progress(mpsc::Sender<String>);

impl Progress {
    fn say(&self, text: impl Into<String>) {
        let _ = self.0.try_send(text.into());
    }
}

impl Server {
    /// Serves until the cluster has stopped.
    pub(super) async fn serve(self, listener: StdListener) {
        let listener = match UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("no control socket: {error}"),
        };
        let server = Arc::new(self);
        let room = Arc::new(Semaphore::new(CLIENTS));
        let mut clients = JoinSet::new();
        let stopped = server.primary.stopped();
        tokio::pin!(stopped);
        loop {
            let accepted = tokio::select! {
                () = &mut stopped => break,
                accepted = listener.accept() => accepted,
            };
            while clients.try_join_next().is_some() {}
            let client = match accepted {
                Ok((client, _)) => client,
                Err(error) => {
                    tracing::debug!("control socket: {error}");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                refuse(&client, &format!("{CLIENTS} clients are served already"));
                continue;
            };
            if !is_trusted(&client) {
                refuse(&client, "only the application's user and root may ask");
                continue;
            }
            let server = Arc::clone(&server);
            clients.spawn(async move {
                let _ = session(client, server).await;
                drop(place);
            });
        }
        let _ = tokio::time::timeout(LAST_WORDS, clients.join_all()).await;
    }

    async fn obey(self: &Arc<Self>, word: Word, progress: &Progress) -> Result<Value, Refusal> {
        match word {
            Word::Describe => self.describe().await,
            Word::Stop { now } => {
                self.primary.begin_stop(now);
                Ok(json!({ "stopping": true }))
            }
            Word::Reload => self.reload(progress).await,
            Word::ScaleTo(workers) => self.scale(workers),
            Word::ScaleBy(by) => self.scale(changed(self.primary.status().await?.wanted, by)?),
            Word::Restart => self.restart(progress).await,
            Word::Upgrade => {
                self.primary.upgrade().await?;
                Ok(Value::Null)
            }
            Word::Why => self.why(),
            Word::Signal { number, slot } => {
                let signal = rustix::process::Signal::from_named_raw(number)
                    .ok_or_else(|| Refusal::new(format!("{number} is no signal")))?;
                self.tell(slot, |worker| worker.kill(signal))
            }
            Word::Send { message, slot } => self.send(message, slot).await,
            Word::Reset => {
                self.facts.reset();
                Ok(Value::Null)
            }
            Word::Ping => Ok(json!({ "pid": std::process::id() })),
            Word::Other(word) => self.other(word).await,
        }
    }

    /// A word of the application's own. It may write files.
    async fn other(self: &Arc<Self>, word: String) -> Result<Value, Refusal> {
        if !self.more.contains_key(&word) {
            let known =
                "describe, stop, reload, scale, restart, upgrade, why, signal, send, reset, ping";
            let more: String = self.more.keys().map(|word| format!(", {word}")).collect();
            return Err(Refusal::new(format!("`{}` is no command", word.escape_debug()))
                .hint(format!("there are {known}{more}")));
        }
        let server = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || match server.more.get(&word) {
            Some(deed) => deed(),
            None => Ok(Value::Null),
        });
        done.await.map_err(|error| Refusal::new(format!("it went wrong: {error}")))?
    }

    /// The workers that are meant.
    fn meant(&self, slot: Option<u32>) -> Result<Vec<WorkerHandle>, Refusal> {
        let workers = self.facts.workers(slot);
        match (workers.is_empty(), slot) {
            (false, _) => Ok(workers),
            (true, Some(slot)) => Err(Refusal::new(format!("there is no worker in slot {slot}"))),
            (true, None) => Err(Refusal::new("there is no worker")),
        }
    }

    /// Tells it to those that are meant. To how many.
    fn tell(
        &self,
        slot: Option<u32>,
        deed: impl Fn(&WorkerHandle) -> crate::Result<()>,
    ) -> Result<Value, Refusal> {
        let workers = self.meant(slot)?;
        let done: Vec<_> = workers.iter().map(|worker| (worker.id().0, deed(worker))).collect();
        let told = done.iter().filter(|(_, done)| done.is_ok()).count();
        match done.into_iter().find_map(|(id, done)| Some((id, done.err()?))) {
            Some((id, error)) if told == 0 => Err(Refusal::new(format!("worker {id}: {error}"))),
            _ => Ok(json!({ "workers": told })),
        }
    }

    async fn send(&self, message: Value, slot: Option<u32>) -> Result<Value, Refusal> {
        let workers = self.meant(slot)?;
        let status = self.primary.status().await?;
        let serves = |id| status.workers.iter().any(|w| w.id == id && is_ready(w));
        let mut failed = None;
        let mut told = 0;
        for worker in &workers {
            if !worker.is_online() && serves(worker.id()) {
                failed = Some((worker.id().0, "it does not know the channel".to_owned()));
                continue;
            }
            // One that does not read keeps nobody waiting for ever.
            match tokio::time::timeout(IDLE, worker.send(&message)).await {
                Ok(Ok(())) => told += 1,
                Ok(Err(error)) => failed = Some((worker.id().0, error.to_string())),
                Err(_) => failed = Some((worker.id().0, "it does not read".to_owned())),
            }
        }
        match failed {
            Some((id, why)) if told == 0 => {
                Err(Refusal::new(format!("the message did not reach worker {id}: {why}"))
                    .hint("programs that know no channel, as Python's, cannot be sent messages"))
            }
            _ => Ok(json!({ "workers": told, "of": workers.len() })),
        }
    }

    /// Why workers ended: for people, and for programs.
    fn why(&self) -> Result<Value, Refusal> {
        let ends = self.primary.ends();
        let texts: Vec<String> = ends.iter().map(ToString::to_string).collect();
        let ends = serde_json::to_value(ends).map_err(|error| Refusal::new(error.to_string()))?;
        Ok(json!({ "texts": texts, "ends": ends }))
    }

    fn scale(&self, workers: usize) -> Result<Value, Refusal> {
        self.primary.scale(workers)?;
        Ok(json!({ "wanted": workers }))
    }

    async fn reload(&self, progress: &Progress) -> Result<Value, Refusal> {
        let events = self.primary.events();
        let reloaded = self.told(progress, self.primary.reload()).await?;
        // The new version serves; the old workers may have something to finish.
        let receipt = tokio::time::timeout(RECEIPT, receipt(events, reloaded.generation)).await;
        let receipt = receipt.ok().flatten();
        if receipt.is_none() {
            progress.say("old workers still finish what they have: `describe` tells");
        }
        Ok(json!({
            "replaced": reloaded.replaced,
            "took_ms": ms(reloaded.took),
            "receipt": receipt.map(|receipt| json!(receipt)),
        }))
    }

    async fn restart(&self, progress: &Progress) -> Result<Value, Refusal> {
        let done = self.told(progress, self.primary.restart()).await?;
        Ok(json!({ "replaced": done.replaced, "took_ms": ms(done.took) }))
    }

    /// Tells what happens meanwhile.
    async fn told(
        &self,
        progress: &Progress,
        deed: impl Future<Output = crate::Result<Reloaded>>,
    ) -> Result<Reloaded, Refusal> {
        let mut telling = tokio::spawn(tell(self.primary.events(), progress.clone()));
        let done = deed.await;
        // It ends by itself with the report of the end, if that was this one's.
        if tokio::time::timeout(LAST_WORDS, &mut telling).await.is_err() {
            telling.abort();
        }
        Ok(done?)
    }

    async fn describe(&self) -> Result<Value, Refusal> {
        let status = self.primary.status().await?;
        let mut about = self.description(&status);
        // Of many processes it takes a moment.
        let told = tokio::task::spawn_blocking(move || {
            about.workers.iter_mut().for_each(measure);
            about.memory_bytes = about.workers.iter().filter_map(|w| w.memory_bytes).sum();
            let shares = about.workers.iter().filter_map(|worker| worker.cpu_percent);
            about.cpu_percent = (shares.sum::<f64>() * 10.0).round() / 10.0;
            json!(about)
        });
        told.await.map_err(|error| Refusal::new(error.to_string()))
    }

    fn description(&self, status: &Status) -> Description {
        let worker = |worker: &WorkerStatus| Worker {
            id: worker.id.0,
            slot: worker.slot.0,
            pid: worker.pid,
            state: worker.state.to_string(),
            age_ms: ms(worker.age),
            generation: worker.generation,
            restarts: self.facts.restarts(worker.slot),
            memory_bytes: worker.memory,
            cpu_percent: worker.cpu.map(|share| (f64::from(share) * 1000.0).round() / 10.0),
            ..Worker::default()
        };
        let mut workers: Vec<Worker> = status.workers.iter().map(worker).collect();
        workers.sort_by_key(|worker| (worker.slot, worker.id));
        let waiting = status.waiting.iter().map(|(slot, wait, crashes)| Waiting {
            slot: slot.0,
            wait_ms: ms(*wait),
            crashes: *crashes,
            restarts: self.facts.restarts(*slot),
        });
        let ports = status.ports.iter().map(|(address, policy)| Port {
            address: address.to_string(),
            policy: policy.to_string(),
        });
        Description {
            name: self.app.name.clone(),
            state: "running".into(),
            primary_pid: Some(std::process::id()),
            uptime_ms: ms(self.started.elapsed()),
            version: env!("CARGO_PKG_VERSION").into(),
            argv: self.spec.argv.clone(),
            cwd: self.spec.cwd.clone(),
            policy: self.policy.to_string(),
            ports: ports.collect(),
            wanted: status.wanted,
            ended: status.ended.len(),
            ready: status.workers.iter().filter(|worker| is_ready(worker)).count(),
            workers,
            waiting: waiting.collect(),
            reload: self.facts.reload(),
            id: self.spec.id,
            namespace: self.spec.namespace.clone(),
            config: self.spec.config.as_ref().map(|file| file.display().to_string()),
            foreground: self.spec.foreground,
            restarts: self.facts.all_restarts(),
            logs: Logs {
                primary: self.app.primary_log().display().to_string(),
                ..self.about.logs.clone()
            },
            ..self.about.clone()
        }
    }
}

fn is_ready(worker: &WorkerStatus) -> bool {
    worker.state == WorkerState::Listening
}

/// What a reload came to, when the last worker that left for it is gone.
async fn receipt(mut events: Events, generation: u64) -> Option<Receipt> {
    loop {
        match events.next().await? {
            Event::Reloaded(receipt) if receipt.generation == generation => return Some(receipt),
            _ => {}
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn measure(worker: &mut Worker) {
    let stat = worker.pid.and_then(Stat::of);
    worker.cpu_ms = stat.and_then(|stat| u64::try_from(stat.cpu.as_millis()).ok());
}

/// Tells what happens while something is done.
async fn tell(mut events: Events, progress: Progress) {
    let mut listening: BTreeSet<WorkerId> = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Fork(worker) => {
                let (id, slot) = (worker.id(), worker.slot());
                progress
                    .say(format!("worker {id} in slot {slot} starts: process {}", worker.pid()));
            }
            Event::Listening(worker, address) if listening.insert(worker.id()) => {
                let (id, slot) = (worker.id(), worker.slot());
                progress.say(format!("worker {id} in slot {slot} listens on {address}"));
            }
            Event::Uncaught(worker, what) => {
                let (id, slot) = (worker.id(), worker.slot());
                progress
                    .say(format!("worker {id} in slot {slot}: {}: {}", what.name, what.message));
            }
            Event::Report(report) => {
                progress.say(report.to_string());
                if matches!(
                    report,
                    Report::ReloadDone { .. }
                        | Report::ReloadFailed { .. }
                        | Report::Restarted { .. }
                ) {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn is_trusted(client: &UnixStream) -> bool {
    client.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

/// Says why not, without waiting: a new socket has room for it.
fn refuse(client: &UnixStream, why: &str) {
    let line = Answer::Refused(Refusal::new(why)).write();
    let _ = send(client, &line, SendFlags::DONTWAIT);
}

/// One client: a request, its answer, the next one.
async fn session(mut client: UnixStream, server: Arc<Server>) -> io::Result<()> {
    let mut kept: Vec<u8> = Vec::new();
    loop {
        let line = match tokio::time::timeout(IDLE, request(&mut client, &mut kept)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(error)) => {
                let refusal = Answer::Refused(Refusal::new(error.to_string()));
                return write(&mut client, &refusal).await;
            }
        };
        let word = match Word::read(&line) {
            Ok(word) => word,
            Err(refusal) => {
                write(&mut client, &Answer::Refused(refusal)).await?;
                continue;
            }
        };
        // One that waited for long may have given up, and said that it was not done.
        if is_gone(&client) {
            return Ok(());
        }
        if !matches!(word, Word::Describe | Word::Ping) {
            let pid = client.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or_default();
            tracing::info!(
                "process {pid} says: {}",
                String::from_utf8_lossy(&word.write()).trim_end()
            );
        }
        let (progress, mut lines) = mpsc::channel(PROGRESS);
        let server = Arc::clone(&server);
        // A client that goes away does not end what it asked for.
        let mut deed = tokio::spawn(async move { server.obey(word, &Progress(progress)).await });
        let done = loop {
            tokio::select! {
                biased;
                Some(text) = lines.recv() => write(&mut client, &Answer::Progress(text)).await?,
                done = &mut deed => break done,
            }
        };
        while let Ok(text) = lines.try_recv() {
            write(&mut client, &Answer::Progress(text)).await?;
        }
        let answer = match done {
            Ok(Ok(value)) => Answer::Done(value),
            Ok(Err(refusal)) => Answer::Refused(refusal),
            Err(error) => Answer::Refused(Refusal::new(format!("it went wrong: {error}"))),
        };
        write(&mut client, &answer).await?;
    }
}

/// Whether nobody is at the other end any more. One that only says no more (shutdown(2)) still waits for an answer.
fn is_gone(client: &UnixStream) -> bool {
    let mut asked = [PollFd::new(client, PollFlags::empty())];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
        && asked.iter().any(|one| one.revents().contains(PollFlags::HUP))
}

/// The next line; `None` at the end.
async fn request(client: &mut UnixStream, kept: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut seen = 0;
    loop {
        if let Some(at) = kept.iter().skip(seen).position(|byte| *byte == b'\n') {
            let rest = kept.split_off(seen + at + 1);
            return Ok(Some(std::mem::replace(kept, rest)));
        }
        seen = kept.len();
        if seen > LONGEST_REQUEST {
            let why = format!("a request has {LONGEST_REQUEST} bytes at most");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        if client.read_buf(kept).await? == 0 {
            return Ok(None);
        }
    }
}

async fn write(client: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let line = answer.write();
    let written = tokio::time::timeout(IDLE, client.write_all(&line)).await;
    written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
