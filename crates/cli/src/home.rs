//! Where applications that run in the background have their files: there is no daemon, the registry is a directory.
//!
//! `apps/NAME/` has the control socket, the lock and what is known of the application, and goes with the machine's uptime;
//! `logs/` stays.

mod lock;

pub(crate) use lock::Lock;

use crate::failure::{Failure, USAGE};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Characters of a name.
const LONGEST_NAME: usize = 64;
/// Bytes of a socket's path, with the zero at its end (unix(7)).
const LONGEST_SOCKET: usize = 108;

/// What an application's directory has in it but the lock; `.new` is what is being written.
const FILES: [&str; 7] = [
    "control.sock",
    "control.new",
    "spec.json",
    "spec.new",
    "workers.json",
    "workers.new",
    "primary.log",
];

/// The directories of a user's applications.
pub(crate) struct Home {
    runtime: PathBuf,
    logs: PathBuf,
    /// The user named it: it may be a link.
    named: bool,
}

impl Home {
    /// As the environment has it, and nobody else's: what others put there is neither read nor removed.
    pub(crate) fn find() -> Result<Self, Failure> {
        let home = Self::locate()?;
        home.check()?;
        Ok(home)
    }

    fn locate() -> Result<Self, Failure> {
        let named = variable("PHALANX_HOME").map(std::path::absolute).transpose();
        let named = named.map_err(Failure::os("find the directory that PHALANX_HOME names"))?;
        if let Some(home) = named {
            if home.to_str().is_none() {
                let message = format!("PHALANX_HOME is {}: no UTF-8", home.display());
                return Err(Failure::tool(USAGE, message));
            }
            return Ok(Self { logs: home.join("logs"), runtime: home, named: true });
        }
        let root = geteuid().is_root();
        let place = |name| variable(name).map(PathBuf::from).filter(|place| place.is_absolute());
        // After su(1) it may be another user's.
        let mine = |place: &PathBuf| fs::metadata(place).is_ok_and(|about| is_mine(&about));
        let session = place("XDG_RUNTIME_DIR").filter(mine).map(|place| place.join("phalanx"));
        let otherwise = || match root {
            true => PathBuf::from("/run/phalanx"),
            false => PathBuf::from(format!("/tmp/phalanx-{}", geteuid().as_raw())),
        };
        let runtime = session.unwrap_or_else(otherwise);
        let home = || place("HOME").map(|home| home.join(".local/state"));
        let logs = match place("XDG_STATE_HOME").filter(|state| !root || mine(state)) {
            Some(state) => state.join("phalanx/logs"),
            None if root => PathBuf::from("/var/log/phalanx"),
            None => home().map_or_else(|| runtime.join("logs"), |state| state.join("phalanx/logs")),
        };
        Ok(Self { runtime, logs, named: false })
    }

    fn apps(&self) -> PathBuf {
        self.runtime.join("apps")
    }

    /// That all directories that are there already are this user's.
    fn check(&self) -> Result<(), Failure> {
        let check = |place: &Path, kind| match checked(place, kind) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            checked => checked.map(drop).map_err(unusable(place)),
        };
        check(&self.runtime, self.base())?;
        check(&self.apps(), Kind::Found)?;
        self.names()?.iter().try_for_each(|name| check(&self.apps().join(name), Kind::Found))
    }

    const fn base(&self) -> Kind {
        if self.named { Kind::Named } else { Kind::Found }
    }

    /// An application, whether or not there is one.
    pub(crate) fn app(&self, name: &str) -> App {
        App { name: name.to_owned(), directory: self.apps().join(name), logs: self.logs.clone() }
    }

    /// All applications that were started and not deleted, by name.
    pub(crate) fn names(&self) -> Result<Vec<String>, Failure> {
        let entries = match fs::read_dir(self.apps()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => {
                entries.map_err(Failure::os(format_args!("read {}", self.apps().display())))?
            }
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// An application that was started and not deleted.
    pub(crate) fn existing(&self, name: &str) -> Result<App, Failure> {
        let names = self.names()?;
        if names.iter().any(|known| known == name) {
            return Ok(self.app(name));
        }
        let hint = match names.as_slice() {
            [] => "none was started; `phalanx start PROGRAM --name NAME` does".to_owned(),
            known => format!("there are {}", known.join(", ")),
        };
        let name = name.escape_debug();
        Err(Failure::tool(crate::failure::UNEXPECTED, format!("no application is called `{name}`"))
            .hint(hint))
    }

    /// Makes the directories, so that nobody else can look into them.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        private(&self.runtime, self.base()).map_err(unusable(&self.runtime))?;
        private(&self.apps(), Kind::Closed).map_err(unusable(&self.apps()))?;
        private(&self.logs, Kind::Named).map_err(unusable(&self.logs))
    }
}

