//! A program that knows nothing of phalanx, three times behind its port: started by one line, asked,
//! reloaded and killed under load.

use super::build::sources;
use super::pings::{self, Ask, Pings};
use super::tree::{accepted, stop, tree};
use crate::common::{Cluster, LONG, PHALANX, clean, is_free, signal, tail};
use bench::load::{Load, Outcome, Phase, Running};
use bench::spawned::{Guarded, Signal};
use bench::wait;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// So many workers each line asks for.
pub(crate) const WORKERS: usize = 3;
/// Longer than a load goes on on a busy machine.
const LOADED: Duration = Duration::from_secs(300);
/// Within that a worker accepts a connection, if one does at all.
const ACCEPTING: Duration = Duration::from_secs(3);
/// The clocks of the load and of the test differ by the time it took to start.
const SLACK: Duration = Duration::from_millis(100);

/// What is spoken on a program's ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http,
    Redis,
    Udp,
}

/// A program and the line that starts it.
pub(crate) struct Program {
    line: String,
    speaks: Speaks,
    directory: PathBuf,
    /// Where it is to listen: `{port}`, and `{other}` if it has two.
    ports: Vec<SocketAddr>,
}

impl Program {
    /// The line is what its documentation would say, but for `{port}` and `{other}`. It is run in the
    /// directory of the programs' sources.
    pub(crate) fn new(line: &str) -> Self {
        let port = || SocketAddr::from((Ipv4Addr::LOCALHOST, wait::free_port()));
        let mut ports = vec![port()];
        let mut line = line.replace("{port}", &ports[0].port().to_string());
        if line.contains("{other}") {
            ports.push(port());
            line = line.replace("{other}", &ports[1].port().to_string());
        }
        Self { line, speaks: Speaks::Http, directory: sources(), ports }
    }

    pub(crate) fn speaking(mut self, speaks: Speaks) -> Self {
        self.speaks = speaks;
        self
    }

    /// It listens at another address of this machine.
    pub(crate) fn on(mut self, host: IpAddr) -> Self {
        self.ports.iter_mut().for_each(|port| port.set_ip(host));
        self
    }

    /// Runs it in another directory.
    pub(crate) fn within(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// It listens on this port too, although the line does not say so.
    pub(crate) fn and_port(mut self, port: SocketAddr) -> Self {
        self.ports.push(port);
        self
    }

    pub(crate) fn ports(&self) -> &[SocketAddr] {
        &self.ports
    }

    fn command(&self, words: &str) -> Guarded {
        let mut words = words_of(words).into_iter();
        let first = words.next().expect("a program");
        let program = if first == "phalanx" { PHALANX } else { &first };
        let mut command = clean(program, words);
        command.current_dir(&self.directory).env("PYTHONDONTWRITEBYTECODE", "1");
        Guarded::spawn(&mut command).unwrap_or_else(|error| {
            panic!("{program}: {error}; `scripts/test` installs what the tests need")
        })
    }

    /// Without phalanx, it serves on its ports: else the fault is not phalanx's.
    pub(crate) fn serves_alone(&self) {
        let (_, words) = self.line.split_once(" -- ").expect("a line with --");
        let process = self.command(words);
        for port in &self.ports {
            let answered = wait::until(LONG, "an answer", || exchange(self.speaks, *port).ok());
            answered.unwrap_or_else(|error| panic!("{words}: {error}\n{}", process.output()));
        }
    }

    /// Runs the line, and waits until all workers serve.
    pub(crate) fn start(self) -> App {
        eprintln!("$ {}", self.line);
        let process = self.command(&self.line);
        let app = App { cluster: Cluster { process, address: self.ports[0] }, program: self };
        app.wait_serving(|_| true);
        app
    }

    /// The whole life: started, reloaded and killed under load, stopped.
    pub(crate) fn bears_reload_and_kill(self) {
        let app = self.start();
        let before = app.workers();
        let load = app.load();
        app.wait_load(&load);
        let first = app.reload(1, &before);
        // The next one finds in each slot what the first workers have left.
        app.wait_load(&load);
        let after = app.reload(2, &first);
        app.wait_load(&load);
        let kill = app.kill(*after.first().expect("a worker"), &load);
        app.wait_serving(|workers| !workers.contains(&kill.worker));
        app.wait_load(&load);
        app.assert_only_accepted_failed(&[kill], load);
        app.stop();
    }
}

/// A line in words as a shell takes it, but nothing is expanded: what is in single quotes is one.
fn words_of(line: &str) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), line);
    while !rest.is_empty() {
        let quoted = rest.strip_prefix('\'');
        let end = if quoted.is_some() { '\'' } else { ' ' };
        let (word, after) =
            quoted.unwrap_or(rest).split_once(end).unwrap_or((quoted.unwrap_or(rest), ""));
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// One question on a socket of its own.
fn exchange(speaks: Speaks, target: SocketAddr) -> io::Result<String> {
    let ask: Ask = match speaks {
        Speaks::Redis => pings::redis,
        Speaks::Udp => pings::udp,
        Speaks::Http => {
            let stream = TcpStream::connect_timeout(&target, LONG)?;
            stream.set_read_timeout(Some(LONG))?;
            return http(stream);
        }
    };
    ask(target, &mut None).map_err(|(phase, error)| io::Error::other(format!("{phase:?}: {error}")))
}

/// One request on a stream: the body, which a server of HTTP/1.0 or 1.1 ends by closing.
fn http(mut stream: TcpStream) -> io::Result<String> {
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") && head[8..].starts_with(" 200") => {
            Ok(body.to_owned())
        }
        _ => Err(io::Error::other(format!("not an answer: {text:?}"))),
    }
}

