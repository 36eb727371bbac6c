//! UDP on N workers: each answers what it gets, and says who it is.
//!
//! ```text
//! cargo run --release --example udp_echo
//! ```
//!
//! `nc -u 127.0.0.1 8000` and type: every line comes back with the `pid` of the worker. One client
//! (its address and port) stays with one worker; another `nc` may get another.

use phalanx::{Address, Cluster, ListenOptions, Worker};

const WORKERS: usize = 3;
/// The longest datagram there is.
const LONGEST: usize = 65_535;

fn main() -> phalanx::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = Address::from_env("127.0.0.1:8000")?;
    Cluster::new().workers(WORKERS).run(|worker| echo(worker, address))
}

async fn echo(worker: Worker, address: Address) -> phalanx::Result<()> {
    let socket = worker.bind_udp(&address, &ListenOptions::default()).await?;
    let pid = std::process::id();
    let mut buffer = vec![0; LONGEST];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = worker.draining() => return Ok(()),
        };
        // An error is about a datagram sent before (its client is gone): nothing to do here.
        let Ok((length, client)) = received else { continue };
        let mut answer = format!("pid {pid}: ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        if let Err(error) = socket.send_to(&answer, client).await {
            tracing::warn!("cannot answer {client}: {error}");
        }
    }
}
