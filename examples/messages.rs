//! Messages both ways: a worker greets by itself, the primary asks, the worker answers.
//!
//! ```text
//! cargo run --release --example messages
//! ```
//!
//! It prints who said what, and ends when every worker has answered. A message is any type that
//! serde knows; on the channel it is a line of JSON, the same that `node:cluster` speaks.

use phalanx::{Event, Options, Primary, Worker};
use serde::{Deserialize, Serialize};

const WORKERS: u32 = 3;

/// What the primary says.
#[derive(Serialize, Deserialize)]
enum Question {
    Square { of: u32 },
    Goodbye,
}

/// What a worker says.
#[derive(Serialize, Deserialize)]
enum Statement {
    Hello { pid: u32 },
    Square { of: u32, is: u32 },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> phalanx::Result<()> {
    if phalanx::is_worker() { worker().await } else { primary().await }
}

async fn primary() -> phalanx::Result<()> {
    let primary = Primary::start(Options::default())?;
    // Before the first worker: events are told from the moment on in which one asks for them.
    let mut events = primary.events();
    for number in 1..=WORKERS {
        primary.fork_with([("NUMBER", number.to_string())]).await?;
    }
    let mut left = WORKERS;
    while left > 0 {
        match events.next().await {
            Some(Event::Message(worker, message)) => match message.parse()? {
                Statement::Hello { pid } => {
                    let of = worker.id().0 * 11;
                    eprintln!("worker {} (pid {pid}) says hello; asking for {of}²", worker.id());
                    worker.send(&Question::Square { of }).await?;
                }
                Statement::Square { of, is } => {
                    eprintln!("worker {} answers: {of}² = {is}", worker.id());
                    worker.send(&Question::Goodbye).await?;
                }
            },
            Some(Event::Exit(worker, exit)) => {
                eprintln!("worker {} is gone: {exit}", worker.id());
                left -= 1;
            }
            Some(_) => {}
            None => break,
        }
    }
    primary.stop().await;
    Ok(())
}

async fn worker() -> phalanx::Result<()> {
    let worker = Worker::connect()?;
    let mut messages = worker.messages();
    worker.send(&Statement::Hello { pid: std::process::id() }).await?;
    while let Some(message) = messages.next().await {
        match message.parse()? {
            Question::Square { of } => {
                let is = of.saturating_mul(of);
                worker.send(&Statement::Square { of, is }).await?;
            }
            Question::Goodbye => break,
        }
    }
    worker.disconnect().await;
    Ok(())
}
