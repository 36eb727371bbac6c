//! Which program a worker was started from, and what is kept of it so that it could be started again.
//!
//! A rollback starts workers by the settings of the version before. Where its program was changed in place, that is
//! only possible with an executable, which is held open; a script that was overwritten is gone.

use super::shell::Shell;
use super::{lock, spawn};
use crate::settings::Settings;
use phalanx_core::worker::WorkerId;
use rustix::fd::{AsRawFd, OwnedFd};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Held files are beyond the numbers that a worker's channel and sockets may get in the child.
const HELD_FROM: i32 = 600;

/// A program, as workers were started from it.
pub(super) struct Version {
    pub(super) settings: Settings,
    file: Option<Arc<Held>>,
}

/// An executable that is held open: it can be started even if another one was put in its place.
struct Held {
    fd: OwnedFd,
    path: PathBuf,
    is: Identity,
}

/// Device, file, and when it was changed.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> Option<Identity> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.dev(), about.ino(), about.mtime(), about.mtime_nsec()))
}

impl Held {
    /// `None`: it is a script, or may not be read.
    fn open(path: &Path) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic).ok()?;
        let fd = rustix::io::fcntl_dupfd_cloexec(&file, HELD_FROM).ok()?;
        let native = magic == *b"\x7fELF";
        native.then_some(())?;
        Some(Self { fd, path: path.to_owned(), is: identity(path)? })
    }

    fn was_replaced(&self) -> bool {
        identity(&self.path) != Some(self.is)
    }
}

impl Version {
    /// `hold`: it may be gone back to; `known` may have the same file.
    pub(super) fn new(settings: Settings, hold: bool, known: Option<&Self>) -> Self {
        // In another root, the same name is another file; and what is held here could not be started from there.
        let hold = hold && settings.permissions.root.is_none();
        let path = if hold { spawn::program_of(&settings).ok() } else { None };
        let file = path.and_then(|path| {
            let same = known.and_then(|known| known.file.clone());
            let same = same.filter(|held| held.path == path && !held.was_replaced());
            same.or_else(|| Held::open(&path).map(Arc::new))
        });
        Self { settings, file }
    }

    /// Whether it is another program than this one.
    pub(super) const fn is_another(&self) -> bool {
        self.settings.exec.is_some()
    }

    /// Whether it can be told from what would be started now.
    pub(super) fn can_be_gone_back_to(&self, now: &Settings) -> bool {
        // What is not the same by its words is not the same.
        let other = format!("{:?}", self.settings) != format!("{now:?}");
        other || self.file.as_ref().is_some_and(|held| held.was_replaced())
    }

    /// The settings that start it again, and what it is to be called.
    pub(super) fn again(&self) -> (Settings, Option<PathBuf>) {
        let mut settings = self.settings.clone();
        let Some(held) = self.file.as_ref().filter(|held| held.was_replaced()) else {
            return (settings, None);
        };
        if settings.exec.is_none() && settings.args.is_empty() {
            settings.args = std::env::args_os().skip(1).collect();
        }
        settings.exec = Some(format!("/proc/self/fd/{}", held.fd.as_raw_fd()).into());
        (settings, Some(held.path.clone()))
    }
}

/// The program that a rollback would go back to.
pub(super) struct Before {
    version: u64,
    program: Arc<Version>,
    /// So often had the settings been changed when it was noted.
    setups: u64,
}

impl Shell {
    /// What a worker is to be started from. Guarded workers of the version before get what that was, unless the settings
    /// were changed since.
    pub(super) fn version_for(&mut self, worker: WorkerId) -> Arc<Version> {
        let of_it = self.core.worker(worker).filter(|w| w.guarded).map(|w| w.version);
        let before = self.before.as_ref().filter(|before| {
            of_it == Some(before.version)
                && (before.version < self.core.version() || before.setups == self.setups)
                && self.reloads_begun > 0
        });
        if let Some(before) = before {
            return Arc::clone(&before.program);
        }
        let settings = lock(&self.settings).clone();
        let hold = self.options.spec.reload.rollback || self.options.spec.reload.canary.is_some();
        let known = self.newest.take();
        let newest = Arc::new(Version::new(settings, hold, known.as_deref()));
        self.newest = Some(Arc::clone(&newest));
        newest
    }

    /// A reload is about to begin: what runs is what it could go back to. Whether it could.
    pub(super) fn note_before(&mut self) -> bool {
        self.reloads_begun += 1;
        let good = self.core.good_version();
        let ready =
            |w: &&phalanx_core::worker::Worker| w.guarded && w.is_ready() && w.version == good;
        let program = self
            .core
            .workers()
            .filter(ready)
            .find_map(|w| self.workers.get(&w.id)?.program.clone());
        let setups = self.setups;
        match program {
            Some(program) => self.before = Some(Before { version: good, program, setups }),
            None => self.before = self.before.take().filter(|before| before.version == good),
        }
        let now = lock(&self.settings).clone();
        self.before.as_ref().is_some_and(|before| before.program.can_be_gone_back_to(&now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(program: &Path) -> Settings {
        Settings { exec: Some(program.to_owned()), ..Settings::default() }
    }

    /// A file under a name, as `mv` puts it there.
    fn put(from: &Path, name: &Path) {
        let beside = name.with_extension("new");
        std::fs::copy(from, &beside).expect("copied");
        std::fs::rename(&beside, name).expect("renamed");
    }

    #[test]
    fn an_executable_that_was_replaced_can_be_gone_back_to() {
        let place = tempfile::tempdir().expect("a directory");
        let name = place.path().join("program");
        put(Path::new("/bin/true"), &name);
        let version = Version::new(settings(&name), true, None);
        assert!(!version.can_be_gone_back_to(&settings(&name)), "it is the same program");
        assert_eq!(version.again().0.exec, Some(name.clone()));
        put(Path::new("/bin/false"), &name);
        assert!(version.can_be_gone_back_to(&settings(&name)));
        let (again, called) = version.again();
        assert_eq!(called, Some(name.clone()));
        let status = std::process::Command::new(again.exec.expect("a program")).status();
        assert!(status.expect("it runs").success(), "the first program exits with 0");
        let status = std::process::Command::new(&name).status();
        assert!(!status.expect("it runs").success(), "the second one does not");
    }

    #[test]
    fn a_script_cannot_but_other_settings_can() {
        let place = tempfile::tempdir().expect("a directory");
        let name = place.path().join("script");
        std::fs::write(&name, "#!/bin/sh\n").expect("written");
        let version = Version::new(settings(&name), true, None);
        std::fs::write(&name, "#!/bin/sh\nexit 1\n").expect("written");
        assert!(!version.can_be_gone_back_to(&settings(&name)));
        let mut other = settings(&name);
        other.args.push("--new".into());
        assert!(version.can_be_gone_back_to(&other));
    }

    #[test]
    fn what_is_not_to_be_gone_back_to_is_not_held() {
        let version = Version::new(settings(Path::new("/bin/true")), false, None);
        assert!(version.file.is_none());
        let held = Version::new(settings(Path::new("/bin/true")), true, None);
        let again = Version::new(settings(Path::new("/bin/true")), true, Some(&held));
        let same =
            held.file.as_ref().zip(again.file.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
        assert!(same, "one descriptor is enough");
        let mut elsewhere = settings(Path::new("/bin/true"));
        elsewhere.permissions.root = Some("/srv".into());
        assert!(Version::new(elsewhere, true, Some(&held)).file.is_none(), "not the root's");
    }
}
