//! State that all workers share lives in the primary: one counter, and each request asks for it.
//!
//! ```text
//! cargo run --release --example counter
//! ```
//!
//! `curl localhost:8000` some times: `total` grows by one with each, whichever `pid` answers. Kill a
//! worker with `kill -9 PID`: the total goes on where it was.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Router, routing::get};
use phalanx::{Address, Cluster, Event, Messages, Primary, Worker};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// A worker tells: there was a request, its number is mine.
#[derive(Serialize, Deserialize)]
struct Count {
    request: u64,
}

/// The primary answers: with it, there were so many.
#[derive(Serialize, Deserialize)]
struct Total {
    request: u64,
    total: u64,
}

fn main() -> phalanx::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = Address::from_env("127.0.0.1:8000")?;
    Cluster::new().workers(3).listen(address.clone()).primary(keep_count).run(|worker| async move {
        let listener = worker.listen(&address).await?;
        let shared =
            Shared { replies: Mutex::new(worker.messages()), worker, requests: AtomicU64::new(0) };
        let app = Router::new().route("/", get(count)).with_state(Arc::new(shared));
        phalanx::http::serve(listener, app).await
    })
}

/// In the primary: the one counter.
async fn keep_count(primary: Primary) {
    let mut events = primary.events();
    let mut total = 0;
    while let Some(event) = events.next().await {
        let Event::Message(worker, message) = event else { continue };
        let Ok(Count { request }) = message.parse() else { continue };
        total += 1;
        // A worker that is gone needs no answer.
        let _ = worker.send(&Total { request, total }).await;
    }
}

/// In a worker: what its requests share.
struct Shared {
    worker: Worker,
    replies: Mutex<Messages>,
    requests: AtomicU64,
}

async fn count(State(shared): State<Arc<Shared>>) -> Result<String, StatusCode> {
    // One question at a time. The number tells the answer from that to a client that went away.
    let mut replies = shared.replies.lock().await;
    let request = shared.requests.fetch_add(1, Ordering::Relaxed);
    let sent = shared.worker.send(&Count { request }).await;
    sent.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    while let Some(message) = replies.next().await {
        if let Ok(reply) = message.parse::<Total>()
            && reply.request == request
        {
            let (total, pid) = (reply.total, std::process::id());
            return Ok(format!("{{\"total\":{total},\"pid\":{pid}}}\n"));
        }
    }
    // The primary is gone.
    Err(StatusCode::SERVICE_UNAVAILABLE)
}
