//! The program `phalanx`: a cluster of a Node program or of one on the crate, and a demonstration.

mod args;
mod demo;
mod export;
mod failure;
mod log;
mod output;
mod patient;
mod run;
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
