//! What phalanx adds to a worker: the preload of a Node worker, the filter of any other program.

use super::Context;
use crate::peers::{self, Job, PATIENCE, Serving};
use crate::report::{Better, Bound, Section};
use bench::load::Load;
use bench::spawned::{Guarded, Signal};
use bench::wait;
use std::net::SocketAddr;
use std::process::Command;

const CLIENTS: usize = 16;
const RATE: &str = "rate";
const CPU: &str = "CPU";

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    Ok(vec![preload(context, false)?, preload(context, true)?, filter(context)?])
}

/// One Node worker without and with the preload.
fn preload(context: &Context, keep_alive: bool) -> Result<Section, String> {
    let kind = if keep_alive { "keep-alive" } else { "a connection per request" };
    let mut section = Section::new(
        if keep_alive { "preload-keep" } else { "preload-close" },
        &format!("What the preload costs a Node worker, {kind}"),
        "One worker with an empty handler, 16 clients. The preload is what lets a reload lose no request.",
    )
    .column(RATE, "/s", Better::More)
    .column(CPU, "µs per request", Better::Less);
    let candidates =
        [peers::with("with", &[]), peers::with("without (`--no-preload`)", &["--no-preload"])];
    for _ in 0..context.full_or(5, 1) {
        for peer in &candidates {
            let serving = peer.start(&context.programs, &Job::new("server.js", 1))?;
            add(context, &mut section, peer.name, &serving, keep_alive)?;
        }
    }
    section.goal_ratio(CPU, "with", candidates[1].name, Bound::AtMost(1.05));
    Ok(section)
}

/// A program under the filter of bind interception beside itself without it.
fn filter(context: &Context) -> Result<Section, String> {
    const CALL: &str = "a system call";
    const BIND: &str = "a bind(2)";
    let mut section = Section::new(
        "filter",
        "What bind interception costs a program",
        "A server that does nothing else; the shortest system call there is; and a bind(2) to a port that is not \
         the application's. The filter stays for a process's whole life.",
    )
    .column(RATE, "/s", Better::More)
    .column(CPU, "µs per request", Better::Less)
    .column(CALL, "ns", Better::Less)
    .column(BIND, "ns", Better::Less);
    for _ in 0..context.full_or(5, 1) {
        for (name, option) in
            [("with", None), ("without (`--no-intercept`)", Some("--no-intercept"))]
        {
            let probe = |args: &[&str]| {
                let mut command = Command::new(&context.programs.phalanx);
                command.args(["run", "-i", "1"]).args(option).arg("--").arg(me()?).arg("probe");
                command.args(args);
                Ok::<_, String>(command)
            };
            section.add(name, CALL, nanoseconds(&mut probe(&["calls"])?)?);
            let port = wait::free_port().to_string();
            section.add(name, BIND, nanoseconds(&mut probe(&["binds", &port])?)?);
            let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
            let mut serve = probe(&["serve"])?;
            serve.env("PORT", address.port().to_string());
            let serving = Serving::with_manager(&mut serve, address)?;
            serving.every_worker_answers(1)?;
            add(context, &mut section, name, &serving, false)?;
        }
    }
    section.goal_ratio(CPU, "with", "without (`--no-intercept`)", Bound::AtMost(1.05));
    Ok(section)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn add(
    context: &Context,
    section: &mut Section,
    name: &str,
    serving: &Serving,
    keep_alive: bool,
) -> Result<(), String> {
    let requests = context.full_or(10_000, 4_000);
    let before = serving.cpu();
    let load = Load::new(serving.address).clients(CLIENTS).keep_alive(keep_alive);
    let outcome = peers::run(load.requests(requests))?;
    let spent = serving.cpu().saturating_sub(before);
    section.add(name, RATE, outcome.rate() as f64);
    section.add(name, CPU, spent.as_secs_f64() * 1e6 / requests as f64);
    section.command(name, &serving.command);
    Ok(())
}

fn me() -> Result<std::path::PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))
}

/// What a probe says that something took.
fn nanoseconds(command: &mut Command) -> Result<f64, String> {
    let running = Guarded::spawn(command).map_err(|error| error.to_string())?;
    let line = running.wait_for_line(|line| line.starts_with("nanoseconds "), PATIENCE)?;
    running.signal(Signal::QUIT).map_err(|error| error.to_string())?;
    running.wait_exit(PATIENCE)?;
    line.trim_start_matches("nanoseconds ").trim().parse().map_err(|_| line.clone())
}
