//! Reading one log file, with its index: lines forwards and backwards, and whose they are.
//!
//! Both files may be anything: emptied, cut off, edited, gone. A line that no record is about is nobody's, and was said
//! at the time of a record near it, or else when the file was changed.

use super::index::{self, Head, Record, SIZE};
use super::old;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Bytes that are read at a time.
const BLOCK: usize = 64 << 10;
/// Records that are read at a time.
const RECORDS: u64 = 512;
/// A line without an end is not longer than that here.
const LONGEST: usize = 64 << 20;

/// What can be read anywhere.
#[derive(Debug)]
pub(super) enum Data {
    File(File),
    Memory(Vec<u8>),
}

impl Data {
    /// Reads as much as there is, up to the buffer's size.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => {
                let mut got = 0;
                while got < buffer.len() {
                    let rest = buffer.get_mut(got..).unwrap_or_default();
                    match file.read_at(rest, offset + got as u64) {
                        Ok(0) => break,
                        Ok(n) => got += n,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(got)
            }
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let there = bytes.get(from..).unwrap_or_default();
                let n = there.len().min(buffer.len());
                buffer.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
                Ok(n)
            }
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.metadata().map_or(0, |about| about.len()),
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }
}

/// A file, or what is in a compressed one.
fn open(path: &Path) -> io::Result<Data> {
    match File::open(path) {
        Ok(file) if file.metadata()?.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(file) => Ok(Data::File(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            old::read_compressed(path).map(Data::Memory)
        }
        Err(error) => Err(error),
    }
}

/// The records of an index, read as they are needed.
#[derive(Debug)]
struct Index {
    data: Data,
    head: Head,
    count: u64,
    first: u64,
    block: Vec<u8>,
}

impl Index {
    fn open(log: &Path, inode: Option<u64>) -> Option<Self> {
        let data = open(&index::beside(log)).ok()?;
        let mut bytes = [0; SIZE];
        data.read(0, &mut bytes).ok()?;
        let head = Head::decode(&bytes)?;
        // That of another file, for a moment, while files are replaced.
        let own = inode.is_none_or(|inode| inode == head.inode);
        let mut index = Self { data, head, count: 0, first: 0, block: Vec::new() };
        index.refresh();
        own.then_some(index)
    }

    fn refresh(&mut self) {
        self.count = (self.data.size() / SIZE as u64).saturating_sub(1);
        // The last block may have been read when it was shorter.
        self.block.clear();
    }

    fn get(&mut self, at: u64) -> Option<Record> {
        if at >= self.count {
            return None;
        }
        let inside = |first: u64, block: &[u8]| {
            let from = usize::try_from(at.checked_sub(first)?).ok()?.checked_mul(SIZE)?;
            block.get(from..from.checked_add(SIZE)?).and_then(Record::decode)
        };
        if at < self.first || at - self.first >= (self.block.len() / SIZE) as u64 {
            // Whoever goes through them goes either way.
            let first = at.saturating_sub(RECORDS / 2);
            let size = usize::try_from(RECORDS).unwrap_or_default() * SIZE;
            self.block.resize(size, 0);
            let got = self.data.read((first + 1) * SIZE as u64, &mut self.block).unwrap_or(0);
            self.block.truncate(got);
            self.first = first;
        }
        inside(self.first, &self.block)
    }

    /// How many records come before the first that is not so.
    fn before(&mut self, is: impl Fn(&Record) -> bool) -> u64 {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            // What is no record is taken as one of the end, which is where they are.
            if self.get(middle).is_some_and(|record| is(&record)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The record of what is at an offset, and else those around it.
    fn find(&mut self, offset: u64, hint: &mut u64) -> Found {
        let begins = |record: &Record| record.offset <= offset;
        // Mostly that of the line before, or the next one.
        for at in [*hint, *hint + 1] {
            if let (Some(this), next) = (self.get(at), self.get(at + 1))
                && begins(&this)
                && next.is_none_or(|next| !begins(&next))
            {
                *hint = at;
                return Found::of(this, next, offset);
            }
        }
        let count = self.before(begins);
        let next = self.get(count);
        let Some(at) = count.checked_sub(1) else { return Found { this: None, near: next } };
        *hint = at;
        match self.get(at) {
            Some(this) => Found::of(this, next, offset),
            None => Found { this: None, near: next },
        }
    }

    /// Where the last record ends.
    fn end(&mut self) -> u64 {
        self.count.checked_sub(1).and_then(|last| self.get(last)).map_or(0, |last| last.end())
    }
}

struct Found {
    this: Option<Record>,
    near: Option<Record>,
}

impl Found {
    fn of(this: Record, next: Option<Record>, offset: u64) -> Self {
        Self { this: (offset < this.end()).then_some(this), near: Some(this).or(next) }
    }
}

/// A line of a file, without its end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// Where it begins.
    pub(super) offset: u64,
    pub(super) time: u64,
    pub(super) record: Option<Record>,
    pub(super) text: Vec<u8>,
}

/// A file of lines.
#[derive(Debug)]
pub(super) struct Segment {
    data: Data,
    index: Option<Index>,
    hint: u64,
    size: u64,
    modified: u64,
    /// `None`: it is in memory.
    inode: Option<u64>,
}

impl Segment {
    /// An old file, which stays what it is.
    pub(super) fn old(path: &Path) -> io::Result<Self> {
        Self::of(path, open(path)?, false)
    }

    /// The present file.
    pub(super) fn current(path: &Path) -> io::Result<Self> {
        // To open a pipe would be to wait for somebody, and to take what is in it.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is no file, and cannot be read again"));
        }
        Self::of(path, Data::File(File::open(path)?), true)
    }

    fn of(path: &Path, data: Data, current: bool) -> io::Result<Self> {
        let (inode, modified) = match &data {
            Data::File(file) => {
                let about = file.metadata()?;
                let us = about.mtime().saturating_mul(1_000_000) + about.mtime_nsec() / 1000;
                (Some(about.ino()), u64::try_from(us).unwrap_or_default())
            }
            Data::Memory(_) => (None, old::time_in(path)),
        };
        let index = Index::open(path, inode.filter(|_| current));
        let size = data.size();
        Ok(Self { data, index, hint: 0, size, modified, inode })
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) const fn inode(&self) -> Option<u64> {
        self.inode
    }

    /// By which its index is known, also under another name.
    pub(super) fn stamp(&self) -> Option<u64> {
        self.index.as_ref().map(|index| index.head.stamp)
    }

    /// What there is now. Whether the file was emptied since.
    pub(super) fn refresh(&mut self, path: &Path) -> bool {
        let before = (self.size, self.stamp());
        self.size = self.data.size();
        if let Data::File(file) = &self.data
            && let Ok(about) = file.metadata()
        {
            let us = about.mtime().saturating_mul(1_000_000) + about.mtime_nsec() / 1000;
            self.modified = u64::try_from(us).unwrap_or_default();
        }
        let mut bytes = [0; SIZE];
        let same = self.index.as_ref().is_some_and(|index| {
            let read = index.data.read(0, &mut bytes);
            read.is_ok() && Head::decode(&bytes) == Some(index.head)
        });
        if same {
            self.index.iter_mut().for_each(Index::refresh);
        } else {
            self.index = Index::open(path, self.inode);
        }
        let begun = before.1.is_some() && self.stamp().is_some() && before.1 != self.stamp();
        self.size < before.0 || begun
    }

    /// Whether the index tells of a place, or nobody will.
    pub(super) fn knows(&mut self, offset: u64) -> bool {
        self.index.as_mut().is_none_or(|index| offset < index.end())
    }

    /// Where the first line is that was said at a time, or later.
    pub(super) fn since(&mut self, time: u64) -> u64 {
        let (size, modified) = (self.size, self.modified);
        let Some(index) = self.index.as_mut().filter(|index| index.count > 0) else {
            return if modified < time { size } else { 0 };
        };
        let at = index.before(|record| record.time < time);
        match index.get(at) {
            // What is before the first record is as old as the file.
            Some(record) => record.offset.min(size),
            None => index.end().min(size),
        }
    }

    fn line(&mut self, offset: u64, text: &[u8]) -> Line {
        let hint = &mut self.hint;
        let found = self.index.as_mut().map(|index| index.find(offset, hint));
        let (record, near) = found.map_or((None, None), |found| (found.this, found.near));
        let time = record.or(near).map_or(self.modified, |record| record.time);
        Line { offset, time, record, text: text.to_vec() }
    }

    /// The line that begins at an offset, and whether it has an end; `None`: there is none.
    pub(super) fn next(
        &mut self,
        offset: u64,
        ahead: &mut Ahead,
    ) -> io::Result<Option<(Line, bool)>> {
        loop {
            let there = ahead.at(offset);
            if let Some(length) = there.iter().position(|byte| *byte == b'\n') {
                let text = there.get(..length).unwrap_or_default().to_vec();
                return Ok(Some((self.line(offset, &text), true)));
            }
            let known = there.len();
            let more = ahead.read(&self.data, offset, self.size)?;
            if !more || known > LONGEST {
                let text = ahead.at(offset).to_vec();
                return Ok((!text.is_empty()).then(|| (self.line(offset, &text), false)));
            }
        }
    }

    /// Calls with each line before an offset, the last one first, until it is told to stop.
    pub(super) fn backwards(
        &mut self,
        before: u64,
        mut with: impl FnMut(Line) -> bool,
    ) -> io::Result<()> {
        let mut from = before.min(self.size);
        let mut rest: Vec<u8> = Vec::new();
        while from > 0 {
            let size = usize::try_from(from).unwrap_or(BLOCK).min(BLOCK);
            from -= size as u64;
            let mut block = vec![0; size];
            let got = self.data.read(from, &mut block)?;
            block.truncate(got);
            block.append(&mut rest);
            let mut end = block.len();
            // A line begins behind the end of the one before.
            while let Some(body) = end.checked_sub(1).and_then(|end| block.get(..end)) {
                let Some(feed) = body.iter().rposition(|byte| *byte == b'\n') else { break };
                let text = block.get(feed + 1..end).unwrap_or_default();
                let text = text.strip_suffix(b"\n").unwrap_or(text);
                let line = self.line(from + feed as u64 + 1, text);
                if !with(line) {
                    return Ok(());
                }
                end = feed + 1;
            }
            block.truncate(end);
            rest = block;
        }
        if !rest.is_empty() {
            let text = rest.strip_suffix(b"\n").unwrap_or(&rest);
            let line = self.line(0, text);
            with(line);
        }
        Ok(())
    }
}

/// What was read ahead of a file.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    from: u64,
    bytes: Vec<u8>,
}

