//! Applications in the background, in a home of the test's own; nothing of them outlives the test.
#![allow(dead_code)] // Not every test needs all of it.

use crate::common::{Answer, LONG, PHALANX, get, phalanx};
use bench::spawned::Signal;
use bench::{process, wait};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A process of the program that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn expect(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            let said = self.stdout.contains(word) || self.stderr.contains(word);
            assert!(said, "it does not say {word:?}: {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

/// A home for applications, a directory for programs, and a port for them.
pub(crate) struct Tool {
    pub(crate) home: PathBuf,
    pub(crate) address: SocketAddr,
    directory: TempDir,
}

impl Tool {
    pub(crate) fn new() -> Self {
        Self::at("home")
    }

    /// With a home of that name.
    pub(crate) fn at(home: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, wait::free_port()));
        Self { home: directory.path().join(home), address, directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a program.
    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory().join(name);
        fs::write(&path, text).expect("written");
        path
    }

    /// A Node server that answers as the demo does, after `begin` was run in it.
    pub(crate) fn server(&self, name: &str, begin: &str) -> PathBuf {
        let text = format!(
            "const http = require('http');\n{begin}\nconst answer = {{ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) }};\n\
             const server = http.createServer((request, response) => response.end(JSON.stringify(answer)));\n\
             setTimeout(() => server.listen(process.env.PORT, '127.0.0.1'), Number(process.env.DELAY ?? 0));\n"
        );
        self.program(name, &text)
    }

    pub(crate) fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = phalanx(args);
        command.env("PHALANX_HOME", &self.home).env("PORT", self.address.port().to_string());
        command.current_dir(self.directory());
        command
    }

    /// Runs the program to its end. That its output ends shows that nothing in the background holds it open.
    pub(crate) fn run(&self, args: &[impl AsRef<OsStr>]) -> Done {
        finish(self.begin(args))
    }

    pub(crate) fn begin(&self, args: &[impl AsRef<OsStr>]) -> Child {
        begin(&mut self.command(args))
    }

    /// What is told of an application, as JSON.
    #[track_caller]
    pub(crate) fn about(&self, name: &str) -> Value {
        let done = self.run(&["describe", name, "--json"]).expect(0, &[]);
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
    }

    pub(crate) fn primary(&self, name: &str) -> u32 {
        pid(&self.about(name)["primary_pid"])
    }

    /// The processes of the workers that serve, by slot.
    pub(crate) fn workers(&self, name: &str) -> Vec<u32> {
        let about = self.about(name);
        let workers = about["workers"].as_array().expect("workers").iter();
        workers.filter(|w| w["state"] == "listening").map(|w| pid(&w["pid"])).collect()
    }

    pub(crate) fn app(&self, name: &str) -> PathBuf {
        self.home.join("apps").join(name)
    }

    pub(crate) fn get(&self) -> Answer {
        get(self.address, "/", LONG).expect("an answer")
    }

    pub(crate) fn connect(&self, name: &str) -> UnixStream {
        let stream = UnixStream::connect(self.app(name).join("control.sock")).expect("connected");
        stream.set_read_timeout(Some(LONG)).expect("a time-out");
        stream.set_write_timeout(Some(LONG)).expect("a time-out");
        stream
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let apps = || fs::read_dir(self.home.join("apps")).into_iter().flatten().flatten();
        if apps().next().is_none() {
            return;
        }
        // A test that failed may leave a primary that hangs.
        for app in apps() {
            let Ok(text) = fs::read(app.path().join("workers.json")) else { continue };
            let register: Value = serde_json::from_slice(&text).unwrap_or_default();
            let workers = register["workers"].as_array().cloned().unwrap_or_default();
            for one in [&register["leader"], &register["primary"]].into_iter().chain(&workers) {
                let Some(pid) = one["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()) else {
                    continue;
                };
                if process::stat(pid)
                    .is_ok_and(|stat| Some(stat.started) == one["started"].as_u64())
                {
                    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
                    let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
                }
            }
        }
        // And the workers' children.
        let _ = finish(self.begin(&["delete", "all", "--now"]));
    }
}

pub(crate) fn begin(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("{PHALANX}: {error}"))
}

pub(crate) fn finish(mut child: Child) -> Done {
    // All the time: what it says may be more than a pipe holds.
    let stdout = child.stdout.take().map(reading).expect("a pipe");
    let stderr = child.stderr.take().map(reading).expect("a pipe");
    let ended = wait::until(2 * LONG, "the program to end", || child.try_wait().ok().flatten());
    if ended.is_err() {
        child.kill().expect("killed");
    }
    let [stdout, stderr] = [stdout, stderr].map(|text| text.join().expect("read"));
    let status = child.wait().expect("it has ended");
    assert!(ended.is_ok(), "it did not end: {stdout}\n{stderr}");
    Done { code: status.code(), stdout, stderr }
}

fn reading(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        from.read_to_end(&mut text).expect("read");
        String::from_utf8_lossy(&text).into_owned()
    })
}

pub(crate) fn pid(value: &Value) -> u32 {
    value
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or_else(|| panic!("no pid: {value}"))
}

/// Waits until a process has ended.
#[track_caller]
pub(crate) fn gone(pid: u32, patience: Duration) {
    wait::until(patience, &format!("the end of {pid}"), || (!process::is_alive(pid)).then_some(()))
        .unwrap_or_else(|error| panic!("{error}"));
}

/// A line of a control socket.
pub(crate) fn line(stream: &mut UnixStream) -> Option<Value> {
    let mut text = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).ok()? == 1 {
        if byte == *b"\n" {
            return serde_json::from_slice(&text).ok();
        }
        text.push(byte[0]);
    }
    None
}

pub(crate) fn request(stream: &mut UnixStream, text: &str) -> Option<Value> {
    stream.write_all(format!("{text}\n").as_bytes()).ok()?;
    line(stream)
}
