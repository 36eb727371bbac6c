//! `phalanx check`: what a file says, whether it can run, and what would change.

use super::document::{self, Examined, absolute_file, select};
use super::problem::Problem;
use super::variables::{environment as environment_of, hides, is_passed};
use super::{AppConfig, Plan, changes, default_file, missing, parsed, schema};
use crate::args::Check;
use crate::failure::{Failure, UNEXPECTED, USAGE};
use crate::home::{Home, Lock};
use crate::{intent, run, show};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names in one line.
const SHOWN: usize = 100;

pub(crate) fn check(options: &Check) -> Result<(), Failure> {
    if options.schema {
        show::print(&schema::text());
        return Ok(());
    }
    if let Some(argv) = &options.program_of {
        return program_of(argv);
    }
    let file = match &options.file {
        Some(file) => file.clone(),
        None => default_file(Path::new("")).ok_or_else(none_here)?,
    };
    if !file.exists() {
        return Err(missing(&file, USAGE));
    }
    let mut done = document::examine(&file, options.env.as_deref());
    if done.problems.is_empty() {
        select(&mut done, &options.only)
            .map_err(|why| Failure::tool(USAGE, format!("{}: {why}", file.display())))?;
    }
    let home = Home::find().ok();
    let shell = intent::of_this_shell();
    let mut reloads = Reloads {
        home,
        file: absolute_file(&file),
        environment: options.env.as_deref(),
        others: BTreeMap::new(),
    };
    let mut shown = Vec::new();
    for app in &done.apps {
        let one = Shown::of(app, &mut reloads, &shell);
        done.problems.extend(one.problem.clone());
        shown.push(one);
    }
    let text = if options.json {
        let mut text = serde_json::to_string_pretty(&in_json(&done, &shown, &file, options))
            .unwrap_or_default();
        text.push('\n');
        text
    } else {
        in_words(&done, &shown, &file, options.env.as_deref())
    };
    show::print(&text);
    // All of them are said already.
    match done.problems.len() {
        0 => Ok(()),
        1 => Err(Failure::tool(UNEXPECTED, "1 thing is wrong")),
        many => Err(Failure::tool(UNEXPECTED, format!("{many} things are wrong"))),
    }
}

fn none_here() -> Failure {
    Failure::tool(USAGE, "there is no configuration file here")
        .hint("`phalanx init` writes one; or name it: phalanx check FILE")
}

/// What is to be known of an application.
struct Shown<'a> {
    app: &'a AppConfig,
    options: Vec<String>,
    /// As workers are started.
    command: Option<String>,
    workers: String,
    variables: BTreeMap<String, String>,
    passed: Vec<String>,
    existing: Option<Existing>,
    problem: Option<Problem>,
}

impl<'a> Shown<'a> {
    fn of(app: &'a AppConfig, reloads: &mut Reloads<'_>, shell: &BTreeMap<String, String>) -> Self {
        let env = with_directory(environment_of(app, shell), &app.cwd);
        let (command, problem) = match found(app, &env) {
            Ok(command) => (Some(command), None),
            Err(words) => {
                (None, Some(Problem { place: Some(app.name.clone()), ..Problem::new(words) }))
            }
        };
        let passed = shell
            .keys()
            .filter(|name| is_passed(&app.pass_env, name) && !app.env.contains_key(*name));
        Self {
            app,
            options: options_of(&app.argv),
            command,
            workers: workers(&app.argv),
            variables: app
                .env
                .iter()
                .map(|(name, value)| (name.clone(), redacted(name, value)))
                .collect(),
            passed: passed.cloned().collect(),
            existing: reloads.existing(app, shell),
            problem,
        }
    }
}

fn with_directory(mut env: BTreeMap<String, String>, cwd: &Path) -> BTreeMap<String, String> {
    env.insert("PWD".into(), cwd.display().to_string());
    env
}

fn redacted(name: &str, value: &str) -> String {
    if hides(name, value) { "(secret)".to_owned() } else { value.to_owned() }
}

