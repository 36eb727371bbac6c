//! `phalanx run`: a program, N times, in the foreground.

use crate::args::Run;
use crate::failure::Failure;
use crate::{log, watch};
use phalanx::{Address, Cluster, LISTEN_VARIABLE, Program, Settings};
use std::time::Duration;

pub(crate) fn run(options: Run) -> Result<(), Failure> {
    let _rest = log::to_stderr();
    let name = options.name.clone().unwrap_or_else(|| title(&options));
    let mut settings = settings(&options)?;
    if !options.listen.is_empty() {
        let list: Vec<String> = options.listen.iter().map(Address::to_string).collect();
        settings.env.push((LISTEN_VARIABLE.into(), list.join(",").into()));
    }
    tracing::info!(%name, workers = options.instances, pid = std::process::id(), "primary");
    // As long as it likes.
    let limit = |time: Duration| Some(time).filter(|time| !time.is_zero());
    let mut cluster = Cluster::new()
        .workers(options.instances)
        .settings(settings)
        .balance(options.balance)
        .ready(options.ready)
        .start_timeout(limit(options.start_timeout))
        .grace(limit(options.grace))
        .primary(phalanx::relay);
    if options.print_messages {
        cluster = cluster.primary(watch::print_messages);
    }
    if let Some(every) = options.stats {
        cluster = cluster.primary(move |primary| watch::log_stats(primary, every));
    }
    if let Some(policy) = options.policy {
        cluster = cluster.policy(policy);
    }
    for address in options.listen {
        cluster = cluster.listen(address);
    }
    cluster.run_as_primary().map_err(|error| Failure::of(name, error))
}

fn settings(options: &Run) -> Result<Settings, Failure> {
    let flags = options.interpreter_args.iter().flat_map(|text| text.split_whitespace());
    let mut program = Program::new(&options.program)
        .args(&options.args)
        .interpreter_args(flags)
        .preload(!options.no_preload)
        .inspect(options.inspect);
    if let Some(name) = &options.interpreter {
        program = program.interpreter(name);
    }
    Ok(program.settings()?)
}

/// What it is called in the log: the program, and for `node server.js` or `npm start` that word too.
fn title(options: &Run) -> String {
    let program = options.program.to_string_lossy();
    match (&*program, options.args.iter().find(|arg| !arg.to_string_lossy().starts_with('-'))) {
        ("node" | "npm" | "deno" | "bun" | "yarn" | "pnpm", Some(word)) => {
            format!("{program} {}", word.to_string_lossy())
        }
        _ => program.into_owned(),
    }
}
