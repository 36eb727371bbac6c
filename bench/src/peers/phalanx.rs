//! phalanx itself: the tool with a program as it is, and a program on the crate.

use super::{Peer, Reload, Serving, answers};
use crate::setup;
use bench::process;
use bench::spawned::Signal;
use std::path::Path;
use std::process::Command;

/// `phalanx run` with a Node application, under a policy.
pub(crate) fn phalanx(policy: &'static str) -> Peer {
    with(name(policy), &["--policy", policy])
}

/// The same with a keeper, which starts another primary should this one be killed.
pub(crate) fn kept(policy: &'static str) -> Peer {
    with(name(policy), &["--policy", policy, "--keeper"])
}

/// The same with any options, under a name of its own.
pub(crate) fn with(name: &'static str, options: &[&'static str]) -> Peer {
    let options = options.to_vec();
    Peer::new(name, setup::node, move |programs, job, address| {
        let mut command = Command::new(&programs.phalanx);
        command.arg("run").arg(job.path()).args(["-i", &job.workers.to_string()]).args(&options);
        job.set(&mut command, address.port());
        let serving = reloadable(Serving::of(&mut command, address, true)?);
        if !options.contains(&"--keeper") {
            return Ok(serving);
        }
        answers(address).map_err(|error| format!("{error}\n{}", serving.outputs()))?;
        Ok(below_keeper(serving))
    })
}

/// The tool says when a reload is done.
pub(super) fn reloadable(serving: Serving) -> Serving {
    Serving { reload: Reload::Signal(Signal::USR2, "is done: "), ..serving }
}

/// What was started is the keeper: the primary is below it.
pub(super) fn below_keeper(serving: Serving) -> Serving {
    let manager = serving.manager.into_iter().flat_map(process::children).min();
    Serving { manager, ..serving }
}

/// `phalanx start`: in the background, with its log in files.
pub(crate) fn started() -> Peer {
    Peer::new("phalanx", setup::node, |programs, job, address| {
        let home = setup::scratch()?.join(format!("phalanx-{}", address.port()));
        let program = programs.phalanx.clone();
        let command = move || {
            let mut command = Command::new(&program);
            command.env("PHALANX_HOME", &home);
            command
        };
        let mut start = command();
        start.arg("start").arg(job.path()).args(["-i", &job.workers.to_string()]);
        job.set(start.args(["--name", "app"]), address.port());
        let serving = Serving::of(&mut start, address, false)?;
        let beside = move |app: &Path| {
            let mut start = command();
            start.arg("start").arg(app).args(["-i", "1", "--name", "beside"]);
            start
        };
        Ok(Serving { beside: Some(Box::new(beside)), ..serving })
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
            let serving = Serving::of(&mut command, address, true)?;
            // The library logs only for programs that ask for it.
            Ok(Serving { reload: Reload::Silent(Signal::USR2), ..serving })
        },
    )
}

fn name(policy: &str) -> &'static str {
    match policy {
        "direct" => "phalanx",
        "round-robin" => "phalanx, round-robin",
        _ => "phalanx, shared",
    }
}
