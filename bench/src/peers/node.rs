//! Node alone, Node's own primary, and Node processes that share a port without any.

use super::{Job, Peer, Reload, Serving, typed};
use crate::setup;
use bench::spawned::{Guarded, Signal};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// The application as it is, on a port.
pub(super) fn plain(job: &Job, port: u16) -> Command {
    let mut command = Command::new("node");
    job.set(command.arg(job.path()), port);
    command
}

/// One process.
pub(crate) fn alone() -> Peer {
    let mut peer = Peer::new("one node process", setup::node, |_, job, address| {
        Serving::of(&mut plain(job, address.port()), address, false)
    });
    peer.single = true;
    peer
}

/// `node:cluster`, by its scheduling policy: `rr` or `none`.
pub(crate) fn cluster(policy: &'static str) -> Peer {
    let name = if policy == "rr" { "node:cluster" } else { "node:cluster, none" };
    Peer::new(name, setup::node, move |_, job, address| {
        let mut command = Command::new("node");
        let primary = concat!(env!("CARGO_MANIFEST_DIR"), "/node/cluster.js");
        job.set(command.arg(primary).arg(job.path()), address.port());
        command.env("WORKERS", job.workers.to_string());
        command.env("NODE_CLUSTER_SCHED_POLICY", policy);
        let serving = Serving::of(&mut command, address, true)?;
        Ok(Serving { reload: Reload::Signal(Signal::USR2, "the reload is done"), ..serving })
    })
}

/// A Node process for each worker, with a `SO_REUSEPORT` socket each and nobody above them: the limit. Node 20 cannot
/// ask for such a socket, so each is given one.
pub(crate) fn raw() -> Peer {
    Peer::new("raw SO_REUSEPORT", setup::node, |_, job, address| {
        let mut guarded = Vec::new();
        for _ in 0..job.workers {
            let socket =
                bound(address).map_err(|error| format!("cannot bind {address}: {error}"))?;
            let mut command = Command::new("node");
            let preload = concat!(env!("CARGO_MANIFEST_DIR"), "/node/inherited.js");
            job.set(command.args(["--require", preload]).arg(job.path()), address.port());
            let started = Guarded::spawn_with(&mut command, Stdio::from(socket));
            let typed = typed(&command);
            guarded.push((started.map_err(|e| format!("cannot start {typed}: {e}"))?, typed));
        }
        let typed =
            guarded.first().map(|(_, typed)| format!("{typed} <socket")).unwrap_or_default();
        let guarded = guarded.into_iter().map(|(guarded, _)| guarded).collect();
        Ok(Serving::many(guarded, address, typed))
    })
}

/// A socket that shares the address with its like. It does not listen yet: nobody would accept.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}
