//! `phalanx run`: a program, N times, in the foreground.

use crate::args::{Arguments, Run};
use crate::failure::Failure;
use crate::{log, output, watch};
use clap::CommandFactory;
use clap::error::ErrorKind;
use phalanx::{Cluster, Error, Intercept, LISTEN_VARIABLE, Program, Settings};
use std::ffi::{OsStr, OsString};
use std::time::Duration;

pub(crate) fn run(options: Run) -> Result<(), Failure> {
    if let Err(why) = options.guard.check() {
        // As clap says what it finds wrong itself.
        Arguments::command().error(ErrorKind::ValueValidation, why).exit();
    }
    // As the first process of a container it has to reap strangers: that is what keepers do.
    phalanx::keep(options.keeper || std::process::id() == 1)?;
    let _rest = log::to_stderr();
    let mut words = options.program.iter().chain(&options.args).cloned();
    // There is one, or clap would have said so.
    let program = words.next().unwrap_or_default();
    let args: Vec<OsString> = words.collect();
    let name = options.name.clone().unwrap_or_else(|| title(&program, &args));
    let mut settings = settings(&program, args, &options)?;
    if !options.listen.is_empty() {
        let list: Vec<String> = options.listen.iter().map(|(_, at)| at.to_string()).collect();
        settings.env.push((LISTEN_VARIABLE.into(), list.join(",").into()));
        settings.descriptors.clone_from(&options.listen);
    }
    settings.watchdog = options.watchdog;
    settings.port_base = options.port_base;
    if let Some(base) = options.port_base
        && usize::from(u16::MAX - base) + 1 < options.instances
    {
        return Err(Error::PortBase(base, options.instances).into());
    }
    let (output, _last_words) = output::piped(&name, options.instances, &mut settings).unzip();
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
        .drain_idle(options.drain_idle)
        .primary(phalanx::relay);
    if let Some(output) = output {
        cluster = cluster.primary(move |primary| output.show(primary));
    }
    if options.print_messages {
        cluster = cluster.primary(watch::print_messages);
    }
    if let Some(every) = options.stats {
        cluster = cluster.primary(move |primary| watch::log_stats(primary, every));
    }
    if let Some(policy) = options.policy {
        cluster = cluster.policy(policy);
    }
    for (_, address) in options.listen {
        cluster = cluster.listen(address);
    }
    options.guard.apply(cluster).run_as_primary().map_err(|error| Failure::of(name, error))
}

fn settings(name: &OsStr, args: Vec<OsString>, options: &Run) -> Result<Settings, Failure> {
    let flags = options.interpreter_args.iter().flat_map(|text| text.split_whitespace());
    let mut program = Program::new(name)
        .args(args)
        .interpreter_args(flags)
        .preload(!options.no_preload)
        .inspect(options.inspect);
    if let Some(name) = &options.interpreter {
        program = program.interpreter(name);
    }
    if options.no_intercept {
        program = program.intercept(Intercept::Off);
    } else if !options.port.is_empty() {
        program = program.intercept(Intercept::Ports(options.port.iter().copied().collect()));
    }
    Ok(program.settings()?)
}

/// Programs that say little without their first word.
const INTERPRETERS: [&str; 15] = [
    "node", "npm", "deno", "bun", "yarn", "pnpm", "python", "python3", "ruby", "php", "perl",
    "java", "sh", "bash", "lua",
];

/// What it is called in the log: the program, and for `node server.js` or `npm start` that word too.
fn title(program: &OsStr, args: &[OsString]) -> String {
    let program = program.to_string_lossy();
    match args.iter().find(|arg| !arg.to_string_lossy().starts_with('-')) {
        // Of `sh -c` the word is a program, and no name.
        Some(word)
            if !word.to_string_lossy().contains(' ') && INTERPRETERS.contains(&&*program) =>
        {
            format!("{program} {}", word.to_string_lossy())
        }
        _ => program.into_owned(),
    }
}
