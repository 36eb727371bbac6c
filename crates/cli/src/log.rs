//! The log: lines on stderr, or the last few of them under the demo's table.

use crate::logs::bounded;
use crate::output::beside;
use crate::patient::{Rest, patient};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable that sets how much is told: error, warn, info, debug or trace.
const VARIABLE: &str = "PHALANX_LOG";
/// Lines kept for the table.
const KEPT: usize = 8;

fn level() -> LevelFilter {
    std::env::var(VARIABLE).ok().and_then(|name| name.parse().ok()).unwrap_or(LevelFilter::INFO)
}

/// Says so where the variable names no level.
fn check_level() {
    if let Ok(name) = std::env::var(VARIABLE)
        && name.parse::<LevelFilter>().is_err()
    {
        tracing::warn!(
            "{VARIABLE} is `{}`: expected error, warn, info, debug or trace",
            name.escape_debug()
        );
    }
}

/// Colours, where somebody looks who did not say no to them (no-color.org).
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    !is_without_colours()
        && stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

/// As `NO_COLOR` in the environment, on the command line.
static WITHOUT_COLOURS: AtomicBool = AtomicBool::new(false);

/// Whether the command line says so.
pub(crate) fn is_without_colours() -> bool {
    WITHOUT_COLOURS.load(Ordering::Relaxed)
}

/// Nobody wants colours.
pub(crate) fn without_colours() {
    WITHOUT_COLOURS.store(true, Ordering::Relaxed);
}

/// Log lines go to stderr. The last ones are out when what is returned was dropped.
pub(crate) fn to_stderr() -> Rest {
    let (stderr, rest) = patient(bounded(beside(io::stderr()), io::stderr()));
    tracing_subscriber::fmt()
        .with_max_level(level())
        .with_target(false)
        .with_ansi(colours(&io::stderr()))
        .with_writer(move || stderr.clone())
        // A closed stderr is no reason to stop serving.
        .log_internal_errors(false)
        .init();
    check_level();
    rest
}

/// The last log lines, kept for the table.
#[derive(Clone, Default)]
pub(crate) struct Recent(Arc<Mutex<VecDeque<String>>>);

/// Log lines are kept, and shown by the table.
pub(crate) fn to_table() -> Recent {
    let recent = Recent::default();
    tracing_subscriber::fmt()
        .with_max_level(level())
        .with_target(false)
        // The table's lines are short.
        .without_time()
        .with_ansi(false)
        .with_writer(recent.clone())
        .log_internal_errors(false)
        .init();
    recent
}

impl Recent {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Write for Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in String::from_utf8_lossy(bytes).lines() {
            if lines.len() == KEPT {
                lines.pop_front();
            }
            lines.push_back(line.to_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Recent {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
