//! N workers, one port: the smallest cluster.
//!
//! ```text
//! cargo run --release --example hello
//! ```
//!
//! Then, in another terminal, `curl localhost:8000` a few times: another `pid` answers each time.
//! `kill -9` one of them: the next is there at once. Ctrl-C lets all requests finish and exits 0.
//!
//! `WORKERS=4` sets how many there are (else one per core), `PORT=3000` where they listen.

use axum::{Router, routing::get};
use phalanx::{Address, Cluster};

fn main() -> phalanx::Result<()> {
    let address = Address::from_env("127.0.0.1:8000")?;
    if phalanx::is_primary() {
        eprintln!("primary {}, starting workers on {address}", std::process::id());
    }
    Cluster::new().workers(workers()).listen(address.clone()).run(|worker| async move {
        let app = Router::new().route("/", get(hello));
        phalanx::http::serve(worker.listen(&address).await?, app).await
    })
}

async fn hello() -> String {
    format!("{{\"message\":\"hello\",\"pid\":{}}}\n", std::process::id())
}

fn workers() -> usize {
    std::env::var("WORKERS").ok().and_then(|n| n.parse().ok()).unwrap_or_else(phalanx::cores)
}
