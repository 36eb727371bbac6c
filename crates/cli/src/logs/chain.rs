//! A log as a whole: its old files, oldest first, and the present one, read through and followed.

use super::old::{self, Old};
use super::segment::{Ahead, Line, Segment};
use super::sink::now;
use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A line that no record is about yet is waited with for so long: its record is written after it.
const HOLD: Duration = Duration::from_millis(250);
/// What was changed a longer time ago gets no more records.
const RECENT: u64 = 1_000_000;
/// Looks at a file that is just written to.
const LOOKS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(5);

/// A log at one moment.
pub(super) struct Log {
    path: PathBuf,
    old: Vec<Old>,
    current: Option<Segment>,
}

/// A place in a log: which file, the present one being the last, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    file: usize,
    offset: u64,
}

/// A line that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) time: u64,
    pub(super) place: Place,
}

impl Log {
    /// All of it as it was at one moment: between two looks at the old files no file became one.
    pub(super) fn open(path: &Path) -> Self {
        // What a link names is replaced, and not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut old = old::list(&path);
        for _ in 0..LOOKS {
            let current = Segment::current(&path).ok();
            let after = old::list(&path);
            let newest = |old: &[Old]| old.last().map(|old| old.stamp.clone());
            let same = newest(&old) == newest(&after);
            old = after;
            if same {
                return Self { path, old, current };
            }
        }
        let current = Segment::current(&path).ok();
        Self { path, old, current }
    }

    /// Waits a moment for the records of what was just written.
    pub(super) fn settle(&mut self) {
        let Some(current) = &mut self.current else { return };
        let recent = |path: &Path| {
            let about = fs::metadata(path).ok();
            let changed = about.map_or(0, |about| about.mtime().saturating_mul(1_000_000));
            now().saturating_sub(RECENT) < u64::try_from(changed).unwrap_or_default() + RECENT
        };
        for _ in 0..LOOKS {
            let last = current.size().saturating_sub(1);
            if current.size() == 0 || current.knows(last) || !recent(&self.path) {
                return;
            }
            std::thread::sleep(BETWEEN);
            current.refresh(&self.path);
        }
    }

    /// Behind everything.
    pub(super) fn end(&self) -> Place {
        let offset = self.current.as_ref().map_or(0, Segment::size);
        Place { file: self.old.len(), offset }
    }

    /// Where what was said at a time begins, or later.
    pub(super) fn since(&mut self, time: u64) -> Place {
        // The time in a name is that of the last line in it, or later.
        for (file, old) in self.old.iter().enumerate() {
            if old::time_of(&old.stamp) < time {
                continue;
            }
            let Ok(mut segment) = Segment::old(&old.path) else { continue };
            let offset = segment.since(time);
            if offset < segment.size() {
                return Place { file, offset };
            }
        }
        let offset = self.current.as_mut().map_or(0, |current| current.since(time));
        Place { file: self.old.len(), offset }
    }

    /// The last lines that are accepted, the last one first; none that was said before a time.
    pub(super) fn tail(
        &mut self,
        count: usize,
        since: u64,
        accept: impl Fn(&Line) -> bool,
    ) -> Vec<Mark> {
        let mut marks = Vec::new();
        let mut over = count == 0;
        let mut file = self.old.len();
        let mut look = |segment: &mut Segment, file: usize| {
            let looked = segment.backwards(u64::MAX, |line| {
                if line.time < since {
                    over = true;
                    return false;
                }
                if accept(&line) {
                    let place = Place { file, offset: line.offset };
                    marks.push(Mark { time: line.time, place });
                }
                over = marks.len() >= count;
                !over
            });
            over || looked.is_err()
        };
        if count == 0 || self.current.as_mut().is_some_and(|current| look(current, file)) {
            return marks;
        }
        for old in self.old.iter().rev() {
            file = file.saturating_sub(1);
            // It may be removed by now.
            let Ok(mut segment) = Segment::old(&old.path) else { continue };
            if look(&mut segment, file) {
                break;
            }
        }
        marks
    }

    /// Reads on from a place.
    pub(super) fn from(self, place: Place) -> Cursor {
        let Self { path, old, current } = self;
        let newest = old.last().map(|old| old.stamp.clone());
        let todo: VecDeque<Old> = old.into_iter().skip(place.file).collect();
        let mut cursor = Cursor {
            path,
            todo,
            current,
            reading: None,
            is_old: true,
            newest,
            at: 0,
            ahead: Ahead::default(),
            gone: false,
            held: None,
            next: None,
        };
        cursor.advance();
        cursor.at = place.offset;
        cursor
    }
}

