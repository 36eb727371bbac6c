//! The command line.

mod deploy;
mod examples;
pub(crate) mod file;
pub(crate) mod guard;
pub(crate) mod habits;
mod limits;
mod liveness;
pub(crate) mod logging;
mod permissions;
pub(crate) mod planned;
pub(crate) mod pm2;
pub(crate) mod serve;
mod tool;

pub(crate) use tool::{
    Check, Completions, Describe, Detached, Environment, Flush, Init, List, LogsOf, Ping, Reload,
    Restart, Resurrect, Save, Scale, Send, Signal, Start, Startup, Stop, Target, Targets,
    Unstartup, Why,
};

use clap::{Arg, Args, Parser, Subcommand};
pub(crate) use deploy::Deploy;
pub(crate) use habits::Compat;
pub(crate) use limits::LimitArgs;
use liveness::Liveness;
use phalanx::{Address, Balance, MAX_WORKERS, Policy, ReadyWhen, cores};
pub(crate) use planned::Watch;
pub(crate) use pm2::{Pm2, Words};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The multi-process server cluster for one machine: N workers, one port, and the kernel dispatches.
///
/// Exit codes: 0 stopped as told, or done · 1 something unexpected · 2 bad command line · 3 the program
/// cannot be started · 4 no worker became ready · 5 the address cannot be listened on · 6 an application
/// of that name runs
///
/// Signals to the primary: TERM, INT drain and stop (twice: at once) · QUIT stop at once ·
/// USR2 rolling reload · USR1 upgrade in place · HUP rolling reload, or, started in a terminal, drain and stop
#[derive(Debug, Parser)]
#[command(name = "phalanx", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) manner: Manner,
}

/// What may stand after `run`, and in what is written down of an application.
pub(crate) fn of_run(command: clap::Command) -> clap::Command {
    Manner::augment_args(Run::augment_args(command))
}

impl Arguments {
    /// Reads a command line, its first word the program's name.
    ///
    /// # Errors
    /// What is wrong with it, or what was asked of clap itself (`--help`).
    pub(crate) fn read(words: &[OsString]) -> Result<Self, clap::Error> {
        let mut read = Self::try_parse_from(words)?;
        let run = match &mut read.command {
            Command::Run(options) => options,
            Command::Start(options) => &mut options.run,
            Command::Serve(options) => &mut options.run,
            _ => return Ok(read),
        };
        run.words = after_command(words);
        Ok(read)
    }
}

