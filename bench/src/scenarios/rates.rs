//! Connections per second and requests per second, closed loop.

use super::Context;
use crate::peers::{self, Job, Peer};
use crate::report::{Better, Bound, Section};
use bench::load::Load;

const CLIENTS: usize = 16;

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let node = [
        peers::phalanx("direct"),
        peers::phalanx("round-robin"),
        peers::cluster("rr"),
        peers::cluster("none"),
        peers::alone(),
    ];
    let mut connections = rates(context, "node-connections", &node, false)?;
    connections.goal_ratio("rate", "phalanx", "node:cluster", Bound::AtLeast(2.0));
    Ok(vec![connections])
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn rates(
    context: &Context,
    id: &str,
    candidates: &[Peer],
    keep_alive: bool,
) -> Result<Section, String> {
    let requests = context.full_or(20_000, 4_000);
    let mut section = Section::new(id, "Connections per second", "16 clients, closed loop")
        .column("rate", "/s", Better::More)
        .column("CPU", "µs per request", Better::Less);
    for _ in 0..context.full_or(5, 3) {
        for peer in candidates {
            context.say(peer.name);
            let workers = if peer.name == "one node process" { 1 } else { 2 };
            let serving = peer.start(&context.programs, &Job::new("server.js", workers))?;
            let before = serving.cpu();
            let load = Load::new(serving.address).clients(CLIENTS);
            let outcome = peers::run(load.keep_alive(keep_alive).requests(requests))?;
            let spent = serving.cpu().saturating_sub(before);
            section.add(peer.name, "rate", outcome.rate() as f64);
            section.add(peer.name, "CPU", spent.as_secs_f64() * 1e6 / requests as f64);
            section.command(peer.name, &serving.command);
        }
    }
    Ok(section)
}
