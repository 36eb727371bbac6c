//! An application as a cluster.

use crate::common::{self, Cluster, LONG, assert_lossless};
use crate::http::{self, Request};
use crate::install::{check_node, install};
use crate::pressure::Pressure;
use bench::spawned::Signal;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

/// How many workers each application has.
pub(crate) const WORKERS: usize = 2;
/// How often each application is reloaded: `PHALANX_TEST_RELOADS`, or three times.
pub(crate) fn reloads() -> u32 {
    std::env::var("PHALANX_TEST_RELOADS").map_or(3, |n| n.parse().expect("a number of reloads"))
}

/// How an application is to be run.
#[derive(Default)]
pub(crate) struct Options<'a> {
    /// More arguments of `phalanx run`.
    pub(crate) more: &'a [&'a str],
    /// The environment.
    pub(crate) env: &'a [(&'a str, &'a str)],
    /// Whether a client address belongs to one worker.
    pub(crate) sticky: bool,
}

/// The command that runs a Node program as a cluster.
fn command(program: &Path, options: &Options<'_>) -> Command {
    let mut command = common::phalanx([OsStr::new("run"), program.as_os_str()]);
    command.args(["-i", &WORKERS.to_string()]).args(options.more);
    if options.sticky {
        command.args(["--balance", "sticky"]);
    }
    command.envs(options.env.iter().copied());
    command
}

/// A running application.
pub(crate) struct App {
    pub(crate) cluster: Cluster,
    sources: u8,
}

impl App {
    /// Starts the application of that directory, and waits until every worker answers.
    pub(crate) fn start(name: &str, program: &str, options: &Options<'_>) -> Self {
        check_node();
        let directory = install(name);
        let address = common::v4();
        let mut command = command(&directory.join(program), options);
        command.current_dir(&directory).env("PORT", address.port().to_string());
        let cluster = Cluster { process: common::spawn(&mut command), address };
        let app = Self { cluster, sources: if options.sticky { 8 } else { 1 } };
        app.cluster.wait_workers(WORKERS);
        app.cluster.until("somebody to listen", || TcpStream::connect(address).ok());
        app.wait_answered(&Request::get("/"), &app.workers());
        app
    }

    pub(crate) fn workers(&self) -> BTreeSet<u32> {
        self.cluster.workers().into_iter().collect()
    }

    /// One request, from one source address after the other. Every worker may answer it.
    pub(crate) fn ask(&self, request: &Request) -> http::Response {
        http::ask(self.cluster.address, self.sources, request)
            .unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.log()))
    }

    /// Asks until each of these workers has answered; every answer must be as expected.
    pub(crate) fn wait_answered(&self, request: &Request, workers: &BTreeSet<u32>) {
        let mut missing = workers.clone();
        self.cluster.until(&format!("{request:?} to be answered by {workers:?}"), || {
            let response = self.ask(request);
            assert!(request.accepts(&response), "{request:?}: {response:?}");
            missing.remove(&response.worker());
            missing.is_empty().then_some(())
        });
    }

    /// Every worker gives the expected answer to every request.
    pub(crate) fn answers(&self, requests: &[Request]) {
        for request in requests {
            self.wait_answered(request, &self.workers());
        }
    }

    /// The `number`th reload: returns the new workers. Old ones may still have something to finish.
    fn reload(&self, number: u32) -> BTreeSet<u32> {
        let before = self.workers();
        self.cluster.reload(number);
        let new: BTreeSet<u32> = &self.workers() - &before;
        assert_eq!(new.len(), WORKERS, "new workers: {new:?}\n{}", self.log());
        new
    }

    /// Reloads under load, with no error at any client; `after` looks at each new generation.
    pub(crate) fn reloads_under_load(&self, mut after: impl FnMut(&BTreeSet<u32>)) {
        let pressure = Pressure::on(self.cluster.address, self.sources);
        let mut generations = vec![self.workers()];
        self.cluster.until("the load to be on", || pressure.goes_on([0, 0]));
        for number in 1..=reloads() {
            let workers = self.reload(number);
            after(&workers);
            generations.push(workers);
            let mark = pressure.mark();
            self.cluster.until("the load to go on", || pressure.goes_on(mark));
        }
        let (each, kept) = pressure.stop();
        assert_lossless("a connection per request", &each, &self.cluster.process);
        assert_lossless("keep-alive", &kept, &self.cluster.process);
        for outcome in [&each, &kept] {
            assert!(outcome.by_status.keys().eq([&200]), "{outcome}");
            assert!(outcome.by_worker.len() >= WORKERS, "{outcome}");
        }
        for worker in generations.iter().flatten() {
            let answers = each.by_worker.get(&worker.to_string()).copied().unwrap_or(0);
            assert!(answers > 0, "worker {worker} answered nothing: {each}");
        }
        self.cluster.wait_workers(WORKERS);
    }

    /// SIGTERM: exit code 0, and nothing is left.
    pub(crate) fn stop(self) {
        self.begin_stop();
        self.stopped();
    }

    pub(crate) fn begin_stop(&self) {
        self.cluster.process.signal(Signal::TERM).expect("the primary runs");
    }

    /// It stops as it should, and every worker of its life has ended by itself.
    pub(crate) fn stopped(self) {
        let code = self.cluster.wait_gone(LONG);
        assert_eq!(code, 0, "{}", self.log());
        let log = self.cluster.process.output();
        let killed =
            log.lines().find(|line| line.contains("is killed") || line.contains("SIGKILL"));
        assert!(killed.is_none(), "{killed:?}\n{}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        common::tail(&self.cluster.process.output())
    }
}
