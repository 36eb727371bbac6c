//! The lock of an application: who has it is its primary, and as long as somebody has it there is one. Numbers of
//! processes are used again; locks are not.

use super::app::App;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Its file.
pub(super) const FILE: &str = "lock";
/// How often it is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// The lock is held until the last duplicate of its descriptor is closed, in whichever process.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes it, and makes the application's directory for it. `None`: somebody else had it all the time.
    ///
    /// # Errors
    /// Its file cannot be made, or is none.
    pub fn take(app: &App, patience: Duration) -> io::Result<Option<Self>> {
        let begin = Instant::now();
        let path = path(app);
        loop {
            match DirBuilder::new().mode(0o700).create(&app.directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(flags())
                .open(&path);
            let file = match opened {
                // Removed in between.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && begin.elapsed() <= patience =>
                {
                    continue;
                }
                file => file?,
            };
            if !file.metadata()?.is_file() {
                let message = format!("{} is no regular file", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // It may have been removed, and made anew, before it was locked.
                Ok(()) if is_file(&file.metadata()?, app) => return Ok(Some(Self(file))),
                Ok(()) | Err(Errno::INTR) => {}
                // Perhaps somebody only looks.
                Err(Errno::WOULDBLOCK) if begin.elapsed() > patience => return Ok(None),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether somebody has it.
    #[must_use]
    pub fn is_held(app: &App) -> bool {
        let opened = OpenOptions::new().read(true).custom_flags(flags()).open(path(app));
        let is_file = |file: &File| file.metadata().is_ok_and(|about| about.is_file());
        let Some(file) = opened.ok().filter(is_file) else { return false };
        // Shared, so that those who look do not see each other; given back at once.
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }

    /// For the standard input of a process that is started: from then on it is held by both.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn share(&self) -> io::Result<Stdio> {
        self.0.try_clone().map(Stdio::from)
    }

    /// Takes it over from the process that started this one, or takes it; it is the standard input, an empty file, from
    /// then on. So it stays with every process that this one becomes (execve(2)) or starts in its place, and
    /// with no worker. Whether it has it.
    ///
    /// # Errors
    /// Its file cannot be made, or is none.
    pub fn adopt(app: &App, patience: Duration) -> io::Result<bool> {
        let stdin = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
        if is_file(&stdin.metadata()?, app) {
            match flock(&stdin, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(true),
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        drop(stdin);
        match Self::take(app, patience)? {
            Some(lock) => rustix::stdio::dup2_stdin(&lock.0)?,
            None => return Ok(false),
        }
        Ok(true)
    }
}

impl App {
    /// Whether that is its lock.
    pub(super) fn is_lock(&self, file: &Path) -> bool {
        std::fs::metadata(file).is_ok_and(|about| is_file(&about, self))
    }
}

fn path(app: &App) -> PathBuf {
    app.directory.join(FILE)
}

/// No link is followed, and a pipe is not waited for.
fn flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

fn is_file(about: &Metadata, app: &App) -> bool {
    is_at(about, &path(app))
}

/// Whether that is the file at this place.
pub(super) fn is_at(about: &Metadata, place: &Path) -> bool {
    std::fs::symlink_metadata(place)
        .is_ok_and(|there| (there.dev(), there.ino()) == (about.dev(), about.ino()))
}
