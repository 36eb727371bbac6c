//! `cargo run --release -p bench`: what phalanx costs, measured on this machine, beside what it costs to
//! do without.
//!
//! Measured is the release build: `phalanx demo`, and an empty handler in Node beside Node's own primary
//! (`--node`: only that), and a program under the filter of bind interception beside itself without it
//! (`--intercept`: only that). `--quick`: fewer rounds. Absolute numbers depend on the machine and
//! on what else runs on it; ratios come from rounds that alternate between the candidates.
#![allow(clippy::print_stdout)]

mod probe;

use bench::load::{Load, Outcome};
use bench::process;
use bench::spawned::{Guarded, Signal};
use bench::wait;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("probe", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return probe::probe(rest);
    }
    let is = |name: &str| args.iter().any(|arg| arg == name);
    let quick = is("--quick");
    let program = build()?;
    println!(
        "{} cores, {}\n",
        std::thread::available_parallelism().map_or(1, usize::from),
        kernel()
    );
    let (rounds, requests) = if quick { (2, 5_000) } else { (5, 20_000) };
    if is("--intercept") {
        return interception(&program, rounds, requests);
    }
    if !is("--node") {
        costs(&program, if quick { 2 } else { 10 })?;
        println!("\nphalanx demo");
        rates(&own(&program), rounds, requests)?;
    }
    println!("\nan empty handler in Node");
    rates(&node(&program), rounds, requests)?;
    println!("\nthe same in one worker: what the preload costs");
    rates(&preload(&program), 2 * rounds, 2 * requests)?;
    if is("--node") { Ok(()) } else { interception(&program, rounds, requests) }
}

/// What the filter costs: per system call, per bind(2), and per request of a server that does nothing else.
fn interception(program: &Path, rounds: u32, requests: u64) -> Result<(), String> {
    println!("\nbind interception: what the filter costs");
    let port = wait::free_port().to_string();
    for (what, args) in [("a system call", &["calls"][..]), ("a bind(2)", &["binds", &port])] {
        let mut measured = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (filtered, times) in [false, true].into_iter().zip(&mut measured) {
                times.push(probe_time(program, filtered, args)?);
            }
        }
        let [without, with] = measured.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
        });
        println!(
            "  {what:<22} {without:>9.0} ns without, {with:>9.0} ns with: {:.2} ×",
            with / without
        );
    }
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let me = me.display().to_string();
    let run = |name, more: &[&str]| {
        let served: [&str; 4] = ["--", &me, "probe", "serve"];
        Candidate::program(name, 1, program, &[&["run", "-i", "1"], more, &served].concat())
    };
    let candidates = [run("without", &["--no-intercept"]), run("with", &[])];
    rates(&candidates, 2 * rounds, 2 * requests)
}

/// Nanoseconds that a probe takes as a worker.
fn probe_time(program: &Path, filtered: bool, args: &[&str]) -> Result<f64, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(program);
    command.args(["run", "-i", "1"]).args((!filtered).then_some("--no-intercept"));
    command.arg("--").arg(me).arg("probe").args(args);
    let running = Guarded::spawn(&mut command).map_err(|error| error.to_string())?;
    let line = running.wait_for_line(|line| line.starts_with("nanoseconds "), PATIENCE)?;
    running.signal(Signal::QUIT).map_err(|e| e.to_string())?;
    running.wait_exit(PATIENCE)?;
    line.trim_start_matches("nanoseconds ").trim().parse().map_err(|_| line.clone())
}

/// The release build of the program, made if need be.
fn build() -> Result<PathBuf, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let built = Command::new(cargo).args(["build", "--release", "-p", "phalanx-cli"]).status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("cannot build the program".into());
    }
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(me.with_file_name("phalanx"))
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "?".into(), |v| format!("Linux {}", v.trim()))
}

/// A running demo.
struct Demo {
    primary: Guarded,
    address: SocketAddr,
}

impl Demo {
    fn start(program: &PathBuf, workers: u32, policy: &str) -> Result<Self, String> {
        let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
        let mut command = Command::new(program);
        command.args(["demo", "-i", &workers.to_string(), "--policy", policy, "--listen"]);
        let primary =
            Guarded::spawn(command.arg(address.to_string())).map_err(|e| e.to_string())?;
        let last = format!("worker {workers} ");
        primary
            .wait_for_line(|line| line.contains(&last) && line.contains("is ready"), PATIENCE)?;
        wait::until(PATIENCE, "every worker is ready", || {
            let ready = primary.stderr().matches("is ready").count();
            (ready >= usize::try_from(workers).ok()?).then_some(())
        })?;
        Ok(Self { primary, address })
    }

