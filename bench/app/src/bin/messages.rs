//! Messages between worker and primary, measured in the worker, which prints a line of JSON for each way and size:
//!
//! - `messages`: a primary, and this program as its worker;
//! - `messages SCRIPT`: a primary, and a Node script as its worker (`bench/node/messages.js`).
//!
//! As a worker it does what that script does, under any primary that answers. `COUNTS` has `SIZE:COUNT` of messages,
//! with commas between.
#![allow(clippy::print_stdout)]

use phalanx::{Cluster, Event, Messages, Primary, Program, ReadyWhen, Worker, WorkerHandle};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

/// Messages without an answer at a time, if they are not big.
const OUTSTANDING: u64 = 64;
/// Bytes of such messages: less than may wait on the way.
const MOST: usize = 4_000_000;

/// What a worker says.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    /// Send it back.
    Echo(IgnoredAny),
    /// Nothing.
    Sink(IgnoredAny),
    /// The end of what was sent: send it back.
    Mark(IgnoredAny),
    /// Send so many messages of that size.
    Flood(u64, usize),
}

fn main() -> Result<(), Failure> {
    let mut cluster = Cluster::new().workers(1).ready(ReadyWhen::Online).primary(answer);
    if let (Some(script), false) = (std::env::args_os().nth(1), phalanx::is_worker()) {
        cluster = cluster.settings(Program::new(script).settings()?);
        return Ok(cluster.run_as_primary()?);
    }
    Ok(cluster.run(measure)?)
}

async fn answer(primary: Primary) {
    let mut events = primary.events();
    drop(primary);
    while let Some(event) = events.next().await {
        let Event::Message(worker, message) = event else { continue };
        let done = match message.parse() {
            Ok(Said::Echo(_) | Said::Mark(_)) => worker.feed(&message).await,
            Ok(Said::Flood(count, size)) => flood(&worker, count, size).await,
            Ok(Said::Sink(_)) => Ok(()),
            Err(error) => return eprintln!("what the worker said is not understood: {error}"),
        };
        if let Err(error) = done {
            return eprintln!("no answer: {error}");
        }
    }
}

async fn flood(worker: &WorkerHandle, count: u64, size: usize) -> phalanx::Result<()> {
    let message = body("flood", size);
    for _ in 0..count {
        worker.feed(&message).await?;
    }
    Ok(())
}

/// A message whose line has so many bytes.
fn body(kind: &str, size: usize) -> Box<RawValue> {
    raw(format!("{{\"{kind}\":\"{}\"}}", "x".repeat(size.saturating_sub(kind.len() + 8))))
}

fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).expect("JSON")
}

/// In the worker.
struct Bench {
    worker: Worker,
    messages: Messages,
}

async fn measure(worker: Worker) -> Result<(), Failure> {
    let counts = std::env::var("COUNTS").map_err(|_| "COUNTS is not set")?;
    let mut bench = Bench { messages: worker.messages(), worker };
    let (me, primary) = (std::process::id(), std::os::unix::process::parent_id());
    for pair in counts.split(',') {
        let (size, count) = pair.split_once(':').ok_or("COUNTS is no list of SIZE:COUNT")?;
        let (size, count) = (size.parse()?, count.parse()?);
        for way in ["one", "many", "up", "down"] {
            bench.run(way, size, u64::div_ceil(count, 5)).await?;
            let before = (cpu(me)?, cpu(primary)?);
            let began = Instant::now();
            bench.run(way, size, count).await?;
            let seconds = began.elapsed().as_secs_f64();
            let spent = (cpu(me)? - before.0, cpu(primary)? - before.1);
            println!(
                "{{\"size\":{size},\"way\":\"{way}\",\"count\":{count},\"seconds\":{seconds},\
                 \"worker\":{},\"primary\":{}}}",
                spent.0, spent.1
            );
        }
    }
    println!("done");
    // The primary would replace it.
    std::future::pending().await
}

impl Bench {
    async fn run(&mut self, way: &str, size: usize, count: u64) -> Result<(), Failure> {
        match way {
            "one" => self.echoes(size, count, 1).await,
            "many" => self.echoes(size, count, OUTSTANDING.min((MOST / size.max(1)) as u64)).await,
            "up" => self.up(size, count).await,
            _ => self.down(size, count).await,
        }
    }

    async fn echoes(&mut self, size: usize, count: u64, outstanding: u64) -> Result<(), Failure> {
        let message = body("echo", size);
        let mut sent = outstanding.min(count);
        for _ in 0..sent {
            self.worker.feed(&message).await?;
        }
        for _ in 0..count {
            self.next().await?;
            if sent < count {
                sent += 1;
                self.worker.feed(&message).await?;
            }
        }
        Ok(())
    }

    async fn up(&mut self, size: usize, count: u64) -> Result<(), Failure> {
        let message = body("sink", size);
        for _ in 0..count {
            self.worker.feed(&message).await?;
        }
        self.worker.send(&raw("{\"mark\":0}".into())).await?;
        self.next().await
    }

    async fn down(&mut self, size: usize, count: u64) -> Result<(), Failure> {
        self.worker.send(&raw(format!("{{\"flood\":[{count},{size}]}}"))).await?;
        for _ in 0..count {
            self.next().await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(), Failure> {
        let message = self.messages.next().await;
        message.map(drop).ok_or_else(|| "the primary is gone".into())
    }
}

/// Seconds on a CPU, of all threads.
fn cpu(pid: u32) -> Result<f64, Failure> {
    let mut spent = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        spent += text.split_whitespace().next().unwrap_or_default().parse::<f64>()? / 1e9;
    }
    Ok(spent)
}