fn unusable(place: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
    Failure::os(format!("use the directory {}", place.display()))
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn is_mine(about: &Metadata) -> bool {
    about.uid() == geteuid().as_raw()
}

/// Whose entries others may see.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Named by the user: it may be a link.
    Named,
    /// Found by a rule that others know as well.
    Found,
    /// Nobody's but this user's.
    Closed,
}

/// Makes sure of a directory that is this user's, and in which nobody else can put anything in another's place.
fn private(place: &Path, kind: Kind) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    let about = checked(place, kind)?;
    if kind == Kind::Closed && about.mode() & 0o077 != 0 {
        fs::set_permissions(place, PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}

/// Refuses a directory that is somebody else's, or in which others can put something in another's place.
fn checked(place: &Path, kind: Kind) -> io::Result<Metadata> {
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let about = match kind {
        Kind::Named => fs::metadata(place),
        Kind::Found | Kind::Closed => fs::symlink_metadata(place),
    }?;
    if !about.is_dir() {
        return refused("it is a link or a file, put there by somebody");
    }
    if !is_mine(&about) {
        return refused("it belongs to somebody else");
    }
    // In a sticky one they can only add, and what is in it is checked as well.
    let shared = kind == Kind::Named && about.mode() & 0o1000 != 0;
    if kind != Kind::Closed && about.mode() & 0o022 != 0 && !shared {
        // Not changed here: it may have its reasons.
        return refused("others may write to it; `chmod go-w` keeps them out");
    }
    Ok(about)
}

/// A name that can be a directory, and typed.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(format!("a name has 1 to {LONGEST_NAME} characters"));
    }
    if !name.chars().all(fits) {
        return Err("a name consists of letters (a to z), digits, `.`, `-` and `_`".into());
    }
    if name.starts_with(['.', '-']) {
        return Err("a name begins with a letter, a digit or `_`".into());
    }
    if name == "all" {
        return Err("`all` means all applications".into());
    }
    Ok(())
}

/// A name from what a program is called in the log: `node dist/server.js` is node-server.js.
pub(crate) fn name_of(title: &str) -> String {
    let last = |word: &str| {
        let word = word.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        word.chars().map(|c| if fits(c) { c } else { '-' }).collect::<String>()
    };
    let words: Vec<String> = title.split_whitespace().map(last).collect();
    let name = words.join("-");
    name.trim_start_matches(['.', '-']).chars().take(LONGEST_NAME).collect()
}

/// The files of an application.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    logs: PathBuf,
}

/// What is to run, for those who come later. All that an application is made of is in here, and nothing else is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Spec {
    /// The version of this file.
    pub(crate) v: u32,
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// The command line after `phalanx run`: options, then the program, then its arguments after `--`.
    pub(crate) argv: Vec<String>,
    /// As it was named: links in it are followed anew by each worker.
    pub(crate) cwd: String,
    /// The whole environment of the primary, and so of its workers.
    pub(crate) env: BTreeMap<String, String>,
    /// The configuration file that it is from, and the environment that was chosen in it (`--env`).
    pub(crate) config: Option<PathBuf>,
    pub(crate) environment: Option<String>,
    /// Applications that have to be ready first.
    pub(crate) after: Vec<String>,
    /// It was stopped by somebody, and is not started at boot.
    pub(crate) stopped: bool,
    /// Milliseconds since 1970.
    pub(crate) started_ms: u64,
    /// The version of phalanx.
    pub(crate) version: String,
    pub(crate) logs: PathBuf,
}

