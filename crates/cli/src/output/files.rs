//! The thread that writes what workers say to files: many lines at a time, each as a whole.
//!
//! A disk that is slow is waited for, as long as it moves. One that takes nothing is waited for a moment, which workers
//! notice when there is no more room; then lines are lost, counted, and that is said, here and in the primary's log.

use super::writer::{Mark, Obeyed, Order, PATIENCE, State, Stream, Writer};
use super::{Rest, Source};
use crate::logs::index::{ERR, JSON, NOTICE, Record};
use crate::logs::{Places, Rules, Sink, Style, Tidy, now};
use rustix::io::Errno;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes that are written at a time, about.
const BATCH: usize = 128 << 10;
/// How soon it is tried again to write.
const AGAIN: Duration = Duration::from_millis(100);
/// A clock that was set back by more is believed.
const SET_BACK: u64 = 1_000_000;
/// How long opening anew may take.
const OPENING: Duration = Duration::from_secs(5);

/// Tells the thread about the files.
#[derive(Clone)]
pub(crate) struct LogFiles {
    orders: Sender<Order>,
}

impl LogFiles {
    /// Opens all files anew, as after they were moved. Returns when that is done, or was not after a few seconds.
    pub(crate) fn reopen(&self) -> Obeyed {
        self.order(Order::Reopen)
    }

    /// Empties all files, and removes the old ones. Returns when that is done, or was not after a few seconds.
    pub(crate) fn flush(&self) -> Obeyed {
        self.order(Order::Flush)
    }

    fn order(&self, order: fn(Sender<Obeyed>) -> Order) -> Obeyed {
        let (told, done) = mpsc::channel();
        let slow = || {
            let seconds = OPENING.as_secs();
            format!("that takes more than {seconds} s: what is said is just being written")
        };
        match self.orders.send(order(told)) {
            Ok(()) => done.recv_timeout(OPENING).map_err(|_| slow())?,
            Err(_) => Err("its logs are not written any more".into()),
        }
    }
}

/// What is to be written to one file.
struct File {
    sink: Sink,
    text: Vec<u8>,
    records: Vec<Record>,
    /// Lines of workers in it.
    lines: u64,
    /// Lines that were lost, and nobody was told of.
    lost: u64,
    /// Nothing could be written the last time.
    failing: bool,
}

struct Files {
    app: String,
    style: Style,
    files: Vec<File>,
    /// Which files have the lines of a stream.
    routes: [Vec<usize>; 2],
    states: [Arc<State>; 2],
    last: u64,
    held: Vec<OwnedSemaphorePermit>,
}

/// Writers for both streams, what waits for their end, and what tells them about their files.
pub(super) type Opened = ([Option<Writer>; 2], Rest, LogFiles);

/// Begins to write to files. Where none can be opened, that is an error only if it `must` be: the next lines may have
/// more luck.
pub(super) fn begin(
    app: &str,
    places: &Places,
    rules: Rules,
    style: &Style,
    must: bool,
) -> Result<Opened, (PathBuf, io::Error)> {
    let paths = places.paths();
    let tidy = Tidy::new(paths.clone(), rules);
    let mut files = Vec::new();
    for path in paths {
        let mut sink = Sink::new(path.clone(), rules, tidy.clone());
        match sink.prepare() {
            Err(error) if must => return Err((path, error)),
            Err(error) => tracing::warn!("{} cannot be opened yet: {error}", path.display()),
            Ok(()) => {}
        }
        files.push(File {
            sink,
            text: Vec::new(),
            records: Vec::new(),
            lines: 0,
            lost: 0,
            failing: false,
        });
    }
    let routes = places.routes();
    let states: [Arc<State>; 2] = Default::default();
    let (orders, given) = mpsc::channel();
    let writer = |stream: usize| {
        let any = routes.get(stream).is_some_and(|files| !files.is_empty());
        let state = states.get(stream).filter(|_| any)?;
        Some(Writer::new(orders.clone(), Arc::clone(state), true))
    };
    let writers = [writer(0), writer(1)];
    let [out, _] = &states;
    let rest = Rest::new(orders.clone(), Arc::clone(out));
    let (app, style) = (app.to_owned(), style.clone());
    let mut files = Files { app, style, files, routes, states, last: 0, held: Vec::new() };
    let thread = std::thread::Builder::new().name("logs".into());
    // As everywhere: without threads there is no primary.
    drop(thread.spawn(move || files.obey(&given)));
    Ok((writers, rest, LogFiles { orders }))
}

