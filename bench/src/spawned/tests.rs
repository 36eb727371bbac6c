//! Tests of the guarded child processes, with `sh`.

use std::os::unix::process::ExitStatusExt;

use super::*;
use crate::{process, wait};

const LONG: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Guarded {
    Guarded::spawn(Command::new("sh").arg("-c").arg(script)).unwrap()
}

/// The number after `name=` in a line of the output.
fn number(child: &Guarded, name: &str) -> u32 {
    let prefix = format!("{name}=");
    let line = child.wait_for_line(|line| line.starts_with(&prefix), LONG).unwrap();
    line[prefix.len()..].parse().unwrap()
}

fn gone(pid: u32) {
    wait::until(LONG, "the process to be gone", || (!process::is_alive(pid)).then_some(()))
        .unwrap();
}

#[test]
fn output_and_exit_status_are_captured() {
    let child = shell("echo out; echo err >&2; exit 3");
    let status = child.wait_exit(LONG).unwrap();
    assert_eq!(status.code(), Some(3));
    assert_eq!((child.stdout().as_str(), child.stderr().as_str()), ("out\n", "err\n"));
    assert_eq!(child.output().len(), 8);
    // Again, and lines that are already there.
    assert_eq!(child.wait_exit(Duration::ZERO).unwrap().code(), Some(3));
    assert_eq!(child.wait_for_line(|line| line == "err", Duration::ZERO).unwrap(), "err");
    assert!(child.signal(Signal::TERM).is_err());
}

#[test]
fn a_missing_line_is_reported_with_the_output() {
    let child = shell("echo one; exec sleep 1000");
    child.wait_for_line(|line| line == "one", LONG).unwrap();
    let message = child.wait_for_line(|line| line == "two", Duration::from_millis(5)).unwrap_err();
    assert!(message.contains("no such line within") && message.contains("one"), "{message}");
    let message = child.wait_exit(Duration::ZERO).unwrap_err();
    assert!(message.contains("still runs") && message.contains("one"), "{message}");
    let mark = child.mark();
    child.signal(Signal::KILL).unwrap();
    let message = child.wait_for_line_since(mark, |_| true, LONG).unwrap_err();
    assert!(message.contains("has ended"), "{message}");
    assert_eq!(child.wait_exit(LONG).unwrap().signal(), Some(9));
}

#[test]
fn a_signal_reaches_the_child_and_new_lines_are_told_from_old_ones() {
    let child = shell("trap 'echo caught' USR1; echo caught; while :; do sleep 0.01; done");
    child.wait_for_line(|line| line == "caught", LONG).unwrap();
    let mark = child.mark();
    child.signal(Signal::USR1).unwrap();
    child.wait_for_line_since(mark, |line| line == "caught", LONG).unwrap();
    child.signal_group(Signal::KILL).unwrap();
    assert_eq!(child.wait_exit(LONG).unwrap().signal(), Some(9));
}

#[test]
fn the_drop_ends_the_child_its_group_and_grandchildren_in_groups_of_their_own() {
    let child = shell(
        "sleep 1000 & echo same=$!
         setsid sh -c 'sleep 1000 & echo below=$!; echo other=$$; wait' &
         wait",
    );
    let pids = [child.pid(), number(&child, "same"), number(&child, "other")];
    let below = number(&child, "below");
    assert_ne!(process::stat(below).unwrap().group, child.pid());
    assert!(pids.iter().all(|pid| process::is_alive(*pid)));
    drop(child);
    pids.into_iter().chain([below]).for_each(gone);
}

#[test]
fn the_drop_ends_orphans_in_other_groups_that_nobody_recorded() {
    // It speaks only when its parent is gone: what is below the child then does not include it.
    let child = shell(
        "FIRST=$$ setsid sh -c '
             while read -r _ _ _ parent _ </proc/$$/stat; [ $parent = $FIRST ]; do sleep 0.01; done
             echo orphan=$$
             exec sleep 1000' &
         exit 0",
    );
    let orphan = number(&child, "orphan");
    assert!(!child.record().contains(&orphan));
    let fresh = shell("exit 0");
    fresh.wait_exit(LONG).unwrap();
    child.wait_exit(LONG).unwrap();
    assert!(process::is_alive(orphan));
    drop(fresh);
    assert!(process::is_alive(orphan), "not a descendant of the other child");
    drop(child);
    gone(orphan);
}

#[test]
fn the_drop_ends_a_group_whose_leader_was_killed() {
    let child = shell("sleep 1000 & echo member=$!; wait");
    let member = number(&child, "member");
    child.signal(Signal::KILL).unwrap();
    child.wait_exit(LONG).unwrap();
    assert!(process::is_alive(member));
    drop(child);
    gone(member);
}
