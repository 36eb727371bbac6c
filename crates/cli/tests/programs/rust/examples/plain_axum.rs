//! A plain axum server: `plain_axum PORT`

use axum::{Router, routing::get};
use std::io;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other("which port?"))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let router = Router::new().route("/", get(async || plain_servers::answer()));
    axum::serve(listener, router).await
}
