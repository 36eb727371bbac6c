//! What is measured: phalanx, and what a user would pick instead, each started in the same way.

mod node;
mod phalanx;

use crate::clock;
use bench::load::{Load, Outcome};
use bench::spawned::{Guarded, Signal};
use bench::{process, wait};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where the programs are that candidates need.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The release build of the tool.
    pub(crate) phalanx: PathBuf,
    /// The release build of `bench/app`'s `serve`.
    pub(crate) app: PathBuf,
}

/// What a candidate is to run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The application: a file of `bench/node`, such as `server.js`.
    pub(crate) app: &'static str,
    pub(crate) workers: usize,
    /// Set for the application.
    pub(crate) env: Vec<(String, String)>,
}

impl Job {
    pub(crate) fn new(app: &'static str, workers: usize) -> Self {
        Self { app, workers, env: Vec::new() }
    }

    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.into(), value.to_string()));
        self
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("node").join(self.app)
    }
}

/// Someone who runs applications.
pub(crate) struct Peer {
    /// As it is called in tables.
    pub(crate) name: &'static str,
    start: Box<dyn Fn(&Programs, &Job, SocketAddr) -> Result<Serving, String>>,
}

impl Peer {
    /// Starts the application on a free port, and returns when every worker has answered.
    pub(crate) fn start(&self, programs: &Programs, job: &Job) -> Result<Serving, String> {
        let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
        let serving = (self.start)(programs, job, address)
            .map_err(|error| format!("{}: {error}", self.name))?;
        serving
            .every_worker_answers(job.workers)
            .map_err(|error| format!("{}: {error}\n{}", self.name, serving.outputs()))?;
        Ok(serving)
    }

    /// Starts the application, and returns at once.
    pub(crate) fn begin(
        &self,
        programs: &Programs,
        job: &Job,
        address: SocketAddr,
    ) -> Result<Serving, String> {
        (self.start)(programs, job, address).map_err(|error| format!("{}: {error}", self.name))
    }
}

/// How a running application is told to load its code anew.
pub(crate) enum Reload {
    /// It cannot.
    None,
    /// A signal to the manager.
    Signal(Signal),
    /// A command, which ends when the reload has.
    Command(Box<dyn Fn() -> Command>),
}

/// A running application. Dropping it ends all of its processes.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    /// The primary, the daemon, the proxy: what stands above the workers or before them.
    pub(crate) manager: Option<u32>,
    /// How it was started, as one would type it.
    pub(crate) command: String,
    pub(crate) reload: Reload,
    guarded: Vec<Guarded>,
    /// What has to be undone at the end, such as a daemon that left its parents.
    _held: Vec<Box<dyn std::any::Any>>,
}

impl Serving {
    /// One process, which is also the manager if there is one.
    fn of(command: &mut Command, address: SocketAddr, manager: bool) -> Result<Self, String> {
        let typed = typed(command);
        let guarded = Guarded::spawn(command).map_err(|e| format!("cannot start {typed}: {e}"))?;
        Ok(Self {
            address,
            manager: manager.then(|| guarded.pid()),
            command: typed,
            reload: Reload::None,
            guarded: vec![guarded],
            _held: Vec::new(),
        })
    }

    fn every_worker_answers(&self, workers: usize) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        wait::until(PATIENCE, "every worker to answer", || {
            // Refused until it listens; each counts for itself.
            let load = Load::new(self.address).clients(1).requests(20);
            seen.extend(run(load).ok()?.by_worker.into_keys());
            (seen.len() >= workers).then_some(())
        })
    }

    /// All processes that run for it now.
    pub(crate) fn processes(&self) -> BTreeSet<u32> {
        let of_children = self.guarded.iter().flat_map(Guarded::record);
        of_children.chain(self.manager).filter(|pid| process::is_alive(*pid)).collect()
    }

    /// Time on a CPU of all its processes so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.processes().into_iter().filter_map(|pid| clock::run_time(pid).ok()).sum()
    }

    /// Time on a CPU of the manager so far; zero without one.
    pub(crate) fn manager_cpu(&self) -> Duration {
        self.manager.and_then(|pid| clock::run_time(pid).ok()).unwrap_or_default()
    }

    /// What its processes printed.
    pub(crate) fn outputs(&self) -> String {
        self.guarded.iter().map(Guarded::output).collect::<Vec<_>>().join("\n")
    }
}

/// A load to its end.
pub(crate) fn run(load: Load) -> Result<Outcome, String> {
    load.start().map(bench::load::Running::join).map_err(|e| e.to_string())
}

/// A command as one would type it.
pub(crate) fn typed(command: &Command) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words
        .map(|word| {
            let word = word.to_string_lossy();
            let inside = word.strip_prefix(root);
            match inside {
                Some(inside) => format!("bench/{inside}"),
                // A program by its name: where it was built says nothing.
                None if word.starts_with('/') => {
                    word.rsplit('/').next().unwrap_or(&word).to_owned()
                }
                None => word.into_owned(),
            }
        })
        .collect();
    words.join(" ")
}

pub(crate) use node::{alone, cluster};
pub(crate) use phalanx::{own, phalanx};
