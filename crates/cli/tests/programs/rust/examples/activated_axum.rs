//! An axum server that listens on what systemd's protocol gives it, or else on a port of its own:
//! `activated_axum [PORT]`

use axum::{Router, routing::get};
use listenfd::ListenFd;
use std::io;
use std::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|text| text.parse::<u16>().ok());
    let listener = match (ListenFd::from_env().take_tcp_listener(0)?, port) {
        (Some(given), _) => given,
        (None, Some(port)) => TcpListener::bind(("127.0.0.1", port))?,
        (None, None) => return Err(io::Error::other("neither a socket nor a port")),
    };
    listener.set_nonblocking(true)?;
    let router = Router::new().route("/", get(async || plain_servers::answer()));
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}