impl Ahead {
    /// What is known from an offset on.
    fn at(&self, offset: u64) -> &[u8] {
        let skip = offset.checked_sub(self.from).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.bytes.get(skip..)).unwrap_or_default()
    }

    /// Reads more behind it; whether there was any.
    fn read(&mut self, data: &Data, offset: u64, size: u64) -> io::Result<bool> {
        let known = self.at(offset).to_vec();
        let from = offset + known.len() as u64;
        let left = usize::try_from(size.saturating_sub(from)).unwrap_or(BLOCK);
        (self.from, self.bytes) = (offset, known);
        let before = self.bytes.len();
        self.bytes.resize(before + left.min(BLOCK), 0);
        let got = data.read(from, self.bytes.get_mut(before..).unwrap_or_default())?;
        self.bytes.truncate(before + got);
        Ok(got > 0)
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// A file, and an index of it: texts with their times.
    fn file(said: &[(u64, &str)]) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        let mut file = File::create(&path).expect("made");
        let inode = file.metadata().expect("there").ino();
        let mut writer = index::Writer::open(&index::beside(&path), inode, 0, 1).expect("an index");
        let mut offset = 0;
        for (time, text) in said {
            file.write_all(text.as_bytes()).expect("written");
            let len = u32::try_from(text.len()).expect("short");
            let slot = u32::try_from(*time).expect("small");
            let record = Record { offset, time: *time, len, slot, ..Record::default() };
            writer.write(&[record]).expect("written");
            offset += u64::from(len);
        }
        (directory, path)
    }

    fn forwards(path: &Path, mut offset: u64) -> Vec<(String, u64, Option<u32>)> {
        let mut segment = Segment::current(path).expect("opened");
        let (mut ahead, mut all) = (Ahead::default(), Vec::new());
        while let Some((line, whole)) = segment.next(offset, &mut ahead).expect("read") {
            offset += line.text.len() as u64 + u64::from(whole);
            let text = String::from_utf8_lossy(&line.text).into_owned();
            all.push((text, line.time, line.record.map(|record| record.slot)));
        }
        all
    }

    fn backwards(path: &Path) -> Vec<(String, u64, Option<u32>)> {
        let mut segment = Segment::current(path).expect("opened");
        let mut all = Vec::new();
        let all_of_it = segment.backwards(u64::MAX, |line| {
            let text = String::from_utf8_lossy(&line.text).into_owned();
            all.push((text, line.time, line.record.map(|record| record.slot)));
            true
        });
        all_of_it.expect("read");
        all.reverse();
        all
    }

    fn lines(of: &[(&str, u64, Option<u32>)]) -> Vec<(String, u64, Option<u32>)> {
        of.iter().map(|(text, time, slot)| ((*text).to_owned(), *time, *slot)).collect()
    }

    #[test]
    fn lines_and_whose_they_are() {
        let (_directory, path) = file(&[(5, "a\nb\n"), (7, "\nc\n"), (9, "d\n")]);
        let all = lines(&[
            ("a", 5, Some(5)),
            ("b", 5, Some(5)),
            ("", 7, Some(7)),
            ("c", 7, Some(7)),
            ("d", 9, Some(9)),
        ]);
        assert_eq!(forwards(&path, 0), all);
        assert_eq!(backwards(&path), all);
        let mut segment = Segment::current(&path).expect("opened");
        for (time, offset) in [(0, 0), (5, 0), (6, 4), (7, 4), (9, 7), (10, 9)] {
            assert_eq!(segment.since(time), offset, "{time}");
        }
    }

    #[test]
    fn an_index_that_is_not_the_files() {
        let said = [(5, "aaa\n"), (7, "bbb\n"), (9, "ccc\n")];
        let (_directory, path) = file(&said);
        let index = index::beside(&path);
        let whole = std::fs::read(&index).expect("there");
        let slots = |path: &Path| {
            let all = forwards(path, 0);
            assert_eq!(backwards(path), all);
            all.iter().map(|line| line.2).collect::<Vec<_>>()
        };
        // Too short, and half a record.
        std::fs::write(&index, &whole[..2 * SIZE + 7]).expect("written");
        assert_eq!(slots(&path), [Some(5), None, None]);
        // Something in the middle of it, of which what follows is not found either.
        let mut broken = whole.clone();
        broken[2 * SIZE] ^= 1;
        std::fs::write(&index, &broken).expect("written");
        assert_eq!(slots(&path)[0], Some(5));
        // No index at all, or another file's.
        for bytes in [&b""[..], &[0xff; 100]] {
            std::fs::write(&index, bytes).expect("written");
            assert_eq!(slots(&path), [None; 3]);
        }
        std::fs::write(&index, &whole).expect("written");
        let text = std::fs::read(&path).expect("there");
        std::fs::remove_file(&path).expect("removed");
        let other = path.with_extension("other");
        std::fs::write(&other, "").expect("so that it is another inode");
        std::fs::write(&path, &text).expect("written");
        let inode = |path: &Path| std::fs::metadata(path).expect("there").ino();
        let own = Head::decode(&whole).expect("a head").inode == inode(&path);
        assert_eq!(slots(&path)[2].is_some(), own);
    }

    #[test]
    fn files_that_were_cut_or_edited() {
        let (_directory, path) = file(&[(5, "aaa\n"), (7, "bbb\n"), (9, "ccc\n")]);
        let change = || OpenOptions::new().write(true).open(&path).expect("opened");
        change().set_len(6).expect("cut off");
        assert_eq!(forwards(&path, 0), lines(&[("aaa", 5, Some(5)), ("bb", 7, Some(7))]));
        assert_eq!(backwards(&path), forwards(&path, 0));
        change().set_len(20).expect("longer");
        assert_eq!(forwards(&path, 0).len(), 2);
        let mut segment = Segment::current(&path).expect("opened");
        assert!(segment.knows(11) && !segment.knows(12));
        change().set_len(0).expect("emptied");
        assert!(segment.refresh(&path));
        assert!(!segment.refresh(&path));
        assert!(forwards(&path, 0).is_empty());
    }

    #[test]
    fn long_lines_and_many() {
        let long = "x".repeat(3 * BLOCK) + "\n";
        let many: Vec<String> = (0..2000).map(|n| format!("line {n}\n")).collect();
        let mut said = vec![(1, long.as_str())];
        said.extend(many.iter().zip(2..).map(|(text, time)| (time, text.as_str())));
        said.push((9999, long.as_str()));
        let (_directory, path) = file(&said);
        let all = forwards(&path, 0);
        assert_eq!(all.len(), 2002);
        assert!(all.iter().zip(&said).all(|(line, (time, text))| {
            line.0 == text.trim_end() && line.1 == *time && line.2.map(u64::from) == Some(*time)
        }));
        assert_eq!(backwards(&path), all);
    }
}
