//! The index beside a log file: whose lines are where, and when they were said. Records of one size, so that a time
//! or a place is found by halving.
//!
//! A file is readable without it: then its lines are nobody's.

use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a record, and of the head before them.
pub(crate) const SIZE: usize = 32;
const MAGIC: [u8; 7] = *b"phxlog1";
/// So that a record of zeroes is none.
const SALT: u8 = 0x5a;

/// Said on standard error.
pub(crate) const ERR: u8 = 1;
/// The line goes on in the worker's next one.
pub(crate) const CUT: u8 = 2;
/// The line began in the worker's last one.
pub(crate) const CONTINUED: u8 = 4;
/// Said by the primary itself, about lines that are missing.
pub(crate) const NOTICE: u8 = 8;
/// What is in the file is JSON.
pub(crate) const JSON: u8 = 16;

/// Lines that one worker said at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where they begin in the file.
    pub(crate) offset: u64,
    /// Microseconds since 1970.
    pub(crate) time: u64,
    /// Bytes.
    pub(crate) len: u32,
    pub(crate) worker: u32,
    pub(crate) pid: u32,
    pub(crate) slot: u32,
    pub(crate) flags: u8,
}

/// What an index says of its file: which it is, and since when the index counts from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) inode: u64,
    /// Microseconds since 1970; it tells this index from any other.
    pub(crate) stamp: u64,
}

fn check(bytes: &[u8]) -> u8 {
    bytes.iter().fold(SALT, |sum, byte| sum.rotate_left(1) ^ byte)
}

/// Numbers, one after the other.
fn number(bytes: &[u8], from: usize, size: usize) -> u64 {
    let bytes = bytes.get(from..from + size).unwrap_or_default();
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn small(bytes: &[u8], from: usize, size: usize) -> u32 {
    u32::try_from(number(bytes, from, size)).unwrap_or_default()
}

impl Record {
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        let from = to.len();
        to.extend_from_slice(&self.offset.to_le_bytes());
        to.extend_from_slice(&self.time.to_le_bytes());
        for number in [self.len, self.worker, self.pid] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        // There are 512 slots.
        to.extend_from_slice(&u16::try_from(self.slot).unwrap_or(u16::MAX).to_le_bytes());
        to.push(self.flags);
        to.push(check(to.get(from..).unwrap_or_default()));
    }

    /// The record, if this is a whole one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (sum, rest) = bytes.get(..SIZE)?.split_last()?;
        (check(rest) == *sum).then(|| Self {
            offset: number(bytes, 0, 8),
            time: number(bytes, 8, 8),
            len: small(bytes, 16, 4),
            worker: small(bytes, 20, 4),
            pid: small(bytes, 24, 4),
            slot: small(bytes, 28, 2),
            flags: bytes.get(30).copied().unwrap_or_default(),
        })
    }

    /// Where they end.
    pub(crate) const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len as u64)
    }
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(0);
        bytes.extend_from_slice(&self.inode.to_le_bytes());
        bytes.extend_from_slice(&self.stamp.to_le_bytes());
        bytes.resize(SIZE - 1, 0);
        bytes.push(check(&bytes));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (sum, rest) = bytes.get(..SIZE)?.split_last()?;
        let known = rest.starts_with(&MAGIC) && check(rest) == *sum;
        known.then(|| Self { inode: number(bytes, 8, 8), stamp: number(bytes, 16, 8) })
    }
}

/// The index of a file.
pub(crate) fn beside(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".idx");
    name.into()
}

/// Opens a file that is an index as far as its beginning tells, or has nothing in it. Anything else with that name is
/// somebody's own, and so is what a link names.
fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let foreign =
        |what: &str| io::Error::other(format!("{} is {what}, and stays as it is", path.display()));
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match options.read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(foreign("a link"));
        }
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(foreign("no regular file"));
    }
    let mut bytes = [0; MAGIC.len()];
    let length = file.read_at(&mut bytes, 0)?;
    match bytes.get(..length).is_some_and(|bytes| MAGIC.starts_with(bytes)) {
        true => Ok(file),
        false => Err(foreign("no index of a log")),
    }
}

/// Whether a file is an index.
pub(crate) fn is_own(path: &Path) -> bool {
    open_own(path, &mut OpenOptions::new()).is_ok()
}

/// Empties an index, if there is one.
pub(crate) fn empty(path: &Path) -> io::Result<()> {
    match is_own(path) {
        true => open_own(path, OpenOptions::new().write(true))?.set_len(0),
        false => Ok(()),
    }
}

/// The writing side. It fails for itself: lines are written with or without it.
pub(crate) struct Writer {
    file: File,
    head: Head,
    text: Vec<u8>,
}

