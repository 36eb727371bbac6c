//! One log for all: workers write JSON lines, the primary collects them and adds who wrote each.
//!
//! ```text
//! cargo run --release --example json_log
//! ```
//!
//! `curl localhost:8000`: a line of JSON for each request, with the `worker`, its `slot` and its
//! `pid`, beside what the primary has to say. `curl localhost:8000/mess`: also what is no JSON (a
//! forgotten `println!`, the words of a panic) becomes a line of it. `… --example json_log > app.log`
//! is the log file.

use axum::{Router, routing::get};
use phalanx::{
    Address, Event, Events, Options, Primary, Settings, Spec, Stdio, Worker, WorkerHandle,
};
use serde_json::{Value, json};
use std::error::Error;
use std::io::Write;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::task::JoinSet;

const WORKERS: usize = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().json().flatten_event(true).init();
    if phalanx::is_worker() { Ok(worker().await?) } else { primary().await }
}

async fn primary() -> Result<(), Box<dyn Error>> {
    let settings = Settings { stdio: Stdio::Piped, ..Settings::default() };
    // With a count of workers in it, the primary guards them.
    let spec = Spec { workers: WORKERS, ..Spec::default() };
    let primary = Primary::start(Options { settings, spec, ..Options::default() })?;
    let (obeyed, ()) = tokio::join!(primary.obey_signals(), collect(primary.events()));
    obeyed?;
    Ok(primary.finished().await?)
}

/// Reads what each worker writes, from its start to its last word.
async fn collect(mut events: Events) {
    let mut copies = JoinSet::new();
    while let Some(event) = events.next().await {
        if let Event::Fork(worker) = event {
            if let Some(stdout) = worker.take_stdout() {
                copies.spawn(copy(worker.clone(), stdout));
            }
            if let Some(stderr) = worker.take_stderr() {
                copies.spawn(copy(worker, stderr));
            }
        }
        while copies.try_join_next().is_some() {}
    }
    copies.join_all().await;
}

async fn copy(worker: WorkerHandle, output: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(output).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let mut entry = match serde_json::from_slice(&line) {
            Ok(Value::Object(entry)) => Value::Object(entry),
            _ => json!({"level": "RAW", "message": String::from_utf8_lossy(&line)}),
        };
        entry["worker"] = worker.id().0.into();
        entry["slot"] = worker.slot().0.into();
        entry["pid"] = worker.pid().into();
        // One write for a line keeps it whole. That nobody reads the log is no reason to stop.
        let _ = std::io::stdout().write_all(format!("{entry}\n").as_bytes());
    }
}

async fn worker() -> phalanx::Result<()> {
    let address = Address::from_env("127.0.0.1:8000")?;
    let worker = Worker::connect()?;
    let app = Router::new().route("/", get(hello)).route("/mess", get(mess));
    phalanx::http::serve(worker.listen(&address).await?, app).await?;
    tracing::info!("all requests are answered");
    Ok(())
}

async fn hello() -> String {
    tracing::info!(path = "/", "a request");
    format!("{{\"pid\":{}}}\n", std::process::id())
}

async fn mess() -> String {
    eprintln!("somebody forgot a println");
    format!("{{\"pid\":{}}}\n", std::process::id())
}
