//! Clients that hold connections for long: programs in Node that tell what they see.

use crate::app::App;
use crate::common::{self, LONG, tail};
use crate::install::{install, start};
use bench::spawned::{Guarded, Signal};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How many there are: each has a source address of its own.
pub(crate) const CLIENTS: usize = 12;

/// A program of `client/`, running.
pub(crate) struct Clients {
    process: Guarded,
}

/// All that the clients have told so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By whom a client is served now.
    pub(crate) served: BTreeMap<u64, u32>,
    /// By whom any client was ever served.
    pub(crate) servers: BTreeSet<u32>,
    /// The ends of connections.
    pub(crate) closed: Vec<Value>,
    /// Attempts to connect again that failed; the client went on trying.
    pub(crate) refused: Vec<Value>,
    /// From which workers a client has heard.
    pub(crate) heard: BTreeMap<u64, BTreeSet<u32>>,
    /// What was last said about who is there.
    pub(crate) count: Option<Value>,
}

impl Clients {
    /// `node client/SCRIPT URL N more…`
    pub(crate) fn start(script: &str, url: &str, more: &[&str]) -> Self {
        let program = install("client").join(script);
        let mut node = common::clean("node", [program]);
        node.arg(url).arg(CLIENTS.to_string()).args(more);
        Self { process: start(&mut node, "nodejs") }
    }

    /// What they have seen; a failure at any of them is one of the test.
    pub(crate) fn seen(&self, app: &App) -> Seen {
        let mut seen = Seen::default();
        for line in self.process.stdout().lines() {
            let event: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error} in {line:?}\n{}", self.process.output()));
            let client = event["client"].as_u64().unwrap_or(u64::MAX);
            match event["event"].as_str().unwrap_or_default() {
                "served" => {
                    seen.served.insert(client, pid(&event["pid"]));
                    seen.servers.insert(pid(&event["pid"]));
                }
                "closed" => {
                    seen.served.remove(&client);
                    seen.closed.push(event);
                }
                "refused" => seen.refused.push(event),
                "heard" => drop(seen.heard.entry(client).or_default().insert(pid(&event["pid"]))),
                "count" => seen.count = Some(event),
                "ending" => {}
                _ => panic!("a client failed: {event}\n{}", app.log()),
            }
        }
        seen
    }

    /// Waits for a state of the clients; on failure shows what they saw.
    pub(crate) fn until(&self, app: &App, what: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        bench::wait::until(LONG, what, || Some(self.seen(app)).filter(|seen| holds(seen)))
            .unwrap_or_else(|error| {
                let said = tail(&self.process.output());
                panic!("{error}\nclients:\n{said}\ncluster:\n{}", app.log())
            })
    }

    /// Waits until each client is served by one of these workers.
    pub(crate) fn until_served_by(&self, app: &App, workers: &BTreeSet<u32>) {
        self.until(app, &format!("all clients to be served by {workers:?}"), |seen| {
            seen.served.len() == CLIENTS && seen.served.values().all(|pid| workers.contains(pid))
        });
    }

    /// Stops the application under its clients: they are told that it goes away, and then have
    /// nothing more to do. Returns all that they have seen.
    pub(crate) fn stop_under(self, app: App) -> Seen {
        let mark = self.process.mark();
        self.process.signal(Signal::TERM).unwrap();
        let ending = |line: &str| line.contains(r#""event":"ending""#);
        self.process.wait_for_line_since(mark, ending, LONG).unwrap();
        app.begin_stop();
        let status = self.process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(status.code(), Some(0), "{}", self.process.output());
        let seen = self.seen(&app);
        app.stopped();
        seen
    }
}

fn pid(value: &Value) -> u32 {
    let pid = value.as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.unwrap_or_else(|| panic!("not a pid: {value}"))
}
