//! `phalanx startup`: everything at boot, by systemd.

mod notify;
pub(crate) mod stay;
mod unit;

use crate::args::{Startup, Unstartup};
use crate::failure::{Failure, UNEXPECTED, USAGE};
use crate::{show, ui};
use rustix::process::geteuid;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use unit::Unit;

pub(crate) fn startup(options: &Startup) -> Result<(), Failure> {
    let plan = Plan::new(options)?;
    let text = plan.unit(options)?.text();
    plan.tell_who()?;
    if options.write {
        return plan.install(&text, &plan.write_command(options));
    }
    show::print(&text);
    let shell = plan.sudo();
    let how = format!(
        "to install it: {}\nwhich does:\n  {shell}tee {} (what is printed above)\n  {}",
        plan.write_command(options),
        plan.file.display(),
        plan.commands(&["daemon-reload"], "enable").join("\n  ")
    );
    show::say(&how);
    plan.notes();
    Ok(())
}

pub(crate) fn unstartup(options: &Unstartup) -> Result<(), Failure> {
    let plan = Plan::new(options)?;
    if options.write {
        let name = &plan.user.name;
        return plan.remove(&format!("sudo phalanx unstartup -u {name} --write"));
    }
    let [disable] = plan.commands(&[], "disable").try_into().unwrap_or_default();
    let reload = plan.commands(&["daemon-reload"], "");
    let remove = format!("{}rm {}", plan.sudo(), plan.file.display());
    show::print(&format!("{disable}\n{remove}\n{}\n", reload.join("\n")));
    show::say("the applications run on; `phalanx unstartup --write` does it");
    Ok(())
}

/// A user, as the user database has it.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) home: PathBuf,
}

/// What there is to be done, and where.
struct Plan {
    user: User,
    /// Of the service, without its ending.
    service: String,
    file: PathBuf,
    /// A unit of the user's own systemd.
    own: bool,
    /// Nobody named the user: it is who asks by sudo.
    by_sudo: bool,
}

impl Plan {
    fn new(options: &Startup) -> Result<Self, Failure> {
        check_platform(options.platform.as_deref())?;
        let service = options.service_name.strip_suffix(".service");
        let service = service.unwrap_or(&options.service_name).to_owned();
        let fits = |c: char| c.is_ascii_alphanumeric() || ":_.-@".contains(c);
        if service.is_empty() || service.len() > 200 || !service.chars().all(fits) {
            let message = format!("`{}` cannot be a unit's name", service.escape_debug());
            return Err(Failure::tool(USAGE, message)
                .hint("it has letters, digits, `:`, `_`, `.`, `-` and `@`"));
        }
        let uid = geteuid().as_raw();
        // Who asks root by sudo means what they run themselves.
        let asks = std::env::var("SUDO_USER").ok().filter(|_| uid == 0 && options.user.is_none());
        let asks = asks.filter(|name| !name.is_empty() && name != "root");
        let user = match options.user.as_ref().or(asks.as_ref()) {
            Some(name) => user(name)?,
            None => user(&uid.to_string())?,
        };
        if options.user_unit && user.uid != uid {
            let message = format!("a unit of {}'s own systemd is made by that user", user.name);
            return Err(Failure::tool(USAGE, message)
                .hint("without --user-unit, root makes one that runs as that user"));
        }
        let file = directory(options.user_unit, &user).join(format!("{service}.service"));
        Ok(Self { user, service, file, own: options.user_unit, by_sudo: asks.is_some() })
    }

    /// Whose applications are meant, if that was not said.
    fn tell_who(&self) -> Result<(), Failure> {
        let name = &self.user.name;
        if self.by_sudo {
            show::say(&format!(
                "the unit is for the applications of {name}, who asks by sudo; `-u root` for root's own"
            ));
        }
        if let Some((place, false)) = self.home()? {
            let place = place.display();
            show::say(&format!("PHALANX_HOME={place} is not in the unit: it is not {name}'s"));
        }
        Ok(())
    }

    /// `PHALANX_HOME`, if it is set, and whether it is this user's: another one's applications are elsewhere.
    fn home(&self) -> Result<Option<(PathBuf, bool)>, Failure> {
        let home = std::env::var_os("PHALANX_HOME").filter(|home| !home.is_empty());
        let home = home.map(std::path::absolute).transpose();
        let home = home.map_err(Failure::os("find the directory that PHALANX_HOME names"))?;
        Ok(home.map(|place| {
            let is_own = self.user.uid == geteuid().as_raw()
                || fs::metadata(&place).is_ok_and(|about| about.uid() == self.user.uid);
            (place, is_own)
        }))
    }

