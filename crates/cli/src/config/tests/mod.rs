//! What files say, in every language; what is wrong with them, in words.

mod documents;
mod garbage;
mod whole;
mod written;

use super::AppConfig;
use super::document::{Examined, examine_item};
use super::parse::{Format, parse};
use super::problem::Problem;
use std::path::Path;

/// Examines a text, as if it were a file of that name.
fn examined(text: &str, file: &str, environment: Option<&str>) -> Examined {
    let file = Path::new(file);
    let format = super::parse::format(file).expect("a configuration file");
    let format = if format == Format::Script { Format::Json } else { format };
    match parse(text, format) {
        Ok(item) => examine_item(&item, file, environment),
        Err(wrong) => Examined {
            problems: vec![Problem { line: wrong.line, words: wrong.words, ..Problem::default() }],
            ..Examined::default()
        },
    }
}

/// The problems as they are told.
fn told(text: &str, file: &str) -> String {
    let path = Path::new(file);
    let name = Path::new(path.file_name().expect("a name"));
    let done = examined(text, file, None);
    let lines = done.problems.iter().map(|problem| problem.in_file(name));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first application of a file in which nothing is wrong.
fn one(text: &str, file: &str, environment: Option<&str>) -> AppConfig {
    let done = examined(text, file, environment);
    assert!(done.problems.is_empty(), "{text}: {:?}", done.problems);
    done.apps.into_iter().next().unwrap_or_else(|| panic!("no application: {text}"))
}

fn line(app: &AppConfig) -> String {
    app.argv.join(" ")
}
