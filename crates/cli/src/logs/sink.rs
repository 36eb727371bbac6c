//! A file that lines are appended to: replaced by a new one when it is too large or too old, opened anew when it was
//! moved or removed, with an index beside it.
//!
//! Files are replaced by rename and never emptied for it, so whoever reads one reads it to its end.

use super::aside;
use super::index::{self, Record};
use super::old::{self, Rules, Tidy};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often it is looked whether the file is still the one at its place, while there is something to write.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How soon it is tried again to replace a file that could not be.
const AGAIN: Duration = Duration::from_secs(10);

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A file of lines.
pub(crate) struct Sink {
    path: PathBuf,
    rules: Rules,
    tidy: Tidy,
    open: Option<Open>,
    looked: Option<Instant>,
    /// It could not be replaced, which was said.
    stays_until: Option<Instant>,
    index_told: bool,
}

struct Open {
    file: File,
    /// Not for what is no file: a pipe, a terminal.
    regular: bool,
    inode: u64,
    size: u64,
    /// When its first line was said.
    since: u64,
    /// Its last line has no end: somebody else's, or ours that could not be taken back.
    unfinished: bool,
    index: Option<index::Writer>,
}

impl Sink {
    pub(crate) fn new(path: PathBuf, rules: Rules, tidy: Tidy) -> Self {
        // What a link names is replaced, and not the link.
        let path = fs::canonicalize(&path).unwrap_or(path);
        Self { path, rules, tidy, open: None, looked: None, stays_until: None, index_told: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, if that can be done.
    pub(crate) fn prepare(&mut self) -> io::Result<()> {
        self.opened().map(drop)
    }

    /// Whether so many bytes more are too many, or the file is too old.
    fn is_due(&self, more: usize, time: u64) -> bool {
        let Some(open) = self.open.as_ref().filter(|open| open.regular && open.size > 0) else {
            return false;
        };
        let Rules { max_size, max_age, .. } = self.rules;
        let age = Duration::from_micros(time.saturating_sub(open.since));
        let due = max_size > 0 && open.size.saturating_add(more as u64) > max_size
            || !max_age.is_zero() && age > max_age;
        due && self.stays_until.is_none_or(|until| until <= Instant::now())
    }

    /// Begins a new file, if there is something in this one. Whether it is a new one now.
    pub(crate) fn renew(&mut self, time: u64) -> bool {
        let old = self.open.as_ref().is_some_and(|open| open.regular && open.size > 0);
        if !old || self.stays_until.is_some_and(|until| until > Instant::now()) {
            return false;
        }
        self.replace(time);
        self.opened().is_ok_and(|open| open.size == 0)
    }

    /// How many bytes more it takes before it is to be replaced.
    pub(crate) fn room(&self) -> usize {
        let size = self.open.as_ref().filter(|open| open.regular).map_or(0, |open| open.size);
        let left = match self.rules.max_size {
            0 => u64::MAX,
            max => max.saturating_sub(size),
        };
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Appends whole lines; the offsets of the records count from the beginning of the text. All of it, or nothing.
    pub(crate) fn write(&mut self, text: &[u8], records: &mut [Record]) -> io::Result<()> {
        self.look();
        let time = records.first().map_or_else(now, |record| record.time);
        self.opened()?;
        if self.is_due(text.len(), time) {
            self.replace(time);
        }
        let open = self.opened()?;
        if open.unfinished {
            // If this fails, the line still has no end.
            open.file.write_all(b"\n")?;
            open.unfinished = false;
        }
        if let Err((error, written)) = write(&open.file, text) {
            open.take_back(text, written);
            return Err(error);
        }
        if let Err(error) = open.note(text.len(), time, records)
            && !self.index_told
        {
            self.index_told = true;
            tracing::warn!("the index of {} cannot be written: {error}", self.path.display());
        }
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut Open> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                self.tidy.begin();
                self.looked = Some(Instant::now());
                Open::at(&self.path, &mut self.index_told)?
            }
        };
        Ok(self.open.insert(open))
    }

    /// Lets go of a file that is not at its place any more.
    fn look(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        let Some(open) = self.open.as_ref().filter(|open| open.regular) else { return };
        let there = fs::metadata(&self.path).ok().map(|about| about.ino());
        if there != Some(open.inode) {
            tracing::info!("{} was moved or removed: opened anew", self.path.display());
            self.reopen();
        }
    }

    /// Opens it anew with the next line.
    pub(crate) fn reopen(&mut self) {
        self.open = None;
    }

    /// Empties it, and removes the old ones.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        flush(&self.path)?;
        // Its index begins anew with it.
        self.reopen();
        Ok(())
    }

