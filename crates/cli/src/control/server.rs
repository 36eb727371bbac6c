//! The primary's side of the control socket. Whatever a client does, the primary goes on: lines, clients and waits are
//! bounded, and nothing here waits on the primary's thread.

use super::facts::Facts;
use super::words::{
    Answer, Description, LONGEST_REQUEST, Logs, Port, Refusal, Waiting, Word, Worker, changed,
};
use crate::home::{App, Spec};
use crate::processes::{Stat, memory};
use phalanx::{Event, Policy, Primary, Receipt, Reloaded, Report, Status, WorkerId, WorkerState};
use rustix::net::{SendFlags, send};
use rustix::process::geteuid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
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

/// What answers.
pub(super) struct Server {
    pub(super) app: App,
    pub(super) spec: Spec,
    pub(super) started: Instant,
    pub(super) policy: Policy,
    pub(super) facts: Facts,
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

    async fn obey(&self, word: Word, progress: &Progress) -> Result<Value, Refusal> {
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
        match &receipt {
            Some(receipt) => progress.say(receipt.to_string()),
            None => progress.say("old workers still finish what they have: `describe` tells"),
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
        deed: impl Future<Output = phalanx::Result<Reloaded>>,
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
            json!(about)
        });
        told.await.map_err(|error| Refusal::new(error.to_string()))
    }

    fn description(&self, status: &Status) -> Description {
        let worker = |worker: &phalanx::WorkerStatus| Worker {
            id: worker.id.0,
            slot: worker.slot.0,
            pid: worker.pid,
            state: worker.state.to_string(),
            age_ms: ms(worker.age),
            generation: worker.generation,
            restarts: self.facts.restarts(worker.slot),
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
        let serves = |worker: &&phalanx::WorkerStatus| worker.state == WorkerState::Listening;
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
            ready: status.workers.iter().filter(serves).count(),
            workers,
            waiting: waiting.collect(),
            reload: self.facts.reload(),
            logs: Logs {
                primary: self.app.primary_log().display().to_string(),
                out: self.app.out_log().display().to_string(),
                err: self.app.err_log().display().to_string(),
            },
            ..Description::default()
        }
    }
}

/// What a reload came to, when the last worker that left for it is gone.
async fn receipt(mut events: phalanx::Events, generation: u64) -> Option<Receipt> {
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

#[expect(clippy::cast_precision_loss, reason = "a percentage of milliseconds")]
fn measure(worker: &mut Worker) {
    let Some(pid) = worker.pid else { return };
    worker.memory_bytes = memory(pid);
    worker.cpu_ms = Stat::of(pid).and_then(|stat| u64::try_from(stat.cpu.as_millis()).ok());
    let share = |cpu: u64| (cpu as f64 * 1000.0 / worker.age_ms.max(1) as f64).round() / 10.0;
    worker.cpu_percent = worker.cpu_ms.map(share);
}

/// Tells what happens while something is done.
async fn tell(mut events: phalanx::Events, progress: Progress) {
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
        if word != Word::Describe {
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