impl App {
    /// The application of a directory, as its primary is told.
    pub(crate) fn of(directory: &Path) -> Result<(Self, Spec), Failure> {
        let file = directory.join("spec.json");
        let read = || Spec::read(&file);
        let spec = read().map_err(Failure::os(format_args!("read {}", file.display())))?;
        let app = Self {
            name: spec.name.clone(),
            directory: directory.to_owned(),
            logs: spec.logs.clone(),
        };
        Ok((app, spec))
    }

    pub(crate) fn spec(&self) -> Option<Spec> {
        Spec::read(&self.directory.join("spec.json")).ok()
    }

    pub(crate) fn write_spec(&self, argv: Vec<String>) -> Result<(), Failure> {
        let cwd = std::env::current_dir().map_err(Failure::os("find the working directory"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let spec = Spec {
            v: 2,
            name: self.name.clone(),
            argv,
            cwd: cwd.display().to_string(),
            started_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            logs: self.logs.clone(),
            ..Spec::default()
        };
        let file = self.directory.join("spec.json");
        write_json(&file, &spec).map_err(Failure::os(format_args!("write {}", file.display())))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    pub(crate) fn register(&self) -> PathBuf {
        self.directory.join("workers.json")
    }

    pub(crate) fn primary_log(&self) -> PathBuf {
        self.directory.join("primary.log")
    }

    pub(crate) fn out_log(&self) -> PathBuf {
        self.logs.join(format!("{}-out.log", self.name))
    }

    pub(crate) fn err_log(&self) -> PathBuf {
        self.logs.join(format!("{}-err.log", self.name))
    }

    /// Whether the kernel takes the socket's path.
    pub(crate) fn check_path(&self) -> Result<(), Failure> {
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
        Err(Failure::tool(USAGE, message).hint("choose a shorter PHALANX_HOME or --name"))
    }

    /// Removes its directory; whoever does has the lock, so nobody begins to use it meanwhile. What is not phalanx's is
    /// not removed.
    pub(crate) fn remove(&self, lock: Lock) -> io::Result<()> {
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
}

impl Spec {
    fn read(file: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(file)?)?)
    }
}

/// A file that only this user reads, to be appended to.
pub(crate) fn append(file: &Path) -> io::Result<fs::File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(file)
}

/// Writes a file so that whoever reads it finds the old or the new one, as a whole.
pub(crate) fn write_json(file: &Path, value: &impl Serialize) -> io::Result<()> {
    let draft = file.with_extension("new");
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let mut open = OpenOptions::new();
    let options = open.write(true).create(true).truncate(true).mode(0o600);
    options.open(&draft)?.write_all(&text)?;
    fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "api-2", "x.y_z", "_", "9", &"n".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "-x", ".x", "ä", "all", "a\n", &"n".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_programs() {
        for (title, name) in [
            ("server.js", "server.js"),
            ("./dist/server.js", "server.js"),
            ("node dist/server.js", "node-server.js"),
            ("npm start", "npm-start"),
            ("/opt/my app/", "my-app"),
            ("dir/", "dir"),
            ("../..", ""),
        ] {
            assert_eq!(name_of(title), name, "{title}");
        }
    }

    #[test]
    fn what_is_not_private_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let mode = |place: &Path| fs::metadata(place).expect("there").mode() & 0o777;
        let place = directory.path().join("a/b");
        private(&place, Kind::Found).expect("made");
        assert_eq!(mode(&place), 0o700);
        fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).expect("changed");
        assert!(private(&place, Kind::Named).is_err());
        assert_eq!(mode(&place), 0o777, "not changed");
        private(&place, Kind::Closed).expect("closed");
        assert_eq!(mode(&place), 0o700);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&place, &link).expect("linked");
        assert!(private(&link, Kind::Found).is_err());
        private(&link, Kind::Named).expect("a link that the user named");
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(private(&file, Kind::Found).is_err());
    }

    #[test]
    fn a_home_that_others_made_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let runtime = directory.path().join("runtime");
        let home = Home { runtime, logs: directory.path().join("logs"), named: false };
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

    #[test]
    fn what_is_not_an_applications_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let app = App {
            name: "app".into(),
            directory: directory.path().join("app"),
            logs: directory.path().into(),
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
        let app =
            App { name: "app".into(), directory: directory.path().into(), logs: PathBuf::new() };
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
