//! What the primary knows of a worker, and what the tasks report that hear it.

use super::WorkerHandle;
use super::child::Paused;
use super::dispatch::Parked;
use super::evidence::Evidence;
use super::health::Checked;
#[cfg(target_os = "linux")]
use super::intercept::Question;
use super::liveness::Life;
use super::ports::Place;
use super::usage::Look;
use super::version::Version;
use crate::channel::{Incoming, Receiver, Sender, Tag};
use crate::event::Event;
use crate::message::{Handle, Message};
use crate::settings::{Intercept, Knows};
use phalanx_core::drain::Drain;
use phalanx_core::ends::EndRecord;
use phalanx_core::heartbeat::Activity;
use phalanx_core::time::Time;
use phalanx_core::wire::{Act, Cluster, Dialect, Frame, Handle as HandleFrame, Note, SocketNote};
use phalanx_core::worker::{Exit, WorkerId};
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// The message by which a worker says that it is ready, where that is asked for; as programs for pm2 send it.
const READY: &str = "\"ready\"";
/// Buckets of a latency that are kept.
const MAX_BUCKETS: usize = 64;

/// Something that a task saw.
pub(super) enum Fact {
    /// A frame that is not the user's; and who waits until it was dealt with.
    Frame(WorkerId, Frame, oneshot::Sender<()>),
    /// A channel's end; with a reason if it was not a clean one.
    Closed(WorkerId, Option<String>),
    /// A process was reaped.
    Exited(WorkerId, Exit),
    /// The channel of a dead worker did not end in time.
    Lingered(WorkerId),
    /// A worker has been there for a while.
    Alive(WorkerId),
    /// It is time to look at what workers use.
    LookDue,
    /// So it is; and whether somebody had asked.
    Looked(Look, bool),
    /// The last words of a worker were heard.
    WrittenDown(Box<EndRecord>),
    /// A worker sent the message `"ready"`.
    SaysReady(WorkerId),
    /// A worker has had time to listen.
    Slow(WorkerId),
    /// A worker has had time to end after its channel did.
    Outlived(WorkerId),
    /// Connections were taken from a queue that may block.
    Taken(String, Place, Taken),
    /// A worker's process wants to bind or listen.
    #[cfg(target_os = "linux")]
    Asks(WorkerId, Question),
    /// A worker spoke by systemd's protocol.
    Notified(WorkerId, Vec<u8>),
    /// How many connections of a worker that drains without knowing of it are busy, if that can be known.
    Seen(WorkerId, Option<u32>),
    /// A socket may have been without a worker for long.
    Vacant,
    /// How many connections a successor has, if that can be known.
    Proves(WorkerId, Option<u32>),
    /// A worker has had time to listen on all of its ports.
    Settled(WorkerId),
    /// What was seen of a worker whose queue does not move.
    Stands(WorkerId, Activity),
    /// What was seen of a worker that is to be ended.
    Condemned(WorkerId, Arc<Evidence>),
    /// A check of a worker is over.
    Checked(WorkerId, Checked),
    /// A connection was accepted on a port.
    Accepted(Arc<str>, Parked),
    /// A worker's answer to a connection, by its number: whether it took it, and how many it has, if it says so.
    Answered(WorkerId, u64, bool, Option<u32>),
    /// A worker answered a ping, in the way of its runtime.
    Pong(WorkerId, Runtime),
    /// An exception of a worker's that its program did not catch.
    Uncaught(WorkerId, String, bool),
    /// Something to be said.
    Trouble(String),
    /// The keeper is gone.
    #[cfg(target_os = "linux")]
    Unkept,
    /// Another program said whether it could take over.
    #[cfg(target_os = "linux")]
    Rehearsed(Result<(), String>),
}

impl Fact {
    /// Whether the next primary may have to know of what follows: not of single connections, nor of looks.
    pub(super) fn changes(&self) -> bool {
        match self {
            Self::Accepted(..) | Self::Answered(..) | Self::Pong(..) => false,
            Self::Taken(..) | Self::Seen(..) | Self::Proves(..) => false,
            // Of one that is ready nothing follows, and of another it is said there.
            Self::LookDue | Self::Slow(_) => false,
            Self::Frame(_, frame, _) => match frame {
                Frame::Cluster(cluster) => !matches!(cluster.act, Act::Answer(_)),
                Frame::Socket(_) | Frame::Note(Note::Counts { .. }) => false,
                _ => true,
            },
            _ => true,
        }
    }
}

/// What a thread took from a queue.
pub(super) type Taken = std::io::Result<Vec<(OwnedFd, Option<rustix::net::SocketAddrAny>)>>;

/// What kept a worker from being ready.
pub(super) struct Trouble {
    pub(super) worker: WorkerId,
    pub(super) what: String,
    /// An address that it cannot have: which, and the errno.
    pub(super) address: Option<(String, i32)>,
}

/// What speaks at the other end of a channel, as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Runtime {
    /// It was not heard yet.
    Unknown,
    /// Node, or a program on this crate.
    Node,
    Deno,
    Bun,
}

