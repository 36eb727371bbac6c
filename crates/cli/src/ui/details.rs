//! All that is known of an application.

use super::applications::{cpu_of, memory_of, of_one, restarts, style, tells};
use super::given::given;
use super::screen::{Screen, Style};
use super::text::{clean, width, wrapped};
use super::waits::{Leaving, waits};
use super::words::{Status, cpu, memory, status, time};
use crate::control::Description;
use std::fmt::Write as _;

/// Columns of the names at the left.
const NAMES: usize = 12;

/// The application, in groups; `environment`: the names of its variables.
pub(crate) fn details(app: &Description, environment: &[String], screen: Screen) -> String {
    let mut page = Page { text: String::new(), screen };
    application(&mut page, app);
    page.group(|page| primary(page, app));
    page.group(|page| reload(page, app));
    page.group(|page| command(page, app, environment));
    page.group(|page| {
        page.line("log", &app.logs.primary);
        page.line("output", &app.logs.out);
        page.line("errors", &app.logs.err);
    });
    if !app.workers.is_empty() || !app.waiting.is_empty() {
        page.group(|page| page.text.push_str(&of_one(app, screen)));
    }
    page.text
}

fn application(page: &mut Page, app: &Description) {
    let state = status(app);
    page.styled("name", &app.name, Style::Bold);
    page.styled("status", state.word(), style(state));
    match state {
        Status::Online | Status::Stopped => {}
        Status::Ended => page.line("", "its workers have ended for good: a reload starts it anew"),
        Status::Errored | Status::NotAnswering | Status::Orphaned => page.line("", why(state)),
        _ => page.line("", &waits(app, Leaving::default())),
    }
    page.line("id", &app.id.to_string());
    page.line("namespace", &app.namespace);
    page.line("release", app.program_version.as_deref().unwrap_or_default());
    if app.wanted > 0 {
        let restarts = restarts(app);
        let restarts = if restarts > 0 { format!(", restarts: {restarts}") } else { String::new() };
        page.line("workers", &format!("{} of {} ready{restarts}", app.ready, app.wanted));
    }
    if tells(app) && memory_of(app) > 0 {
        page.line("memory", &memory(memory_of(app)));
        page.line("cpu", &cpu(cpu_of(app)));
    }
}

const fn why(state: Status) -> &'static str {
    match state {
        Status::Orphaned => {
            "its primary is gone, and workers are left: `start` or `delete` ends them"
        }
        Status::NotAnswering => "its primary is there, and does not answer: `delete` kills it",
        _ => "it gave up, or was killed: `why` and `logs` tell more, `start` starts it again",
    }
}

fn primary(page: &mut Page, app: &Description) {
    if let Some(pid) = app.primary_pid {
        let up = match tells(app) {
            true => format!(", up {}", time(app.uptime_ms)),
            false => String::new(),
        };
        page.line("primary", &format!("process {pid}{up}"));
    }
    if app.foreground {
        page.line("runs", "in somebody's foreground");
    }
    page.line("user", &app.user);
    page.line("version", &app.version);
    page.line("policy", &app.policy);
    for (n, port) in app.ports.iter().enumerate() {
        let name = if n == 0 { "ports" } else { "" };
        page.line(name, &format!("{} ({})", port.address, port.policy));
    }
}

fn reload(page: &mut Page, app: &Description) {
    match (&app.reload.words, app.reload.state.as_str()) {
        (Some(words), "failed") => page.styled("reload", words, Style::Bad),
        (Some(words), _) => page.line("reload", words),
        (None, "running") => page.line("reload", &format!("{} goes on", app.reload.generation)),
        (None, _) => {}
    }
    if app.watching {
        page.line("watch", "reloads when its files change");
    }
    page.line("cron", app.cron.as_deref().unwrap_or_default());
}

fn command(page: &mut Page, app: &Description, environment: &[String]) {
    if !app.argv.is_empty() {
        page.line("command", &started(&app.argv));
    }
    page.line("directory", &app.cwd);
    page.line("config", app.config.as_deref().unwrap_or_default());
    for (heading, words) in given(&app.argv) {
        page.words(&heading.to_lowercase(), &words);
    }
    page.words("environment", environment);
}

/// A command line as a shell takes it.
fn started(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,@%".contains(c);
    let word = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    let words: Vec<String> = argv.iter().map(word).collect();
    format!("phalanx start {}", words.join(" "))
}

/// Lines with names before them.
struct Page {
    text: String,
    screen: Screen,
}

impl Page {
    /// With an empty line before it, if there is anything in it.
    fn group(&mut self, fill: impl FnOnce(&mut Self)) {
        let before = self.text.len();
        fill(self);
        if self.text.len() > before {
            self.text.insert(before, '\n');
        }
    }

    /// What is not there has no line.
    fn line(&mut self, name: &str, value: &str) {
        self.styled(name, value, Style::Plain);
    }

    fn styled(&mut self, name: &str, value: &str, style: Style) {
        if value.is_empty() {
            return;
        }
        self.name(name);
        let _ = writeln!(self.text, "{}", self.screen.paint(style, &clean(value)));
    }

    /// Words, in as many lines as they need on a terminal.
    fn words(&mut self, name: &str, words: &[String]) {
        if words.is_empty() {
            return;
        }
        self.name(name);
        let indent = NAMES.max(width(name) + 1);
        let _ = writeln!(self.text, "{}", wrapped(words, indent, self.screen.width));
    }

    fn name(&mut self, name: &str) {
        let spaces = NAMES.saturating_sub(width(name)).max(1);
        let _ = write!(self.text, "{}{:spaces$}", self.screen.paint(Style::Dim, name), "");
    }
}
