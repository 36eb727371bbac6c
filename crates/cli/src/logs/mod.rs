//! Logs: what workers said, kept in files; and the commands that are about them.

mod chain;
pub(crate) mod index;
mod line;
mod old;
mod places;
mod segment;
mod show;
mod sink;
mod style;
mod time;

pub(crate) use old::{Rules, Tidy, with};
pub(crate) use places::{Places, base, is_file};
pub(crate) use show::logs;
pub(crate) use sink::{Sink, now};
pub(crate) use style::{DateFormat, Piece, Style, take};

use crate::failure::Failure;
use crate::home::{App, Home};

/// Empties the logs of applications, and removes the old ones; also of those that are stopped.
pub(crate) fn flush(apps: &[String]) -> Result<(), Failure> {
    let home = Home::find()?;
    for app in show::applications(&home, apps)? {
        if tell(&app, "flush") {
            continue;
        }
        for path in places::places(&app).0.paths() {
            sink::flush(&path).map_err(Failure::os(format!("empty {}", path.display())))?;
        }
    }
    Ok(())
}

/// Has the primaries open the files of applications anew, as after logrotate(8) has moved them.
pub(crate) fn reopen(apps: &[String]) -> Result<(), Failure> {
    let home = Home::find()?;
    for app in show::applications(&home, apps)? {
        // Without being told, it sees within a second of writing that its file is another one.
        tell(&app, "reopen");
    }
    Ok(())
}

/// Tells a primary about its files; whether it did what it was told.
const fn tell(_app: &App, _word: &str) -> bool {
    false
}