/// A worker, as the shell has it: from its fork until its end was told.
pub(super) struct Record {
    pub(super) handle: WorkerHandle,
    pub(super) channel: Sender,
    /// Queries of its that failed.
    pub(super) failures: u32,
    /// It gets nothing new.
    pub(super) leaving: bool,
    /// A ping waits for its answer; until then no connection is handed to it.
    pub(super) pinged: bool,
    /// How many pings it was sent.
    pub(super) pings: u64,
    /// What it showed to be by its answers; [`Record::runtime`] knows more.
    pub(super) answers_as: Runtime,
    /// Connections it did not acknowledge.
    pub(super) unanswered: u32,
    /// Since when, at least, the oldest of them.
    pub(super) oldest: Option<Time>,
    /// Connections it holds, as far as it told.
    pub(super) open: u32,
    pub(super) refused_until: Option<Time>,
    /// What tells its end of the channel from any other socket.
    pub(super) peer_cookie: u64,
    /// The number that end had in its process.
    pub(super) channel_fd: i32,
    /// What it was started from, if that was by this primary.
    pub(super) program: Option<Arc<Version>>,
    /// What it was expected to know when it was started.
    pub(super) knows: Knows,
    /// Which of its calls of bind(2) the primary answers.
    pub(super) intercept: Intercept,
    /// It has other rights than the primary.
    pub(super) is_other: bool,
    /// It drains without knowing of it.
    pub(super) drain: Option<Drain>,
    /// Since when it listens and has to show that it serves, as the successor of one that does.
    pub(super) proves_since: Option<Time>,
    /// It was waited for, or said, that it does not listen where the one before it does.
    pub(super) said_ports: bool,
    /// How often it has to give a sign of life, and when it last did, once it has to.
    pub(super) watchdog: Option<Duration>,
    pub(super) last_sign: Option<Time>,
    /// Whether it is alive.
    pub(super) life: Life,
    /// What it asked for by systemd's protocol and is not done.
    pub(super) refused: BTreeSet<String>,
    /// Since when, and how often, it has been in the log with something that it says of itself.
    pub(super) said: (Time, u32),
    /// Who listens to it by that protocol, as long as it is there; and on which socket.
    pub(super) _notifications: JoinSet<()>,
    pub(super) notify: Option<Arc<OwnedFd>>,
    /// What it writes to, as long as somebody may read it.
    pub(super) pipes: [Option<Weak<OwnedFd>>; 2],
    /// What tells of its bind(2) calls.
    #[cfg(target_os = "linux")]
    pub(super) binds: Option<Arc<crate::sys::seccomp::Listener>>,
    /// The kernel ends it when this is closed and nobody has a duplicate. Nothing is ever written to it.
    #[cfg(target_os = "linux")]
    pub(super) life_line: Option<Arc<OwnedFd>>,
    /// It is held still, or will be.
    pub(super) paused: Option<Paused>,
    /// Its end, until the end of its channel was seen too.
    pub(super) exit: Option<Exit>,
    pub(super) closed: bool,
}

impl Record {
    /// Of a worker of which nothing is known yet.
    pub(super) fn new(
        now: Time,
        handle: WorkerHandle,
        channel: Sender,
        knows: Knows,
        intercept: Intercept,
    ) -> Self {
        Self {
            handle,
            channel,
            failures: 0,
            leaving: false,
            pinged: false,
            pings: 0,
            answers_as: Runtime::Unknown,
            unanswered: 0,
            oldest: None,
            open: 0,
            refused_until: None,
            peer_cookie: 0,
            paused: None,
            channel_fd: -1,
            program: None,
            knows,
            intercept,
            is_other: false,
            drain: None,
            proves_since: None,
            said_ports: false,
            watchdog: None,
            last_sign: None,
            life: Life::new(now),
            refused: BTreeSet::new(),
            said: (now, 0),
            _notifications: JoinSet::new(),
            notify: None,
            pipes: [None, None],
            #[cfg(target_os = "linux")]
            binds: None,
            #[cfg(target_os = "linux")]
            life_line: None,
            exit: None,
            closed: false,
        }
    }

    /// It said that it is online.
    pub(super) fn is_online(&self) -> bool {
        self.handle.is_online()
    }

    /// It may know nothing of its primary, and has not said that it does.
    pub(super) fn is_mute(&self) -> bool {
        self.knows != Knows::Channel && !self.is_online()
    }

    /// What it is. Bun shows in the way it writes.
    pub(super) fn runtime(&self) -> Runtime {
        match self.channel.dialect() {
            Dialect::Bun => Runtime::Bun,
            Dialect::Node => self.answers_as,
        }
    }

    /// Asks for a sign of life, unless one is awaited already.
    pub(super) fn ping(&mut self) {
        if !std::mem::replace(&mut self.pinged, true) {
            self.pings += 1;
            self.channel.ping(self.pings);
        }
    }
}

