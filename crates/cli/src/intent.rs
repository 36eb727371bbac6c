//! What an application is to be: from a command line, or from a configuration file; and what it would be now.

use crate::apply::DEED;
use crate::args::{self, Run};
use crate::config::{self, AppConfig, Loaded, Plan};
use crate::failure::{Failure, USAGE};
use crate::home::{Spec, check_name, name_of};
use crate::{run, serve, show};
use clap::FromArgMatches;
use phalanx::control::MARK;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Variables that are about a shell, and not about what is started from it; and those between phalanx's own processes.
const NOT_PASSED: [&str; 9] = [
    DEED,
    "_",
    "OLDPWD",
    "SHLVL",
    MARK,
    "PHALANX_KEEPER",
    "PHALANX_INHERIT",
    "PHALANX_REHEARSE",
    "NOTIFY_SOCKET",
];

/// The environment of this process, as far as it is passed on. What is no UTF-8 is not.
pub(crate) fn of_this_shell() -> BTreeMap<String, String> {
    let all = std::env::vars_os();
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let passed = |(name, _): &(String, String)| !NOT_PASSED.contains(&name.as_str());
    let mut all: BTreeMap<String, String> = all.filter_map(text).filter(passed).collect();
    // It means the same wherever a process is.
    if let Some(home) = all.get_mut("PHALANX_HOME").filter(|home| !home.is_empty())
        && let Some(absolute) =
            std::path::absolute(&*home).ok().and_then(|at| at.into_os_string().into_string().ok())
    {
        *home = absolute;
    }
    all
}

/// The working directory as it was named: a link in it is no less a link.
pub(crate) fn here() -> Result<PathBuf, Failure> {
    let physical = std::env::current_dir().map_err(Failure::os("find the working directory"))?;
    let same = |named: &PathBuf| {
        let identity = |path: &Path| std::fs::metadata(path).map(|at| (at.dev(), at.ino())).ok();
        named.is_absolute() && identity(named).is_some_and(|at| Some(at) == identity(&physical))
    };
    let named = std::env::var_os("PWD").map(PathBuf::from).filter(same);
    Ok(named.unwrap_or(physical))
}

/// The options of an application, as its primary will have them.
pub(crate) fn options(argv: &[String]) -> Result<Run, Failure> {
    // Only what `run` knows: the tree of all commands would stay in a keeper's memory.
    let command = args::of_run(clap::Command::new("phalanx run"));
    let words = ["phalanx run"].into_iter().chain(argv.iter().map(String::as_str));
    let parsed = command.try_get_matches_from(words);
    parsed
        .and_then(|matches| Run::from_arg_matches(&matches))
        .map(Run::settled)
        .map_err(|error| Failure::tool(USAGE, error.to_string().trim_end().to_owned()))
}

/// Of a command line: what stood after `phalanx start`.
pub(crate) fn of_command_line(options: &Run, argv: Vec<String>) -> Result<Spec, Failure> {
    let name = name(options)?;
    let here = here()?;
    let cwd = options.cwd.as_ref().map_or_else(|| here.clone(), |cwd| config::absolute(&here, cwd));
    let mut env = of_this_shell();
    env.insert("PWD".into(), cwd.display().to_string());
    let argv = with_program_from(&here, &cwd, options, argv);
    let mut spec = Spec::new(&name, argv, &cwd, env);
    spec.namespace.clone_from(&options.namespace);
    Ok(spec)
}

/// With `--cwd`, a script that is not there but here is meant from here.
fn with_program_from(here: &Path, cwd: &Path, options: &Run, mut argv: Vec<String>) -> Vec<String> {
    let program = options.program.first().or(options.args.first()).and_then(|word| word.to_str());
    let Some(program) = program.filter(|_| here != cwd) else { return argv };
    let is_here = here.join(program).is_file() && !cwd.join(program).exists();
    // Before it there may be an option with the same word.
    let end = argv.iter().position(|word| word == "--").unwrap_or(argv.len());
    let at = argv.iter().take(end).rposition(|word| word == program);
    let at = at.or_else(|| argv.iter().position(|word| word == program)).filter(|_| is_here);
    if let Some(word) = at.and_then(|at| argv.get_mut(at)) {
        *word = here.join(program).display().to_string();
    }
    argv
}

pub(crate) fn name(options: &Run) -> Result<String, Failure> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => name_of(&run::called(options)),
    };
    check_name(&name).map_err(|why| {
        let message = format!("`{}` cannot be an application's name: {why}", name.escape_debug());
        Failure::tool(USAGE, message).hint("give it one: --name NAME")
    })?;
    Ok(name)
}