    /// Puts the file aside, and begins another one. If that cannot be done, it goes on with the one it has.
    fn replace(&mut self, time: u64) {
        let Some(open) = self.open.as_ref() else { return };
        match aside::replace(&self.path, &open.file, time) {
            Ok(()) => {
                self.open = None;
                self.stays_until = None;
            }
            Err(error) => {
                if self.stays_until.is_none() {
                    let path = self.path.display();
                    tracing::warn!(
                        "{path} cannot be put aside for a new file, and gets longer: {error}"
                    );
                }
                self.stays_until = Some(Instant::now() + AGAIN);
            }
        }
    }
}

/// Writes all of it, or says how much.
fn write(mut file: &File, text: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while written < text.len() {
        match file.write(text.get(written..).unwrap_or_default()) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((error, written)),
        }
    }
    Ok(())
}

impl Open {
    /// Opens a file, and makes its directory if that is missing. That it has no index is said, once.
    fn at(path: &Path, index_told: &mut bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(Path::new("."));
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
                options.open(path)?
            }
            // What can only be written to.
            Err(_) if fs::metadata(path).is_ok_and(|about| !about.is_file()) => {
                OpenOptions::new().append(true).open(path)?
            }
            file => file?,
        };
        let about = file.metadata()?;
        let (regular, size, time) = (about.is_file(), about.len(), now());
        let index = regular.then(|| {
            let index = index::Writer::open(&index::beside(path), about.ino(), size, time);
            index.inspect_err(|error| {
                if !std::mem::replace(index_told, true) {
                    tracing::warn!("{} has no index: {error}", path.display());
                }
            })
        });
        let mut last = [b'\n'];
        if regular && size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        let begun = about.created().or_else(|_| about.modified()).ok();
        let begun = begun.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let begun = begun.and_then(|since| u64::try_from(since.as_micros()).ok());
        Ok(Self {
            file,
            regular,
            inode: about.ino(),
            size,
            since: begun.filter(|_| size > 0).unwrap_or(time),
            unfinished: last != [b'\n'],
            index: index.and_then(Result::ok),
        })
    }

    /// What was written is nothing whole, and goes; what cannot be taken back gets an end.
    fn take_back(&mut self, text: &[u8], written: usize) {
        if written == 0 {
            return;
        }
        let size = self.file.metadata().map_or(0, |about| about.len());
        let before = size.checked_sub(written as u64).filter(|_| self.regular);
        let back = before.is_some_and(|before| self.file.set_len(before).is_ok());
        self.unfinished = !back && text.get(written - 1) != Some(&b'\n');
    }

    /// Writes down whose the last bytes are.
    fn note(&mut self, length: usize, time: u64, records: &mut [Record]) -> io::Result<()> {
        if !self.regular {
            return Ok(());
        }
        // Others may append to it too, or have emptied it.
        let end = self.file.stream_position()?;
        let begin = end.saturating_sub(length as u64);
        let emptied = begin < self.size;
        if emptied || self.size == 0 {
            self.since = time;
        }
        self.size = end;
        let Some(index) = &mut self.index else { return Ok(()) };
        if emptied {
            index.begin(self.inode, time)?;
        }
        for record in &mut *records {
            record.offset += begin;
        }
        index.write(records)
    }
}

