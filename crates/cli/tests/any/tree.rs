//! A worker that may be several processes of several threads: what it has, and how it is killed.

use crate::common::{LONG, signal};
use bench::spawned::Signal;
use bench::{process, wait};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

/// A process and all that descend from it.
pub(crate) fn tree(root: u32) -> BTreeSet<u32> {
    let all = process::all().expect("the processes can be listed");
    let mut tree = BTreeSet::from([root]);
    loop {
        let before = tree.len();
        tree.extend(
            all.iter()
                .filter(|one| tree.contains(&one.parent))
                .map(|one| one.pid)
                .collect::<Vec<_>>(),
        );
        if tree.len() == before {
            return tree;
        }
    }
}

/// The peers of the connections that a process has accepted. A process that ends has none.
fn peers(pid: u32) -> BTreeSet<SocketAddr> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    let Ok(process) = pidfd_open(raw, PidfdFlags::empty()) else { return BTreeSet::new() };
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let peer_of = |number| {
        let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        let peer = SocketAddr::try_from(rustix::net::getpeername(socket).ok()??).ok()?;
        // A socket of both families names a peer of the older one in the newer one's words.
        Some(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let is_socket = fs::read_link(entry.path()).ok()?.to_str()?.starts_with("socket:");
            is_socket.then(|| peer_of(entry.file_name().to_str()?.parse().ok()?))?
        })
        .collect()
}

/// The peers of the connections that a worker's processes have accepted; exact while they are
/// stopped.
pub(crate) fn accepted(worker: u32) -> BTreeSet<SocketAddr> {
    tree(worker).into_iter().flat_map(peers).collect()
}

/// Whether every thread of a process has stopped, or the process has ended.
fn has_stopped(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The name in parentheses may itself contain blanks and parentheses.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
    })
}

/// Stops a worker with all its processes, and waits until every thread has stopped. Returns the
/// processes, the worker's first one first.
pub(crate) fn stop(worker: u32) -> Vec<u32> {
    let mut stopped = Vec::new();
    loop {
        // Its first process first, so that it starts no other.
        let fresh: Vec<u32> = if stopped.is_empty() {
            vec![worker]
        } else {
            tree(worker).into_iter().filter(|pid| !stopped.contains(pid)).collect()
        };
        if fresh.is_empty() {
            return stopped;
        }
        for pid in fresh {
            signal(pid, Signal::STOP);
            wait::until(LONG, "the process to stop", || has_stopped(pid).then_some(()))
                .expect("SIGSTOP stops");
            stopped.push(pid);
        }
    }
}