/// The words after the command: what every command takes may stand before it.
fn after_command(words: &[OsString]) -> Vec<String> {
    let words = words.iter().skip(1);
    let words = words.skip_while(|word| word.as_encoded_bytes().starts_with(b"-")).skip(1);
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// How the tool speaks.
#[derive(Args, Debug)]
pub(crate) struct Manner {
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub(crate) silent: bool,
    /// Without colours, as with `NO_COLOR` in the environment
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// An HTTP server on every core behind one port, to try things on
    Demo(Demo),
    /// Run any program N times behind the ports it binds, in the foreground
    Run(Box<Run>),
    /// Run any program as `run` does, in the background, under a name
    #[command(after_long_help = examples::START)]
    Start(Box<Start>),
    /// Serve a directory of files over HTTP, in the background
    #[command(alias = "expose", after_long_help = examples::SERVE)]
    Serve(Box<serve::Serve>),
    /// Drain the workers of applications, and end them; `start NAME` starts them again
    Stop(Stop),
    /// End the workers of applications, and start them anew; starts those that are stopped
    Restart(Restart),
    /// Replace the workers of applications one by one, without losing a request
    #[command(after_long_help = examples::RELOAD)]
    Reload(Reload),
    /// Stop applications, and forget them; one that does not answer is killed
    #[command(alias = "del")]
    Delete(Stop),
    /// Change how many workers an application has
    Scale(Scale),
    /// Show the applications that were started, and their workers
    #[command(visible_aliases = ["ls", "ps", "status"], alias = "l", after_long_help = examples::LIST)]
    List(List),
    /// Show what is known of applications
    #[command(visible_aliases = ["show", "info"], alias = "desc")]
    Describe(Describe),
    /// Show what workers say, and go on with it
    #[command(alias = "log")]
    #[command(after_long_help = examples::LOGS)]
    Logs(LogsOf),
    /// Empty the logs of applications
    Flush(Flush),
    /// Open the log files anew, as after logrotate(8) has moved them
    #[command(alias = "reloadLogs")]
    Reopen(Flush),
    /// Show why an application's workers ended
    Why(Why),
    /// Send a signal to the workers of applications
    #[command(alias = "sendSignal")]
    Signal(Signal),
    /// Send a message to the workers of an application, as `worker.send()` of `node:cluster` does
    Send(Send),
    /// Show the environment of an application
    Env(Environment),
    /// Print the process numbers of applications: of the primary, or of the workers
    Pid(Targets),
    /// Print the ids of applications
    Id(Targets),
    /// Count the restarts of applications from nothing again
    Reset(Targets),
    /// Keep what there is as a snapshot; what is to run is always kept, with or without it
    #[command(alias = "dump")]
    Save(Save),
    /// Start everything that is to run, and does not: as after a reboot
    Resurrect(Resurrect),
    /// Print the systemd unit that starts everything at boot, and how to install it
    Startup(Startup),
    /// Remove that unit
    Unstartup(Unstartup),
    /// Replace the primaries of applications by this version of the program, while their workers serve on
    Upgrade(Targets),
    /// Ask the primaries of applications whether they are there
    Ping(Ping),
    /// Write an annotated configuration file to begin with
    #[command(alias = "ecosystem")]
    Init(Init),
    /// Check a configuration file, and show what would run and what would change
    Check(Check),
    /// Bring a commit of a git repository to hosts, over ssh, and run there what belongs to it
    #[command(after_long_help = examples::DEPLOY)]
    Deploy(Deploy),
    /// Look at this machine: the kernel's features, limits, permissions, versions, with advice
    Doctor(crate::doctor::Doctor),
    /// Print a shell's completions, which know the applications' names; or manual pages
    Completions(Completions),
    /// Print the configuration of nginx or haproxy in front of workers that have a port each
    Export(crate::export::Export),
    #[command(flatten)]
    Pm2(Pm2),
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
    /// Survive: a small keeper starts another primary if this one is killed
    #[arg(long)]
    pub(crate) keeper: bool,
}

#[derive(Args, Debug)]
#[command(
    override_usage = "phalanx run [OPTIONS] PROGRAM [ARGS]... [-- ARGS...]\n       phalanx run [OPTIONS] -- PROGRAM [ARGS]...",
    next_line_help = true,
    mut_args(signed)
)]
pub(crate) struct Run {
    /// All that stood after the command.
    #[arg(skip)]
    pub(crate) words: Vec<String>,
    /// A script (.js .mjs, .ts where Node can, .py .rb .php .pl .sh .bash .lua .jar .java), a program, `npm start`; then
    /// its arguments. What begins with a dash is this program's, before `--`
    #[arg(value_name = "PROGRAM")]
    pub(crate) program: Vec<OsString>,
    /// The program's own arguments, or all of it
    #[arg(last = true)]
    pub(crate) args: Vec<OsString>,
    /// How many workers: a number; max or 0 for one per core, as without it; -1 for one less than that
    #[arg(short = 'i', long, value_name = "N|max|-N", value_parser = count_or_max, allow_negative_numbers = true)]
    pub(crate) instances: Option<usize>,
    /// What it is called in the log; else the program's name
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// How connections get to workers: direct, round-robin or shared
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<Policy>,
    /// Who gets a connection: even, or sticky (by source address)
    #[arg(long, value_name = "BALANCE", default_value = "even", value_parser = balance)]
    pub(crate) balance: Balance,
    /// When a worker is ready: when it is listening; already online, for programs that never listen (one without
    /// a channel: when it has run for a second); or notify, when it says so: READY=1 (`sd_notify`), `process.send('ready')`
    #[arg(long, value_name = "listening|online|notify", default_value = "listening", value_parser = ready)]
    pub(crate) ready: ReadyWhen,
    /// How long a worker may take to be ready; 0: as long as it likes. A number is milliseconds; ms, s, m, h
    #[arg(long, visible_alias = "listen-timeout", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub(crate) start_timeout: Duration,
    /// How long a worker that was told to leave may take to finish; 0: as long as it likes
    #[arg(short_alias = 'k', long, visible_alias = "kill-timeout", value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(crate) grace: Duration,
    /// Survive: this process becomes a small keeper, which starts the primary, and another one if that is killed; workers
    /// and clients do not notice. As the first process of a container, and with `start`, it does so by itself
    #[arg(long)]
    pub(crate) keeper: bool,
    /// `start` only, which has a keeper by itself: without it; a primary that is killed ends its workers
    #[arg(long, conflicts_with = "keeper")]
    pub(crate) no_keeper: bool,
    /// Print each message of a worker on stdout
    #[arg(long)]
    pub(crate) print_messages: bool,
    /// The group it belongs to, which commands can name instead of it
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: String,
    /// The working directory; a link in it is followed anew at each reload
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) detached: Detached,
    #[command(flatten)]
    pub(crate) file: file::FromFile,
    #[command(flatten)]
    pub(crate) planned: planned::Planned,
    #[command(flatten)]
    pub(crate) logging: logging::Logging,
    #[command(flatten)]
    pub(crate) habits: habits::Habits,
    /// Run the script with this: a name, a path, or none
    #[arg(help_heading = "Scripts", long, value_name = "NAME|PATH|none")]
    pub(crate) interpreter: Option<OsString>,
    /// Flags for the interpreter, split at spaces; may be given several times
    #[arg(
        help_heading = "Scripts",
        long,
        visible_alias = "node-args",
        value_name = "FLAGS",
        allow_hyphen_values = true
    )]
    pub(crate) interpreter_args: Vec<String>,
    /// Node workers run without the preload: keep-alive connections are cut when a worker leaves
    #[arg(help_heading = "Scripts", long)]
    pub(crate) no_preload: bool,
    /// Each worker opens an inspector, on this port plus its slot or the next free one; PORT or HOST:PORT
    #[arg(help_heading = "Scripts", long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "9229", value_parser = inspect)]
    pub(crate) inspect: Option<SocketAddr>,
    /// Log a line for each Node worker every so often: requests, latency, event loop, memory
    #[arg(help_heading = "Scripts", long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "10s", value_parser = time)]
    pub(crate) stats: Option<Duration>,
    /// Open this address before any worker runs, and pass it on: its socket as systemd does (`LISTEN_FDS`, with NAME
    /// in `LISTEN_FDNAMES`), and for programs on the crate in `PHALANX_LISTEN`, where `Address::from_env` finds it; may
    /// be given several times. A Node program listens where it says itself
    #[arg(help_heading = "Ports", long, value_name = "[NAME=]ADDR", value_parser = listen)]
    pub(crate) listen: Vec<(String, Address)>,
    /// Only these ports, of those that the program binds itself, are shared; else all with a fixed number
    #[arg(help_heading = "Ports", long, value_name = "PORT,…", value_delimiter = ',', value_parser = port, conflicts_with = "no_intercept")]
    pub(crate) port: Vec<u16>,
    /// What the program binds is its own: workers are not watched for bind(2)
    #[arg(help_heading = "Ports", long)]
    pub(crate) no_intercept: bool,
    /// Each worker gets a port of its own in PORT: this one plus its slot
    #[arg(help_heading = "Ports", long, value_name = "PORT", value_parser = port)]
    pub(crate) port_base: Option<u16>,
    /// How long connections must have been idle before a worker that knows nothing of draining is ended
    #[arg(help_heading = "Ports", long, value_name = "TIME", default_value = "5s", value_parser = time)]
    pub(crate) drain_idle: Duration,
    #[command(flatten)]
    pub(crate) guard: guard::Guard,
    #[command(flatten)]
    pub(crate) liveness: Liveness,
    /// Replace a worker that says nothing for so long (`sd_notify`, WATCHDOG=1); it finds `WATCHDOG_USEC`
    #[arg(help_heading = "Liveness", long, value_name = "TIME", value_parser = watchdog)]
    pub(crate) watchdog: Option<Duration>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) rights: permissions::Rights,
    /// After all others: what is an option here is none of pm2's.
    #[command(flatten)]
    pub(crate) others: habits::Others,
}

