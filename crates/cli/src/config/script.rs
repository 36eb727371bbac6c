//! Configuration files that are programs: the user's `node` evaluates them, and tells what they export.

use super::parse::{Format, LARGEST, Wrong, parse};
use super::tree::{Item, Node};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the evaluation may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Its standard input is the pipe that it answers on: what the file prints, or a program that it starts, is not in between.
const EVALUATE: &str = r"
import { writeSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
const plain = (key, value) => value instanceof RegExp ? String(value) : typeof value === 'bigint' ? String(value) : value;
const tell = (answer) => {
  const bytes = Buffer.from(JSON.stringify(answer, plain) + '\n');
  for (let at = 0; at < bytes.length;) at += writeSync(0, bytes, at);
};
try {
  const all = await import(pathToFileURL(process.argv[1]).href);
  let value = all.default ?? all;
  if (value?.__esModule && value.default !== undefined) value = value.default;
  if (typeof value === 'function') throw new Error('it exports a function: an object is meant');
  if (typeof value?.then === 'function') throw new Error('it exports a Promise: an object is meant (a …config.mjs may `await` it: export default await …)');
  tell({ value });
} catch (error) {
  tell({ error: String(error?.message ?? error), stack: String(error?.stack ?? '') });
}
process.exit(0);
";

/// What a file exports.
pub(super) fn evaluate(path: &Path) -> Result<Item, Wrong> {
    let path = std::path::absolute(path).map_err(|error| Wrong::new(error.to_string()))?;
    if let Err(error) = std::fs::metadata(&path) {
        return Err(Wrong::new(format!("cannot read it: {error}")));
    }
    let (mut child, from) = begin(&path)?;
    let deadline = Instant::now() + PATIENCE;
    let answer = listen(&from, deadline);
    // It has said all that it was asked for.
    let _ = child.kill();
    let status = child.wait();
    let text = answer.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => Wrong::new(format!(
            "node does not come to an end with it within {}s: it may wait for something",
            PATIENCE.as_secs()
        )),
        _ => Wrong::new(format!("cannot read what node tells of it: {error}")),
    })?;
    if text.trim().is_empty() {
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        return Err(Wrong::new(format!("node ended without telling what it exports ({how})")));
    }
    exported(&text, &path)
}

fn begin(path: &Path) -> Result<(Child, OwnedFd), Wrong> {
    let cannot = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => ": there is no `node` in $PATH, which evaluates such files",
            _ => "",
        };
        Wrong::new(format!("cannot start node{hint} ({error})"))
    };
    let (from, to) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| cannot(error.into()))?;
    let mut command = Command::new("node");
    command.args(["--input-type=module", "--eval", EVALUATE, "--"]).arg(path);
    command.current_dir(path.parent().unwrap_or(Path::new("/")));
    // What it prints is for people, and the result of the command may be for programs.
    let stderr = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map(Stdio::from);
    command.stdin(to).stdout(stderr.unwrap_or_else(|_| Stdio::null()));
    Ok((command.spawn().map_err(cannot)?, from))
}

/// What is said until it ends, or the line does.
fn listen(from: &OwnedFd, deadline: Instant) -> io::Result<String> {
    let mut pipe = File::from(from.try_clone()?);
    let mut said = Vec::new();
    let mut chunk = vec![0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(0),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&time)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            polled => polled?,
        };
        let count = pipe.read(&mut chunk)?;
        said.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if said.len() as u64 > LARGEST {
            return Err(io::Error::other("it exports more than 1 MiB"));
        }
        if count == 0 || said.ends_with(b"\n") {
            return Ok(String::from_utf8_lossy(&said).into_owned());
        }
    }
}

/// The exported value of an answer, or what was thrown.
fn exported(text: &str, path: &Path) -> Result<Item, Wrong> {
    let Node::Table(answer) = parse(text, Format::Json)?.node else {
        return Err(Wrong::new("node tells what is not understood"));
    };
    let mut stack = String::new();
    let mut error = None;
    for (key, item) in answer {
        match (key.as_str(), item) {
            ("value", item) => return Ok(item),
            ("error", Item { node: Node::Text(words), .. }) => error = Some(words),
            ("stack", Item { node: Node::Text(words), .. }) => stack = words,
            _ => {}
        }
    }
    let Some(error) = error else { return Ok(Node::Nothing.into()) };
    Err(Wrong { line: line_of(&stack, path), words: explained(&error) })
}

/// The line of the file at which something was thrown.
fn line_of(stack: &str, path: &Path) -> Option<usize> {
    let path: PathBuf = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (_, rest) = stack.split_once(&format!("{}:", path.display()))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

/// With what to do about what is common.
fn explained(error: &str) -> String {
    let first = error.lines().next().unwrap_or("it throws");
    let module = ["Unexpected token 'export'", "Cannot use import statement"];
    if module.iter().any(|words| error.contains(words)) {
        return format!("{first}: a file with `import` or `export` is called …config.mjs");
    }
    if error.contains("module is not defined") {
        return format!("{first}: a file with `module.exports` is called …config.cjs here");
    }
    first.to_owned()
}