/// Reads a log on, line by line, through all its files.
pub(super) struct Cursor {
    path: PathBuf,
    /// Old files that are still to be read.
    todo: VecDeque<Old>,
    /// The present one, which comes after them.
    current: Option<Segment>,
    reading: Option<Segment>,
    is_old: bool,
    /// The newest old file when the present one was opened.
    newest: Option<String>,
    at: u64,
    ahead: Ahead,
    /// Another file is in the place of the one that is read.
    gone: bool,
    held: Option<Instant>,
    next: Option<Line>,
}

impl Cursor {
    /// The next line; `None`: there is none now. To follow is to wait for the end of a line.
    pub(super) fn peek(&mut self, follow: bool) -> Option<&Line> {
        while self.next.is_none() {
            let segment = self.reading.as_mut()?;
            let found = segment.next(self.at, &mut self.ahead).unwrap_or(None);
            let Some((line, whole)) = found else {
                if self.is_old {
                    self.advance();
                    continue;
                }
                if !self.gone {
                    return None;
                }
                self.change();
                continue;
            };
            if !self.is_old && !self.gone && follow {
                if !whole {
                    return None;
                }
                if segment.knows(line.offset) {
                    self.held = None;
                } else if self.held.get_or_insert_with(Instant::now).elapsed() < HOLD {
                    return None;
                }
            }
            self.at = line.offset + line.text.len() as u64 + u64::from(whole);
            self.next = Some(line);
        }
        self.next.as_ref()
    }

    pub(super) fn take(&mut self) -> Option<Line> {
        self.next.take()
    }

    /// Goes on with the next file.
    fn advance(&mut self) {
        self.ahead.forget();
        self.at = 0;
        while let Some(old) = self.todo.pop_front() {
            // It may be removed by now.
            if let Ok(segment) = Segment::old(&old.path) {
                (self.reading, self.is_old) = (Some(segment), true);
                return;
            }
        }
        (self.reading, self.is_old) = (self.current.take(), false);
    }

    /// Looks what is new: more in the file, or another one in its place.
    pub(super) fn refresh(&mut self) {
        if self.is_old || self.gone {
            return;
        }
        let there = fs::metadata(&self.path).ok().map(|about| about.ino());
        let Some(segment) = &mut self.reading else {
            if there.is_some() {
                self.change();
            }
            return;
        };
        // It was finished before another one took its place; so this comes after the look at the place.
        if segment.refresh(&self.path) {
            self.at = 0;
            self.ahead.forget();
        }
        self.gone = there.is_some() && there != segment.inode();
    }

    /// The file that was read is an old one now, or gone: what came after it is next.
    fn change(&mut self) {
        let Log { old, current, .. } = Log::open(&self.path);
        let newest = self.newest.take();
        let mut later: VecDeque<Old> =
            old.iter().filter(|old| Some(&old.stamp) > newest.as_ref()).cloned().collect();
        self.newest = old.last().map(|old| old.stamp.clone()).or(newest);
        if let (Some(read), Some(first)) = (&self.reading, later.front())
            && Segment::old(&first.path).is_ok_and(|first| is_same(read, &first))
        {
            later.pop_front();
        }
        self.todo = later;
        self.current = current;
        self.gone = false;
        self.advance();
    }
}

