//! systemd's notification socket (`sd_notify(3))`: one for each worker, so it is known who speaks.

use super::record::{Fact, Record};
use super::shell::Shell;
use crate::address::printable;
use crate::sys::{self, portable};
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::notify::{Word, words};
use phalanx_core::time::Time;
use phalanx_core::worker::{Leave, Phase, WorkerId};
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, SocketAddrUnix, SocketType, UCred,
    bind, recvmsg, sockopt,
};
use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::mpsc;

/// The longest datagram that is read.
const LONGEST: usize = 4096;
/// How often in a second the log has what a worker says of itself.
const MOST_SAID: u32 = 10;

/// A worker's notification socket.
pub(super) struct Notifications {
    pub(super) socket: Arc<OwnedFd>,
    /// What the worker finds in `NOTIFY_SOCKET`.
    pub(super) name: OsString,
}

impl Notifications {
    /// One that has no file, so nothing has to be cleaned up, and no directory has to be open to a worker with
    /// another user.
    pub(super) fn open() -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let socket = Arc::new(portable::new_socket(AddressFamily::UNIX, SocketType::DGRAM)?);
        sockopt::set_socket_passcred(&socket, true)?;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("phalanx/notify/{}/{count}", std::process::id());
            match bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?) {
                // Of another namespace of processes, or by somebody who guessed it.
                Err(rustix::io::Errno::ADDRINUSE) if count < 1 << 20 => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(Self { socket, name: format!("@{name}").into() }),
            }
        }
    }
}

/// Passes on what a worker's processes say.
pub(super) async fn listen(
    worker: WorkerId,
    pid: u32,
    socket: Arc<OwnedFd>,
    facts: mpsc::Sender<Fact>,
) {
    let Ok(socket) = sys::watch(socket, Interest::READABLE) else { return };
    let mut said = false;
    loop {
        // A worker that never pauses must not keep the loop from its other work.
        tokio::task::consume_budget().await;
        let Ok(mut guard) = socket.readable().await else { return };
        match receive(socket.get_ref()) {
            Ok((text, Some(from))) if is_of(from, pid) => {
                if facts.send(Fact::Notified(worker, text)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {
                if !std::mem::replace(&mut said, true) {
                    let what = format!(
                        "somebody who is no process of worker {worker} sends to its NOTIFY_SOCKET: that is ignored"
                    );
                    let _ = facts.send(Fact::Trouble(what)).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(_) => {}
        }
    }
}

/// Whether the sender is one of the worker's processes, or somebody who could do with it what he likes.
fn is_of(from: UCred, worker: u32) -> bool {
    let same_group = rustix::process::getpgid(Some(from.pid))
        .is_ok_and(|group| group.as_raw_nonzero().get().unsigned_abs() == worker);
    same_group || from.uid.is_root() || from.uid == rustix::process::geteuid()
}

/// A datagram and its sender. Descriptors that come with it are closed: who waits for that (the barrier of
/// `sd_notify_barrier(3)`) knows that all before was read.
fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Option<UCred>)> {
    let mut text = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let got = recvmsg(socket, &mut parts, &mut control, portable::RECEIVE)?.bytes;
    let mut from = None;
    // To the last of them: what is left is not dropped as it should be.
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmCredentials(sender) = message {
            from = Some(sender);
        }
    }
    text.truncate(got);
    Ok((text, from))
}

impl Shell {
    /// A worker said something by systemd's protocol.
    pub(super) fn notified(&mut self, now: Time, worker: WorkerId, datagram: &[u8]) {
        for word in words(datagram) {
            let Some(record) = self.workers.get_mut(&worker).filter(|r| r.exit.is_none()) else {
                return;
            };
            let slot = record.handle.slot();
            match word {
                Word::Ready => {
                    let starting = |w: &phalanx_core::worker::Worker| {
                        matches!(w.phase, Phase::Starting { .. })
                    };
                    if self.core.worker(worker).is_some_and(starting) {
                        self.serves_all(worker, |_| true);
                        self.came_up(now, CoreEvent::Listening { worker }, worker);
                    }
                }
                Word::Reloading if record.may_say(now) => {
                    tracing::info!("worker {worker} in slot {slot} reloads itself");
                }
                Word::Stopping => {
                    self.leaves(worker);
                    self.core.observe(now, CoreEvent::Leaving { worker });
                }
                Word::Status(status) if record.may_say(now) => {
                    tracing::info!("worker {worker} in slot {slot} says: {}", printable(status));
                }
                Word::Reloading | Word::Status(_) => {}
                Word::Alive => {
                    record.handle.inner.ear.hear();
                    record.last_sign = record.last_sign.map(|_| now);
                }
                Word::Broken => {
                    let why = "it says that it is broken (WATCHDOG=trigger)".to_owned();
                    self.core.observe(now, CoreEvent::Broken { worker, why });
                }
                Word::Refused(name) => {
                    if record.refused.insert(name.to_owned()) {
                        tracing::warn!(
                            "worker {worker} in slot {slot} sends {name}, which a primary does not do: it is ignored"
                        );
                    }
                }
            }
        }
    }

    /// A worker that has to give signs of life gave one, or begins to have to.
    pub(super) fn sign_of_life(&mut self, now: Time, worker: WorkerId) {
        if let Some(record) = self.workers.get_mut(&worker).filter(|r| r.watchdog.is_some()) {
            record.last_sign = Some(now);
        }
    }

    /// When the first of those that have to give signs of life has been silent for too long.
    pub(super) fn next_silence(&self) -> Option<Time> {
        // Most primaries have nobody who has to.
        self.liveness.timed.then(|| self.workers.values().filter_map(Record::silent_at).min())?
    }

    /// Those that were silent for too long hang.
    pub(super) fn check_silence(&mut self, now: Time) {
        let mut found = Vec::new();
        for record in self.workers.values_mut() {
            let Some(at) = record.silent_at().filter(|at| *at <= now) else { continue };
            let limit = record.watchdog.unwrap_or_default();
            // In case it is heard after all.
            record.last_sign = Some(now);
            // What is found out much too late was not looked for: the primary stood still, and what it was told
            // meanwhile is not read yet.
            if now.since(at) <= limit / 2 {
                found.push((record.handle.id(), limit));
            }
        }
        for (worker, limit) in found {
            let why = format!("it gave no sign of life (WATCHDOG=1) for {limit:?}");
            self.suspect(now, worker, Leave::Hung, why);
        }
    }
}

impl Record {
    /// Whether something that it says of itself is to be in the log: not more than so much in a second.
    fn may_say(&mut self, now: Time) -> bool {
        let (since, times) = &mut self.said;
        if now.since(*since) >= Duration::from_secs(1) {
            (*since, *times) = (now, 0);
        }
        *times += 1;
        *times <= MOST_SAID
    }

    /// When it will have been silent for too long.
    fn silent_at(&self) -> Option<Time> {
        let (last, limit) = (self.last_sign?, self.watchdog?);
        (self.exit.is_none() && !self.leaving).then(|| last.after(limit))
    }
}
