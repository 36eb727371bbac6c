//! What is in the files.

use crate::common::{self, LONG, signal};
use crate::shown::Follower;
use crate::support::{Tool, begin, finish, gone, pid};
use crate::{all, files, log, obeying, path, run, text_of, told, until};
use bench::spawned::Signal;
use bench::wait;
use std::fs;
use std::path::Path;
use std::process::Command;

/// How many lines of `say` are in a text, of one slot; they have to be complete and in their order.
#[track_caller]
fn said(text: &str, slot: u32) -> usize {
    let prefix = format!("{slot} line ");
    let lines = text.lines().filter(|line| line.starts_with(&prefix));
    let mut n = 0;
    for line in lines {
        assert_eq!(line, format!("{prefix}{n} {}", ".".repeat(n % 80)), "line {n} of slot {slot}");
        n += 1;
    }
    n
}

#[test]
fn the_last_words_of_a_worker() {
    let tool = obeying("1", &[]);
    let last = "say(1002); say(1002, 2); process.exit(1)";
    let worker = told(&tool, last).pid;
    gone(worker, LONG);
    for stream in ["out", "err"] {
        let log = log(&tool, stream);
        let text = until("1002 lines", || all(&log), |text| text.lines().count() >= 1002);
        assert_eq!(said(&text, 0), 1002);
    }
    // Nobody is there to read when they are said: the next primary reads them.
    tool.run(&["flush", "app"]).expect(0, &[]);
    let primary = tool.primary("app");
    let worker =
        wait::until(LONG, "another worker", || tool.workers("app").first().copied()).unwrap();
    // More than the pipes take: it waits for who comes.
    told(&tool, "process.on('SIGUSR2', () => { say(1002); say(1002, 2); process.exit(1); })");
    signal(primary, Signal::KILL);
    signal(worker, Signal::USR2);
    gone(worker, LONG);
    for stream in ["out", "err"] {
        let log = log(&tool, stream);
        let text = until("1002 lines", || all(&log), |text| text.lines().count() >= 1002);
        assert_eq!(said(&text, 0), 1002, "after the death of the primary");
    }
}

#[test]
fn a_flood_through_many_files() {
    let tool = obeying("3", &["--log-max-size", "300K", "--log-keep", "1000"]);
    let follower = Follower::new(&mut tool.command(&["logs", "app", "--raw", "--since", "1h"]));
    let mut done = std::collections::BTreeSet::new();
    // Twenty thousand lines of each worker, all at the same time.
    wait::until(LONG, "three workers", || {
        let slot =
            told(&tool, "global.begun ?? setTimeout(() => say(20000), 300); global.begun = 1").slot;
        done.insert(slot);
        (done.len() == 3).then_some(())
    })
    .unwrap();
    let log = log(&tool, "out");
    let text = until("60000 lines", || all(&log), |text| text.lines().count() >= 60_000);
    for slot in 0..3 {
        assert_eq!(said(&text, slot), 20_000);
    }
    let files = files(&log);
    assert!(files.len() > 5, "{files:?}");
    for file in &files {
        let text = text_of(file);
        assert!(
            text.len() < 450 << 10 && text.is_empty() | text.ends_with('\n'),
            "{}",
            file.display()
        );
    }
    // Somebody who followed saw each line once.
    tool.run(&["stop", "app"]).expect(0, &[]);
    let seen = until("60000 lines", || follower.text(), |text| text.lines().count() >= 60_000);
    let stored = run(&tool, &["logs", "app", "--raw", "--since", "1h", "--no-follow"]);
    for text in [&seen, &stored] {
        for slot in 0..3 {
            assert_eq!(said(text, slot), 20_000);
        }
    }
}

