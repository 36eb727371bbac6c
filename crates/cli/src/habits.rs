//! What people type who know pm2.

use crate::args::{
    Arguments, Command, List, LogsOf, Pm2, Reload, Run, Words,
};
use crate::failure::{Failure, USAGE};
use crate::home::{App, Home, Lock};
use crate::{doctor, list, logs, manage, run, show, start};
use clap::Parser;
use std::ffi::OsString;

/// `phalanx start`, with what its options want beside it.
pub(crate) fn start(options: Run) -> Result<(), Failure> {
    options.habits.tell()?;
    if options.habits.no_daemon {
        return run::run(options);
    }
    start::start(&options)?;
    if options.habits.attach {
        return follow(&options);
    }
    Ok(())
}

/// The logs of what was started.
fn follow(options: &Run) -> Result<(), Failure> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => crate::home::name_of(&run::called(options)),
    };
    let words = [OsString::from("phalanx"), "logs".into(), name.into()];
    match Arguments::try_parse_from(words) {
        Ok(Arguments { command: Command::Logs(options), .. }) => logs::logs(&options),
        _ => Ok(()),
    }
}

/// A command of pm2's.
pub(crate) fn command(command: Pm2) -> Result<(), Failure> {
    match command {
        Pm2::Monit(_) => list::list(&listing(&["--watch"])),
        Pm2::Jlist(_) => list::list(&listing(&["--json"])),
        Pm2::Kill(_) => kill(),
        Pm2::StartOrRestart(options) => start_or(&options, manage::restart),
        Pm2::StartOrReload(options) => start_or(&options, manage::reload),
        Pm2::GracefulReload(options) => manage::reload(&options),
        Pm2::Update(_) => manage::upgrade(&["all".to_owned()]),
        Pm2::Report(_) => doctor(),
        Pm2::Dev(options) => run::run(*options),
        Pm2::Install(words) => install(&words),
        other => Err(refused(&other)),
    }
}

/// What `list` is told by these words.
fn listing(words: &[&str]) -> List {
    let line = ["phalanx", "list"].iter().chain(words);
    match Arguments::try_parse_from(line) {
        Ok(Arguments { command: Command::List(options), .. }) => options,
        _ => unreachable!("these are options of list"),
    }
}
