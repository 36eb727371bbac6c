//! Logs: what workers said, kept in files; and the commands that are about them.

mod aside;
mod chain;
pub(crate) mod index;
mod line;
mod lock;
mod old;
mod places;
mod segment;
mod show;
mod sink;
mod style;
mod time;

pub(crate) use old::{Rules, Tidy, with};
pub(crate) use places::{Places, is_file, places, places_of};
pub(crate) use show::logs;
pub(crate) use sink::{Sink, now};
pub(crate) use style::{DateFormat, Piece, Style, colour, take};

use crate::control::{Word, ask_within};
use crate::failure::Failure;
use crate::home::{App, Home};
use crate::output::LogFiles;
use phalanx::control::Control;
use serde_json::Value;
use std::time::Duration;

/// How long a primary may take to open or to empty its files.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has a primary obey what it is told about its files.
pub(crate) fn obeying(control: Control, files: Option<LogFiles>) -> Control {
    let Some(files) = files else { return control };
    let (opened, emptied) = (files.clone(), files);
    let control = control.on("reopen", move || {
        opened.reopen();
        Ok(Value::Null)
    });
    control.on("flush", move || {
        emptied.flush();
        Ok(Value::Null)
    })
}

/// Empties the logs of applications, and removes the old ones; also of those that are stopped.
pub(crate) fn flush(apps: &[String]) -> Result<(), Failure> {
    let home = Home::find()?;
    for app in show::applications(&home, apps)? {
        // Its primary does it between two lines, and with it begins a new index.
        if !tell(&app, "flush") {
            for path in places(&app).0.paths() {
                sink::flush(&path).map_err(Failure::os(format!("empty {}", path.display())))?;
            }
        }
        crate::show::say(&format!("{}: its logs are emptied", app.name));
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

/// Tells a primary about its files. Not done: it does not run, or has no files.
fn tell(app: &App, word: &str) -> bool {
    ask_within(app, &Word::Other(word.to_owned()), PATIENCE).is_ok()
}
