//! Workers that do not see all files: a root of their own, Landlock.

use crate::common::{self, LONG, clean, phalanx, spawn};
use crate::worker::{App, Place, is_root, low_port, refused_here};
use bench::spawned::{Guarded, Signal};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Copies a program into a root, with the libraries that it needs, by their paths.
fn into_root(root: &Place, program: &Path, name: &str) {
    root.copy(program, name);
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries {
        root.copy(Path::new(library), library.trim_start_matches('/'));
    }
}

#[test]
fn a_root_of_their_own() {
    let root = Place::new();
    let option = format!("--root={}", root.path().display());
    into_root(&root, common::PHALANX.as_ref(), "bin/server");
    if !is_root() {
        let refused = ["run", "-i", "1", &option, "--", "/bin/server", "demo"];
        let process = spawn(&mut phalanx(refused));
        assert_eq!(process.wait_exit(LONG).unwrap().code(), Some(3), "{}", process.output());
        assert!(process.stderr().contains("(only root may)"), "{}", process.output());
        return;
    }
    let (elsewhere, port) = (Place::new(), low_port());
    let listen = format!("127.0.0.1:{port}");
    let listen_option = format!("--listen={listen}");
    let options = [option.as_str(), "--user=nobody", "--capabilities=none", &listen_option];
    let program = ["/bin/server", "demo", "--listen", &listen];
    let app = App::start(&elsewhere, &options, &program, port);
    let place = root.path().canonicalize().unwrap();
    for worker in app.workers(2) {
        assert_eq!((worker.link("root"), worker.link("cwd")), (place.clone(), place.clone()));
        assert_eq!(worker.status("CapBnd"), "0000000000000000", "there is no way out");
    }
    // What goes missing later is named with its step, and the workers that are there go on.
    let moved = place.with_extension("moved");
    fs::rename(&place, &moved).unwrap();
    let said = app.reload_fails("the reload does not begin");
    let words = format!("cannot change root to {} for worker", place.display());
    assert!(said.contains(&words) && said.contains("No such file"), "{said}");
    assert!(app.workers(2).iter().all(|worker| worker.is_alive()));
    fs::rename(&moved, &place).unwrap();
    app.stop();
}

#[test]
fn node_in_a_root_has_no_preload_and_that_is_said() {
    if !is_root() {
        return refused_here(&["--user=nobody"]);
    }
    let (root, elsewhere) = (Place::new(), Place::new());
    let node = which("node");
    into_root(&root, &node, node.strip_prefix("/").unwrap().to_str().unwrap());
    root.copy(&common::node("server.js"), "srv/server.js");
    root.write("dev/null", b"", 0o666);
    let option = format!("--root={}", root.path().display());
    let port = bench::wait::free_port();
    let app = App::start(&elsewhere, &[&option, "--user=nobody"], &["/srv/server.js"], port);
    assert_eq!(app.output().matches("run without the preload").count(), 1, "{}", app.output());
    for worker in app.workers(2) {
        let line = worker.command_line();
        assert!(line.contains(" /srv/server.js") && !line.contains("--require"), "{line}");
    }
    app.stop();
}

fn which(name: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|place| place.join(name)).find(|at| at.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in PATH"))
}

/// Tries all that Landlock is about, and says how it went.
const TRIES: &str = "
import errno, os, sys
inside, outside, writable = sys.argv[1:]
def attempt(name, act):
    try:
        act()
        print('try', name, 'works', flush=True)
    except OSError as error:
        # To link to elsewhere is answered as if it were another disk.
        denied = error.errno in (errno.EACCES, errno.EXDEV)
        print('try', name, 'denied' if denied else error, flush=True)
attempt('read-inside', lambda: open(inside + '/data').read())
attempt('list-inside', lambda: os.listdir(inside))
attempt('write-inside', lambda: open(inside + '/data', 'a'))
attempt('truncate-inside', lambda: os.truncate(inside + '/data', 0))
attempt('make-inside', lambda: os.mkdir(inside + '/new'))
attempt('read-outside', lambda: open(outside + '/data').read())
attempt('list-outside', lambda: os.listdir(outside))
attempt('write-outside', lambda: open(outside + '/data', 'a'))
attempt('link-outside', lambda: os.link(outside + '/data', writable + '/stolen'))
attempt('run-outside', lambda: os.posix_spawn(outside + '/run', ['run'], {}))
attempt('write-writable', lambda: open(writable + '/new', 'w').write('new'))
attempt('read-writable', lambda: open(writable + '/new').read())
attempt('remove-writable', lambda: os.remove(writable + '/new'))
attempt('read-single-file', lambda: open(outside + '/single').read())
print('try end', flush=True)
import signal
signal.pause()
";

