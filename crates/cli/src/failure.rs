//! What went wrong, as people and scripts see it: words on stderr and an exit code.

use crate::patient::patient;
use phalanx::Error;
use std::io::Write;
use std::process::ExitCode;

/// The exit code for what has no code of its own.
pub(crate) const UNEXPECTED: u8 = 1;
/// The exit code for what is wrong with the command line; clap's too.
pub(crate) const USAGE: u8 = 2;
/// The exit code when no worker became ready, or not all did in time.
pub(crate) const NOT_READY: u8 = 4;
/// The exit code of `start` when an application of that name runs.
pub(crate) const RUNS: u8 = 6;

/// A failure of the program.
#[derive(Debug)]
pub(crate) struct Failure {
    what: What,
    /// The application.
    name: Option<String>,
}

#[derive(Debug)]
enum What {
    /// The library's.
    Cluster(Error),
    /// The tool's own.
    Tool { message: String, hint: Option<String>, code: u8 },
    /// Said already, by whom this process followed.
    Said { code: u8 },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { what: What::Cluster(error), name: None }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.what {
            What::Cluster(error) => error.fmt(f),
            What::Tool { message, .. } => f.write_str(message),
            What::Said { .. } => f.write_str("it failed"),
        }
    }
}

impl Failure {
    /// A failure of an application.
    pub(crate) const fn of(name: String, error: Error) -> Self {
        Self { what: What::Cluster(error), name: Some(name) }
    }

    /// A failure of the tool's own, with its exit code.
    pub(crate) fn tool(code: u8, message: impl Into<String>) -> Self {
        Self { what: What::Tool { message: message.into(), hint: None, code }, name: None }
    }

    /// For those who know the library only.
    pub(crate) fn into_error(self) -> Error {
        match self.what {
            What::Cluster(error) => error,
            What::Tool { message, .. } => Error::Setting(message),
            What::Said { .. } => Error::Setting("it failed".into()),
        }
    }

    /// One that another process has said already.
    pub(crate) const fn said(code: u8) -> Self {
        Self { what: What::Said { code }, name: None }
    }

    /// And what to do about it.
    pub(crate) fn hint(mut self, text: impl Into<String>) -> Self {
        if let What::Tool { hint, .. } = &mut self.what {
            *hint = Some(text.into());
        }
        self
    }

    /// The operating system does not let something be done.
    pub(crate) fn os(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::tool(UNEXPECTED, format!("cannot {what}: {error}"))
    }

    /// Says it, and gives the exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        let name = self.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        let (message, hint) = match &self.what {
            What::Cluster(error) => (error.to_string(), error.hint()),
            What::Tool { message, hint, .. } => (message.clone(), hint.clone()),
            What::Said { code } => return ExitCode::from(*code),
        };
        let mut text = format!("phalanx: {name}{message}\n");
        if let Some(hint) = hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        // A reader that does not read keeps no code from the one who started this.
        let (mut stderr, rest) = patient(std::io::stderr());
        let _ = stderr.write_all(text.as_bytes());
        drop(rest);
        ExitCode::from(self.code())
    }

    /// In words, without a hint.
    pub(crate) fn message(&self) -> String {
        match &self.what {
            What::Cluster(error) => error.to_string(),
            What::Tool { message, .. } => message.clone(),
            What::Said { .. } => "it failed".into(),
        }
    }

    /// Its exit code.
    pub(crate) const fn code(&self) -> u8 {
        let error = match &self.what {
            What::Tool { code, .. } | What::Said { code } => return *code,
            What::Cluster(error) => error,
        };
        match error {
            Error::WorkerCount(_)
            | Error::PortBase(..)
            | Error::Policy(_)
            | Error::Address(_)
            | Error::Setting(_) => USAGE,
            Error::Start { .. }
            | Error::Program { .. }
            | Error::Permissions { .. }
            | Error::NotStarted(_) => 3,
            Error::NeverReady(_) => NOT_READY,
            Error::Listen { .. } => 5,
            Error::Taken(_) => RUNS,
            _ => UNEXPECTED,
        }
    }
}
