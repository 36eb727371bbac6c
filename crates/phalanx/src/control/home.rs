//! Where applications have their files: there is no daemon, the registry is a directory.
//!
//! `apps/NAME/` has the control socket, the lock and what is known of the application, and goes with the machine's uptime;
//! `state/` has what is wanted, and `logs/` what was said: both stay.

use super::app::{App, EARLIER};
use super::directory::{Kind, checked, is_mine, private, write_json};
use super::lock::{Lock, is_at};
use super::spec::{Spec, check_name};
use crate::error::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// In the directory of what is wanted: where that runs.
const RUNTIME: &str = "runtime";
/// So many snapshots are kept.
const SNAPSHOTS: usize = 10;

/// The directories of a user's applications.
#[derive(Clone, Debug)]
pub struct Home {
    runtime: PathBuf,
    logs: PathBuf,
    state: PathBuf,
    /// The user named it: it may be a link.
    named: bool,
}

impl Home {
    /// As the environment has it, and nobody else's: what others put there is neither read nor removed.
    ///
    /// # Errors
    /// One of its directories is somebody else's, or others may write to it.
    pub fn find() -> Result<Self> {
        let home = Self::locate()?;
        home.check()?;
        Ok(home)
    }

    fn locate() -> Result<Self> {
        let named = variable("PHALANX_HOME").map(std::path::absolute).transpose();
        let named = named.map_err(Error::home("find the directory that PHALANX_HOME names"))?;
        if let Some(home) = named {
            if home.to_str().is_none() {
                let message = format!("PHALANX_HOME is {}: no UTF-8", home.display());
                return Err(Error::Setting(message));
            }
            let (logs, state) = (home.join("logs"), home.join("state"));
            return Ok(Self { logs, state, runtime: home, named: true });
        }
        let root = geteuid().is_root();
        let place = |name| variable(name).map(PathBuf::from).filter(|place| place.is_absolute());
        // After su(1) it may be another user's.
        let mine = |place: &PathBuf| fs::metadata(place).is_ok_and(|about| is_mine(&about));
        // Where there is no session (cron, sudo), its directory may be there all the same.
        let sessions = PathBuf::from(format!("/run/user/{}", geteuid().as_raw()));
        let session = place("XDG_RUNTIME_DIR").filter(mine).or(Some(sessions).filter(mine));
        let session = session.map(|place| place.join("phalanx"));
        let otherwise = || match root {
            true => PathBuf::from("/run/phalanx"),
            false => PathBuf::from(format!("/tmp/phalanx-{}", geteuid().as_raw())),
        };
        let runtime = session.unwrap_or_else(otherwise);
        let lasting = place("XDG_STATE_HOME").filter(|state| !root || mine(state));
        let users = || place("HOME").map(|home| home.join(".local/state/phalanx"));
        let (logs, state) = match lasting {
            Some(state) => (state.join("phalanx/logs"), state.join("phalanx/state")),
            None if root => ("/var/log/phalanx".into(), "/var/lib/phalanx".into()),
            None => {
                let lasting = users().unwrap_or_else(|| runtime.clone());
                (lasting.join("logs"), lasting.join("state"))
            }
        };
        let home = Self { runtime, logs, state, named: false };
        Ok(match home.elsewhere() {
            Some(runtime) => Self { runtime, ..home },
            None => home,
        })
    }

    /// Where those run that were started with another environment, as cron and sudo(8) have it: there they are told,
    /// and not started a second time here.
    fn elsewhere(&self) -> Option<PathBuf> {
        let there = PathBuf::from(fs::read_to_string(self.state.join(RUNTIME)).ok()?);
        if there == self.runtime || !fs::metadata(&there).is_ok_and(|about| is_mine(&about)) {
            return None;
        }
        let home = Self { runtime: there, ..self.clone() };
        let names = names_in(&home.apps(), None).ok()?;
        names.iter().any(|name| Lock::is_held(&home.app(name))).then_some(home.runtime)
    }

    /// Writes down where they run.
    fn note_runtime(&self) -> io::Result<()> {
        let (file, runtime) = (self.state.join(RUNTIME), self.runtime.as_os_str().as_bytes());
        if self.named || fs::read(&file).is_ok_and(|noted| noted == runtime) {
            return Ok(());
        }
        let draft = file.with_extension("new");
        fs::write(&draft, runtime)?;
        fs::rename(draft, file)
    }

    fn apps(&self) -> PathBuf {
        self.runtime.join("apps")
    }

