//! The threads that write what workers say.
//!
//! Workers wait for a slow reader, as they would without phalanx in between. But a terminal that takes nothing
//! at all (Ctrl-S, a window that hangs) must not stop a service: after a moment, lines are lost instead, and
//! counted. Where the stream is a file or a pipe, workers wait for as long as it takes. Files of logs have their own
//! thread (`files.rs`).

use crate::logs::index::{ERR, Record};
use crate::logs::{Style, colour};
use phalanx::{SlotId, WorkerId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may wait; then workers do.
const ROOM: u32 = 256 << 10;
/// Bytes that are written at a time. Each time is a sign of life of the reader; a serial line takes half a
/// second for so many.
const STEP: usize = 512;
/// A terminal that takes nothing for so long is not read.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long the end may take for what still waits, if it is read.
const END: Duration = Duration::from_secs(10);
/// Characters of a name before each line.
const NAME: usize = 32;

/// Whose line on the terminal is unfinished. A terminal shows what goes to both streams.
static UNFINISHED: Mutex<Option<Source>> = Mutex::new(None);

fn unfinished() -> MutexGuard<'static, Option<Source>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Stream {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Out => rustix::stdio::stdout(),
            Self::Err => rustix::stdio::stderr(),
        }
    }
}

/// A worker's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) worker: WorkerId,
    pub(super) slot: SlotId,
    pub(super) pid: u32,
    pub(super) stream: Stream,
}

/// What stands before each line.
#[derive(Clone, Debug)]
pub(super) struct Label {
    name: String,
    width: usize,
    coloured: bool,
}

impl Label {
    pub(super) fn new(name: &str, workers: usize, coloured: bool) -> Self {
        // `node dist/server.js` is server.js.
        let name = name.rsplit('/').find(|part| !part.is_empty()).unwrap_or(name);
        let name = name.chars().map(|c| if c.is_control() { '?' } else { c }).take(NAME).collect();
        let width = workers.saturating_sub(1).to_string().len();
        Self { name, width, coloured }
    }

    fn of(&self, slot: SlotId) -> String {
        let Self { name, width, coloured } = self;
        let text = format!("{name} {:<width$} |", slot.0);
        match *coloured {
            true => format!("\x1b[{}m{text}\x1b[0m ", colour(slot.0)),
            false => text + " ",
        }
    }

    /// The text as it goes to a terminal, where a line may be unfinished: by whom, then and afterwards.
    fn apply(&self, source: Source, text: &[u8], open: &mut Option<Source>) -> Vec<u8> {
        let label = self.of(source.slot);
        let mut shown = Vec::with_capacity(text.len() * 2);
        let mut begins = *open != Some(source);
        if begins && open.is_some() {
            shown.push(b'\n');
        }
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if begins {
                shown.extend_from_slice(label.as_bytes());
            }
            shown.extend_from_slice(line);
            begins = true;
        }
        *open = Some(source).filter(|_| !text.ends_with(b"\n"));
        shown
    }
}

/// When something was heard, and the flags of its record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) time: u64,
    pub(super) flags: u8,
}

/// Whether it was done for all files, or why not for which.
pub(crate) type Obeyed = Result<(), String>;

pub(super) enum Order {
    Say(Source, Mark, Vec<u8>, Option<OwnedSemaphorePermit>),
    /// The stream has ended: so has its line.
    End(Source),
    /// All before it is written: say so.
    Finish(Sender<()>),
    /// Open the files anew.
    Reopen(Sender<Obeyed>),
    /// Empty the files.
    Flush(Sender<Obeyed>),
}

#[derive(Default)]
pub(super) struct State {
    /// Steps that were written.
    pub(super) steps: AtomicU64,
    /// Lines that were lost, and nobody was told of.
    pub(super) lost: AtomicU64,
    /// The last ones were lost after so many steps, and one more.
    stuck: AtomicU64,
    /// Nobody reads, and nobody will.
    closed: AtomicBool,
}

