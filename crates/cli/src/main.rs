//! The program `phalanx`: a cluster of a Node program or of one on the crate, and a demonstration.

mod about;
mod apply;
mod args;
mod completions;
mod config;
mod control;
mod demo;
mod deploy;
mod doctor;
mod export;
mod failure;
mod habits;
mod home;
mod intent;
mod jlist;
mod list;
mod log;
mod logs;
mod manage;
mod output;
mod patient;
mod planned;
mod resurrect;
mod run;
mod serve;
mod show;
mod signals;
mod start;
mod startup;
mod table;
mod targets;
mod ui;
mod watch;

use args::{Arguments, Command};
use failure::Failure;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(directory) = as_told() {
        return end(run::run_as_told(&directory));
    }
    if let Some(done) = serve::as_worker() {
        return end(done);
    }
    if completions::answered() {
        return ExitCode::SUCCESS;
    }
    apply::go_on();
    // A usage error has clap's exit code, 2.
    let Arguments { command, manner } =
        Arguments::read(&habits::as_called()).unwrap_or_else(|error| error.exit());
    if manner.no_color {
        log::without_colours();
    }
    if manner.silent {
        show::hush(habits::only_does(&command));
    }
    end(obey(command))
}

fn end(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

pub(crate) fn obey(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(options) => demo::demo(options),
        Command::Run(options) => habits::run(options.settled()),
        Command::Start(options) => habits::start(options.run.settled()),
        Command::Serve(options) => habits::serve(*options),
        Command::Pm2(command) => habits::command(&command),
        Command::Stop(options) => manage::stop(&options.of.apps, options.now),
        Command::Restart(options) => manage::restart(&options),
        Command::Reload(options) => manage::reload(&options),
        Command::Delete(options) => manage::delete(&options.of.apps, options.now),
        Command::Scale(options) => manage::scale(&options.app, options.workers),
        Command::List(options) => list::list(&options),
        Command::Describe(options) => list::describe(&options),
        Command::Logs(options) => logs::logs(&options),
        Command::Flush(options) => logs::flush(&options.of.apps),
        Command::Reopen(options) => logs::reopen(&options.of.apps),
        Command::Why(options) => manage::why(&options),
        Command::Signal(options) => manage::signal(&options),
        Command::Send(options) => manage::send(&options),
        Command::Env(options) => manage::env(&options),
        Command::Pid(options) => manage::pid(&options.apps),
        Command::Id(options) => manage::id(&options.apps),
        Command::Reset(options) => manage::reset(&options.apps),
        Command::Save(options) => resurrect::save(&options),
        Command::Resurrect(options) => resurrect::resurrect(&options),
        Command::Startup(options) => startup::startup(&options),
        Command::Unstartup(options) => startup::unstartup(&options),
        Command::Upgrade(options) => manage::upgrade(&options.apps),
        Command::Ping(options) => manage::ping(&options.of.apps),
        Command::Init(options) => config::init(&options),
        Command::Check(options) => config::check(&options),
        Command::Deploy(options) => deploy::deploy(&options),
        Command::Doctor(options) => doctor::doctor(&options),
        Command::Completions(options) => completions::completions(&options),
        Command::Export(options) => {
            export::export(&options);
            Ok(())
        }
    }
}

/// What `start` starts, and all that comes after it: keepers and primaries are small without a parser of all commands.
fn as_told() -> Option<PathBuf> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match words.as_slice() {
        [run, option, directory] if run == "run" && option == "--app-dir" => Some(directory.into()),
        _ => None,
    }
}
