//! Options that people know from pm2, beyond those that are called the same here.

use crate::failure::{Failure, USAGE};
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use phalanx::{Inherit, Settings, Signal};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(next_help_heading = "As pm2 has it")]
pub(crate) struct Habits {
    /// Take the environment of this shell, and of nothing before
    #[arg(short = 'a', long)]
    pub(crate) update_env: bool,
    /// Start it although one of that name runs: that one is deleted first
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only note what is to run, and do not start it
    #[arg(long)]
    pub(crate) no_autostart: bool,
    /// `start` only: stay in the foreground, as `run` does
    #[arg(long)]
    pub(crate) no_daemon: bool,
    /// `start` only: then show the logs
    #[arg(long)]
    pub(crate) attach: bool,
    /// A worker is ready when it says so, as with `--ready notify`: `process.send('ready')`, or READY=1
    #[arg(long)]
    pub(crate) wait_ready: bool,
    /// The signal that ends a worker that cannot be told otherwise, or took too long; a Node worker's handler for it is
    /// called when its connections are finished
    #[arg(long, value_name = "SIGNAL", default_value = "SIGTERM", value_parser = signal)]
    pub(crate) kill_signal: Signal,
    /// A worker that is to leave gets the message `shutdown` on its channel, instead of a signal
    #[arg(long)]
    pub(crate) shutdown_with_message: bool,
    /// Another name for `NODE_APP_INSTANCE`, where a worker finds its slot
    #[arg(long, value_name = "NAME", value_parser = variable)]
    instance_var: Option<String>,
    /// This variable is a number in each worker of its own: as it is set, plus the slot. PORT: as --port-base
    #[arg(long, value_name = "NAME", value_parser = variable)]
    increment_var: Option<String>,
    /// Workers do not inherit variables with this word in their names; without a word, none but PATH and HOME
    #[arg(long, value_name = "WORD", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with_all = ["env_only", "env_except"])]
    filter_env: Vec<String>,
    /// Workers find pm2's variables with common names too: name, namespace, instances, `exec_mode`, `pm_exec_path`,
    /// `pm_cwd`
    #[arg(long)]
    compat_env: bool,
    /// Write the number of the process to signal to this file
    #[arg(short, long, alias = "pid-file", value_name = "FILE")]
    pub(crate) pid: Option<PathBuf>,
}

/// What the environment of pm2's workers has in it, under common names.
pub(crate) struct Compat<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) instances: usize,
    pub(crate) cwd: OsString,
}

impl Habits {
    /// Says it in the settings.
    ///
    /// # Errors
    /// A variable that is to be counted from is no number.
    pub(crate) fn apply(
        &self,
        settings: &mut Settings,
        compat: &Compat<'_>,
    ) -> Result<(), Failure> {
        settings.by_slot.push(("pm_id".into(), 0));
        if let Some(name) = &self.instance_var {
            settings.by_slot.push((name.into(), 0));
        }
        if let Some(name) = &self.increment_var {
            settings.by_slot.push((name.into(), first_of(name)?));
        }
        if self.compat_env {
            settings.env.extend(compat.variables(settings));
        }
        if !self.filter_env.is_empty() {
            settings.environment = self.inherited();
        }
        Ok(())
    }

    fn inherited(&self) -> Inherit {
        let names: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
        filtered(&names, &self.filter_env)
    }
}

/// What is left without the variables that have one of these words in their names.
fn filtered(names: &[OsString], words: &[String]) -> Inherit {
    if words.iter().any(String::is_empty) {
        return Inherit::Only(vec!["PATH".into(), "HOME".into()]);
    }
    let has = |name: &&OsString| {
        let name = name.to_string_lossy();
        words.iter().any(|word| name.contains(word.as_str()))
    };
    // What has these in it would be a pattern.
    let plain =
        |name: &&OsString| !name.as_encoded_bytes().iter().any(|b| matches!(b, b'*' | b'='));
    Inherit::Except(names.iter().filter(has).filter(plain).cloned().collect())
}

impl Compat<'_> {
    fn variables(&self, settings: &Settings) -> Vec<(OsString, OsString)> {
        let exec = settings.exec.clone().unwrap_or_default();
        let script = settings.args.first().filter(|_| settings.preload).cloned();
        let pairs: [(&str, OsString); 6] = [
            ("name", self.name.into()),
            ("namespace", self.namespace.into()),
            ("instances", self.instances.to_string().into()),
            ("exec_mode", "cluster_mode".into()),
            ("pm_exec_path", script.unwrap_or_else(|| exec.into())),
            ("pm_cwd", self.cwd.clone()),
        ];
        pairs.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }
}