/// Empties a log, and removes its old files.
pub(crate) fn flush(path: &Path) -> io::Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    for old in old::list(path) {
        old::remove(&old)?;
    }
    let empty = |path: &Path| match OpenOptions::new().write(true).open(path) {
        Ok(file) if file.metadata()?.is_file() => file.set_len(0),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    empty(path)?;
    index::empty(&index::beside(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const RULES: Rules = Rules {
        max_size: 100,
        max_age: Duration::from_secs(3600),
        keep: 9,
        quota: 0,
        compress: false,
    };

    fn sink(path: &Path) -> Sink {
        Sink::new(path.to_owned(), RULES, Tidy::new(vec![path.to_owned()], RULES))
    }

    fn say(sink: &mut Sink, time: u64, text: &str) {
        let len = u32::try_from(text.len()).expect("short");
        let mut records = [Record { time, len, worker: 1, ..Record::default() }];
        sink.write(text.as_bytes(), &mut records).expect("written");
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn files_are_replaced_by_size_and_age() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("logs/a.log");
        let mut sink = sink(&path);
        let (begin, line) = (now(), "x".repeat(59) + "\n");
        say(&mut sink, begin, &line);
        assert!(old::list(&path).is_empty());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        for n in 1..=3 {
            say(&mut sink, begin + n, &line);
        }
        let files = old::list(&path);
        assert_eq!(files.len(), 3, "{files:?}");
        assert!(files.iter().all(|old| read(&old.path) == line && old.size == 60 + 64));
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o640);
        // Older than an hour.
        say(&mut sink, begin + 3_700_000_000, "new\n");
        assert_eq!((old::list(&path).len(), read(&path).as_str()), (4, "new\n"));
    }

    #[test]
    fn a_file_that_cannot_be_replaced_gets_longer() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        let mut sink = sink(&path);
        // In the way of the new file.
        let draft = old::with(&path, &format!(".{}.new", std::process::id()));
        fs::create_dir(&draft).expect("made");
        let line = "x".repeat(59) + "\n";
        for n in 0..3 {
            say(&mut sink, now() + n, &line);
        }
        assert_eq!(read(&path), line.repeat(3));
        assert!(sink.stays_until.is_some());
        fs::remove_dir(&draft).expect("removed");
        sink.stays_until = Some(Instant::now());
        say(&mut sink, now(), &line);
        assert_eq!((old::list(&path).len(), read(&path)), (1, line));
    }

    #[test]
    fn files_beside_a_log_that_are_not_its_own_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mail");
        let others = [index::beside(&path), old::with(&path, ".new")];
        for other in &others {
            fs::write(other, "mine").expect("written");
        }
        let mut sink = sink(&path);
        for n in 0..3 {
            say(&mut sink, now() + n, &("x".repeat(59) + "\n"));
        }
        assert_eq!(old::list(&path).len(), 2);
        sink.flush().expect("emptied");
        say(&mut sink, now(), "one\n");
        assert_eq!(read(&path), "one\n");
        assert!(sink.index_told && others.iter().all(|other| read(other) == "mine"));
        let there = fs::read_dir(directory.path()).expect("read").flatten();
        assert_eq!(there.count(), 3, "something else is left");
    }

    #[test]
    fn files_that_are_moved_removed_emptied_or_unfinished() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("logs/a.log");
        fs::create_dir(path.parent().expect("one")).expect("made");
        fs::write(&path, "no end").expect("written");
        let mut sink = sink(&path);
        say(&mut sink, 1, "one\n");
        assert_eq!(read(&path), "no end\none\n");
        let aside = directory.path().join("aside");
        fs::rename(&path, &aside).expect("moved");
        say(&mut sink, 2, "two\n");
        assert_eq!(read(&aside), "no end\none\ntwo\n", "not looked at yet");
        sink.looked = None;
        say(&mut sink, 3, "three\n");
        assert_eq!(read(&path), "three\n");
        fs::remove_dir_all(path.parent().expect("one")).expect("removed");
        sink.looked = None;
        say(&mut sink, 4, "four\n");
        assert_eq!(read(&path), "four\n");
        OpenOptions::new().write(true).open(&path).expect("there").set_len(0).expect("emptied");
        say(&mut sink, 5, "5\n");
        assert_eq!(read(&path), "5\n");
        let index = fs::read(index::beside(&path)).expect("there");
        let record = Record::decode(&index[index::SIZE..]).expect("one");
        assert_eq!((index.len(), record.offset, record.time), (64, 0, 5));
        sink.flush().expect("flushed");
        assert_eq!(read(&path), "");
        say(&mut sink, 6, "six\n");
        assert_eq!(read(&path), "six\n");
    }

    #[test]
    fn a_line_that_has_no_end_gets_one_when_that_can_be_written() {
        let full = Path::new("/dev/full");
        let mut sink = sink(full);
        sink.opened().expect("opened").unfinished = true;
        for _ in 0..2 {
            assert!(sink.write(b"one\n", &mut []).is_err(), "written to {}", full.display());
            assert!(sink.opened().expect("opened").unfinished, "the next line is glued to it");
        }
    }
}
