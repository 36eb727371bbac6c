//! `phalanx run`: a program, N times, in the foreground.

use crate::args::Run;
use crate::control::{Detached, lead};
use crate::failure::Failure;
use crate::home::{App, append};
use crate::{log, output, watch};
use phalanx::{Cluster, Error, Intercept, LISTEN_VARIABLE, Policy, Program, Settings};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) fn run(options: Run) -> Result<(), Failure> {
    let app = options.detached.app_dir.as_deref();
    app.map(lead).transpose()?;
    // As the first process of a container it has to reap strangers: that is what keepers do.
    phalanx::keep(options.keeper || std::process::id() == 1)?;
    let _rest = log::to_stderr();
    // Whoever started it waits for its socket.
    let detached = app.map(Detached::begin).transpose()?;
    let name = called(&options);
    let mut settings = settings(&options)?;
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
    let (output, _last_words) = match &detached {
        Some(detached) => Some(into_files(&detached.app, &mut settings)?),
        None => output::piped(&name, options.instances, &mut settings),
    }
    .unzip();
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
    if let Some(detached) = detached {
        let policy = options.policy.map_or_else(Policy::from_env, Ok)?;
        cluster = cluster.primary(move |primary| detached.serve(primary, policy));
    }
    for (_, address) in options.listen {
        cluster = cluster.listen(address);
    }
    cluster.run_as_primary().map_err(|error| Failure::of(name, error))
}

/// The program and its arguments.
fn words(options: &Run) -> (OsString, Vec<OsString>) {
    let mut words = options.program.iter().chain(&options.args).cloned();
    // There is one, or clap would have said so.
    (words.next().unwrap_or_default(), words.collect())
}

/// What it is called in the log.
pub(crate) fn called(options: &Run) -> String {
    let (program, args) = words(options);
    options.name.clone().unwrap_or_else(|| title(&program, &args))
}

/// What workers say in the background.
fn into_files(
    app: &App,
    settings: &mut Settings,
) -> Result<(output::Output, output::Rest), Failure> {
    let open =
        |path: PathBuf| append(&path).map_err(Failure::os(format!("write {}", path.display())));
    Ok(output::to_files(open(app.out_log())?, open(app.err_log())?, settings))
}

/// Finds the program, and says how workers are started.
pub(crate) fn settings(options: &Run) -> Result<Settings, Failure> {
    let (name, args) = words(options);
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
