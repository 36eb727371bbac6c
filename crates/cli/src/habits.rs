//! What people type who know pm2.

use crate::args::serve::Serve;
use crate::args::{Arguments, Command, Pm2, Reload, Run, Words};
use crate::failure::{Failure, USAGE};
use crate::home::{Home, Lock};
use crate::{obey, show, start, targets};
use std::ffi::OsString;
use std::path::Path;

/// `phalanx run`.
pub(crate) fn run(options: Run) -> Result<(), Failure> {
    // In the background it was said by `start`.
    if options.detached.app_dir.is_none() {
        options.others.tell()?;
    }
    crate::run::run(options)
}

/// `phalanx start`, with what its options want beside it.
pub(crate) fn start(options: Run) -> Result<(), Failure> {
    if options.habits.no_daemon {
        return run(options);
    }
    options.others.tell()?;
    let names = start::start(&options)?;
    if !options.habits.attach || names.is_empty() {
        return Ok(());
    }
    as_if(&[&["logs"], names.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat())
}

/// `phalanx serve`, likewise.
pub(crate) fn serve(options: Serve) -> Result<(), Failure> {
    options.run.others.tell()?;
    let attach = options.run.habits.attach;
    let name = crate::serve::serve(options)?;
    if attach { as_if(&["logs", &name]) } else { Ok(()) }
}

/// A command line in one argument, as in `start "python3 -m app"`: its words, or the shell's for what only that understands.
/// `None`: it is none, but a program with a blank in its name.
pub(crate) fn command_line(text: &str) -> Option<Vec<String>> {
    if !text.trim().contains(char::is_whitespace) || Path::new(text).exists() {
        return None;
    }
    let plain = |c: char| c.is_alphanumeric() || c.is_whitespace() || "-_./:@,+%".contains(c);
    // What is set before a program is the shell's to set.
    if text.chars().all(|c| plain(c) || c == '=')
        && text.split_whitespace().next().is_some_and(|first| !first.contains('='))
    {
        return Some(text.split_whitespace().map(str::to_owned).collect());
    }
    Some(vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// Does what another command line says.
fn as_if(words: &[&str]) -> Result<(), Failure> {
    let words: Vec<OsString> = ["phalanx"].iter().chain(words).map(OsString::from).collect();
    match Arguments::read(&words) {
        Ok(Arguments { command, .. }) => obey(command),
        Err(error) => Err(Failure::tool(USAGE, error.to_string().trim_end().to_owned())),
    }
}

/// Whether a command only does something: nobody asked it for an answer.
pub(crate) const fn only_does(command: &Command) -> bool {
    matches!(
        command,
        Command::Start(_)
            | Command::Serve(_)
            | Command::Stop(_)
            | Command::Restart(_)
            | Command::Reload(_)
            | Command::Delete(_)
            | Command::Scale(_)
            | Command::Flush(_)
            | Command::Reopen(_)
            | Command::Signal(_)
            | Command::Send(_)
            | Command::Reset(_)
            | Command::Save(_)
            | Command::Resurrect(_)
            | Command::Upgrade(_)
            | Command::Init(_)
            | Command::Pm2(Pm2::Kill(_) | Pm2::StartOrRestart(_) | Pm2::StartOrReload(_))
    )
}

/// A command of pm2's.
pub(crate) fn command(command: &Pm2) -> Result<(), Failure> {
    match command {
        Pm2::Monit(_) => as_if(&["list", "--watch"]),
        Pm2::Jlist(_) => crate::jlist::jlist(),
        Pm2::Kill(_) => kill(),
        Pm2::StartOrRestart(options) => start_or("restart", options),
        Pm2::StartOrReload(options) => start_or("reload", options),
        Pm2::GracefulReload(options) => crate::manage::reload(options),
        Pm2::Update(_) => as_if(&["upgrade", "all"]),
        Pm2::Report(_) => as_if(&["doctor"]),
        Pm2::Install(words) if names(words, "pm2-logrotate") => {
            show::say("pm2-logrotate is not needed: logs are rotated by themselves");
            Ok(())
        }
        other => Err(refused(other)),
    }
}

fn names(words: &Words, module: &str) -> bool {
    words.words.iter().any(|word| word.to_str().is_some_and(|word| word.starts_with(module)))
}

/// Stops all that runs; what there is to be started again stays known.
fn kill() -> Result<(), Failure> {
    let home = Home::find()?;
    let running = targets::any(&home, &[])?.into_iter().filter(Lock::is_held);
    let names: Vec<String> = running.map(|app| app.name).collect();
    if names.is_empty() {
        show::say("nothing runs");
        return Ok(());
    }
    crate::manage::end_for_now(&names)
}

/// The command line, as it is meant under the name by which this program was called: `pm2-runtime` runs in the foreground,
/// and says a version to `-v`, as pm2 does.
pub(crate) fn as_called() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let called = words.first().map(Path::new).and_then(Path::file_name);
    let is_runtime = called.is_some_and(|name| name == "pm2-runtime" || name == "pm2-docker");
    if let [_, word] = words.as_mut_slice()
        && word == "-v"
    {
        *word = "--version".into();
    }
    if !is_runtime {
        return words;
    }
    let own = words.iter().position(|word| word == "--").unwrap_or(words.len());
    for word in words.iter_mut().take(own).filter(|word| *word == "--json") {
        *word = "--log-type=json".into();
    }
    match words.get_mut(1) {
        Some(word) if word == "start" => *word = "run".into(),
        Some(word) if word != "run" && word != "--help" && word != "--version" => {
            words.insert(1, "run".into());
        }
        _ => {}
    }
    words
}

/// Reloads or restarts what runs, and starts what does not.
fn start_or(word: &str, options: &Reload) -> Result<(), Failure> {
    let home = Home::find()?;
    let wanted = |name: &String| options.only.is_empty() || options.only.contains(name);
    let mut more: Vec<&str> = Vec::new();
    let only = options.only.join(",");
    if let Some(environment) = &options.env {
        more.extend(["--env", environment]);
    }
    if options.update_env {
        more.push("--update-env");
    }
    for target in &options.of.apps {
        let apps = targets::resolve(&home, std::slice::from_ref(target)).unwrap_or_default();
        let there: Vec<String> = apps.iter().map(|app| app.name.clone()).filter(wanted).collect();
        let running: Vec<String> = apps
            .iter()
            .filter(|app| Lock::is_held(app))
            .map(|app| app.name.clone())
            .filter(wanted)
            .collect();
        if !running.is_empty() {
            let names = running.iter().map(String::as_str);
            as_if(
                &[word].into_iter().chain(names).chain(more.iter().copied()).collect::<Vec<_>>(),
            )?;
        }
        // A file may have more than is known of it.
        if running.len() < there.len() || there.is_empty() || is_file(target) {
            let mut words = vec!["start", target.as_str()];
            words.extend(&more);
            if !only.is_empty() {
                words.extend(["--only", &only]);
            }
            as_if(&words)?;
        }
    }
    Ok(())
}

fn is_file(target: &str) -> bool {
    let path = Path::new(target);
    path.is_file() && crate::config::is_config(path)
}

/// What is there instead of a command.
fn refused(command: &Pm2) -> Failure {
    let hint = match command {
        Pm2::Install(_) => {
            "there are no modules: rotation of logs is built in, `phalanx list --json` tells monitors"
        }
        Pm2::Set(_) => {
            "there are no modules to set: options of `phalanx start` and keys of a configuration file are all there is; `phalanx init` writes one"
        }
        Pm2::Link(_) => {
            "nothing is sent to anybody; `phalanx list --watch`, `phalanx why` and `phalanx run --stats` show what there is"
        }
        Pm2::Pull(_) => "git does it; then `phalanx reload`",
        Pm2::Trigger(_) => {
            "`phalanx send APP MESSAGE` gives workers a message, `phalanx signal` a signal"
        }
        Pm2::Attach(_) => {
            "`phalanx logs APP` shows what workers say, `phalanx send APP MESSAGE` tells them something"
        }
        Pm2::Web(_) => "nothing listens for the outside; `phalanx list --json` tells scripts",
        Pm2::Cleardump(_) => "`phalanx delete all` forgets everything",
        Pm2::Logrotate(_) => "logs are rotated by themselves; `phalanx reopen` is for logrotate(8)",
        Pm2::Inspect(_) => "`phalanx start --inspect` opens an inspector in each worker",
        Pm2::Create(_) => "`phalanx init` writes a configuration file",
        Pm2::Completion(_) => "`phalanx completions bash` prints it",
        _ => "`phalanx help` shows the commands",
    };
    Failure::tool(USAGE, format!("`{}` is pm2's, and there is no such command here", typed()))
        .hint(hint)
}

/// The command as it was typed.
fn typed() -> String {
    let words = std::env::args().skip(1);
    words.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let words = |text| command_line(text).map(|words| words.join("|"));
        assert_eq!(words("app.js"), None);
        assert_eq!(words("python3 -m app").as_deref(), Some("python3|-m|app"));
        assert_eq!(words(" node  a.js --port=1 ").as_deref(), Some("node|a.js|--port=1"));
        assert_eq!(words("PORT=1 node a.js").as_deref(), Some("sh|-c|PORT=1 node a.js"));
        assert_eq!(words("echo \"a b\" | cat").as_deref(), Some("sh|-c|echo \"a b\" | cat"));
    }
}
