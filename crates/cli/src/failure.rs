//! What went wrong, as people and scripts see it: words on stderr and an exit code.

use crate::patient::patient;
use phalanx::Error;
use std::io::Write;
use std::process::ExitCode;

/// A failure of the program.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Error,
    /// The application.
    name: Option<String>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, name: None }
    }
}

impl Failure {
    /// A failure of an application.
    pub(crate) const fn of(name: String, error: Error) -> Self {
        Self { error, name: Some(name) }
    }

    /// Says it, and gives the exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        let name = self.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        let mut text = format!("phalanx: {name}{}\n", self.error);
        if let Some(hint) = self.error.hint() {
            text.push_str(&format!("hint: {hint}\n"));
        }
        // A reader that does not read keeps no code from the one who started this.
        let (mut stderr, rest) = patient(std::io::stderr());
        let _ = stderr.write_all(text.as_bytes());
        drop(rest);
        ExitCode::from(self.code())
    }

    const fn code(&self) -> u8 {
        match self.error {
            Error::WorkerCount(_)
            | Error::PortBase(..)
            | Error::Policy(_)
            | Error::Address(_)
            | Error::Setting(_) => 2,
            Error::Start { .. } | Error::Program { .. } | Error::NotStarted(_) => 3,
            Error::NeverReady(_) => 4,
            Error::Listen { .. } => 5,
            _ => 1,
        }
    }
}
