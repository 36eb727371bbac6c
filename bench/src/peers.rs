//! What is measured: phalanx, and what a user would pick instead, each started in the same way.

mod nginx;
mod node;
mod phalanx;
mod pm2;
mod reload;
mod rust;
mod tool;
mod trivial;

use crate::{clock, setup};
use bench::load::{Load, Outcome};
use bench::spawned::Guarded;
use bench::{process, wait};
use std::any::Any;
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
    #[expect(clippy::needless_pass_by_value, reason = "numbers and texts as they are written")]
    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.into(), value.to_string()));
        self
    }

    /// The environment of whatever starts the application.
    fn set(&self, command: &mut Command, port: u16) {
        command.envs(self.env.iter().cloned()).env("PORT", port.to_string());
    }

    /// A framework is found where it was installed.
    fn with_packages(&self) -> Result<Self, String> {
        match self.app {
            "express.js" | "fastify.js" => {
                Ok(self.clone().env("NODE_PATH", setup::packages()?.display()))
            }
            _ => Ok(self.clone()),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("node").join(self.app)
    }
}

/// Someone who runs applications.
pub(crate) struct Peer {
    /// As it is called in tables.
    pub(crate) name: &'static str,
    /// Sees to it that what it needs is there.
    needs: fn() -> Result<(), String>,
    /// Whether it is one process, however many workers it is to have.
    single: bool,
    start: Box<Start>,
}

type Start = dyn Fn(&Programs, &Job, SocketAddr) -> Result<Serving, String>;

impl Peer {
    fn new(
        name: &'static str,
        needs: fn() -> Result<(), String>,
        start: impl Fn(&Programs, &Job, SocketAddr) -> Result<Serving, String> + 'static,
    ) -> Self {
        Self { name, needs, single: false, start: Box::new(start) }
    }

    /// Starts the application on a free port, and returns when every worker has answered.
    pub(crate) fn start(&self, programs: &Programs, job: &Job) -> Result<Serving, String> {
        let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
        let serving = self.begin(programs, job, address)?;
        serving
            .every_worker_answers(self.workers(job.workers))
            .map_err(|error| format!("{}: {error}\n{}", self.name, serving.outputs()))?;
        Ok(serving)
    }

    /// How many processes answer when there are to be so many workers.
    pub(crate) fn workers(&self, wanted: usize) -> usize {
        if self.single { 1 } else { wanted }
    }

    /// Starts the application, and returns at once (with pm2: when its daemon is there).
    pub(crate) fn begin(
        &self,
        programs: &Programs,
        job: &Job,
        address: SocketAddr,
    ) -> Result<Serving, String> {
        let with_name = |error| format!("{}: {error}", self.name);
        setup::scratch().map_err(with_name)?;
        let job = job.with_packages().map_err(with_name)?;
        (self.start)(programs, &job, address).map_err(with_name)
    }
}

/// All who run several workers of a Node application.
pub(crate) fn of_node() -> [Peer; 7] {
    [
        phalanx("direct"),
        phalanx("round-robin"),
        cluster("rr"),
        cluster("none"),
        pm2(),
        nginx(),
        raw(),
    ]
}

/// Those that can be measured here, installed if need be, and for each of the others why it is left out.
pub(crate) fn at_hand(peers: impl IntoIterator<Item = Peer>) -> (Vec<Peer>, Vec<String>) {
    let mut missing = Vec::new();
    let there = |peer: &Peer| match (peer.needs)() {
        Ok(()) => true,
        Err(why) => {
            missing.push(format!("{} is left out: {why}", peer.name));
            false
        }
    };
    let peers = peers.into_iter().filter(there).collect();
    (peers, missing)
}

/// The command for one more application, which does not serve, under the same manager.
type Beside = dyn Fn(&Path) -> Command;

/// A running application. Dropping it ends all of its processes.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    /// The primary, the daemon, the proxy: what stands above the workers or before them.
    pub(crate) manager: Option<u32>,
    /// Whether the manager's children are no workers but do the manager's work.
    proxy: bool,
    /// How it was started, as one would type it.
    pub(crate) command: String,
    pub(crate) reload: Reload,
    /// How another application is started under the same manager.
    beside: Option<Box<Beside>>,
    guarded: Vec<Guarded>,
    /// What has to be undone at the end, such as a directory.
    held: Vec<Box<dyn Any>>,
}

