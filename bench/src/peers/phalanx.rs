//! phalanx itself: the tool with a program as it is, and a program on the crate.

use super::{Peer, Reload, Serving};
use crate::setup;
use bench::spawned::Signal;
use std::process::Command;

/// `phalanx run` with a Node application, under a policy.
pub(crate) fn phalanx(policy: &'static str) -> Peer {
    Peer::new(name(policy), setup::node, move |programs, job, address| {
        let mut command = Command::new(&programs.phalanx);
        command.arg("run").arg(job.path()).args(["-i", &job.workers.to_string()]);
        job.set(command.args(["--policy", policy]), address.port());
        reloadable(Serving::of(&mut command, address, true)?)
    })
}

/// A Rust program on the crate, under a policy.
pub(crate) fn own(policy: &'static str) -> Peer {
    Peer::new(
        name(policy),
        || Ok(()),
        move |programs, job, address| {
            let mut command = Command::new(&programs.app);
            command.args(["cluster", &job.workers.to_string(), policy]);
            job.set(&mut command, address.port());
            reloadable(Serving::of(&mut command, address, true)?)
        },
    )
}

fn reloadable(serving: Serving) -> Result<Serving, String> {
    Ok(Serving { reload: Reload::Signal(Signal::USR2, "is done: "), ..serving })
}

fn name(policy: &str) -> &'static str {
    match policy {
        "direct" => "phalanx",
        "round-robin" => "phalanx, round-robin",
        _ => "phalanx, shared",
    }
}
