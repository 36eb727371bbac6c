//! What is measured, one file each.

mod rates;
mod reload;

use crate::peers::Programs;
use crate::report::Section;

/// What a scenario has to know.
pub(crate) struct Context {
    pub(crate) programs: Programs,
    /// A short run: fewer rounds, smaller sizes.
    pub(crate) quick: bool,
}

impl Context {
    /// One of two values: of a full run, or of a short one.
    pub(crate) fn full_or<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Progress, for whoever waits.
    pub(crate) fn say(&self, what: &str) {
        eprintln!("  {what}");
    }
}

/// Something that is measured.
pub(crate) struct Scenario {
    /// As `--only` takes it.
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Context) -> Result<Vec<Section>, String>,
}

/// All of them, in the order of the report.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "rates",
        about: "connections and requests per second, Node and Rust",
        run: rates::run,
    },
    Scenario {
        name: "reload",
        about: "reloads of 4 Node workers under load: errors, hangs, time",
        run: reload::run,
    },
];