/// All of a configuration file, in the order in which they start. What is odd about it is said.
pub(crate) fn of_file(
    file: &Path,
    environment: Option<&str>,
    only: &[String],
) -> Result<Vec<Spec>, Failure> {
    let loaded = config::load(file, environment, only)?;
    for warning in &loaded.warnings {
        show::say(warning);
    }
    let shell = of_this_shell();
    loaded.apps.iter().map(|app| of_config(&loaded, app, &shell)).collect()
}

fn of_config(
    loaded: &Loaded,
    app: &AppConfig,
    of_starter: &BTreeMap<String, String>,
) -> Result<Spec, Failure> {
    check_name(&app.name).map_err(|why| {
        let (file, name) = (loaded.file.display(), app.name.escape_debug());
        Failure::tool(USAGE, format!("{file}: `{name}` cannot be an application's name: {why}"))
    })?;
    let mut env = config::environment(app, of_starter);
    env.insert("PWD".into(), app.cwd.display().to_string());
    let mut spec = Spec::new(&app.name, app.argv.clone(), &app.cwd, env);
    spec.namespace.clone_from(&app.namespace);
    spec.config = Some(loaded.file.clone());
    spec.environment.clone_from(&loaded.environment);
    spec.after.clone_from(&app.after);
    spec.stopped = !app.autostart;
    // Only what may be passed on is kept: the rest of the shell is nobody's business.
    let nothing = AppConfig { env: BTreeMap::new(), ..app.clone() };
    spec.inherited = Some(config::environment(&nothing, of_starter));
    Ok(spec)
}

/// What is to be taken anew.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refresh<'a> {
    /// The environment of this shell.
    pub(crate) update_env: bool,
    /// The environment of the configuration file, if another one was named.
    pub(crate) environment: Option<&'a str>,
}

/// What an application is to be now: the same, but for what its configuration file says meanwhile.
pub(crate) fn anew(spec: &Spec, refresh: Refresh<'_>) -> Result<Spec, Failure> {
    let shell = of_this_shell();
    let Some(file) = &spec.config else {
        if let Some(name) = refresh.environment {
            return Err(Failure::tool(
                USAGE,
                format!("{}: --env {name} needs a configuration file, and it has none", spec.name),
            )
            .hint("`phalanx init` writes one"));
        }
        let mut new = spec.clone();
        if refresh.update_env {
            new.env = shell;
            serve::keep(spec, &mut new.env);
            new.env.insert("PWD".into(), new.cwd.clone());
        }
        return Ok(new);
    };
    let environment = refresh.environment.or(spec.environment.as_deref());
    let loaded = config::load(file, environment, &[])?;
    for warning in &loaded.warnings {
        show::say(warning);
    }
    let app = loaded.apps.iter().find(|app| app.name == spec.name).ok_or_else(|| {
        Failure::tool(
            USAGE,
            format!("{} does not have the application {} any more", file.display(), spec.name),
        )
        .hint(format!("`phalanx delete {}` ends it", spec.name))
    })?;
    let of_starter = match &spec.inherited {
        Some(inherited) if !refresh.update_env => inherited,
        _ => &shell,
    };
    let new = of_config(&loaded, app, of_starter)?;
    // What was said by `scale` holds until the setting itself changes.
    let scaled = spec.scaled.filter(|_| workers(spec).ok() == workers(&new).ok());
    Ok(Spec { id: spec.id, stopped: spec.stopped, started_ms: spec.started_ms, scaled, ..new })
}

/// How many workers it begins with, unless `scale` said something else.
pub(crate) fn workers(spec: &Spec) -> Result<usize, Failure> {
    let options = options(&spec.argv)?;
    options.limits.first(options.instances).map_err(Failure::from)
}

fn plan(spec: &Spec) -> Plan<'_> {
    Plan { argv: &spec.argv, cwd: &spec.cwd, env: &spec.env }
}

/// What differs, in words.
pub(crate) fn changes(old: &Spec, new: &Spec) -> Vec<String> {
    config::changes(&plan(old), &plan(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_keep_their_links() {
        let at = |here: &str, path: &str| config::absolute(Path::new(here), path);
        assert_eq!(at("/a/b", "c/../d"), Path::new("/a/b/d"));
        assert_eq!(at("/a/b", "../.././../x/"), Path::new("/x"));
        assert_eq!(at("/a/b", "/srv/current"), Path::new("/srv/current"));
    }

    #[test]
    fn command_lines_are_understood_or_refused() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let good = options(&words("-i 2 --name x app.js -- --port 1")).expect("understood");
        assert_eq!(good.name.as_deref(), Some("x"));
        for bad in ["--nonsense app.js", "-i 0x app.js"] {
            assert!(options(&words(bad)).is_err(), "{bad}");
        }
    }
}
