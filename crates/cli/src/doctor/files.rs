//! The directories of applications, and the applications that are there.

use super::Findings;
use crate::control::Description;
use crate::home::{App, Home, Lock};
use crate::list::descriptions;
use crate::ui::words::{Status, memory, status};
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Below so much space, logs are about to be lost.
const LITTLE: u64 = 200 << 20;
/// Below so much, nothing can be written any more.
const NOTHING: u64 = 1 << 20;

pub(super) fn look() -> Findings {
    let mut found = Findings::new("Files and applications");
    let home = match Home::find() {
        Ok(home) => home,
        Err(error) => {
            let advice = error.hint().unwrap_or_default();
            found.problem("home", error.to_string(), advice);
            return found;
        }
    };
    for (name, place) in home.directories() {
        directory(&mut found, name, place);
    }
    applications(&mut found, &home);
    found
}

fn directory(found: &mut Findings, name: &str, place: &Path) {
    let shown = place.display();
    // What is not there yet is made in what is.
    let Some(there) = place.ancestors().find(|place| place.exists()) else {
        return found.problem(
            name,
            format!("{shown} cannot be made"),
            "choose another PHALANX_HOME",
        );
    };
    let about = fs::metadata(there);
    if !about.as_ref().is_ok_and(fs::Metadata::is_dir) {
        return found.problem(name, format!("{} is no directory", there.display()), "");
    }
    let space = statvfs(there).ok();
    let space = space.as_ref();
    if space.is_some_and(|space| space.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        let advice = "mount it for writing, or choose another place with PHALANX_HOME";
        return found.problem(name, format!("{shown} is on a read-only file system"), advice);
    }
    if access(there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let advice = "make it this user's (chown), or choose another place with PHALANX_HOME";
        return found.problem(name, format!("{} may not be written to", there.display()), advice);
    }
    let free = space.map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize));
    let nodes = space.is_some_and(|space| space.f_files > 0 && space.f_favail == 0);
    let mode = about.map(|about| about.mode() & 0o777).unwrap_or_default();
    let what = match there == place {
        true => format!("{shown} (mode {mode:o}, {} free)", memory(free)),
        false => format!("{shown} (made when it is needed, {} free)", memory(free)),
    };
    if free < NOTHING || nodes {
        found.problem(name, what, "the disk is full: make room");
    } else if free < LITTLE {
        found.note(name, what, "the disk is almost full: make room");
    } else {
        found.ok(name, what);
    }
}

fn applications(found: &mut Findings, home: &Home) {
    let all = match descriptions(home) {
        Ok(all) => all,
        Err(failure) => return found.problem("applications", failure.to_string(), ""),
    };
    let fine = all.iter().filter(|about| application(found, &home.app(&about.name), about)).count();
    if fine == all.len() {
        let what = match fine {
            0 => "none was started".to_owned(),
            n => format!("{n}, as they should be"),
        };
        found.ok("applications", what);
    }
}

/// Whether there is nothing to be said of it.
fn application(found: &mut Findings, app: &App, about: &Description) -> bool {
    let name = &about.name;
    let this = env!("CARGO_PKG_VERSION");
    match status(about) {
        Status::NotAnswering => found.problem(
            name,
            "its primary is there, and does not answer",
            format!("`phalanx delete {name} --now` kills it; then start it again"),
        ),
        Status::Orphaned => found.note(
            name,
            "its primary was killed, and workers are left",
            format!("`phalanx start {name}` ends them, and starts new ones"),
        ),
        Status::CrashLoop => found.note(
            name,
            "its workers crash again and again",
            format!("`phalanx why {name}` and `phalanx logs {name}` tell more"),
        ),
        Status::Stopped | Status::Errored if app.socket().exists() && !Lock::is_held(app) => found
            .note(
                name,
                "it was killed: its control socket is still there",
                format!("`phalanx start {name}` or `phalanx resurrect` starts it again"),
            ),
        Status::Errored => found.note(
            name,
            "it gave up",
            format!("`phalanx logs {name}` tells more, `phalanx start {name}` starts it again"),
        ),
        _ if about.primary_pid.is_some() && about.version != this => found.note(
            name,
            format!("runs phalanx {}, and this is {this}", about.version),
            format!("`phalanx upgrade {name}` changes that, and its workers do not notice"),
        ),
        _ => return true,
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn level(place: &Path) -> Level {
        let mut found = Findings::new("Files");
        directory(&mut found, "logs", place);
        found.all.first().expect("one").level
    }

    #[test]
    fn directories() {
        let place = tempfile::tempdir().expect("a directory");
        assert_eq!(level(place.path()), Level::Ok);
        assert_eq!(level(&place.path().join("not/yet")), Level::Ok);
        let file = place.path().join("file");
        fs::write(&file, "").expect("written");
        assert_eq!(level(&file), Level::Problem);
        assert_eq!(level(&file.join("below")), Level::Problem);
        // Read-only for everybody.
        assert_eq!(level(Path::new("/proc/sys/kernel/phalanx")), Level::Problem);
    }

    #[test]
    fn applications_that_run_another_version() {
        let about = Description {
            name: "shop".into(),
            state: "running".into(),
            primary_pid: Some(1),
            version: "0.0.1".into(),
            ..Description::default()
        };
        let mut found = Findings::new("Files");
        let home = Home::find().expect("a home");
        assert!(!application(&mut found, &home.app("shop"), &about));
        let advice = found.all.first().and_then(|found| found.advice.clone()).unwrap_or_default();
        assert!(advice.contains("phalanx upgrade shop"), "{advice}");
        let about = Description { version: env!("CARGO_PKG_VERSION").into(), ..about };
        assert!(application(&mut found, &home.app("shop"), &about));
    }
}
