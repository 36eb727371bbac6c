//! What an npm script runs.
//!
//! npm starts a script through a shell, as a child of its own: the channel to the primary would end at npm. So
//! the script's command is read and started directly. What needs a shell is refused, with the reason.

use crate::error::{Error, Result};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What to do about a command that cannot be a worker.
pub(super) const NAME_THE_SERVER: &str =
    "name the program that serves, as in `phalanx run server.js`";
/// Programs that start the server as a child of their own, out of the channel's reach.
const WRAPPERS: [&str; 17] = [
    "nodemon",
    "node-dev",
    "ts-node-dev",
    "tsnd",
    "npx",
    "pm2",
    "pm2-runtime",
    "concurrently",
    "npm-run-all",
    "run-s",
    "forever",
    "dotenv",
    "env-cmd",
    "babel-node",
    "nest",
    "wireit",
    "turbo",
];

/// Why a program of that name cannot be a worker.
pub(super) fn wrapper(name: &OsStr) -> Option<String> {
    let name = Path::new(name).file_name()?.to_str()?;
    WRAPPERS.contains(&name).then(|| format!("{name} starts the server as a child of its own"))
}

/// A package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    Npm,
    Yarn,
    Pnpm,
}

impl Manager {
    pub(super) fn of(name: &OsStr) -> Option<Self> {
        match Path::new(name).file_name()?.to_str()? {
            "npm" => Some(Self::Npm),
            "yarn" => Some(Self::Yarn),
            "pnpm" => Some(Self::Pnpm),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Yarn => "yarn",
            Self::Pnpm => "pnpm",
        }
    }
}

/// A command that needs no shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) directory: PathBuf,
}

/// What `npm start`, `npm run NAME` and their like run.
pub(super) fn resolve(manager: Manager, args: &[OsString]) -> Result<Line> {
    let directory = std::env::current_dir().map_err(Error::os("the working directory"))?;
    resolve_in(manager, args, &directory)
}

pub(super) fn resolve_in(manager: Manager, args: &[OsString], from: &Path) -> Result<Line> {
    let failed = |why: String| {
        let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
        Error::Program {
            program: [&[manager.name().into()], words.as_slice()].concat().join(" "),
            why,
            hint: Some(NAME_THE_SERVER.into()),
        }
    };
    let (script, mut own) = script_and_args(manager, args).map_err(failed)?;
    let directory = from
        .ancestors()
        .find(|place| place.join("package.json").is_file())
        .ok_or_else(|| failed(format!("there is no package.json in {}", from.display())))?;
    let file = directory.join("package.json");
    let text = std::fs::read_to_string(&file)
        .map_err(|error| failed(format!("cannot read {}: {error}", file.display())))?;
    let package: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| failed(format!("{} is not JSON: {error}", file.display())))?;
    let scripts = |name: &str| package.get("scripts")?.get(name)?.as_str();
    let command = match scripts(&script) {
        Some(command) => command,
        // As npm has it.
        None if script == "start" && directory.join("server.js").is_file() => "node server.js",
        None => return Err(failed(format!("{} has no script `{script}`", file.display()))),
    };
    if scripts(&format!("pre{script}")).is_some() {
        tracing::warn!(
            "the script `pre{script}` is not run for each worker: run it before, with `{} run pre{script}`",
            manager.name()
        );
    }
    let reached = format!(
        "its script `{script}` is `{command}`; through it the workers' channel cannot pass:"
    );
    let mut words = words(command).map_err(|why| failed(format!("{reached} {why}")))?;
    let mut env = variables(&package, &file, &script, command, directory);
    while let Some(word) = words.first() {
        if ["cross-env", "env", "exec"].contains(&word.as_str()) {
            words.remove(0);
            if flags(&words).next().is_some() {
                return Err(failed(format!("{reached} options of env are not known here")));
            }
        } else if let Some((name, value)) = assignment(word) {
            env.push((name.into(), value.into()));
            words.remove(0);
        } else {
            break;
        }
    }
    if words.is_empty() {
        return Err(failed(format!("{reached} it runs nothing")));
    }
    let word = words.remove(0);
    if let Some(why) = wrapper(OsStr::new(&word)) {
        return Err(failed(format!("{reached} {why}")));
    }
    // tsx starts Node as its child; the same is had by Node with tsx as its loader.
    let word = match words.first() {
        Some(word_of_tsx) if word == "tsx" && word_of_tsx == "watch" => {
            return Err(failed(format!("{reached} `tsx watch` starts the server as a child")));
        }
        Some(file) if word == "tsx" && !file.starts_with('-') => {
            words.splice(0..0, ["--import".to_owned(), "tsx".to_owned()]);
            "node".to_owned()
        }
        _ if word == "node" && flags(&words).any(|flag| flag.starts_with("--watch")) => {
            return Err(failed(format!("{reached} --watch starts the server as a child")));
        }
        _ if word.contains('/') => directory.join(&word).to_string_lossy().into_owned(),
        _ => word,
    };
    let local = directory
        .ancestors()
        .map(|place| place.join("node_modules/.bin").join(&word))
        .find(|file| file.is_file());
    let program = local.map_or_else(|| OsString::from(&word), OsString::from);
    let mut all: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    all.append(&mut own);
    Ok(Line { program, args: all, env, directory: directory.to_owned() })
}