/// Gives a thread something to write.
#[derive(Clone)]
pub(super) struct Writer {
    orders: Sender<Order>,
    room: Arc<Semaphore>,
    state: Arc<State>,
    /// Lines may be lost.
    lossy: bool,
}

/// Room for a text; or there is none, and nobody reads.
pub(super) type Room = Option<OwnedSemaphorePermit>;

impl Writer {
    pub(super) fn new(orders: Sender<Order>, state: Arc<State>, lossy: bool) -> Self {
        Self { orders, room: Arc::new(Semaphore::new(ROOM as usize)), state, lossy }
    }

    /// Waits for room for so many bytes; not for a terminal that is not read, nor for a disk that does not move.
    pub(super) async fn room(&self, size: usize) -> Room {
        let size = u32::try_from(size).unwrap_or(ROOM).min(ROOM);
        loop {
            let steps = self.state.steps.load(Ordering::Relaxed);
            let room = Arc::clone(&self.room);
            if self.state.stuck.load(Ordering::Relaxed) == steps + 1 {
                return room.try_acquire_many_owned(size).ok();
            }
            if let Ok(room) = tokio::time::timeout(PATIENCE, room.acquire_many_owned(size)).await {
                return room.ok();
            }
            let now = self.state.steps.load(Ordering::Relaxed);
            if self.lossy && now == steps {
                self.state.stuck.store(steps + 1, Ordering::Relaxed);
                return None;
            }
        }
    }

    /// Waits until everything before is written, for so long.
    pub(super) fn settle(&self, patience: Duration) {
        let (told, end) = mpsc::channel();
        let _ = self.orders.send(Order::Finish(told));
        let _ = end.recv_timeout(patience);
    }

    /// Has it written, or counts it as lost. Whether somebody may read it.
    pub(super) fn say(&self, source: Source, mark: Mark, text: Vec<u8>, room: Room) -> bool {
        match room {
            Some(room) => drop(self.orders.send(Order::Say(source, mark, text, Some(room)))),
            None => {
                let lines = text.iter().filter(|byte| **byte == b'\n').count().max(1);
                self.state.lost.fetch_add(lines as u64, Ordering::Relaxed);
            }
        }
        !self.state.closed.load(Ordering::Relaxed)
    }

    /// Has it written, whether or not there is room.
    pub(super) fn say_anyhow(&self, source: Source, mark: Mark, text: Vec<u8>) -> bool {
        self.orders.send(Order::Say(source, mark, text, None)).is_ok()
    }

    /// There is no more of it.
    pub(super) fn end(&self, source: Source) {
        let _ = self.orders.send(Order::End(source));
    }
}

/// Waits, when it is dropped, until everything is written; not for ever.
#[derive(Default)]
pub(crate) struct Rest(Vec<(Sender<Order>, Arc<State>)>);

impl Rest {
    pub(super) fn new(orders: Sender<Order>, state: Arc<State>) -> Self {
        Self(vec![(orders, state)])
    }

    pub(super) fn and(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let begin = Instant::now();
        for (orders, state) in &self.0 {
            let (told, end) = mpsc::channel();
            let _ = orders.send(Order::Finish(told));
            let mut steps = state.steps.load(Ordering::Relaxed);
            // As long as somebody reads.
            while end.recv_timeout(PATIENCE / 2) == Err(RecvTimeoutError::Timeout) {
                let before = std::mem::replace(&mut steps, state.steps.load(Ordering::Relaxed));
                if before == steps || begin.elapsed() > END {
                    break;
                }
            }
        }
    }
}

/// Where it is written to.
pub(super) enum To {
    /// A terminal, with a label before each line.
    Terminal(Label),
    /// The stream itself, byte for byte.
    Stream,
    /// The stream itself, in the application's name: JSON, or lines with the time.
    Styled(Style, String),
}

impl To {
    pub(super) fn terminal_or_stream(label: Option<Label>) -> Self {
        label.map_or(Self::Stream, Self::Terminal)
    }
}

