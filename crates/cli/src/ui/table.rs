//! Tables: aligned columns. On a terminal those that are empty are left out, and those that matter least when there is
//! not enough room; a line is never longer than the terminal is wide. Elsewhere every column is there, and every cell
//! is one word.

use super::screen::{Screen, Style};
use super::text::{clean, cut, width};
use std::fmt::Write as _;

/// Columns between columns.
const GAP: usize = 2;
/// What stands where there is nothing, and nobody looks.
const NOTHING: &str = "-";

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) head: &'static str,
    /// Numbers stand at the right.
    pub(crate) right: bool,
    /// 0: it stays; else, the higher, the sooner it is left out.
    pub(crate) rank: u8,
}

/// What is in a row's column.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    /// On a terminal.
    text: String,
    /// Elsewhere.
    word: String,
    style: Style,
}

impl Cell {
    /// A text, which is a word without its spaces.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        let text = clean(text.as_ref()).into_owned();
        let word = text.split_whitespace().collect();
        Self { text, word, style: Style::Plain }
    }

    /// A text of words, which are kept apart.
    pub(crate) fn words(text: impl AsRef<str>) -> Self {
        let text = clean(text.as_ref()).into_owned();
        let word = text.split_whitespace().collect::<Vec<_>>().join("-");
        Self { text, word, style: Style::Plain }
    }

    /// Something else where it is no terminal.
    pub(crate) fn word(mut self, word: impl AsRef<str>) -> Self {
        self.word = clean(word.as_ref()).split_whitespace().collect();
        self
    }

    pub(crate) const fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// In the style, if it has none yet.
    pub(crate) fn or_style(mut self, style: Style) -> Self {
        if self.style == Style::Plain {
            self.style = style;
        }
        self
    }

    fn shown(&self, terminal: bool) -> &str {
        match (terminal, self.word.is_empty()) {
            (true, _) => &self.text,
            (false, true) => NOTHING,
            (false, false) => &self.word,
        }
    }
}

/// The table as lines. Rows that are shorter than the columns are filled with nothing.
pub(crate) fn render(columns: &[Column], rows: &[Vec<Cell>], screen: Screen) -> String {
    let terminal = screen.is_terminal();
    let nothing = Cell::default();
    let cell = |row: &Vec<Cell>, at: usize| row.get(at).unwrap_or(&nothing).clone();
    let widest = |at: usize, head: &str| {
        let cells = rows.iter().map(|row| width(cell(row, at).shown(terminal)));
        cells.max().unwrap_or(0).max(width(head))
    };
    let is_empty = |at: usize| rows.iter().all(|row| cell(row, at).text.is_empty());
    let mut kept: Vec<(usize, Column, usize)> = columns
        .iter()
        .enumerate()
        .filter(|(at, _)| !terminal || !is_empty(*at))
        .map(|(at, column)| (at, *column, widest(at, column.head)))
        .collect();
    if let Some(room) = screen.width {
        fit(&mut kept, room);
    }
    let mut text = String::new();
    let heads = kept
        .iter()
        .map(|(_, column, width)| (Cell::new(column.head).style(Style::Dim), column.right, *width));
    line(&mut text, heads, screen);
    for row in rows {
        line(
            &mut text,
            kept.iter().map(|(at, column, width)| (cell(row, *at), column.right, *width)),
            screen,
        );
    }
    text
}

/// Leaves columns out, and then narrows them, until they fit.
fn fit(kept: &mut Vec<(usize, Column, usize)>, room: usize) {
    let needed = |kept: &[(usize, Column, usize)]| {
        kept.iter().map(|(_, _, width)| width + GAP).sum::<usize>().saturating_sub(GAP)
    };
    while needed(kept) > room {
        let least = kept.iter().map(|(_, column, _)| column.rank).max().unwrap_or(0);
        if least > 0 {
            kept.retain(|(_, column, _)| column.rank != least);
            continue;
        }
        let Some((_, _, width)) = kept.iter_mut().max_by_key(|(_, _, width)| *width) else {
            return;
        };
        if *width <= 1 {
            // Not even a letter each: the last ones go.
            kept.pop();
            continue;
        }
        *width -= 1;
    }
}

fn line(text: &mut String, cells: impl Iterator<Item = (Cell, bool, usize)>, screen: Screen) {
    // Spaces are written when something follows them.
    let mut spaces = 0;
    for (cell, right, columns) in cells {
        let shown = cut(cell.shown(screen.is_terminal()), columns);
        let rest = columns.saturating_sub(width(&shown));
        if shown.is_empty() {
            spaces += rest;
        } else {
            let before = if right { spaces + rest } else { spaces };
            let _ = write!(text, "{:before$}{}", "", screen.paint(cell.style, &shown));
            spaces = if right { 0 } else { rest };
        }
        spaces += GAP;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column { head: "NAME", right: false, rank: 0 },
        Column { head: "N", right: true, rank: 0 },
        Column { head: "NOTE", right: false, rank: 2 },
        Column { head: "MORE", right: false, rank: 1 },
    ];

    fn rows() -> Vec<Vec<Cell>> {
        let cell = |text: &str| Cell::new(text);
        vec![
            vec![cell("shop"), cell("7"), cell(""), cell("a b")],
            vec![cell("店\x1b"), cell("1000"), cell("x").style(Style::Bad)],
        ]
    }

    fn at(columns: Option<usize>, colour: bool) -> String {
        render(&COLUMNS, &rows(), Screen { width: columns, colour })
    }

    #[test]
    fn elsewhere_every_cell_is_one_word() {
        let text = at(None, false);
        assert_eq!(
            text,
            "NAME         N  NOTE  MORE\nshop         7  -     ab\n店\\u{1b}  1000  x     -\n"
        );
    }

    #[test]
    fn a_terminal_has_no_words_for_nothing() {
        let text = at(Some(80), false);
        assert_eq!(
            text,
            "NAME         N  NOTE  MORE\nshop         7        a b\n店\\u{1b}  1000  x\n"
        );
    }

    #[test]
    fn what_matters_least_is_left_out_and_no_line_is_too_long() {
        assert_eq!(
            at(Some(20), false),
            "NAME         N  MORE\nshop         7  a b\n店\\u{1b}  1000\n"
        );
        assert_eq!(at(Some(14), false), "NAME         N\nshop         7\n店\\u{1b}  1000\n");
        for columns in 0..60 {
            for line in at(Some(columns), false).lines() {
                assert!(width(line) <= columns, "{columns}: {line:?}");
            }
        }
    }

    #[test]
    fn colours_change_no_place() {
        let painted = at(Some(80), true);
        assert!(painted.contains("\x1b[31mx\x1b[0m"), "{painted:?}");
        let mut plain = painted;
        for code in ["\x1b[31m", "\x1b[2m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, at(Some(80), false));
    }
}
