//! `cargo run --release -p bench`: what phalanx costs, measured on this machine, beside what it costs to
//! do without.
//!
//! Everything is measured on `phalanx demo` in its release build. Absolute numbers depend on the machine and
//! on what else runs on it; ratios come from rounds that alternate between the candidates.
#![allow(clippy::print_stdout)]

use bench::load::{Load, Outcome};
use bench::process;
use bench::spawned::{Guarded, Signal};
use bench::wait;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), String> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let program = build()?;
    println!(
        "{} cores, {}\n",
        std::thread::available_parallelism().map_or(1, usize::from),
        kernel()
    );
    costs(&program, if quick { 2 } else { 10 })?;
    rates(&program, if quick { 2 } else { 5 }, if quick { 5_000 } else { 20_000 })
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

/// Time on a CPU, in nanoseconds and not in clock ticks.
fn run_time(pid: u32) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/schedstat");
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let first = text.split_whitespace().next().and_then(|n| n.parse().ok());
    first.map(Duration::from_nanos).ok_or_else(|| "cannot read schedstat".into())
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

/// Requests per second under each policy, in rounds that alternate.
fn rates(program: &PathBuf, rounds: u32, requests: u64) -> Result<(), String> {
    let candidates = [
        ("one worker", 1, "direct"),
        ("direct", 2, "direct"),
        ("round-robin", 2, "round-robin"),
        ("shared", 2, "shared"),
    ];
    for (what, keep_alive) in [("a connection per request", false), ("keep-alive", true)] {
        let mut measured: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
        let mut failed = 0;
        let mut spread = vec![0.0; candidates.len()];
        for _ in 0..rounds {
            for (at, (_, workers, policy)) in candidates.iter().enumerate() {
                let demo = Demo::start(program, *workers, policy)?;
                let outcome = run(Load::new(demo.address)
                    .clients(16)
                    .keep_alive(keep_alive)
                    .requests(requests))?;
                failed += outcome.failed;
                let most = outcome.by_worker.values().max().copied().unwrap_or(0);
                let least = outcome.by_worker.values().min().copied().unwrap_or(0);
                if let (Some(rates), Some(spread)) = (measured.get_mut(at), spread.get_mut(at)) {
                    rates.push(outcome.rate() as f64);
                    *spread = f64::max(*spread, ratio(most, least));
                }
                demo.stop()?;
            }
        }
        let median = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
        };
        println!("\n{what}, 16 clients, {rounds} rounds of {requests} requests ({failed} failed)");
        let base = measured.first_mut().map_or(f64::NAN, median);
        for (((name, workers, _), rates), spread) in
            candidates.iter().zip(&mut measured).zip(&spread)
        {
            let rate = median(rates);
            println!(
                "  {name:<12} {workers} workers {rate:>9.0}/s   {:>5.2} × one worker   busiest/idlest {spread:.2}",
                rate / base
            );
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn ratio(most: u64, least: u64) -> f64 {
    most as f64 / least.max(1) as f64
}
