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
mod setup;
mod wrk;

use clap::Parser;
use report::{Report, markdown, plot};
use scenarios::{ALL, Context, Scenario};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Measures phalanx beside its peers.
#[derive(Debug, Parser)]
struct Options {
    /// Fewer rounds and smaller sizes: under five minutes.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios; what the directory of results has of the others stays.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Lists the scenarios.
    #[arg(long)]
    list: bool,
    /// Measures nothing: makes the table and the plots anew from the `results.json` that is there.
    #[arg(long)]
    render: bool,
    /// Where the results go: results.json, README.md and a plot for each section.
    #[arg(long, value_name = "DIRECTORY", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
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
    let file = options.out.join("results.json");
    let mut report = if options.render || !options.only.is_empty() {
        earlier(&file, options.render)?
    } else {
        Report::default()
    };
    if options.render {
        return write(&options.out, &report);
    }
    let context = Context { programs: build()?, quick: options.quick };
    let chosen = |one: &&Scenario| {
        options.only.is_empty() || options.only.iter().any(|name| name == one.name)
    };
    let mut failed = Vec::new();
    for scenario in ALL.iter().filter(chosen) {
        eprintln!("{}: {}", scenario.name, scenario.about);
        let begun = Instant::now();
        match (scenario.run)(&context) {
            Ok(sections) => {
                print!("{}", markdown::sections(&sections));
                report.replace(scenario.name, options.quick, sections);
                report.know(setup::machine(&context.programs.phalanx));
                // What is measured is not lost with what comes after it.
                write(&options.out, &report)?;
            }
            Err(error) => {
                eprintln!("bench: {}: {error}", scenario.name);
                failed.push(scenario.name);
            }
        }
        eprintln!("  took {:.0?}", begun.elapsed());
    }
    println!("Results: {}", options.out.display());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("could not measure: {}", failed.join(", ")))
    }
}

/// What an earlier run left; nothing is fine unless it is needed.
fn earlier(file: &Path, needed: bool) -> Result<Report, String> {
    match fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| format!("{} is not of this version: {error}", file.display())),
        Err(_) if !needed => Ok(Report::default()),
        Err(error) => Err(format!("cannot read {}: {error}", file.display())),
    }
}

/// Writes the results, their table and a plot of the first measure of each section.
fn write(directory: &Path, report: &Report) -> Result<(), String> {
    let order = |name: &str| ALL.iter().position(|scenario| scenario.name == name);
    let mut sections: Vec<_> = report.sections.iter().collect();
    sections.sort_by_key(|section| order(&section.scenario));
    let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    let mut files = vec![
        ("results.json".to_owned(), json + "\n"),
        ("README.md".to_owned(), markdown::report(report, &sections)),
    ];
    for section in sections {
        files.extend(plot::svg(section, 0).map(|svg| (format!("{}.svg", section.id), svg)));
    }
    fs::create_dir_all(directory)
        .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
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
