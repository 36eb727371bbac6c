//! The command line of `serve`.

use super::{Manner, Run};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, ValueHint};

/// Options of `start` that mean nothing to a server of files.
const NOTHING: [&str; 16] = [
    "interpreter",
    "interpreter_args",
    "no_preload",
    "inspect",
    "stats",
    "listen",
    "port",
    "no_intercept",
    "port_base",
    "drain_idle",
    "ready",
    "wait_ready",
    "increment_var",
    "watchdog",
    "print_messages",
    "root",
];
/// The same, and nothing is lost without them: files are read for each request.
const NEEDLESS: [&str; 4] = ["watch", "ignore_watch", "watch_delay", "ext"];
/// Those that are about this command, and not about what is started.
const OWN: [&str; 11] = [
    "program",
    "args",
    "spa",
    "ftp",
    "basic_auth_username",
    "basic_auth_password",
    "no_daemon",
    "attach",
    "force",
    "no_autostart",
    "update_env",
];

#[derive(Args, Debug)]
#[command(
    override_usage = "phalanx serve [OPTIONS] [PATH] [PORT]",
    next_line_help = true,
    mut_args(offered)
)]
pub(crate) struct Serve {
    /// Answer paths that are not there with the first page, as applications of a single page want it
    #[arg(long)]
    pub(crate) spa: bool,
    /// Only for whoever knows this name and the password
    #[arg(long, value_name = "NAME")]
    pub(crate) basic_auth_username: Option<String>,
    /// That password. While this command runs others see it in `ps`: rather set `PM2_SERVE_BASIC_AUTH_PASSWORD`
    #[arg(long, value_name = "PASSWORD")]
    pub(crate) basic_auth_password: Option<String>,
    /// pm2's listings of directories
    #[arg(long, hide = true)]
    pub(crate) ftp: bool,
    #[command(flatten)]
    pub(crate) run: Run,
}

/// An option of `start`, as it is offered here.
fn offered(arg: Arg) -> Arg {
    let id = arg.get_id().as_str();
    match id {
        "program" => arg
            .value_names(["PATH", "PORT"])
            .num_args(0..=2)
            .value_hint(ValueHint::DirPath)
            .help("The directory, else the working directory; and the port, else 8080, on all addresses: or HOST:PORT, unix:PATH"),
        "args" => arg.hide(true),
        "name" => arg.help("What it is called from now on; else static-page-server-PORT"),
        "wait" => arg.hide(false),
        _ if NOTHING.contains(&id) || NEEDLESS.contains(&id) => arg.hide(true),
        _ => arg,
    }
}

/// What was said beside PATH and PORT.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// For `phalanx run`.
    pub(crate) argv: Vec<String>,
    /// The first option that means nothing here.
    pub(crate) nothing: Option<String>,
    /// Options that are not needed.
    pub(crate) needless: Vec<String>,
}

/// The words after the command, told apart. The command line was understood before.
pub(crate) fn said(words: &[String]) -> Said {
    let command = Manner::augment_args(Serve::augment_args(Command::new("phalanx serve")));
    let Ok(matches) = command.clone().no_binary_name(true).try_get_matches_from(words) else {
        return Said::default();
    };
    let mut said = Said::default();
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        let given = matches.value_source(id) == Some(ValueSource::CommandLine);
        let Some(long) = arg.get_long().filter(|_| given && !OWN.contains(&id)) else { continue };
        if NOTHING.contains(&id) {
            said.nothing.get_or_insert(long.to_owned());
        } else if NEEDLESS.contains(&id) {
            said.needless.push(format!("--{long}"));
        } else {
            said.argv.extend(words_of(arg, long, &matches));
        }
    }
    said
}

/// An option as it is written.
fn words_of(arg: &Arg, long: &str, matches: &ArgMatches) -> Vec<String> {
    if !arg.get_action().takes_values() {
        return vec![format!("--{long}")];
    }
    let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
    values.map(|value| format!("--{long}={}", value.to_string_lossy())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn said_of(line: &str) -> Said {
        said(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_left_for_run() {
        let said = said_of(
            "dist 8080 --spa -i 2 --basic-auth-username me --basic-auth-password x -n site --max-memory-restart 100M --cron=off --canary --attach -s",
        );
        assert_eq!(said.nothing, None);
        assert!(said.needless.is_empty());
        let argv = said.argv.join(" ");
        for word in ["--instances=2", "--name=site", "--canary=", "--cron=off"] {
            assert!(argv.contains(word), "{word}: {argv}");
        }
        for word in ["dist", "8080", "spa", "basic", "attach"] {
            assert!(!argv.contains(word), "{word}: {argv}");
        }
        assert!(crate::intent::options(&said.argv).is_ok(), "{argv}");
    }

    #[test]
    fn what_means_nothing() {
        assert_eq!(said_of("dist --interpreter node").nothing.as_deref(), Some("interpreter"));
        assert_eq!(said_of("dist 1 --watch --ext=js").needless, ["--watch", "--ext"]);
        assert_eq!(said_of(""), Said::default());
    }

    /// What is told apart by name is there.
    #[test]
    fn all_names_are_options() {
        let command = Serve::augment_args(crate::args::Arguments::command());
        for id in NOTHING.iter().chain(&NEEDLESS).chain(&OWN) {
            let mut all = command.get_arguments();
            assert!(all.any(|arg| arg.get_id() == id), "{id}");
        }
    }
}
