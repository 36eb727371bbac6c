//! What is wrong with a configuration file, and where.

use crate::failure::{Failure, UNEXPECTED};
use std::fmt;
use std::path::Path;

/// Something that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) line: Option<usize>,
    /// Whose it is: `apps[0] (api)`.
    pub(super) place: Option<String>,
    pub(super) key: Option<String>,
    pub(super) words: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key].into_iter().flatten() {
            write!(to, "{part}: ")?;
        }
        to.write_str(&self.words)
    }
}

impl Problem {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), ..Self::default() }
    }

    /// With the file, and the line as compilers tell it.
    pub(super) fn in_file(&self, file: &Path) -> String {
        let file = file.display();
        match self.line {
            Some(line) => format!("{file}:{line}: {self}"),
            None => format!("{file}: {self}"),
        }
    }
}

/// All of them as one failure.
pub(super) fn failure(problems: &[Problem], file: &Path) -> Failure {
    let hint = format!("`phalanx check {}` checks it, and starts nothing", file.display());
    let lines: Vec<String> = problems.iter().map(|problem| problem.in_file(file)).collect();
    let message = match lines.as_slice() {
        [line] => line.clone(),
        lines => format!("{} things are wrong:\n  {}", lines.len(), lines.join("\n  ")),
    };
    Failure::tool(UNEXPECTED, message).hint(hint)
}