pub(super) fn writer(to: To) -> (Writer, Rest) {
    let (orders, given) = mpsc::channel();
    let state = Arc::new(State::default());
    let shared = Arc::clone(&state);
    let lossy = matches!(to, To::Terminal(_));
    std::thread::spawn(move || match to {
        To::Terminal(label) => obey(&given, Some(&label), None, &shared),
        To::Stream => obey(&given, None, None, &shared),
        To::Styled(style, app) => obey(&given, None, Some((&style, &app)), &shared),
    });
    let rest = Rest::new(orders.clone(), Arc::clone(&state));
    (Writer::new(orders, state, lossy), rest)
}

fn obey(
    orders: &Receiver<Order>,
    label: Option<&Label>,
    style: Option<(&Style, &String)>,
    state: &State,
) {
    for order in orders {
        match order {
            Order::Say(source, mark, text, _room) => match label {
                None => {
                    let text = match style {
                        Some(style) => styled(style, source, mark, &text),
                        None => text,
                    };
                    if write(source.stream.fd(), &text, state) == Err(Errno::PIPE) {
                        state.closed.store(true, Ordering::Relaxed);
                    }
                }
                Some(label) => {
                    // For as long as it takes: nobody else writes on this terminal in the middle of a line.
                    let mut open = unfinished();
                    let mut shown = label.apply(source, &text, &mut open);
                    let lost = state.lost.swap(0, Ordering::Relaxed);
                    if lost > 0 {
                        if open.take().is_some() {
                            shown.push(b'\n');
                        }
                        let words = "lines of workers were not read in time and are lost";
                        shown.extend_from_slice(format!("phalanx: {lost} {words}\n").as_bytes());
                    }
                    // A terminal that is gone takes everything.
                    let _ = write(source.stream.fd(), &shown, state);
                }
            },
            Order::End(source) => {
                if label.is_some() {
                    let mut open = unfinished();
                    if *open == Some(source) {
                        *open = None;
                        let _ = write(source.stream.fd(), b"\n", state);
                    }
                }
            }
            Order::Finish(told) => drop(told.send(())),
            // There are none here.
            Order::Reopen(_) | Order::Flush(_) => {}
        }
    }
}

/// Lines as they are to be written in the application's name.
fn styled((style, app): (&Style, &String), source: Source, mark: Mark, lines: &[u8]) -> Vec<u8> {
    let Source { worker, slot, pid, stream } = source;
    let flags = mark.flags | (u8::from(stream == Stream::Err) * ERR);
    let (worker, slot) = (worker.0, slot.0);
    let record = Record { time: mark.time, worker, slot, pid, flags, ..Record::default() };
    let mut text = Vec::with_capacity(lines.len() * 2);
    style.write(app, &record, lines, &mut text);
    text
}

