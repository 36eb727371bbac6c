//! A program that the tool knows: by one line it appears in `phalanx list`, and the tool's commands are about it too.
//!
//! ```text
//! cargo run --release --example listed
//! ```
//!
//! Then, in another terminal: `phalanx list`, `phalanx describe shop`, `phalanx scale shop +1`, `phalanx reload shop` (after
//! `cargo build --release --example listed`, the new code), `phalanx stop shop`. It is as long known as it runs.
//!
//! `NAME=web` calls it something else, `PORT=3000` sets where it listens.

use axum::{Router, routing::get};
use phalanx::{Address, Cluster};

fn main() -> phalanx::Result<()> {
    let address = Address::from_env("127.0.0.1:8000")?;
    let name = std::env::var("NAME").unwrap_or("shop".into());
    Cluster::new().workers(2).listed(name).listen(address.clone()).run(|worker| async move {
        let app = Router::new().route("/", get(hello));
        phalanx::http::serve(worker.listen(&address).await?, app).await
    })
}

async fn hello() -> String {
    format!("{{\"pid\":{}}}\n", std::process::id())
}
