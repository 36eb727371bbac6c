//! Signals by name, as kill(1) has them.

use crate::failure::{Failure, USAGE};
use phalanx::Signal;

/// All that have a name everywhere; their numbers are the machine's.
const NAMES: [(&str, Signal); 29] = [
    ("ABRT", Signal::ABORT),
    ("ALRM", Signal::ALARM),
    ("BUS", Signal::BUS),
    ("CHLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("FPE", Signal::FPE),
    ("HUP", Signal::HUP),
    ("ILL", Signal::ILL),
    ("INT", Signal::INT),
    ("IO", Signal::IO),
    ("KILL", Signal::KILL),
    ("PIPE", Signal::PIPE),
    ("PROF", Signal::PROF),
    ("QUIT", Signal::QUIT),
    ("SEGV", Signal::SEGV),
    ("STOP", Signal::STOP),
    ("SYS", Signal::SYS),
    ("TERM", Signal::TERM),
    ("TRAP", Signal::TRAP),
    ("TSTP", Signal::TSTP),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("VTALRM", Signal::VTALARM),
    ("WINCH", Signal::WINCH),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
];

/// The number of a signal, by its name, with or without SIG, or as it is.
pub(crate) fn number(text: &str) -> Result<i32, Failure> {
    let wrong = || {
        Failure::tool(USAGE, format!("`{}` is no signal", text.escape_debug()))
            .hint("as in kill(1): USR1, SIGHUP, 15")
    };
    if let Ok(number) = text.parse::<i32>() {
        let is_known = NAMES.iter().any(|(_, signal)| signal.as_raw() == number);
        return is_known.then_some(number).ok_or_else(wrong);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, signal)| signal.as_raw()).ok_or_else(wrong)
}

/// What it is called.
pub(crate) fn name(number: i32) -> String {
    let found = NAMES.iter().find(|(_, signal)| signal.as_raw() == number);
    found.map_or_else(|| format!("signal {number}"), |(name, _)| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for text in ["TERM", "sigterm", "SIGTERM", "15"] {
            assert_eq!(number(text).ok(), Some(15), "{text}");
        }
        for text in ["", "SIG", "0", "65", "-1", "nonsense"] {
            assert!(number(text).is_err(), "{text}");
        }
        assert!(NAMES.iter().all(|(text, signal)| number(text).ok() == Some(signal.as_raw())));
        assert_eq!((name(9), name(40)), ("SIGKILL".into(), "signal 40".into()));
    }
}
