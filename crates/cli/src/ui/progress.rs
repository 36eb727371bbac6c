//! What is told while something is done to an application: lines of what happened, and beneath them, on a terminal, one
//! that is drawn anew with what is waited for.

use super::screen::{Screen, Style};
use super::text::{clean, cut};
use super::waits::{Leaving, waits};
use super::{given, words};
use crate::control::{Description, Word, ask_within};
use crate::home::App;
use crate::show;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write, stderr};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often what is waited for is asked and drawn.
const EVERY: Duration = Duration::from_millis(200);
/// For an answer, meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of the kernel's table of connections that are read to count those of a worker.
const TABLE: u64 = 2 << 20;

/// What is drawn on the terminal, of all applications that something is done to at the moment: one line.
static BOARD: Mutex<Board> = Mutex::new(Board { lines: BTreeMap::new(), drawn: false });

struct Board {
    /// What each of them waits for.
    lines: BTreeMap<String, String>,
    drawn: bool,
}

impl Board {
    fn lock() -> MutexGuard<'static, Self> {
        BOARD.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = stderr().write_all(b"\r\x1b[K");
        }
    }

    fn draw(&mut self) {
        self.erase();
        let all: Vec<&str> = self.lines.values().map(String::as_str).collect();
        if all.is_empty() {
            return;
        }
        let screen = Screen::stderr();
        // One that is wrapped could not be erased.
        let room = screen.width.unwrap_or(0).saturating_sub(1);
        let line = all.join("  |  ");
        let line = clean(&line);
        let _ = write!(stderr(), "{}", screen.paint(Style::Dim, &cut(&line, room)));
        self.drawn = true;
    }
}

/// Writes something that stays, above what is waited for.
pub(crate) fn aside(write: impl FnOnce()) {
    let mut board = Board::lock();
    board.erase();
    write();
    board.draw();
}

/// What is told of one application. Clones are the same.
#[derive(Clone)]
pub(crate) struct Progress {
    name: String,
    begun: Instant,
    /// Whether what is waited for can be drawn.
    terminal: bool,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    /// How many were ready, where nothing can be drawn.
    ready: Option<(usize, usize)>,
    /// It is over: what comes late is not shown.
    over: bool,
}

impl Progress {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let terminal = Screen::stderr().is_terminal() && show::tells_progress();
        Self { name: name.into(), begun: Instant::now(), terminal, told: Arc::default() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has happened: a line that stays, on the standard output.
    pub(crate) fn line(&self, text: &str) {
        show::print(&format!("{}\n", clean(text)));
    }

    /// What is waited for. On a terminal it is drawn in place of what was; elsewhere it is said when more or fewer workers
    /// are ready.
    pub(crate) fn status(&self, about: &Description) {
        self.show(about, Leaving::default());
    }

    fn show(&self, about: &Description, leaving: Leaving) {
        let mut told = self.told();
        if told.over {
            return;
        }
        if self.terminal {
            let seconds = self.begun.elapsed().as_secs();
            let line = format!("  {}: {} · {seconds}s", self.name, waits(about, leaving));
            let mut board = Board::lock();
            board.lines.insert(self.name.clone(), line);
            board.draw();
            return;
        }
        let now = (about.ready, about.wanted);
        if about.wanted > 0 && !about.is_settled() && told.ready.replace(now) != Some(now) {
            show::say(&format!("{}: {}", self.name, waits(about, leaving)));
        }
    }

    /// What was shown by [`Self::status`] goes when this is dropped.
    pub(crate) fn shown(&self) -> Following {
        Following { progress: self.clone(), _end: None }
    }

    /// Draws what is waited for until it is dropped. Only on a terminal.
    pub(crate) fn follow(&self, app: &App) -> Following {
        let (end, ended) = mpsc::channel::<()>();
        if self.terminal {
            let (progress, app) = (self.clone(), app.clone());
            thread::spawn(move || {
                let mut leavers = Leavers::default();
                while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                    let about = ask_within(&app, &Word::Describe, LOOK).ok();
                    let about = about.and_then(|about| serde_json::from_value(about).ok());
                    if let Some(about) = about {
                        let leaving = leavers.see(&about, Instant::now());
                        progress.show(&about, leaving);
                    }
                }
            });
        }
        Following { progress: self.clone(), _end: Some(end) }
    }

    /// Nothing is waited for any more: its line goes.
    fn clear(&self) {
        self.told().over = true;
        if self.terminal {
            let mut board = Board::lock();
            board.lines.remove(&self.name);
            board.draw();
        }
    }

    /// It is done, so: the last line, with the time that it took.
    pub(crate) fn done(&self, text: &str) {
        self.end("✓", Style::Good, text);
    }

    /// It is not done. Why is said by the failure.
    pub(crate) fn failed(&self, text: &str) {
        self.end("✗", Style::Bad, text);
    }

    fn end(&self, mark: &str, style: Style, text: &str) {
        self.clear();
        let screen = Screen::stdout();
        let (name, text) = (&self.name, clean(text));
        let took = took(self.begun.elapsed());
        let mark = match screen.is_terminal() {
            true => format!("{} ", screen.paint(style, mark)),
            false => String::new(),
        };
        show::print(&format!("{mark}{name}: {text} ({took})\n"));
    }
}

/// Draws until it is dropped.
#[must_use]
pub(crate) struct Following {
    progress: Progress,
    _end: Option<mpsc::Sender<()>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.progress.clear();
    }
}