#[test]
fn old_files_go_by_number_and_by_size() {
    let tool = obeying("1", &["--log-max-size", "50K", "--log-keep", "3", "--no-log-compress"]);
    told(&tool, "say(10000)");
    let log = log(&tool, "out");
    let last = |text: &str| text.contains("0 line 9999 ");
    until("the last line", || text_of(&log), last);
    wait::until(LONG, "three old files", || (files(&log).len() == 4).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", files(&log)));
    assert!(files(&log).iter().all(|file| file.extension().is_some_and(|ext| ext != "gz")));

    let tool = obeying("1", &["--log-max-size", "50K", "--log-quota", "300K", "--no-log-compress"]);
    told(&tool, "say(5000); say(5000, 2)");
    let (out, err) = (crate::log(&tool, "out"), crate::log(&tool, "err"));
    until("the last line", || text_of(&err), |text| text.contains("0 line 4999 "));
    let size = || -> u64 {
        fs::read_dir(out.parent().unwrap())
            .unwrap()
            .flatten()
            .map(|e| e.metadata().map_or(0, |m| m.len()))
            .sum()
    };
    wait::until(LONG, "no more than the quota", || (size() <= 320 << 10).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {} {:?}", size(), files(&out)));
    assert!(files(&err).len() > 2, "there is room for more than the present files");
}

/// A program that says four hundred lines in its application's name, a few at a time.
const COUNTS: &str = "\
let n = 0;
setInterval(() => { for (let i = 0; i < 2 && n < 400; i++) console.log(`${process.env.APP} ${n++}`); }, 15);
";

#[test]
fn a_file_of_two_applications() {
    let tool = Tool::new();
    let (program, log) = (tool.program("counts.js", COUNTS), tool.directory().join("o.log"));
    for name in ["one", "two"] {
        let words = ["start", path(&program), "--name", name, "-i", "1", "--ready", "online"];
        let limits = ["-o", path(&log), "--log-max-size", "1K", "--log-keep", "1000"];
        let mut command = tool.command(&[&words[..], &limits].concat());
        command.env("APP", name);
        finish(begin(&mut command)).expect(0, &[]);
    }
    // Also when all old files are compressed, and nobody touches them any more.
    let old = || files(&log).into_iter().rev().skip(1);
    let lines = |text: &str| text.lines().count();
    until("800 lines", || all(&log), |text| lines(text) == 800 && text.contains("two 399"));
    let raw = || old().filter(|file| file.extension().is_none_or(|e| e != "gz")).count();
    wait::until(LONG, "compressed files", || (raw() == 0).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", files(&log)));
    assert!(old().count() > 2, "{:?}", files(&log));
    let text = all(&log);
    for name in ["one", "two"] {
        let said: Vec<&str> = text.lines().filter(|line| line.starts_with(name)).collect();
        let numbers: std::collections::BTreeSet<&str> = said.iter().copied().collect();
        assert_eq!((said.len(), numbers.len()), (400, 400), "{name}: each line once");
    }
}

#[test]
fn files_that_are_removed_or_moved() {
    let tool = obeying("1", &[]);
    let log = log(&tool, "out");
    told(&tool, "console.log('one')");
    until("a line", || text_of(&log), |text| text == "one\n");
    // With its directory.
    fs::remove_dir_all(tool.home.join("logs")).unwrap();
    told(&tool, "setInterval(() => console.log('two'), 50)");
    until("a new file", || text_of(&log), |text| text.contains("two\n"));
    // As logrotate(8) does it, with what it runs afterwards.
    let aside = tool.directory().join("aside.log");
    fs::rename(&log, &aside).unwrap();
    tool.run(&["reopen", "app"]).expect(0, &[]);
    assert!(log.exists(), "it was opened anew");
    let moved = text_of(&aside);
    until("lines in the new file", || text_of(&log), |text| text.contains("two\n"));
    assert_eq!(text_of(&aside), moved, "nothing more in the old one");
    // By hand.
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(2).unwrap();
    until(
        "lines behind what is left",
        || text_of(&log),
        |text| text.starts_with("tw") && text.contains("two\n"),
    );
    let shown = tool.run(&["logs", "app", "--lines", "3", "--no-follow"]).expect(0, &[]);
    assert!(shown.stdout.lines().all(|line| line.ends_with("two")), "{shown:?}");
    tool.run(&["flush", "app"]).expect(0, &[]);
    let after = tool.run(&["logs", "app", "--json", "--lines", "1", "--no-follow"]).expect(0, &[]);
    until("lines after that", || text_of(&log), |text| text.contains("two\n"));
    assert!(after.stdout.is_empty() || after.stdout.contains("\"slot\":0"), "{after:?}");
}

#[test]
fn what_cannot_be_emptied_or_opened_is_said() {
    let tool = obeying("1", &[]);
    let log = log(&tool, "out");
    told(&tool, "console.log('one')");
    until("a line", || text_of(&log), |text| text == "one\n");
    let name = path(&log);
    // In the place of an old file, and then in that of the log.
    let old = log.with_extension("log.20260131T130000.123Z");
    fs::create_dir(&old).unwrap();
    let said = tool.run(&["flush", "app"]).expect(1, &["app: ", name, "cannot be emptied"]);
    assert!(!said.stdout.contains("are emptied"), "{said:?}");
    fs::remove_dir(&old).unwrap();
    tool.run(&["flush", "app"]).expect(0, &["app: its logs are emptied"]);
    assert_eq!(text_of(&log), "");
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    tool.run(&["reopen", "app"]).expect(1, &["app: ", name, "cannot be opened"]);
    // One that does not run.
    tool.run(&["stop", "app"]).expect(0, &[]);
    tool.run(&["reopen", "app"]).expect(0, &[]);
    tool.run(&["flush", "app"]).expect(1, &["cannot empty", name]);
}

#[test]
fn what_a_primary_says_is_bounded() {
    let tool = obeying("1", &["--print-messages"]);
    let (log, last) = ("primary.log", "primary.log.1");
    let size = |name| fs::metadata(tool.app("app").join(name)).map_or(0, |about| about.len());
    told(&tool, "setInterval(() => process.send('x'.repeat(16000)), 1)");
    wait::until(LONG, "a log that was put aside", || (size(last) > 0).then_some(())).unwrap();
    let largest = (4 << 20) + (64 << 10);
    assert!(size(log) <= largest && size(last) <= largest, "{} {}", size(log), size(last));
    // It is one of the files that go with an application.
    tool.run(&["delete", "app"]).expect(0, &[]);
    let directory = tool.app("app");
    assert!(!directory.exists(), "{:?}", fs::read_dir(directory).unwrap().collect::<Vec<_>>());
}

/// A file system of a few KiB; without the right to have one, a device on which nothing fits.
struct Full {
    mounted: Option<std::path::PathBuf>,
}

impl Full {
    fn at(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let words = ["-t", "tmpfs", "-o", "size=64k", "none", path(directory)];
        let done = Command::new("mount").args(words).output();
        let mounted = done.is_ok_and(|done| done.status.success());
        Self { mounted: mounted.then(|| directory.to_owned()) }
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        if let Some(directory) = &self.mounted {
            let _ = Command::new("umount").arg("-l").arg(directory).status();
        }
    }
}

#[test]
fn a_full_disk() {
    let tool = Tool::new();
    let directory = tool.directory().join("full");
    let full = Full::at(&directory);
    let file = if full.mounted.is_some() { directory.join("x.log") } else { "/dev/full".into() };
    let server = tool.program("obeys.js", crate::OBEYS);
    let words = ["start", path(&server), "--name", "app", "-i", "1", "--output", path(&file)];
    tool.run(&words).expect(0, &["listening"]);
    // Far more than there is room for: the worker waits for a moment, and goes on.
    told(&tool, "say(20000); console.error('done')");
    until("its end", || text_of(&log(&tool, "err")), |text| text == "done\n");
    assert_eq!(told(&tool, "0").slot, 0);
    let primary = || fs::read_to_string(tool.app("app").join("primary.log")).unwrap_or_default();
    until("words about it", primary, |text| {
        text.contains("cannot be written, and lines of workers are lost")
    });
    let Some(directory) = &full.mounted else { return };
    // There is room again: how much is missing is said, and what is there is whole.
    let kept = text_of(&file);
    assert!(kept.ends_with('\n') && !kept.is_empty(), "{kept:?}");
    let words = ["-o", "remount,size=64m", path(directory)];
    assert!(Command::new("mount").args(words).status().unwrap().success());
    told(&tool, "console.log('again')");
    let text = until("a line", || text_of(&file), |text| text.ends_with("again\n"));
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(" line ")).collect();
    let lost = text.lines().filter_map(|line| {
        line.strip_prefix("phalanx: ")?.split_once(" lines of workers could not")
    });
    let lost: usize = lost.map(|(number, _)| number.parse::<usize>().unwrap()).sum();
    assert_eq!(lines.len() + lost, 20_000, "shown and lost");
    until("words about that", primary, |text| text.contains("can be written again"));
    drop(full);
}

#[test]
fn lines_as_options_have_them() {
    let tool = obeying(
        "1",
        &[
            "--log-type",
            "json",
            "--log-ansi",
            "strip",
            "--log-max-line",
            "100",
            "--log",
            "both.log",
        ],
    );
    told(
        &tool,
        "console.log('\\x1b[31mgrün\\x1b[0m'); console.error('\"x\"'); console.log('ä'.repeat(120))",
    );
    let both = tool.directory().join("both.log");
    let text = until("its lines", || text_of(&both), |text| text.lines().count() == 5);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |text: &str| {
        lines
            .iter()
            .find(|line| line["text"] == text)
            .unwrap_or_else(|| panic!("{text}: {lines:#?}"))
    };
    let (green, error) = (find("grün"), find("\"x\""));
    assert_eq!(
        (&green["app"], &green["slot"], &green["stream"]),
        (&"app".into(), &0.into(), &"out".into())
    );
    assert_eq!(green["pid"], tool.workers("app")[0]);
    assert_eq!(error["stream"], "err");
    let long = lines.iter().filter(|line| line["cut"] == true || line["continued"] == true);
    let long: String = long.map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(long, "ä".repeat(120), "{lines:#?}");
    assert_eq!(text_of(&log(&tool, "out")).lines().count(), 4);
    // As it was said again, for people.
    let shown =
        tool.run(&["logs", "app", "--no-follow"]).expect(0, &["app 0 | grün", "app 0 ! \"x\""]);
    assert!(!shown.stdout.contains('{'), "{shown:?}");

    // Times; nowhere; and both streams in one file.
    let tool = obeying("1", &["--log-date-format", "YYYY [at]", "-o", "x.log", "-e", "x.log"]);
    told(&tool, "console.log('a'); console.error('b')");
    let file = tool.directory().join("x.log");
    let text = until("two lines", || text_of(&file), |text| text.lines().count() == 2);
    assert!(text.lines().all(|line| line.starts_with("20") && line.contains(" at: ")), "{text}");
    tool.run(&["logs", "app", "--err", "--no-follow"]).expect(0, &["at: b"]);
    assert!(!log(&tool, "out").exists());
    let about = tool.about("app");
    assert_eq!(about["logs"]["out"], path(&file.canonicalize().unwrap()), "{about:#}");
    let tool = obeying("1", &["--disable-logs"]);
    told(&tool, "say(5000)");
    assert_eq!(told(&tool, "0").slot, 0);
    assert!(!log(&tool, "out").exists());
    tool.run(&["logs", "app", "--no-follow"]).expect(0, &["app keeps no logs"]);
}

#[test]
fn an_upgrade_in_the_middle_of_a_line() {
    let tool = obeying("1", &[]);
    let primary = tool.primary("app");
    told(&tool, "process.stdout.write('half'); process.stderr.write('other half')");
    told(&tool, "say(500)");
    // Somebody's own, which is not taken for what was left.
    let (logs, own) = (tool.home.join("logs"), tool.home.join("logs/app-out.log.part"));
    fs::write(&own, "mine").unwrap();
    tool.run(&["upgrade", "app"]).expect(0, &[]);
    assert_eq!(tool.primary("app"), primary);
    told(&tool, "console.log(' and half'); console.error(' and half')");
    let (out, err) = (log(&tool, "out"), log(&tool, "err"));
    let text = until("the end", || text_of(&out), |text| text.ends_with(" and half\n"));
    assert!(text.starts_with("half0 line 0"), "{text}");
    assert_eq!(text.lines().count(), 501);
    until("the other end", || text_of(&err), |text| text == "other half and half\n");
    let left = fs::read_dir(logs).unwrap().flatten().map(|entry| entry.path());
    let left: Vec<_> = left.filter(|file| file.extension().is_some_and(|e| e == "part")).collect();
    assert_eq!(left, std::slice::from_ref(&own), "what was taken up is gone");
    assert_eq!(text_of(&own), "mine");
    let workers = tool.about("app")["workers"].clone();
    let shown = tool.run(&["logs", "app", "--json", "--err", "--no-follow"]).expect(0, &[]);
    let line: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(pid(&line["pid"]), pid(&workers[0]["pid"]), "{line}");
}

#[test]
fn in_the_foreground() {
    let tool = Tool::new();
    let server = tool.program("obeys.js", crate::OBEYS);
    let begin = |more: &[&str]| {
        let words = [&["run", path(&server), "-i", "1"], more].concat();
        common::spawn(&mut tool.command(&words))
    };
    let process = begin(&["--log-type", "json", "--name", "shop"]);
    process.wait_for_line(|line| line.contains("is ready"), LONG).unwrap();
    told(&tool, "console.log('hello')");
    let line = process.wait_for_line(|line| line.contains("\"hello\""), LONG).unwrap();
    let line: serde_json::Value =
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!((&line["app"], &line["stream"]), (&"shop".into(), &"out".into()), "{line}");
    process.signal(Signal::TERM).unwrap();
    process.wait_exit(LONG).unwrap();

    let file = tool.directory().join("o.log");
    let process = begin(&["--output", "o.log", "--time"]);
    process.wait_for_line(|line| line.contains("is ready"), LONG).unwrap();
    told(&tool, "console.log('into the file'); console.error('past it')");
    until("a line", || text_of(&file), |text| text.ends_with(": into the file\n"));
    process.wait_for_line(|line| line.ends_with(": past it"), LONG).unwrap();
    assert!(!process.output().contains("into the file"), "{}", process.output());
    process.signal(Signal::TERM).unwrap();
    process.wait_exit(LONG).unwrap();
}
