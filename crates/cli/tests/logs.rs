//! Logs of applications in the background: nothing is lost, nothing fills the disk, and `phalanx logs` shows it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

#[path = "logs/kept.rs"]
mod kept;
#[path = "logs/shown.rs"]
mod shown;
#[path = "tool/support.rs"]
mod support;

use bench::wait;
use common::LONG;
use flate2::read::GzDecoder;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use support::Tool;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server that does what it is told in a request's path, as JavaScript. Once Node has used a pipe itself, it does not
/// block any more, and who writes past it has to wait.
const OBEYS: &str = "\
const fs = require('fs'), slot = process.env.NODE_APP_INSTANCE;
const write = (to, line) => {
  for (;;) {
    try { return fs.writeSync(to, line); } catch (error) { if (error.code !== 'EAGAIN') throw error; }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
  }
};
const say = (n, to = 1) => { for (let i = 0; i < n; i++) write(to, `${slot} line ${i} ` + '.'.repeat(i % 80) + '\\n'); };
const server = require('http').createServer((request, response) => {
  response.setHeader('Connection', 'close');
  response.end(JSON.stringify({ pid: process.pid, slot: Number(slot) }), () => eval(decodeURIComponent(request.url.slice(1))));
});
server.listen(process.env.PORT, '127.0.0.1');
";

/// An application that obeys, with so many workers.
fn obeying(workers: &str, more: &[&str]) -> Tool {
    let tool = Tool::new();
    let server = tool.program("obeys.js", OBEYS);
    let words = ["start", path(&server), "--name", "app", "-i", workers];
    tool.run(&[&words, more].concat()).expect(0, &["listening"]);
    tool
}

/// Runs the program to its end, which may say a lot.
fn run(tool: &Tool, args: &[&str]) -> String {
    let done = tool.command(args).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Has one worker do something.
fn told(tool: &Tool, script: &str) -> common::Answer {
    let path: String = script.bytes().map(|byte| format!("%{byte:02x}")).collect();
    common::get(tool.address, &format!("/{path}"), LONG).unwrap()
}

fn log(tool: &Tool, stream: &str) -> PathBuf {
    tool.home.join(format!("logs/app-{stream}.log"))
}

/// The files of a log, oldest first.
fn files(log: &Path) -> Vec<PathBuf> {
    let name = log.file_name().unwrap().to_str().unwrap().to_owned();
    let entries = fs::read_dir(log.parent().unwrap()).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let file = path.file_name().unwrap().to_str().unwrap();
            let old = file.strip_prefix(&format!("{name}.20"));
            old.is_some_and(|rest| !rest.contains(".idx") && !rest.ends_with(".new"))
        })
        .collect();
    files.sort();
    files.push(log.to_owned());
    files
}

/// What is in a file, compressed or not.
fn text_of(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut text = String::new();
        GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
        return text;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was said all in all.
fn all(log: &Path) -> String {
    // A file that is just being compressed is there under either name, or for a moment under both.
    let files = files(log);
    let twice = |path: &PathBuf| files.contains(&PathBuf::from(format!("{}.gz", path.display())));
    files.iter().filter(|path| !twice(path)).map(|path| text_of(path)).collect()
}

/// Waits until a text is as it should be.
#[track_caller]
fn until(what: &str, text: impl Fn() -> String, is: impl Fn(&str) -> bool) -> String {
    wait::until(LONG, what, || Some(text()).filter(|text| is(text))).unwrap_or_else(|error| {
        let text = text();
        let end: String =
            text.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect();
        panic!("{error}; {} lines, the last ones:\n{end}", text.lines().count())
    })
}