/// Whether they are one file: by inode, and when it was compressed, by its index or its size.
fn is_same(read: &Segment, old: &Segment) -> bool {
    match (old.inode(), read.stamp(), old.stamp()) {
        (Some(inode), ..) => read.inode() == Some(inode),
        (None, Some(read), Some(old)) => read == old,
        _ => read.size() == old.size(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::{self, Record};
    use super::super::old::{Rules, Tidy};
    use super::super::sink::Sink;
    use super::*;

    fn sink(path: &Path, compress: bool) -> Sink {
        let rules = Rules { max_size: 100, max_age: Duration::ZERO, keep: 99, quota: 0, compress };
        Sink::new(path.to_owned(), rules, Tidy::new(vec![path.to_owned()], rules))
    }

    /// Lines of 30 bytes: three in a file.
    fn say(sink: &mut Sink, n: u64) {
        let text = format!("line {n:<24}\n");
        let len = u32::try_from(text.len()).expect("short");
        let time = 1_000_000 * (1000 + n);
        sink.write(text.as_bytes(), &mut [Record { time, len, ..Record::default() }])
            .expect("written");
    }

    fn number(line: &Line) -> u64 {
        let text = String::from_utf8_lossy(&line.text);
        text.trim().strip_prefix("line ").expect("a line").parse().expect("a number")
    }

    fn read(cursor: &mut Cursor) -> Vec<u64> {
        let mut all = Vec::new();
        while cursor.peek(true).is_some() {
            all.extend(cursor.take().map(|line| number(&line)));
        }
        all
    }

    #[test]
    fn what_is_in_several_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        let mut sink = sink(&path, false);
        (0..10).for_each(|n| say(&mut sink, n));
        let open = || Log::open(&path);
        assert_eq!(open().old.len(), 3);
        let since = |n| {
            let mut log = open();
            let place = log.since(1_000_000 * (1000 + n));
            read(&mut log.from(place))
        };
        for n in 0..=10 {
            assert_eq!(since(n), (n..10).collect::<Vec<_>>(), "since {n}");
        }
        let tail = |count: usize, odd: bool| {
            let mut log = open();
            let marks = log.tail(count, 0, |line| !odd || number(line) % 2 == 1);
            let place = marks.last().map_or(log.end(), |mark| mark.place);
            (marks.len(), read(&mut log.from(place)).first().copied())
        };
        assert_eq!(tail(1, false), (1, Some(9)));
        assert_eq!(tail(5, false), (5, Some(5)));
        assert_eq!(tail(4, true), (4, Some(3)));
        assert_eq!(tail(99, false), (10, Some(0)));
        assert_eq!(tail(0, false), (0, None));
        let marks = open().tail(99, 1_000_000 * 1004, |_| true);
        assert_eq!(marks.len(), 6);
    }

    #[test]
    fn following_through_replaced_compressed_emptied_and_removed_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        let mut cursor = {
            let log = Log::open(&path);
            let end = log.end();
            log.from(end)
        };
        assert!(read(&mut cursor).is_empty());
        let mut sink = sink(&path, false);
        let mut next = 0;
        let mut step = |sink: &mut Sink, cursor: &mut Cursor, count: u64| {
            (next..next + count).for_each(|n| say(sink, n));
            cursor.refresh();
            let seen = read(cursor);
            assert_eq!(seen, (next..next + count).collect::<Vec<_>>());
            next += count;
        };
        // Up to the end of a file, over it, and over several.
        for count in [1, 2, 1, 3, 10, 0, 9] {
            step(&mut sink, &mut cursor, count);
        }
        // By now compressed, with what was not read yet.
        (next..next + 7).for_each(|n| say(&mut sink, n));
        for old in old::list(&path) {
            let text = fs::read(&old.path).expect("read");
            let mut gz = flate2::write::GzEncoder::new(
                fs::File::create(old::compressed(&old.path)).expect("made"),
                flate2::Compression::fast(),
            );
            std::io::Write::write_all(&mut gz, &text).expect("written");
            gz.finish().expect("written");
            fs::remove_file(&old.path).expect("removed");
        }
        cursor.refresh();
        assert_eq!(read(&mut cursor), (next..next + 7).collect::<Vec<_>>());
        next += 7;
        let mut step = |sink: &mut Sink, cursor: &mut Cursor, count: u64| {
            (next..next + count).for_each(|n| say(sink, n));
            cursor.refresh();
            assert_eq!(read(cursor), (next..next + count).collect::<Vec<_>>());
            next += count;
        };
        sink.flush().expect("emptied");
        step(&mut sink, &mut cursor, 2);
        fs::remove_file(&path).expect("removed");
        fs::remove_file(index::beside(&path)).expect("removed");
        sink.reopen();
        step(&mut sink, &mut cursor, 2);
    }

    #[test]
    fn a_line_without_an_end_is_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        fs::write(&path, "line 1\nline 2").expect("written");
        let from_begin = || Log::open(&path).from(Place { file: 0, offset: 0 });
        let mut cursor = from_begin();
        assert_eq!(read(&mut cursor), [1]);
        fs::write(&path, "line 1\nline 22\n").expect("written");
        cursor.refresh();
        assert_eq!(read(&mut cursor), [22]);
        fs::write(&path, "line 1\nline 2").expect("written");
        let mut cursor = from_begin();
        let mut all = Vec::new();
        while cursor.peek(false).is_some() {
            all.extend(cursor.take().map(|line| number(&line)));
        }
        assert_eq!(all, [1, 2]);
    }
}
