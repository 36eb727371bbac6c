//! Node alone, and Node's own primary.

use super::{Peer, Serving};
use std::process::Command;

/// One process.
pub(crate) fn alone() -> Peer {
    Peer {
        name: "one node process",
        start: Box::new(|_, job, address| {
            let mut command = Command::new("node");
            command.arg(job.path()).envs(job.env.iter().cloned());
            Serving::of(command.env("PORT", address.port().to_string()), address, false)
        }),
    }
}

/// `node:cluster`, by its scheduling policy: `rr` or `none`.
pub(crate) fn cluster(policy: &'static str) -> Peer {
    Peer {
        name: if policy == "rr" { "node:cluster" } else { "node:cluster, none" },
        start: Box::new(move |_, job, address| {
            let mut command = Command::new("node");
            let primary = concat!(env!("CARGO_MANIFEST_DIR"), "/node/cluster.js");
            command.arg(primary).arg(job.path()).envs(job.env.iter().cloned());
            command.env("WORKERS", job.workers.to_string());
            command.env("NODE_CLUSTER_SCHED_POLICY", policy);
            Serving::of(command.env("PORT", address.port().to_string()), address, true)
        }),
    }
}
