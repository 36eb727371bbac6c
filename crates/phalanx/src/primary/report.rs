//! What the core tells: for the log, for events, and for those who wait for it.

use super::record::Trouble;
use super::shell::Shell;
use super::{Over, Reloaded};
use crate::error::Error;
use crate::event::Event;
use phalanx_core::report::{Report, Then};
use phalanx_core::worker::{End, Leave};

impl Shell {
    /// Whoever waits for a reload is told that it does not end as it was meant to.
    pub(super) fn supersede_reload(&mut self, why: &str) {
        self.failed_reload = None;
        for reply in self.reloading.drain(..).chain(self.restarting.drain(..)) {
            let _ = reply.send(Err(Error::Reload(why.to_owned())));
        }
    }

    pub(super) fn report(&mut self, report: Report) {
        log(&report);
        match &report {
            Report::Ended { worker, exit, asked, kind, .. } => {
                self.note_end(*worker, *exit, *asked, *kind);
            }
            Report::NotStarted { worker, slot, why } => self.note_not_started(*worker, *slot, why),
            Report::ReloadDone { generation, replaced, took } => {
                let done = Reloaded { generation: *generation, replaced: *replaced, took: *took };
                for reply in self.reloading.drain(..) {
                    let _ = reply.send(Ok(done));
                }
            }
            Report::Restarted { generation, took } => {
                let replaced = u32::try_from(self.core.wanted()).unwrap_or(u32::MAX);
                let done = Reloaded { generation: *generation, replaced, took: *took };
                for reply in self.restarting.drain(..) {
                    let _ = reply.send(Ok(done));
                }
            }
            Report::ReloadFailed { why, slot, replaced, kept, then, .. } => {
                let text = format!(
                    "the new worker in slot {slot} failed: {why}; {replaced} were replaced before, {kept} old workers go on{then}"
                );
                match (self.failed_reload.take(), then) {
                    (_, Then::GoesBack) => self.failed_reload = Some(text),
                    (Some(first), _) => {
                        self.supersede_reload(&format!("{first}; that failed too: {text}"));
                    }
                    (None, _) => self.supersede_reload(&text),
                }
            }
            Report::RolledBack { replaced, .. } => {
                let why = self.failed_reload.take().unwrap_or_default();
                self.supersede_reload(&format!("{why}; {replaced} went back"));
            }
            Report::CrashLoop { .. } if !self.restarting.is_empty() => {
                for reply in self.restarting.drain(..) {
                    let _ = reply.send(Err(Error::Reload(report.to_string())));
                }
            }
            Report::NeverReady { why: End::NotStarted(why) } => {
                self.failed_start = Some(Over::NotStarted(why.clone()));
            }
            Report::NeverReady { why } => {
                self.failed_start = Some(match self.last_trouble.take() {
                    Some(Trouble { address: Some((address, errno)), .. }) => {
                        Over::NoAddress(address, errno)
                    }
                    Some(Trouble { what, .. }) => {
                        Over::NeverReady(format!("{why}; before that: {what}"))
                    }
                    None => Over::NeverReady(why.to_string()),
                });
            }
            _ => {}
        }
        if self.core.is_stopping() {
            self.supersede_reload("the cluster is stopping");
        }
        match report {
            Report::Receipt(receipt) => self.audience.tell(&Event::Reloaded(receipt)),
            report => self.audience.tell(&Event::Report(report)),
        }
    }
}

/// One line.
fn log(report: &Report) {
    match report {
        // What is over its limit was said, with numbers.
        Report::Replacing { why: Leave::Memory | Leave::Age | Leave::Connections, .. } => {
            tracing::debug!("{report}");
        }
        Report::OverLimit { over } if over.why != Leave::Memory => tracing::info!("{report}"),
        Report::Scaled { .. }
        | Report::Ended { asked: Some(_), .. }
        | Report::SlotEnded { .. }
        | Report::ReloadBegun { .. }
        | Report::ReloadDone { .. }
        | Report::CanaryBegun { .. }
        | Report::CanaryPassed { .. }
        | Report::Receipt(_)
        | Report::RestartBegun { .. }
        | Report::Restarted { .. }
        | Report::Stopped => tracing::info!("{report}"),
        Report::CrashLoop { .. } | Report::ReloadFailed { .. } | Report::NeverReady { .. } => {
            tracing::error!("{report}");
        }
        _ => tracing::warn!("{report}"),
    }
}
