//! What workers say, on a real terminal (a pty) and elsewhere.
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::{Guarded, Signal};
use bench::{process, wait};
use common::{Cluster, LONG, PHALANX, clean, get, signal, spawn, v4};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, mknodat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

/// A terminal that hands through what is written on it, and what was read of it so far.
struct Terminal {
    master: Arc<OwnedFd>,
    path: String,
    seen: Arc<Mutex<Vec<u8>>>,
    /// Without it, there is no terminal while no process has it open.
    _kept: OwnedFd,
}

impl Terminal {
    /// One that is read.
    fn new() -> Self {
        let terminal = Self::unread();
        terminal.read();
        terminal
    }

    /// One that takes as much as the kernel keeps for it, until somebody reads.
    fn unread() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let kept = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let mut modes = tcgetattr(&kept).unwrap();
        modes.make_raw();
        tcsetattr(&kept, OptionalActions::Now, &modes).unwrap();
        Self { master: Arc::new(master), path, seen: Arc::default(), _kept: kept }
    }

    fn read(&self) {
        let (master, seen) = (Arc::clone(&self.master), Arc::clone(&self.seen));
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            // Until nobody has it open any more.
            while let Ok(n @ 1..) = rustix::io::read(&*master, &mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
    }

    fn bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Waits for words on it.
    fn wait_for(&self, words: &str) -> String {
        self.until(&format!("{words:?}"), |text| text.contains(words))
    }

    fn until(&self, what: &str, accept: impl Fn(&str) -> bool) -> String {
        let accepted = || {
            // Without a copy: there may be megabytes, and this is asked often.
            let seen = self.seen.lock().unwrap();
            Some(String::from_utf8_lossy(&seen)).filter(|text| accept(text)).map(Cow::into_owned)
        };
        wait::until(LONG, what, accepted)
            .unwrap_or_else(|error| panic!("{error}; the terminal shows:\n{}", self.text()))
    }
}

/// A directory with one program in it.
struct App {
    directory: TempDir,
    file: PathBuf,
}

impl App {
    fn new(name: &str, text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        Self { directory, file }
    }