/// What Python and Node need of a system.
const SYSTEM: &str = "/usr,/lib,/lib64,/etc,/proc,/dev";

/// Those of them that this machine has.
fn system() -> String {
    let there = SYSTEM.split(',').filter(|path| Path::new(path).exists());
    there.collect::<Vec<_>>().join(",")
}

#[test]
fn landlock_denies_what_is_not_allowed() {
    let (inside, outside, writable) = (Place::new(), Place::new(), Place::new());
    for place in [&inside, &outside] {
        place.write("data", b"data", 0o666);
    }
    outside.write("run", b"#!/bin/sh\n", 0o755);
    let single = outside.write("single", b"data", 0o644);
    inside.write("tries.py", TRIES.as_bytes(), 0o644);
    let read = format!("--landlock-ro={},{}", system(), inside.path().display());
    let file = format!("--landlock-ro={}", single.display());
    let write = format!("--landlock-rw={},/dev/null", writable.path().display());
    let script = inside.path().join("tries.py");
    let mut command = phalanx(["run", "-i", "1", "--ready=online", &read, &file, &write, "--"]);
    command.arg("/usr/bin/python3").arg(script);
    command.args([inside.path(), outside.path(), writable.path()]);
    let process = spawn(&mut command);
    process.wait_for_line(|line| line.contains("try end"), LONG).unwrap();
    let tried: Vec<String> = process
        .output()
        .lines()
        .filter_map(|line| Some(line.split_once("try ")?.1.to_owned()))
        .collect();
    let works = ["read-inside", "list-inside", "write-writable", "read-writable"];
    let works = [&works[..], &["remove-writable", "read-single-file"]].concat();
    for line in tried.iter().filter(|line| *line != "end") {
        let (name, how) = line.split_once(' ').unwrap();
        let expected = if works.contains(&name) { "works" } else { "denied" };
        assert_eq!(how, expected, "{name}\n{}", process.output());
    }
    assert_eq!(tried.len(), 15, "{tried:?}");
    end(&process);
}

fn end(process: &Guarded) {
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.wait_exit(LONG).unwrap().code(), Some(0), "{}", process.output());
}

#[test]
fn node_under_landlock_finds_its_preload() {
    let (place, port) = (Place::new(), bench::wait::free_port());
    place.copy(&common::node("server.js"), "server.js");
    let read = format!("--landlock-ro={},{}", system(), place.path().display());
    let mut options = vec![read.as_str(), "--landlock-rw=/dev/null"];
    options.extend(is_root().then_some("--user=nobody"));
    let node = which("node");
    let node_place = format!("--landlock-ro={}", node.display());
    options.push(&node_place);
    let app = App::start(&place, &options, &["server.js"], port);
    for worker in app.workers(2) {
        assert!(worker.command_line().contains("--require"), "{}", worker.command_line());
    }
    app.reload(1);
    app.stop();
}

/// Runs a command where the kernel says that it has no Landlock.
const WITHOUT: &str = "
import ctypes, os, struct, sys
# Load the number of the call; if it is landlock_create_ruleset, it fails with ENOSYS; else it is done.
program = b''.join(struct.pack('HBBI', *line) for line in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7fff0000)])
buffer = ctypes.create_string_buffer(program)
filters = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 4, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filters) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_kernel_without_landlock_is_an_error_before_anything_is_started() {
    let place = Place::new();
    let mark = place.path().join("mark");
    let script = format!("touch {}; sleep 60", mark.display());
    let mut command = clean("/usr/bin/python3", ["-c", WITHOUT, common::PHALANX, "run", "-i", "1"]);
    let process =
        spawn(command.args(["--landlock-ro=/", "--ready=online", "--", "/bin/sh", "-c", &script]));
    assert_eq!(process.wait_exit(LONG).unwrap().code(), Some(3), "{}", process.output());
    let said = process.stderr();
    for words in ["cannot confine workers with Landlock", "this kernel has not", "hint: Linux 6.2"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!mark.exists(), "a worker was started");
}
