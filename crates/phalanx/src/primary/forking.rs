//! A worker's beginning: its process, its channel, and all that is heard of it.

use super::liveness::Ear;
use super::ports::{User, key_of};
use super::query::query_for;
use super::record::{Fact, Record, listen_to, reap};
use super::shell::Shell;
use super::systemd::{self, Notifications};
use super::{Inner, WorkerHandle, spawn};
use crate::channel;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::permissions;
use crate::settings::{Knows, Settings};
#[cfg(target_os = "linux")]
use crate::sys;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::worker::{SlotId, WorkerId};
use rustix::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a worker may take to listen before that is said.
const SLOW: Duration = Duration::from_secs(5);

impl Shell {
    /// The core wants a worker.
    pub(super) fn fork(&mut self, worker: WorkerId, slot: SlotId) {
        let asked = self.forking.remove(&worker);
        let program = self.version_for(worker);
        let (settings, called) = program.again();
        self.oom.look();
        let env = asked.as_ref().map_or(&[][..], |(env, _)| env);
        let inspectors: Vec<_> =
            self.workers.values().filter_map(|r| r.handle.inspector()).collect();
        let notifications = (settings.knows != Knows::Channel).then(Notifications::open);
        let notifications = notifications.transpose().unwrap_or_else(|error| {
            tracing::warn!("worker {worker} gets no NOTIFY_SOCKET: {error}");
            None
        });
        let forked = self.descriptors_for(&settings, worker, slot).and_then(|descriptors| {
            let notify = notifications.as_ref().map(|n| n.name.clone());
            let inspectors = &inspectors;
            let called = called.clone();
            let given = spawn::Given { worker, slot, env, inspectors, descriptors, notify, called };
            let (channel, spawned) = spawn::spawn(&settings, given)?;
            self.open_channel(channel, worker)
                .map(|ends| (ends, spawned))
                .map_err(Error::os("cannot open a worker's channel"))
        });
        let now = self.now();
        match forked {
            Ok(((sender, receiver), spawned)) => {
                #[cfg(target_os = "linux")]
                let binds = self.hear_binds(worker, &settings, spawned.listener);
                let pid = spawned.child.pid();
                let pipes = [spawned.stdout, spawned.stderr].map(|pipe| pipe.map(Arc::new));
                let open = pipes.each_ref().map(|pipe| pipe.as_ref().map(Arc::downgrade));
                let [stdout, stderr] = pipes;
                let inner = Inner {
                    id: worker,
                    slot,
                    started: Instant::now(),
                    child: spawned.child,
                    channel: sender.clone(),
                    connected: AtomicBool::new(true),
                    online: AtomicBool::new(false),
                    ear: Ear::default(),
                    exit: watch::Sender::new(None),
                    exited_after_disconnect: AtomicU8::new(0),
                    inspector: spawned.inspector,
                    asked: AtomicU64::new(0),
                    metrics: watch::Sender::default(),
                    stdout: Mutex::new(stdout),
                    stderr: Mutex::new(stderr),
                    heard: Default::default(),
                    wishes: self.wishes.clone(),
                    audience: self.audience.clone(),
                };
                let handle = WorkerHandle { inner: Arc::new(inner) };
                let notify = notifications.map(|notifications| notifications.socket);
                let listening = self.begin_to_hear(&handle, receiver, notify.clone());
                let (knows, intercept) = (settings.knows, settings.intercept.clone());
                let mut record = Record::new(now, handle.clone(), sender, knows, intercept);
                record.peer_cookie = spawned.peer_cookie;
                record.channel_fd = spawned.channel_fd;
                record.is_other = permissions::are_others(&settings);
                record.watchdog = settings.watchdog.filter(|_| knows != Knows::Channel);
                self.liveness.timed |= record.watchdog.is_some();
                record._notifications = listening;
                record.notify = notify;
                record.pipes = open;
                #[cfg(target_os = "linux")]
                {
                    record.binds = binds;
                    record.life_line = spawned.life.map(Arc::new);
                }
                record.program = Some(program);
                self.workers.insert(worker, record);
                self.begin_life(now, &handle, &settings);
                self.core.observe(now, CoreEvent::Forked { worker, pid });
                self.later(SLOW, Fact::Slow(worker));
                if settings.knows != Knows::Channel {
                    self.begin_mute(now, worker);
                }
                self.audience.tell(&Event::Fork(handle.clone()));
                if let Some((_, reply)) = asked {
                    let _ = reply.send(Ok(handle));
                }
            }
            Err(error) => {
                // It was to find sockets.
                for port in self.ports.values_mut() {
                    port.users.remove(&worker);
                }
                self.idle_ports = true;
                let (permanent, why) = (spawn::is_permanent(&error), error.to_string());
                self.core.observe(now, CoreEvent::ForkFailed { worker, why, permanent });
                if let Some((_, reply)) = asked {
                    let _ = reply.send(Err(error));
                }
            }
        }
    }

