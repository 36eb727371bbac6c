//! This process becomes another program, which takes over: a newer version of itself, or a keeper.
//!
//! Workers, sockets and connections stay what they are, and the process keeps its number. What could be lost is brought
//! to an end first: no more connections are accepted here, and what is on its way to a worker arrives.

use super::ports::Sockets;
use super::record::Fact;
use super::shell::Shell;
use crate::error::{Error, Result};
use crate::keeper::{COULD, Role, become_anew, rehearsal};
use phalanx_core::time::Time;
use std::process::Child;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long the new program may take to say that it could take over.
const REHEARSAL: Duration = Duration::from_secs(10);
/// How long what is on its way may take to arrive.
const QUIET_WITHIN: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How much is told of what a program said that cannot take over.
const MOST_WORDS: usize = 400;

/// On the way to another program.
pub(super) struct Changing {
    role: Role,
    /// It was tried whether it could.
    rehearsed: bool,
    deadline: Time,
    replies: Vec<oneshot::Sender<Result<()>>>,
}

impl Shell {
    /// Somebody wants this primary to become what is at its program's place now.
    pub(super) fn upgrade(&mut self, reply: oneshot::Sender<Result<()>>) {
        if self.core.is_stopping() {
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
        self.changing = Some(Changing { role: Role::Primary, rehearsed: false, deadline, replies });
    }

    /// The new program said whether it could take over.
    pub(super) fn rehearsed(&mut self, heard: std::result::Result<(), String>) {
        let now = self.now();
        match heard {
            Ok(()) => {
                tracing::info!("the new program can take over");
                self.begin_change(now);
            }
            Err(why) => self.stay(&format!("the new program cannot take over: {why}")),
        }
    }

    /// The keeper is gone: this process becomes the next one, and starts the next primary.
    pub(super) fn unkept(&mut self) {
        self.keeping.lose();
        if self.core.is_stopping() {
            return;
        }
        tracing::warn!(
            "the keeper is gone: this process takes its place, and another primary takes over"
        );
        let now = self.now();
        let replies = self.changing.take().map(|changing| changing.replies).unwrap_or_default();
        self.changing =
            Some(Changing { role: Role::Keeper, rehearsed: true, deadline: now, replies });
        self.begin_change(now);
    }

    fn begin_change(&mut self, now: Time) {
        let Some(changing) = &mut self.changing else { return };
        changing.rehearsed = true;
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
        self.changing.as_ref().filter(|changing| changing.rehearsed).map(|_| self.now().after(LOOK))
    }

    /// Changes, if everything has arrived.
    pub(super) fn change(&mut self) {
        let Some(changing) = self.changing.as_ref().filter(|changing| changing.rehearsed) else {
            return;
        };
        let (role, over) = (changing.role, changing.deadline <= self.now());
        let held =
            self.in_flight.len() + self.ports.values().map(|p| p.parked.len()).sum::<usize>();
        let talks = |r: &&super::record::Record| r.exit.is_none() && !r.channel.is_quiet();
        let talking = self.workers.values().filter(talks).count();
        if !over && (held > 0 || talking > 0) {
            return;
        }
        if held > 0 {
            return self.stay(&format!(
                "{held} connections wait here for workers that do not take them; try again when they do"
            ));
        }
        let (text, mut fds) = self.estate();
        let error = match role {
            Role::Primary => {
                fds.extend(self.keeping.pages());
                become_anew(role, &fds, self.keeping.post(), Some(&text))
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

    /// It goes on as it is.
    fn stay(&mut self, why: &str) {
        let Some(changing) = self.changing.take() else { return };
        match changing.role {
            Role::Primary => tracing::error!("no upgrade: {why}; this primary goes on"),
            Role::Keeper => tracing::error!(
                "there is no keeper any more: {why}; when this primary is killed, its workers end"
            ),
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

/// What the new program says; it is killed if it says nothing for long.
fn hear(mut child: Child) -> std::result::Result<(), String> {
    use std::io::Read;
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if begun.elapsed() < REHEARSAL => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        let _ = out.take(64 << 10).read_to_end(&mut said);
    }
    if String::from_utf8_lossy(&said).lines().any(|line| line == COULD) {
        return Ok(());
    }
    if let Some(err) = child.stderr.take() {
        let _ = err.take(64 << 10).read_to_end(&mut said);
    }
    let said = String::from_utf8_lossy(&said);
    let said = crate::address::printable(said.trim());
    let said: String = said.chars().take(MOST_WORDS).collect();
    Err(match ended {
        None => format!("it did not say whether it can within {REHEARSAL:?}"),
        Some(status) if said.is_empty() => format!("it ended with {status} and said nothing"),
        Some(status) => format!("it ended with {status}: {said}"),
    })
}
