//! The command line.

use clap::{Args, Parser, Subcommand};
use phalanx::{Address, MAX_WORKERS, Policy, cores};
use std::ffi::OsString;

/// The multi-process server cluster for one machine: N workers, one port, and the kernel dispatches.
///
/// Exit codes: 0 stopped as told · 1 something unexpected · 2 bad command line · 3 the program
/// cannot be started · 4 no worker became ready · 5 the address cannot be listened on
///
/// Signals to the primary: TERM, INT drain and stop (twice: at once) · QUIT stop at once ·
/// USR2 rolling reload · HUP the same, or stop if the terminal is gone
#[derive(Debug, Parser)]
#[command(name = "phalanx", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// An HTTP server on every core behind one port, to try things on
    Demo(Demo),
    /// Run a program built on the crate `phalanx` N times behind its ports, in the foreground
    Run(Run),
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Where to listen: HOST:PORT (an IP address or localhost), :PORT, PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub(crate) listen: Address,
    /// How many workers: a number, or max for one per core
    #[arg(short = 'i', long, value_name = "N|max", default_value = "max", value_parser = count)]
    pub(crate) instances: usize,
    /// How connections get to workers: direct, round-robin or shared
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<Policy>,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The program
    pub(crate) program: OsString,
    /// How many workers: a number; max or 0 for one per core
    #[arg(short = 'i', long, value_name = "N|max|0", default_value = "max", value_parser = count_or_max)]
    pub(crate) instances: usize,
    /// How connections get to workers: direct, round-robin or shared
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<Policy>,
    /// Open this address before any worker runs, and tell the workers in `PHALANX_LISTEN`, where
    /// `Address::from_env` finds it; may be given several times
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<Address>,
    /// What it is called in the log; else the program's name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The program's own arguments
    #[arg(last = true)]
    pub(crate) args: Vec<OsString>,
}

fn count(text: &str) -> Result<usize, String> {
    if text == "max" {
        return Ok(cores());
    }
    match text.parse() {
        Ok(n) if (1..=MAX_WORKERS).contains(&n) => Ok(n),
        _ => Err(format!("expected a number from 1 to {MAX_WORKERS}, or max")),
    }
}

fn count_or_max(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(cores()) } else { count(text) }
}