    /// The sockets that a worker finds when it begins, with their names.
    fn descriptors_for(
        &mut self,
        settings: &Settings,
        worker: WorkerId,
        slot: SlotId,
    ) -> Result<Vec<(String, OwnedFd)>> {
        self.hear_shut();
        let mut found = Vec::new();
        if settings.knows == Knows::Channel {
            return Ok(found);
        }
        for (name, address) in &settings.descriptors {
            self.open_port(address, None)?;
            let query = query_for(address, None);
            let Some(port) = self.ports.get_mut(&key_of(&query)) else { continue };
            let place = port.free_place(slot);
            let Some(fd) = port.socket_for(place)? else {
                tracing::warn!(
                    "{address} is not in LISTEN_FDS: with round-robin the primary accepts there (use --policy direct)"
                );
                continue;
            };
            port.give_away(place, false, self.shut.as_mut());
            let shared = fd.try_clone().map_err(Error::os("cannot duplicate a socket"))?;
            found.push((name.clone(), shared));
            port.users.insert(worker, User::unasked(place, query));
            let now = self.now();
            self.watch_queues(now);
        }
        Ok(found)
    }

    /// Hears a worker's calls of bind(2), if the kernel lets it.
    #[cfg(target_os = "linux")]
    fn hear_binds(
        &mut self,
        worker: WorkerId,
        settings: &Settings,
        listener: Option<std::io::Result<sys::seccomp::Listener>>,
    ) -> Option<Arc<sys::seccomp::Listener>> {
        match listener? {
            Ok(listener) => {
                let listener = Arc::new(listener);
                let (ports, facts) = (settings.intercept.clone(), self.facts.clone());
                let (heard, mark) = (Arc::clone(&listener), self.keeping.mark(worker));
                tokio::spawn(super::intercept::watch(worker, heard, ports, mark, facts));
                return Some(listener);
            }
            Err(_) if self.said_no_intercept => {}
            Err(error) => {
                self.said_no_intercept = true;
                tracing::warn!("{}", no_interception(&error));
            }
        }
        None
    }

    /// This side of a worker's channel.
    fn open_channel(
        &self,
        channel: OwnedFd,
        worker: WorkerId,
    ) -> std::io::Result<(channel::Sender, channel::Receiver)> {
        #[cfg(target_os = "linux")]
        if let Some(mark) = self.keeping.mark(worker) {
            return channel::open_marked(channel, self.options.max_message, mark);
        }
        let _ = worker;
        channel::open(channel, self.options.max_message)
    }

    /// Hears what a worker says in either way, and its end.
    pub(super) fn begin_to_hear(
        &self,
        worker: &WorkerHandle,
        receiver: channel::Receiver,
        notify: Option<Arc<OwnedFd>>,
    ) -> JoinSet<()> {
        let mut listening = JoinSet::new();
        if let Some(socket) = notify {
            let facts = self.facts.clone();
            listening.spawn(systemd::listen(worker.id(), worker.pid(), socket, facts));
        }
        tokio::spawn(listen_to(worker.clone(), receiver, self.facts.clone()));
        tokio::spawn(reap(worker.clone(), self.facts.clone()));
        listening
    }
}

/// Why binds are not intercepted, and what can be done.
#[cfg(target_os = "linux")]
fn no_interception(error: &std::io::Error) -> String {
    let why = match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "another program above this one does it already (a primary in a primary, a container's supervisor)"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "seccomp(2) is forbidden here; a container may have to be given a profile that allows it"
        }
        Some(libc::ENOSYS | libc::EINVAL) => "this kernel does not have it (Linux 5.9 or later)",
        _ => "unexpected",
    };
    format!(
        "workers cannot share a port that they bind themselves: {error}: {why}. From the second worker on they will find the port in use, unless they get their sockets by --listen, or ports of their own by --port-base"
    )
}