    /// `phalanx run` with it, and its streams on terminals or in files; what is not named is captured.
    fn run(&self, more: &[&str], out: Option<&str>, err: Option<&str>) -> Command {
        let to = |stream, path: Option<&str>| match path {
            Some(path) => format!(" {stream}>'{path}'"),
            None => String::new(),
        };
        let script = format!("exec \"$@\"{}{}", to(1, out), to(2, err));
        let app = self.file.to_str().unwrap();
        let args = [&["-c", &script, "sh", PHALANX, "run", app], more].concat();
        let mut command = clean("/bin/sh", args);
        for name in ["PYTHONUNBUFFERED", "FORCE_COLOR"] {
            command.env_remove(name);
        }
        command.env("NO_COLOR", "1").current_dir(self.directory.path());
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// At once: these programs do not know how to leave.
fn quit(process: &Guarded) {
    process.signal(Signal::QUIT).unwrap();
    let status = process.wait_exit(LONG).unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.output());
}

fn contents(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Says something on both streams, and stays.
const TALKER: &str = "\
echo \"out of $NODE_APP_INSTANCE\"
echo \"err of $NODE_APP_INSTANCE\" >&2
printf unfinished
exec sleep 1000
";

#[test]
fn lines_have_a_prefix_on_a_terminal() {
    let app = App::new("talker.sh", TALKER);
    let (out, err) = (Terminal::new(), Terminal::new());
    let mut command = app.run(&["-i", "2"], Some(&out.path), Some(&err.path));
    let process = spawn(&mut command);
    for slot in [0, 1] {
        let text = out.wait_for(&format!("talker.sh {slot} | out of {slot}\n"));
        assert!(!text.contains("err of"), "that is for the other one: {text}");
        let text = err.wait_for(&format!("talker.sh {slot} | err of {slot}\n"));
        assert!(!text.contains("out of"), "that is for the other one: {text}");
        out.wait_for(&format!("talker.sh {slot} | unfinished"));
    }
    quit(&process);
    let log = err.wait_for("stopped");
    assert!(!log.contains("| 20"), "the log has no prefix: {log}");
}

#[test]
fn without_a_terminal_nothing_is_changed() {
    let app = App::new("talker.sh", TALKER);
    let [out, err] = ["out", "err"].map(|name| app.file(name));
    let process = spawn(&mut app.run(&["-i", "1"], out.to_str(), err.to_str()));
    let whole = "out of 0\nunfinished";
    wait::until(LONG, "its words", || {
        (contents(&out) == whole && contents(&err).contains("\nerr of 0\n")).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", contents(&out), contents(&err)));
    // What it writes to is no pipe of the primary's.
    let worker = process::children(process.pid())[0];
    let of = |pid: u32, fd: u32| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
    for stream in [1, 2] {
        assert_eq!(of(worker, stream), of(process.pid(), stream));
    }
    quit(&process);
    assert_eq!(contents(&out), whole);
    assert!(!contents(&err).contains("talker.sh 0 |"), "{}", contents(&err));
}

#[test]
fn one_stream_on_a_terminal_and_the_other_in_a_file() {
    let app = App::new("talker.sh", TALKER);
    let file = app.file("stream");
    let path = file.to_str().unwrap();

    let terminal = Terminal::new();
    let process = spawn(&mut app.run(&["-i", "1"], Some(path), Some(&terminal.path)));
    terminal.wait_for("talker.sh 0 | err of 0\n");
    let whole = "out of 0\nunfinished";
    wait::until(LONG, "its words", || (contents(&file) == whole).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", contents(&file)));
    quit(&process);
    assert_eq!(contents(&file), whole, "byte for byte");

    let terminal = Terminal::new();
    let process = spawn(&mut app.run(&["-i", "1"], Some(&terminal.path), Some(path)));
    terminal.wait_for("talker.sh 0 | out of 0\n");
    wait::until(LONG, "its words", || contents(&file).contains("\nerr of 0\n").then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", contents(&file)));
    quit(&process);
    // An end to the unfinished line, and nothing of the log.
    assert_eq!(terminal.text(), "talker.sh 0 | out of 0\ntalker.sh 0 | unfinished\n");
}

#[test]
fn colours_by_slot_and_what_workers_are_told_of_them() {
    let app =
        App::new("says.sh", "echo \"said $PYTHONUNBUFFERED $FORCE_COLOR.\"\nexec sleep 1000\n");
    let said = |change: &dyn Fn(&mut Command), words: &str| {
        let terminal = Terminal::new();
        let mut command = app.run(&["-i", "2"], Some(&terminal.path), Some(&terminal.path));
        change(&mut command);
        let process = spawn(&mut command);
        let text = terminal.wait_for(words);
        quit(&process);
        text
    };
    let plain = said(&|_| {}, "says.sh 0 | said 1 .\n");
    assert!(!plain.contains('\x1b'), "{plain:?}");
    let coloured = |command: &mut Command| {
        command.env_remove("NO_COLOR");
    };
    said(&coloured, "\x1b[36msays.sh 0 |\x1b[0m said 1 1.\n");
    said(&coloured, "\x1b[33msays.sh 1 |\x1b[0m said 1 1.\n");
    let set = |command: &mut Command| {
        command.env_remove("NO_COLOR").env("PYTHONUNBUFFERED", "x").env("FORCE_COLOR", "0");
    };
    said(&set, " said x 0.\n");
    // A file gets no colours because there is a terminal beside it.
    let file = app.file("stream");
    let terminal = Terminal::new();
    let mut command = app.run(&["-i", "1"], Some(&terminal.path), file.to_str());
    coloured(&mut command);
    let process = spawn(&mut command);
    terminal.wait_for("\x1b[36msays.sh 0 |\x1b[0m said 1 .\n");
    quit(&process);
}

#[test]
fn the_last_words_of_a_crash() {
    // Each leaves a child behind that holds its streams open.
    let script = "echo dying >&2\nprintf 'last words'\nsleep 1000 &\nexit 3\n";
    let app = App::new("crash.sh", script);
    let terminal = Terminal::new();
    let mut command = app.run(&["-i", "1"], Some(&terminal.path), Some(&terminal.path));
    let process = spawn(&mut command);
    let status = process.wait_exit(LONG).unwrap();
    let text = terminal.wait_for(": no worker became ready: ");
    assert_eq!(status.code(), Some(4), "{text}");
    let count = |line: &str| text.lines().filter(|l| *l == line).count();
    let dying = count("crash.sh 0 | dying");
    assert!(dying > 1, "it was tried more than once: {text}");
    assert_eq!(count("crash.sh 0 | last words"), dying, "on lines of their own: {text}");
}

const PIECES: &str = "\
process.stdout.write('a question? ');
process.on('SIGUSR2', () => {
  process.stdout.write('an answer\\n');
  process.stdout.write('x'.repeat(300000) + '\\n');
  process.stdout.write(Buffer.from([0xff, 0xfe, 0x00, 0xc3, 0x0a]));
  process.stdout.write('half');
});
setInterval(() => {}, 1000);
";

#[test]
fn unfinished_and_long_lines_and_any_bytes() {
    let app = App::new("pieces.js", PIECES);
    let terminal = Terminal::new();
    // Nobody else writes there.
    let process = spawn(&mut app.run(&["-i", "1"], Some(&terminal.path), None));
    let text = terminal.wait_for("pieces.js 0 | a question? ");
    assert!(!text.contains('\n'), "it is not finished: {text:?}");
    signal(process::children(process.pid())[0], Signal::USR2);
    terminal.wait_for("| half");
    let long = "x".repeat(300_000);
    let prefix = "pieces.js 0 | ";
    let mut whole = format!("{prefix}a question? an answer\n{prefix}{long}\n{prefix}").into_bytes();
    whole.extend_from_slice(b"\xff\xfe\x00\xc3\n");
    whole.extend_from_slice(format!("{prefix}half").as_bytes());
    let seen = terminal.bytes();
    assert!(seen == whole, "{} bytes for {}: {:?}", seen.len(), whole.len(), terminal.text());
    quit(&process);
}

#[test]
fn the_log_begins_a_line_of_its_own() {
    let app = App::new("pieces.js", PIECES);
    let terminal = Terminal::new();
    let mut command = app.run(&["-i", "1"], Some(&terminal.path), Some(&terminal.path));
    let process = spawn(&mut command);
    terminal.wait_for("pieces.js 0 | a question? ");
    process.signal(Signal::TERM).unwrap();
    process.wait_exit(LONG).unwrap();
    let text = terminal.wait_for("stopped");
    assert!(text.contains("\npieces.js 0 | a question? \n"), "{text}");
}

/// Each line says whose it is, and which.
const COUNTER: &str = "\
const slot = process.env.NODE_APP_INSTANCE;
for (let from = 0; from < 25000; from += 100) {
  let text = '';
  for (let n = from; n < from + 100; n++) text += `${slot} ${n} ${'abc'.repeat(n % 40)}.\\n`;
  process.stdout.write(text);
}
console.log(`${slot} is done`);
setInterval(() => {}, 1000);
";

#[test]
fn a_hundred_thousand_lines_arrive_whole() {
    let app = App::new("counter.js", COUNTER);
    let terminal = Terminal::new();
    // It never listens, and only so many may be starting at a time.
    let words = ["-i", "4", "--ready", "online"];
    let process = spawn(&mut app.run(&words, Some(&terminal.path), None));
    for slot in 0..4 {
        terminal.wait_for(&format!("\ncounter.js {slot} | {slot} is done\n"));
    }
    let mut next = [0; 4];
    for line in terminal.text().lines().filter(|line| !line.ends_with(" is done")) {
        let said = line.strip_prefix("counter.js ").and_then(|rest| rest.split_once(" | "));
        let (slot, said) = said.unwrap_or_else(|| panic!("no prefix: {line:?}"));
        let number: usize = slot.parse().unwrap_or_else(|_| panic!("no slot: {line:?}"));
        let n = &mut next[number];
        assert_eq!(said, format!("{slot} {n} {}.", "abc".repeat(*n % 40)));
        *n += 1;
    }
    assert_eq!(next, [25_000; 4]);
    quit(&process);
}

/// Answers as the demo does; before the answer to `/flood` it says more than anybody keeps for it.
const FLOOD: &str = "\
require('http').createServer((request, response) => {
  if (request.url === '/flood') {
    // It waits for whoever does not read; process.stdout would keep it all.
    for (let n = 0; n < 40000; n++) require('fs').writeSync(1, 'flood '.repeat(16) + '\\n');
  }
  const { pid, env } = process;
  response.setHeader('Connection', 'close');
  response.end(JSON.stringify({ pid, slot: Number(env.NODE_APP_INSTANCE) }));
}).listen(process.env.PORT, '127.0.0.1');
";

/// What becomes of a terminal that was not read.
enum Then {
    Resumes,
    Goes,
    Stays,
}

#[test]
fn a_terminal_that_is_not_read_stops_nobody() {
    let app = App::new("flood.js", FLOOD);
    for then in [Then::Resumes, Then::Goes, Then::Stays] {
        let terminal = Terminal::unread();
        let mut command = app.run(&["-i", "2"], Some(&terminal.path), Some(&terminal.path));
        let address = v4();
        let process = spawn(command.env("PORT", address.port().to_string()));
        let cluster = Cluster { process, address };
        let before = cluster.wait_serving(2);
        // Four MiB, where a terminal, a pipe and the primary keep less than one: they are given up.
        let answer = get(address, "/flood", LONG).unwrap();
        assert!(before.values().any(|pid| *pid == answer.pid), "{answer:?} {before:?}");
        // The others may have waited with it for a moment; now all serve.
        cluster.wait_serving(2);
        cluster.process.signal(Signal::USR2).unwrap();
        let old: Vec<u32> = before.values().copied().collect();
        cluster.wait_answers("new workers", |slots| {
            slots.len() == 2 && slots.values().all(|pid| !old.contains(pid))
        });
        match then {
            Then::Resumes => {
                terminal.read();
                terminal.wait_for("reload 1 is done");
                let line = format!(" | {}", "flood ".repeat(16));
                let lost = |text: &str| -> Option<usize> {
                    let line = text.lines().find(|line| line.contains("and are lost"))?;
                    line.strip_prefix("phalanx: ")?.split_once(" lines of workers")?.0.parse().ok()
                };
                let all = terminal.until("every line, shown or counted", |text| {
                    let shown = text.lines().filter(|l| l.ends_with(&line)).count();
                    lost(text).is_some_and(|lost| shown + lost == 40_000)
                });
                assert!(lost(&all) > Some(20_000), "{:?}", lost(&all));
            }
            // Nothing that is said then is heard, and nobody minds.
            Then::Goes => {
                drop(terminal);
                assert!(!old.contains(&get(address, "/flood", LONG).unwrap().pid));
            }
            Then::Stays => {}
        }
        cluster.stop();
    }
}

#[test]
fn a_pipe_beside_a_terminal_holds_its_workers_up_and_not_the_primary() {
    let app = App::new("flood.js", FLOOD);
    let terminal = Terminal::new();
    let pipe = app.file("pipe");
    mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // It can be opened for writing, and is not read.
    let reader = rustix::fs::open(&pipe, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut command = app.run(&["-i", "1", "--grace", "1s"], pipe.to_str(), Some(&terminal.path));
    let address = v4();
    let process = spawn(command.env("PORT", address.port().to_string()));
    terminal.wait_for("is ready");
    let asked = thread::spawn(move || get(address, "/flood", LONG));
    // All that is between them is about to be full.
    wait::until(LONG, "a pipe that is full", || {
        (rustix::io::ioctl_fionread(&reader).ok()? > 60_000).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", terminal.text()));
    process.signal(Signal::TERM).unwrap();
    let status = process.wait_exit(LONG).unwrap();
    assert_eq!(status.code(), Some(0), "{}", terminal.text());
    asked.join().unwrap().expect_err("its worker was killed while it waited");
    drop(reader);
}

#[test]
fn scripts_run_by_their_extension() {
    // Python would keep the line until there are more of them.
    let python =
        "import os, time\nprint('python in', os.environ['NODE_APP_INSTANCE'])\ntime.sleep(1000)\n";
    for (name, text, said) in [
        ("app.py", python, "python in"),
        ("app.sh", "echo sh in $NODE_APP_INSTANCE\nexec sleep 1000\n", "sh in"),
    ] {
        let app = App::new(name, text);
        let terminal = Terminal::new();
        let process = spawn(&mut app.run(&["-i", "2"], Some(&terminal.path), None));
        for slot in [0, 1] {
            terminal.wait_for(&format!("{name} {slot} | {said} {slot}\n"));
        }
        quit(&process);
    }
}
