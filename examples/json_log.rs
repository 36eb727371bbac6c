//! One log for all: workers write JSON lines, the primary collects them and adds who wrote each.
//!
//! ```text
//! cargo run --release --example json_log
//! ```
//!
//! `curl localhost:8000`: a line of JSON for each request, with the `worker`, its `slot` and its `pid`, beside
//! what the primary has to say. `curl localhost:8000/mess`: also what is no JSON (a forgotten `println!`, a
//! panic) becomes a line of it. `cargo run … --example json_log > app.log` is the log file.

use axum::{Router, routing::get};
use phalanx::{Address, Cluster, Event, Primary, Settings, Stdio, WorkerHandle};
use serde_json::{Value, json};
use std::io::Write;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

const WORKERS: usize = 3;

fn main() -> phalanx::Result<()> {
    tracing_subscriber::fmt().json().flatten_event(true).init();
    let address = Address::from_env("127.0.0.1:8000")?.swap_remove(0);
    let settings = Settings { stdio: Stdio::Piped, ..Settings::default() };
    let cluster = Cluster::new().workers(WORKERS).settings(settings).primary(collect);
    cluster.listen(address.clone()).run(|worker| async move {
        let app = Router::new().route("/", get(hello)).route("/mess", get(mess));
        phalanx::http::serve(worker.listen(&address).await?, app).await
    })
}

async fn hello() -> String {
    let pid = std::process::id();
    tracing::info!(path = "/", "a request");
    format!("{{\"pid\":{pid}}}\n")
}

async fn mess() -> String {
    let pid = std::process::id();
    eprintln!("somebody forgot a println");
    format!("{{\"pid\":{pid}}}\n")
}

/// In the primary: reads what each worker writes, from its start to its end.
async fn collect(primary: Primary) {
    let mut events = primary.events();
    while let Some(event) = events.next().await {
        if let Event::Fork(worker) = event {
            if let Some(stdout) = worker.take_stdout() {
                tokio::spawn(copy(worker.clone(), stdout));
            }
            if let Some(stderr) = worker.take_stderr() {
                tokio::spawn(copy(worker, stderr));
            }
        }
    }
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
        // One write for a line, so that lines stay whole. A log that nobody reads is no reason to stop.
        let _ = std::io::stdout().write_all(format!("{entry}\n").as_bytes());
    }
}
