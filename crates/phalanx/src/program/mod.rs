//! What a worker runs, from what a person names: a program, a script and its interpreter, an npm script.

pub(crate) mod directory;
mod interpreter;
mod language;
mod npm;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::settings::{Intercept, Knows, Settings};
use crate::sys;
use interpreter::{Interpreter, Kind};
use language::Language;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Scripts that are run by the interpreter of their kind, whether or not they are executable.
const SCRIPTS: [&str; 6] = ["js", "cjs", "mjs", "ts", "cts", "mts"];
/// npm scripts that call npm scripts that call …
const MAX_NESTING: usize = 8;

/// What a worker runs. [`Program::settings`] finds it and says how it is started.
///
/// | named | is run as |
/// |---|---|
/// | `server.js`, `.cjs`, `.mjs`, a directory with a `package.json`, a file that begins with `#!…node` | `node server.js`, as a Node worker |
/// | `server.ts`, `.cts`, `.mts` | the same, where that Node can (or the package `tsx` is there) |
/// | `node` | with the arguments as they are, as a Node worker |
/// | `app.py`, `.rb`, `.php`, `.pl`, `.sh`, `.bash`, `.lua`, `.jar`, `.java` | what its `#!` line says if it is executable; else `python3 app.py` and so on, `java -jar app.jar` |
/// | `npm`, `yarn` or `pnpm` with `start` or `run NAME` | what the script in `package.json` runs, without npm and a shell in between |
/// | anything else | that program: in `$PATH`, or in the working directory |
///
/// A Node worker is started with a small preload (see [`Program::preload`]) and, where that Node knows it, a
/// compile cache (`NODE_COMPILE_CACHE`, unless it is set).
///
/// ```no_run
/// use phalanx::{Cluster, Program};
/// fn main() -> phalanx::Result<()> {
///     let settings = Program::new("server.js").args(["--verbose"]).settings()?;
///     Cluster::new().workers(4).settings(settings).run_as_primary()
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is looked for until its settings are asked for"]
pub struct Program {
    name: OsString,
    args: Vec<OsString>,
    interpreter: Option<OsString>,
    interpreter_args: Vec<OsString>,
    preload: bool,
    inspect: Option<SocketAddr>,
    intercept: Intercept,
}

impl Program {
    /// A program by its name.
    pub fn new(name: impl Into<OsString>) -> Self {
        Self {
            name: name.into(),
            args: Vec::new(),
            interpreter: None,
            interpreter_args: Vec::new(),
            preload: true,
            inspect: None,
            intercept: if sys::can_intercept() { Intercept::All } else { Intercept::Off },
        }
    }

    /// Its own arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The interpreter to run it with, by name or path; `none`: it is a program of its own.
    pub fn interpreter(mut self, name: impl Into<OsString>) -> Self {
        self.interpreter = Some(name.into());
        self
    }

    /// Arguments for the interpreter, before the script.
    pub fn interpreter_args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.interpreter_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Whether Node workers get the preload: it drains without cutting keep-alive connections, keeps
    /// messages that come before the program listens, and reports uncaught exceptions and metrics. It
    /// is written to a private directory. On by default.
    pub const fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    /// Each worker (of Node, Deno or Bun) opens an inspector: on this port plus its slot, or the next
    /// one that is free.
    pub const fn inspect(mut self, address: Option<SocketAddr>) -> Self {
        self.inspect = address;
        self
    }

    /// Which ports that it binds itself are shared. All where that is possible; for Node none: its programs share
    /// what they do not say to be `exclusive`.
    pub fn intercept(mut self, intercept: Intercept) -> Self {
        self.intercept = intercept;
        self
    }

    /// Finds it, and says how to start it.
    ///
    /// # Errors
    /// The program or its interpreter is not there, is too old, or cannot run such a script.
    pub fn settings(self) -> Result<Settings> {
        self.resolve(0)
    }

    fn resolve(self, depth: usize) -> Result<Settings> {
        match self.interpreter.clone() {
            Some(none) if none == "none" => {
                let program = find(&self.name)?;
                Ok(self.directly(program))
            }
            Some(_) if npm::Manager::of(&self.name).is_some() => Err(refused(
                &self.name,
                "an npm script names its own interpreter",
                "leave --interpreter out, or name the script's program itself",
            )),
            Some(name) => {
                let interpreter = Interpreter::new(find(&name)?)?;
                let script = existing(&self.name)?;
                self.with(&interpreter, Some(script))
            }
            None => self.guess(depth),
        }
    }

