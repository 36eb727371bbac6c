//! Commands whose time is measured: nothing is done beside them, and what they leave running is ended.

use super::next_marker;
use super::tree::{MARKER, Tree};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// No process has this id.
const NOBODY: u32 = u32::MAX;

/// Runs commands one after the other. Dropping it ends, with SIGKILL, whatever they started and still runs: found on
/// Linux by its environment, daemons included.
pub struct Marked {
    marker: String,
    tree: Tree,
}

impl Marked {
    /// Nothing was started yet.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let marker = next_marker();
        Self { tree: Tree::new(NOBODY, &marker), marker }
    }

    /// Runs the command, whose streams must not be pipes, and tells how long it took.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or still runs after `timeout`: then it is killed.
    pub fn run(
        &self,
        command: &mut Command,
        timeout: Duration,
    ) -> io::Result<(ExitStatus, Duration)> {
        command.env(MARKER, &self.marker);
        let begun = Instant::now();
        let mut child = command.spawn()?;
        let ended = ends(child.id(), timeout);
        let took = begun.elapsed();
        if !matches!(ended, Ok(true)) {
            // It may have ended by itself just now.
            let _ = child.kill();
        }
        let status = child.wait()?;
        if ended? {
            return Ok((status, took));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("still runs after {timeout:.1?}")))
    }

    /// Ends what still runs now.
    pub fn end(&self) {
        self.tree.kill();
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a child of this process, which is not reaped yet, ends in time.
fn ends(pid: u32, timeout: Duration) -> io::Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut waited = [PollFd::new(&process, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut waited, Some(&timeout)))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{process, wait};
    use std::fs;
    use std::process::Stdio;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    #[test]
    fn a_daemon_that_a_command_left_ends_with_the_mark() {
        let file = std::env::temp_dir().join(format!("phalanx-marked-{}", std::process::id()));
        let marked = Marked::new();
        let script = format!("setsid sleep 600 & echo $! >{}", file.display());
        let (status, took) = marked.run(&mut shell(&script), PATIENCE).unwrap();
        assert!(status.success() && took < PATIENCE, "{status} {took:?}");
        let daemon: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        fs::remove_file(&file).unwrap();
        assert!(process::is_alive(daemon));
        drop(marked);
        wait::until(PATIENCE, "the daemon's end", || (!process::is_alive(daemon)).then_some(()))
            .unwrap();
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_and_said_to() {
        let marked = Marked::new();
        let error = marked.run(&mut shell("exec sleep 600"), Duration::from_millis(20));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (status, _) = marked.run(&mut shell("exit 3"), PATIENCE).unwrap();
        assert_eq!(status.code(), Some(3));
    }
}