/// Writes all of it, and counts the steps.
fn write(to: BorrowedFd<'_>, text: &[u8], state: &State) -> Result<(), Errno> {
    let mut left = text;
    while !left.is_empty() {
        let step = left.get(..STEP).unwrap_or(left);
        match rustix::io::write(to, step) {
            Ok(n) => left = left.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Somebody else who has this terminal open wants it so.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
                continue;
            }
            Err(error) => return Err(error),
        }
        state.steps.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A writer of whole lines beside those of the workers: on a terminal it begins a new line where theirs is
/// unfinished.
pub(crate) struct Beside<W> {
    to: W,
    terminal: bool,
}

pub(crate) fn beside<W: Write + IsTerminal>(to: W) -> Beside<W> {
    let terminal = to.is_terminal();
    Beside { to, terminal }
}

impl<W: Write> Write for Beside<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if !self.terminal {
            return self.to.write(lines);
        }
        let mut open = unfinished();
        if open.take().is_some() {
            self.to.write_all(b"\n")?;
        }
        self.to.write_all(lines)?;
        self.to.flush()?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(slot: u32, stream: Stream) -> Source {
        Source { worker: WorkerId(slot + 1), slot: SlotId(slot), pid: 1, stream }
    }

    #[test]
    fn labels() {
        let of = |name, workers, slot| Label::new(name, workers, false).of(SlotId(slot));
        assert_eq!(of("app.py", 1, 0), "app.py 0 | ");
        assert_eq!(of("./dist/app.js", 10, 9), "app.js 9 | ");
        assert_eq!(of("node src/app.js", 11, 9), "app.js 9  | ");
        assert_eq!(of("npm start", 11, 10), "npm start 10 | ");
        assert_eq!(of("a\x1b[2J\n/", 1, 0), "a?[2J? 0 | ");
        assert_eq!(of(&"x".repeat(99), 1, 0), format!("{} 0 | ", "x".repeat(NAME)));
        assert_eq!(Label::new("a", 9, true).of(SlotId(7)), "\x1b[33ma 7 |\x1b[0m ");
    }

    #[test]
    fn lines_of_several_workers_on_one_terminal() {
        let label = Label::new("a", 2, false);
        let (zero, one) = (source(0, Stream::Out), source(1, Stream::Out));
        let mut open = None;
        let mut shown = Vec::new();
        for (source, text) in [
            (zero, "one\ntwo\n"),
            (zero, "thr"),
            // It goes on where it was.
            (zero, "ee\n"),
            (zero, "half"),
            // Not behind somebody else's words, nor behind those on the other stream.
            (one, "whole\n"),
            (zero, " and half"),
            (source_err(zero), "\n"),
            (one, "end"),
        ] {
            shown.extend(label.apply(source, text.as_bytes(), &mut open));
        }
        assert_eq!(
            String::from_utf8_lossy(&shown),
            "a 0 | one\na 0 | two\na 0 | three\na 0 | half\na 1 | whole\na 0 |  and half\na 0 | \na 1 | end"
        );
        assert_eq!(open, Some(one));
    }

    fn source_err(source: Source) -> Source {
        Source { stream: Stream::Err, ..source }
    }

    const MARK: Mark = Mark { time: 1, flags: 0 };

    fn state() -> (Writer, Receiver<Order>) {
        let (orders, given) = mpsc::channel();
        (Writer::new(orders, Arc::default(), true), given)
    }

    #[tokio::test]
    async fn who_does_not_read_is_waited_for_once() {
        let (writer, given) = state();
        let full = writer.room(usize::MAX).await.expect("there was room");
        let begin = Instant::now();
        let room = writer.room(1).await;
        assert!(room.is_none() && begin.elapsed() >= PATIENCE, "{:?}", begin.elapsed());
        assert!(writer.say(source(0, Stream::Out), MARK, b"one\ntwo\n".to_vec(), room));
        let begin = Instant::now();
        let room = writer.room(1).await;
        assert!(room.is_none() && begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
        writer.say(source(0, Stream::Out), MARK, b"half".to_vec(), room);
        assert_eq!(writer.state.lost.load(Ordering::Relaxed), 3);
        assert!(given.try_recv().is_err(), "nothing is written of what is lost");
        // A sign of life, and room: nothing is lost any more.
        writer.state.steps.fetch_add(1, Ordering::Relaxed);
        drop(full);
        assert!(writer.room(1).await.is_some());
    }

    #[tokio::test]
    async fn a_slow_reader_is_waited_for() {
        let (writer, _given) = state();
        let full = writer.room(usize::MAX).await.expect("there was room");
        let state = Arc::clone(&writer.state);
        let reading = tokio::spawn(async move {
            // For longer than one is waited for who does not read.
            for _ in 0..6 {
                tokio::time::sleep(PATIENCE / 4).await;
                state.steps.fetch_add(1, Ordering::Relaxed);
            }
            drop(full);
        });
        assert!(writer.room(1).await.is_some(), "it was given up");
        reading.await.expect("no panic");
    }
}