    /// The command that installs it. sudo(8) has a `PATH` of its own, in which a user's programs are not.
    fn write_command(&self, options: &Startup) -> String {
        let name = &self.user.name;
        let mut words = String::from("phalanx startup");
        if self.own {
            words.push_str(" --user-unit");
        } else {
            let home = self.home().ok().flatten().filter(|(_, is_own)| *is_own);
            let home = home.map(|_| " \"PHALANX_HOME=$PHALANX_HOME\"").unwrap_or_default();
            words = format!("sudo env \"PATH=$PATH\"{home} {words} -u {name}");
        }
        if let Some(directory) = &options.hp {
            words.push_str(&format!(" --hp {}", directory.display()));
        }
        if self.service != "phalanx" {
            words.push_str(&format!(" --service-name {}", self.service));
        }
        words.push_str(if options.wait_ip { " --wait-ip" } else { "" });
        words + " --write"
    }

    fn unit(&self, options: &Startup) -> Result<Unit, Failure> {
        let program = std::env::current_exe().map_err(Failure::os("find this program"))?;
        let home = self.home()?.filter(|(_, is_own)| *is_own).map(|(place, _)| place);
        let runs_as =
            (!self.own && self.user.uid != 0).then(|| (self.user.name.clone(), self.user.uid));
        let directory = options.hp.as_ref().map(std::path::absolute).transpose();
        let directory = directory.map_err(Failure::os("find the directory that --hp names"))?;
        let unit = Unit {
            program,
            name: self.user.name.clone(),
            user: runs_as,
            home,
            directory: directory.filter(|directory| *directory != self.user.home),
            path: unit::absolute_only(&std::env::var("PATH").unwrap_or_default()),
            wait_ip: options.wait_ip,
            own: self.own,
        };
        let paths = [Some(&unit.program), unit.home.as_ref(), unit.directory.as_ref()];
        if let Some(path) = paths.into_iter().flatten().find(|path| path.to_str().is_none()) {
            let message = format!("{} is no UTF-8, and cannot be in a unit", path.display());
            return Err(Failure::tool(UNEXPECTED, message));
        }
        Ok(unit)
    }

    const fn sudo(&self) -> &'static str {
        if self.own { "" } else { "sudo " }
    }

    /// Command lines: of systemctl, with some words, and with one about the service.
    fn commands(&self, plain: &[&str], about: &str) -> Vec<String> {
        let mut all: Vec<String> = plain.iter().map(|word| self.systemctl(&[word])).collect();
        if !about.is_empty() {
            all.push(self.systemctl(&[about, &self.service]));
        }
        all
    }

    fn systemctl(&self, words: &[&str]) -> String {
        let user = if self.own { "--user " } else { "" };
        format!("{}systemctl {user}{}", self.sudo(), words.join(" "))
    }

    fn install(&self, text: &str, command: &str) -> Result<(), Failure> {
        self.ready(command)?;
        if let Some(directory) = self.file.parent() {
            let failed = || Failure::os(format!("make {}", directory.display()));
            fs::create_dir_all(directory).map_err(failed())?;
        }
        let failed = || Failure::os(format!("write {}", self.file.display()));
        write(&self.file, text).map_err(failed())?;
        self.run(&["daemon-reload"])?;
        self.run(&["enable", &self.service])?;
        show::print(&format!(
            "{} is installed and enabled: {}\n",
            self.service,
            self.file.display()
        ));
        show::say(&format!(
            "it begins at the next boot, or now: `{}`",
            self.systemctl(&["start", &self.service])
        ));
        self.notes();
        Ok(())
    }

    fn remove(&self, command: &str) -> Result<(), Failure> {
        self.ready(command)?;
        if !self.file.exists() {
            let message = format!("there is no unit {}", self.file.display());
            return Err(Failure::tool(UNEXPECTED, message)
                .hint("--service-name, --user-unit and --user say which one is meant"));
        }
        self.run(&["disable", &self.service])?;
        let failed = || Failure::os(format!("remove {}", self.file.display()));
        fs::remove_file(&self.file).map_err(failed())?;
        self.run(&["daemon-reload"])?;
        show::print(&format!("{} is removed; the applications run on\n", self.service));
        Ok(())
    }

    /// That there is a systemd, and that it may be changed; the command is what root may do.
    fn ready(&self, command: &str) -> Result<(), Failure> {
        let (sign, whose) = match self.own {
            true => {
                let runtime = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
                (Path::new(&runtime).join("systemd"), "this user's systemd")
            }
            false => (PathBuf::from("/run/systemd/system"), "systemd"),
        };
        if !sign.is_absolute() || !sign.exists() {
            let message = format!("{whose} does not run here: there is no {}", sign.display());
            return Err(Failure::tool(UNEXPECTED, message).hint(
                "in a container, make `phalanx run` its command; elsewhere, run `phalanx resurrect` at boot",
            ));
        }
        if !self.own && !geteuid().is_root() {
            let message = format!("{} is root's to write", self.file.display());
            return Err(Failure::tool(UNEXPECTED, message)
                .hint(format!("{command}\nor --user-unit for a unit of your own")));
        }
        Ok(())
    }

    fn run(&self, words: &[&str]) -> Result<(), Failure> {
        let mut command = Command::new("systemctl");
        command.args(self.own.then_some("--user")).args(words);
        let done = command.output().map_err(Failure::os("run systemctl"))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = ui::text::clean(said.trim()).into_owned();
        Err(Failure::tool(UNEXPECTED, format!("`systemctl {}` failed: {said}", words.join(" "))))
    }

    /// What else has to be known.
    fn notes(&self) {
        if self.own || self.user.uid != 0 {
            let name = &self.user.name;
            show::say(&format!(
                "a user's runtime directory is there from the login to the logout; `loginctl enable-linger {name}` keeps it"
            ));
        }
    }
}

