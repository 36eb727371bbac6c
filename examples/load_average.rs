//! As many workers as there is work: the count follows the machine's load average.
//!
//! ```text
//! cargo run --release --example load_average
//! ```
//!
//! It starts with one worker. Put load on the machine (`yes >/dev/null &`, several times) and watch
//! workers come, up to four; end the load (`killall yes`) and they leave again, each after its last
//! request. `LOADAVG=FILE` reads another file than `/proc/loadavg`, to play with.

use axum::{Router, routing::get};
use phalanx::{Address, Cluster, Primary};
use std::time::Duration;

const FEWEST: usize = 1;
const MOST: usize = 4;
const EVERY: Duration = Duration::from_secs(1);

fn main() -> phalanx::Result<()> {
    let address = Address::from_env("127.0.0.1:8000")?;
    Cluster::new().workers(FEWEST).listen(address.clone()).primary(follow_the_load).run(
        |worker| async move {
            let app = Router::new().route("/", get(hello));
            phalanx::http::serve(worker.listen(&address).await?, app).await
        },
    )
}

async fn follow_the_load(primary: Primary) {
    let file = std::env::var("LOADAVG").unwrap_or_else(|_| "/proc/loadavg".to_owned());
    let mut workers = FEWEST;
    loop {
        match std::fs::read_to_string(&file) {
            Ok(text) => match wanted(&text) {
                Some(wanted) if wanted != workers => {
                    eprintln!("load {}: {workers} -> {wanted} workers", text.trim());
                    if primary.scale(wanted).is_err() {
                        // The cluster is stopping.
                        return;
                    }
                    workers = wanted;
                }
                Some(_) => {}
                None => eprintln!("{file} holds no load average"),
            },
            Err(error) => eprintln!("cannot read {file}: {error}"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// One worker for each process that wants to run, within bounds.
fn wanted(loadavg: &str) -> Option<usize> {
    let load: f64 = loadavg.split_whitespace().next()?.parse().ok()?;
    (FEWEST..MOST).find(|&n| load <= n as f64).or(Some(MOST))
}

async fn hello() -> String {
    format!("{{\"pid\":{}}}\n", std::process::id())
}
