//! This process becomes another program, which takes over: a newer version of itself, or a keeper.
//!
//! Workers, sockets and connections stay what they are, and the process keeps its number. What could be lost is brought
//! to an end first: no more connections are accepted here, and what is on its way to a worker arrives.

use super::ports::Sockets;
use super::record::Fact;
use super::shell::Shell;
use crate::error::{Error, Result};
use crate::keeper::post::Word;
use crate::keeper::{COULD, Role, become_anew, rehearsal};
use crate::sys::portable::poll_now;
use phalanx_core::time::Time;
use phalanx_core::worker::Phase;
use rustix::event::PollFlags;
use rustix::fd::AsFd;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::Read;
use std::process::Child;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long the new program may take to say that it could take over.
const REHEARSAL: Duration = Duration::from_secs(10);
/// How long workers that are starting may take: the next primary would begin them anew.
const STARTED_WITHIN: Duration = Duration::from_secs(10);
/// How soon it is tried again to become a keeper.
const AGAIN: Duration = Duration::from_secs(1);
/// How long what is on its way may take to arrive.
const QUIET_WITHIN: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// So many looks in a row.
const QUIET_LOOKS: u32 = 3;
/// How much is read of what a program says.
const MOST_SAID: usize = 64 << 10;
/// How much is told of what a program said that cannot take over.
const MOST_WORDS: usize = 400;

/// On the way to another program.
pub(super) struct Changing {
    role: Role,
    stage: Stage,
    deadline: Time,
    /// So many looks in a row found nothing on its way.
    quiet: u32,
    replies: Vec<oneshot::Sender<Result<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is tried whether the new program could.
    Rehearsing,
    /// Workers are starting.
    Waiting,
    /// Nothing new is begun, and what was is brought to its end.
    Quieting,
}

impl Shell {
    /// Somebody wants this primary to become what is at its program's place now.
    pub(super) fn upgrade(&mut self, reply: oneshot::Sender<Result<()>>) {
        if self.stops() {
            let _ = reply.send(Err(Error::Stopping));
            return;
        }
        if let Some(changing) = &mut self.changing {
            changing.replies.push(reply);
            return;
        }
        let (estate, _) = self.estate();
        let facts = self.facts.clone();
        match rehearsal(&estate) {
            Ok(child) => {
                tokio::task::spawn_blocking(move || {
                    let heard = hear(child);
                    let _ = facts.blocking_send(Fact::Rehearsed(heard));
                });
            }
            Err(error) => {
                let _ =
                    facts.try_send(Fact::Rehearsed(Err(format!("it cannot be started: {error}"))));
            }
        }
        let (deadline, replies) = (self.now().after(REHEARSAL), vec![reply]);
        let stage = Stage::Rehearsing;
        self.changing = Some(Changing { role: Role::Primary, stage, deadline, quiet: 0, replies });
    }

    /// The new program said whether it could take over.
    pub(super) fn rehearsed(&mut self, heard: std::result::Result<(), String>) {
        let now = self.now();
        // The keeper may have gone meanwhile, which is another matter.
        let rehearsing = |c: &&mut Changing| c.stage == Stage::Rehearsing;
        let Some(changing) = self.changing.as_mut().filter(rehearsing) else { return };
        match heard {
            Ok(()) => {
                tracing::info!("the new program can take over");
                changing.stage = Stage::Waiting;
                changing.deadline = now.after(STARTED_WITHIN);
            }
            Err(why) => self.stay(&format!("the new program cannot take over: {why}")),
        }
    }

    /// The keeper is gone: this process becomes the next one, and starts the next primary.
    pub(super) fn unkept(&mut self) {
        if self.keeping.is_kept() {
            tracing::warn!(
                "the keeper is gone: this process takes its place, and another primary takes over"
            );
        }
        self.keeping.lose();
        if self.stops() {
            return;
        }
        let now = self.now();
        let replies = self.changing.take().map(|changing| changing.replies).unwrap_or_default();
        self.changing = Some(Changing {
            role: Role::Keeper,
            stage: Stage::Waiting,
            deadline: now,
            quiet: 0,
            replies,
        });
        self.quiet(now);
    }

    /// Nothing new is begun.
    fn quiet(&mut self, now: Time) {
        let Some(changing) = &mut self.changing else { return };
        changing.stage = Stage::Quieting;
        changing.deadline = now.after(QUIET_WITHIN);
        // What comes waits in the kernel.
        for port in self.ports.values_mut() {
            if let Sockets::One(_, task) = &mut port.sockets
                && let Some(task) = task.take()
            {
                task.abort();
            }
        }
    }

    /// When it is to be looked at again whether this process may change.
    pub(super) fn changes_at(&self) -> Option<Time> {
        let looks = self.changing.as_ref().filter(|changing| changing.stage != Stage::Rehearsing);
        looks.map(|_| self.now().after(LOOK))
    }

