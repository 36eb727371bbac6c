//! One HTTP application, served in as many ways as there are to use the cores of a machine:
//!
//! - `serve threads N`: one process, N threads of one tokio runtime;
//! - `serve raw`: one single-threaded process with a `SO_REUSEPORT` socket of its own, to be started N times;
//! - `serve cluster N [POLICY]`: a phalanx cluster of N single-threaded workers.
//!
//! It listens on 127.0.0.1, port `PORT`, and answers with its process id.

use axum::{Router, routing::get};
use phalanx::{Address, Cluster};
use std::net::{Ipv4Addr, SocketAddr};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let port: u16 = std::env::var("PORT").map_err(|_| "PORT is not set")?.parse()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match args[..] {
        ["threads", count] => threads(address, count.parse()?),
        ["raw"] => raw(address),
        ["cluster", count, ref policy @ ..] => cluster(address, count.parse()?, policy.first()),
        _ => Err("there are `threads N`, `raw` and `cluster N [POLICY]`".into()),
    }
}

fn app() -> Router {
    let body = format!("{{\"pid\":{}}}", std::process::id());
    Router::new().route("/", get(move || std::future::ready(body.clone())))
}

fn threads(address: SocketAddr, count: usize) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(count).enable_all().build()?;
    runtime.block_on(async {
        // Spawned, so that accepting is done by a worker thread and not by this one.
        let serving = tokio::spawn(async move {
            let listener = tokio::net::TcpListener::bind(address).await?;
            axum::serve(listener, app()).await
        });
        Ok(serving.await??)
    })
}

fn raw(address: SocketAddr) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        Ok(axum::serve(socket.listen(1024)?, app()).await?)
    })
}

fn cluster(address: SocketAddr, count: usize, policy: Option<&&str>) -> Result<(), Failure> {
    let mut cluster = Cluster::new().workers(count).listen(Address::Ip(address));
    if let Some(policy) = policy {
        cluster = cluster.policy(policy.parse()?);
    }
    cluster.run(move |worker| async move {
        let listener = worker.listen(Address::Ip(address)).await?;
        phalanx::http::serve(listener, app()).await
    })?;
    Ok(())
}
