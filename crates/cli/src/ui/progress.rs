//! What is told while something is done to an application: lines of what happened, and beneath them, on a terminal, one
//! that is drawn anew with what is waited for.

use super::screen::{Screen, Style};
use super::text::{clean, cut};
use super::waits::{Leaving, waits};
use super::{given, words};
use crate::control::{Description, Word, ask_within};
use crate::home::App;
use crate::show;
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

/// What is told of one application. Clones are the same.
#[derive(Clone)]
pub(crate) struct Progress {
    name: String,
    begun: Instant,
    /// Where what is waited for is drawn.
    screen: Screen,
    drawn: Arc<Mutex<Drawn>>,
}

#[derive(Default)]
struct Drawn {
    /// The line that is on the terminal now.
    line: Option<String>,
    /// What was said last where nothing can be drawn anew.
    said: Option<(usize, usize)>,
    /// It is over: what comes late is not shown.
    over: bool,
}

impl Progress {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let screen = Screen::stderr();
        Self { name: name.into(), begun: Instant::now(), screen, drawn: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has happened: a line that stays, on the standard output.
    pub(crate) fn line(&self, text: &str) {
        let mut drawn = self.lock();
        let line = drawn.line.take();
        erase(line.as_deref());
        show::print(&format!("{}\n", clean(text)));
        if let Some(line) = line {
            self.draw(&mut drawn, line);
        }
    }

    /// What is waited for. On a terminal it is drawn in place of what was; elsewhere it is said when more or fewer workers
    /// are ready.
    pub(crate) fn status(&self, about: &Description) {
        self.show(about, Leaving::default());
    }

    fn show(&self, about: &Description, leaving: Leaving) {
        let mut drawn = self.lock();
        if drawn.over {
            return;
        }
        if self.screen.is_terminal() {
            let seconds = self.begun.elapsed().as_secs();
            let line = format!("  {}: {} · {seconds}s", self.name, waits(about, leaving));
            erase(drawn.line.take().as_deref());
            self.draw(&mut drawn, line);
            return;
        }
        let now = (about.ready, about.wanted);
        if about.wanted > 0 && !about.is_settled() && drawn.said.replace(now) != Some(now) {
            show::say(&format!("{}: {}", self.name, waits(about, leaving)));
        }
    }

    fn draw(&self, drawn: &mut Drawn, line: String) {
        // One that is wrapped could not be erased.
        let room = self.screen.width.unwrap_or(0).saturating_sub(1);
        let shown = clean(&line);
        let _ = write!(stderr(), "{}", self.screen.paint(Style::Dim, &cut(&shown, room)));
        let _ = stderr().flush();
        drawn.line = Some(line);
    }

    /// Draws what is waited for until it is dropped. Only on a terminal.
    pub(crate) fn follow(&self, app: &App) -> Following {
        let (end, ended) = mpsc::channel::<()>();
        self.lock().over = false;
        if self.screen.is_terminal() {
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
        Following { progress: self.clone(), _end: end }
    }

    /// Nothing is waited for any more: the line goes.
    pub(crate) fn clear(&self) {
        let mut drawn = self.lock();
        erase(drawn.line.take().as_deref());
        drawn.over = true;
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
        match screen.is_terminal() {
            true => {
                show::print(&format!("{} {name}: {text} ({took})\n", screen.paint(style, mark)))
            }
            false => show::print(&format!("{name}: {text} ({took})\n")),
        }
    }
}

/// Draws until it is dropped.
#[must_use]
pub(crate) struct Following {
    progress: Progress,
    _end: mpsc::Sender<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.progress.clear();
    }
}

fn erase(line: Option<&str>) {
    if line.is_some() {
        let _ = stderr().write_all(b"\r\x1b[K");
        let _ = stderr().flush();
    }
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
    fn times_that_something_took() {
        assert_eq!(took(Duration::from_millis(840)), "0.8s");
        assert_eq!(took(Duration::from_secs(61)), "1m 1s");
    }
}
