//! `phalanx doctor`: what this machine has, and what it lacks.

mod files;
mod kernel;
mod limits;
mod place;
mod programs;

use crate::failure::{Failure, UNEXPECTED};
use crate::show;
use crate::ui::screen::{Screen, Style};
use crate::ui::text::clean;
use crate::ui::words::count;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// For programs: an object with `ok` and an array `findings`
    #[arg(long)]
    pub(crate) json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Something is missing that not everybody needs.
    Note,
    /// Something cannot work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Finding {
    group: &'static str,
    name: String,
    level: Level,
    what: String,
    /// What can be done about it.
    advice: Option<String>,
}

/// What is found in a group.
struct Findings {
    group: &'static str,
    all: Vec<Finding>,
}

impl Findings {
    const fn new(group: &'static str) -> Self {
        Self { group, all: Vec::new() }
    }

    fn ok(&mut self, name: impl Into<String>, what: impl Into<String>) {
        self.add(Level::Ok, name.into(), what.into(), None);
    }

    fn note(
        &mut self,
        name: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(Level::Note, name.into(), what.into(), Some(advice.into()));
    }

    fn problem(
        &mut self,
        name: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(Level::Problem, name.into(), what.into(), Some(advice.into()));
    }

    fn add(&mut self, level: Level, name: String, what: String, advice: Option<String>) {
        let advice = advice.filter(|advice| !advice.is_empty());
        self.all.push(Finding { group: self.group, name, level, what, advice });
    }
}

pub(crate) fn doctor(options: &Doctor) -> Result<(), Failure> {
    let groups = [kernel::look(), limits::look(), files::look(), programs::look(), place::look()];
    let findings: Vec<Finding> = groups.into_iter().flat_map(|group| group.all).collect();
    let problems = findings.iter().filter(|found| found.level == Level::Problem).count();
    if options.json {
        show::print(&format!("{:#}\n", json!({ "ok": problems == 0, "findings": findings })));
    } else {
        show::print(&report(&findings, Screen::stdout()));
    }
    if problems == 0 {
        return Ok(());
    }
    let message = format!("{} here", count(problems, "thing cannot work", "things cannot work"));
    Err(Failure::tool(UNEXPECTED, message))
}

/// For people: by groups, with advice beneath.
fn report(findings: &[Finding], screen: Screen) -> String {
    let widest = findings.iter().map(|found| found.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut group = "";
    for found in findings {
        if found.group != group {
            let space = if group.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{space}{}", screen.paint(Style::Bold, found.group));
            group = found.group;
        }
        let (word, style) = match found.level {
            Level::Ok => ("ok", Style::Good),
            Level::Note => ("note", Style::Busy),
            Level::Problem => ("problem", Style::Bad),
        };
        let spaces = 7 - word.len();
        let (mark, what) = (screen.paint(style, word), clean(&found.what));
        let _ = writeln!(text, "  {mark}{:spaces$}  {:widest$}  {what}", "", clean(&found.name));
        if let Some(advice) = &found.advice {
            let indent = widest + 13;
            let _ = writeln!(text, "{:indent$}{}", "", screen.paint(Style::Dim, &clean(advice)));
        }
    }
    let with = |level| findings.iter().filter(|found| found.level == level).count();
    let problems = count(with(Level::Problem), "problem", "problems");
    let notes = count(with(Level::Note), "note", "notes");
    let _ = writeln!(text, "\n{problems}, {notes}");
    text
}

/// A number in a file of the kernel's.
fn number(file: &str) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_grouped_and_counted() {
        let mut kernel = Findings::new("Kernel");
        kernel.ok("version", "6.1.0");
        kernel.note("Landlock", "not there", "it came with Linux 5.13");
        let mut files = Findings::new("Files");
        files.problem("state", "read-only\x1b[2J", "remount it");
        let all: Vec<Finding> = kernel.all.into_iter().chain(files.all).collect();
        assert_eq!(
            report(&all, Screen::PLAIN),
            "Kernel\n  ok       version   6.1.0\n  note     Landlock  not there\n                     it came with Linux 5.13\n\n\
             Files\n  problem  state     read-only\\u{1b}[2J\n                     remount it\n\n1 problem, 1 note\n"
        );
    }
}
