//! The smallest server there is on the crate: what is measured with hundreds of workers is their primary.
//!
//! - `trivial N [POLICY]`: a cluster of N workers;
//! - under a primary (`phalanx run trivial -i N`): one of its workers.
//!
//! It listens on 127.0.0.1, port `PORT`, answers each connection once with its process id, and closes it.

use phalanx::{Address, Cluster, Error, Worker};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

type Failure = Box<dyn std::error::Error>;

/// No request is longer: what is asked does not matter.
const REQUEST: usize = 1024;

fn main() -> Result<(), Failure> {
    let mut cluster = Cluster::new();
    if let Some(workers) = std::env::args().nth(1) {
        cluster = cluster.workers(workers.parse()?);
    }
    if let Some(policy) = std::env::args().nth(2) {
        cluster = cluster.policy(policy.parse()?);
    }
    let port: u16 = std::env::var("PORT").map_err(|_| "PORT is not set")?.parse()?;
    let address = Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    cluster.run(move |worker| serve(worker, address))?;
    Ok(())
}

async fn serve(worker: Worker, address: Address) -> Result<(), Error> {
    let mut listener = worker.listen(address).await?;
    let body = format!("{{\"pid\":{}}}", std::process::id());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    while let Some((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            // A client that is gone is nobody's concern.
            let _ = once(stream, &answer).await;
        });
    }
    Ok(())
}

async fn once(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
) -> std::io::Result<()> {
    let mut request = [0; REQUEST];
    let mut got = 0;
    // Up to the end of the request's head.
    while !request[..got].ends_with(b"\r\n\r\n") && got < REQUEST {
        match stream.read(&mut request[got..]).await? {
            0 => return Ok(()),
            n => got += n,
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
