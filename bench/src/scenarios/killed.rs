//! SIGKILL under load: of what stands above the workers, and of a worker.

use super::{Context, ask};
use crate::peers::{self, Job, PATIENCE, Peer, Serving};
use crate::report::{Better, Bound, Section};
use bench::load::{Load, Running};
use bench::{process, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: usize = 4;
const CLIENTS: usize = 16;
/// How long one question for the replacement may take.
const PROBE: Duration = Duration::from_millis(250);
const FAILED: &str = "failed requests";
const GAP: &str = "longest time without an answer";
const BACK: &str = "replaced after";

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let (managers, missing) = peers::at_hand([
        peers::kept("direct"),
        peers::kept("round-robin"),
        peers::cluster("rr"),
        peers::pm2(),
        peers::nginx(),
    ]);
    let (workers, _) = peers::at_hand([
        peers::phalanx("direct"),
        peers::phalanx("round-robin"),
        peers::cluster("rr"),
        peers::pm2(),
    ]);
    let mut sections = Vec::new();
    for (id, kind, keep_alive) in
        [("close", "a connection per request", false), ("keep", "keep-alive", true)]
    {
        let mut section = Section::new(
            &format!("manager-killed-{id}"),
            &format!("SIGKILL of the manager under load, {kind}"),
            "4 Node workers, 16 clients that go on for three seconds after the primary, the daemon or the \
             proxy's master is killed. Nobody helps by hand.",
        )
        .column(FAILED, "", Better::Less)
        .column(GAP, "ms", Better::Less);
        for _ in 0..context.full_or(3, 1) {
            for peer in &managers {
                manager(context, peer, keep_alive, &mut section)?;
            }
        }
        for policy in ["direct", "round-robin"] {
            section.goal(FAILED, peers::kept(policy).name, Bound::AtMost(0.0));
            section.goal(GAP, peers::kept(policy).name, Bound::AtMost(1_000.0));
        }
        missing.iter().for_each(|why| section.note(why));
        sections.push(section);
    }
    let mut section = Section::new(
        "worker-killed",
        "SIGKILL of a worker under load",
        "One of 4 Node workers is killed while 16 clients send requests, a connection each: what was in progress \
         in it is lost; its replacement has to be there soon.",
    )
    .column(FAILED, "", Better::Less)
    .column(BACK, "ms", Better::Less)
    .column(GAP, "ms", Better::Less);
    for _ in 0..context.full_or(5, 1) {
        for peer in &workers {
            worker(context, peer, &mut section)?;
        }
    }
    for peer in [peers::cluster("rr"), peers::pm2()] {
        section.goal_ratio(BACK, "phalanx", peer.name, Bound::AtMost(1.0));
    }
    sections.push(section);
    Ok(sections)
}

fn manager(
    context: &Context,
    peer: &Peer,
    keep_alive: bool,
    section: &mut Section,
) -> Result<(), String> {
    let serving = peer.start(&context.programs, &Job::new("server.js", WORKERS))?;
    let running = load(&serving, keep_alive)?;
    let manager = serving.manager.ok_or("nobody to kill")?;
    kill(manager)?;
    let gap = longest_gap(&running, Duration::from_secs(3), || false);
    let outcome = running.stop();
    context.say(&format!("{}: {} failed, {gap:.0?}", peer.name, outcome.failed));
    add(section, peer, &serving, outcome.failed, gap);
    Ok(())
}

fn worker(context: &Context, peer: &Peer, section: &mut Section) -> Result<(), String> {
    let serving = peer.start(&context.programs, &Job::new("server.js", WORKERS))?;
    let before = serving.workers();
    let killed = *before.first().ok_or("no worker")?;
    let running = load(&serving, false)?;
    let begun = Instant::now();
    kill(killed)?;
    let (tell, told) = mpsc::channel();
    let (address, name) = (serving.address, peer.name);
    // By itself: one question that nobody answers delays neither the others nor the look at the load.
    let probe = thread::spawn(move || {
        while begun.elapsed() < PATIENCE {
            if ask(address, PROBE).is_ok_and(|pid| !before.contains(&pid)) {
                let _ = tell.send(begun.elapsed());
                return;
            }
        }
    });
    let mut back = None;
    let gap = longest_gap(&running, PATIENCE, || {
        back = back.or_else(|| told.try_recv().ok());
        back.is_some()
    });
    let outcome = running.stop();
    probe.join().map_err(|_| "the probe failed")?;
    let back = back.ok_or_else(|| format!("{name}: it is not replaced"))?;
    context.say(&format!("{}: {} failed, back after {back:.0?}", peer.name, outcome.failed));
    section.add(peer.name, BACK, back.as_secs_f64() * 1e3);
    add(section, peer, &serving, outcome.failed, gap);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn add(section: &mut Section, peer: &Peer, serving: &Serving, failed: u64, gap: Duration) {
    section.add(peer.name, FAILED, failed as f64);
    section.add(peer.name, GAP, gap.as_secs_f64() * 1e3);
    section.command(peer.name, &serving.command);
}

/// A load that is on.
fn load(serving: &Serving, keep_alive: bool) -> Result<Running, String> {
    let load = Load::new(serving.address).clients(CLIENTS).keep_alive(keep_alive);
    let running = load.duration(PATIENCE * 2).start().map_err(|error| error.to_string())?;
    wait::until(PATIENCE, "the load", || (running.progress().answered() > 500).then_some(()))?;
    Ok(running)
}

/// Watches for that long, or until it is done: the longest time in which no request was answered.
fn longest_gap(running: &Running, watch: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    let (mut last, mut answered) = (begun, running.progress().answered());
    let mut longest = Duration::ZERO;
    while begun.elapsed() < watch && !done() {
        thread::sleep(Duration::from_millis(1));
        let now = running.progress().answered();
        longest = longest.max(last.elapsed());
        if now > answered {
            (last, answered) = (Instant::now(), now);
        }
    }
    longest
}

fn kill(pid: u32) -> Result<(), String> {
    if !process::is_alive(pid) {
        return Err(format!("process {pid} has ended before it could be killed"));
    }
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("not a process id")?;
    kill_process(id, Signal::KILL).map_err(|error| format!("cannot kill {pid}: {error}"))
}
