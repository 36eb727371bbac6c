//! Command lines in one text, split as a shell would split them.

/// The words, or nothing if a quote is not closed.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let into = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => into.push(c),
                    }
                }
            }
            '"' => {
                let into = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => into.push(c),
                            c => into.extend(['\\', c]),
                        },
                        c => into.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Whether only a shell can do what a command line says: pipes, variables, patterns, several commands.
pub(super) fn needs_shell(text: &str) -> bool {
    let mut quote = None;
    let mut chars = text.chars();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '$' | '`') => return true,
            (None | Some('"'), '\\') => {
                chars.next();
            }
            (None, '|' | '&' | ';' | '<' | '>' | '(' | ')' | '*' | '?' | '\n') => return true,
            (None, '~' | '#') if before.is_whitespace() => return true,
            _ => {}
        }
        before = c;
    }
    // `PORT=80 node server.js`
    let first = text.split_whitespace().next().unwrap_or_default();
    first.split_once('=').is_some_and(|(name, _)| is_variable(name))
}

/// Whether this can be the name of a variable everywhere.
pub(super) fn is_variable(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| fits(c) && !c.is_ascii_digit()) && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (text, words) in [
            ("", Some(&[][..])),
            (" a  b ", Some(&["a", "b"])),
            ("-m 'a b' \"c d\"", Some(&["-m", "a b", "c d"])),
            (r#"a\ b "x\"y" '\n' """#, Some(&["a b", "x\"y", r"\n", ""])),
            (r#"--x="a b"c"#, Some(&["--x=a bc"])),
            (r#""a\b""#, Some(&[r"a\b"])),
            ("'a", None),
            ("\"a", None),
            ("a\\", None),
        ] {
            let words = words.map(|words| words.iter().map(|&w| w.to_owned()).collect());
            assert_eq!(split(text), words, "{text:?}");
        }
    }

    #[test]
    fn what_is_a_shells() {
        for text in ["a | b", "a && b", "a $X", "\"$X\"", "a > b", "PORT=1 a", "ls *", "a ~", "`a`"]
        {
            assert!(needs_shell(text), "{text:?}");
        }
        for text in ["a b", "a '|' '$X'", "a --x=1", "a \\$", "a b~", "1=2 a"] {
            assert!(!needs_shell(text), "{text:?}");
        }
    }
}
