//! Values as the command line's own parsers see them.

use super::keys::{Key, command, snake};
use crate::args::Run;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error, FromArgMatches};
use std::error::Error as _;
use std::num::ParseIntError;

/// An option as a file has it: the key as it is written there, the line, and the words.
pub(super) struct Given {
    pub(super) written: String,
    pub(super) line: Option<usize>,
    pub(super) key: Key,
    pub(super) words: Vec<String>,
}

/// What is wrong, with the key and its line if it is one's alone.
pub(super) type Fault = (Option<String>, Option<usize>, String);

/// The command line as it is understood.
pub(crate) fn parsed(argv: &[String]) -> Result<Run, Error> {
    Run::from_arg_matches(&command().try_get_matches_from(argv)?)
}

/// Everything that is wrong with a command line.
pub(super) fn verify(argv: &[String], given: &[Given]) -> Vec<Fault> {
    let error = match parsed(argv) {
        Ok(run) => return together(&run).map(|words| (None, None, words)).into_iter().collect(),
        Err(error) => error,
    };
    let command = command();
    let (mut alone, mut rest) = (Vec::new(), Vec::new());
    for given in given {
        match fault(&command, given) {
            Some(fault) => alone.push(fault),
            None => rest.extend(given.words.iter().cloned()),
        }
    }
    if alone.is_empty() {
        return vec![(None, None, words(&error, None))];
    }
    rest.push("program".into());
    // What is missing then may be what is wrong.
    let conflict = command.try_get_matches_from(rest).err();
    let conflict = conflict.filter(|error| error.kind() == ErrorKind::ArgumentConflict);
    alone.extend(conflict.map(|error| (None, None, words(&error, None))));
    alone
}

/// What is wrong with an option by itself.
fn fault(command: &Command, given: &Given) -> Option<Fault> {
    let words = given.words.iter().cloned().chain(["program".to_owned()]);
    let error = command.clone().try_get_matches_from(words).err()?;
    let is_others = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::ArgumentConflict
            | ErrorKind::MissingSubcommand
    );
    (!is_others)
        .then(|| (Some(given.written.clone()), given.line, self::words(&error, Some(&given.key))))
}

/// What several options say that cannot be together.
fn together(run: &Run) -> Option<String> {
    let limits = || {
        run.limits.limits()?;
        run.limits.first(run.instances)
    };
    let words =
        run.guard.check().err().or_else(|| limits().err().map(|error| error.to_string()))?;
    Some(as_keys(&words))
}

/// What clap says, without what is about a command line.
fn words(error: &Error, key: Option<&Key>) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => format!("`{}`: ", value.escape_debug()),
        _ => String::new(),
    };
    if let Some(source) = error.source() {
        return format!("{value}{}", expected(source, key));
    }
    if let Some(key) = key.filter(|_| error.kind() == ErrorKind::InvalidValue) {
        let value = if value == "``: " { "there is nothing in it: " } else { &value };
        return format!("{value}expected {}", key.value.replace('|', " or "));
    }
    let text = error.render().to_string();
    let first = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let text = first.collect::<Vec<_>>().join(" ");
    as_keys(text.strip_prefix("error: ").unwrap_or(&text))
}

/// Why a value is none. What only a library says is said in other words.
fn expected(source: &(dyn std::error::Error + 'static), key: Option<&Key>) -> String {
    let text = source.to_string();
    if source.is::<ParseIntError>() {
        return "expected a whole number".into();
    }
    // As clap tells a range.
    if let Some((_, range)) = text.split_once(" is not in ")
        && let Some((first, last)) = range.split_once("..=")
    {
        return format!("expected a number from {first} to {last}");
    }
    if key.is_some_and(|key| key.long == "cron") && !text.starts_with("there is no such time") {
        return CRON.into();
    }
    text
}

const CRON: &str = "expected minute (0-59), hour (0-23), day of the month (1-31), month (1-12) and day of the week (0-7), with \
    seconds before them if there are six, as in \"0 3 * * *\": every day at 3:00; or off";

/// Options are keys: `--max-memory <SIZE>` is `max_memory`.
fn as_keys(text: &str) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("--") {
        done.push_str(before);
        let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let (name, after) = behind.split_at(end.unwrap_or(behind.len()));
        done.push_str(&snake(name));
        rest = match after.strip_prefix(" <").and_then(|value| value.split_once('>')) {
            Some((_, after)) => after.strip_prefix("...").unwrap_or(after),
            None => after,
        };
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_as_keys() {
        assert_eq!(
            as_keys("the argument '--no-keeper' cannot be used with '--max-memory <SIZE>'"),
            "the argument 'no_keeper' cannot be used with 'max_memory'"
        );
        assert_eq!(as_keys("5 workers (-i), --min 1"), "5 workers (-i), min 1");
    }
}