/// The script's name, and the arguments that it is given beside its own.
fn script_and_args(
    manager: Manager,
    args: &[OsString],
) -> std::result::Result<(String, Vec<OsString>), String> {
    let mut rest = args.iter();
    let mut next = || rest.next().and_then(|word| word.to_str());
    let script = match next() {
        Some("run" | "run-script") => next(),
        Some(word @ ("start" | "test" | "restart")) => Some(word),
        // Yarn and pnpm run a script by its name alone.
        Some(word) if manager != Manager::Npm => Some(word),
        _ => None,
    };
    let script = script
        .filter(|word| !word.starts_with('-'))
        .ok_or("only `start` and `run NAME` can be run, without options before the name")?;
    let mut own: Vec<OsString> = rest.cloned().collect();
    match own.first() {
        Some(dashes) if dashes == "--" => {
            own.remove(0);
        }
        Some(option) if manager == Manager::Npm && option.to_string_lossy().starts_with('-') => {
            return Err(format!(
                "`{}` is for npm, which is not started: put the script's own options after another `--`",
                option.to_string_lossy()
            ));
        }
        _ => {}
    }
    Ok((script.to_owned(), own))
}

/// What npm tells its scripts.
fn variables(
    package: &Value,
    file: &Path,
    script: &str,
    command: &str,
    directory: &Path,
) -> Vec<(OsString, OsString)> {
    let mut path: Vec<PathBuf> =
        directory.ancestors().map(|place| place.join("node_modules/.bin")).collect();
    let places = std::env::var_os("PATH").unwrap_or_default();
    path.extend(std::env::split_paths(&places));
    let mut env: Vec<(OsString, OsString)> = vec![
        ("INIT_CWD".into(), std::env::current_dir().unwrap_or_default().into()),
        ("npm_lifecycle_event".into(), script.into()),
        ("npm_lifecycle_script".into(), command.into()),
        ("npm_package_json".into(), file.into()),
    ];
    for key in ["name", "version"] {
        if let Some(value) = package.get(key).and_then(Value::as_str) {
            env.push((format!("npm_package_{key}").into(), value.into()));
        }
    }
    if let Ok(joined) = std::env::join_paths(path) {
        env.push(("PATH".into(), joined));
    }
    env
}

/// Node's own flags.
fn flags(words: &[String]) -> impl Iterator<Item = &String> {
    words.iter().take_while(|word| word.starts_with('-'))
}

/// `NAME=value`, as it may stand before a command.
fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    valid.then_some((name, value))
}