    /// Its directories, for people: of what runs, of what is wanted, of what was said.
    #[must_use]
    pub fn directories(&self) -> [(&'static str, &Path); 3] {
        [("runtime", &self.runtime), ("state", &self.state), ("logs", &self.logs)]
    }

    /// That all directories that are there already are this user's.
    fn check(&self) -> Result<()> {
        let check = |place: &Path, kind| match checked(place, kind) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            checked => checked.map(drop).map_err(unusable(place)),
        };
        check(&self.runtime, self.base())?;
        check(&self.state, Kind::Named)?;
        check(&self.apps(), Kind::Found)?;
        let running = names_in(&self.apps(), None).map_err(unusable(&self.apps()))?;
        running.iter().try_for_each(|name| check(&self.apps().join(name), Kind::Found))
    }

    const fn base(&self) -> Kind {
        if self.named { Kind::Named } else { Kind::Found }
    }

    /// An application, whether or not there is one.
    #[must_use]
    pub fn app(&self, name: &str) -> App {
        App {
            name: name.to_owned(),
            directory: self.apps().join(name),
            logs: self.logs.clone(),
            intent: self.state.join(format!("{name}.json")),
        }
    }

    /// All applications that run, or were started and not deleted, by name.
    ///
    /// # Errors
    /// Its directories cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let running = names_in(&self.apps(), None).map_err(unusable(&self.apps()))?;
        let wanted = names_in(&self.state, Some(".json")).map_err(unusable(&self.state))?;
        let all: BTreeSet<String> = running.into_iter().chain(wanted).collect();
        Ok(all.into_iter().collect())
    }

    /// All that are wanted, stopped or not, by id.
    ///
    /// # Errors
    /// Its directory cannot be read.
    pub fn intents(&self) -> Result<Vec<Spec>> {
        let names = names_in(&self.state, Some(".json")).map_err(unusable(&self.state))?;
        let mut all: Vec<Spec> = names.iter().filter_map(|name| self.app(name).intent()).collect();
        all.sort_by_key(|spec| spec.id);
        Ok(all)
    }

    /// Makes the directories, so that nobody else can look into them.
    ///
    /// # Errors
    /// They cannot be made, or are somebody else's.
    pub fn prepare(&self) -> Result<()> {
        self.prepare_runtime()?;
        private(&self.state, Kind::Named).map_err(unusable(&self.state))?;
        // Without it, only another environment finds others.
        let _ = self.note_runtime();
        private(&self.logs, Kind::Named).map_err(unusable(&self.logs))
    }

    /// Makes those of what runs only.
    pub(super) fn prepare_runtime(&self) -> Result<()> {
        private(&self.runtime, self.base()).map_err(unusable(&self.runtime))?;
        private(&self.apps(), Kind::Closed).map_err(unusable(&self.apps()))
    }

    /// Writes down what is wanted, for ever: it has an id from then on. What was wanted before is kept beside it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn want(&self, spec: &mut Spec) -> Result<()> {
        let app = self.app(&spec.name);
        let failed = || Error::home(format!("write {}", app.intent.display()));
        let _one_at_a_time = self.lock("lock").map_err(failed())?;
        match app.intent() {
            Some(before) if before == (Spec { id: before.id, ..spec.clone() }) => {
                spec.id = before.id;
                return Ok(());
            }
            Some(before) => spec.id = before.id,
            None => {
                let last = self.intents()?.iter().map(|spec| spec.id).max();
                spec.id = last.map_or(0, |last| last.saturating_add(1));
            }
        }
        self.rewrite(&app, spec).map_err(failed())
    }

    /// What was wanted before is kept beside it.
    fn rewrite(&self, app: &App, spec: &mut Spec) -> io::Result<()> {
        spec.logs.clone_from(&self.logs);
        self.keep_earlier(app);
        spec.write(&app.intent, true)
    }

    /// Changes what is wanted of an application, if anything is: whether it was.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn change(&self, app: &App, deed: impl FnOnce(&mut Spec)) -> Result<bool> {
        // Of what runs in somebody's foreground there may be not even a directory.
        if app.intent().is_none() {
            return Ok(false);
        }
        let failed = || Error::home(format!("write {}", app.intent.display()));
        let _one_at_a_time = self.lock("lock").map_err(failed())?;
        let Some(before) = app.intent() else { return Ok(false) };
        let mut spec = before.clone();
        deed(&mut spec);
        if spec != before {
            self.rewrite(app, &mut spec).map_err(failed())?;
        }
        Ok(true)
    }

    /// Waits until nobody else changes what an application is, and keeps others from it until it is dropped. `waits` is
    /// called if somebody does.
    ///
    /// # Errors
    /// Its file cannot be made.
    pub fn claim(&self, app: &App, waits: impl FnOnce()) -> Result<File> {
        let name = format!("{}.change", app.name);
        let failed = || Error::home(format!("lock {}", self.state.join(&name).display()));
        let mut waits = Some(waits);
        loop {
            let file = self.lock_file(&name).map_err(failed())?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                if let Some(waits) = waits.take() {
                    waits();
                }
                flock(&file, FlockOperation::LockExclusive)
                    .map_err(io::Error::from)
                    .map_err(failed())?;
            }
            // It may have been forgotten meanwhile, and its file be another one's.
            if is_at(&file.metadata().map_err(failed())?, &self.state.join(&name)) {
                return Ok(file);
            }
        }
    }

    /// Those of whom it is written what is wanted, and cannot be read any more.
    ///
    /// # Errors
    /// Its directory cannot be read.
    pub fn unreadable(&self) -> Result<Vec<String>> {
        let names = names_in(&self.state, Some(".json")).map_err(unusable(&self.state))?;
        Ok(names.into_iter().filter(|name| self.app(name).intent().is_none()).collect())
    }

    /// It is wanted no more.
    ///
    /// # Errors
    /// Its file cannot be removed.
    pub fn forget(&self, app: &App) -> Result<()> {
        // Whoever changes it just now would bring it back.
        let _one_at_a_time = match self.lock("lock") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            lock => lock.map_err(Error::home(format!("lock {}", self.state.display())))?,
        };
        for number in 1..=EARLIER {
            let _ = fs::remove_file(app.earlier(number));
        }
        let _ = fs::remove_file(self.state.join(format!("{}.change", app.name)));
        match fs::remove_file(&app.intent) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::home(format!("remove {}", app.intent.display()))(error))
            }
            _ => Ok(()),
        }
    }

    fn keep_earlier(&self, app: &App) {
        for number in (1..EARLIER).rev() {
            let _ = fs::rename(app.earlier(number), app.earlier(number + 1));
        }
        let _ = fs::hard_link(&app.intent, app.earlier(1));
    }

    fn lock_file(&self, name: &str) -> io::Result<File> {
        let mut open = OpenOptions::new();
        let options = open.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(self.state.join(name))
    }

    /// Held by whoever writes, until it is dropped.
    fn lock(&self, name: &str) -> io::Result<File> {
        let file = self.lock_file(name)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// Keeps all that is wanted now as a snapshot. Where, and how many applications.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self) -> Result<(PathBuf, usize)> {
        let directory = self.snapshots();
        let failed = || unusable(&directory);
        private(&directory, Kind::Named).map_err(failed())?;
        let _one_at_a_time = self.lock("lock").map_err(failed())?;
        let all = self.intents()?;
        let numbers = self.snapshot_numbers();
        let next = numbers.last().map_or(1, |last| last.saturating_add(1));
        let file = directory.join(format!("{next}.json"));
        write_json(&file, &all, true).map_err(Error::home(format!("write {}", file.display())))?;
        for old in numbers.iter().rev().skip(SNAPSHOTS - 1) {
            let _ = fs::remove_file(directory.join(format!("{old}.json")));
        }
        Ok((file, all.len()))
    }

    /// A snapshot: the last one is 1, the one before it 2. `None`: there are not so many.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn snapshot(&self, generation: usize) -> Result<Option<Vec<Spec>>> {
        let numbers = self.snapshot_numbers();
        let Some(number) = generation.checked_sub(1).and_then(|n| numbers.iter().rev().nth(n))
        else {
            return Ok(None);
        };
        let file = self.snapshots().join(format!("{number}.json"));
        let read = || Ok(serde_json::from_slice(&fs::read(&file)?)?);
        read().map(Some).map_err(Error::home(format!("read {}", file.display())))
    }

    fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    fn snapshot_numbers(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.snapshots()) else { return Vec::new() };
        let number = |name: OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
        let mut numbers: Vec<u64> =
            entries.flatten().filter_map(|entry| number(entry.file_name())).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Names of applications that something in a directory is called after.
