//! What a flood of one application's log costs its neighbour.

use super::Context;
use crate::peers::{self, Job, Peer, Serving};
use crate::report::{Better, Section};
use bench::load::Load;
use bench::wait;
use std::net::SocketAddr;
use std::process::Command;

const RATE: &str = "rate";
const P99: &str = "p99";

/// Who floods.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flood {
    Nobody,
    /// A process that nobody manages: what the flood costs by itself on so many cores.
    Outside,
    /// An application of the same manager's.
    Inside,
}

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let mut section = Section::new(
        "flood",
        "A log flood of one application, felt by its neighbour",
        "The neighbour: an empty `node:http` server, 2 workers, 4 clients, a connection per request. The flood: \
         another application that prints 20,000 lines of 200 bytes a second, run by the same manager, to log \
         files; or, for comparison, by nobody, to /dev/null.",
    )
    .column(RATE, "/s", Better::More)
    .column(P99, "ms", Better::Less);
    let (candidates, missing) = peers::at_hand([peers::started(), peers::pm2()]);
    for _ in 0..context.full_or(3, 1) {
        for peer in &candidates {
            for flood in [Flood::Nobody, Flood::Outside, Flood::Inside] {
                once(context, peer, flood, &mut section)?;
            }
        }
    }
    for peer in &candidates {
        let [_, outside, inside] =
            [Flood::Nobody, Flood::Outside, Flood::Inside].map(|f| row(peer, f));
        for (column, what) in [(RATE, "requests per second"), (P99, "p99")] {
            if let Some(ratio) = section.ratio(&inside, &outside, column) {
                let text =
                    format!("{}: {what} under a managed flood, beside an unmanaged one", peer.name);
                let met = match column {
                    RATE => ratio.median >= 0.95,
                    _ => ratio.median <= 1.10,
                };
                // The peer's number is shown, not judged.
                if peer.name.starts_with("phalanx") {
                    section.goal_that(
                        &format!("{text}: ≥ 0.95 ×, p99 ≤ 1.1 ×"),
                        ratio.to_string(),
                        met,
                    );
                } else {
                    section.note(format!("{text}: {ratio}"));
                }
            }
        }
    }
    missing.into_iter().for_each(|why| section.note(why));
    Ok(vec![section])
}

fn row(peer: &Peer, flood: Flood) -> String {
    let what = match flood {
        Flood::Nobody => "alone",
        Flood::Outside => "beside an unmanaged flood",
        Flood::Inside => "beside a managed flood",
    };
    format!("{}, {what}", peer.name)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn once(context: &Context, peer: &Peer, flood: Flood, section: &mut Section) -> Result<(), String> {
    let serving = peer.start(&context.programs, &Job::new("server.js", 2))?;
    let job = Job::new("flood.js", 1);
    let _flood = match flood {
        Flood::Nobody => None,
        Flood::Outside => Some(outside(&job)?),
        Flood::Inside => Some(serving.neighbour(&job)?),
    };
    let requests = context.full_or(15_000, 4_000);
    let outcome = peers::run(Load::new(serving.address).clients(4).requests(requests))?;
    let row = row(peer, flood);
    context.say(&format!("{row}: {}/s", outcome.rate()));
    section.add(&row, RATE, outcome.rate() as f64);
    section.add(&row, P99, outcome.latency.p99().as_secs_f64() * 1e3);
    section.command(&row, &serving.command);
    Ok(())
}

/// The flood to /dev/null, with nobody in between.
fn outside(job: &Job) -> Result<Serving, String> {
    let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
    let mut command = Command::new("sh");
    command.args(["-c", "exec node \"$0\" >/dev/null"]).arg(job.path());
    command.env("PORT", address.port().to_string());
    let serving = Serving::with_manager(&mut command, address)?;
    serving.every_worker_answers(1)?;
    Ok(serving)
}
