//! What workers inherit of the primary's environment, and what they learn from files.

use crate::error::{Error, Result};
use crate::settings::Settings;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What workers inherit of the primary's environment. [`Settings::env`], [`Settings::secrets`] and what phalanx itself tells them
/// comes to it in any case.
///
/// A pattern is a name, or the beginning of names with `*` after it.
///
/// ```
/// use phalanx::{Inherit, Settings};
/// let mut settings = Settings::default();
/// settings.environment = Inherit::Only(vec!["PATH".into(), "LC_*".into()]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inherit {
    /// All.
    #[default]
    All,
    /// What matches a pattern.
    Only(Vec<OsString>),
    /// What matches no pattern.
    Except(Vec<OsString>),
}

impl Inherit {
    /// Whether a variable is inherited.
    pub(crate) fn takes(&self, name: &OsStr) -> bool {
        let among = |patterns: &[OsString]| patterns.iter().any(|pattern| matches(pattern, name));
        match self {
            Self::All => true,
            Self::Only(patterns) => among(patterns),
            Self::Except(patterns) => !among(patterns),
        }
    }

    /// That there is no pattern which never matches, or not what it seems to.
    pub(crate) fn check(&self) -> Result<()> {
        let (Self::Only(patterns) | Self::Except(patterns)) = self else { return Ok(()) };
        let wrong = |pattern: &&OsString| {
            let bytes = pattern.as_bytes();
            let name = bytes.strip_suffix(b"*").unwrap_or(bytes);
            bytes.is_empty() || name.iter().any(|byte| matches!(byte, b'*' | b'=' | 0))
        };
        match patterns.iter().find(wrong) {
            None => Ok(()),
            Some(pattern) => Err(refused(
                format!("cannot look for the variable `{}`", pattern.display()),
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "expected a name, or its beginning with `*` at the end",
                ),
            )),
        }
    }
}

fn matches(pattern: &OsStr, name: &OsStr) -> bool {
    match pattern.as_bytes().strip_suffix(b"*") {
        Some(beginning) => name.as_bytes().starts_with(beginning),
        None => pattern == name,
    }
}

/// The longest `NAME=VALUE` that an exec passes on, with its zero (execve(2), `MAX_ARG_STRLEN` with pages of 4 KiB).
const LONGEST: usize = 128 * 1024;

/// Each secret's name and value, read now.
pub(crate) fn with_secrets(settings: &Settings) -> Result<Vec<(OsString, OsString)>> {
    let value = |(name, file): &(OsString, PathBuf)| Ok((name.clone(), secret(name, file)?));
    settings.secrets.iter().map(value).collect()
}

/// No error tells what is in the file.
fn secret(name: &OsStr, file: &Path) -> Result<OsString> {
    let what = || format!("cannot read the secret {} from {}", name.display(), file.display());
    let failed = |why: io::Error| refused(what(), why);
    let invalid = |why: &str| failed(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.iter().any(|byte| matches!(byte, b'=' | 0)) {
        return Err(invalid("a variable's name is not empty and has no `=` in it"));
    }
    // What is no file could let the primary wait for ever.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    let opened = opened.map_err(failed)?;
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(invalid("it is not a regular file"));
    }
    let room = LONGEST.saturating_sub(bytes.len() + "=\0".len());
    let mut value = Vec::new();
    // With its newline, and one that shows that it is too long.
    let limit = u64::try_from(room + 2).unwrap_or(u64::MAX);
    opened.take(limit).read_to_end(&mut value).map_err(failed)?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    if value.len() > room {
        return Err(invalid("it is longer than a variable can be (128 KiB)"));
    }
    if value.contains(&0) {
        return Err(invalid("there is a zero byte in it, which no variable can have"));
    }
    Ok(OsString::from_vec(value))
}

fn refused(what: String, source: io::Error) -> Error {
    Error::Permissions { what, source, hint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let list = || vec!["PATH".into(), "LC_*".into()];
        let (only, except) = (Inherit::Only(list()), Inherit::Except(list()));
        for (name, listed) in
            [("PATH", true), ("PATHS", false), ("LC_", true), ("LC_ALL", true), ("LC", false)]
        {
            let name = OsStr::new(name);
            assert_eq!((only.takes(name), except.takes(name)), (listed, !listed), "{name:?}");
            assert!(Inherit::All.takes(name));
        }
        assert!(Inherit::Only(vec!["*".into()]).takes(OsStr::new("ANY")));
        assert!(!Inherit::Only(Vec::new()).takes(OsStr::new("ANY")));
        only.check().expect("right");
        for wrong in ["", "A*B", "**", "A=b"] {
            let error = Inherit::Except(vec![wrong.into()]).check().expect_err(wrong);
            assert!(error.to_string().contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn secrets() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("secret");
        let read = |content: &[u8]| {
            std::fs::write(&file, content).expect("written");
            secret(OsStr::new("KEY"), &file)
        };
        for (content, value) in
            [("", ""), ("x", "x"), ("x\n", "x"), ("x\n\n", "x\n"), ("\n", ""), ("a\nb", "a\nb")]
        {
            assert_eq!(read(content.as_bytes()).expect("read"), value, "{content:?}");
        }
        let longest = vec![b'x'; LONGEST - "KEY=\0".len()];
        assert_eq!(read(&longest).expect("read").len(), longest.len());
        assert!(read(&[&longest[..], b"\n"].concat()).is_ok());
        for (content, why) in [
            ([&longest[..], b"x"].concat(), "longer"),
            ([&longest[..], b"x\n"].concat(), "longer"),
            (b"hidden\0words".to_vec(), "zero byte"),
        ] {
            let error = read(&content).expect_err(why).to_string();
            assert!(error.contains(why) && error.contains("/secret"), "{error}");
            assert!(!error.contains("hidden"), "{error}");
        }
        for (name, place, why) in [
            ("", file.as_path(), "name"),
            ("A=B", &file, "name"),
            ("KEY", Path::new("/no/such/file"), "No such file"),
            ("KEY", directory.path(), "not a regular file"),
        ] {
            let error = secret(OsStr::new(name), place).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
