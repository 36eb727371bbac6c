//! Which changes of files count.

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What programs and editors write beside what somebody wrote.
const USUAL: [&str; 12] = [
    "*.log",
    "*.pid",
    "*.sock",
    "*.tmp",
    "*~",
    "*.swp",
    "*.swo",
    "*.swx",
    "4913",
    "\\#*#",
    "__pycache__/",
    "*.pyc",
];
/// Files in which such patterns are.
pub(crate) const PATTERN_FILES: [&str; 2] = [".ignore", ".gitignore"];

/// What phalanx itself writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Without {
    /// In these directories.
    pub(crate) directories: Vec<PathBuf>,
    /// These files, and those that are made of them: the whole name, and something behind a dot (`out.log.STAMP.gz`).
    pub(crate) files: Vec<PathBuf>,
}

impl Without {
    fn has(&self, path: &Path, root: &Path) -> bool {
        let inside = |place: &PathBuf| path.starts_with(place) && !root.starts_with(place);
        let beside = |file: &PathBuf| {
            let (Some(name), Some(own)) = (path.file_name(), file.file_name()) else {
                return false;
            };
            let rest = name.as_encoded_bytes().strip_prefix(own.as_encoded_bytes());
            path.parent() == file.parent()
                && rest.is_some_and(|rest| rest.first().is_none_or(|c| *c == b'.'))
        };
        self.directories.iter().any(inside) || self.files.iter().any(beside)
    }
}

/// Which changes count. All paths are without links in them.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Directories in which files count.
    pub(crate) roots: Vec<PathBuf>,
    /// Files that were named: each counts, whatever it is called.
    pub(crate) files: BTreeSet<PathBuf>,
    without: Without,
    extensions: BTreeSet<String>,
    asked: Gitignore,
    usual: Gitignore,
    /// What is in pattern files, by the directories in which they are.
    found: BTreeMap<PathBuf, Vec<Gitignore>>,
}

impl Rules {
    /// With patterns that are meant as in `here`.
    ///
    /// # Errors
    /// A pattern is none.
    pub(crate) fn new(
        here: &Path,
        ignore: &[String],
        extensions: &[String],
        without: Without,
    ) -> Result<Self, String> {
        let build = |patterns: &mut dyn Iterator<Item = &str>| {
            let mut builder = GitignoreBuilder::new(here);
            for pattern in patterns {
                builder.add_line(None, pattern).map_err(|error| error.to_string())?;
            }
            builder.build().map_err(|error| error.to_string())
        };
        Ok(Self {
            roots: Vec::new(),
            files: BTreeSet::new(),
            without,
            extensions: extensions.iter().cloned().collect(),
            asked: build(&mut ignore.iter().map(|text| text.strip_prefix("./").unwrap_or(text)))?,
            usual: build(&mut USUAL.into_iter())?,
            found: BTreeMap::new(),
        })
    }

    /// Reads the pattern files of a directory. What is wrong in them is left out.
    pub(crate) fn read(&mut self, directory: &Path) {
        let there = PATTERN_FILES.iter().map(|name| directory.join(name)).filter(|f| f.is_file());
        let found: Vec<Gitignore> = there.map(|file| Gitignore::new(file).0).collect();
        if !found.is_empty() {
            self.found.insert(directory.to_owned(), found);
        }
    }

    /// Whether a change of a file counts.
    pub(crate) fn counts(&self, file: &Path) -> bool {
        if self.files.contains(file) {
            return true;
        }
        let extension = || file.extension().and_then(OsStr::to_str).unwrap_or_default();
        let fits = self.extensions.is_empty() || self.extensions.contains(extension());
        fits && self.is_inside(file, false)
    }

    /// Whether files in a directory may count.
    pub(crate) fn enters(&self, directory: &Path) -> bool {
        self.is_inside(directory, true)
    }

    fn is_inside(&self, path: &Path, is_dir: bool) -> bool {
        let root = self.roots.iter().filter(|root| path.starts_with(root));
        // The innermost: it was named, so what leads to it counts.
        let Some(root) = root.max_by_key(|root| root.components().count()) else { return false };
        if self.without.has(path, root) {
            return false;
        }
        let below = path.ancestors().take_while(|place| *place != root.as_path());
        below.enumerate().all(|(up, place)| !self.ignores(place, is_dir || up > 0))
    }

