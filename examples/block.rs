//! One worker is busy for five seconds, and nobody else has to wait for it.
//!
//! ```text
//! cargo run --release --example block
//! ```
//!
//! `curl localhost:8000/block &` and then `curl localhost:8000` as often as you like: the other
//! workers answer, also those connections that the kernel has already put in the busy worker's
//! queue. The primary sees that the queue does not move and hands them to the others.

use axum::{Router, routing::get};
use phalanx::{Address, Cluster};
use std::time::{Duration, Instant};

const WORKERS: usize = 3;
const BUSY: Duration = Duration::from_secs(5);

fn main() -> phalanx::Result<()> {
    let address = Address::from_env("127.0.0.1:8000")?;
    Cluster::new().workers(WORKERS).listen(address.clone()).run(|worker| async move {
        let app = Router::new().route("/", get(hello)).route("/block", get(block));
        phalanx::http::serve(worker.listen(&address).await?, app).await
    })
}

async fn hello() -> String {
    format!("{{\"pid\":{}}}\n", std::process::id())
}

/// A long computation in the wrong place: it holds up everything in this worker.
async fn block() -> String {
    let pid = std::process::id();
    eprintln!("pid {pid} is busy for {BUSY:?}");
    let begin = Instant::now();
    let mut rounds = 0_u64;
    while begin.elapsed() < BUSY {
        rounds = std::hint::black_box(rounds + 1);
    }
    eprintln!("pid {pid} is back");
    format!("{{\"pid\":{pid},\"rounds\":{rounds}}}\n")
}
