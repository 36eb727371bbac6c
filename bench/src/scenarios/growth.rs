//! What each further worker costs the primary: the same in a small cluster as in a large one, or nobody should have a
//! large one.

use super::Context;
use crate::peers::{self, Job, Peer, Serving};
use crate::report::{Better, Bound, Section};
use bench::load::Load;
use bench::wait;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

const START: &str = "start";
const IDLE: &str = "heartbeat round";
const LOADED: &str = "under load";
const STEP: &str = "reload step";
const TOOK: &str = "reload step takes";
/// How long all workers of a reload may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Clients that connect anew for each request.
const CLIENTS: usize = 8;
/// One heartbeat round a second.
const BEATS: &[&str] = &["--heartbeat", "1s"];
const BEATS_KEPT: &[&str] = &["--heartbeat", "1s", "--keeper"];

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let sizes: &[usize] = if context.quick { &[2, 32, 128] } else { &[2, 8, 32, 128, 512] };
    let plain = peers::trivial("phalanx", BEATS);
    let kept = peers::trivial("phalanx --keeper", BEATS_KEPT);
    Ok(vec![
        grown(context, "growth", "Growth", &plain, sizes)?,
        grown(context, "growth-kept", "Growth, with a keeper", &kept, sizes)?,
    ])
}

fn grown(
    context: &Context,
    id: &str,
    title: &str,
    peer: &Peer,
    sizes: &[usize],
) -> Result<Section, String> {
    let mut section = Section::new(
        id,
        title,
        "CPU time of the primary per worker, with trivial workers in the policy `direct`: to start one; of one heartbeat round \
         (idle, one round a second; by default there is one in ten); per second while 8 clients connect anew for each \
         request, which is the price of looking at its queue; of one step of a rolling reload, and how long that took.",
    )
    .column(START, "µs", Better::Less)
    .column(IDLE, "µs", Better::Less)
    .column(LOADED, "µs/s", Better::Less)
    .column(STEP, "µs", Better::Less)
    .column(TOOK, "ms", Better::Less);
    for _ in 0..context.full_or(2, 1) {
        for workers in sizes {
            context.say(&format!("{}, {}", peer.name, row(*workers)));
            once(context, &mut section, peer, *workers)?;
        }
    }
    let base = row(32);
    if let Some(most) = sizes.last() {
        // For something quadratic it would be as many times as much as there are workers.
        for column in [START, IDLE, LOADED, STEP] {
            section.goal_ratio(column, &row(*most), &base, Bound::AtMost(2.0));
        }
    }
    Ok(section)
}

fn row(workers: usize) -> String {
    format!("{workers} workers")
}

fn once(
    context: &Context,
    section: &mut Section,
    peer: &Peer,
    workers: usize,
) -> Result<(), String> {
    let row = row(workers);
    let count = f64::from(u32::try_from(workers).unwrap_or(u32::MAX));
    let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
    let mut serving = peer.begin(&context.programs, &Job::new("server.js", workers), address)?;
    section.command(&row, &serving.command);
    let micros = |spent: Duration| spent.as_secs_f64() * 1e6 / count;
    section.add(&row, START, micros(serving.manager_cpu()));

    // The first second is the start's: queues are looked at, answers come.
    thread::sleep(Duration::from_secs(2));
    let rounds = context.full_or(4, 2);
    let (spent, _) = spends(&mut serving, |_| {
        thread::sleep(Duration::from_secs(rounds));
        Ok(())
    })?;
    section.add(&row, IDLE, micros(spent) / Duration::from_secs(rounds).as_secs_f64());

    let requests = context.full_or(4_000, 2_000);
    let (spent, took) = spends(&mut serving, |serving| {
        let load = Load::new(serving.address).clients(CLIENTS).keep_alive(false);
        peers::run(load.requests(requests)).map(drop)
    })?;
    section.add(&row, LOADED, micros(spent) / took.as_secs_f64());

    let (spent, took) = spends(&mut serving, |serving| serving.reload(PATIENCE).map(drop))?;
    section.add(&row, STEP, micros(spent));
    section.add(&row, TOOK, took.as_secs_f64() * 1e3 / count);
    Ok(())
}

/// The manager's CPU time while something happens, and how long that takes.
fn spends(
    serving: &mut Serving,
    what: impl FnOnce(&mut Serving) -> Result<(), String>,
) -> Result<(Duration, Duration), String> {
    let (before, begun) = (serving.manager_cpu(), Instant::now());
    what(serving)?;
    Ok((serving.manager_cpu().saturating_sub(before), begun.elapsed()))
}