impl Files {
    fn obey(&mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            // As much as there is, together.
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Say(source, mark, text, room) => {
                        self.held.extend(room);
                        self.add(source, mark, &text);
                    }
                    Order::End(_) => {}
                    Order::Finish(told) => {
                        self.write_all();
                        let _ = told.send(());
                    }
                    Order::Reopen(told) => {
                        self.write_all();
                        self.files.iter_mut().for_each(|file| file.sink.reopen());
                        let _ = told.send(self.for_each("opened", Sink::prepare));
                    }
                    Order::Flush(told) => {
                        self.write_all();
                        let emptied = self.for_each("emptied", Sink::flush);
                        let opened = self.for_each("opened", Sink::prepare);
                        let _ = told.send(emptied.and(opened));
                    }
                }
                next = orders.try_recv().ok();
            }
            self.write_all();
        }
    }

    /// Does something with each file. What cannot be done is said, here and to whoever wants it.
    fn for_each(&mut self, what: &str, deed: fn(&mut Sink) -> io::Result<()>) -> Obeyed {
        let mut failed = Vec::new();
        for file in &mut self.files {
            if let Err(error) = deed(&mut file.sink) {
                let path = file.sink.path().display();
                tracing::warn!("{path} cannot be {what}: {error}");
                failed.push(format!("{path} cannot be {what}: {error}"));
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.join("; ")),
        }
    }

    /// Adds lines to what is written next to the files of their stream.
    fn add(&mut self, source: Source, mark: Mark, lines: &[u8]) {
        let Source { worker, slot, pid, stream } = source;
        // Each a little later than the last: so it stays the order in which they were heard.
        let backwards = self.last.saturating_sub(mark.time);
        self.last = if backwards > SET_BACK { mark.time } else { mark.time.max(self.last + 1) };
        let err = u8::from(stream == Stream::Err) * ERR;
        let json = u8::from(self.style.json) * JSON;
        let flags = mark.flags | err | json;
        let record = Record {
            time: self.last,
            worker: worker.0,
            slot: slot.0,
            pid,
            flags,
            ..Record::default()
        };
        let stream = usize::from(stream == Stream::Err);
        let route = self.routes.get(stream).cloned().unwrap_or_default();
        for at in route {
            let mut rest = lines;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(self.fitting(at, rest, record.time));
                rest = later;
                let Some(file) = self.files.get_mut(at) else { break };
                file.add(&self.app, &self.style, record, now);
            }
        }
    }

    /// How much of some lines is added next to what is written to a file; makes room if there is none.
    fn fitting(&mut self, at: usize, lines: &[u8], time: u64) -> usize {
        for _ in 0..2 {
            let Some(file) = self.files.get_mut(at) else { break };
            let room = file.sink.room().saturating_sub(file.text.len());
            let batch = file.text.is_empty() || file.text.len() + lines.len() <= BATCH;
            let fits = fitting(lines, room);
            if batch && fits > 0 {
                return fits;
            }
            self.write(at);
            let Some(file) = self.files.get_mut(at) else { break };
            if fits == 0 && !file.sink.renew(time) {
                break;
            }
        }
        // A single line that is too long for any file; or there is no other file to be had.
        let first = lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1);
        match self.files.get(at).is_some_and(|file| file.sink.room() == 0) {
            true => lines.len(),
            false => first,
        }
    }

    fn write_all(&mut self) {
        for at in 0..self.files.len() {
            self.write(at);
        }
        self.held.clear();
    }

    /// Writes what there is for a file.
    fn write(&mut self, at: usize) {
        // Lines that were lost because this thread stood still are counted by stream.
        let mut waited = 0;
        for (route, state) in self.routes.iter().zip(&self.states) {
            if route.first() == Some(&at) {
                waited += state.lost.swap(0, Ordering::Relaxed);
            }
        }
        let (app, style, last) = (&self.app, &self.style, self.last);
        let Some(file) = self.files.get_mut(at) else { return };
        file.lost += waited;
        if file.text.is_empty() {
            return;
        }
        if file.lost > 0 {
            file.announce(app, style, last);
        }
        let done = file.write();
        for state in &self.states {
            state.steps.fetch_add(1, Ordering::Relaxed);
        }
        file.done(done);
    }
}

