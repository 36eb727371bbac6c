//! The directories that are watched: found anew whenever one comes or goes.

use super::rules::{Rules, Without};
use crate::args::Watch;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// More directories than anybody wrote by hand.
const MOST: usize = 50_000;
/// Links that lead to links that …: as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// What is to be watched, as it was named.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Where the names are meant, and the patterns.
    pub(crate) here: PathBuf,
    /// By their full names, which may lead over links.
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) watch: Watch,
    pub(crate) without: Without,
}

/// What is watched.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) rules: Rules,
    pub(crate) directories: BTreeSet<PathBuf>,
    /// Links that lead to what is watched, by their own places.
    pub(crate) links: BTreeSet<PathBuf>,
    /// What is not there just now.
    pub(crate) missing: Vec<PathBuf>,
    /// A file that counts is in a directory that was not watched before.
    pub(crate) news: Option<PathBuf>,
}

/// Why nothing can be watched.
#[derive(Debug)]
pub(crate) enum Trouble {
    Pattern(String),
    TooMany,
    Watching(notify::Error),
}

type Watching<'a> = &'a mut dyn FnMut(&Path) -> notify::Result<()>;

impl Tree {
    /// Looks for it, and watches each directory before its entries are read: what comes in between is seen twice, and
    /// not missed.
    pub(crate) fn look(
        wish: &Wish,
        known: &BTreeSet<PathBuf>,
        watching: Watching<'_>,
    ) -> Result<Self, Trouble> {
        let here = wish.here.canonicalize().unwrap_or_else(|_| wish.here.clone());
        let Watch { ignore, extensions, .. } = &wish.watch;
        let rules = Rules::new(&here, ignore, extensions, wish.without.clone());
        let mut tree = Self {
            rules: rules.map_err(Trouble::Pattern)?,
            directories: BTreeSet::new(),
            links: BTreeSet::new(),
            missing: Vec::new(),
            news: None,
        };
        for path in &wish.paths {
            tree.links.extend(links_on(path));
            match path.canonicalize() {
                Ok(real) if real.is_dir() => tree.rules.roots.push(real),
                Ok(real) => {
                    tree.rules.files.insert(real);
                }
                Err(_) => tree.missing.push(path.clone()),
            }
        }
        let beside: Vec<PathBuf> = tree.links.iter().chain(&tree.rules.files).cloned().collect();
        for directory in beside.iter().filter_map(|path| path.parent()) {
            tree.watch(directory, watching)?;
        }
        for root in tree.rules.roots.clone() {
            tree.read_patterns_above(&root);
            tree.walk(root, known, watching)?;
        }
        Ok(tree)
    }

    /// Whether it is there.
    fn watch(&mut self, directory: &Path, watching: Watching<'_>) -> Result<bool, Trouble> {
        match watching(directory) {
            Ok(()) => {}
            // It is gone again, or not to be looked into.
            Err(notify::Error { kind: notify::ErrorKind::PathNotFound, .. }) => return Ok(false),
            Err(notify::Error { kind: notify::ErrorKind::Io(error), .. })
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(Trouble::Watching(error)),
        }
        self.directories.insert(directory.to_owned());
        if self.directories.len() > MOST {
            return Err(Trouble::TooMany);
        }
        Ok(true)
    }

    /// Those of the repository that it is in.
    fn read_patterns_above(&mut self, root: &Path) {
        let Some(top) = root.ancestors().find(|place| place.join(".git").exists()) else { return };
        let above = root.ancestors().skip(1).take_while(|place| place.starts_with(top));
        above.for_each(|place| self.rules.read(place));
    }

    fn walk(
        &mut self,
        root: PathBuf,
        known: &BTreeSet<PathBuf>,
        watching: Watching<'_>,
    ) -> Result<(), Trouble> {
        let mut waiting = vec![root];
        while let Some(directory) = waiting.pop() {
            if !self.watch(&directory, watching)? {
                continue;
            }
            self.rules.read(&directory);
            let is_new = !known.contains(&directory);
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if self.rules.enters(&path) {
                        waiting.push(path);
                    }
                } else if is_new && self.news.is_none() && self.rules.counts(&path) {
                    self.news = Some(path);
                }
            }
        }
        Ok(())
    }
}