/// The words of a command, if it means the same without a shell.
fn words(command: &str) -> std::result::Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = command.chars();
    let special = |c: char| format!("`{c}` needs a shell");
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let open = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a quote is not closed")? {
                        '\'' => break,
                        c => open.push(c),
                    }
                }
            }
            '"' => {
                let open = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a quote is not closed")? {
                        '"' => break,
                        c @ ('$' | '`') => return Err(special(c)),
                        '\\' => match chars.next().ok_or("a quote is not closed")? {
                            c @ ('"' | '\\' | '$' | '`') => open.push(c),
                            c => open.extend(['\\', c]),
                        },
                        c => open.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            // A home directory, also in an assignment.
            '~' if word.as_ref().is_none_or(|w| w.ends_with(['=', ':'])) => {
                return Err(special(c));
            }
            '#' if word.is_none() => return Err(special(c)),
            '&' | '|' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' | '[' | '{' | '\n'
            | '!' => return Err(special(c)),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_without_a_shell() {
        let split = |text: &str| words(text).expect("words");
        assert_eq!(split("node  server.js"), ["node", "server.js"]);
        assert_eq!(
            split(r#"node "a b" 'c "d"' e\ f "g\"h\n""#),
            ["node", "a b", "c \"d\"", "e f", "g\"h\\n"]
        );
        assert_eq!(split("A=1 node x.js ''"), ["A=1", "node", "x.js", ""]);
        assert_eq!(split("node a~b#c"), ["node", "a~b#c"]);
    }

    #[test]
    fn commands_that_need_a_shell() {
        for text in [
            "tsc && node x",
            "node x | tee log",
            "node $FILE",
            "node \"$FILE\"",
            "node *.js",
            "node x > log",
            "node ~/x.js",
            "`which node` x",
            "node 'x",
        ] {
            assert!(words(text).is_err(), "{text} is taken for {:?}", words(text));
        }
    }

    fn run(package: &str, manager: Manager, args: &[&str]) -> Result<Line> {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("package.json"), package).expect("written");
        let inside = directory.path().join("src/deep");
        std::fs::create_dir_all(&inside).expect("made");
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        resolve_in(manager, &args, &inside)
    }

    const PACKAGE: &str = r#"{"name":"shop","version":"1.2.3","scripts":{
        "start":"cross-env NODE_ENV=production node --trace-warnings dist/app.js --cache",
        "dev":"nodemon app.js","chain":"tsc && node app.js","bare":"PORT=1",
        "watched":"node --trace-warnings --watch app.js","pathed":"./node_modules/.bin/nodemon app.js","home":"A=~/x node app.js",
        "typed":"tsx src/app.ts --fast"}}"#;

    #[test]
    fn a_script_is_read() {
        let typed = run(PACKAGE, Manager::Npm, &["run", "typed"]).expect("a line");
        assert_eq!(typed.program, "node");
        assert_eq!(typed.args, ["--import", "tsx", "src/app.ts", "--fast"]);
        let line = run(PACKAGE, Manager::Npm, &["start", "--", "--port", "80"]).expect("a line");
        assert_eq!(line.program, "node");
        assert_eq!(line.args, ["--trace-warnings", "dist/app.js", "--cache", "--port", "80"]);
        assert!(line.env.contains(&("NODE_ENV".into(), "production".into())), "{line:?}");
        assert!(line.env.contains(&("npm_package_name".into(), "shop".into())), "{line:?}");
        assert!(!line.directory.ends_with("deep"), "the package's directory: {line:?}");
        let same =
            run(PACKAGE, Manager::Npm, &["run", "start", "--", "--port", "80"]).expect("a line");
        assert_eq!(same.args, line.args);
        assert_eq!(
            run(PACKAGE, Manager::Yarn, &["start", "--port", "80"]).expect("a line").args,
            line.args
        );
    }

    #[test]
    fn what_the_channel_cannot_pass_is_said() {
        let why =
            |args: &[&str]| run(PACKAGE, Manager::Npm, args).expect_err("refused").to_string();
        for (args, word) in [
            (&["run", "dev"][..], "nodemon starts the server as a child"),
            (&["run", "chain"], "`&` needs a shell"),
            (&["run", "bare"], "it runs nothing"),
            (&["run", "watched"], "--watch starts the server as a child"),
            (&["run", "pathed"], "nodemon starts the server as a child"),
            (&["run", "home"], "`~` needs a shell"),
            (&["run", "other"], "has no script `other`"),
            (&["install"], "only `start` and `run NAME`"),
            (&["start", "--silent"], "is for npm"),
        ] {
            assert!(why(args).contains(word), "npm {args:?}: {}", why(args));
        }
        assert!(
            run("{", Manager::Npm, &["start"])
                .expect_err("no JSON")
                .to_string()
                .contains("is not JSON")
        );
        assert!(
            run("{}", Manager::Npm, &["start"])
                .expect_err("no script")
                .to_string()
                .contains("has no script")
        );
    }
}