    fn guess(mut self, depth: usize) -> Result<Settings> {
        // As Node has it: `server` is server.js, if nothing else is.
        let nothing = !Path::new(&self.name).exists() && find(&self.name).is_err();
        if let (true, Some(file)) = (nothing, with_extension(&self.name)) {
            self.name = file;
        }
        let path = Path::new(&self.name);
        if is_javascript(path) || path.is_dir() {
            let script = existing(&self.name)?;
            if script.is_dir() && !script.join("package.json").exists() {
                let why = "it is a directory without a package.json";
                return Err(refused(&self.name, why, "name the file of the program"));
            }
            return self.with(&Interpreter::node()?, Some(script));
        }
        if let Some(language) = Language::of(path) {
            // Elsewhere in $PATH it can only be a program.
            if path.exists() || find(&self.name).is_err() {
                let script = existing(&self.name)?;
                if !language::runs_by_itself(&script) {
                    return self.with(&language.interpreter()?, Some(script));
                }
                // Not another one of that name in $PATH.
                self.name = script.into();
            }
        }
        if let Some(manager) = npm::Manager::of(&self.name) {
            if depth >= MAX_NESTING {
                return Err(Error::Program {
                    program: manager.name().into(),
                    why: "its scripts call each other without an end".into(),
                    hint: None,
                });
            }
            let line = npm::resolve(manager, &self.args)?;
            let mut settings =
                Self { name: line.program, args: line.args, ..self }.resolve(depth + 1)?;
            // The outermost script's directory, the innermost one's variables.
            settings.cwd.get_or_insert(line.directory);
            let set: Vec<OsString> = settings.env.iter().map(|(k, _)| k.clone()).collect();
            settings.env.extend(line.env.into_iter().filter(|(k, _)| !set.contains(k)));
            return Ok(settings);
        }
        let bare = Path::new(&self.name).components().count() == 1;
        if let Some(why) = npm::wrapper(&self.name).filter(|_| bare) {
            return Err(refused(&self.name, why, npm::NAME_THE_SERVER));
        }
        let program = find(&self.name)?;
        if let Some(words) = node_shebang(&program) {
            self.interpreter_args.extend(words);
            return self.with(&Interpreter::node()?, Some(program));
        }
        if Kind::of(&program) == Kind::Node {
            return self.with(&Interpreter::new(program)?, None);
        }
        Ok(self.directly(program))
    }

    fn directly(self, program: PathBuf) -> Settings {
        Settings {
            knows: knows(&program, None),
            exec: Some(program),
            args: self.args,
            intercept: self.intercept,
            ..Settings::default()
        }
    }

    /// `script: None`: the arguments are the interpreter's own, script and all.
    fn with(self, interpreter: &Interpreter, script: Option<PathBuf>) -> Result<Settings> {
        let language = script.as_deref().and_then(Language::of);
        let mut settings = Settings {
            exec: Some(interpreter.path.clone()),
            knows: knows(&interpreter.path, script.as_deref()),
            // The flag is known to those who run JavaScript.
            inspect: self.inspect.filter(|_| language.is_none()),
            ..Settings::default()
        };
        let flags = &mut settings.exec_args;
        flags.extend(interpreter.command().iter().map(OsString::from));
        if interpreter.version.is_none() {
            // Their own servers ask no primary.
            settings.intercept = self.intercept;
        }
        if let Some(version) = interpreter.version {
            settings.preload = self.preload;
            settings.env.extend(directory::compile_cache(version));
        }
        if let Some(script) = &script {
            flags.extend(interpreter.flags_for(script)?);
        }
        flags.extend(self.interpreter_args);
        flags.extend(language.iter().flat_map(|l| l.flags).map(OsString::from));
        settings.args = script.into_iter().map(OsString::from).chain(self.args).collect();
        Ok(settings)
    }
}

