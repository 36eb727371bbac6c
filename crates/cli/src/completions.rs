//! `phalanx completions`: completions of shells, and manual pages.
//!
//! A shell's script asks this program what can follow; so it knows the applications that there are at that moment, and
//! every option of the version that is installed.

use crate::args::{Arguments, Completions};
use crate::failure::{Failure, UNEXPECTED, USAGE};
use crate::home::Home;
use crate::show;
use crate::ui::words::nearest;
use clap::{Arg, Command, CommandFactory};
use clap_complete::CompleteEnv;
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::Shells;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

/// The environment variable by which a shell's script asks.
const VARIABLE: &str = "PHALANX_COMPLETE";

/// Answers a shell's script. Whether it was one that asked. Nothing is said of what goes wrong: somebody is typing.
pub(crate) fn answered() -> bool {
    if std::env::var_os(VARIABLE).is_none_or(|shell| shell.is_empty()) {
        return false;
    }
    let place = std::env::current_dir().ok();
    let asked = CompleteEnv::with_factory(command).var(VARIABLE);
    asked.try_complete(std::env::args_os(), place.as_deref()).unwrap_or(true)
}

/// The command line, with what can stand where an application is named.
fn command() -> Command {
    Arguments::command().mut_subcommands(|command| {
        let starts = command.get_name() == "start";
        command.mut_args(|arg| completed(arg, starts))
    })
}

fn completed(arg: Arg, starts: bool) -> Arg {
    let named = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    match named {
        Some("APP") => arg.add(ArgValueCompleter::new(|typed: &OsStr| targets(typed))),
        // A program, a configuration file, or the name of something that is stopped.
        Some("PROGRAM") if starts => arg.add(ArgValueCompleter::new(|typed: &OsStr| {
            let mut all = targets(typed);
            all.extend(PathCompleter::any().complete(typed));
            all
        })),
        Some("SHELL|man") => {
            arg.add(ArgValueCompleter::new(|typed: &OsStr| begun(typed, shells())))
        }
        _ => arg,
    }
}

fn shells() -> impl Iterator<Item = String> {
    let names: Vec<&str> = Shells::builtins().names().collect();
    names.into_iter().chain(["man"]).map(str::to_owned)
}

fn begun(typed: &OsStr, words: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    words.filter(|word| word.starts_with(&*typed)).map(CompletionCandidate::new).collect()
}

/// Names, namespaces and, of what begins with a digit, ids.
fn targets(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Ok(home) = Home::find() else { return Vec::new() };
    let names = home.names().unwrap_or_default();
    let digits = typed.to_string_lossy().starts_with(|c: char| c.is_ascii_digit());
    let (mut ids, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
    for spec in names.iter().filter_map(|name| home.app(name).spec()) {
        ids.insert(spec.id);
        namespaces.insert(spec.namespace);
    }
    namespaces.retain(|namespace| !namespace.is_empty() && namespace != "default");
    let namespaces = namespaces.into_iter().filter(|namespace| !names.contains(namespace));
    let ids = ids.into_iter().filter(|_| digits).map(|id| id.to_string());
    let all = std::iter::once("all".to_owned()).filter(|_| !names.is_empty());
    begun(typed, names.iter().cloned().chain(namespaces).chain(ids).chain(all))
}

pub(crate) fn completions(options: &Completions) -> Result<(), Failure> {
    if options.shell == "man" {
        return man(options.dir.as_deref());
    }
    if options.dir.is_some() {
        return Err(Failure::tool(USAGE, "--dir is for manual pages: `completions man --dir DIR`"));
    }
    // As people call it: pwsh is powershell's name.
    let shell = if options.shell == "pwsh" { "powershell" } else { &options.shell };
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(shell) else { return Err(unknown(&options.shell)) };
    let this = std::env::current_exe().map_err(Failure::os("find this program"))?;
    let Some(this) = this.to_str() else {
        let message = format!("the path of this program is no UTF-8: {}", this.display());
        return Err(Failure::tool(UNEXPECTED, message));
    };
    let mut script = Vec::new();
    let name = "phalanx";
    shell
        .write_registration(VARIABLE, name, name, this, &mut script)
        .map_err(Failure::os("write the completions"))?;
    show::print(&String::from_utf8_lossy(&script));
    Ok(())
}

fn unknown(shell: &str) -> Failure {
    let names: Vec<String> = shells().collect();
    let shown = shell.escape_debug();
    let hint = match nearest(shell, names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("there are {}", names.join(", ")),
    };
    Failure::tool(USAGE, format!("there are no completions for `{shown}`")).hint(hint)
}

/// The pages of the program and of each command; without a directory, the first one.
fn man(directory: Option<&Path>) -> Result<(), Failure> {
    let command = Arguments::command().disable_help_subcommand(true);
    let Some(directory) = directory else {
        let mut page = Vec::new();
        let written = clap_mangen::Man::new(command).render(&mut page);
        written.map_err(Failure::os("write the manual page"))?;
        show::print(&String::from_utf8_lossy(&page));
        return Ok(());
    };
    let failed = || Failure::os(format!("write manual pages to {}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed())?;
    clap_mangen::generate_to(command, directory).map_err(failed())
}