fn check_platform(platform: Option<&str>) -> Result<(), Failure> {
    match platform {
        None | Some("systemd") => Ok(()),
        Some(other) => {
            let message = format!("there is no startup by `{}`", other.escape_debug());
            Err(Failure::tool(USAGE, message)
                .hint("systemd is the only one; elsewhere, run `phalanx resurrect` at boot"))
        }
    }
}

fn directory(own: bool, user: &User) -> PathBuf {
    if !own {
        return PathBuf::from("/etc/systemd/system");
    }
    let named = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let named = named.filter(|place| place.is_absolute());
    named.unwrap_or_else(|| user.home.join(".config")).join("systemd/user")
}

/// Looks a user up, by name or number.
fn user(name: &str) -> Result<User, Failure> {
    // getent(1) asks all that the machine asks.
    let asked = Command::new("getent").args(["passwd", "--", name]).output();
    let told = asked.ok().filter(|told| told.status.success());
    let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned());
    let entries = told.unwrap_or_else(local_users);
    let found = entries
        .lines()
        .filter_map(entry)
        .find(|user| user.name == name || user.uid.to_string() == name);
    found.ok_or_else(|| Failure::tool(USAGE, format!("there is no user `{}`", name.escape_debug())))
}

/// Those that are known without asking anybody.
pub(crate) fn local_users() -> String {
    fs::read_to_string("/etc/passwd").unwrap_or_default()
}

/// A line of passwd(5).
pub(crate) fn entry(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, _, _, home, _] = fields.as_slice() else { return None };
    Some(User { name: (*name).to_owned(), uid: uid.parse().ok()?, home: home.into() })
}

/// Writes it so that it is there as a whole or not at all. A link is not followed: it may be the mask of a unit.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if fs::symlink_metadata(file).is_ok_and(|about| about.mode() & 0o170_000 == 0o120_000) {
        let why = "it is a link: somebody has masked or moved the unit";
        return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, why));
    }
    let draft = file.with_extension("service.new");
    let _ = fs::remove_file(&draft);
    let mut open = fs::OpenOptions::new();
    let mut to = open.write(true).create_new(true).mode(0o644).open(&draft)?;
    to.write_all(text.as_bytes())?;
    to.sync_all()?;
    fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let found = entry("deploy:x:1001:1001:D. Ploy,,,:/srv/deploy:/bin/sh").expect("a user");
        assert_eq!((found.name.as_str(), found.uid), ("deploy", 1001));
        assert_eq!(found.home, Path::new("/srv/deploy"));
        assert!(entry("deploy:x:one:1001::/:/bin/sh").is_none());
        assert!(entry("").is_none());
        assert_eq!(user("0").map(|user| user.name).ok().as_deref(), Some("root"));
        assert!(user("nobody-is-called-so").is_err());
    }

    #[test]
    fn platforms() {
        assert!(check_platform(None).is_ok());
        assert!(check_platform(Some("systemd")).is_ok());
        assert!(check_platform(Some("upstart")).is_err());
    }

    #[test]
    fn a_mask_is_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("phalanx.service");
        write(&file, "one").expect("written");
        write(&file, "two").expect("written again");
        assert_eq!(fs::read_to_string(&file).expect("there"), "two");
        fs::remove_file(&file).expect("there");
        std::os::unix::fs::symlink("/dev/null", &file).expect("masked");
        assert!(write(&file, "three").is_err());
    }
}
