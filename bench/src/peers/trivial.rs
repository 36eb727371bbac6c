//! The tool with hundreds of the smallest workers there are.

use super::{Peer, Serving, phalanx};
use bench::wait;
use std::process::Command;
use std::time::Duration;

/// How long hundreds of workers may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// `phalanx run` with `trivial` of `bench/app`, and more options; when it has begun, all workers are ready. With `--keeper`
/// the manager is the primary, and its parent the keeper.
pub(crate) fn trivial(name: &'static str, options: &'static [&'static str]) -> Peer {
    Peer::new(
        name,
        || Ok(()),
        move |programs, job, address| {
            let mut command = Command::new(&programs.phalanx);
            command.args(["run", "-i", &job.workers.to_string()]).args(options);
            job.set(command.arg(programs.app.with_file_name("trivial")), address.port());
            let serving = phalanx::reloadable(Serving::of(&mut command, address, true)?);
            let ready = wait::until(PATIENCE, "every worker to be ready", || {
                let ready = serving.outputs().matches(" is ready: ").count();
                (ready >= job.workers).then_some(())
            });
            ready.map_err(|error| format!("{error}\n{}", serving.outputs()))?;
            let kept = options.contains(&"--keeper");
            Ok(if kept { phalanx::below_keeper(serving) } else { serving })
        },
    )
}
