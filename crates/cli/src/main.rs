//! The program `phalanx`: a cluster of a Node program or of one on the crate, and a demonstration.

mod args;
mod control;
mod demo;
mod export;
mod failure;
mod home;
mod log;
mod manage;
mod output;
mod patient;
mod processes;
mod run;
mod show;
mod start;
mod table;
mod watch;

use args::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A usage error has clap's exit code, 2.
    let Arguments { command } = Arguments::parse();
    let done = match command {
        Command::Demo(options) => demo::demo(options),
        Command::Run(options) => run::run(*options),
        Command::Start(options) => start::start(&options.run),
        Command::List(options) => manage::list(options.json),
        Command::Describe(options) => manage::describe(&options.name, options.json),
        Command::Stop(options) => manage::stop(&options.name, options.now),
        Command::Delete(options) => manage::delete(&options.name, options.now),
        Command::Reload(options) => manage::reload(&options.name),
        Command::Scale(options) => manage::scale(&options.name, options.workers),
        Command::Restart(options) => manage::restart(&options.name),
        Command::Why(options) => manage::why(&options.name, options.number, options.json),
        Command::Upgrade(options) => manage::upgrade(&options.name),
        Command::Export(options) => {
            export::export(&options);
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}
