//! How applications are shown to people.

use crate::control::Description;
use crate::patient::patient;
use crate::ui::progress::aside;
use crate::ui::screen::Screen;
use crate::ui::{applications, details};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

pub(crate) use crate::ui::words::{duration, time};

/// How much is not said: 0: all is, 1: nothing beside results, 2: nothing at all.
static HUSHED: AtomicU8 = AtomicU8::new(0);
const ALL: u8 = 2;

/// Says nothing any more beside results; and no results, if that is all.
pub(crate) fn hush(all: bool) {
    HUSHED.store(if all { ALL } else { 1 }, Ordering::Relaxed);
}

/// Whether what goes on is to be told, beside results.
pub(crate) fn tells_progress() -> bool {
    HUSHED.load(Ordering::Relaxed) == 0 && is_followed()
}

/// The process that started this one and shows what it says; 0: nobody does, and it shows that itself.
static FOLLOWER: AtomicU32 = AtomicU32::new(0);

/// Says nothing any more when the process that started this one is gone.
pub(crate) fn follow_the_one_who_follows() {
    FOLLOWER.store(parent(), Ordering::Relaxed);
}

fn is_followed() -> bool {
    let follower = FOLLOWER.load(Ordering::Relaxed);
    follower == 0 || follower == parent()
}

fn parent() -> u32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs())
}

/// Prints it. A reader that went away has read enough.
pub(crate) fn print(text: &str) {
    if HUSHED.load(Ordering::Relaxed) == ALL || !is_followed() {
        return;
    }
    aside(|| {
        let _ = std::io::stdout().write_all(text.as_bytes());
    });
}

/// Says a line on stderr, beside the result.
pub(crate) fn say(text: &str) {
    if !tells_progress() {
        return;
    }
    aside(|| {
        let (mut stderr, rest) = patient(std::io::stderr());
        let _ = stderr.write_all(format!("phalanx: {text}\n").as_bytes());
        drop(rest);
    });
}

/// Applications and their workers, for the standard output.
pub(crate) fn table(apps: &[Description]) -> String {
    applications::table(apps, false, Screen::stdout())
}

/// All that is known of an application, for the standard output.
pub(crate) fn details(app: &Description, environment: &[String]) -> String {
    details::details(app, environment, Screen::stdout())
}

/// What an application that is not settled waits for.
pub(crate) fn unsettled(app: &Description) -> String {
    let mut text = format!("{} of {} workers are ready", app.ready, app.wanted);
    for slot in &app.waiting {
        let (number, wait) = (slot.slot, time(slot.wait_ms));
        let _ =
            write!(text, "; slot {number} waits {wait} after {} crashes in a row", slot.crashes);
    }
    text
}
