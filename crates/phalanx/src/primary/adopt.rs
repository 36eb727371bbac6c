//! Taking over from the primary before this one: its workers, its ports, and where it was.

use super::child::{self, Child};
use super::estate::{
    Estate, WorkerLeft, binds_of, channel_of, life_of, notify_of, pipes_of, process_of,
};
use super::keeping::Keeping;
use super::liveness::Ear;
use super::ports::{Port, PortRules};
use super::record::{Record, Runtime};
use super::shell::Shell;
use super::{Inner, WorkerHandle};
use crate::channel;
use crate::event::Event;
use crate::keeper::{Kind, Left, Past, take_past};
use crate::settings::Knows;
use crate::sys::seccomp::Listener;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::time::Time;
use phalanx_core::worker::{Exit, Phase, Worker, WorkerId};
use rustix::fd::OwnedFd;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use tokio::sync::watch;

/// Numbers of conversations that the last primary may have begun since it last wrote one down.
const BEGUN: u64 = 1 << 32;

impl Shell {
    /// Finds what the start of this process found, and takes over if that was much. Whether it was.
    pub(super) fn begin(&mut self) -> bool {
        let Past { post, book, left } = take_past();
        self.keeping = Keeping::new(post, book);
        self.keeping.listen(self.facts.clone());
        match left {
            Some(left) => self.adopt(left),
            None => false,
        }
    }

    /// Takes over.
    fn adopt(&mut self, left: Left) -> bool {
        let Left { estate, mut fds, exits } = left;
        let estate = match Estate::read(&estate) {
            Ok(estate) => estate,
            Err(why) => {
                tracing::error!("{why}: this one begins anew");
                return false;
            }
        };
        self.keeping.ends.send_modify(|ends| ends.extend(exits));
        self.keeping.has(fds.keys().cloned());
        self.start = estate.start();
        self.upkeep.by_hand = estate.by_hand;
        self.seq = estate.seq.saturating_add(BEGUN);
        let now = self.now();
        let told: Vec<WorkerId> = estate.core.told().collect();
        self.core = estate.core.inherited(now, self.options.spec.clone());
        for port in estate.ports {
            let rules = PortRules {
                policy: port.policy,
                balance: self.options.balance.clone(),
                handed: self.next_knows() == Knows::Channel,
                joins: false,
            };
            if let Some(port) = Port::inherited(port, &rules, &mut fds, self.shut.as_mut()) {
                self.ports.insert(port.key.clone(), port);
            }
        }
        for worker in estate.workers {
            let (id, pid) = (worker.id, worker.pid);
            let process = fds.remove(&process_of(id)).map(Arc::new);
            let begun = self.start.checked_add(worker.started.since_start());
            if let Err(error) = self.adopt_worker(now, worker, process.clone(), &mut fds) {
                // Nobody would ever end it, and another one gets its place.
                let killed = match child::kill_lost(pid, process.as_deref(), begun) {
                    Ok(()) => "it is killed".to_owned(),
                    Err(why) => format!("it was not killed: {why}"),
                };
                tracing::error!(
                    "worker {id} (process {pid}) cannot be taken over: {error}; {killed}"
                );
            }
        }
        // Whose end the last primary had seen, and had not written down.
        let unknown: Vec<WorkerId> = self
            .core
            .workers()
            .map(|worker| worker.id)
            .filter(|id| !self.workers.contains_key(id))
            .collect();
        for worker in unknown {
            self.core.observe(now, CoreEvent::Exited { worker, exit: Exit::Code(-1) });
        }
        for port in self.ports.values_mut() {
            port.users.retain(|worker, _| self.workers.contains_key(worker));
            port.steer();
        }
        for worker in told {
            if self.drains_unknowing(worker) {
                self.begin_drain(now, worker);
            }
        }
        if estate.stops {
            self.begin_stop(now);
        }
        let keys: Vec<String> = self.ports.keys().cloned().collect();
        for key in keys {
            self.start_accepting(&key);
        }
        self.watch_queues(now);
        let there = self.core.workers().filter(|w| matches!(w.phase, Phase::Ready { .. })).count();
        tracing::info!(
            "took over from the last primary: {there} workers go on, {} ports are open",
            self.ports.len()
        );
        true
    }

