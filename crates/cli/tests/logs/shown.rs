//! `phalanx logs`.

use crate::common::LONG;
use crate::support::{Tool, begin};
use crate::{log, obeying, path, run, told, until};
use bench::wait;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// `phalanx logs` that goes on, and what it has printed.
pub(crate) struct Follower {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Follower {
    pub(crate) fn new(command: &mut Command) -> Self {
        let mut child = begin(command.stdin(Stdio::null()));
        let seen = Arc::<Mutex<String>>::default();
        let (mut out, to) = (child.stdout.take().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            while let Ok(n @ 1..) = out.read(&mut bytes) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Self { child, seen }
    }

    pub(crate) fn text(&self) -> String {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shown(tool: &Tool, args: &[&str]) -> Vec<String> {
    let words = [&["logs"], args, &["--no-follow"]].concat();
    run(tool, &words).lines().map(str::to_owned).collect()
}

#[test]
fn lines_of_several_applications_by_time() {
    let tool = Tool::new();
    let talker = "let n = 0; console.error('first'); setInterval(() => { if (n < 40) { console[n % 2 ? 'error' : 'log'](`${n++} ü`); } }, 20);\n";
    let server = tool.server("talks.js", talker);
    for name in ["one", "another"] {
        let mut command = tool.command(&["start", path(&server), "--name", name, "-i", "2"]);
        // A port of its own.
        command.env("PORT", wait::free_port().to_string());
        crate::support::finish(begin(&mut command)).expect(0, &["listening"]);
    }
    let all = || shown(&tool, &["--json", "--lines", "1000"]).join("\n");
    let text = until("all lines", all, |text| text.lines().count() == 2 * 2 * 41);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let times: Vec<&str> = lines.iter().map(|line| line["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:#?}");
    let changes = lines.windows(2).filter(|two| two[0]["app"] != two[1]["app"]).count();
    assert!(changes > 4, "they were merged: {changes}");
    for app in ["one", "another"] {
        for slot in 0..2 {
            // Both streams of one worker, in the order in which it said them.
            let own = lines.iter().filter(|line| line["app"] == app && line["slot"] == slot);
            let own: Vec<&str> = own.map(|line| line["text"].as_str().unwrap()).collect();
            assert_eq!(own.len(), 41);
            let numbers: Vec<u32> =
                own[1..].iter().map(|text| text.trim_end_matches(" ü").parse().unwrap()).collect();
            assert_eq!((own[0], numbers), ("first", (0..40).collect()));
        }
    }
    // Filters, and how many.
    assert_eq!(shown(&tool, &["one", "--lines", "7"]).len(), 7);
    assert_eq!(shown(&tool, &["--lines", "7"]).len(), 14);
    assert_eq!(shown(&tool, &["one"]).len(), 15);
    assert_eq!(shown(&tool, &["one", "--since", "1h"]).len(), 82);
    assert_eq!(shown(&tool, &["one", "--since", "1h", "--slot", "1"]).len(), 41);
    assert_eq!(shown(&tool, &["one", "--since", "1h", "--out"]).len(), 40);
    assert_eq!(shown(&tool, &["one", "--since", "1h", "--err"]).len(), 42);
    assert_eq!(shown(&tool, &["one", "--lines", "99", "--grep", "^1[0-4] ü$"]).len(), 10);
    let middle = times[times.len() / 2];
    let later = times.iter().filter(|time| **time >= middle).count();
    assert_eq!(shown(&tool, &["--since", middle]).len(), later, "since {middle}");
    assert!(shown(&tool, &["--since", "2100-01-01"]).is_empty());
    let labelled = shown(&tool, &["another", "--lines", "1", "--slot", "1"]);
    assert_eq!(labelled, ["another 1 ! 39 ü"]);
    assert_eq!(shown(&tool, &["one", "--lines", "1", "--slot", "1", "--raw"]), ["39 ü"]);
    let timed = shown(&tool, &["one", "--lines", "1", "--time"]);
    assert!(timed[0].starts_with("20") && timed[0].contains(" one "), "{timed:?}");
    for (args, words) in [
        (["logs", "--since", "never"], "expected a time span"),
        (["logs", "--grep", "("], "no regular expression"),
    ] {
        tool.run(&args).expect(2, &[words]);
    }
    tool.run(&["logs", "nobody"]).expect(1, &["nobody"]);
    // Also when they run no more, and when they are not even known any more.
    tool.run(&["stop", "one"]).expect(0, &[]);
    assert_eq!(shown(&tool, &["one"]).len(), 15);
    tool.run(&["delete", "one"]).expect(0, &[]);
    assert_eq!(shown(&tool, &["one", "--raw", "--lines", "99"]).len(), 82);
    tool.run(&["flush", "one"]).expect(0, &[]);
    assert!(shown(&tool, &["one"]).is_empty());
    assert_eq!(shown(&tool, &["another"]).len(), 15);
}

#[test]
fn following() {
    let tool = obeying("1", &["--log-max-size", "20K", "--log-keep", "1000"]);
    told(&tool, "console.log('before')");
    until(
        "a line",
        || fs::read_to_string(log(&tool, "out")).unwrap_or_default(),
        |text| text == "before\n",
    );
    let all = Follower::new(&mut tool.command(&["logs", "--lines", "1"]));
    until("the last line", || all.text(), |text| text == "app 0 | before\n");
    let new = Follower::new(&mut tool.command(&["logs", "app", "--raw", "--lines", "0", "--out"]));
    // It is there when it shows something.
    told(&tool, "global.timer = setInterval(() => console.log('tick'), 20)");
    until("the first new line", || new.text(), |text| text.contains("tick"));
    told(&tool, "clearInterval(timer); say(3000); console.log('last')");
    let text = until("the last line", || new.text(), |text| text.ends_with("last\n"));
    let numbers: Vec<usize> = text
        .lines()
        .filter_map(|line| line.strip_prefix("0 line ")?.split(' ').next()?.parse().ok())
        .collect();
    assert!(numbers.iter().copied().eq(0..3000), "{} lines", numbers.len());
    assert!(!text.contains("before"), "{text}");
    assert!(crate::files(&log(&tool, "out")).len() > 5);
    // One that is started meanwhile.
    let server = tool.server("late.js", "console.log('late')");
    let mut command = tool.command(&["start", path(&server), "--name", "late", "-i", "1"]);
    command.env("PORT", wait::free_port().to_string());
    crate::support::finish(begin(&mut command)).expect(0, &["listening"]);
    until("the other application's line", || all.text(), |text| text.contains("late 0 | late\n"));
}

#[test]
fn nobody_reads_any_more() {
    let tool = obeying("1", &[]);
    told(&tool, "console.log('hello')");
    until(
        "a line",
        || fs::read_to_string(log(&tool, "out")).unwrap_or_default(),
        |text| text == "hello\n",
    );
    let mut child = tool.begin(&["logs", "app"]);
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "app 0 | hello\n");
    // Although there is nothing more to say.
    drop(out);
    let status = wait::until(LONG, "its end", || child.try_wait().ok().flatten()).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_end_of_a_large_file_is_found_at_once() {
    let tool = obeying("1", &[]);
    tool.run(&["stop", "app"]).expect(0, &[]);
    // Sparse: a gigabyte without a line feed, nobody's, and then two lines.
    let file = fs::OpenOptions::new().write(true).open(log(&tool, "out")).unwrap();
    file.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"\none\ntwo\n", 1 << 30).unwrap();
    let begin = Instant::now();
    assert_eq!(shown(&tool, &["app", "--lines", "2"]), ["app - | one", "app - | two"]);
    eprintln!("two lines of a gigabyte in {:.1?}", begin.elapsed());
}
