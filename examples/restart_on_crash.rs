//! The guard, written by hand: when a worker dies, fork another after a moment.
//!
//! ```text
//! cargo run --release --example restart_on_crash
//! ```
//!
//! `curl localhost:8000/crash` ends the worker that answers it; half a second later there is a new
//! one. The others go on serving. `Cluster::new()` does this by itself, with growing waits and a stop
//! where crashing does not end: this is the way to rules of one's own.

use axum::{Router, routing::get};
use phalanx::{Address, Event, Events, Options, Primary, Worker};
use std::error::Error;
use std::time::Duration;

const WORKERS: usize = 3;
const PAUSE: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if phalanx::is_worker() { Ok(worker().await?) } else { primary().await }
}

async fn primary() -> Result<(), Box<dyn Error>> {
    let primary = Primary::start(Options::default())?;
    let events = primary.events();
    for _ in 0..WORKERS {
        primary.fork_with([("WHY", "start")]).await?;
    }
    // SIGTERM and Ctrl-C stop the cluster; then the events end, too.
    let (obeyed, ()) = tokio::join!(primary.obey_signals(), replace_the_dead(&primary, events));
    Ok(obeyed?)
}

async fn replace_the_dead(primary: &Primary, mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Listening(worker, address) => {
                eprintln!("worker {} (pid {}) listens on {address}", worker.id(), worker.pid());
            }
            // One that was told to leave is not missed.
            Event::Exit(worker, exit) if worker.exited_after_disconnect() != Some(true) => {
                eprintln!("worker {} (pid {}) died: {exit}", worker.id(), worker.pid());
                let primary = primary.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(PAUSE).await;
                    if let Err(error) = primary.fork_with([("WHY", "crash")]).await {
                        eprintln!("no new worker: {error}");
                    }
                });
            }
            _ => {}
        }
    }
}

async fn worker() -> phalanx::Result<()> {
    let address = Address::from_env("127.0.0.1:8000")?;
    let worker = Worker::connect()?;
    let app = Router::new().route("/", get(hello)).route("/crash", get(crash));
    phalanx::http::serve(worker.listen(&address).await?, app).await
}

async fn hello() -> String {
    let why = std::env::var("WHY").unwrap_or_default();
    format!("{{\"pid\":{},\"forked_because_of\":\"{why}\"}}\n", std::process::id())
}

async fn crash() {
    std::process::exit(7);
}
