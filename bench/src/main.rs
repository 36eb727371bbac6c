//! `cargo run --release -p bench`: phalanx beside what a user would pick instead, measured on this machine in
//! rounds that alternate between the candidates.
//!
//! Absolute numbers depend on the machine and on what else runs on it; ratios of the same round do not.
#![allow(clippy::print_stdout)]

mod clock;
mod peers;
mod probe;
mod report;
mod scenarios;
#[cfg_attr(not(test), expect(dead_code, reason = "for the rates, which do not use it yet"))]
mod wrk;

use clap::Parser;
use report::Report;
use scenarios::{ALL, Context};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Measures phalanx beside its peers.
#[derive(Debug, Parser)]
struct Options {
    /// Fewer rounds and smaller sizes: under five minutes.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Lists the scenarios.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        // A program under the filter of bind interception, started by the bench itself.
        Some((first, rest)) if first == "probe" => probe::probe(rest),
        _ => measure(&Options::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), String> {
    if options.list {
        for scenario in ALL {
            println!("{:<12} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    if let Some(unknown) = options.only.iter().find(|name| ALL.iter().all(|one| one.name != **name))
    {
        return Err(format!("there is no scenario {unknown:?}; `--list` has them"));
    }
    let context = Context { programs: build()?, quick: options.quick };
    let mut report = Report { quick: options.quick, ..Report::default() };
    for scenario in ALL {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == scenario.name) {
            continue;
        }
        eprintln!("{}: {}", scenario.name, scenario.about);
        report.sections.extend((scenario.run)(&context)?);
    }
    println!("{}", serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?);
    Ok(())
}

/// The release builds of what is measured, made if need be.
fn build() -> Result<peers::Programs, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["build", "--release", "--quiet", "-p", "phalanx-cli", "-p", "bench-app"];
    if !Command::new(cargo).args(args).status().is_ok_and(|status| status.success()) {
        return Err("cannot build the programs to measure; `cargo build --release` says why".into());
    }
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = |name: &str| -> PathBuf { me.with_file_name(name) };
    Ok(peers::Programs { phalanx: beside("phalanx"), app: beside("serve") })
}
