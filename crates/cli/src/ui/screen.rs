//! What there is to show something on: a terminal of some width, with or without colours, or something else.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

/// Columns of a terminal that does not tell.
const USUAL: usize = 80;

/// Where something is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    /// A terminal's columns; nothing where it is none.
    pub(crate) width: Option<usize>,
    pub(crate) colour: bool,
}

impl Screen {
    /// No terminal: every line as long as it is, without colours.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { width: None, colour: false };

    pub(crate) fn stdout() -> Self {
        Self::of(&io::stdout())
    }

    pub(crate) fn stderr() -> Self {
        Self::of(&io::stderr())
    }

    fn of(stream: &(impl IsTerminal + AsFd)) -> Self {
        let terminal = stream.is_terminal();
        let variable = |name: &str| std::env::var(name).ok();
        Self {
            width: terminal.then(|| columns(stream, variable("COLUMNS").as_deref())),
            colour: !crate::log::is_without_colours() && is_coloured(terminal, variable),
        }
    }

    pub(crate) const fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// A text in a style, if there are styles.
    pub(crate) const fn paint<'a>(&self, style: Style, text: &'a str) -> Painted<'a> {
        Painted { text, style: if self.colour { style } else { Style::Plain } }
    }
}

/// Rows of the terminal that is the standard output.
pub(crate) fn rows() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    size.map(|size| usize::from(size.ws_row)).filter(|rows| *rows > 0).unwrap_or(24)
}

fn columns(stream: impl AsFd, variable: Option<&str>) -> usize {
    let size = rustix::termios::tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col));
    let told = || variable.and_then(|text| text.parse().ok());
    size.filter(|columns| *columns > 0).or_else(told).unwrap_or(USUAL)
}

/// `NO_COLOR` is a no to all, `CLICOLOR_FORCE` a yes; else terminals have colours, but for dumb ones.
fn is_coloured(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        return true;
    }
    let off = set("CLICOLOR").is_some_and(|value| value == "0");
    terminal && !off && set("TERM").is_none_or(|term| term != "dumb")
}

/// How a text looks, and so what it means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Plain,
    /// What is named.
    Bold,
    /// What is beside it.
    Dim,
    Good,
    /// What goes on, or waits.
    Busy,
    Bad,
}

/// A text in a style.
pub(crate) struct Painted<'a> {
    text: &'a str,
    style: Style,
}

impl fmt::Display for Painted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = match self.style {
            Style::Plain => return f.write_str(self.text),
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Busy => "33",
            Style::Bad => "31",
        };
        write!(f, "\x1b[{code}m{}\x1b[0m", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours() {
        for (terminal, variables, coloured) in [
            (true, &[][..], true),
            (false, &[], false),
            (true, &[("NO_COLOR", "1")], false),
            (true, &[("NO_COLOR", "")], true),
            (true, &[("TERM", "dumb")], false),
            (true, &[("TERM", "xterm")], true),
            (true, &[("CLICOLOR", "0")], false),
            (false, &[("CLICOLOR_FORCE", "1")], true),
            (false, &[("CLICOLOR_FORCE", "0")], false),
            (true, &[("CLICOLOR_FORCE", "0")], true),
            (true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(is_coloured(terminal, variable), coloured, "{terminal} {variables:?}");
        }
    }
}