/// What stands before the program.
fn options_of(argv: &[String]) -> Vec<String> {
    let Ok(run) = parsed(argv) else { return Vec::new() };
    let rest = run.program.len() + run.args.len() + usize::from(!run.args.is_empty());
    let count = argv.len().saturating_sub(rest);
    // The name is shown by itself.
    argv.get(2..count).unwrap_or_default().to_vec()
}

fn workers(argv: &[String]) -> String {
    let Ok(run) = parsed(argv) else { return "-".into() };
    match (run.limits.first(run.instances), run.limits.scaling()) {
        (Ok(first), Ok(Some(scaling))) => {
            format!("{first}, then {} to {} by load", scaling.min, scaling.max)
        }
        (Ok(first), _) => first.to_string(),
        (Err(_), _) => "-".into(),
    }
}

/// What would be started, found by this program in the application's directory and environment: there it will be looked for.
fn found(app: &AppConfig, env: &BTreeMap<String, String>) -> Result<String, String> {
    if !app.cwd.is_dir() {
        return Err(format!("cwd: {} is no directory", app.cwd.display()));
    }
    let words = serde_json::to_string(&app.argv).map_err(|error| error.to_string())?;
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(this);
    command.args(["check", "--program-of", &words]).env_clear().envs(env);
    let done = command.current_dir(&app.cwd).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("cannot look for its program: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() {
        return Ok(text(&done.stdout));
    }
    let words = text(&done.stderr);
    let words = words.strip_prefix("phalanx: ").unwrap_or(&words);
    Err(words.replace("\nhint: ", "; "))
}

/// The other side of that question.
fn program_of(argv: &str) -> Result<(), Failure> {
    let argv: Vec<String> = serde_json::from_str(argv)
        .map_err(|error| Failure::tool(USAGE, format!("that is no command line: {error}")))?;
    let settings = run::settings(&intent::options(&argv)?)?;
    let exec = settings.exec.as_deref().map(|exec| exec.display().to_string());
    let args = settings.exec_args.iter().chain(&settings.args);
    let words = exec.into_iter().chain(args.map(|word| word.to_string_lossy().into_owned()));
    show::print(&format!("{}\n", words.map(quoted).collect::<Vec<_>>().join(" ")));
    Ok(())
}

/// So that it is one word for a shell, and for the eye.
fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What there is of a name.
struct Existing {
    runs: bool,
    /// The one that a reload would take, if it is another one than what is shown.
    environment: Option<String>,
    /// What a reload would change.
    changes: Vec<String>,
}

/// What reloads would do.
struct Reloads<'a> {
    home: Option<Home>,
    file: PathBuf,
    /// That was asked for.
    environment: Option<&'a str>,
    /// What the file says in others.
    others: BTreeMap<String, Examined>,
}

impl Reloads<'_> {
    fn existing(&mut self, app: &AppConfig, shell: &BTreeMap<String, String>) -> Option<Existing> {
        let there = self.home.as_ref()?.app(&app.name);
        let runs = Lock::is_held(&there);
        let spec = there.spec()?;
        let kept = spec.environment.clone().filter(|_| self.environment.is_none());
        let environment = kept.filter(|_| spec.config.as_ref() == Some(&self.file));
        let app = match &environment {
            None => app.clone(),
            Some(name) => match self.in_environment(name, &app.name) {
                Ok(app) => app,
                Err(words) => return Some(Existing { runs, environment, changes: vec![words] }),
            },
        };
        // What a reload would take: the environment that it was started from.
        let starter = spec.inherited.as_ref().unwrap_or(shell);
        let env = with_directory(environment_of(&app, starter), &app.cwd);
        let cwd = app.cwd.display().to_string();
        let old = Plan { argv: &spec.argv, cwd: &spec.cwd, env: &spec.env };
        let mut all = changes(&old, &Plan { argv: &app.argv, cwd: &cwd, env: &env });
        if spec.config.as_ref() != Some(&self.file) {
            let from = spec
                .config
                .map_or("a command line".into(), |file: PathBuf| file.display().to_string());
            all.insert(0, format!("from: {from} → {}", self.file.display()));
        }
        Some(Existing { runs, environment, changes: all })
    }

    fn in_environment(&mut self, environment: &str, name: &str) -> Result<AppConfig, String> {
        let file = &self.file;
        let examine = || document::examine(file, Some(environment));
        let done = self.others.entry(environment.to_owned()).or_insert_with(examine);
        let app =
            done.apps.iter().find(|app| app.name == name).filter(|_| done.problems.is_empty());
        app.cloned().ok_or_else(|| {
            let why = done.problems.first().map(ToString::to_string).unwrap_or_default();
            format!("nothing: a reload fails: {why}")
        })
    }
}

