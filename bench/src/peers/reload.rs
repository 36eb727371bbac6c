//! How a running application is told to load its code anew, and how one knows that it has.

use super::{PATIENCE, Serving, answers, typed};
use bench::spawned::{Guarded, Signal};
use bench::wait;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

/// How a running application is told to load its code anew.
pub(crate) enum Reload {
    /// It cannot.
    None,
    /// A signal to the manager, which prints a line with these words when it is done.
    Signal(Signal, &'static str),
    /// A signal to the manager, which prints nothing: it is done when all workers are others.
    Silent(Signal),
    /// A command, which ends when the reload has.
    Command(Box<dyn Fn() -> Command>),
    /// Nobody does it: each process is ended and started anew, one after another.
    Each(Vec<Process>),
}

/// A process without a manager: where it answers by itself, and how it is started.
pub(crate) struct Process {
    pub(super) guarded: usize,
    pub(super) address: SocketAddr,
    pub(super) start: Box<dyn Fn() -> Command>,
}

impl Serving {
    /// Reloads, and returns how long it took until whoever does it said that it is done.
    pub(crate) fn reload(&mut self, patience: Duration) -> Result<Duration, String> {
        let begin = Instant::now();
        match &self.reload {
            Reload::None => return Err("it cannot be reloaded".into()),
            Reload::Signal(signal, words) => {
                let manager = self.guarded.first().ok_or("it has no process")?;
                let mark = manager.mark();
                manager.signal(*signal).map_err(|error| format!("cannot signal it: {error}"))?;
                manager.wait_for_line_since(mark, |line| line.contains(words), patience)?;
            }
            Reload::Silent(signal) => {
                let manager = self.guarded.first().ok_or("it has no process")?;
                let before = self.workers();
                manager.signal(*signal).map_err(|error| format!("cannot signal it: {error}"))?;
                wait::until(patience, "other workers", || {
                    let now = self.workers();
                    (now.is_disjoint(&before) && now.len() >= before.len()).then_some(())
                })?;
            }
            Reload::Command(make) => {
                let mut command = make();
                let typed = typed(&command);
                let failed = |error| format!("{typed}: {error}");
                let command =
                    Guarded::spawn(&mut command).map_err(|error| failed(error.to_string()))?;
                let status = command.wait_exit(patience).map_err(failed)?;
                if !status.success() {
                    return Err(failed(format!("{status}\n{}", command.output())));
                }
            }
            Reload::Each(processes) => {
                for process in processes {
                    let place = self.guarded.get_mut(process.guarded).ok_or("no such process")?;
                    process.restart(place)?;
                    if begin.elapsed() > patience {
                        return Err(format!("not all were restarted within {patience:.1?}"));
                    }
                }
            }
        }
        Ok(begin.elapsed())
    }
}

impl Process {
    fn restart(&self, place: &mut Guarded) -> Result<(), String> {
        place.signal(Signal::TERM).map_err(|error| format!("cannot end it: {error}"))?;
        place.wait_exit(PATIENCE)?;
        let mut command = (self.start)();
        *place = Guarded::spawn(&mut command)
            .map_err(|error| format!("cannot start {}: {error}", typed(&command)))?;
        answers(self.address)
    }
}
