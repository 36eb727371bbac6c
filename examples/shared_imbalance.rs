//! Who gets how many connections: one socket for all beside a socket for each.
//!
//! ```text
//! cargo run --release --example shared_imbalance
//! ```
//!
//! It makes 2,000 connections to itself under each policy, prints how many each worker got, and
//! ends. With `shared` (one accept queue, and whoever wakes first takes the connection: the
//! `SCHED_NONE` of node:cluster) a few workers get most; with `direct` the kernel spreads them
//! evenly. `CONNECTIONS=500` makes fewer.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use phalanx::{Address, Event, Options, Policy, Primary, Spec, Worker};
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const WORKERS: usize = 4;
const MOST_CONNECTIONS: usize = 2_000;
const AT_ONCE: usize = 8;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if phalanx::is_worker() {
        return Ok(worker().await?);
    }
    let connections = std::env::var("CONNECTIONS").ok().and_then(|n| n.parse().ok());
    let connections = connections.unwrap_or(MOST_CONNECTIONS).min(MOST_CONNECTIONS);
    println!("{connections} connections, {WORKERS} workers");
    for policy in [Policy::Shared, Policy::Direct] {
        let counts = measure(policy, connections).await?;
        let most = counts.iter().max().unwrap_or(&0) * 100 / connections.max(1);
        println!("{policy:<8} {counts:?}  the busiest has {most} %");
    }
    Ok(())
}

/// A cluster with that policy: how many connections each of its workers gets.
async fn measure(policy: Policy, connections: usize) -> Result<Vec<usize>, Box<dyn Error>> {
    let spec = Spec { workers: WORKERS, ..Spec::default() };
    let primary = Primary::start(Options { spec, policy, ..Options::default() })?;
    let mut events = primary.events();
    let Address::Ip(address) = primary.open("127.0.0.1:0".parse()?, None).await? else {
        return Err("no IP address".into());
    };
    for _ in 0..WORKERS {
        while !matches!(events.next().await, Some(Event::Listening(..)) | None) {}
    }
    let mut counts: BTreeMap<u32, usize> = (0..).take(WORKERS).map(|slot| (slot, 0)).collect();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        if clients.len() >= AT_ONCE
            && let Some(slot) = clients.join_next().await
        {
            *counts.entry(slot??).or_default() += 1;
        }
        clients.spawn(ask(address));
    }
    while let Some(slot) = clients.join_next().await {
        *counts.entry(slot??).or_default() += 1;
    }
    primary.stop().await;
    Ok(counts.into_values().collect())
}

/// Which slot a new connection got to.
async fn ask(address: SocketAddr) -> std::io::Result<u32> {
    TcpStream::connect(address).await?.read_u32().await
}

async fn worker() -> phalanx::Result<()> {
    let worker = Worker::connect()?;
    // Port 0 is one port for all workers: the one that the primary opened.
    let mut listener = worker.listen("127.0.0.1:0").await?;
    while let Some((mut stream, _)) = listener.accept().await {
        // The client that goes away first counts itself as an error.
        let _ = stream.write_u32(worker.slot()).await;
    }
    Ok(())
}
