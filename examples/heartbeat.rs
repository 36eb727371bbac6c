//! A heartbeat over messages: a worker that misses three is killed and replaced.
//!
//! ```text
//! cargo run --release --example heartbeat
//! ```
//!
//! `curl localhost:8000/hang` blocks a worker for ever; `curl localhost:8000` is answered by the
//! others. About four seconds later the hanging one is killed, and a new one is there. `BEAT_MS=200`
//! makes the heart beat faster.

use axum::{Router, routing::get};
use phalanx::{Address, Event, Events, Options, Primary, Signal, Worker, WorkerHandle, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

const WORKERS: usize = 2;
const MISSES: u32 = 3;

#[derive(Serialize, Deserialize)]
enum Beat {
    Ping,
    Pong,
}

/// A worker, and how many pings it has not answered.
struct Patient {
    worker: WorkerHandle,
    missed: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if phalanx::is_worker() { Ok(worker().await?) } else { primary().await }
}

async fn primary() -> Result<(), Box<dyn Error>> {
    let primary = Primary::start(Options::default())?;
    let events = primary.events();
    for _ in 0..WORKERS {
        primary.fork_with([("ROLE", "web")]).await?;
    }
    let (obeyed, ()) = tokio::join!(primary.obey_signals(), watch(&primary, events));
    Ok(obeyed?)
}

async fn watch(primary: &Primary, mut events: Events) {
    let every = std::env::var("BEAT_MS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let mut ticks = tokio::time::interval(Duration::from_millis(every.max(1)));
    let mut patients: HashMap<WorkerId, Patient> = HashMap::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = ticks.tick() => {
                for patient in patients.values_mut() {
                    beat(patient).await;
                }
                continue;
            }
        };
        match event {
            Some(Event::Online(worker)) => {
                patients.insert(worker.id(), Patient { worker, missed: 0 });
            }
            Some(Event::Message(worker, message)) => {
                let patient = patients.get_mut(&worker.id());
                if let (Some(patient), Ok(Beat::Pong)) = (patient, message.parse()) {
                    patient.missed = 0;
                }
            }
            Some(Event::Exit(worker, exit)) => {
                patients.remove(&worker.id());
                eprintln!("pid {} is gone: {exit}", worker.pid());
                if worker.exited_after_disconnect() != Some(true)
                    && let Err(error) = primary.fork_with([("ROLE", "web")]).await
                {
                    eprintln!("no new worker: {error}");
                }
            }
            Some(_) => {}
            None => return,
        }
    }
}

async fn beat(patient: &mut Patient) {
    let pid = patient.worker.pid();
    if patient.missed >= MISSES {
        eprintln!("pid {pid} missed {} heartbeats and is killed", patient.missed);
        // If it has just ended, its exit is on the way.
        let _ = patient.worker.kill(Signal::KILL);
    } else if patient.worker.send(&Beat::Ping).await.is_ok() {
        patient.missed += 1;
    }
}

async fn worker() -> phalanx::Result<()> {
    let address = Address::from_env("127.0.0.1:8000")?;
    let worker = Worker::connect()?;
    let app = Router::new().route("/", get(hello)).route("/hang", get(hang));
    let listener = worker.listen(&address).await?;
    tokio::spawn(async move {
        let mut messages = worker.messages();
        while let Some(message) = messages.next().await {
            if let Ok(Beat::Ping) = message.parse() {
                // Without a primary nobody waits for it.
                let _ = worker.send(&Beat::Pong).await;
            }
        }
    });
    phalanx::http::serve(listener, app).await
}

async fn hello() -> String {
    format!("{{\"pid\":{}}}\n", std::process::id())
}

/// Not `tokio::time::sleep`: the whole worker stands still, as in an endless loop.
async fn hang() {
    eprintln!("pid {} hangs", std::process::id());
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}
