//! Texts from outside, as a terminal may have them: nothing in them moves the cursor, and each has its width.

use std::borrow::Cow;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What a terminal would obey instead of showing it, or what turns the order of letters around.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// With what is not to be printed escaped.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match is_unseen(c) {
            true => cleaned.extend(c.escape_debug()),
            false => cleaned.push(c),
        }
    }
    // `escape_debug` leaves letters as they are that join the one before; none of those is unseen.
    Cow::Owned(cleaned)
}

/// Columns that it takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// What fits into so many columns; `…` where something is missing.
pub(crate) fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let room = columns.saturating_sub(1);
    let mut used = 0;
    let mut kept: String = text
        .chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect();
    if columns > 0 {
        kept.push('…');
    }
    Cow::Owned(kept)
}

/// Words in lines of so many columns, if there is such a number; the later ones begin with so many spaces. The first line
/// has room for as many before it.
pub(crate) fn wrapped(words: &[String], indent: usize, columns: Option<usize>) -> String {
    let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(indent).max(20));
    let mut text = String::new();
    let mut used = 0;
    for word in words {
        let word = clean(word);
        let needed = width(&word);
        if used > 0 && used + 1 + needed > room {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            used = 0;
        } else if used > 0 {
            text.push(' ');
            used += 1;
        }
        text.push_str(&word);
        used += needed;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        for (text, shown) in [
            ("shop", "shop"),
            ("grün 店", "grün 店"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\t\r", "a\\nb\\t\\r"),
            ("\u{7f}\u{9b}1m", "\\u{7f}\\u{9b}1m"),
            ("evil\u{202e}gpj.exe", "evil\\u{202e}gpj.exe"),
            ("\u{feff}x\0", "\\u{feff}x\\0"),
        ] {
            assert_eq!(clean(text), shown, "{text:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_by_columns() {
        for (text, columns, shown) in [
            ("shop", 4, "shop"),
            ("shop", 3, "sh…"),
            ("店店店", 6, "店店店"),
            ("店店店", 5, "店店…"),
            ("店店店", 4, "店…"),
            ("shop", 1, "…"),
            ("shop", 0, ""),
        ] {
            assert_eq!(cut(text, columns), shown, "{text} {columns}");
            assert!(width(&cut(text, columns)) <= columns, "{text} {columns}");
        }
    }

    #[test]
    fn words_are_wrapped() {
        let words: Vec<String> = ["aaaaaaaaaa", "bbbbbbbbbb", "cc"].map(String::from).into();
        assert_eq!(wrapped(&words, 4, Some(24)), "aaaaaaaaaa\n    bbbbbbbbbb cc");
        assert_eq!(wrapped(&words, 4, None), "aaaaaaaaaa bbbbbbbbbb cc");
        assert_eq!(wrapped(&[], 4, Some(24)), "");
    }
}