/// Reads a worker's channel to its end. The user's messages go to those who listen, and wait for them;
/// everything else goes to the loop.
pub(super) async fn listen_to(
    worker: WorkerHandle,
    mut channel: Receiver,
    facts: mpsc::Sender<Fact>,
) {
    let id = worker.id();
    // The last frame that the loop may not have dealt with: what it tells comes before the next message.
    let mut behind: Option<oneshot::Receiver<()>> = None;
    let why = loop {
        // A worker that never pauses must not keep the loop from its other work.
        tokio::task::consume_budget().await;
        let Incoming { frame, fd } = match channel.next().await {
            Ok(None) => break None,
            Err(broken) => break Some(broken.to_string()),
            Ok(Some(incoming)) => incoming,
        };
        let ear = &worker.inner.ear;
        ear.hear();
        if let (Frame::User(_) | Frame::Handle(_), Some(done)) = (&frame, behind.take()) {
            let _ = done.await;
        }
        match frame {
            Frame::User(text) => {
                let is_ready = text.get() == READY;
                ear.while_waiting(told(&worker, Message::new(text, None))).await;
                if is_ready && facts.send(Fact::SaysReady(id)).await.is_err() {
                    return;
                }
            }
            Frame::Handle(HandleFrame { message, .. }) => {
                ear.while_waiting(handle_from(&worker, *message, fd)).await;
            }
            Frame::Note(Note::Report { id, mut metrics }) => {
                // Whatever it says, it is kept.
                metrics.latency.truncate(MAX_BUCKETS);
                worker.inner.metrics.send_replace((id, metrics));
            }
            Frame::Note(Note::Uncaught(what)) => {
                let size = what.message.len() + what.stack.as_deref().map_or(0, str::len);
                let fact =
                    Fact::Uncaught(id, format!("{}: {}", what.name, what.message), what.caught);
                let event = Event::Uncaught(worker.clone(), Arc::new(what));
                ear.while_waiting(worker.inner.audience.tell_sized(event, size)).await;
                if facts.send(fact).await.is_err() {
                    return;
                }
            }
            frame => {
                let fact = match answer_of(&worker, frame) {
                    Answered::Nothing => continue,
                    Answered::Fact(fact) => fact,
                    Answered::No(frame) => {
                        let (done, dealt_with) = oneshot::channel();
                        behind = Some(dealt_with);
                        Fact::Frame(id, frame, done)
                    }
                };
                if facts.send(fact).await.is_err() {
                    return;
                }
            }
        }
    };
    let _ = facts.send(Fact::Closed(id, why)).await;
}

/// Whether a frame answers something that the primary sent.
enum Answered {
    /// Nothing follows from it.
    Nothing,
    Fact(Fact),
    No(Frame),
}

/// What a frame answers. Answers are told from each other by their order, so this is known where they are read, and nobody
/// is woken for those from which nothing follows.
fn answer_of(worker: &WorkerHandle, frame: Frame) -> Answered {
    let (id, channel) = (worker.id(), &worker.inner.channel);
    let tag = match &frame {
        Frame::HandleAck | Frame::HandleNack => channel.answered(),
        Frame::Socket(SocketNote::Count(key, _)) => {
            return match channel.counted(key) {
                true => Answered::Fact(Fact::Pong(id, Runtime::Deno)),
                false => Answered::Nothing,
            };
        }
        Frame::Cluster(Cluster { ack: Some(seq), act: Act::Answer(answer), .. }) => {
            return match answer.accepted {
                Some(taken) => Answered::Fact(Fact::Answered(id, *seq, taken, answer.open)),
                None => Answered::No(frame),
            };
        }
        _ => return Answered::No(frame),
    };
    match tag {
        Some(Tag::Ping(_)) => Answered::Fact(Fact::Pong(id, Runtime::Node)),
        // It had no descriptor left for the connection.
        Some(Tag::NewConn(seq)) if matches!(frame, Frame::HandleNack) => {
            Answered::Fact(Fact::Answered(id, seq, false, None))
        }
        Some(Tag::NewConn(_) | Tag::Other) | None => Answered::Nothing,
    }
}

/// A handle came from a worker: taken or not, it is answered, or the worker would wait for ever.
async fn handle_from(worker: &WorkerHandle, message: Frame, fd: Option<OwnedFd>) {
    let Some(handle) = fd.and_then(Handle::from_fd) else {
        worker.inner.channel.push(&Frame::HandleNack);
        return;
    };
    worker.inner.channel.push(&Frame::HandleAck);
    if let Frame::User(text) = message {
        told(worker, Message::new(text, Some(handle))).await;
    }
}

/// A message is with everybody who listens.
async fn told(worker: &WorkerHandle, message: Message) {
    let size = message.text().len();
    worker.inner.audience.tell_sized(Event::Message(worker.clone(), message), size).await;
}

pub(super) async fn reap(worker: WorkerHandle, facts: mpsc::Sender<Fact>) {
    let exit = match worker.inner.child.wait().await {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!("cannot wait for worker {}: {error}", worker.id());
            Exit::Code(-1)
        }
    };
    let _ = facts.send(Fact::Exited(worker.id(), exit)).await;
}
