//! Node workers under a primary in Rust: it answers their questions, and asks its own.
//!
//! ```text
//! PORT=8000 cargo run --release --example node_workers
//! curl http://127.0.0.1:8000/
//! ```
//!
//! The workers are those of `examples/node/messages.js`, unchanged: this program is the primary branch of that
//! file. It answers with a greeting of its own, and asks every two seconds how many requests were
//! served. The guard, signals and reloads are as with any cluster.

use phalanx::{Cluster, Event, Message, Primary, Program, WorkerHandle};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the workers say: a question with a number, or an answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Question { ask: String, id: u64 },
    Served { served: u64 },
}

#[derive(Serialize)]
struct Answer {
    id: u64,
    answer: &'static str,
}

#[derive(Serialize)]
struct Question {
    ask: &'static str,
}

fn main() -> phalanx::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/node/messages.js");
    Cluster::new().settings(Program::new(script).settings()?).primary(converse).run_as_primary()
}

async fn converse(primary: Primary) {
    let mut events = primary.events();
    // The events hold the primary only as long as it runs.
    drop(primary);
    let mut workers: Vec<WorkerHandle> = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(2));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Listening(worker, _)) => workers.push(worker),
                Some(Event::Exit(worker, _)) => workers.retain(|known| *known != worker),
                Some(Event::Message(worker, message)) => answer(&worker, &message).await,
                Some(_) => {}
                None => return,
            },
            _ = ticks.tick() => for worker in &workers {
                // One that is gone has nothing to answer.
                let _ = worker.send(&Question { ask: "served" }).await;
            },
        }
    }
}

async fn answer(worker: &WorkerHandle, message: &Message) {
    match message.parse() {
        Ok(Said::Question { ask, id }) if ask == "greeting" => {
            let _ = worker.send(&Answer { id, answer: "greetings in Rust" }).await;
        }
        Ok(Said::Served { served }) => {
            eprintln!("worker {} has served {served} requests", worker.id());
        }
        _ => eprintln!("worker {} says {}", worker.id(), message.text()),
    }
}
