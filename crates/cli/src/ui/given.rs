//! The options that an application was given, as its command line has them.

use crate::args::{Run, of_run};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};

fn command() -> Command {
    of_run(Command::new("run").no_binary_name(true))
}

fn matches(argv: &[String]) -> Option<ArgMatches> {
    command().try_get_matches_from(argv).ok()
}

/// The options; nothing of a command line that this version does not understand.
pub(crate) fn options(argv: &[String]) -> Option<Run> {
    Run::from_arg_matches(&matches(argv)?).ok()
}

/// What was given, by the headings of the help, in its order: `("Limits", ["--max-memory 300M"])`.
pub(crate) fn given(argv: &[String]) -> Vec<(String, Vec<String>)> {
    let Some(matches) = matches(argv) else { return Vec::new() };
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for arg in command().get_arguments() {
        let (Some(long), id) = (arg.get_long(), arg.get_id().as_str()) else { continue };
        if arg.is_hide_set() || matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let takes = arg.get_action().takes_values();
        let values = matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy());
        let values: Vec<_> = if takes { values.collect() } else { Vec::new() };
        let mut words = vec![format!("--{long}")];
        let glue = if arg.is_require_equals_set() { "=" } else { " " };
        if let [first, more @ ..] = values.as_slice() {
            words = vec![format!("--{long}{glue}{first}")];
            words.extend(more.iter().map(|value| format!("--{long}{glue}{value}")));
        }
        let heading = arg.get_help_heading().unwrap_or("Options").to_owned();
        match groups.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, known)) => known.append(&mut words),
            None => groups.push((heading, words)),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_was_given_is_told_by_groups() {
        let told = given(&argv(
            "-i 2 --grace 5s --listen :1 --listen web=:2 --canary=5s app.js -- --grace 1",
        ));
        let options = |heading: &str| {
            told.iter().find(|(known, _)| known == heading).map(|(_, words)| words.join(" "))
        };
        assert_eq!(options("Options").as_deref(), Some("--instances 2 --grace 5s"), "{told:?}");
        assert_eq!(options("Ports").as_deref(), Some("--listen :1 --listen web=:2"), "{told:?}");
        assert_eq!(options("Reload").as_deref(), Some("--canary=5s"), "{told:?}");
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn what_is_not_understood_tells_nothing() {
        assert!(given(&argv("--no-such-option app.js")).is_empty());
        assert!(options(&argv("--grace never app.js")).is_none());
        let grace = options(&argv("--grace 5s app.js")).map(|run| run.grace);
        assert_eq!(grace, Some(std::time::Duration::from_secs(5)));
    }
}