fn names_in(directory: &Path, extension: Option<&str>) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let name = |name: OsString| {
        let name = name.into_string().ok()?;
        match extension {
            Some(extension) => name.strip_suffix(extension).map(str::to_owned),
            None => Some(name),
        }
    };
    let names = entries.filter_map(|entry| name(entry.ok()?.file_name()));
    Ok(names.filter(|name| check_name(name).is_ok()).collect())
}

fn unusable(place: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    Error::home(format!("use the directory {}", place.display()))
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_home_that_others_made_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let runtime = directory.path().join("runtime");
        let place = |name| directory.path().join(name);
        let home = Home { runtime, logs: place("logs"), state: place("state"), named: false };
        let app = home.apps().join("app");
        home.check().expect("what is missing is made later");
        fs::create_dir_all(&app).expect("made");
        home.check().expect("this user's");
        for place in [&home.runtime, &home.apps(), &app] {
            for mode in [0o720, 0o702, 0o1777] {
                fs::set_permissions(place, PermissionsExt::from_mode(mode)).expect("changed");
                assert!(home.check().is_err(), "{} with {mode:o}", place.display());
            }
            fs::set_permissions(place, PermissionsExt::from_mode(0o700)).expect("changed");
            let aside = directory.path().join("aside");
            fs::rename(place, &aside).expect("moved");
            std::os::unix::fs::symlink(&aside, place).expect("linked");
            assert!(home.check().is_err(), "{} is a link", place.display());
            fs::remove_file(place).expect("removed");
            fs::rename(&aside, place).expect("moved back");
            if geteuid().is_root() {
                std::os::unix::fs::chown(place, Some(1), None).expect("given away");
                assert!(home.check().is_err(), "{} is another user's", place.display());
                std::os::unix::fs::chown(place, Some(0), None).expect("taken back");
            }
        }
        home.check().expect("this user's again");
    }

    fn home(directory: &tempfile::TempDir) -> Home {
        let place = |name| directory.path().join(name);
        let home = Home {
            runtime: place("run"),
            logs: place("logs"),
            state: place("state"),
            named: false,
        };
        home.prepare().expect("made");
        home
    }

    fn spec(name: &str) -> Spec {
        Spec::new(name, vec!["app.js".into()], Path::new("/"), std::collections::BTreeMap::new())
    }

    #[test]
    fn ids_stay_and_are_not_given_twice() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = home(&directory);
        let want = |name: &str| {
            let mut spec = spec(name);
            home.want(&mut spec).expect("written");
            spec.id
        };
        assert_eq!((want("a"), want("b"), want("c")), (0, 1, 2));
        home.forget(&home.app("a")).expect("forgotten");
        assert_eq!((want("b"), want("d")), (1, 3));
        let names = home.names().expect("read");
        assert_eq!(names, ["b", "c", "d"]);
        assert!(home.app("a").intent().is_none());
    }

    #[test]
    fn what_was_wanted_before_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = home(&directory);
        for number in 0..6 {
            let mut spec = Spec { namespace: format!("n{number}"), ..spec("a") };
            home.want(&mut spec).expect("written");
        }
        let app = home.app("a");
        let read = |number| Spec::read(&app.earlier(number)).expect("there").namespace;
        assert_eq!([read(1), read(2), read(3)], ["n4", "n3", "n2"]);
        assert!(!app.earlier(4).exists());
        let mode = fs::metadata(&app.intent).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn snapshots_are_counted_from_the_last() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = home(&directory);
        for number in 0..SNAPSHOTS + 3 {
            home.want(&mut spec(&format!("a{number}"))).expect("written");
            assert_eq!(home.save().expect("saved").1, number + 1);
        }
        let count = |generation| home.snapshot(generation).expect("read").map(|all| all.len());
        assert_eq!(count(1), Some(SNAPSHOTS + 3));
        assert_eq!(count(2), Some(SNAPSHOTS + 2));
        assert_eq!(count(SNAPSHOTS), Some(4));
        assert_eq!(count(SNAPSHOTS + 1), None);
        assert_eq!(count(0), None);
    }

    /// Cron has no `XDG_RUNTIME_DIR`: what was started with one is found there.
    #[test]
    fn those_that_run_are_found_from_another_environment() {
        let directory = tempfile::tempdir().expect("a directory");
        let here = home(&directory);
        let from_cron = Home { runtime: directory.path().join("tmp"), ..here.clone() };
        assert_eq!(here.elsewhere(), None);
        assert_eq!(from_cron.elsewhere(), None, "nothing runs there");
        let app = here.app("a");
        let lock = Lock::take(&app, std::time::Duration::ZERO).expect("made").expect("free");
        assert_eq!(from_cron.elsewhere(), Some(here.runtime.clone()));
        drop(lock);
        assert_eq!(from_cron.elsewhere(), None, "it has ended");
    }

    #[test]
    fn a_claim_on_what_is_forgotten_is_one_on_what_comes_after() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = home(&directory);
        let app = home.app("a");
        let first = home.claim(&app, || panic!("it waits")).expect("claimed");
        let waiting = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let (home, app, told) = (&home, &app, waiting.0);
            let second = scope
                .spawn(move || home.claim(app, || told.send(()).expect("heard")).expect("claimed"));
            waiting.1.recv().expect("it waits");
            home.forget(app).expect("forgotten");
            drop(first);
            let second = second.join().expect("no panic");
            let third = home.lock_file("a.change").expect("opened");
            let held = flock(&third, FlockOperation::NonBlockingLockExclusive);
            assert!(held.is_err(), "two have it");
            drop(second);
        });
    }
}
