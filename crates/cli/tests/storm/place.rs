//! A small file system of a test's own, in name spaces of its own, so that no other user is needed to mount it.

use crate::common::clean;
use crate::support::Tool;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use tempfile::TempDir;

/// Mounts it, and does what it is told.
const HOLDER: &str = "mount -t tmpfs -o size=512k,mode=700 none \"$1\" && echo done\n\
    while read -r line; do eval \"$line\" && echo done || echo failed; done";

pub(crate) struct Place {
    holder: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    inside: PathBuf,
    _directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().canonicalize().unwrap();
        let mut command = clean("unshare", ["-U", "-r", "-m", "sh", "-c", HOLDER, "sh"]);
        command.arg(&inside).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let (input, output) = (holder.stdin.take().unwrap(), holder.stdout.take().unwrap());
        let output = BufReader::new(output);
        let mut place = Self { holder, input, output, inside, _directory: directory };
        place.answers("a file system is mounted in a user name space");
        place
    }

    /// With its home there.
    pub(crate) fn tool(&self) -> Tool {
        let mut tool = Tool::new();
        tool.home = self.outside().join("home");
        tool
    }

    /// Where it is for those who do not share the name space.
    fn outside(&self) -> PathBuf {
        let inside = self.inside.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    fn answers(&mut self, what: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "done", "{what}");
    }

    fn tell(&mut self, words: &str) {
        writeln!(self.input, "{words}").unwrap();
        self.answers(words);
    }

    /// Not a byte more goes into it.
    pub(crate) fn fill(&self) {
        let path = self.outside().join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        let full = (0..1000).any(|_| file.write_all(&[b'x'; 4096]).is_err());
        assert!(full, "four megabytes fit in");
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.outside().join("filler")).unwrap();
    }

    /// For whatever is opened from now on.
    pub(crate) fn close(&mut self) {
        let inside = self.inside.display().to_string();
        self.tell(&format!("mount --bind {inside} {inside} && mount -o remount,bind,ro {inside}"));
    }

    pub(crate) fn open(&mut self) {
        let inside = self.inside.display().to_string();
        self.tell(&format!("umount -l {inside}"));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
