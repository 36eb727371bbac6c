//! What an application tells of itself, beside what its primary knows.

use crate::home::App;
use crate::logs::places;
use crate::startup::{entry, local_users};
use phalanx::Settings;
use phalanx::control::{Control, Logs};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Directories above the script in which its package may be described.
const LEVELS: usize = 4;

pub(crate) fn tell(control: &mut Control, settings: &Settings) {
    let logs = (!control.spec().foreground).then(|| logs(control.app()));
    let about = control.about();
    about.program_version = version(settings);
    about.user = user();
    about.logs = logs.unwrap_or_default();
}

pub(crate) fn logs(app: &App) -> Logs {
    let (places, _) = places(app);
    // What goes to no file of its own may be in the one for both.
    let file = |own: Option<PathBuf>| {
        own.or_else(|| places.both.clone()).map_or_else(String::new, |p| p.display().to_string())
    };
    Logs {
        primary: app.primary_log().display().to_string(),
        out: file(places.out.clone()),
        err: file(places.err.clone()),
    }
}

/// As the package.json says that is nearest to the script.
fn version(settings: &Settings) -> Option<String> {
    let script = settings.args.first().map(PathBuf::from).filter(|script| script.is_absolute());
    let program = script.or_else(|| settings.exec.clone())?;
    let above = program.ancestors().skip(1).take(LEVELS).find_map(in_package);
    above.filter(|version| version.len() <= 64 && !version.contains(char::is_control))
}

fn in_package(directory: &Path) -> Option<String> {
    let text = std::fs::read(directory.join("package.json")).ok()?;
    let package: Value = serde_json::from_slice(&text).ok()?;
    package.get("version")?.as_str().map(str::to_owned)
}

/// Whose processes they are.
fn user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let users = local_users();
    let named = users.lines().filter_map(entry).find(|user| user.uid == uid);
    named.map_or_else(|| uid.to_string(), |user| user.name)
}