/// The links that a name leads over, each by its own place.
fn links_on(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut at = PathBuf::from("/");
    let words = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect();
    let mut rest: VecDeque<std::ffi::OsString> = words(path);
    while let Some(word) = rest.pop_front() {
        match Path::new(&word).components().next() {
            Some(Component::Normal(name)) => {
                let next = at.join(name);
                let Ok(target) = fs::read_link(&next) else {
                    at = next;
                    continue;
                };
                found.push(next);
                if found.len() >= MOST_LINKS {
                    return found;
                }
                let mut longer: VecDeque<std::ffi::OsString> = words(&target);
                longer.append(&mut rest);
                rest = longer;
            }
            Some(Component::ParentDir) => {
                at.pop();
            }
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    fn wish(here: &Path, paths: &[&str]) -> Wish {
        let watch = Watch {
            paths: Vec::new(),
            ignore: vec!["skipped".into()],
            extensions: Vec::new(),
            delay: Duration::ZERO,
        };
        let paths = paths.iter().map(|path| here.join(path)).collect();
        Wish { here: here.to_owned(), paths, watch, without: Without::default() }
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().canonicalize().expect("there");
        for name in ["one/src/deep", "one/node_modules/x", "one/skipped", "one/.git", "two"] {
            fs::create_dir_all(path.join(name)).expect("made");
        }
        fs::write(path.join("one/src/a.js"), "").expect("written");
        (place, path)
    }

    #[test]
    fn what_is_ignored_is_not_even_watched() {
        let (_kept, place) = place();
        let mut watched = Vec::new();
        let mut watching = |path: &Path| {
            watched.push(path.to_owned());
            Ok(())
        };
        let tree = Tree::look(&wish(&place, &["one", "gone"]), &BTreeSet::new(), &mut watching)
            .expect("found");
        watched.sort();
        assert_eq!(watched, ["one", "one/src", "one/src/deep"].map(|name| place.join(name)));
        assert_eq!(tree.missing, [place.join("gone")]);
        assert_eq!(tree.news, Some(place.join("one/src/a.js")));
        let again = Tree::look(&wish(&place, &["one"]), &tree.directories, &mut |_| Ok(()));
        assert_eq!(again.expect("found").news, None, "it was watched before");
    }

    #[test]
    fn links_are_known_by_their_places() {
        let (_kept, place) = place();
        symlink("one", place.join("current")).expect("linked");
        symlink(place.join("current/../current"), place.join("two/over")).expect("linked");
        let at = |name: &str| place.join(name);
        assert_eq!(links_on(&at("two/over/src")), [at("two/over"), at("current"), at("current")]);
        let tree = Tree::look(&wish(&place, &["current"]), &BTreeSet::new(), &mut |_| Ok(()));
        let tree = tree.expect("found");
        assert!(tree.links.contains(&at("current")), "{tree:?}");
        assert!(tree.directories.contains(&place) && tree.directories.contains(&at("one/src")));
        symlink("round", at("round")).expect("linked");
        assert_eq!(links_on(&at("round")).len(), MOST_LINKS);
    }

    #[test]
    fn a_file_is_watched_where_it_is() {
        let (_kept, place) = place();
        fs::write(place.join("two/.env"), "").expect("written");
        let tree = Tree::look(&wish(&place, &["two/.env"]), &BTreeSet::new(), &mut |_| Ok(()));
        let tree = tree.expect("found");
        assert_eq!(tree.directories, BTreeSet::from([place.join("two")]));
        assert!(tree.rules.counts(&place.join("two/.env")));
        assert!(!tree.rules.counts(&place.join("two/other")));
    }

    #[test]
    fn what_cannot_be_watched_is_said() {
        let (_kept, place) = place();
        let mut full = |_: &Path| Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
        let tree = Tree::look(&wish(&place, &["one"]), &BTreeSet::new(), &mut full);
        assert!(matches!(tree, Err(Trouble::Watching(_))), "{tree:?}");
    }
}