/// The number that a variable counts from.
fn first_of(name: &str) -> Result<u64, Failure> {
    let value = std::env::var_os(name).unwrap_or_default();
    let number = value.to_str().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| {
        let is = match value.is_empty() {
            true => "is not set".to_owned(),
            false => format!("is `{}`", value.to_string_lossy().escape_debug()),
        };
        Failure::tool(USAGE, format!("--increment-var {name}: the variable {is}"))
            .hint(format!("set it to the number of the first worker: {name}=3000"))
    })
}

fn signal(text: &str) -> Result<Signal, String> {
    let name = text.trim().to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let known = [
        ("SIGTERM", Signal::TERM),
        ("SIGINT", Signal::INT),
        ("SIGQUIT", Signal::QUIT),
        ("SIGHUP", Signal::HUP),
        ("SIGUSR1", Signal::USR1),
        ("SIGUSR2", Signal::USR2),
        ("SIGWINCH", Signal::WINCH),
        ("SIGABRT", Signal::ABORT),
    ];
    let found = known.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
    found.ok_or_else(|| match name.as_str() {
        "SIGKILL" => {
            "nobody can handle SIGKILL; --kill-after 0 kills without a signal before".into()
        }
        _ => "expected SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH or SIGABRT"
            .into(),
    })
}

fn variable(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && !text.contains(['=', '\0']);
    fits.then(|| text.to_owned()).ok_or_else(|| "expected the name of a variable".into())
}

