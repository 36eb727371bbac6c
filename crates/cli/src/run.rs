//! `phalanx run`: a program, N times, in the foreground.

use crate::args::logging::Logging;
use crate::args::{Compat, Run, Watch, is_time};
use crate::failure::{Failure, USAGE};
use crate::home::{App, Home, Spec, check_name, name_of};
use crate::planned::{Plan, Wish, Without};
use crate::{about, config, intent, log, logs, output, serve, watch};
use phalanx::control::{Control, lead};
use phalanx::{Cluster, Error, Intercept, LISTEN_VARIABLE, Policy, Program, Settings, Stdio};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn run(options: Run) -> Result<(), Failure> {
    if config::foreground(&options)? {
        return Ok(());
    }
    match &options.detached.app_dir {
        Some(directory) => run_as_told(directory),
        None if options.program.is_empty() && options.args.is_empty() => {
            Err(Failure::tool(USAGE, "no PROGRAM is named").hint("`phalanx run app.js` runs one"))
        }
        None => run_with(options),
    }
}

/// What `start` wrote down: the command line, the directory, the environment.
pub(crate) fn run_as_told(directory: &Path) -> Result<(), Failure> {
    let (app, spec) = App::of(directory)?;
    logs::bound(app.primary_log());
    spec.wear()?;
    // One that takes over goes on even if its directory is gone.
    let entered = std::env::set_current_dir(&spec.cwd);
    let mut options = intent::options(&spec.argv)?;
    options.detached.app_dir = Some(directory.to_owned());
    options.name = Some(app.name);
    options.instances = spec.scaled.or(options.instances);
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
    let place = place(&options)?;
    let mut settings = match prepared(&options, &place) {
        // Who took over serves on: the program is looked for again at the next reload.
        Err(failure) if phalanx::takes_over() && !phalanx::rehearses() => {
            tracing::error!("no worker can be started before a reload: {}", failure.message());
            Settings { exec: Some(place.join(words(&options).0)), ..Settings::default() }
        }
        prepared => prepared?,
    };
    if let Some(base) = options.port_base
        && usize::from(u16::MAX - base) + 1 < most
    {
        return Err(Error::PortBase(base, most).into());
    }
    let plan = plan(&options, &place, &settings);
    let stays = plan.is_some();
    if let Some(control) = &mut control {
        about::tell(control, &settings);
        control.about().watching = plan.as_ref().is_some_and(|plan| plan.watch.is_some());
        control.about().cron = options.planned.cron_words();
    }
    let without_output = settings.env.clone();
    let base = options.cwd.as_deref();
    let (output, _last_words) =
        kept(&options.logging, base, &name, most, control.as_ref(), &mut settings)?.unzip();
    let control = control
        .map(|control| logs::obeying(control, output.as_ref().and_then(output::Output::files)));
    let of_output = settings.env.iter().filter(|variable| !without_output.contains(variable));
    let of_output = (settings.stdio, of_output.cloned().collect::<Vec<_>>());
    let _pid_file =
        options.habits.pid.as_deref().map(|file| PidFile::write(file, keeper)).transpose()?;
    let options = Arc::new(options);
    tracing::info!(%name, workers = instances, pid = std::process::id(), "primary");
    // As long as it likes.
    let limit = |time: Duration| Some(time).filter(|time| !time.is_zero());
    let mut cluster = Cluster::new()
        .workers(instances)
        .settings(settings)
        .renew(renewal(Arc::clone(&options), place, of_output))
        .balance(options.balance.clone())
        .ready(options.is_ready_when())
        .kill_signal(options.habits.kill_signal)
        .shutdown_message(options.habits.shutdown_with_message)
        .start_timeout(limit(options.start_timeout))
        .grace(limit(options.grace))
        .drain_idle(options.drain_idle)
        .limits(limits)
        .primary(phalanx::relay);
    cluster = options.liveness.clone().apply(cluster)?;
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
    if let Some(plan) = plan {
        cluster = cluster.primary(move |primary| plan.keep(primary));
    }
    let addresses = options.listen.iter().map(|(_, address)| address.clone());
    for address in addresses.chain(serve::address(&options)?) {
        cluster = cluster.listen(address);
    }
    options.guard.apply(cluster, stays).run_as_primary().map_err(|error| Failure::of(name, error))
}

/// The directory in which names are meant, as it was named itself.
fn place(options: &Run) -> Result<PathBuf, Failure> {
    match &options.cwd {
        Some(cwd) if options.detached.app_dir.is_some() => Ok(cwd.clone()),
        _ => intent::here(),
    }
}

/// How workers are started: all that the options say.
fn prepared(options: &Run, place: &Path) -> Result<Settings, Failure> {
    let mut settings = settings(options)?;
    if !options.listen.is_empty() {
        let list: Vec<String> = options.listen.iter().map(|(_, at)| at.to_string()).collect();
        settings.env.push((LISTEN_VARIABLE.into(), list.join(",").into()));
        settings.descriptors.clone_from(&options.listen);
    }
    options.rights.clone().apply(&mut settings);
    settings.watchdog = options.watchdog;
    settings.port_base = options.port_base;
    let is_rooted = settings.permissions.root.is_some();
    // Where a link in its name leads just now.
    let real = place.canonicalize().ok().filter(|real| real != place && !is_rooted);
    let cwd = options.cwd.clone().or_else(|| real.as_ref().map(|_| place.to_owned()));
    if let Some(cwd) = cwd.filter(|_| !is_rooted) {
        // By its name: each worker follows a link in it anew.
        settings.cwd.get_or_insert(cwd);
    }
    if let Some(real) = real {
        name_by(place, &real, &mut settings);
    }
    let compat = Compat {
        name: &called(options),
        namespace: &options.namespace,
        instances: options.limits.first(options.instances)?,
        cwd: place.into(),
    };
    options.habits.apply(&mut settings, &compat)?;
    Ok(settings)
}

