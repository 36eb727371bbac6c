//! A Python server that knows nothing of any cluster, several times on one port, under a primary in Rust.
//!
//! ```text
//! PORT=8000 cargo run --release --example any_program
//! curl http://127.0.0.1:8000/            another worker answers now and then
//! kill -USR2 PRIMARY_PID                 new workers, and no request is lost
//! ```
//!
//! The program binds its port itself, in each worker: the primary answers with the worker's slot of that port. Only
//! this port is shared here; whatever else the program binds is its own. Linux.

use phalanx::{Cluster, Event, Intercept, Primary, Program};

fn main() -> phalanx::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8000);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/any/server.py");
    let program =
        Program::new(script).args([port.to_string()]).intercept(Intercept::Ports([port].into()));
    Cluster::new().workers(3).settings(program.settings()?).primary(tell).run_as_primary()
}

/// Events are as with any worker; there are no messages.
async fn tell(primary: Primary) {
    let mut events = primary.events();
    // The events hold the primary only as long as it runs.
    drop(primary);
    while let Some(event) = events.next().await {
        if let Event::Listening(worker, address) = event {
            eprintln!("worker {} bound {address} and knows nothing of the others", worker.id());
        }
    }
}
