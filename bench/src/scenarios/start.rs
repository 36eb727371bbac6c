//! How long it takes until a started application serves.

use super::{Context, ask};
use crate::peers::{self, Job, PATIENCE, Peer};
use crate::report::{Better, Bound, Section};
use bench::wait;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const WORKERS: usize = 4;
const FIRST: &str = "first answer";
const ALL: &str = "all workers have answered";

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let mut section = Section::new(
        "start",
        "From the command to the first answer, 4 Node workers",
        "An empty `node:http` server is started; from then on it is asked again and again, each time on a new \
         connection, until each of the four workers has answered.",
    )
    .column(FIRST, "ms", Better::Less)
    .column(ALL, "ms", Better::Less);
    let candidates = [
        peers::phalanx("direct"),
        peers::phalanx("round-robin"),
        peers::cluster("rr"),
        peers::pm2(),
        peers::alone(),
    ];
    let (candidates, missing) = peers::at_hand(candidates);
    for _ in 0..context.full_or(7, 3) {
        for peer in &candidates {
            once(context, peer, &mut section)?;
        }
    }
    for peer in [peers::cluster("rr"), peers::pm2()] {
        section.goal_ratio(FIRST, "phalanx", peer.name, Bound::AtMost(1.0));
        section.goal_ratio(ALL, "phalanx", peer.name, Bound::AtMost(1.0));
    }
    missing.into_iter().for_each(|why| section.note(why));
    Ok(vec![section])
}

fn once(context: &Context, peer: &Peer, section: &mut Section) -> Result<(), String> {
    let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
    let begun = Instant::now();
    let serving = peer.begin(&context.programs, &Job::new("server.js", WORKERS), address)?;
    let mut seen = BTreeSet::new();
    let mut first = None;
    let workers = peer.workers(WORKERS);
    while seen.len() < workers {
        if let Ok(pid) = ask(address, Duration::from_secs(1)) {
            first.get_or_insert_with(|| begun.elapsed());
            seen.insert(pid);
        }
        if begun.elapsed() > PATIENCE {
            let answered = seen.len();
            return Err(format!(
                "{}: {answered} workers answered\n{}",
                peer.name,
                serving.outputs()
            ));
        }
    }
    section.add(peer.name, FIRST, first.unwrap_or_default().as_secs_f64() * 1e3);
    section.add(peer.name, ALL, begun.elapsed().as_secs_f64() * 1e3);
    section.command(peer.name, &serving.command);
    Ok(())
}