/// What follows from an option of pm2's that there is no need of.
#[derive(Clone, Copy)]
enum Instead {
    /// It is so in any case, or means nothing here.
    Nothing,
    /// Nothing, and it is not worth a word.
    Silence,
    /// Something else does it.
    This(&'static str),
    /// It cannot be had.
    Never(&'static str),
}
use Instead::{Never, Nothing, Silence, This};

/// pm2's options that are no options here: name, short name, whether a value follows, and what is done instead.
const OTHERS: [(&str, Option<char>, bool, Instead); 48] = [
    ("autorestart", None, false, Silence),
    ("autostart", None, false, Silence),
    ("treekill", None, false, Silence),
    ("exec-mode", None, true, Silence),
    ("daemon", None, false, Silence),
    (
        "no-treekill",
        None,
        false,
        This("what a worker started ends with it, unless it has a session of its own (setsid)"),
    ),
    ("execute-command", Some('x'), false, Nothing),
    ("write", Some('w'), false, Nothing),
    ("vizion", None, false, Silence),
    ("no-vizion", None, false, Nothing),
    ("pmx", None, false, Silence),
    ("no-pmx", None, false, Nothing),
    ("automation", None, false, Silence),
    ("no-automation", None, false, Nothing),
    ("trace", None, false, This("nothing is traced; `phalanx run --stats` measures")),
    ("no-trace", None, false, Silence),
    ("disable-trace", None, false, Nothing),
    ("v8", None, false, This("--stats logs the heap")),
    ("event-loop-inspector", None, false, This("--stats logs the event loop")),
    ("deep-monitoring", None, false, This("--stats logs requests, event loop and memory")),
    ("io", None, true, Nothing),
    ("source-map-support", None, false, This("--node-args=--enable-source-maps does it")),
    ("disable-source-map-support", None, false, Nothing),
    ("kill-retry-time", None, true, Nothing),
    ("windows-hide", None, false, Silence),
    ("no-windows-hide", None, false, Silence),
    ("username", None, true, This("--user says whose rights workers have")),
    ("append-env-to-name", None, false, This("--name names it")),
    ("name-prefix", None, true, This("--name names it")),
    ("install-url", None, true, Nothing),
    ("post-update", None, true, Nothing),
    ("merge-logs", None, false, Silence),
    ("combine-logs", None, false, Silence),
    ("public", None, true, Nothing),
    ("machine-name", None, true, Nothing),
    ("monitor", None, false, This("`phalanx list --watch` shows it")),
    ("wait-ip", None, false, This("`phalanx startup --wait-ip` does it")),
    ("hp", None, true, This("`phalanx startup --hp` does it")),
    ("service-name", None, true, This("`phalanx startup --service-name` does it")),
    ("mini-list", Some('m'), false, This("`phalanx list -m` shows it")),
    ("sort", None, true, This("`phalanx list --sort` does it")),
    ("container", None, false, Never("in a container, `phalanx run` is the first process")),
    ("dist", None, false, Never("in a container, `phalanx run` is the first process")),
    ("image-name", None, true, Never("in a container, `phalanx run` is the first process")),
    ("node-version", None, true, Never("--interpreter names another Node")),
    ("fresh", None, false, Never("in a container, `phalanx run` is the first process")),
    ("dockerdaemon", None, false, Never("in a container, `phalanx run` is the first process")),
    (
        "web",
        None,
        false,
        Never("nothing listens for the outside; `phalanx list --json` tells scripts"),
    ),
];

/// Those of [`OTHERS`] that were given, by their places there.
#[derive(Debug, Default)]
pub(crate) struct Others(Vec<usize>);

impl Args for Others {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        // Options that are options here by now are not taken away.
        let known: Vec<String> = command
            .get_arguments()
            .flat_map(|arg| {
                arg.get_long_and_visible_aliases()
                    .into_iter()
                    .flatten()
                    .chain(arg.get_all_aliases().into_iter().flatten())
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        for (name, short, has_value, _) in OTHERS {
            if known.iter().any(|known| known == name) {
                continue;
            }
            let arg = Arg::new(name).long(name).hide(true);
            let arg = match has_value {
                true => arg.num_args(1).value_name("VALUE").action(ArgAction::Append),
                false => arg.num_args(0).action(ArgAction::Count),
            };
            command = command.arg(match short {
                Some(letter) => arg.short(letter),
                None => arg,
            });
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Others {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |(name, ..): &(&str, Option<char>, bool, Instead)| {
            let source = matches.try_contains_id(name).is_ok_and(|there| there);
            source && matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine)
        };
        let all = OTHERS.iter().enumerate().filter(|(_, other)| given(other));
        Ok(Self(all.map(|(at, _)| at).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Others {
    /// What cannot be had, and one line about what is not needed.
    ///
    /// # Errors
    /// What is refused.
    pub(crate) fn tell(&self) -> Result<(), Failure> {
        self.refused()?;
        if let Some(words) = self.words() {
            crate::show::say(&words);
        }
        Ok(())
    }

    fn given(&self) -> impl Iterator<Item = (&'static str, Instead)> {
        self.0
            .iter()
            .filter_map(|at| OTHERS.get(*at))
            .map(|(name, _, _, instead)| (*name, *instead))
    }

    fn refused(&self) -> Result<(), Failure> {
        let mut never = self.given().filter_map(|(name, instead)| match instead {
            Never(why) => Some((name, why)),
            _ => None,
        });
        match never.next() {
            None => Ok(()),
            Some((name, why)) => {
                let message = format!("--{name} is pm2's, and there is no such thing here");
                Err(Failure::tool(USAGE, message).hint(why))
            }
        }
    }

    /// One line about all that is not needed.
    fn words(&self) -> Option<String> {
        let nothing = self.given().filter(|(_, instead)| matches!(instead, Nothing));
        let names: Vec<String> = nothing.map(|(name, _)| format!("--{name}")).collect();
        let mut words: Vec<String> = self
            .given()
            .filter_map(|(name, instead)| match instead {
                This(other) => Some(format!("--{name}: {other}")),
                _ => None,
            })
            .collect();
        if !names.is_empty() {
            let verb = if names.len() == 1 { "is" } else { "are" };
            words.insert(0, format!("{} {verb} pm2's, and not needed here", names.join(", ")));
        }
        (!words.is_empty()).then(|| words.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        assert_eq!(signal("SIGINT"), Ok(Signal::INT));
        assert_eq!(signal("quit"), Ok(Signal::QUIT));
        assert!(signal("SIGKILL").unwrap_err().contains("--kill-after"));
        assert!(signal("9").is_err() && signal("").is_err());
    }

    #[test]
    fn one_line_for_all_that_is_not_needed() {
        let at = |name: &str| OTHERS.iter().position(|(known, ..)| *known == name).expect("known");
        let said = |names: &[&str]| Others(names.iter().map(|name| at(name)).collect()).words();
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["treekill", "exec-mode"]), None);
        assert_eq!(said(&["no-pmx"]).as_deref(), Some("--no-pmx is pm2's, and not needed here"));
        assert_eq!(
            said(&["v8", "no-vizion", "write"]).as_deref(),
            Some(
                "--no-vizion, --write are pm2's, and not needed here; --v8: --stats logs the heap"
            )
        );
        assert!(Others(vec![at("container")]).refused().is_err());
        assert!(Others(vec![at("no-pmx")]).refused().is_ok());
    }

    #[test]
    fn variables_that_are_not_passed_on() {
        let names = ["AWS_KEY", "MY_AWS", "PATH"].map(OsString::from);
        let Inherit::Except(list) = filtered(&names, &["AWS".into()]) else { panic!("all") };
        assert_eq!(list, ["AWS_KEY", "MY_AWS"]);
        assert!(matches!(filtered(&names, &[String::new()]), Inherit::Only(_)));
    }
}
