//! The files of an application.

use super::lock::{self, Lock};
use super::spec::Spec;
use crate::error::{Error, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a socket's path, with the zero at its end (unix(7)).
const LONGEST_SOCKET: usize = 108;

/// What an application's directory has in it but the lock.
const FILES: [&str; 6] =
    ["control.sock", "control.new", "spec.json", "workers.json", "primary.log", "primary.log.1"];
/// So many earlier versions of what is wanted are kept.
pub(super) const EARLIER: usize = 3;
/// The end of a name of what is just being written.
const DRAFT: &str = ".new";

/// An application, and where its files are; whether or not there is one.
#[derive(Clone, Debug)]
pub struct App {
    /// What it is called.
    pub name: String,
    /// Its own directory, which goes with the machine's uptime.
    pub directory: PathBuf,
    pub(super) logs: PathBuf,
    /// What is wanted of it, which stays. Its primary has nothing to do with that.
    pub(super) intent: PathBuf,
}

impl App {
    /// The application of a directory, as its primary is told, and what it is.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn of(directory: &Path) -> Result<(Self, Spec)> {
        let file = directory.join("spec.json");
        let spec =
            Spec::read(&file).map_err(Error::home(format_args!("read {}", file.display())))?;
        let app = Self {
            name: spec.name.clone(),
            directory: directory.to_owned(),
            logs: spec.logs.clone(),
            intent: PathBuf::new(),
        };
        Ok((app, spec))
    }

    /// What it is: what runs, or what was running last; else what is wanted.
    #[must_use]
    pub fn spec(&self) -> Option<Spec> {
        self.running_spec().or_else(|| self.intent())
    }

    /// What its primary reads.
    #[must_use]
    pub fn running_spec(&self) -> Option<Spec> {
        Spec::read(&self.directory.join("spec.json")).ok()
    }

    /// What is wanted of it, also after a reboot; if that cannot be read, what was wanted before.
    #[must_use]
    pub fn intent(&self) -> Option<Spec> {
        match Spec::read(&self.intent) {
            Ok(spec) => Some(spec),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => (1..=EARLIER).find_map(|number| Spec::read(&self.earlier(number)).ok()),
        }
    }

    /// What was wanted so many changes before.
    pub(super) fn earlier(&self, number: usize) -> PathBuf {
        self.intent.with_extension(format!("json.{number}"))
    }

    /// Says to its next primary what it is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_spec(&self, spec: &Spec) -> Result<()> {
        let file = self.directory.join("spec.json");
        let spec = Spec { logs: self.logs.clone(), ..spec.clone() };
        spec.write(&file, false).map_err(Error::home(format_args!("write {}", file.display())))
    }

    /// Where it is asked and told.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    pub(super) fn register(&self) -> PathBuf {
        self.directory.join("workers.json")
    }

    /// What its primary says.
    #[must_use]
    pub fn primary_log(&self) -> PathBuf {
        self.directory.join("primary.log")
    }

    /// What its workers say on standard output, if nothing else was chosen.
    #[must_use]
    pub fn out_log(&self) -> PathBuf {
        self.logs.join(format!("{}-out.log", self.name))
    }

    /// What its workers say on standard error, if nothing else was chosen.
    #[must_use]
    pub fn err_log(&self) -> PathBuf {
        self.logs.join(format!("{}-err.log", self.name))
    }

    /// Whether the kernel takes the socket's path.
    ///
    /// # Errors
    /// It is too long.
    pub fn check_path(&self) -> Result<()> {
        let path = self.socket();
        let length = path.as_os_str().len();
        if length < LONGEST_SOCKET {
            return Ok(());
        }
        let message = format!(
            "the path of the control socket has {length} bytes, and the kernel takes {}: {}",
            LONGEST_SOCKET - 1,
            path.display()
        );
        Err(Error::Setting(format!("{message}; choose a shorter PHALANX_HOME or name")))
    }

    /// Removes its directory; whoever does has the lock, so nobody begins to use it meanwhile. What is not phalanx's is
    /// not removed.
    ///
    /// # Errors
    /// Something cannot be removed, or is somebody else's.
    pub fn remove(&self, lock: Lock) -> io::Result<()> {
        self.remove_drafts();
        // Last: as soon as it is gone, what is there is somebody else's.
        for file in FILES.into_iter().chain([lock::FILE]) {
            match fs::remove_file(self.directory.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let gone = fs::remove_dir(&self.directory);
        drop(lock);
        match gone {
            // Somebody else begins: it is theirs.
            Err(error)
                if error.kind() == io::ErrorKind::DirectoryNotEmpty
                    && self.directory.join(lock::FILE).exists() =>
            {
                Ok(())
            }
            gone => gone,
        }
    }

    /// Removes what an earlier primary left that would be taken for the next one's; whoever does has the lock.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove_stale(&self) -> Result<()> {
        for file in [self.socket(), self.register()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::home(format!("remove {}", file.display()))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Of those who were killed while they wrote.
    fn remove_drafts(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().ends_with(DRAFT) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_applications_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let app = App {
            name: "app".into(),
            directory: directory.path().join("app"),
            logs: directory.path().into(),
            intent: PathBuf::new(),
        };
        let take = || Lock::take(&app, std::time::Duration::ZERO);
        let lock = take().expect("made").expect("free");
        let other = app.directory.join("other");
        fs::write(&other, "").expect("written");
        assert!(app.remove(lock).is_err(), "said to be gone");
        assert!(other.exists(), "it was removed");
        fs::remove_file(other).expect("there");
        let lock = take().expect("made").expect("free");
        fs::write(app.register(), "").expect("written");
        app.remove(lock).expect("removed");
        assert!(!app.directory.exists());
    }

    /// Opening a pipe would wait for somebody who writes.
    #[test]
    fn a_lock_is_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let app = App {
            name: "app".into(),
            directory: directory.path().into(),
            logs: PathBuf::new(),
            intent: PathBuf::new(),
        };
        let file = app.directory.join(lock::FILE);
        let made = std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo");
        assert!(made.success(), "{made}");
        assert!(!Lock::is_held(&app));
        assert!(Lock::take(&app, std::time::Duration::ZERO).is_err(), "a pipe was locked");
        fs::remove_file(&file).expect("there");
        let aim = app.directory.join("aim");
        std::os::unix::fs::symlink(&aim, &file).expect("linked");
        assert!(Lock::take(&app, std::time::Duration::ZERO).is_err(), "a link was followed");
        assert!(!aim.exists(), "made by way of a link");
    }
}
