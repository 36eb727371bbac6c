//! What a primary needs of the machine's memory.

use super::Context;
use crate::peers::{self, Job, Peer, Serving};
use crate::report::{Better, Bound, Section};
use bench::process;
use bench::wait;
use std::net::SocketAddr;

const PHALANX: &str = "phalanx, trivial workers";
const WITH_KEEPER: &str = "phalanx --keeper, trivial workers";
const KEEPER: &str = "its keeper";
/// Bytes of a kilobyte: the greater unit would make goals easier.
const KILO: u64 = 1_000;

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let mut section = Section::new(
        "memory",
        "Memory of the primary",
        "PSS of the primary (pm2: of its daemon) in kB of 1,000 bytes, when every worker is ready: /proc/PID/smaps_rollup. \
         Trivial workers are `bench/app`'s `trivial`, the others `bench/node/server.js`.",
    );
    let many: &[usize] = if context.quick { &[1, 4, 64] } else { &[1, 4, 16, 256] };
    let few: &[usize] = if context.quick { &[1, 4] } else { &[1, 4, 16] };
    let mut sizes: Vec<usize> = many.iter().chain(few).copied().collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in &sizes {
        section = section.column(&column(*size), "kB", Better::Less);
    }
    section = section.column("further worker", "kB", Better::Less);
    let node = [peers::phalanx("direct"), peers::cluster("rr"), peers::pm2()];
    let (node, missing) = peers::at_hand(node);
    for _ in 0..context.full_or(2, 1) {
        let trivial = [peers::trivial(PHALANX, &[]), peers::trivial(WITH_KEEPER, &["--keeper"])];
        for peer in trivial {
            grow(context, &mut section, &peer, many, false)?;
        }
        for peer in &node {
            grow(context, &mut section, peer, few, true)?;
        }
    }
    section.goal(&column(4), PHALANX, Bound::AtMost(5_000.0));
    section.goal("further worker", PHALANX, Bound::AtMost(40.0));
    section.goal("further worker", WITH_KEEPER, Bound::AtMost(40.0));
    missing.into_iter().for_each(|why| section.note(why));
    Ok(vec![section])
}

fn column(workers: usize) -> String {
    if workers == 1 { "1 worker".into() } else { format!("{workers} workers") }
}

/// One candidate with each number of workers.
fn grow(
    context: &Context,
    section: &mut Section,
    peer: &Peer,
    sizes: &[usize],
    answers: bool,
) -> Result<(), String> {
    let mut seen = Vec::new();
    for workers in sizes {
        context.say(&format!("{}, {}", peer.name, column(*workers)));
        let job = Job::new("server.js", *workers);
        let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
        let serving = peer.begin(&context.programs, &job, address)?;
        if answers {
            serving.every_worker_answers(*workers)?;
        }
        let primary = serving.manager.ok_or("nobody manages it")?;
        let size = kilobytes(primary)?;
        section.add(peer.name, &column(*workers), size);
        section.command(peer.name, &serving.command);
        keeper(section, peer, &serving, *workers)?;
        seen.push((*workers, size));
    }
    if let (Some(from), Some(to)) = (seen.iter().find(|(n, _)| *n == 4), seen.last())
        && let Ok(more) = u32::try_from(to.0.saturating_sub(from.0))
        && more > 0
    {
        section.add(peer.name, "further worker", (to.1 - from.1) / f64::from(more));
    }
    Ok(())
}

/// What stands above the primary is a process of its own.
fn keeper(
    section: &mut Section,
    peer: &Peer,
    serving: &Serving,
    workers: usize,
) -> Result<(), String> {
    if peer.name != WITH_KEEPER {
        return Ok(());
    }
    let primary = serving.manager.ok_or("nobody manages it")?;
    let parent = process::stat(primary).map_err(|error| error.to_string())?.parent;
    section.add(KEEPER, &column(workers), kilobytes(parent)?);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "no process has 2^52 bytes")]
fn kilobytes(pid: u32) -> Result<f64, String> {
    let bytes = process::pss_bytes(pid).map_err(|error| format!("process {pid}: {error}"))?;
    Ok((bytes / KILO) as f64)
}