    fn stop(self) -> Result<(), String> {
        self.primary.signal(Signal::TERM).map_err(|e| e.to_string())?;
        let status = self.primary.wait_exit(PATIENCE)?;
        if status.success() { Ok(()) } else { Err(format!("the demo ended with {status}")) }
    }
}

/// Fork to listening, memory, idle CPU of a primary with 8 workers.
fn costs(program: &PathBuf, idle_seconds: u64) -> Result<(), String> {
    let demo = Demo::start(program, 8, "direct")?;
    let pid = demo.primary.pid();
    let mut ready: Vec<f64> = demo.primary.stderr().lines().filter_map(milliseconds).collect();
    ready.sort_by(f64::total_cmp);
    let kb = |bytes: std::io::Result<u64>| bytes.map(|b| b / 1024).map_err(|e| e.to_string());
    println!("primary with 8 workers, direct");
    println!(
        "  fork to listening      {:>8.1} ms median, {:.1} ms the slowest of 8 at once",
        ready.get(ready.len() / 2).copied().unwrap_or(f64::NAN),
        ready.last().copied().unwrap_or(f64::NAN),
    );
    println!("  memory, resident       {:>8} kB (goal: under 5,120)", kb(process::rss_bytes(pid))?);
    println!(
        "  memory, its share      {:>8} kB (pages shared with workers divided)",
        kb(process::pss_bytes(pid))?
    );
    // The primary looks at its queues for a second after something happened.
    std::thread::sleep(Duration::from_secs(2));
    let before = run_time(pid)?;
    std::thread::sleep(Duration::from_secs(idle_seconds));
    let spent = run_time(pid)?.saturating_sub(before);
    let percent = spent.as_secs_f64() / Duration::from_secs(idle_seconds).as_secs_f64() * 100.0;
    println!("  idle CPU               {percent:>8.3} % over {idle_seconds} s (goal: under 0.1)");
    let outcome = run(Load::new(demo.address).clients(8).requests(10_000))?;
    let served = run_time(pid)?.saturating_sub(before + spent);
    println!(
        "  CPU for 10,000 connections {:>4} ms, {:.2} µs each ({} failed)",
        served.as_millis(),
        served.as_secs_f64() * 100.0,
        outcome.failed,
    );
    demo.stop()
}

/// Time on a CPU of all threads, in nanoseconds and not in clock ticks.
fn run_time(pid: u32) -> Result<Duration, String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
    let mut spent = Duration::ZERO;
    for task in tasks.flatten() {
        // A thread may end in between.
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next().and_then(|n| n.parse().ok());
        spent += Duration::from_nanos(first.unwrap_or(0));
    }
    Ok(spent)
}

/// The time in a line such as `… is ready: process 12, after 9.3ms`.
fn milliseconds(line: &str) -> Option<f64> {
    let text = line.split_once("is ready")?.1.rsplit_once("after ")?.1.trim();
    let number = text.trim_end_matches(|c: char| c.is_alphabetic());
    let value: f64 = number.parse().ok()?;
    match text.get(number.len()..)? {
        "ms" => Some(value),
        "s" => Some(value * 1000.0),
        _ => Some(value / 1000.0),
    }
}

fn run(load: Load) -> Result<Outcome, String> {
    load.start().map(bench::load::Running::join).map_err(|e| e.to_string())
}

/// Something that serves, and how it is started on an address.
struct Candidate {
    name: &'static str,
    workers: usize,
    command: Box<dyn Fn(SocketAddr) -> Command>,
}

impl Candidate {
    fn demo(program: &Path, name: &'static str, workers: usize, policy: &'static str) -> Self {
        let program = program.to_owned();
        let command = move |address: SocketAddr| {
            let mut command = Command::new(&program);
            command.args(["demo", "-i", &workers.to_string(), "--policy", policy, "--listen"]);
            command.arg(address.to_string());
            command
        };
        Self { name, workers, command: Box::new(command) }
    }

    /// A program that listens on the port `PORT`, by a program and its arguments.
    fn program(name: &'static str, workers: usize, program: &Path, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let program = program.to_owned();
        let command = move |address: SocketAddr| {
            let mut command = Command::new(&program);
            command.args(&args).env("PORT", address.port().to_string());
            command
        };
        Self { name, workers, command: Box::new(command) }
    }

