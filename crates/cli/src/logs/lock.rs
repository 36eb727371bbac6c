//! Several applications may share a log: one process at a time puts a file aside, compresses it or removes it.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Nobody else does anything with this file, as long as this is there.
pub(super) struct Held<'a>(Option<&'a File>);

impl<'a> Held<'a> {
    /// `None`: somebody else has it.
    pub(super) fn take(file: &'a File) -> Option<Self> {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(Self(Some(file))),
            Err(Errno::WOULDBLOCK | Errno::INTR) => None,
            // Not every file system has locks.
            Err(_) => Some(Self(None)),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Whoever was forked meanwhile has the same lock, until it is another program.
        let _ = self.0.map(|file| flock(file, FlockOperation::Unlock));
    }
}

/// Whether it is this file that has a name.
pub(super) fn is_at(path: &Path, file: &File) -> io::Result<bool> {
    let about = file.metadata()?;
    let there = fs::metadata(path).ok();
    Ok(there.is_some_and(|there| (there.dev(), there.ino()) == (about.dev(), about.ino())))
}