    fn adopt_worker(
        &mut self,
        now: Time,
        left: WorkerLeft,
        process: Option<Arc<OwnedFd>>,
        fds: &mut BTreeMap<String, OwnedFd>,
    ) -> io::Result<()> {
        let id = left.id;
        let missing = |name: &str| io::Error::other(format!("{name} was not inherited"));
        let process = process.ok_or_else(|| missing(&process_of(id)))?;
        let mut take = |name: String| fds.remove(&name).ok_or_else(|| missing(&name));
        let child = Child::inherited(left.pid, process, Arc::clone(&self.keeping.ends))?;
        let end = take(channel_of(id))?;
        let binds = take(binds_of(id)).ok();
        // Those of an earlier version have none.
        let life = take(life_of(id)).ok().map(Arc::new);
        let notify = take(notify_of(id)).ok().map(Arc::new);
        let pipes = pipes_of(id).map(|name| take(name).ok().map(Arc::new));
        let open = pipes.each_ref().map(|pipe| pipe.as_ref().map(Arc::downgrade));
        let [stdout, stderr] = pipes;
        let limit = self.options.max_message;
        let (sender, receiver) = match self.keeping.mark(id) {
            Some(mark) => {
                if mark.is_set(Kind::Held) {
                    mark.set(Kind::Held, false);
                    // It may have ended in the meantime.
                    let _ = child.signal(Signal::CONT);
                }
                channel::resume(end, limit, mark, left.is_bun)?
            }
            None => channel::open(end, limit)?,
        };
        let started = self.start.checked_add(left.started.since_start()).unwrap_or(self.start);
        let handle = WorkerHandle {
            inner: Arc::new(Inner {
                id,
                slot: left.slot,
                started,
                child,
                channel: sender.clone(),
                connected: AtomicBool::new(left.connected),
                online: AtomicBool::new(left.online),
                ear: Ear::default(),
                exit: watch::Sender::new(None),
                exited_after_disconnect: AtomicU8::new(left.has_left),
                inspector: left.inspector,
                asked: AtomicU64::new(left.pings),
                metrics: watch::Sender::default(),
                stdout: Mutex::new(stdout),
                stderr: Mutex::new(stderr),
                heard: Default::default(),
                wishes: self.wishes.clone(),
                audience: self.audience.clone(),
            }),
        };
        let listening = self.begin_to_hear(&handle, receiver, notify.clone());
        let binds = binds.map(|fd| {
            let listener =
                Arc::new(Listener { fd: Arc::new(fd), interruptible: left.interruptible });
            let (ports, facts) = (left.intercept.clone(), self.facts.clone());
            let (heard, mark) = (Arc::clone(&listener), self.keeping.mark(id));
            tokio::spawn(super::intercept::watch(id, heard, ports, mark, facts));
            listener
        });
        let mut record = Record::new(now, handle.clone(), sender, left.knows, left.intercept);
        record.leaving = left.leaving;
        record.open = left.open;
        record.answers_as = left.answers_as;
        record.pings = left.pings;
        record.peer_cookie = left.peer_cookie;
        record.channel_fd = left.channel_fd;
        record.is_other = left.is_other;
        record.watchdog = left.watchdog;
        self.liveness.timed |= left.watchdog.is_some();
        record.last_sign = left.watched.then_some(now);
        record._notifications = listening;
        record.notify = notify;
        record.binds = binds;
        record.life_line = life;
        record.pipes = open;
        if left.answers_as != Runtime::Unknown {
            record.life.answered(now);
        }
        self.workers.insert(id, record);
        if self.core.worker(id).is_some_and(Worker::is_ready) {
            self.begin_liveness(now, id);
        }
        let settings = super::lock(&self.settings).clone();
        self.begin_life(now, &handle, &settings);
        self.audience.tell(&Event::Adopt(handle));
        Ok(())
    }
}