/// A worker that was killed: between which times, and the connections that it had.
pub(crate) struct Kill {
    pub(crate) worker: u32,
    from: Duration,
    until: Duration,
    had: BTreeSet<SocketAddr>,
}

/// What is put on the ports.
pub(crate) struct Loads {
    begin: Instant,
    http: Vec<Running>,
    pings: Vec<Pings>,
}

impl Loads {
    fn answered(&self) -> Vec<u64> {
        let http = self.http.iter().map(|load| load.progress().answered());
        http.chain(self.pings.iter().map(Pings::answered)).collect()
    }

    fn stop(self) -> Vec<Outcome> {
        let http = self.http.into_iter().map(Running::stop);
        http.chain(self.pings.into_iter().map(Pings::stop)).collect()
    }
}

/// A program that runs as a cluster.
pub(crate) struct App {
    pub(crate) cluster: Cluster,
    pub(crate) program: Program,
}

impl App {
    /// The end of the log, without the lines that some servers write about each request.
    pub(crate) fn log(&self) -> String {
        let output = self.cluster.process.output();
        let about_request = |line: &&str| line.contains("GET / HTTP") || line.ends_with("-> /");
        let lines: Vec<&str> = output.lines().filter(|line| !about_request(line)).collect();
        tail(&lines.join("\n"))
    }

    /// The worker processes: the primary's children.
    pub(crate) fn workers(&self) -> BTreeSet<u32> {
        self.cluster.workers().into_iter().collect()
    }

    /// The worker that a process is, or belongs to.
    fn worker_of(&self, pid: u32) -> Option<u32> {
        self.workers().into_iter().find(|worker| tree(*worker).contains(&pid))
    }

    /// Asks once: which worker answered, `None` if the primary passed it on. Who has the connection
    /// is seen at its socket, because not every program says who it is.
    pub(crate) fn ask(&self, port: SocketAddr) -> io::Result<Option<u32>> {
        let speaks = self.program.speaks;
        if speaks == Speaks::Udp {
            let said = exchange(speaks, port)?;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            let pid = said["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            return Ok(pid.and_then(|pid| self.worker_of(pid)));
        }
        let mut stream = TcpStream::connect_timeout(&port, LONG)?;
        stream.set_read_timeout(Some(LONG))?;
        let local = stream.local_addr()?;
        let owner = wait::until(ACCEPTING, "a worker to accept the connection", || {
            self.workers().into_iter().find(|worker| accepted(*worker).contains(&local))
        });
        if speaks == Speaks::Redis {
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer)?;
            assert_eq!(&answer, b"+PONG\r\n");
        } else {
            http(stream)?;
        }
        Ok(owner.ok())
    }

