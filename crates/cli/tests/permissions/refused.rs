//! What cannot be done is said before any worker is started, with the exit code for it.

use crate::common::{LONG, phalanx, spawn};
use crate::worker::{Place, as_nobody};
use std::process::Command;

/// Runs to the end: with that exit code, those words, and no worker.
#[track_caller]
fn fails(mut command: Command, options: &[&str], code: i32, words: &[&str]) {
    let place = Place::new();
    let mark = place.path().join("mark");
    let script = format!("touch {}; sleep 60", mark.display());
    command.args(["run", "-i", "2", "--ready=online"]).args(options);
    let process = spawn(command.args(["--", "/bin/sh", "-c", &script]));
    let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{options:?}: {error}"));
    let said = process.stderr();
    assert_eq!(status.code(), Some(code), "{options:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{options:?} does not say {word:?}: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(!mark.exists(), "{options:?}: a worker was started");
    assert!(
        !said.contains("could not be started"),
        "{options:?}: only when one was forked: {said}"
    );
}

#[test]
fn what_only_root_may() {
    let place = Place::new();
    let root = place.path().to_str().unwrap();
    place.copy("/bin/sh".as_ref(), "bin/sh");
    for (option, words) in [
        ("--user=root", "cannot change the user to root for workers"),
        ("--user=1", "cannot change the user to 1 for workers"),
        ("--group=root", "cannot change the group to root for workers"),
        ("--groups=root", "cannot set the supplementary groups for workers"),
        (&format!("--root={root}"), &format!("cannot change root to {root} for workers")),
        ("--capabilities=none", "cannot drop capabilities for workers"),
        ("--nice=-20", "cannot set nice to -20 for workers"),
    ] {
        let words = [words, "Operation not permitted (only root may)", "hint: start it as root"];
        fails(as_nobody(&place), &[option], 3, &words);
    }
    let mut command = Command::new("/bin/sh");
    let program = as_nobody(&place);
    let limited = "ulimit -n 64 && exec \"$0\" \"$@\"";
    command.args(["-c", limited]).arg(program.get_program()).current_dir(place.path());
    if crate::worker::is_root() {
        use std::os::unix::process::CommandExt;
        command.uid(65534).gid(65534);
    }
    let words = ["cannot set the limit of open files to 32:128", "(only root may)"];
    fails(command, &["--open-files=32:128"], 3, &words);
}

#[test]
fn what_is_not_there() {
    let place = Place::new();
    let file = place.write("file", b"x", 0o644);
    let with_zero = place.write("zero", b"unspeakable\0", 0o600);
    let file = file.display();
    let no_user = ["cannot run workers as the user no-such", "there is no such user"];
    for (option, words) in [
        ("--user=no-such", &no_user[..]),
        ("--user=4000000000", &["the user 4000000000", "hint: name a group"]),
        ("--group=no-such", &["in the group no-such", "there is no such group"]),
        ("--groups=0,no-such", &["in the group no-such", "there is no such group"]),
        ("--root=/no/such", &["cannot change root to /no/such", "No such file"]),
        (&format!("--root={file}"), &["cannot change root to ", "Not a directory"]),
        ("--landlock-ro=/no/such", &["cannot let workers use /no/such", "No such file"]),
        ("--landlock-rw=/,/no/such", &["cannot let workers use /no/such", "No such file"]),
        ("--open-files=99999999999", &["99999999999", "fs.nr_open"]),
        ("--secret=KEY=/no/such", &["the secret KEY from /no/such", "No such file"]),
        ("--secret=KEY=/dev/zero", &["the secret KEY from /dev/zero", "not a regular file"]),
        (&format!("--secret=KEY={}", with_zero.display()), &["the secret KEY", "zero byte"]),
    ] {
        fails(phalanx([""; 0]), &[option], 3, words);
    }
}

#[test]
fn what_is_not_understood() {
    for (option, words) in [
        ("--user=", "expected a name or a number"),
        ("--user=4294967295", "expected a number below"),
        ("--groups=a,,b", "expected a name or a number"),
        ("--capabilities=everything", "`everything` is no capability: there are chown, "),
        ("--umask=888", "from 000 to 777, in base 8"),
        ("--nice=20", "expected a number from -20 to 19"),
        ("--open-files=many", "expected a number"),
        ("--open-files=2:1", "expected a number"),
        ("--core=1M", "expected a number of bytes, unlimited or none"),
        ("--env-only=A*B", "`A*B` is no name"),
        ("--env-except=", "`` is no name"),
        ("--secret=KEY", "expected NAME=FILE"),
    ] {
        fails(phalanx([""; 0]), &[option], 2, &[words]);
    }
    let both = ["--env-only=A", "--env-except=B"];
    fails(phalanx([""; 0]), &both, 2, &["cannot be used with"]);
}

/// What cannot be known before ends it too, when the first worker is forked: not by crash after crash.
#[test]
fn a_program_that_its_user_may_not_run() {
    let place = Place::new();
    let program = place.write("closed/program", b"#!/bin/sh\nsleep 60\n", 0o700);
    let options: &[&str] = if crate::worker::is_root() { &["--user=nobody"] } else { &[] };
    let mut command = phalanx(["run", "-i", "2", "--interpreter=none"]);
    if options.is_empty() {
        // Nobody may run that; for root to be refused it takes another user.
        place.write("closed/program", b"#!/bin/sh\n", 0o600);
    }
    let process = spawn(command.args(options).arg(program));
    assert_eq!(process.wait_exit(LONG).unwrap().code(), Some(3), "{}", process.output());
    let said = process.stderr();
    let words = if options.is_empty() { "executable" } else { "(as the user of workers, nobody:" };
    assert!(said.contains(words) && !said.contains("crashes"), "{said}");
}