    /// Changes, if everything has arrived.
    pub(super) fn change(&mut self) {
        let Some(Changing { role, stage, deadline, .. }) = self.changing else { return };
        if stage == Stage::Rehearsing {
            return;
        }
        if self.stops() {
            return self.stay("the cluster is stopping");
        }
        let now = self.now();
        let over = deadline <= now;
        if stage == Stage::Waiting {
            let begins = |phase: &Phase| matches!(phase, Phase::Forking | Phase::Starting { .. });
            if over || !self.core.workers().any(|worker| begins(&worker.phase)) {
                self.quiet(now);
            }
            return;
        }
        let held =
            self.in_flight.len() + self.ports.values().map(|p| p.parked.len()).sum::<usize>();
        let quiet = self.is_quiet(held > 0);
        if !over && !quiet {
            return;
        }
        if held > 0 {
            return self.stay(&format!(
                "{held} connections wait here for workers that do not take them; try again when they do"
            ));
        }
        for record in self.workers.values_mut() {
            // Nobody would let it go on.
            record.paused = None;
        }
        for last in &self.before_upgrade {
            last();
        }
        let (text, mut fds) = self.estate();
        let error = match role {
            Role::Primary => {
                fds.extend(self.keeping.pages());
                // If the new one fails before it has taken over, the keeper starts another.
                self.keeping.tell(&Word::Changing);
                let error = become_anew(role, &fds, self.keeping.post(), Some(&text));
                self.keeping.tell(&Word::Ready);
                error
            }
            Role::Keeper => match self.keeping.write(text) {
                Ok(()) => {
                    fds.extend(self.keeping.pages());
                    become_anew(role, &fds, None, None)
                }
                Err(error) => error,
            },
        };
        self.stay(&format!("the program cannot be executed: {error}"));
    }

    /// Whether nothing is on its way through this process. What workers say meanwhile waits in the kernel, once the
    /// answers have come that are waited for.
    fn is_quiet(&mut self, holds_connections: bool) -> bool {
        let there = || self.workers.values().filter(|record| record.exit.is_none());
        let waits = holds_connections || there().any(|record| record.channel.is_pinging());
        there().for_each(|record| record.channel.hold(!waits));
        let quiet = !waits && there().all(|r| r.channel.is_quiet()) && self.has_no_facts();
        let Some(changing) = &mut self.changing else { return false };
        // Tasks that pass something on have their turn between two looks.
        changing.quiet = if quiet { changing.quiet + 1 } else { 0 };
        changing.quiet >= QUIET_LOOKS
    }

    /// It goes on as it is.
    fn stay(&mut self, why: &str) {
        let Some(changing) = self.changing.take() else { return };
        match changing.role {
            Role::Primary => tracing::error!("no upgrade: {why}; this primary goes on"),
            Role::Keeper if self.stops() => {}
            Role::Keeper => {
                tracing::error!(
                    "there is no keeper yet: {why}; when this primary is killed now, its workers end"
                );
                self.later(AGAIN, Fact::Unkept);
            }
        }
        for record in self.workers.values() {
            record.channel.hold(false);
        }
        for reply in changing.replies {
            let _ = reply.send(Err(Error::Upgrade(why.to_owned())));
        }
        let keys: Vec<String> = self.ports.keys().cloned().collect();
        for key in keys {
            self.start_accepting(&key);
        }
    }
}

/// What the new program says; it is killed if it says nothing for long, and all that it started.
fn hear(mut child: Child) -> std::result::Result<(), String> {
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| "no valid process number".to_owned())?;
    let begun = Instant::now();
    let in_time = loop {
        read_some(out.as_mut(), &mut said);
        read_some(err.as_mut(), &mut complained);
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), look) {
            Ok(Some(_)) => break true,
            Ok(None) if begun.elapsed() < REHEARSAL => std::thread::sleep(LOOK),
            Ok(None) => break false,
            Err(error) => return Err(error.to_string()),
        }
    };
    // As long as it is not reaped, its number is no other group's.
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait().map_err(|error| error.to_string())?;
    read_some(out.as_mut(), &mut said);
    if in_time && String::from_utf8_lossy(&said).lines().any(|line| line == COULD) {
        return Ok(());
    }
    read_some(err.as_mut(), &mut complained);
    said.append(&mut complained);
    let said = String::from_utf8_lossy(&said);
    let said = crate::address::printable(&said.trim().replace('\n', "; "));
    let said: String = said.chars().take(MOST_WORDS).collect();
    Err(if !in_time {
        format!("it did not say whether it can within {REHEARSAL:?}")
    } else if said.is_empty() {
        format!("it ended with {status} and said nothing")
    } else {
        format!("it ended with {status}: {said}")
    })
}

/// Reads what is there: somebody else may hold the other end open for ever.
fn read_some<P: Read + AsFd>(pipe: Option<&mut P>, said: &mut Vec<u8>) {
    let Some(pipe) = pipe else { return };
    let mut part = [0; 4096];
    while poll_now(&*pipe, PollFlags::IN).is_ok_and(|ready| ready.contains(PollFlags::IN)) {
        match pipe.read(&mut part) {
            Ok(n @ 1..) if said.len() < MOST_SAID => {
                said.extend_from_slice(part.get(..n).unwrap_or_default());
            }
            Ok(1..) => {}
            _ => return,
        }
    }
}
