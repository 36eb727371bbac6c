//! Files of variables: `NAME=VALUE`, a line each.
//!
//! The part that all who read such files agree on: blank lines and lines that begin with `#` say nothing; `export ` may be
//! before a name; a value in single quotes is as it is, one in double quotes knows `\n`, `\r`, `\t`, `\"`, `\\` and `\$`, and
//! either may go over several lines; one without quotes ends at its line, or at ` #`, and has no blanks around it. Nothing is
//! put in for `$NAME`.

use super::parse::Wrong;
use std::iter::Peekable;
use std::str::Chars;

/// The variables, in order.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, Wrong> {
    let mut reader = Reader { chars: text.chars().peekable(), line: 1 };
    let mut all = Vec::new();
    while let Some(variable) = reader.variable()? {
        all.push(variable);
    }
    Ok(all)
}

struct Reader<'t> {
    chars: Peekable<Chars<'t>>,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn blanks(&mut self, fits: impl Fn(char) -> bool) {
        while self.chars.peek().is_some_and(|c| fits(*c)) {
            self.next();
        }
    }

    fn rest_of_line(&mut self) -> String {
        let mut rest = String::new();
        while let Some(c) = self.next() {
            if c == '\n' {
                break;
            }
            rest.push(c);
        }
        rest
    }

    fn wrong(line: usize, words: impl Into<String>) -> Wrong {
        Wrong { line: Some(line), words: words.into() }
    }

    fn variable(&mut self) -> Result<Option<(String, String)>, Wrong> {
        loop {
            self.blanks(char::is_whitespace);
            match self.chars.peek() {
                None => return Ok(None),
                Some('#') => drop(self.rest_of_line()),
                Some(_) => break,
            }
        }
        let line = self.line;
        let name = self.name(line)?;
        self.blanks(|c| c == ' ' || c == '\t');
        let value = match self.chars.peek() {
            Some('\'' | '"') => self.quoted(line)?,
            _ => unquoted(&self.rest_of_line()),
        };
        if value.contains('\0') {
            return Err(Self::wrong(line, format!("{name} has a zero byte in it")));
        }
        Ok(Some((name, value)))
    }

    fn name(&mut self, line: usize) -> Result<String, Wrong> {
        let mut name = String::new();
        loop {
            match self.chars.peek() {
                Some('=') => break,
                None | Some('\n') => return Err(Self::wrong(line, "expected NAME=VALUE")),
                Some(c) => name.push(*c),
            }
            self.next();
        }
        // The equals sign.
        self.next();
        let name = name.trim();
        let name = name.strip_prefix("export ").map_or(name, str::trim);
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(fits)
        {
            let words = format!("`{}` is no name of a variable", name.escape_debug());
            return Err(Self::wrong(line, words));
        }
        Ok(name.to_owned())
    }

    fn quoted(&mut self, line: usize) -> Result<String, Wrong> {
        let open = self.next();
        let mut value = String::new();
        loop {
            match self.next() {
                None => return Err(Self::wrong(line, "a quote is not closed")),
                c if c == open => break,
                Some('\\') if open == Some('"') => match self.next() {
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some(c @ ('"' | '\\' | '$')) => value.push(c),
                    Some(c) => value.extend(['\\', c]),
                    None => {}
                },
                Some(c) => value.push(c),
            }
        }
        let rest = self.rest_of_line();
        let rest = rest.trim();
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(value);
        }
        let rest = rest.escape_debug();
        Err(Self::wrong(line, format!("`{rest}` is behind the closing quote")))
    }
}

fn unquoted(rest: &str) -> String {
    let comment = rest.find(" #").or_else(|| rest.find("\t#"));
    let value = comment.and_then(|at| rest.get(..at)).unwrap_or(rest);
    let value = if value.starts_with('#') { "" } else { value };
    value.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let text = "# first\n\nexport A=1\r\nB = two words # not this\nC='x # $Y \\n'\nD=\"a\\n\\\"b\\$\\q\" # c\nE=\n\
                    F=a#b\nKEY=\"-----\nline\n-----\"\nG=$A\nH=last";
        let all = parse(text).unwrap();
        let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            all,
            [
                ("A", "1"),
                ("B", "two words"),
                ("C", "x # $Y \\n"),
                ("D", "a\n\"b$\\q"),
                ("E", ""),
                ("F", "a#b"),
                ("KEY", "-----\nline\n-----"),
                ("G", "$A"),
                ("H", "last"),
            ]
        );
    }

    #[test]
    fn what_is_no_variable() {
        for (text, line, words) in [
            ("A=1\nB", 2, "NAME=VALUE"),
            ("A='x\n\ny", 1, "quote"),
            ("A=1\n\nB=\"x\" y", 3, "behind"),
            ("1A=x", 1, "no name"),
            ("=x", 1, "no name"),
            ("A B=x", 1, "no name"),
            ("A=\"\\", 1, "quote"),
            ("A='\0'", 1, "zero"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(wrong.line, Some(line), "{text:?}: {wrong:?}");
            assert!(wrong.words.contains(words), "{text:?}: {wrong:?}");
        }
    }
}
