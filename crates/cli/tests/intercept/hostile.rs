//! The program `hostile`: built once, run alone and as a worker.

use crate::common::packages::{complete, hash, run};
use crate::common::{Cluster, LONG, PHALANX, clean, phalanx, spawn, v4};
use bench::spawned::Guarded;
use bench::wait;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// Its sources, which name its binary.
const SOURCES: [&str; 4] = [
    include_str!("../hostile/hostile.c"),
    include_str!("../hostile/hostile.h"),
    include_str!("../hostile/attacks.c"),
    include_str!("../hostile/attacks.h"),
];

/// Where its binary is.
pub(crate) fn program() -> &'static str {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        let name = format!("hostile-{}", hash(&SOURCES));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
        complete(&directory, |partial| {
            let mut cc = Command::new("cc");
            cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]);
            cc.arg(partial.join("hostile"));
            run(cc.args([sources.join("hostile.c"), sources.join("attacks.c")]));
        });
        directory.join("hostile")
    });
    path.to_str().expect("a path of text")
}

/// A free port on 127.0.0.1 of which the next one is this test's too.
pub(crate) fn pair() -> SocketAddr {
    loop {
        let (first, next) = (v4(), v4());
        if next.port() == first.port() + 1 {
            return first;
        }
    }
}

/// The lines of one process: what it said of each step.
pub(crate) fn said(output: &str, tag: &str) -> Vec<String> {
    let prefix = format!("[{tag}] ");
    output.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

/// Waits until a process has come to the last step, and returns what it said of all.
pub(crate) fn transcript(process: &Guarded, tag: &str, last: &str) -> Vec<String> {
    let line = format!("[{tag}] {last}: ");
    process
        .wait_for_line(|seen| seen.starts_with(&line), LONG)
        .unwrap_or_else(|error| panic!("[{tag}] never came to {last:?}: {error}"));
    said(&process.output(), tag)
}

/// What the program says of the steps without phalanx; if it forks, what its first child says.
pub(crate) fn alone(port: u16, steps: &[&str]) -> Vec<String> {
    let port = port.to_string();
    let mut command = clean(program(), [port.as_str()].iter().chain(steps));
    let process = spawn(command.env_remove("NODE_APP_INSTANCE"));
    let last = steps.last().expect("steps");
    // A parent does not come to the end; its children are alike.
    let forks = steps.iter().any(|step| step.starts_with("fork="));
    let said = transcript(&process, if forks { "-.0" } else { "-" }, last);
    let all = process.record();
    drop(process);
    // Its children end with it, but not at the same moment, and the port is theirs too.
    let gone = || all.iter().all(|pid| !bench::process::is_alive(*pid)).then_some(());
    wait::until(LONG, "the program and its children to end", gone).expect("they were killed");
    said
}

/// `phalanx run OPTIONS -- hostile PORT STEPS`, of which nothing is awaited.
pub(crate) fn start(address: SocketAddr, options: &[&str], steps: &[&str]) -> Cluster {
    let port = address.port().to_string();
    let mut args = vec!["run"];
    args.extend(options);
    args.extend(["--", program(), &port]);
    args.extend(steps);
    Cluster { process: spawn(&mut phalanx(args)), address }
}

/// Two workers say of the steps what the program says alone. They run on; the last step is to be one
/// that does not end.
#[track_caller]
pub(crate) fn same_as_alone(address: SocketAddr, options: &[&str], steps: &[&str]) -> Cluster {
    let expected = alone(address.port(), steps);
    let last = steps.last().expect("steps");
    let options: Vec<&str> = [&["-i", "2"], options].concat();
    let cluster = start(address, &options, steps);
    for slot in ["0", "1"] {
        let got = transcript(&cluster.process, slot, last);
        assert_eq!(
            got,
            expected,
            "in slot {slot} (left) and alone (right) the program saw something else\n{}",
            cluster.process.output()
        );
    }
    cluster
}

/// The same on a free port of 127.0.0.1, where both workers then serve; and that these lines are among
/// what it said.
#[track_caller]
pub(crate) fn serves_as_alone(steps: &[&str], among: &[&str]) -> Cluster {
    let cluster = same_as_alone(pair(), &[], steps);
    let said = said(&cluster.process.output(), "0");
    for line in among {
        assert!(said.iter().any(|seen| seen == line), "{line:?} is not in {said:?}");
    }
    cluster.wait_serving(2);
    cluster
}

/// The addresses of all sockets which a process has open.
pub(crate) fn addresses(pid: u32) -> BTreeSet<SocketAddr> {
    let raw = Pid::from_raw(i32::try_from(pid).unwrap()).expect("a pid");
    let process = pidfd_open(raw, PidfdFlags::empty()).expect("a process");
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there") {
        let Ok(entry) = entry else { continue };
        let link = fs::read_link(entry.path()).unwrap_or_default();
        if !link.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let number = entry.file_name().to_string_lossy().parse().expect("a number");
        // One that has been closed in the meantime is none.
        if let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            let name = rustix::net::getsockname(socket);
            all.extend(name.ok().and_then(|name| SocketAddr::try_from(name).ok()));
        }
    }
    all
}

/// A line of `/proc/PID/status`.
pub(crate) fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

/// The programs for a user without rights; if this one has none, for itself.
pub(crate) struct Unprivileged {
    phalanx: PathBuf,
    pub(crate) program: String,
    root: bool,
    _directory: TempDir,
}

impl Unprivileged {
    /// Copies, because the directories of the originals may be closed to others.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), open).expect("an open directory");
        let copy = |from: &str, name: &str| {
            let to = directory.path().join(name);
            fs::copy(from, &to).expect("a copy");
            to
        };
        let phalanx = copy(PHALANX, "phalanx");
        let program = copy(program(), "hostile").display().to_string();
        let root = status(std::process::id(), "Uid").starts_with("0\t");
        Self { phalanx, program, root, _directory: directory }
    }

    /// phalanx, to be given arguments.
    pub(crate) fn phalanx(&self) -> Command {
        if !self.root {
            return clean(self.phalanx.to_str().expect("a path"), [""; 0]);
        }
        let ids = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
        let mut command = clean("setpriv", ids);
        command.arg(&self.phalanx);
        command
    }
}