/// What is in the directory has its name, and not that of where a link in it leads just now.
fn name_by(place: &Path, real: &Path, settings: &mut Settings) {
    let named = |path: &Path| path.strip_prefix(real).ok().map(|rest| place.join(rest));
    let is_script = settings.args.first().map(Path::new).is_some_and(Path::is_file);
    if let Some(script) = settings.args.first_mut().filter(|_| is_script)
        && let Some(path) = named(Path::new(script))
    {
        *script = path.into();
    }
    for path in [&mut settings.exec, &mut settings.cwd].into_iter().flatten() {
        if let Some(name) = named(path) {
            *path = name;
        }
    }
}

/// What is asked at each reload: the directory, the program and its interpreter may be others behind the same names.
fn renewal(
    options: Arc<Run>,
    place: PathBuf,
    (stdio, variables): (Stdio, Vec<(OsString, OsString)>),
) -> impl Fn() -> phalanx::Result<Settings> + Send + Sync + 'static {
    move || {
        let entered = std::env::set_current_dir(&place);
        entered.map_err(|error| {
            Error::Setting(format!("cannot change to the directory {}: {error}", place.display()))
        })?;
        let mut settings = prepared(&options, &place).map_err(Failure::into_error)?;
        settings.stdio = stdio;
        let missing =
            variables.iter().filter(|(name, _)| settings.env.iter().all(|(k, _)| k != name));
        let missing: Vec<_> = missing.cloned().collect();
        settings.env.extend(missing);
        Ok(settings)
    }
}

/// What is planned, if anything is.
fn plan(options: &Run, place: &Path, settings: &Settings) -> Option<Plan> {
    let watch = options.planned.watch().map(|watch| wish(options, watch, place, settings));
    let cron = options.planned.cron();
    (watch.is_some() || !cron.is_empty()).then_some(Plan { watch, cron })
}

fn wish(options: &Run, watch: Watch, place: &Path, settings: &Settings) -> Wish {
    let script = settings.args.first().map(Path::new).filter(|script| script.is_absolute());
    let aside = script.and_then(Path::parent).filter(|directory| !directory.starts_with(place));
    let paths = match watch.paths.is_empty() {
        true => vec![aside.unwrap_or(place).to_owned()],
        false => watch.paths.iter().map(|path| place.join(path)).collect(),
    };
    // What phalanx itself writes.
    let directories = Home::find().map_or_else(
        |_| Vec::new(),
        |home| home.directories().iter().filter_map(|(_, path)| path.canonicalize().ok()).collect(),
    );
    let files = options.logging.places(place, [None, None]).paths();
    let files = files.into_iter().chain(options.habits.pid.clone()).filter_map(|file| {
        let file = place.join(file);
        Some(file.parent()?.canonicalize().ok()?.join(file.file_name()?))
    });
    let without = Without { directories, files: files.collect() };
    Wish { here: place.to_owned(), paths, watch, without }
}

/// A file with the number of the process to signal, as long as that is there.
struct PidFile(PathBuf, String);

impl PidFile {
    fn write(file: &Path, keeper: bool) -> Result<Self, Failure> {
        let leader = match keeper {
            true => rustix::process::getppid(),
            false => None,
        };
        let pid = leader.unwrap_or_else(rustix::process::getpid).as_raw_nonzero();
        let text = format!("{pid}\n");
        std::fs::write(file, &text)
            .map_err(Failure::os(format!("write the file of --pid {}", file.display())))?;
        Ok(Self(file.to_owned(), text))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Not another one's.
        if std::fs::read_to_string(&self.0).is_ok_and(|text| text == self.1) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
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
        let argv = options.words.clone();
        let mut spec = Spec::new(&name, argv, &intent::here()?, BTreeMap::new());
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
    if let [line] = options.program.as_slice()
        && let Some(words) = line.to_str().and_then(crate::habits::command_line)
    {
        let mut words = words.into_iter().map(OsString::from);
        return (words.next().unwrap_or_default(), words.chain(options.args.clone()).collect());
    }
    let mut words = options.program.iter().chain(&options.args).cloned();
    // There is one, or clap would have said so.
    (words.next().unwrap_or_default(), words.collect())
}

/// What it is called in the log.
pub(crate) fn called(options: &Run) -> String {
    let (program, args) = words(options);
    options.name.clone().unwrap_or_else(|| title(&program, &args))
}

/// What becomes of what workers say: in the background, files unless something else is wanted.
fn kept(
    logging: &Logging,
    cwd: Option<&Path>,
    name: &str,
    workers: usize,
    control: Option<&Control>,
    settings: &mut Settings,
) -> Result<Option<(output::Output, output::Rest)>, Failure> {
    let background = control.filter(|control| !control.spec().foreground);
    let places = match background {
        Some(control) => logs::places_of(control.app(), control.spec(), logging),
        None => logging.places(cwd.unwrap_or(Path::new("")), [None, None]),
    };
    let name = background.map_or(name, |control| &control.app().name);
    let detached = background.is_some();
    let wanted = output::Wanted { name, workers, logging, places, detached };
    output::piped(&wanted, settings).map_err(|(path, error)| {
        Failure::os(format!("write {}", path.display()))(error)
            .hint("--output and --error name other files, --disable-logs does without")
    })
}

/// Finds the program, and says how workers are started.
pub(crate) fn settings(options: &Run) -> Result<Settings, Failure> {
    if let Some(settings) = serve::settings(options)? {
        return Ok(settings);
    }
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
