//! `phalanx run`: a program, N times, in the foreground.

use crate::args::{Run, is_time};
use crate::failure::{Failure, USAGE};
use crate::home::{App, Home, Spec, append, check_name, name_of};
use crate::{about, config, intent, log, output, watch};
use phalanx::control::{Control, lead};
use phalanx::{Cluster, Error, Intercept, LISTEN_VARIABLE, Policy, Program, Settings};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) fn run(options: Run) -> Result<(), Failure> {
    if config::foreground(&options)? {
        return Ok(());
    }
    match &options.detached.app_dir {
        Some(directory) => run_as_told(directory),
        None if options.program.is_empty() && options.args.is_empty() => {
            Err(Failure::tool(USAGE, "no program is named").hint("`phalanx run app.js` runs one"))
        }
        None => run_with(options),
    }
}

/// What `start` wrote down: the command line, the directory, the environment.
pub(crate) fn run_as_told(directory: &Path) -> Result<(), Failure> {
    let (app, spec) = App::of(directory)?;
    spec.wear()?;
    // One that takes over goes on even if its directory is gone.
    let entered = std::env::set_current_dir(&spec.cwd);
    let mut options = intent::options(&spec.argv)?;
    options.detached.app_dir = Some(directory.to_owned());
    options.name = Some(app.name);
    options.cwd = Some(spec.cwd.clone().into());
    if let Err(error) = entered {
        tracing::warn!("cannot change to the directory {}: {error}", spec.cwd);
    }
    run_with(options)
}

