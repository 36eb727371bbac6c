//! Reloads under load: who loses requests, and how long it takes.

use super::Context;
use crate::peers::{self, Job, PATIENCE, Peer};
use crate::report::{Better, Bound, Section};
use bench::load::{Load, Outcome, Phase, Running};
use bench::wait;
use std::time::{Duration, Instant};

const WORKERS: usize = 4;
const CLIENTS: usize = 16;
/// Who has no byte by then hangs.
const HANG: Duration = Duration::from_secs(3);

/// An application, and how its clients connect.
struct Case {
    id: &'static str,
    title: &'static str,
    app: &'static str,
    keep_alive: bool,
    /// Whether a short run has it as well.
    quick: bool,
}

const CASES: [Case; 4] = [
    Case {
        id: "reload-connections",
        title: "Reloads, a connection per request",
        app: "server.js",
        keep_alive: false,
        quick: true,
    },
    Case {
        id: "reload-keep-alive",
        title: "Reloads, keep-alive",
        app: "server.js",
        keep_alive: true,
        quick: true,
    },
    Case {
        id: "reload-slow-connections",
        title: "Reloads, answers that take 200 ms, a connection per request",
        app: "slow.js",
        keep_alive: false,
        quick: false,
    },
    Case {
        id: "reload-slow-keep-alive",
        title: "Reloads, answers that take 200 ms, keep-alive",
        app: "slow.js",
        keep_alive: true,
        quick: false,
    },
];

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let mut all = vec![
        peers::phalanx("direct"),
        peers::phalanx("round-robin"),
        peers::pm2(),
        peers::cluster("rr"),
    ];
    if !context.quick {
        all.push(peers::nginx());
    }
    let (candidates, missing) = peers::at_hand(all);
    let cases = CASES.iter().filter(|case| case.quick || !context.quick);
    cases.map(|case| measure(context, case, &candidates, &missing)).collect()
}

fn measure(
    context: &Context,
    case: &Case,
    candidates: &[Peer],
    missing: &[String],
) -> Result<Section, String> {
    let (reloads, bound) = limits(context);
    let how = format!(
        "{reloads} reloads of {WORKERS} Node workers, one after another, while {CLIENTS} clients ask without a pause; \
         for {} s at most. A client that has no answer within {} s hangs; every other failure is an error.",
        bound.as_secs(),
        HANG.as_secs()
    );
    let mut section = Section::new(case.id, case.title, &how)
        .column("errors", "", Better::Less)
        .column("hangs", "", Better::Less)
        .column("answers", "", Better::More)
        .column("reloads done", "", Better::More)
        .column("time of a reload", "s", Better::Less)
        .column("slowest answer", "ms", Better::Less);
    section.notes.extend(missing.iter().cloned());
    for peer in candidates {
        context.say(&format!("{}: {}", case.id, peer.name));
        // One that cannot do it at all is no reason to know nothing of the others.
        if let Err(error) = candidate(context, case, peer, &mut section) {
            section.note(format!("{} could not be measured: {}", peer.name, first_line(&error)));
        }
    }
    for ours in ["phalanx", "phalanx, round-robin"] {
        section.goal("errors", ours, Bound::AtMost(0.0));
        section.goal("hangs", ours, Bound::AtMost(0.0));
    }
    explain(case, &mut section);
    Ok(section)
}

/// How many reloads, and how long a candidate has for them.
fn limits(context: &Context) -> (u32, Duration) {
    context.full_or((10, Duration::from_secs(30)), (3, Duration::from_secs(8)))
}

fn candidate(
    context: &Context,
    case: &Case,
    peer: &Peer,
    section: &mut Section,
) -> Result<(), String> {
    let (reloads, bound) = limits(context);
    let mut serving = peer.start(&context.programs, &Job::new(case.app, WORKERS))?;
    section.command(peer.name, &serving.command);
    let load = Load::new(serving.address).clients(CLIENTS).keep_alive(case.keep_alive);
    // Ended when the reloads are; bounded if they never are.
    let load = load.timeout(HANG).duration(bound + PATIENCE + PATIENCE);
    let load = load.start().map_err(|error| format!("cannot start the load: {error}"))?;
    more_answers(&load, CLIENTS * 4)?;
    let begin = Instant::now();
    let mut done = 0_u32;
    while done < reloads && begin.elapsed() < bound {
        match serving.reload(bound.saturating_sub(begin.elapsed())) {
            Ok(took) => {
                done += 1;
                section.add(peer.name, "time of a reload", took.as_secs_f64());
            }
            Err(_) if begin.elapsed() >= bound => break,
            Err(error) => {
                let error = first_line(&error);
                section.note(format!("{}: reload {} failed: {error}", peer.name, done + 1));
                break;
            }
        }
    }
    // What the last reload breaks shows with the requests after it.
    let served_on = more_answers(&load, CLIENTS * 10);
    let outcome = load.stop();
    served_on?;
    section.add(peer.name, "reloads done", f64::from(done));
    record(section, peer.name, &outcome);
    Ok(())
}

/// Waits until so many more requests have been answered.
fn more_answers(load: &Running, count: usize) -> Result<(), String> {
    let before = load.progress().answered();
    let wanted = before.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    wait::until(PATIENCE, "answers", || (load.progress().answered() >= wanted).then_some(()))
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn record(section: &mut Section, name: &str, outcome: &Outcome) {
    let hangs = outcome.failures(Phase::Timeout);
    section.add(name, "errors", (outcome.failed - hangs) as f64);
    section.add(name, "hangs", hangs as f64);
    section.add(name, "answers", outcome.answered as f64);
    section.add(name, "slowest answer", outcome.latency.max().as_secs_f64() * 1e3);
    if let Some(example) = outcome.errors.first() {
        section.note(format!("{name}, for example: {example}"));
    }
}

/// What a reader has to know to be fair to the peers.
fn explain(case: &Case, section: &mut Section) {
    section.note(
        "pm2: `pm2 reload`; node:cluster: a new worker, then `disconnect()` of the old one, SIGKILL after 10 s; \
         nginx: its processes end by SIGTERM and start anew one after another, and nginx repeats at another one what \
         was cut, which it does for requests that may be repeated (GET here), and not for others. Its servers have \
         `max_fails=0`: with the default, reloads within 10 s of each other leave none, and all requests fail.",
    );
    if case.keep_alive {
        section.note(
            "A kept connection that the server closed between two requests counts as no error.",
        );
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn hangs_and_errors_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The first is answered, the second cut, the third left waiting.
        let server = std::thread::spawn(move || {
            let mut held = Vec::new();
            for number in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1_024]);
                match number {
                    0 => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap(),
                    1 => drop(stream),
                    _ => held.push(stream),
                }
            }
            // Until the client has gone.
            for stream in &mut held {
                let _ = stream.read(&mut [0; 1_024]);
            }
        });
        let load = Load::new(address).clients(1).requests(3).timeout(Duration::from_millis(200));
        let outcome = peers::run(load).unwrap();
        server.join().unwrap();
        let mut section = Section::new("reload", "", "")
            .column("errors", "", Better::Less)
            .column("hangs", "", Better::Less)
            .column("answers", "", Better::More)
            .column("slowest answer", "ms", Better::Less);
        record(&mut section, "peer", &outcome);
        assert_eq!(section.median("peer", "errors"), Some(1.0));
        assert_eq!(section.median("peer", "hangs"), Some(1.0));
        assert_eq!(section.median("peer", "answers"), Some(1.0));
        assert_eq!(section.notes.len(), 1, "{:?}", section.notes);
    }
}