    /// Asks each port until each of the workers has answered there, and there are as many as there
    /// are to be, and they are as they should be.
    pub(crate) fn wait_serving(&self, good: impl Fn(&BTreeSet<u32>) -> bool) -> BTreeSet<u32> {
        let mut serving = BTreeSet::new();
        for port in self.program.ports() {
            let (mut answered, mut last) = (BTreeSet::new(), None);
            let found = wait::until(LONG, "every worker to answer", || {
                match self.ask(*port) {
                    Ok(worker) => answered.extend(worker),
                    Err(error) => last = Some(error),
                }
                let workers = self.workers();
                let all = workers.len() == WORKERS && workers.is_subset(&answered);
                (all && good(&workers)).then_some(workers)
            });
            serving = found.unwrap_or_else(|error| {
                let workers = self.workers();
                panic!(
                    "{port}: {error}; answered: {answered:?} of {workers:?}, the last error: {last:?}\n{}",
                    self.log()
                )
            });
        }
        serving
    }

    /// A connection for each request, on each port.
    pub(crate) fn load(&self) -> Loads {
        let mut loads = Loads { begin: Instant::now(), http: Vec::new(), pings: Vec::new() };
        for port in self.program.ports() {
            match self.program.speaks {
                Speaks::Http => {
                    // The pause leaves the machine some room: this is about losses, not about speed.
                    let load = Load::new(*port).clients(12).think(Duration::from_millis(4));
                    loads.http.push(load.duration(LOADED).start().expect("the load starts"));
                }
                Speaks::Redis => loads.pings.push(Pings::start(*port, pings::redis, LOADED)),
                Speaks::Udp => loads.pings.push(Pings::start(*port, pings::udp, LOADED)),
            }
        }
        loads
    }

    /// Waits until each load has gone on.
    pub(crate) fn wait_load(&self, loads: &Loads) {
        let before = loads.answered();
        self.cluster.until("the load to go on", || {
            let now = loads.answered();
            now.iter().zip(&before).all(|(now, before)| *now > before + 20).then_some(())
        });
    }

    /// Reloads, and waits until none but new workers are there: the old ones may have been at their
    /// last connections when the reload was done.
    pub(crate) fn reload(&self, number: u32, before: &BTreeSet<u32>) -> BTreeSet<u32> {
        self.cluster.reload(number);
        self.wait_serving(|workers| workers.is_disjoint(before))
    }

    /// Kills a worker with all that belongs to it, its first process last: else the others would
    /// accept a little more, and nobody would know what they had.
    pub(crate) fn kill(&self, worker: u32, loads: &Loads) -> Kill {
        let from = loads.begin.elapsed();
        let stopped = stop(worker);
        let had = accepted(worker);
        for pid in stopped.into_iter().rev() {
            signal(pid, Signal::KILL);
        }
        let until = loads.begin.elapsed();
        eprintln!("{worker} was killed at {from:.3?} to {until:.3?}, it had {had:?}");
        Kill { worker, from, until, had }
    }

    /// Ends the loads. Only what a killed worker had accepted may have failed; of datagrams nobody
    /// sees who has them, so it may be one for each kill of a worker with one thread.
    pub(crate) fn assert_only_accepted_failed(&self, kills: &[Kill], loads: Loads) {
        let had: usize = kills.iter().map(|kill| kill.had.len()).sum();
        let mut lost = 0;
        for outcome in loads.stop() {
            eprintln!("{} kills, which had accepted {had} connections: {outcome}", kills.len());
            let report = || format!("{outcome}\n{}", self.log());
            assert_eq!(outcome.failures(Phase::Connect), 0, "{}", report());
            for failure in &outcome.errors {
                let explained = kills.iter().any(|kill| {
                    let owned = failure.local.is_some_and(|local| kill.had.contains(&local));
                    (owned || self.program.speaks == Speaks::Udp)
                        && failure.began <= kill.until + SLACK
                        && failure.at + SLACK >= kill.from
                });
                assert!(explained, "no killed worker had it: {failure}\n{}", report());
                lost += 1;
            }
            assert_eq!(outcome.errors.len() as u64, outcome.failed, "all failures were looked at");
            assert!(outcome.by_status.keys().all(|status| *status == 200), "{}", report());
        }
        if self.program.speaks == Speaks::Udp {
            assert!(lost <= kills.len(), "{lost} datagrams lost\n{}", self.log());
        }
    }

    /// SIGTERM: it exits with 0, nothing is left, all ports are free.
    pub(crate) fn stop(self) {
        let Self { cluster, program } = self;
        cluster.stop();
        for port in program.ports {
            assert!(is_free(port), "{port} is still in use");
            assert!(UdpSocket::bind(port).is_ok(), "{port} is still in use for datagrams");
        }
    }
}
