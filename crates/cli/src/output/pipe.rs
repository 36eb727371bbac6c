//! The reading side of the pipes that workers write into.
//!
//! What was read and not handed on yet is kept where it can be found when this process is about to become another
//! program: lines first, and what has no end for the next one, in a file.

use super::files::mark;
use super::writer::{Source, Stream, Writer};
use super::{Route, UNFINISHED};
use crate::logs::{Piece, take};
use phalanx::{SlotId, WorkerId};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What is asked of a pipe at a time, at first and at most.
const CHUNKS: (usize, usize) = (8 << 10, 64 << 10);
/// On a terminal, a line that is longer is passed in pieces.
const LONGEST: usize = 64 << 10;
/// When all workers are gone, their words are in the pipes already; only their children may say more.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Bytes of each pipe that are read then: more than pipes hold by default.
const LAST_ROOM: usize = 1 << 20;
/// Who said something so short a time ago will say more soon: it is read together, which costs less.
const SOON: Duration = Duration::from_millis(5);
/// How long it gathers in the pipe.
const GATHER: Duration = Duration::from_millis(10);
/// More than half of what a pipe holds does not wait.
const PLENTY: usize = 24 << 10;

/// What was read of a stream and not handed on.
#[derive(Debug, Default, PartialEq)]
struct Kept {
    /// What can be handed on.
    ready: VecDeque<Piece>,
    /// What has no end yet.
    text: Vec<u8>,
    /// It is the rest of a line that was cut.
    continued: bool,
}

