//! Signals, as people expect of a server.

use crate::error::{Error, Result};
use crate::primary::Primary;
use crate::worker::Worker;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind};

fn signal(kind: SignalKind) -> Result<Signal> {
    tokio::signal::unix::signal(kind).map_err(Error::os("cannot receive signals"))
}

/// What a primary hears.
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    usr1: Signal,
    usr2: Signal,
    hup: Signal,
}

/// Signals that come so soon after one another are one wish.
const SAME_WISH: Duration = Duration::from_millis(250);

impl Primary {
    /// Obeys signals until the cluster has stopped. SIGTERM and SIGINT: drain, then stop; a second one:
    /// stop at once, as SIGQUIT. SIGUSR1: [upgrade](Self::upgrade). SIGUSR2 and SIGHUP: rolling reload; but SIGHUP to a primary that was started
    /// in a terminal means that the terminal is gone: drain, then stop.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub async fn obey_signals(&self) -> Result<()> {
        let signals = self.hear_signals()?;
        self.obey(signals).await;
        Ok(())
    }

    /// Hears signals from now on.
    #[expect(clippy::unused_self, reason = "only a primary hears these")]
    pub(crate) fn hear_signals(&self) -> Result<Signals> {
        let signals = Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
            hup: signal(SignalKind::hangup())?,
        };
        // They were held back while this process became this program.
        #[cfg(target_os = "linux")]
        crate::sys::keep::let_signals_come();
        Ok(signals)
    }

    pub(crate) async fn obey(&self, signals: Signals) {
        let Signals { mut term, mut int, mut quit, mut usr1, mut usr2, mut hup } = signals;
        let terminal = std::io::stdin().is_terminal() || std::io::stdout().is_terminal();
        let mut told = None;
        let stopped = self.stopped();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => return,
                _ = term.recv() => self.told_to_stop(&mut told, "SIGTERM"),
                _ = int.recv() => self.told_to_stop(&mut told, "SIGINT"),
                _ = quit.recv() => {
                    tracing::info!("SIGQUIT: stopping at once");
                    self.begin_stop(true);
                }
                _ = usr1.recv() => self.told_to_upgrade(),
                _ = usr2.recv() => self.told_to_reload("SIGUSR2"),
                _ = hup.recv() => {
                    if terminal {
                        self.told_to_stop(&mut told, "SIGHUP");
                    } else {
                        self.told_to_reload("SIGHUP");
                    }
                }
            }
        }
    }

    fn told_to_stop(&self, told: &mut Option<Instant>, name: &str) {
        match told {
            None => {
                tracing::info!("{name}: draining, then stopping; once more stops at once");
                *told = Some(Instant::now());
                self.begin_stop(false);
            }
            // Some signal the process and its group (timeout(1) does): that is one wish.
            Some(since) if since.elapsed() < SAME_WISH => {}
            Some(_) => {
                tracing::info!("{name} again: stopping at once");
                self.begin_stop(true);
            }
        }
    }

    fn told_to_upgrade(&self) {
        tracing::info!("SIGUSR1: upgrade in place");
        let primary = self.clone();
        // If it fails, that is in the log.
        tokio::spawn(async move { drop(primary.upgrade().await) });
    }

    fn told_to_reload(&self, name: &str) {
        tracing::info!("{name}: rolling reload");
        let primary = self.clone();
        // Its outcome is in the log and in the events.
        tokio::spawn(async move { drop(primary.reload().await) });
    }
}

impl Worker {
    /// Obeys signals from now on. SIGTERM and SIGINT: finish, then leave, as by [`Worker::disconnect`].
    /// [`Cluster::run`](crate::Cluster::run) does it.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub fn obey_signals(&self) -> Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let worker = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            worker.disconnect().await;
        });
        Ok(())
    }
}
