//! phalanx itself: the tool with a program as it is, and a program on the crate.

use super::{Peer, Reload, Serving};
use bench::spawned::Signal;
use std::process::Command;

/// `phalanx run` with a Node application, under a policy.
pub(crate) fn phalanx(policy: &'static str) -> Peer {
    Peer {
        name: name(policy),
        start: Box::new(move |programs, job, address| {
            let mut command = Command::new(&programs.phalanx);
            command.arg("run").arg(job.path()).args(["-i", &job.workers.to_string()]);
            command.args(["--policy", policy]).envs(job.env.iter().cloned());
            let command = command.env("PORT", address.port().to_string());
            let serving = Serving::of(command, address, true)?;
            Ok(Serving { reload: Reload::Signal(Signal::USR2), ..serving })
        }),
    }
}

/// A Rust program on the crate, under a policy.
pub(crate) fn own(policy: &'static str) -> Peer {
    Peer {
        name: name(policy),
        start: Box::new(move |programs, job, address| {
            let mut command = Command::new(&programs.app);
            command.args(["cluster", &job.workers.to_string(), policy]);
            let command = command.env("PORT", address.port().to_string());
            let serving = Serving::of(command, address, true)?;
            Ok(Serving { reload: Reload::Signal(Signal::USR2), ..serving })
        }),
    }
}

fn name(policy: &str) -> &'static str {
    match policy {
        "direct" => "phalanx",
        "round-robin" => "phalanx, round-robin",
        _ => "phalanx, shared",
    }
}