/// What was read of all streams and not handed on.
pub(super) struct Unsaid {
    kept: Mutex<BTreeMap<Source, Kept>>,
    carry: Option<PathBuf>,
    /// The file is there, and this process went on all the same.
    left: Mutex<bool>,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unsaid {
    pub(super) fn new(carry: Option<PathBuf>) -> Self {
        Self { kept: Mutex::default(), carry, left: Mutex::default() }
    }

    fn with<T>(&self, source: Source, does: impl FnOnce(&mut Kept) -> T) -> T {
        does(lock(&self.kept).entry(source).or_default())
    }

    /// Hands on what can be, whether or not there is room.
    pub(super) fn say_all(&self, routes: &[Route; 2]) {
        for (source, kept) in lock(&self.kept).iter_mut() {
            let route = routes.get(usize::from(source.stream == Stream::Err));
            for (flags, text) in kept.ready.drain(..) {
                for writer in route.iter().flat_map(|route| &route.writers) {
                    writer.say_anyhow(*source, mark(flags), text.clone());
                }
            }
        }
    }

    /// Leaves what has no end to the next program.
    pub(super) fn leave(&self) {
        let Some(path) = &self.carry else { return };
        let text = write_kept(&lock(&self.kept));
        if text.is_empty() {
            return;
        }
        let _ = fs::remove_file(path);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        match file.and_then(|mut file| file.write_all(&text)) {
            Ok(()) => *lock(&self.left) = true,
            Err(error) => tracing::warn!("unfinished lines are lost: {}: {error}", path.display()),
        }
    }

    /// Takes up what the last program left.
    pub(super) fn take_up(&self) {
        let Some(path) = &self.carry else { return };
        if let Ok(text) = fs::read(path) {
            let _ = fs::remove_file(path);
            *lock(&self.kept) = read_kept(&text);
        }
    }

    /// Says what was taken up for workers of which nothing was heard any more.
    pub(super) fn end(&self, routes: &[Route; 2]) {
        for (source, kept) in lock(&self.kept).iter_mut() {
            let route = routes.get(usize::from(source.stream == Stream::Err));
            kept.end(route.and_then(|route| route.whole));
        }
        self.say_all(routes);
    }

    /// This process goes on: what was left to another one is not true any more.
    fn stay(&self) {
        let mut left = lock(&self.left);
        if std::mem::take(&mut *left)
            && let Some(path) = &self.carry
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Unfinished lines, as they are in a file: numbers, and bytes.
fn write_kept(kept: &BTreeMap<Source, Kept>) -> Vec<u8> {
    let mut text = Vec::new();
    for (source, kept) in kept.iter().filter(|(_, kept)| !kept.text.is_empty() || kept.continued) {
        let Source { worker, slot, pid, stream } = *source;
        let length = u32::try_from(kept.text.len()).unwrap_or_default();
        let flags = u32::from(stream == Stream::Err) | u32::from(kept.continued) << 1;
        for number in [worker.0, slot.0, pid, flags, length] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        text.extend_from_slice(&kept.text);
    }
    text
}

/// The same, back; whatever it is.
fn read_kept(mut text: &[u8]) -> BTreeMap<Source, Kept> {
    let mut all = BTreeMap::new();
    let number = |text: &mut &[u8]| -> Option<u32> {
        let (number, rest) = text.split_first_chunk::<4>()?;
        *text = rest;
        Some(u32::from_le_bytes(*number))
    };
    while let (Some(worker), Some(slot), Some(pid), Some(flags), Some(length)) = (
        number(&mut text),
        number(&mut text),
        number(&mut text),
        number(&mut text),
        number(&mut text),
    ) {
        let length = usize::try_from(length).unwrap_or_default();
        let Some((said, rest)) = text.split_at_checked(length) else { break };
        text = rest;
        let stream = if flags & 1 == 0 { Stream::Out } else { Stream::Err };
        let source = Source { worker: WorkerId(worker), slot: SlotId(slot), pid, stream };
        let continued = flags & 2 != 0;
        all.insert(source, Kept { text: said.to_vec(), continued, ..Kept::default() });
    }
    all
}

/// The pipes of all workers.
pub(super) struct Pipes {
    unsaid: Arc<Unsaid>,
    tasks: JoinSet<()>,
    end: watch::Sender<bool>,
    over: watch::Receiver<bool>,
}

impl Pipes {
    pub(super) fn new(unsaid: Arc<Unsaid>) -> Self {
        let (end, over) = watch::channel(false);
        Self { unsaid, tasks: JoinSet::new(), end, over }
    }

    /// Passes on what is said in a pipe, to its end.
    pub(super) fn pass(
        &mut self,
        pipe: impl AsyncRead + Unpin + Send + 'static,
        source: Source,
        route: Route,
    ) {
        let unsaid = Arc::clone(&self.unsaid);
        let over = self.over.clone();
        self.tasks.spawn(async move {
            let mut passing = Passing { source, route, unsaid, over };
            passing.pass(pipe).await;
            lock(&passing.unsaid.kept).remove(&source);
        });
        // Of those that are gone nothing is kept.
        while self.tasks.try_join_next().is_some() {}
    }

    /// All workers are gone.
    pub(super) async fn end(self) {
        let _ = self.end.send(true);
        self.tasks.join_all().await;
    }
}

/// One pipe.
struct Passing {
    source: Source,
    route: Route,
    unsaid: Arc<Unsaid>,
    over: watch::Receiver<bool>,
}

/// What came of a look into a pipe.
enum Got {
    Bytes(usize),
    /// Nothing, for as long as was to be waited.
    Nothing,
    End,
}

impl Passing {
    /// Passes a pipe's words on, to its end. A child of the worker may hold it open for longer than the worker lives.
    async fn pass(&mut self, mut pipe: impl AsyncRead + Unpin) {
        let mut last_room = LAST_ROOM;
        let mut size = CHUNKS.0;
        let mut last = Instant::now();
        let mut chunk = Vec::new();
        while last_room > 0 {
            let ending = *self.over.borrow_and_update();
            chunk.clear();
            chunk.reserve(size);
            let got = self.read(&mut pipe, &mut chunk, ending).await;
            let whole = self.route.whole;
            match got {
                Ok(Got::Bytes(n)) => {
                    size = if n == size { CHUNKS.1 } else { CHUNKS.0.max(n.next_power_of_two()) };
                    size = size.min(CHUNKS.1);
                    if ending {
                        last_room = last_room.saturating_sub(n);
                    }
                    self.unsaid.stay();
                    self.unsaid.with(self.source, |kept| kept.hear(&chunk, whole));
                }
                Ok(Got::Nothing) if ending => break,
                // It goes on later, or it does not.
                Ok(Got::Nothing) => self.unsaid.with(self.source, Kept::show),
                Ok(Got::End) | Err(_) => break,
            }
            // Nobody reads it any more: the worker hears of it, as it would without a pipe in between.
            if !self.say().await {
                return;
            }
            let soon = std::mem::replace(&mut last, Instant::now()).elapsed() < SOON;
            if soon && !ending && whole.is_some() && chunk.len() < PLENTY {
                let mut over = self.over.clone();
                let _ = tokio::time::timeout(GATHER, over.wait_for(|over| *over)).await;
                last = Instant::now();
            }
        }
        self.unsaid.with(self.source, |kept| kept.end(self.route.whole));
        if self.say().await {
            self.route.writers.iter().for_each(|writer| writer.end(self.source));
        }
    }

    async fn read(
        &mut self,
        pipe: &mut (impl AsyncRead + Unpin),
        chunk: &mut Vec<u8>,
        ending: bool,
    ) -> io::Result<Got> {
        let waits = self.route.whole.is_none()
            && self.unsaid.with(self.source, |kept| !kept.text.is_empty());
        let patience = match (ending, waits) {
            (true, _) => LAST_WORDS,
            (false, true) => UNFINISHED,
            (false, false) => Duration::MAX,
        };
        let changed = async {
            // At the end it has changed for the last time.
            if ending || self.over.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            got = pipe.read_buf(chunk) => Ok(match got? {
                0 => Got::End,
                n => Got::Bytes(n),
            }),
            () = changed => Ok(Got::Bytes(0)),
            () = tokio::time::sleep(patience), if patience < Duration::MAX => Ok(Got::Nothing),
        }
    }

    /// Hands on what can be, when there is room. Whether somebody may read it.
    async fn say(&mut self) -> bool {
        let (source, unsaid) = (self.source, Arc::clone(&self.unsaid));
        let front = || unsaid.with(source, |kept| kept.ready.front().map(|piece| piece.1.len()));
        while let Some(length) = front() {
            let mut rooms = Vec::new();
            for writer in &self.route.writers {
                rooms.push(room(writer, length, &mut self.over).await);
            }
            // Without a pause from here on: what is taken is handed on.
            let Some((flags, text)) = unsaid.with(source, |kept| kept.ready.pop_front()) else {
                break;
            };
            let mut read = self.route.writers.is_empty();
            let mark = mark(flags);
            for (writer, room) in self.route.writers.iter().zip(rooms) {
                read |= match room {
                    Some(room) => writer.say(source, mark, text.clone(), room),
                    // At the end at once, as there is not much more.
                    None => writer.say_anyhow(source, mark, text.clone()),
                };
            }
            if !read {
                return false;
            }
        }
        true
    }
}

/// Waits for room; not at the end.
async fn room(
    writer: &Writer,
    size: usize,
    over: &mut watch::Receiver<bool>,
) -> Option<super::writer::Room> {
    tokio::select! {
        biased;
        room = writer.room(size) => Some(room),
        _ = over.wait_for(|over| *over) => None,
    }
}

impl Kept {
    /// Something was said.
    fn hear(&mut self, said: &[u8], whole: Option<usize>) {
        self.text.extend_from_slice(said);
        if let Some(longest) = whole {
            self.ready.extend(take(&mut self.text, &mut self.continued, longest, false));
            return;
        }
        let last = self.text.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
        let passed = last.unwrap_or(if self.text.len() >= LONGEST { self.text.len() } else { 0 });
        if passed > 0 {
            let rest = self.text.split_off(passed);
            self.ready.push_back((0, std::mem::replace(&mut self.text, rest)));
        }
    }

    /// What has no end is shown as it is.
    fn show(&mut self) {
        if !self.text.is_empty() {
            self.ready.push_back((0, std::mem::take(&mut self.text)));
        }
    }

    /// There is no more.
    fn end(&mut self, whole: Option<usize>) {
        match whole {
            Some(longest) => {
                self.ready.extend(take(&mut self.text, &mut self.continued, longest, true));
            }
            None => self.show(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_carried_over() {
        let source = |n, stream| Source { worker: WorkerId(n), slot: SlotId(2), pid: 4711, stream };
        let mut kept = BTreeMap::new();
        for (n, stream, said) in
            [(1, Stream::Out, "half"), (1, Stream::Err, ""), (2, Stream::Err, "ä")]
        {
            let mut one = Kept::default();
            one.hear(said.as_bytes(), Some(100));
            one.continued = n == 2;
            kept.insert(source(n, stream), one);
        }
        let text = write_kept(&kept);
        kept.remove(&source(1, Stream::Err));
        assert_eq!(read_kept(&text), kept);
        // Whatever is in the file: it is not believed, and harms nobody.
        for length in 0..text.len() {
            assert!(read_kept(&text[..length]).len() < 2);
        }
    }
}