    /// Whether this is ignored, whatever is above it.
    fn ignores(&self, path: &Path, is_dir: bool) -> bool {
        match self.asked.matched(path, is_dir) {
            Match::Ignore(_) => return true,
            Match::Whitelist(_) => return false,
            Match::None => {}
        }
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(b".") || name == "node_modules" {
            return true;
        }
        if self.usual.matched(path, is_dir).is_ignore() {
            return true;
        }
        let places = path.ancestors().skip(1).filter_map(|place| self.found.get(place));
        let mut said = places.flatten().map(|file| file.matched(path, is_dir));
        said.find(|said| !said.is_none()).is_some_and(|said| said.is_ignore())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(ignore: &[&str], extensions: &[&str]) -> Rules {
        let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (ignore, extensions) = (words(ignore), words(extensions));
        let without = Without {
            directories: vec!["/app/home".into()],
            files: vec!["/app/said/out.txt".into()],
        };
        let mut rules =
            Rules::new(Path::new("/app"), &ignore, &extensions, without).expect("patterns");
        rules.roots = vec!["/app".into(), "/app/.config".into()];
        rules.files.insert("/etc/app/.env".into());
        rules
    }

    #[track_caller]
    fn check(rules: &Rules, files: &[(&str, bool)]) {
        for (file, counts) in files {
            assert_eq!(rules.counts(Path::new(file)), *counts, "{file}");
        }
    }

    #[test]
    fn what_counts_by_itself() {
        check(
            &rules(&[], &[]),
            &[
                ("/app/server.js", true),
                ("/app/src/a/b.ts", true),
                ("/app/.env", false),
                ("/app/.git/index", false),
                ("/app/node_modules/x/index.js", false),
                ("/app/src/node_modules/x.js", false),
                ("/app/out.log", false),
                ("/app/src/.server.js.swp", false),
                ("/app/server.js~", false),
                ("/app/4913", false),
                ("/app/#server.js#", false),
                ("/app/__pycache__/app.pyc", false),
                ("/app/home/apps/x/spec.json", false),
                ("/app/said/out.txt", false),
                ("/app/said/out.txt.idx", false),
                ("/app/said/out.txt.new", false),
                ("/app/said/out.txt.part", false),
                ("/app/said/out.txt.20260131T130000.123456Z", false),
                ("/app/said/out.txt.20260131T130000.123456Z.gz.new", false),
                // The program, beside what it says.
                ("/app/said/out.js", true),
                ("/app/said/out", true),
                ("/app/said/out-2.txt", true),
                ("/app/said/outer.txt", true),
                ("/app/.config/app.toml", true),
                ("/app/.config/.app.toml", false),
                ("/etc/app/.env", true),
                ("/etc/app/other", false),
                ("/application/x.js", false),
            ],
        );
    }

    #[test]
    fn what_is_asked_for() {
        check(
            &rules(&["logs", "./tmp/*.json", "*.md", "!.env"], &[]),
            &[
                ("/app/logs/x.js", false),
                ("/app/src/logs/x.js", false),
                ("/app/tmp/x.json", false),
                ("/app/src/tmp/x.json", true),
                ("/app/README.md", false),
                ("/app/.env", true),
            ],
        );
        check(
            &rules(&[], &["js", "ts"]),
            &[("/app/a.js", true), ("/app/a.ts", true), ("/app/a.css", false), ("/app/a", false)],
        );
        assert!(Rules::new(Path::new("/app"), &["a{".into()], &[], Without::default()).is_err());
    }

    #[test]
    fn the_innermost_pattern_file_decides() {
        let place = tempfile::tempdir().expect("a directory");
        let app = place.path();
        let mut rules = Rules::new(app, &[], &[], Without::default()).expect("patterns");
        rules.roots = vec![app.to_owned()];
        std::fs::create_dir(app.join("kept")).expect("made");
        std::fs::write(app.join(".gitignore"), "/dist\n*.css\n").expect("written");
        std::fs::write(app.join("kept/.gitignore"), "!a.css\n").expect("written");
        rules.read(app);
        rules.read(&app.join("kept"));
        for (file, counts) in [
            ("dist/x.js", false),
            ("src/dist/x.js", true),
            ("a.css", false),
            ("kept/a.css", true),
            ("kept/b.css", false),
        ] {
            assert_eq!(rules.counts(&app.join(file)), counts, "{file}");
        }
        assert!(!rules.enters(&app.join("dist")) && rules.enters(&app.join("src")));
    }
}