    /// One measured run, and the time on a CPU that all its processes spent; it serves when every worker has
    /// answered.
    fn measure(&self, load: impl Fn(SocketAddr) -> Load) -> Result<(Outcome, Duration), String> {
        let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
        let running =
            Guarded::spawn(&mut (self.command)(address)).map_err(|error| error.to_string())?;
        let mut seen = BTreeSet::new();
        wait::until(PATIENCE, "every worker to answer", || {
            // Refused until it listens; each counts for itself.
            let asked = run(Load::new(address).clients(1).requests(20)).ok()?;
            seen.extend(asked.by_worker.into_keys());
            (seen.len() >= self.workers).then_some(())
        })
        .map_err(|error| format!("{}: {error}\n{}", self.name, running.output()))?;
        let spent = || running.record().into_iter().flat_map(run_time).sum::<Duration>();
        let before = spent();
        let outcome = run(load(address))?;
        let spent = spent().saturating_sub(before);
        Ok((outcome, spent))
    }
}

/// Requests per second of each candidate, in rounds that alternate, beside the first one.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn rates(candidates: &[Candidate], rounds: u32, requests: u64) -> Result<(), String> {
    for (what, keep_alive) in [("a connection per request", false), ("keep-alive", true)] {
        let mut measured: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
        let mut costs: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
        let mut failed = 0;
        let mut spread = vec![0.0; candidates.len()];
        for _ in 0..rounds {
            for (at, candidate) in candidates.iter().enumerate() {
                let (outcome, spent) = candidate.measure(|address| {
                    Load::new(address).clients(16).keep_alive(keep_alive).requests(requests)
                })?;
                failed += outcome.failed;
                let most = outcome.by_worker.values().max().copied().unwrap_or(0);
                let least = outcome.by_worker.values().min().copied().unwrap_or(0);
                if let (Some(rates), Some(costs), Some(spread)) =
                    (measured.get_mut(at), costs.get_mut(at), spread.get_mut(at))
                {
                    rates.push(outcome.rate() as f64);
                    costs.push(spent.as_secs_f64() * 1e6 / requests as f64);
                    *spread = f64::max(*spread, ratio(most, least));
                }
            }
        }
        let median = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
        };
        println!("\n{what}, 16 clients, {rounds} rounds of {requests} requests ({failed} failed)");
        let base = measured.first_mut().map_or(f64::NAN, median);
        let base_cost = costs.first_mut().map_or(f64::NAN, median);
        for (((candidate, rates), costs), spread) in
            candidates.iter().zip(&mut measured).zip(&mut costs).zip(&spread)
        {
            let (rate, cost) = (median(rates), median(costs));
            println!(
                "  {:<22} {} workers {rate:>8.0}/s {:>5.2} × the first   CPU {cost:>5.0} µs each {:>5.2} ×   busiest/idlest {spread:.2}",
                candidate.name,
                candidate.workers,
                rate / base,
                cost / base_cost,
            );
        }
    }
    Ok(())
}

/// The crate's own server under each policy.
fn own(program: &Path) -> Vec<Candidate> {
    vec![
        Candidate::demo(program, "one worker", 1, "direct"),
        Candidate::demo(program, "direct", 2, "direct"),
        Candidate::demo(program, "round-robin", 2, "round-robin"),
        Candidate::demo(program, "shared", 2, "shared"),
    ]
}

/// One Node server: alone, under Node's own primary, and under phalanx.
fn node(program: &Path) -> Vec<Candidate> {
    let server = concat!(env!("CARGO_MANIFEST_DIR"), "/node/server.js");
    let cluster = concat!(env!("CARGO_MANIFEST_DIR"), "/node/cluster.js");
    let node = Path::new("node");
    let run = |name, more: &[&str]| {
        Candidate::program(name, 2, program, &[&["run", server, "-i", "2"], more].concat())
    };
    vec![
        run("phalanx", &[]),
        run("phalanx, round-robin", &["--policy", "round-robin"]),
        Candidate::program("node:cluster, rr", 2, node, &[cluster, "2"]),
        Candidate::program("node:cluster, none", 2, node, &[cluster, "1"]),
        Candidate::program("node alone", 1, node, &[server]),
    ]
}

/// One worker without and with the preload.
fn preload(program: &Path) -> Vec<Candidate> {
    let server = concat!(env!("CARGO_MANIFEST_DIR"), "/node/server.js");
    let run = ["run", server, "-i", "1"];
    vec![
        Candidate::program("without", 1, program, &[&run[..], &["--no-preload"]].concat()),
        Candidate::program("with", 1, program, &run),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn ratio(most: u64, least: u64) -> f64 {
    most as f64 / least.max(1) as f64
}
