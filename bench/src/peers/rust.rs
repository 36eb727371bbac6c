//! A Rust program without phalanx: threads of one process, or processes on sockets of their own.

use super::{Peer, Serving, typed};
use bench::spawned::Guarded;
use std::process::Command;

/// One process with a thread for each worker.
pub(crate) fn own_threads() -> Peer {
    let mut peer = Peer::new(
        "one process, threads",
        || Ok(()),
        |programs, job, address| {
            let mut command = Command::new(&programs.app);
            job.set(command.args(["threads", &job.workers.to_string()]), address.port());
            Serving::of(&mut command, address, false)
        },
    );
    peer.single = true;
    peer
}

/// A single-threaded process for each worker, with a `SO_REUSEPORT` socket each and nobody above them: the limit.
pub(crate) fn own_raw() -> Peer {
    Peer::new(
        "raw SO_REUSEPORT",
        || Ok(()),
        |programs, job, address| {
            let mut command = Command::new(&programs.app);
            job.set(command.arg("raw"), address.port());
            let typed = typed(&command);
            let one = |_| {
                Guarded::spawn(&mut command)
                    .map_err(|error| format!("cannot start {typed}: {error}"))
            };
            let guarded = (0..job.workers).map(one).collect::<Result<_, _>>()?;
            Ok(Serving::many(guarded, address, format!("{} × {typed}", job.workers)))
        },
    )
}
