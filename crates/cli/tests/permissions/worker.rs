//! Clusters whose workers have not all rights, and what is found of those in /proc.

use crate::common::{Cluster, LONG, PHALANX, clean, phalanx, spawn};
use bench::process;
use bench::spawned::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Whether this test may give workers another user.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// This test is not run by root: these options have to be refused, with words that say so.
pub(crate) fn refused_here(options: &[&str]) {
    let args = ["run", "-i", "1"].iter().chain(options).chain(&["--", "/bin/sleep", "60"]);
    let process = spawn(&mut phalanx(args));
    let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{options:?}: {error}"));
    assert_eq!(status.code(), Some(3), "{options:?}: {}", process.output());
    assert!(process.stderr().contains("(only root may)"), "{options:?}: {}", process.output());
}

/// A port that only root may have, and nobody has.
pub(crate) fn low_port() -> u16 {
    // Tests that run at the same time begin elsewhere.
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    for _ in 0..700 {
        let count = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = 300 + u16::try_from((std::process::id() * 37 + count) % 700).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port below 1024 is free");
}

/// A directory that every user may read and enter.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self(directory);
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        let program = fs::metadata(from).unwrap().permissions().mode() & 0o100 != 0;
        let mode = if program { 0o755 } else { 0o644 };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
        to
    }

    pub(crate) fn write(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

/// Two workers of a program that serves HTTP.
pub(crate) struct App {
    pub(crate) process: Cluster,
}

impl App {
    pub(crate) fn start(place: &Place, options: &[&str], program: &[&str], port: u16) -> Self {
        Self::of(phalanx([""; 0]), place, options, program, port)
    }

    /// Started by another command line.
    pub(crate) fn of(
        mut command: Command,
        place: &Place,
        options: &[&str],
        program: &[&str],
        port: u16,
    ) -> Self {
        command.args(["run", "-i", "2"]).args(options).arg("--").args(program);
        command.current_dir(place.path()).env("PORT", port.to_string());
        for (name, value) in [("SEEN_1", "1"), ("SEEN_", "2"), ("HIDDEN", "3"), ("OTHERS", "4")] {
            command.env(name, value);
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let app = Self { process: Cluster { process: spawn(&mut command), address } };
        app.until("two workers that serve", || {
            let ready = app.output().matches("is ready: process").count();
            (ready >= 2).then_some(())
        });
        assert!(app.ask().starts_with("HTTP/1."), "{}", app.output());
        app
    }

    /// What is answered.
    pub(crate) fn ask(&self) -> String {
        let mut stream = TcpStream::connect(self.process.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn output(&self) -> String {
        self.process.process.output()
    }

    pub(crate) fn until<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        self.process.until(what, probe)
    }

    pub(crate) fn primary(&self) -> Process {
        Process(self.process.pid())
    }

    /// Its workers, of which there are so many.
    pub(crate) fn workers(&self, count: usize) -> Vec<Process> {
        self.process.wait_workers(count).into_iter().map(Process).collect()
    }

    pub(crate) fn reload(&self, number: u32) {
        self.process.reload(number);
        assert!(self.ask().starts_with("HTTP/1."), "{}", self.output());
    }

    /// Reloads, which must fail; gives the line with those words.
    pub(crate) fn reload_fails(&self, words: &str) -> String {
        let mark = self.process.process.mark();
        self.process.process.signal(Signal::USR2).unwrap();
        let line = self.process.line(mark, words);
        self.process.line(mark, "reload");
        line
    }

    /// Reloads; whether all workers have that variable then.
    pub(crate) fn reloads_with(&self, name: &str, value: &str) -> Option<()> {
        let mark = self.process.process.mark();
        self.process.process.signal(Signal::USR2).unwrap();
        self.process.line(mark, "is done");
        let has = |worker: &Process| worker.variable(name).as_deref() == Some(value);
        self.workers(2).iter().all(has).then_some(())
    }

    pub(crate) fn stop(self) {
        self.process.stop();
    }
}

/// A process, in /proc (proc(5)).
pub(crate) struct Process(pub(crate) u32);

impl Process {
    fn read(&self, file: &str) -> String {
        let text = fs::read(format!("/proc/{}/{file}", self.0));
        let text = text.unwrap_or_else(|error| panic!("/proc/{}/{file}: {error}", self.0));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A field of its status.
    pub(crate) fn status(&self, field: &str) -> String {
        let text = self.read("status");
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field}: {text}")).trim().to_owned()
    }

    /// A limit, soft and hard.
    pub(crate) fn limit(&self, name: &str) -> (String, String) {
        let text = self.read("limits");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let mut words = line.unwrap_or_else(|| panic!("no {name}: {text}")).split_whitespace();
        (words.next().unwrap().into(), words.next().unwrap().into())
    }

    pub(crate) fn nice(&self) -> i32 {
        let text = self.read("stat");
        let rest = text.rsplit_once(')').unwrap().1;
        rest.split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    /// A variable that it began with.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let text = self.read("environ");
        let mut all = text.split('\0').filter_map(|entry| entry.split_once('='));
        all.find_map(|(key, value)| (key == name).then(|| value.to_owned()))
    }

    pub(crate) fn command_line(&self) -> String {
        self.read("cmdline").replace('\0', " ")
    }

    /// Where a link in /proc leads.
    pub(crate) fn link(&self, name: &str) -> PathBuf {
        fs::read_link(format!("/proc/{}/{name}", self.0)).unwrap()
    }

    pub(crate) fn is_alive(&self) -> bool {
        process::is_alive(self.0)
    }
}

/// The program, as somebody who is not root starts it: it has to be where everybody gets at it.
pub(crate) fn as_nobody(place: &Place) -> Command {
    use std::os::unix::process::CommandExt;
    let program = match place.path().join("phalanx") {
        there if there.exists() => there,
        _ => place.copy(PHALANX.as_ref(), "phalanx"),
    };
    let mut command = clean(program.to_str().unwrap(), [""; 0]);
    command.current_dir(place.path());
    if is_root() {
        command.uid(65534).gid(65534);
    }
    command
}
