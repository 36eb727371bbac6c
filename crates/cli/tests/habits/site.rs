//! A Node application of a test's own, in the foreground, with load on it.

use crate::common::{Cluster, LONG, assert_lossless, phalanx, spawn, v4};
use bench::load::{Load, Running};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A server that answers with its process, its slot and `says`, after `begin` was run in it.
pub(crate) fn server(says: &str, begin: &str) -> String {
    format!(
        "const http = require('http');\n\
         const server = http.createServer((request, response) => response.end(JSON.stringify({{\n\
         pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE), says: {says} }})));\n\
         {begin}\n\
         server.listen(process.env.PORT, '127.0.0.1');\n"
    )
}

/// Puts a file in the place of another, as editors do.
pub(crate) fn put(path: &Path, text: &str) {
    let draft = path.with_extension("draft~");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, path).unwrap();
}

/// Has a link lead elsewhere, as deployments do.
pub(crate) fn switch(link: &Path, target: impl AsRef<Path>) {
    let draft = link.with_extension("draft~");
    std::os::unix::fs::symlink(target, &draft).unwrap();
    fs::rename(draft, link).unwrap();
}

pub(crate) fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a server says.
pub(crate) fn says(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LONG)).ok()?;
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let body: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
    Some(body.get("says")?.to_string().trim_matches('"').to_owned())
}

pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) directory: PathBuf,
    _kept: Option<tempfile::TempDir>,
}

impl Site {
    /// `phalanx run`, in a directory of its own.
    pub(crate) fn run(script: &str, args: &[&str]) -> Self {
        let kept = tempfile::tempdir().unwrap();
        let directory = kept.path().canonicalize().unwrap();
        fs::write(directory.join("server.js"), script).unwrap();
        let all: Vec<&str> = ["run", "server.js"].iter().chain(args).copied().collect();
        let mut command = phalanx(&all);
        command.current_dir(&directory).env("PWD", &directory);
        let mut site = Self::of(command, directory);
        site._kept = Some(kept);
        site
    }

    /// A command that runs an application; all of it is ready.
    pub(crate) fn of(command: Command, directory: PathBuf) -> Self {
        let site = Self::begin(command, directory);
        site.cluster.until("an answer", || says(site.cluster.address));
        site
    }

    pub(crate) fn begin(mut command: Command, directory: PathBuf) -> Self {
        let address = v4();
        command
            .env("PORT", address.port().to_string())
            .env("PHALANX_HOME", directory.join(".home"));
        let cluster = Cluster { process: spawn(&mut command), address };
        Self { cluster, directory, _kept: None }
    }

    /// Waits until all workers that answer say this.
    pub(crate) fn until_says(&self, what: &str) {
        let mut in_a_row = 0;
        self.cluster.until(&format!("all to say {what}"), || {
            let said = says(self.cluster.address);
            in_a_row = if said.as_deref() == Some(what) { in_a_row + 1 } else { 0 };
            (in_a_row >= 20).then_some(())
        });
    }

    /// A connection per request, and connections that are kept.
    pub(crate) fn load(&self) -> Vec<(&'static str, Running)> {
        let load = || Load::new(self.cluster.address).clients(4).duration(Duration::from_secs(120));
        let kept = load().keep_alive(true).think(Duration::from_millis(5));
        vec![
            ("a connection each", load().start().unwrap()),
            ("kept connections", kept.start().unwrap()),
        ]
    }

    /// No request of these failed.
    pub(crate) fn lost_nothing(&self, loads: Vec<(&str, Running)>) {
        for (name, load) in loads {
            assert_lossless(name, &load.stop(), &self.cluster.process);
        }
    }

    pub(crate) fn output(&self) -> String {
        self.cluster.process.output()
    }
}
