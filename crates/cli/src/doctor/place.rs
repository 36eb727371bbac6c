//! Where this is: under systemd, in a container; and the clock.

use super::Findings;
use crate::home::Home;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn look() -> Findings {
    let mut found = Findings::new("Surroundings");
    let container = container();
    let systemd = Path::new("/run/systemd/system").exists();
    match (&container, systemd) {
        (Some(kind), false) => found.ok(
            "container",
            format!("{kind}: make `phalanx run` its command; as its first process it reaps what others leave"),
        ),
        (Some(kind), true) => found.ok("container", format!("{kind}, with systemd")),
        (None, _) => {}
    }
    boot(&mut found, systemd, container.is_some());
    clock(&mut found);
    found
}

fn container() -> Option<String> {
    if let Some(name) = std::env::var("container").ok().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let signs = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let found = signs.into_iter().find(|(file, _)| Path::new(file).exists());
    let orchestrated =
        || std::env::var_os("KUBERNETES_SERVICE_HOST").map(|_| "kubernetes".to_owned());
    found.map(|(_, name)| name.to_owned()).or_else(orchestrated)
}

/// Whether what is to run begins with the machine.
fn boot(found: &mut Findings, systemd: bool, container: bool) {
    const NAME: &str = "at boot";
    if !systemd {
        if !container {
            let advice = "let whatever starts services here run `phalanx resurrect`";
            found.note(NAME, "systemd does not run here", advice);
        }
        return;
    }
    let unit = units().into_iter().find(|file| file.exists());
    let wanted = Home::find().and_then(|home| home.intents()).unwrap_or_default();
    let wanted = wanted.iter().filter(|spec| !spec.stopped).count();
    match unit {
        Some(file) => found.ok(NAME, format!("a unit is installed: {}", file.display())),
        None if wanted == 0 => found.ok(NAME, "no unit is installed, and nothing is to run"),
        None => found.note(
            NAME,
            format!("no unit is installed, and {wanted} are to run"),
            "`phalanx startup` prints one, and the command that installs it",
        ),
    }
}

/// Where `startup` puts them by itself.
fn units() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let own = own.map(|place| place.join("systemd/user"));
    let places = [Some(PathBuf::from("/etc/systemd/system")), own];
    places.into_iter().flatten().map(|place| place.join("phalanx.service")).collect()
}

/// A clock that is behind gives logs and snapshots wrong names.
fn clock(found: &mut Findings) {
    let now = SystemTime::now();
    let this = std::env::current_exe().and_then(fs::metadata).and_then(|about| about.modified());
    let behind = this.is_ok_and(|made| made.duration_since(now).is_ok_and(|by| by > DAY));
    match behind {
        true => found.note(
            "clock",
            "it is behind: this program is newer than now",
            "see timedatectl(1)",
        ),
        false => found
            .ok("clock", format!("{}", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC"))),
    }
}