impl Serving {
    /// One process, which is also the manager if there is one.
    fn of(command: &mut Command, address: SocketAddr, manager: bool) -> Result<Self, String> {
        let typed = typed(command);
        let guarded = Guarded::spawn(command).map_err(|e| format!("cannot start {typed}: {e}"))?;
        let manager = manager.then(|| guarded.pid());
        Ok(Self { manager, ..Self::many(vec![guarded], address, typed) })
    }

    /// Processes that nobody manages.
    fn many(guarded: Vec<Guarded>, address: SocketAddr, command: String) -> Self {
        Self {
            address,
            manager: None,
            proxy: false,
            command,
            reload: Reload::None,
            beside: None,
            guarded,
            held: Vec::new(),
        }
    }

    /// A manager that is started by this command.
    pub(crate) fn with_manager(command: &mut Command, address: SocketAddr) -> Result<Self, String> {
        Self::of(command, address, true)
    }

    /// Another application under the same manager: it serves when this returns, and ends with what is returned.
    pub(crate) fn neighbour(&self, job: &Job) -> Result<Self, String> {
        let beside = self.beside.as_ref().ok_or("its manager has one application only")?;
        let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
        let mut command = beside(&job.path());
        job.set(&mut command, address.port());
        let neighbour = Self::of(&mut command, address, false)?;
        answers(address).map_err(|error| format!("{error}\n{}", neighbour.outputs()))?;
        Ok(neighbour)
    }

    pub(crate) fn every_worker_answers(&self, workers: usize) -> Result<(), String> {
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
        let mut found: BTreeSet<u32> = self.guarded.iter().flat_map(Guarded::record).collect();
        // A daemon has left those who started it.
        let mut next: Vec<u32> = self.manager.into_iter().collect();
        while let Some(pid) = next.pop() {
            found.insert(pid);
            next.extend(process::children(pid).into_iter().filter(|child| !found.contains(child)));
        }
        found.retain(|pid| process::is_alive(*pid));
        found
    }

    /// The processes that do the manager's work: one, or with nginx also those that it forks.
    pub(crate) fn managers(&self) -> BTreeSet<u32> {
        let children = self.manager.filter(|_| self.proxy).map(process::children);
        self.manager.into_iter().chain(children.into_iter().flatten()).collect()
    }

    /// All others.
    pub(crate) fn workers(&self) -> BTreeSet<u32> {
        let managers = self.managers();
        self.processes().into_iter().filter(|pid| !managers.contains(pid)).collect()
    }

    /// Time on a CPU of all its processes so far.
    pub(crate) fn cpu(&self) -> Duration {
        run_time(self.processes())
    }

    /// Time on a CPU of the manager so far; zero without one.
    pub(crate) fn manager_cpu(&self) -> Duration {
        run_time(self.managers())
    }

    /// What its processes printed.
    pub(crate) fn outputs(&self) -> String {
        self.guarded.iter().map(Guarded::output).collect::<Vec<_>>().join("\n")
    }
}

fn run_time(pids: BTreeSet<u32>) -> Duration {
    pids.into_iter().filter_map(|pid| clock::run_time(pid).ok()).sum()
}

/// Waits for a server to answer.
fn answers(address: SocketAddr) -> Result<(), String> {
    wait::until(PATIENCE, "an answer", || {
        let load = Load::new(address).clients(1).requests(1);
        run(load).is_ok_and(|outcome| outcome.answered == 1).then_some(())
    })
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

pub(crate) use nginx::nginx;
pub(crate) use node::{alone, cluster, raw};
pub(crate) use phalanx::{kept, own, phalanx, started, with};
pub(crate) use pm2::pm2;
pub(crate) use reload::Reload;
pub(crate) use rust::{own_raw, own_threads};
pub(crate) use tool::{Tool, Which};
pub(crate) use trivial::trivial;

#[cfg(test)]
mod tests;
