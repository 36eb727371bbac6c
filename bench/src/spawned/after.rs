//! What ends the children of a process that can no longer do it itself.

use super::tree::MARKER;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Reads until its input ends, which it does with the process that holds the other end. Whoever of the marked
/// processes starts another meanwhile is met in the next round.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
rounds=0
while [ "$rounds" -lt 20 ]; do
    found=
    for directory in /proc/[0-9]*; do
        if tr '\0' '\n' 2>/dev/null <"$directory/environ" | grep -q "^$1-"; then
            kill -9 "${directory#/proc/}" 2>/dev/null && found=yes
        fi
    done
    [ -n "$found" ] || break
    rounds=$((rounds + 1))
done
[ -z "$2" ] || rm -rf -- "$2"
"#;

/// From now on, when this process has ended, however it did, everything is killed that was started by its
/// [`Guarded`](super::Guarded) children and still runs, and the directory is removed. For programs that are ended by
/// Ctrl-C or SIGKILL in the midst of their work; the first call counts.
///
/// # Errors
///
/// When the process that does it (a `sh`) cannot be started.
pub fn after_me(scratch: &Path) -> io::Result<()> {
    static WATCH: Mutex<Option<ChildStdin>> = Mutex::new(None);
    let mut held = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    if held.is_none() {
        *held = Some(watch(&format!("{MARKER}={}", std::process::id()), scratch)?);
    }
    Ok(())
}

/// Starts the watch over those whose marker begins so; it acts when what is returned is dropped.
fn watch(marker: &str, scratch: &Path) -> io::Result<ChildStdin> {
    let mut watch = Command::new("sh");
    watch.args(["-c", SCRIPT, "sh", marker]).arg(scratch);
    // A group of its own: Ctrl-C in a terminal is not for it. And it must not be one of those it looks for.
    watch.process_group(0).env_remove(MARKER);
    let mut watch =
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    watch.stdin.take().ok_or_else(|| io::Error::other("it has no input"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;
    use std::time::Duration;

    #[test]
    fn what_is_left_of_a_process_that_ended_is_killed_and_removed() {
        let scratch = std::env::temp_dir().join(format!("phalanx-after-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let marker = format!("{MARKER}=after-{}", std::process::id());
        let start = |value: &str| {
            let mut sleep = Command::new("sleep");
            sleep.arg("600").env(MARKER, value).stdin(Stdio::null()).spawn().unwrap()
        };
        let own = format!("after-{}-7", std::process::id());
        let mut ours = [start(&own), start(&own)];
        let mut stranger = start(&format!("after-{}0-7", std::process::id()));
        let watch = watch(&marker, &scratch).unwrap();
        assert!(ours.iter_mut().all(|one| one.try_wait().unwrap().is_none()));
        drop(watch);
        for one in &mut ours {
            wait::until(Duration::from_secs(30), "the end of what was left", || {
                one.try_wait().unwrap()
            })
            .unwrap();
        }
        wait::until(Duration::from_secs(30), "the end of the directory", || {
            (!scratch.exists()).then_some(())
        })
        .unwrap();
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was killed");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