/// How many bytes of whole lines fit.
fn fitting(lines: &[u8], room: usize) -> usize {
    match lines.get(..room) {
        None => lines.len(),
        Some(_) if lines.len() == room => room,
        Some(part) => part.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
    }
}

impl File {
    /// Adds lines to what is written next.
    fn add(&mut self, app: &str, style: &Style, record: Record, lines: &[u8]) {
        let begin = self.text.len();
        style.write(app, &record, lines, &mut self.text);
        let len = u32::try_from(self.text.len() - begin).unwrap_or(u32::MAX);
        self.records.push(Record { offset: begin as u64, len, ..record });
        self.lines += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
    }

    /// Says before the next lines how many are missing.
    fn announce(&mut self, app: &str, style: &Style, time: u64) {
        let time = self.records.first().map_or(time, |record| record.time);
        let json = u8::from(style.json) * JSON;
        let record = Record { time, flags: NOTICE | json, ..Record::default() };
        let lost = self.lost;
        let words =
            format!("phalanx: {lost} lines of workers could not be written here and are lost\n");
        let mut text = Vec::new();
        style.write(app, &record, words.as_bytes(), &mut text);
        let length = text.len();
        text.append(&mut self.text);
        self.text = text;
        for record in &mut self.records {
            record.offset += length as u64;
        }
        let len = u32::try_from(length).unwrap_or(u32::MAX);
        self.records.insert(0, Record { len, ..record });
    }

    /// Writes; tries for a moment, unless it was in vain the last time.
    fn write(&mut self) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            let done = self.sink.write(&self.text, &mut self.records);
            let Err(error) = &done else { return done };
            let gone = error.raw_os_error() == Some(Errno::PIPE.raw_os_error());
            if gone || self.failing || begin.elapsed() > PATIENCE {
                return done;
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn done(&mut self, done: io::Result<()>) {
        let path = self.sink.path().display();
        match done {
            Ok(()) => {
                if self.failing {
                    let lost = self.lost;
                    tracing::warn!(lost, "{path} can be written again");
                }
                (self.failing, self.lost) = (false, 0);
            }
            Err(error) => {
                if !self.failing {
                    tracing::error!(
                        "{path} cannot be written, and lines of workers are lost: {error}"
                    );
                }
                self.failing = true;
                self.lost += self.lines;
            }
        }
        self.lines = 0;
        self.text.clear();
        self.records.clear();
        // A flood leaves a lot of room behind.
        self.text.shrink_to(BATCH);
    }
}

/// What was said to the end of no line when this process became another program. That keeps its number; without it, the
/// file might be somebody else's.
pub(super) fn carry(places: &Places) -> Option<PathBuf> {
    let name = format!(".{}.part", std::process::id());
    places.paths().first().map(|path| crate::logs::with(path, &name))
}

/// The time of what is heard now.
pub(super) fn mark(flags: u8) -> Mark {
    Mark { time: now(), flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_that_fit() {
        let of = |room| fitting(b"one\ntwo\n", room);
        assert_eq!([0, 3, 4, 7, 8, 9, usize::MAX].map(of), [0, 0, 4, 4, 8, 8, 8]);
    }
}
