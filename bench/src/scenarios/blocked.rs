//! One of four workers is busy with something else for five seconds: what new connections feel.

use super::Context;
use crate::peers::{self, Job, PATIENCE, Serving};
use crate::report::{Better, Bound, Section};
use bench::load::{Arrivals, Load, Outcome};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const WORKERS: usize = 4;
/// New connections per second: far from what even three workers can do.
const RATE: f64 = 200.0;
/// More than come in all the time, so that no request waits for another.
const IN_FLIGHT: usize = 2_000;
/// Longer than a worker is blocked: who waits for it to the end is answered late, not failed.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What the same load feels before: the noise of the machine.
const BEFORE: &str = "max before";
const CALM: Duration = Duration::from_secs(1);
/// The goal: what a user feels as at once.
const AT_MOST: f64 = 150.0;

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let blocked = Duration::from_millis(context.full_or(5_000, 1_500));
    let how = format!(
        "Node, {WORKERS} workers. When one of them has begun to spin for {} s, an open loop of {RATE} new \
         connections per second begins, for as long. Latency counts from the scheduled time.",
        blocked.as_secs_f64()
    );
    let mut section = Section::new("blocked", "One of four workers is blocked", &how)
        .column("p50", "ms", Better::Less)
        .column("p99", "ms", Better::Less)
        .column("p99.9", "ms", Better::Less)
        .column("max", "ms", Better::Less)
        .column("over 150 ms", "%", Better::Less)
        .column("failed", "", Better::Less)
        .column(BEFORE, "ms", Better::Less);
    let (candidates, missing) = peers::at_hand(peers::of_node());
    missing.iter().for_each(|why| section.note(why));
    for round in 0..context.full_or(2, 1) {
        for peer in &candidates {
            context.say(peer.name);
            let serving = peer.start(&context.programs, &Job::new("block.js", WORKERS))?;
            let before = peers::run(load(serving.address, round).duration(CALM))?;
            section.add(peer.name, BEFORE, milliseconds(before.latency.max()));
            let outcome = while_blocked(&serving, blocked, round)
                .map_err(|error| format!("{}: {error}\n{}", peer.name, serving.outputs()))?;
            add(&mut section, peer.name, &outcome);
            section.command(peer.name, &serving.command);
        }
    }
    section.note(
        "the blocked worker takes a core for itself: on a machine with few, the others wait for what is left",
    );
    for ours in ["phalanx", "phalanx, round-robin"] {
        section.goal("max", ours, Bound::AtMost(AT_MOST));
        section.goal("failed", ours, Bound::AtMost(0.0));
    }
    Ok(vec![section])
}

/// Blocks a worker, and then connects. The load begins only when the worker spins, so that no
/// request can be one that it had accepted before.
fn while_blocked(serving: &Serving, blocked: Duration, seed: u64) -> Result<Outcome, String> {
    // Held open until the load is done.
    let _blocking = block(serving.address, blocked)
        .map_err(|error| format!("cannot block a worker: {error}"))?;
    peers::run(load(serving.address, seed).duration(blocked))
}

fn load(address: SocketAddr, seed: u64) -> Load {
    let load = Load::new(address).open_loop(Arrivals::poisson(RATE, seed + 1));
    load.clients(IN_FLIGHT).timeout(TIMEOUT)
}

/// Returns when the worker has said that it is about to spin.
fn block(address: SocketAddr, blocked: Duration) -> std::io::Result<TcpStream> {
    const WORD: &[u8] = b"blocked\n";
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let path = format!("/block?{}", blocked.as_millis());
    // In one piece: a server may answer, and close, after the first.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut said = Vec::new();
    let mut buffer = [0; 1_024];
    while !said.windows(WORD.len()).any(|window| window == WORD) {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            let text = String::from_utf8_lossy(&said).into_owned();
            return Err(std::io::Error::other(format!("it answered {text:?}")));
        }
        said.extend_from_slice(&buffer[..count]);
    }
    Ok(stream)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn add(section: &mut Section, name: &str, outcome: &Outcome) {
    let latency = &outcome.latency;
    section.add(name, "p50", milliseconds(latency.p50()));
    section.add(name, "p99", milliseconds(latency.p99()));
    section.add(name, "p99.9", milliseconds(latency.p999()));
    section.add(name, "max", milliseconds(latency.max()));
    let over = (0..1_000).filter(|n| milliseconds(latency.quantile(1_000 - n)) > AT_MOST).count();
    section.add(name, "over 150 ms", over as f64 / 10.0);
    section.add(name, "failed", outcome.failed as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// Answers one request with that.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            // What is not read resets the connection when it is closed.
            let request: Vec<String> =
                lines.map(Result::unwrap).take_while(|l| !l.is_empty()).collect();
            assert_eq!(request[0], "GET /block?5000 HTTP/1.1");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn a_worker_is_blocked_when_it_says_so() {
        let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nblocked\n\r\n";
        block(server(said), Duration::from_secs(5)).unwrap();
        let bad = block(server("HTTP/1.1 502 Bad Gateway\r\n\r\n"), Duration::from_secs(5));
        let error = bad.unwrap_err().to_string();
        assert!(error.contains("502 Bad Gateway"), "{error}");
    }
}