/// A script that is there, by its full name.
fn existing(name: &OsStr) -> Result<PathBuf> {
    let failed = |error: io::Error| Error::Program {
        program: name.to_string_lossy().into_owned(),
        why: error.to_string(),
        hint: std::env::current_dir()
            .ok()
            .map(|here| format!("check the name; it is looked for in {}", here.display())),
    };
    std::fs::metadata(name).map_err(failed)?;
    std::path::absolute(name).map_err(failed)
}

/// The script of that name, if its extension was left out.
fn with_extension(name: &OsStr) -> Option<OsString> {
    let mut files = SCRIPTS.iter().map(|extension| {
        let mut file = name.to_owned();
        file.push(".");
        file.push(extension);
        file
    });
    files.find(|file| Path::new(file).is_file())
}

fn refused(name: &OsStr, why: impl Into<String>, hint: &str) -> Error {
    let program = name.to_string_lossy().into_owned();
    Error::Program { program, why: why.into(), hint: Some(hint.to_owned()) }
}

fn start_error(name: &OsStr, source: io::Error) -> Error {
    Error::Start { program: name.to_string_lossy().into_owned(), source }
}

/// The program's file: as the shell would find it, or in the working directory.
fn find(program: &OsStr) -> Result<PathBuf> {
    find_in(program, &std::env::var_os("PATH").unwrap_or_default())
}

fn find_in(program: &OsStr, places: &OsStr) -> Result<PathBuf> {
    let path = Path::new(program);
    let named = path.components().count() > 1;
    if !named {
        let found = std::env::split_paths(places)
            .map(|place| place.join(path))
            .find(|candidate| executable(candidate).is_ok());
        if let Some(found) = found {
            return Ok(found);
        }
    }
    // Without a slash the program would be looked for in $PATH.
    let local = std::path::absolute(path).map_err(|source| start_error(program, source))?;
    match executable(&local) {
        // A script needs no permission to be read by its interpreter.
        Err(error)
            if error.kind() != io::ErrorKind::PermissionDenied
                || node_shebang(&local).is_none() =>
        {
            Err(start_error(program, error))
        }
        _ => Ok(local),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let about = std::fs::metadata(path)?;
    if about.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    if about.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not executable"));
    }
    Ok(())
}

/// Whether workers are run by an interpreter of another language than JavaScript: none of them has a channel.
pub(crate) fn runs_another_language(settings: &Settings) -> bool {
    let name = settings.exec.as_deref().and_then(Path::file_name).and_then(OsStr::to_str);
    name.is_some_and(Language::is_interpreter)
}

/// What a program is expected to know, that runs by itself or runs a script.
fn knows(program: &Path, script: Option<&Path>) -> Knows {
    let names = shebang(program).map_or_else(|| program.to_owned(), |(name, _)| name.into());
    if Kind::of(program) != Kind::Other || Kind::of(&names) != Kind::Other {
        return Knows::Channel;
    }
    // What runs JavaScript, by whatever name, may be Node.
    if is_shell(program) || is_shell(&names) || script.is_some_and(is_javascript) {
        Knows::Perhaps
    } else {
        Knows::Nothing
    }
}

fn is_javascript(script: &Path) -> bool {
    script.extension().is_some_and(|e| SCRIPTS.iter().any(|s| e == *s))
}

/// Shells, by the names of their programs.
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "zsh", "ksh", "ash", "fish"];

fn is_shell(program: &Path) -> bool {
    program.file_name().is_some_and(|name| SHELLS.iter().any(|shell| name == *shell))
}

/// Node's flags in a file's first line, if that line names Node.
fn node_shebang(file: &Path) -> Option<Vec<OsString>> {
    let (program, words) = shebang(file)?;
    (Kind::of(Path::new(&program)) == Kind::Node).then_some(words)
}

/// The program that a file's first line names, and its flags.
fn shebang(file: &Path) -> Option<(OsString, Vec<OsString>)> {
    let mut head = [0; 256];
    let got = std::fs::File::open(file).and_then(|mut file| file.read(&mut head)).ok()?;
    let line = head.get(..got)?.split(|b| *b == b'\n').next()?.strip_prefix(b"#!")?;
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(|word| OsStr::from_bytes(word).to_owned());
    let mut program = words.next()?;
    if Path::new(&program).file_name() == Some(OsStr::new("env")) {
        program = words.next()?;
        if program == "-S" {
            program = words.next()?;
        }
    }
    Some((program, words.collect()))
}
