//! Which files an application's workers write to.

use crate::args::logging::Logging;
use crate::home::{App, Spec};
use crate::intent;
use std::path::{Path, PathBuf};

/// The files of an application; two of them may be the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) out: Option<PathBuf>,
    pub(crate) err: Option<PathBuf>,
    /// Both streams, once more.
    pub(crate) both: Option<PathBuf>,
}

impl Places {
    /// Each file once.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for path in [&self.out, &self.err, &self.both].into_iter().flatten() {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        paths
    }

    /// For each stream, which of [`Places::paths`] have its lines.
    pub(crate) fn routes(&self) -> [Vec<usize>; 2] {
        let paths = self.paths();
        let place = |path: &Option<PathBuf>| paths.iter().position(|p| Some(p) == path.as_ref());
        [&self.out, &self.err].map(|path| {
            let mut route: Vec<usize> = place(path).into_iter().collect();
            route.extend(place(&self.both).filter(|both| !route.contains(both)));
            route
        })
    }

    /// Where every line is once: each stream's own file, else the one for both.
    pub(crate) fn readable(&self) -> Vec<PathBuf> {
        let mut own = Self { both: None, ..self.clone() };
        if own.out.is_none() || own.err.is_none() {
            own.both.clone_from(&self.both);
        }
        match own.both {
            // It has everything that the other one has.
            Some(both) => vec![both],
            None => own.paths(),
        }
    }
}

/// The long options that may be about logs begin so.
const LONG: [&str; 4] = ["--out", "--err", "--log", "--disable-logs"];
/// The short ones, also behind others: `-fo FILE`.
const SHORT: [char; 3] = ['o', 'e', 'l'];

/// Whether a word of a command line may be an option about logs.
fn may_be_about_logs(word: &str) -> bool {
    match word.strip_prefix('-') {
        Some(rest) if rest.starts_with('-') => LONG.iter().any(|known| word.starts_with(known)),
        Some(rest) => rest.contains(SHORT),
        None => false,
    }
}

/// Where the lines of an application are, and whether they are JSON.
pub(crate) fn places(app: &App) -> (Places, bool) {
    let Some(spec) = app.spec() else { return (usual(app, false), false) };
    let otherwise = (usual(app, spec.foreground), false);
    let mut own = spec.argv.iter().take_while(|word| *word != "--");
    // To understand a whole command line takes a millisecond, and few have such words.
    if !own.any(|word| may_be_about_logs(word)) {
        return otherwise;
    }
    match intent::options(&spec.argv) {
        Ok(run) => {
            let base = PathBuf::from(&spec.cwd);
            let base = match &run.cwd {
                // That of others is in the specification already.
                Some(cwd) if spec.foreground => base.join(cwd),
                _ => base,
            };
            let usual = usual(app, spec.foreground);
            (run.logging.places(&base, [usual.out, usual.err]), run.logging.is_json())
        }
        Err(_) => otherwise,
    }
}

/// Where those of one in the background are.
pub(crate) fn places_of(app: &App, spec: &Spec, logging: &Logging) -> Places {
    let usual = usual(app, false);
    logging.places(Path::new(&spec.cwd), [usual.out, usual.err])
}

/// Where they are if nobody says where. In the foreground they are on the terminal, or wherever that is.
fn usual(app: &App, foreground: bool) -> Places {
    let file = |path: PathBuf| Some(path).filter(|_| !foreground);
    Places { out: file(app.out_log()), err: file(app.err_log()), both: None }
}

/// Whether it is a file, or will be.
pub(crate) fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |about| about.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(out: Option<&str>, err: Option<&str>, both: Option<&str>) -> Places {
        let path = |name: Option<&str>| name.map(PathBuf::from);
        Places { out: path(out), err: path(err), both: path(both) }
    }

    #[test]
    fn options_about_logs() {
        for word in ["-o", "-ofile", "-fo", "-i2", "--output=x", "--err-file", "--log-type", "-fle"]
        {
            assert_eq!(may_be_about_logs(word), word != "-i2", "{word}");
        }
        for word in ["server.js", "-", "-f", "--name", "--no-keeper", "loe"] {
            assert!(!may_be_about_logs(word), "{word}");
        }
    }

    #[test]
    fn routes_and_what_is_read() {
        let names = |places: &Places| {
            let paths = places.readable();
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let usual = of(Some("o"), Some("e"), None);
        assert_eq!(usual.routes(), [vec![0], vec![1]]);
        assert_eq!(names(&usual), ["o", "e"]);
        let three = of(Some("o"), Some("e"), Some("b"));
        assert_eq!(three.routes(), [vec![0, 2], vec![1, 2]]);
        assert_eq!(names(&three), ["o", "e"]);
        let one = of(Some("o"), Some("o"), Some("o"));
        assert_eq!(one.routes(), [vec![0], vec![0]]);
        assert_eq!(names(&one), ["o"]);
        let half = of(Some("o"), None, Some("b"));
        assert_eq!(half.routes(), [vec![0, 1], vec![1]]);
        assert_eq!(names(&half), ["b"]);
        assert!(names(&of(None, None, None)).is_empty());
    }
}
