//! Where applications have their files, as the library has it; and what they are called if nobody says.

pub(crate) use phalanx::control::{App, Home, Lock, Spec, check_name};

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Ends of names of scripts, which are not part of what they are called.
const SCRIPTS: [&str; 16] = [
    "js", "cjs", "mjs", "ts", "cts", "mts", "coffee", "py", "rb", "php", "pl", "sh", "bash", "lua",
    "jar", "java",
];
/// Characters of a name.
const LONGEST: usize = 64;

/// A file that only this user reads, to be appended to.
pub(crate) fn append(file: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(file)
}

/// A name from what a program is called in the log: `node dist/server.js` is node-server.js.
pub(crate) fn name_of(title: &str) -> String {
    let last = |word: &str| {
        let word = word.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        word.chars().map(|c| if fits(c) { c } else { '-' }).collect::<String>()
    };
    let words: Vec<String> = title.split_whitespace().map(last).collect();
    let name = words.join("-");
    let name = name
        .rsplit_once('.')
        .filter(|(_, end)| SCRIPTS.contains(end))
        .map_or(&*name, |(name, _)| name);
    name.trim_start_matches(['.', '-']).chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_programs() {
        for (title, name) in [
            ("server.js", "server"),
            ("./dist/server.js", "server"),
            ("my.app", "my.app"),
            ("node dist/server.js", "node-server"),
            ("npm start", "npm-start"),
            ("/opt/my app/", "my-app"),
            ("dir/", "dir"),
            ("../..", ""),
        ] {
            assert_eq!(name_of(title), name, "{title}");
        }
    }
}