fn run_with(options: Run) -> Result<(), Failure> {
    if let Err(why) = options.guard.check() {
        return Err(Failure::tool(USAGE, why));
    }
    let app = options.detached.app_dir.as_deref();
    // One that is only asked whether it could take over leads nothing.
    phalanx::keep(false)?;
    let app = app.filter(|_| !phalanx::rehearses());
    app.map(lead).transpose()?;
    // As the first process of a container it has to reap strangers: that is what keepers do.
    let keeper = options.keeper || app.is_some() && !options.no_keeper;
    phalanx::keep(keeper || std::process::id() == 1)?;
    let _rest = log::to_stderr();
    // Whoever started it waits for its socket.
    let mut control = match app {
        Some(directory) => Some(Control::begin(directory)?),
        None => in_foreground(&options),
    };
    let (limits, scaling) = (options.limits.limits()?, options.limits.scaling()?);
    let instances = options.limits.first(options.instances)?;
    // Slots are given to as many as there may be.
    let most = scaling.as_ref().map_or(instances, |scaling| scaling.max);
    let name = called(&options);
    let mut settings = settings(&options)?;
    if !options.listen.is_empty() {
        let list: Vec<String> = options.listen.iter().map(|(_, at)| at.to_string()).collect();
        settings.env.push((LISTEN_VARIABLE.into(), list.join(",").into()));
        settings.descriptors.clone_from(&options.listen);
    }
    options.rights.apply(&mut settings);
    settings.watchdog = options.watchdog;
    settings.port_base = options.port_base;
    if let Some(base) = options.port_base
        && usize::from(u16::MAX - base) + 1 < most
    {
        return Err(Error::PortBase(base, most).into());
    }
    if let Some(cwd) = options.cwd.filter(|_| settings.permissions.root.is_none()) {
        // By its name: each worker follows a link in it anew.
        settings.cwd.get_or_insert(cwd);
    }
    if let Some(control) = &mut control {
        about::tell(control, &settings);
    }
    let (output, _last_words) = match control.as_ref().filter(|_| app.is_some()) {
        Some(control) => Some(into_files(control.app(), &mut settings)?),
        None => output::piped(&name, most, &mut settings),
    }
    .unzip();
    tracing::info!(%name, workers = instances, pid = std::process::id(), "primary");
    // As long as it likes.
    let limit = |time: Duration| Some(time).filter(|time| !time.is_zero());
    let mut cluster = Cluster::new()
        .workers(instances)
        .settings(settings)
        .balance(options.balance)
        .ready(options.ready)
        .start_timeout(limit(options.start_timeout))
        .grace(limit(options.grace))
        .drain_idle(options.drain_idle)
        .limits(limits)
        .primary(phalanx::relay);
    cluster = options.liveness.apply(cluster)?;
    if let Some(scaling) = scaling {
        cluster = cluster.scaling(scaling);
    }
    if let Some(output) = output {
        cluster = cluster.primary(move |primary| output.show(primary));
    }
    if options.file.member {
        cluster = cluster.primary(config::tell_ready);
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
    if let Some(control) = control {
        let policy = options.policy.map_or_else(Policy::from_env, Ok)?;
        cluster = cluster.primary(move |primary| control.serve(primary, policy));
    }
    for (_, address) in options.listen {
        cluster = cluster.listen(address);
    }
    options.guard.apply(cluster).run_as_primary().map_err(|error| Failure::of(name, error))
}

/// One that somebody runs can be asked and told as well. That it cannot is no reason not to run.
fn in_foreground(options: &Run) -> Option<Control> {
    if phalanx::rehearses() {
        return None;
    }
    let mut name = called(options);
    if check_name(&name).is_err() {
        name = Some(name_of(&name)).filter(|name| !name.is_empty()).unwrap_or("app".into());
    }
    let begin = || {
        let argv = std::env::args_os().skip(2).map(|word| word.to_string_lossy().into_owned());
        let mut spec = Spec::new(&name, argv.collect(), &intent::here()?, BTreeMap::new());
        spec.namespace.clone_from(&options.namespace);
        Ok::<_, Failure>(Control::foreground(&Home::find()?, spec, true)?)
    };
    match begin() {
        Ok(control) => Some(control),
        Err(failure) => {
            tracing::info!("commands cannot reach this application: {}", failure.message());
            None
        }
    }
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
    let root = options.rights.root();
    if let Some(root) = root {
        // Or it would seem to be the program that is not there.
        std::fs::read_dir(root).map_err(|source| Error::Permissions {
            what: format!("cannot change root to {} for workers", root.display()),
            source,
            hint: None,
        })?;
    }
    let mut program = Program::new(root.map_or(name.to_owned(), |root| inside(root, &name)))
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
    let mut settings = match program.settings() {
        Err(_) if is_astray(options, &name) => return Err(astray(&name)),
        settings => settings?,
    };
    if let Some(root) = root {
        as_seen_inside(root, &mut settings);
    }
    Ok(settings)
}

/// Whether the program's name is the time of an option that wants an equals sign before it.
fn is_astray(options: &Run, name: &OsStr) -> bool {
    (options.guard.canary.is_some() || options.stats.is_some())
        && name.to_str().is_some_and(is_time)
}

fn astray(name: &OsStr) -> Failure {
    let name = name.to_string_lossy();
    Failure::tool(USAGE, format!("`{name}` is a time, and stands where the program is named"))
        .hint(format!("--canary and --stats have their time after an equals sign: --canary={name}"))
}

/// Where a program is that is named as it is seen in the root; its bare name is looked for in $PATH.
fn inside(root: &Path, name: &OsStr) -> OsString {
    let path = Path::new(name);
    if path.components().count() == 1 && !root.join(path).exists() {
        return name.to_owned();
    }
    root.join(path.strip_prefix("/").unwrap_or(path)).into_os_string()
}

/// The paths of the program and its script, as workers will see them.
fn as_seen_inside(root: &Path, settings: &mut Settings) {
    let Ok(root) = std::path::absolute(root) else { return };
    let seen = |path: &Path| path.strip_prefix(&root).ok().map(|rest| Path::new("/").join(rest));
    if let Some(exec) = settings.exec.as_deref().and_then(seen) {
        settings.exec = Some(exec);
    }
    if let Some(script) = settings.args.first_mut()
        && let Some(inside) = seen(Path::new(script))
    {
        *script = inside.into();
    }
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
