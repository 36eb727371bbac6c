//! Connections per second and requests per second, closed loop.

use super::Context;
use crate::peers::{self, Job, Peer, Serving};
use crate::report::{Better, Bound, Section};
use crate::setup;
use crate::wrk::Wrk;
use bench::load::Load;
use std::path::Path;

const CONNECTIONS: u32 = 16;
const WORKERS: usize = 2;
const RATE: &str = "rate";
const CPU: &str = "CPU of all";
const MANAGER: &str = "CPU of the manager";
const OURS: &str = "phalanx";
const ROUND_ROBIN: &str = "phalanx, round-robin";
const RAW: &str = "raw SO_REUSEPORT";

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let wrk = setup::wrk()?;
    let rounds = context.full_or(5, 1);
    let node = peers::of_node().into_iter().chain([peers::alone()]);
    let [mut connections, mut requests] =
        rates(context, &wrk, ("node", "Node application", "server.js"), rounds, node)?;
    for peer in ["node:cluster", "pm2"] {
        connections.goal_ratio(RATE, OURS, peer, Bound::AtLeast(2.0));
    }
    connections.goal_ratio(RATE, OURS, RAW, Bound::AtLeast(0.97));
    connections.goal_ratio(RATE, ROUND_ROBIN, "node:cluster", Bound::AtLeast(1.3));
    // Nothing per connection: what it does in that time is to look after its workers and their queues, 40 times a second.
    connections.goal(MANAGER, OURS, Bound::AtMost(1.0));
    connections.goal_ratio(MANAGER, ROUND_ROBIN, "node:cluster", Bound::AtMost(0.5));
    connections.goal_ratio(MANAGER, ROUND_ROBIN, "pm2", Bound::AtMost(1.0 / 3.0));
    requests.goal_ratio(RATE, OURS, "nginx", Bound::AtLeast(1.8));
    requests.goal_ratio(RATE, OURS, "pm2", Bound::AtLeast(1.2));
    requests.goal_ratio(RATE, OURS, RAW, Bound::AtLeast(0.98));
    let rust =
        [peers::own("direct"), peers::own("round-robin"), peers::own_raw(), peers::own_threads()];
    let [mut rust_connections, mut rust_requests] =
        rates(context, &wrk, ("rust", "Rust application (axum)", ""), rounds, rust)?;
    for section in [&mut rust_connections, &mut rust_requests] {
        section.goal_ratio(RATE, OURS, RAW, Bound::AtLeast(0.98));
        section.goal_ratio(RATE, ROUND_ROBIN, RAW, Bound::AtLeast(0.6));
    }
    let mut sections = vec![connections, requests, rust_connections, rust_requests];
    if !context.quick {
        for framework in [
            ("express", "Express application", "express.js"),
            ("fastify", "Fastify application", "fastify.js"),
        ] {
            sections.extend(rates(context, &wrk, framework, 3, some_peers())?);
        }
    }
    Ok(sections)
}

/// Those that a framework's users would think of.
fn some_peers() -> [Peer; 4] {
    [peers::phalanx("direct"), peers::cluster("rr"), peers::pm2(), peers::alone()]
}

/// A connection per request, and keep-alive.
fn rates(
    context: &Context,
    wrk: &Path,
    (id, what, app): (&str, &str, &'static str),
    rounds: u32,
    candidates: impl IntoIterator<Item = Peer>,
) -> Result<[Section; 2], String> {
    let (candidates, missing) = peers::at_hand(candidates);
    let mut sections = [("connections", "Connections per second"), ("requests", "Requests per second, keep-alive")]
        .map(|(kind, title)| {
            let how = "Two workers with an empty handler; wrk with 16 connections, on the same cores. The manager \
                       is the primary, the daemon or the proxy.";
            let mut section = Section::new(&format!("{id}-{kind}"), &format!("{title}: {what}"), how)
                .column(RATE, "/s", Better::More)
                .column(CPU, "µs each", Better::Less)
                .column(MANAGER, "µs each", Better::Less);
            missing.iter().for_each(|why| section.note(why));
            section
        });
    for _ in 0..rounds {
        for peer in &candidates {
            let serving = peer.start(&context.programs, &Job::new(app, WORKERS))?;
            // The first requests compile the handler.
            peers::run(Load::new(serving.address).clients(4).keep_alive(true).requests(2_000))?;
            for (section, keep_alive) in sections.iter_mut().zip([false, true]) {
                let seconds = context.full_or(2, 1);
                let load = Wrk { connections: CONNECTIONS, seconds, keep_alive };
                measure(section, peer.name, &serving, load, wrk)?;
            }
        }
    }
    Ok(sections)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn measure(
    section: &mut Section,
    name: &str,
    serving: &Serving,
    load: Wrk,
    wrk: &Path,
) -> Result<(), String> {
    let (all, manager) = (serving.cpu(), serving.manager_cpu());
    let seen = load.run(wrk, serving.address)?;
    let each = |spent: std::time::Duration| spent.as_secs_f64() * 1e6 / seen.requests as f64;
    section.add(name, RATE, seen.rate);
    section.add(name, CPU, each(serving.cpu().saturating_sub(all)));
    if serving.manager.is_some() {
        section.add(name, MANAGER, each(serving.manager_cpu().saturating_sub(manager)));
    }
    if seen.errors + seen.refused > 0 {
        section
            .note(format!("{name}: {} errors, {} refused in a round", seen.errors, seen.refused));
    }
    section.command(name, &serving.command);
    Ok(())
}