impl Writer {
    /// The index of that file, which is to be continued; or a new one, if it is about another file.
    pub(crate) fn open(path: &Path, inode: u64, size: u64, now: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = open_own(path, options.append(true).create(true).mode(0o600))?;
        let mut bytes = [0; SIZE];
        let known = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| Head::decode(&bytes));
        let length = file.metadata()?.len();
        let whole = length - length % SIZE as u64;
        let last = whole.checked_sub(SIZE as u64).filter(|at| *at > 0).and_then(|at| {
            file.read_exact_at(&mut bytes, at).ok().and_then(|()| Record::decode(&bytes))
        });
        let mut writer = Self { file, head: Head { inode, stamp: 0 }, text: Vec::new() };
        match known {
            // What was half written when its writer was killed would put all that follows in the wrong place.
            Some(head) if head.inode == inode && last.is_none_or(|last| last.end() <= size) => {
                writer.head = head;
                writer.file.set_len(whole)?;
            }
            _ => writer.begin(inode, now)?,
        }
        Ok(writer)
    }

    /// The file begins anew, or is another one.
    pub(crate) fn begin(&mut self, inode: u64, now: u64) -> io::Result<()> {
        // Never the same one twice.
        self.head = Head { inode, stamp: now.max(self.head.stamp + 1) };
        self.file.set_len(0)?;
        self.file.write_all(&self.head.encode())
    }

    /// Appends records. If that fails, some of them may be there, each as a whole.
    pub(crate) fn write(&mut self, records: &[Record]) -> io::Result<()> {
        self.text.clear();
        for record in records {
            record.encode(&mut self.text);
        }
        let written = self.file.write_all(&self.text);
        if written.is_err()
            && let Ok(about) = self.file.metadata()
        {
            self.file.set_len(about.len() - about.len() % SIZE as u64)?;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        offset: 1 << 40,
        time: 1_769_864_400_123_456,
        len: 99,
        worker: 70_000,
        pid: 4_194_304,
        slot: 511,
        flags: ERR | CUT,
    };

    #[test]
    fn records_come_back() {
        let mut bytes = Vec::new();
        RECORD.encode(&mut bytes);
        assert_eq!(bytes.len(), SIZE);
        assert_eq!(Record::decode(&bytes), Some(RECORD));
        for at in 0..SIZE {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            assert_eq!(Record::decode(&bytes), None, "byte {at}");
        }
        assert_eq!(Record::decode(&bytes[..SIZE - 1]), None);
        assert_eq!(Record::decode(&[0; SIZE]), None);
        let head = Head { inode: 5, stamp: 6 };
        assert_eq!(Head::decode(&head.encode()), Some(head));
        assert_eq!(Head::decode(&bytes), None);
    }

    #[test]
    fn an_index_is_continued_or_begun_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.idx");
        let length = || std::fs::metadata(&path).expect("there").len();
        let mut writer = Writer::open(&path, 1, 0, 10).expect("opened");
        let record = Record { offset: 0, len: 50, ..RECORD };
        writer.write(&[record, Record { offset: 50, ..record }]).expect("written");
        // Somebody was killed in the middle of a record.
        let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(b"half").expect("written");
        let again = Writer::open(&path, 1, 100, 20).expect("opened");
        assert_eq!((again.head.stamp, length()), (10, 3 * SIZE as u64));
        // The file is shorter than the index has it, or another one.
        for (inode, size) in [(1, 60), (2, 100)] {
            let mut anew = Writer::open(&path, inode, size, 20).expect("opened");
            assert_eq!((anew.head.inode, length()), (inode, SIZE as u64));
            anew.write(&[record, Record { offset: 50, ..record }]).expect("written");
            assert_eq!(anew.head.stamp, 20);
            anew.begin(1, 20).expect("begun");
            assert_eq!(anew.head.stamp, 21);
            anew.write(&[record, Record { offset: 50, ..record }]).expect("written");
        }
    }

    #[test]
    fn a_file_of_somebody_elses_is_no_index() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mail.idx");
        let (aim, link) = (directory.path().join("aim"), directory.path().join("link.idx"));
        std::os::unix::fs::symlink(&aim, &link).expect("linked");
        for (path, aim, text) in [(&path, &path, "mails"), (&link, &aim, "")] {
            let text = text.repeat(1000);
            std::fs::write(aim, &text).expect("written");
            let opened = Writer::open(path, 1, 0, 10).map(drop).map_err(|error| error.to_string());
            assert!(opened.as_ref().is_err_and(|why| why.contains("stays as it is")), "{opened:?}");
            empty(path).expect("left alone");
            assert!(!is_own(path) && std::fs::read_to_string(aim).is_ok_and(|now| now == text));
        }
        // Whoever wrote it was killed in its first bytes.
        std::fs::write(&path, &MAGIC[..3]).expect("written");
        Writer::open(&path, 1, 0, 10).expect("an index");
        assert_eq!(std::fs::metadata(&path).expect("there").len(), SIZE as u64);
        empty(&path).expect("emptied");
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 0);
    }
}
