//! What is measured, one file each.

mod blocked;
mod commands;
mod even;
mod flood;
mod growth;
mod killed;
mod latency;
mod memory;
mod messages;
mod overhead;
mod rates;
mod reload;
mod start;

use crate::peers::Programs;
use crate::report::Section;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What a scenario has to know.
pub(crate) struct Context {
    pub(crate) programs: Programs,
    /// A short run: fewer rounds, smaller sizes.
    pub(crate) quick: bool,
}

impl Context {
    /// One of two values: of a full run, or of a short one.
    pub(crate) fn full_or<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Progress, for whoever waits.
    pub(crate) fn say(&self, what: &str) {
        eprintln!("  {what}");
    }
}

/// Something that is measured.
pub(crate) struct Scenario {
    /// As `--only` takes it.
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Context) -> Result<Vec<Section>, String>,
}

/// All of them, in the order of the report.
#[rustfmt::skip]
pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "rates", about: "connections and requests per second, Node and Rust", run: rates::run },
    Scenario { name: "latency", about: "latency at 50 and 80 % of the slowest peer's peak", run: latency::run },
    Scenario { name: "even", about: "how evenly connections are spread over 4 and 16 workers", run: even::run },
    Scenario { name: "blocked", about: "what new connections feel while one of four workers is blocked", run: blocked::run },
    Scenario { name: "reload", about: "reloads of 4 Node workers under load: errors, hangs, time", run: reload::run },
    Scenario { name: "killed", about: "SIGKILL of the manager, and of a worker, under load", run: killed::run },
    Scenario { name: "start", about: "from the command to the first answer, and to all workers'", run: start::run },
    Scenario { name: "commands", about: "the commands beside pm2's: list, start, reload, stop; memory of 10 applications' managers", run: commands::run },
    Scenario { name: "flood", about: "a log flood of one application, felt by its neighbour", run: flood::run },
    Scenario { name: "memory", about: "memory of the primary, with 1 to 256 workers", run: memory::run },
    Scenario { name: "growth", about: "what each worker costs the primary, with 2 to 512 of them", run: growth::run },
    Scenario { name: "messages", about: "messages between worker and primary, of three sizes", run: messages::run },
    Scenario { name: "overhead", about: "what the preload costs a Node worker, and the filter any other", run: overhead::run },
];

/// Asks once, on a new connection: which process answered.
fn ask(address: SocketAddr, patience: Duration) -> Result<u32, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    let _ = stream.set_read_timeout(Some(patience));
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    asked.and_then(|()| stream.read_to_string(&mut answer)).map_err(|error| error.to_string())?;
    let number = answer.split_once("\"pid\":").map_or("", |(_, rest)| rest);
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number.get(..end).unwrap_or("").parse().map_err(|_| format!("no pid in {answer:?}"))
}
