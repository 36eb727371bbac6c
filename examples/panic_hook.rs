//! A panic ends the worker, with a line in the log that says which and where; the guard replaces it.
//!
//! ```text
//! cargo run --release --example panic_hook
//! ```
//!
//! `curl localhost:8000/panic`: the log has one line of JSON with the worker's number, the message
//! and the place; the process exits with code 1; a new worker is there at once. Without the hook a
//! panic in a handler would end one connection (or, with `panic = "abort"`, the process by a signal),
//! and the log would not say whose.

use axum::{Router, routing::get};
use phalanx::{Address, Cluster, Worker};
use serde_json::json;
use std::io::Write;

const WORKERS: usize = 2;

fn main() -> phalanx::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = Address::from_env("127.0.0.1:8000")?;
    Cluster::new().workers(WORKERS).listen(address.clone()).run(|worker| async move {
        exit_on_panic(&worker);
        let app = Router::new().route("/", get(hello)).route("/panic", get(panic));
        phalanx::http::serve(worker.listen(&address).await?, app).await
    })
}

fn exit_on_panic(worker: &Worker) {
    let (worker, slot) = (worker.id(), worker.slot());
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let words = payload.downcast_ref::<&str>().copied();
        let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let entry = json!({
            "level": "ERROR",
            "worker": worker,
            "slot": slot,
            "pid": std::process::id(),
            "panic": words,
            "at": panic.location().map(ToString::to_string),
        });
        // Not `eprintln!`: it panics where standard error is closed.
        let _ = std::io::stderr().write_all(format!("{entry}\n").as_bytes());
        std::process::exit(1);
    }));
}

async fn hello() -> String {
    format!("{{\"pid\":{}}}\n", std::process::id())
}

async fn panic() -> String {
    let orders: Vec<u32> = Vec::new();
    orders.first().expect("there is always an order").to_string()
}