impl Run {
    /// With its program where it belongs: what follows `--watch` may be that.
    pub(crate) fn settled(mut self) -> Self {
        let program = self.planned.take_program(&self.program, &self.args);
        self.program.extend(program);
        self
    }

    /// When a worker is ready.
    pub(crate) const fn is_ready_when(&self) -> ReadyWhen {
        if self.habits.wait_ready { ReadyWhen::Notified } else { self.ready }
    }
}

/// Lets options have a number below zero, or a time, for their value: what is wrong with it is their own to say, and clap
/// would take it for an option that it does not know.
fn signed(arg: Arg) -> Arg {
    if arg.is_positional() || !arg.get_action().takes_values() {
        return arg;
    }
    let is_time = arg
        .get_value_names()
        .is_some_and(|names| names.first().is_some_and(|name| name.as_str().starts_with("TIME")));
    if is_time { arg.allow_hyphen_values(true) } else { arg.allow_negative_numbers(true) }
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

pub(crate) fn count_or_max(text: &str) -> Result<usize, String> {
    match text.parse::<isize>() {
        // As pm2 has it: so many less than cores.
        Ok(n @ ..=0) => Ok(cores().saturating_add_signed(n).max(1)),
        _ => count(text).map_err(|why| format!("{why}; 0 and -N: of the cores, so many less")),
    }
}

fn balance(name: &str) -> Result<Balance, String> {
    match name {
        "even" => Ok(Balance::Even),
        "sticky" => Ok(Balance::Sticky),
        _ => Err("there are even and sticky".into()),
    }
}

fn ready(name: &str) -> Result<ReadyWhen, String> {
    match name {
        "listening" => Ok(ReadyWhen::Listening),
        "online" => Ok(ReadyWhen::Online),
        "notify" => Ok(ReadyWhen::Notified),
        _ => Err("a worker is ready when it is listening, is online, or says so (notify)".into()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.trim().parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "expected a port from 1 to 65535".into())
}

/// `NAME=ADDR`, or an address, whose name is its port or path. Names are separated by colons (`sd_listen_fds(3)`).
fn listen(text: &str) -> Result<(String, Address), String> {
    let address = |text: &str| text.parse().map_err(|error: phalanx::Error| error.to_string());
    if let Some((name, rest)) = text.split_once('=')
        && !name.contains([':', '/'])
    {
        let fits = |c: char| c.is_ascii_graphic() && c != ':';
        if name.is_empty() || name.len() > 255 || !name.chars().all(fits) {
            return Err("a socket's name has 1 to 255 printable characters and no colon".into());
        }
        return Ok((name.to_owned(), address(rest)?));
    }
    let address = address(text)?;
    let name = match &address {
        Address::Ip(address) => address.port().to_string(),
        Address::Unix(path) => path.display().to_string().replace(':', "_"),
    };
    Ok((name, address))
}

fn watchdog(text: &str) -> Result<Duration, String> {
    time(text).and_then(|time| {
        let fits = time >= Duration::from_millis(10);
        fits.then_some(time).ok_or_else(|| "expected at least 10ms".into())
    })
}

fn inspect(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let address: Result<SocketAddr, _> = port.or_else(|_| text.parse());
    // Node takes no others.
    address.ok().filter(|address| !(1..1024).contains(&address.port())).ok_or_else(|| {
        "expected PORT or ADDRESS:PORT, with a port from 1024 on, or 0 for any".into()
    })
}

/// Whether this is a time.
pub(crate) fn is_time(text: &str) -> bool {
    time(text).is_ok()
}

/// A time, as pm2's users and others write it.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let ms = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let time = number.parse::<u64>().ok().filter(|_| ms > 0).and_then(|n| n.checked_mul(ms));
    time.map(Duration::from_millis)
        .ok_or_else(|| "expected a number of milliseconds, or one with ms, s, m or h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ms) in [
            ("0", Some(0)),
            ("1600", Some(1600)),
            ("250ms", Some(250)),
            ("30s", Some(30_000)),
            ("2 m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1.5s", None),
            ("3d", None),
            ("99999999999999999999", None),
            ("9999999999999999999h", None),
        ] {
            assert_eq!(time(text).ok().map(|t| t.as_millis()), ms, "{text:?}");
        }
    }

    #[test]
    fn names_and_addresses() {
        let at = |text| listen(text).map(|(name, address)| format!("{name} {address}"));
        assert_eq!(at("127.0.0.1:80").as_deref(), Ok("80 127.0.0.1:80"));
        assert_eq!(at("web=:8080").as_deref(), Ok("web [::]:8080"));
        assert_eq!(at("a.b=unix:/x=y").as_deref(), Ok("a.b unix:/x=y"));
        assert_eq!(at("unix:/x=y").as_deref(), Ok("/x=y unix:/x=y"));
        for bad in ["=1", "a b=1", "web=", "web=x:y:z"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn inspectors() {
        let at = |text| inspect(text).ok().map(|at| at.to_string());
        assert_eq!(at("9229").as_deref(), Some("127.0.0.1:9229"));
        assert_eq!(at("0.0.0.0:1234").as_deref(), Some("0.0.0.0:1234"));
        assert_eq!(at("[::1]:0").as_deref(), Some("[::1]:0"));
        assert_eq!(at("80"), None);
        assert_eq!(at("70000"), None);
        assert_eq!(at("host:1"), None);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
