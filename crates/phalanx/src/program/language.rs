//! Scripts of other languages than JavaScript: which interpreter runs them, by their extension.

use super::find;
use super::interpreter::Interpreter;
use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

/// A language, as far as starting its programs goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Language {
    extension: &'static str,
    /// The first of them that is there.
    interpreters: &'static [&'static str],
    /// Right before the script.
    pub(super) flags: &'static [&'static str],
    /// What to install: the name of Debian's package.
    package: &'static str,
}

const LANGUAGES: [Language; 9] = [
    Language::new("py", &["python3", "python"], &[], "python3"),
    Language::new("rb", &["ruby"], &[], "ruby"),
    Language::new("php", &["php"], &[], "php-cli"),
    Language::new("pl", &["perl"], &[], "perl"),
    Language::new("sh", &["sh"], &[], "dash"),
    Language::new("bash", &["bash"], &[], "bash"),
    Language::new("jar", &["java"], &["-jar"], "default-jre-headless"),
    // A single source file is compiled on the way: the JDK has to be there.
    Language::new("java", &["java"], &[], "default-jdk-headless"),
    Language::new("lua", &["lua"], &[], "lua5.4"),
];

impl Language {
    const fn new(
        extension: &'static str,
        interpreters: &'static [&'static str],
        flags: &'static [&'static str],
        package: &'static str,
    ) -> Self {
        Self { extension, interpreters, flags, package }
    }

    pub(super) fn of(script: &Path) -> Option<&'static Self> {
        let extension = script.extension()?;
        LANGUAGES.iter().find(|language| extension == language.extension)
    }

    /// Whether a program of this name, versions aside, runs scripts of one of the languages; shells may run anything.
    pub(super) fn is_interpreter(name: &str) -> bool {
        let bare =
            |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').to_owned();
        let all = LANGUAGES.iter().flat_map(|language| language.interpreters);
        all.filter(|it| !super::is_shell(Path::new(it))).any(|it| bare(it) == bare(name))
    }

    /// The interpreter in `$PATH`.
    pub(super) fn interpreter(&self) -> Result<Interpreter> {
        self.interpreter_by(|name| find(OsStr::new(name)))
    }

    pub(super) fn interpreter_by(
        &self,
        find: impl Fn(&str) -> Result<std::path::PathBuf>,
    ) -> Result<Interpreter> {
        match self.interpreters.iter().find_map(|name| find(name).ok()) {
            Some(path) => Interpreter::new(path),
            None => Err(Error::Program {
                program: self.interpreters.join(" or "),
                why: format!("it is not in $PATH, and .{} scripts are run with it", self.extension),
                hint: Some(format!(
                    "install it (Debian's package {}), or name an interpreter with --interpreter",
                    self.package
                )),
            }),
        }
    }
}

/// Whether the kernel knows how to run a script: it is executable, and its first line names an interpreter.
pub(super) fn runs_by_itself(script: &Path) -> bool {
    let mut mark = [0; 2];
    let read = |mut file: std::fs::File| file.read_exact(&mut mark);
    super::executable(script).is_ok()
        && std::fs::File::open(script).and_then(read).is_ok()
        && mark == *b"#!"
}