/// What a reload or a restart came to, as its primary tells.
pub(crate) fn replaced(told: &Value) -> String {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
    let workers = number(told, "replaced").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let mut text = format!("{} replaced", words::count(workers, "worker", "workers"));
    let Some(receipt) = told.get("receipt").filter(|receipt| receipt.is_object()) else {
        return text;
    };
    match number(receipt, "cut") {
        Some(0) => text.push_str(", no connection is known to be cut"),
        Some(1) => text.push_str(", 1 connection was cut"),
        Some(n) => text.push_str(&format!(", {n} connections were cut")),
        None => {}
    }
    for (key, what) in
        [("killed", "had to be killed, and what they had was cut"), ("still", "still drain")]
    {
        if let Some(n @ 1..) = number(receipt, key) {
            text.push_str(&format!(", {n} {what}"));
        }
    }
    text
}

/// A time that is short, with a digit after its point.
fn took(time: Duration) -> String {
    match time.as_millis() {
        0..60_000 => format!("{:.1}s", time.as_secs_f64()),
        _ => words::duration(time),
    }
}

/// What is seen of workers that leave.
#[derive(Default)]
struct Leavers {
    since: BTreeMap<u32, Instant>,
    grace: Option<Duration>,
}

impl Leavers {
    fn see(&mut self, about: &Description, now: Instant) -> Leaving {
        let draining = about.workers.iter().filter(|worker| worker.state == "draining");
        let pids: BTreeMap<u32, Option<u32>> =
            draining.map(|worker| (worker.id, worker.pid)).collect();
        if pids.is_empty() {
            self.since.clear();
            return Leaving::default();
        }
        self.since.retain(|id, _| pids.contains_key(id));
        for id in pids.keys() {
            self.since.entry(*id).or_insert(now);
        }
        if self.grace.is_none() {
            self.grace = given::options(&about.argv).map(|run| run.grace);
        }
        // 0 is for ever.
        let grace = self.grace.filter(|grace| !grace.is_zero());
        let last = self.since.values().max().copied();
        let at_most = grace.zip(last).map(|(grace, last)| grace.saturating_sub(now - last));
        let connections = pids.values().flatten().map(|pid| connections(*pid));
        Leaving { connections: connections.sum(), at_most }
    }
}

/// The connections that a process has open over TCP; nothing if that is not cheap to know.
fn connections(pid: u32) -> Option<usize> {
    let mut sockets = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        let link = link.to_string_lossy().into_owned();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        sockets.extend(inode.map(str::to_owned));
    }
    let mut found = 0;
    for table in ["tcp", "tcp6"] {
        let Ok(file) = fs::File::open(format!("/proc/{pid}/net/{table}")) else { continue };
        let mut text = String::new();
        file.take(TABLE).read_to_string(&mut text).ok()?;
        if u64::try_from(text.len()).is_ok_and(|read| read >= TABLE) {
            return None;
        }
        found += established(&text, &sockets);
    }
    Some(found)
}

/// Of a table of the kernel's (`proc_net_tcp`), those that are established and among the sockets.
fn established(table: &str, sockets: &BTreeSet<String>) -> usize {
    let is_one = |line: &&str| {
        let mut words = line.split_whitespace();
        words.nth(3) == Some("01") && words.nth(5).is_some_and(|inode| sockets.contains(inode))
    };
    table.lines().skip(1).filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn connections_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let before = connections(std::process::id()).expect("cheap");
        let client = TcpStream::connect(address).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        // Both ends are this process's. Other tests open and close connections of their own.
        let inode = |stream: &TcpStream| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
            let link = fs::read_link(format!("/proc/self/fd/{fd}")).expect("open");
            link.to_string_lossy().replace("socket:[", "").replace(']', "")
        };
        let both = BTreeSet::from([inode(&client), inode(&server)]);
        let table = fs::read_to_string("/proc/self/net/tcp").expect("a table");
        assert_eq!(established(&table, &both), 2, "{before}\n{table}");
        assert_eq!(established(&table, &BTreeSet::new()), 0);
        assert_eq!(connections(u32::MAX), None, "there is none");
    }

    #[test]
    fn how_long_leavers_may_take() {
        let about = |ids: &[u32]| {
            let worker = |id: &u32| serde_json::json!({ "id": id, "state": "draining" });
            let workers: Vec<_> = ids.iter().map(worker).collect();
            let json =
                serde_json::json!({ "workers": workers, "argv": ["--grace", "10s", "app.js"] });
            serde_json::from_value::<Description>(json).expect("a description")
        };
        let mut leavers = Leavers::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let left = |leaving: Leaving| leaving.at_most.map(|left| left.as_secs());
        assert_eq!(left(leavers.see(&about(&[1]), at(0))), Some(10));
        assert_eq!(left(leavers.see(&about(&[1]), at(4))), Some(6));
        // A later one is what is waited for longest.
        assert_eq!(left(leavers.see(&about(&[1, 2]), at(5))), Some(10));
        assert_eq!(left(leavers.see(&about(&[1]), at(6))), Some(4));
        assert_eq!(left(leavers.see(&about(&[1]), at(60))), Some(0));
        assert_eq!(leavers.see(&about(&[]), at(61)), Leaving::default());
    }

    #[test]
    fn what_a_reload_came_to() {
        for (told, text) in [
            (serde_json::json!({ "replaced": 1, "receipt": null }), "1 worker replaced"),
            (
                serde_json::json!({ "replaced": 4, "receipt": { "cut": 0, "still": 0 } }),
                "4 workers replaced, no connection is known to be cut",
            ),
            (
                serde_json::json!({ "replaced": 4, "receipt": { "cut": 2, "still": 1 } }),
                "4 workers replaced, 2 connections were cut, 1 still drain",
            ),
            (Value::Null, "0 workers replaced"),
        ] {
            assert_eq!(replaced(&told), text);
        }
    }

    #[test]
    fn times_that_something_took() {
        assert_eq!(took(Duration::from_millis(840)), "0.8s");
        assert_eq!(took(Duration::from_secs(61)), "1m 1s");
    }
}
