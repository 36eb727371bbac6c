//! The log of a primary in the background: what it says itself goes to its standard error, which is a file. That file is
//! bounded: the directory it is in is in memory, and what else is there has to be written.
//!
//! It is not replaced as other logs are: its keeper writes to it too. It is copied, and emptied.

use super::old;
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags, fstat, ftruncate};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// It is put aside when it is larger; so is what is put aside.
const LARGEST: u64 = 4 << 20;

/// The file that this process's streams are.
static OWN: OnceLock<PathBuf> = OnceLock::new();
/// Either stream may be the first.
static CUTTING: Mutex<()> = Mutex::new(());

/// From now on this file is bounded where this process writes to it.
pub(crate) fn bound(log: PathBuf) {
    let _ = OWN.set(log);
}

/// Where the last one is.
fn aside(log: &Path) -> PathBuf {
    old::with(log, ".1")
}

/// A writer to one of this process's streams.
pub(crate) struct Bounded<W, F> {
    to: W,
    /// The stream itself.
    stream: F,
    log: Option<PathBuf>,
    largest: u64,
}

pub(crate) fn bounded<W: Write, F: AsFd>(to: W, stream: F) -> Bounded<W, F> {
    Bounded { to, stream, log: OWN.get().cloned(), largest: LARGEST }
}

impl<W: Write, F: AsFd> Write for Bounded<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes);
        if let Some(log) = &self.log {
            cut_stream(&self.stream, log, self.largest);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Puts aside what a stream has written, if it is too much. Of a file that was moved, nothing: it is somebody's.
fn cut_stream(stream: &impl AsFd, log: &Path, largest: u64) {
    let large = || {
        let about = fstat(stream).ok()?;
        let regular = FileType::from_raw_mode(about.st_mode) == FileType::RegularFile;
        (regular && u64::try_from(about.st_size).is_ok_and(|size| size > largest)).then_some(about)
    };
    if large().is_none() {
        return;
    }
    let _one = CUTTING.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(about) = large() else { return };
    if about.st_nlink == 0 {
        let _ = ftruncate(stream, 0);
    } else if let Ok(file) = open(log)
        && fstat(&file).is_ok_and(|own| (own.st_dev, own.st_ino) == (about.st_dev, about.st_ino))
    {
        let _ = put_aside(file, log, largest);
    }
}

fn open(log: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.read(true).write(true).custom_flags(flags.bits().cast_signed()).open(log)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// Puts a primary's log aside before the next one begins to write to it, if it is too large.
pub(crate) fn cut(log: &Path) {
    if let Ok(file) = open(log)
        && file.metadata().is_ok_and(|about| about.len() > LARGEST)
    {
        // Else it is longer; nothing else depends on it.
        let _ = put_aside(file, log, LARGEST);
    }
}

/// Keeps the end of it under another name, if there is room for that; empties it in any case.
fn put_aside(mut file: File, log: &Path, largest: u64) -> io::Result<()> {
    let kept = keep(&mut file, log, largest);
    file.set_len(0).and(kept)
}

fn keep(file: &mut File, log: &Path, largest: u64) -> io::Result<()> {
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(largest)))?;
    let (draft, mut to) = old::draft(&aside(log))?;
    let copied = io::copy(&mut file.take(largest), &mut to);
    let done = copied.and_then(|_| fs::rename(&draft, aside(log)));
    if done.is_err() {
        let _ = fs::remove_file(&draft);
    }
    done
}

/// Empties a primary's log, and removes the last one.
pub(crate) fn empty(log: &Path) -> io::Result<()> {
    match fs::remove_file(aside(log)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => file?.set_len(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(path: &Path) -> File {
        OpenOptions::new().append(true).create(true).open(path).expect("opened")
    }

    fn sizes(log: &Path) -> [Option<u64>; 2] {
        [log, &aside(log)].map(|path| fs::metadata(path).ok().map(|about| about.len()))
    }

    #[test]
    fn a_log_is_put_aside_and_goes_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("primary.log");
        let mut writer = Bounded {
            to: append(&log),
            stream: append(&log),
            log: Some(log.clone()),
            largest: 100,
        };
        let mut say = |n: u32| writer.write_all(format!("{n:<29}\n").as_bytes()).expect("written");
        (0..3).for_each(&mut say);
        assert_eq!(sizes(&log), [Some(90), None]);
        say(3);
        assert_eq!(sizes(&log), [Some(0), Some(100)]);
        (4..6).for_each(&mut say);
        assert_eq!(sizes(&log), [Some(60), Some(100)]);
        let text = fs::read_to_string(aside(&log)).expect("read");
        assert!(text.ends_with(&format!("{:<29}\n", 3)), "{text:?}");
        empty(&log).expect("emptied");
        assert_eq!(sizes(&log), [Some(0), None]);
        // One that was moved is somebody's; one that was removed goes nowhere.
        let moved = directory.path().join("moved");
        fs::rename(&log, &moved).expect("moved");
        (0..9).for_each(&mut say);
        assert_eq!((sizes(&moved)[0], sizes(&log)), (Some(270), [None, None]));
        fs::remove_file(&moved).expect("removed");
        say(9);
        let size = writer.stream.metadata().expect("open").len();
        assert_eq!((size, sizes(&log)), (0, [None, None]));
    }

    #[test]
    fn one_that_is_too_large_at_the_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("primary.log");
        cut(&log);
        fs::write(&log, "x").expect("written");
        cut(&log);
        assert_eq!(sizes(&log), [Some(1), None]);
        append(&log).set_len(3 * LARGEST).expect("longer");
        cut(&log);
        assert_eq!(sizes(&log), [Some(0), Some(LARGEST)]);
    }
}
