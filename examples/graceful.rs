//! Leaving in good order, with an end: every worker may finish its requests, but only for so long.
//!
//! ```text
//! cargo run --release --example graceful
//! ```
//!
//! Start `curl localhost:8000/slow` (2 seconds) and press Ctrl-C at once: curl still gets its whole
//! answer. Do the same with `curl localhost:8000/stuck`, which never ends: after `GRACE` seconds (10)
//! its worker is killed. The guard of `Cluster::new()` does this by itself: see `Cluster::grace`.

use axum::{Router, routing::get};
use phalanx::{Address, Event, Exit, Options, Primary, Signal, Worker, WorkerHandle};
use std::error::Error;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

const WORKERS: usize = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if phalanx::is_worker() { Ok(worker().await?) } else { primary().await }
}

async fn primary() -> Result<(), Box<dyn Error>> {
    let grace = std::env::var("GRACE").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let grace = Duration::from_secs(grace);
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let primary = Primary::start(Options::default())?;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(primary.fork_with([("ROLE", "web")]).await?);
    }
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    eprintln!("leaving: every worker has {grace:?} to finish");
    let mut leaving: JoinSet<()> =
        workers.into_iter().map(|worker| finish_or_die(worker, grace)).collect();
    while leaving.join_next().await.is_some() {}
    primary.stop().await;
    Ok(())
}

async fn finish_or_die(worker: WorkerHandle, grace: Duration) {
    let name = format!("worker {} (pid {})", worker.id(), worker.pid());
    let end = tokio::spawn(end_of(worker.clone()));
    worker.disconnect();
    match tokio::time::timeout(grace, end).await {
        Ok(Ok(Some(exit))) => eprintln!("{name} finished: {exit}"),
        Ok(_) => eprintln!("{name} was gone already"),
        Err(_) => match worker.kill(Signal::KILL) {
            Ok(()) => eprintln!("{name} did not finish and was killed"),
            Err(error) => eprintln!("{name} finished in the last moment: {error}"),
        },
    }
}

/// How the worker ends; `None` if it has ended before.
async fn end_of(worker: WorkerHandle) -> Option<Exit> {
    let mut events = worker.events();
    if worker.is_dead() {
        return None;
    }
    loop {
        if let Event::Exit(_, exit) = events.next().await? {
            return Some(exit);
        }
    }
}

async fn worker() -> phalanx::Result<()> {
    let address = Address::from_env("127.0.0.1:8000")?;
    let worker = Worker::connect()?;
    let app = Router::new()
        .route("/", get(|| async { answer("at once") }))
        .route("/slow", get(|| answer_after("slow", Duration::from_secs(2))))
        .route("/stuck", get(|| answer_after("stuck", Duration::MAX)));
    // Returns when the worker was told to leave and every connection is served.
    phalanx::http::serve(worker.listen(&address).await?, app).await
}

async fn answer_after(name: &str, wait: Duration) -> String {
    eprintln!("pid {} begins with a {name} request", std::process::id());
    tokio::time::sleep(wait).await;
    answer(name)
}

fn answer(name: &str) -> String {
    format!("{{\"answer\":\"{name}\",\"pid\":{}}}\n", std::process::id())
}