fn in_words(
    done: &Examined,
    shown: &[Shown<'_>],
    file: &Path,
    environment: Option<&str>,
) -> String {
    let mut text = String::new();
    for problem in &done.problems {
        let _ = writeln!(text, "error    {}", problem.in_file(file));
    }
    for warning in &done.warnings {
        let _ = writeln!(text, "warning  {}: {warning}", file.display());
    }
    if done.problems.is_empty() {
        let many = if shown.len() == 1 { "" } else { "s" };
        let chosen = environment.map(|name| format!(", environment {name}")).unwrap_or_default();
        let _ = writeln!(text, "{}: {} application{many}{chosen}", file.display(), shown.len());
    }
    for one in shown {
        let _ = writeln!(text, "\n{}", one.app.name);
        rows(&mut text, one);
    }
    text
}

fn rows(text: &mut String, one: &Shown<'_>) {
    let mut row = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {name:<10} {value}");
        }
    };
    let app = one.app;
    row("command", one.command.as_deref().unwrap_or_default());
    row("options", &one.options.iter().cloned().map(quoted).collect::<Vec<_>>().join(" "));
    row("directory", &app.cwd.display().to_string());
    row("workers", &one.workers);
    let variables: Vec<String> =
        one.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    row("variables", &cut(&variables.join(" ")));
    let passed = one.passed.join(" ");
    row("passed on", &cut(if passed.is_empty() { "nothing" } else { &passed }));
    row("after", &app.after.join(", "));
    if !app.autostart {
        row("autostart", "no");
    }
    match &one.existing {
        None => row("now", "not there"),
        Some(existing) => {
            let state = if existing.runs { "runs" } else { "stopped" };
            let environment = existing.environment.as_ref();
            let environment =
                environment.map(|name| format!(", environment {name}")).unwrap_or_default();
            let all = &existing.changes;
            let words = if all.is_empty() { "nothing would change" } else { "would change:" };
            row("now", &format!("{state}{environment}; {words}"));
            for change in all {
                row("", &format!("  {change}"));
            }
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => {
            let head = text.get(..at).unwrap_or_default();
            let head = head.rsplit_once(' ').map_or(head, |(head, _)| head);
            format!("{head} …")
        }
        None => text.to_owned(),
    }
}

fn in_json(done: &Examined, shown: &[Shown<'_>], file: &Path, options: &Check) -> Value {
    let problems = done.problems.iter().map(|problem| {
        json!({ "line": problem.line, "app": problem.place, "key": problem.key, "message": problem.words })
    });
    let apps = shown.iter().map(|one| {
        let existing = one.existing.as_ref();
        json!({
            "name": one.app.name,
            "namespace": one.app.namespace,
            "command": one.command,
            "options": one.options,
            "cwd": one.app.cwd.display().to_string(),
            "workers": one.workers,
            "env": one.variables,
            "pass_env": one.app.pass_env,
            "passed": one.passed,
            "after": one.app.after,
            "autostart": one.app.autostart,
            "exists": existing.is_some(),
            "runs": existing.is_some_and(|existing| existing.runs),
            "environment": existing.and_then(|existing| existing.environment.as_ref()),
            "changes": existing.map(|existing| &existing.changes),
        })
    });
    json!({
        "file": absolute_file(file).display().to_string(),
        "environment": options.env,
        "ok": done.problems.is_empty(),
        "errors": problems.collect::<Vec<_>>(),
        "warnings": done.warnings,
        "apps": apps.collect::<Vec<_>>(),
    })
}
