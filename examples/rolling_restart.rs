//! New workers for old without losing a request: SIGUSR2 (or SIGHUP) to the primary.
//!
//! ```text
//! cargo run --release --example rolling_restart
//! ```
//!
//! Type the `kill -USR2 …` that it prints, with `curl localhost:8000` or a load generator beside it:
//! one worker after the other is replaced. The new one listens before the old one is told to leave,
//! on the same socket, so nothing that waits there is lost.
//!
//! A new worker that does not come up ends the reload, and the old ones go on. To see it, start with
//! `BROKEN=/tmp/broken` in front; then `touch /tmp/broken`, and `kill -USR2 …` again.

use axum::{Router, routing::get};
use phalanx::{Address, Cluster, Event, Primary, Report};

const WORKERS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = Address::from_env("127.0.0.1:8000")?;
    let cluster = Cluster::new().workers(WORKERS).listen(address.clone()).primary(tell);
    Ok(cluster.run(|worker| async move {
        if std::env::var_os("BROKEN").is_some_and(|file| std::path::Path::new(&file).exists()) {
            return Err("this version is broken".into());
        }
        let app = Router::new().route("/", get(hello));
        let listener = worker.listen(&address).await?;
        Ok::<(), Box<dyn std::error::Error>>(phalanx::http::serve(listener, app).await?)
    })?)
}

async fn tell(primary: Primary) {
    let pid = std::process::id();
    eprintln!("for a rolling restart: kill -USR2 {pid}");
    let mut events = primary.events();
    while let Some(event) = events.next().await {
        match event {
            Event::Listening(worker, _) => {
                eprintln!("pid {} serves in slot {}", worker.pid(), worker.slot());
            }
            Event::Exit(worker, exit) => {
                eprintln!("pid {} has left slot {}: {exit}", worker.pid(), worker.slot());
            }
            Event::Report(
                report @ (Report::ReloadBegun { .. }
                | Report::ReloadDone { .. }
                | Report::ReloadFailed { .. }),
            ) => eprintln!("{report}"),
            _ => {}
        }
    }
}

async fn hello() -> String {
    format!("{{\"pid\":{}}}\n", std::process::id())
}
