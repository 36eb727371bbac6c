//! Which applications a command is about.

use crate::config;
use crate::failure::{Failure, UNEXPECTED, USAGE};
use crate::home::{App, Home, Lock};
use crate::ui::words::nearest;
use globset::Glob;
use regex::Regex;
use std::collections::BTreeSet;
use std::path::Path;

/// What is known of an application before it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    name: String,
    id: Option<u32>,
    namespace: String,
}

/// The applications that are meant, each once, by id; those without one, which run in somebody's foreground, last.
///
/// # Errors
/// Something that means none.
pub(crate) fn resolve(home: &Home, wanted: &[String]) -> Result<Vec<App>, Failure> {
    let known = known(home)?;
    if known.is_empty() && wanted == ["all"] {
        return Err(Failure::tool(UNEXPECTED, "there is no application")
            .hint("`phalanx start PROGRAM` starts one"));
    }
    let mut meant = BTreeSet::new();
    for word in wanted {
        meant.extend(of_word(&known, word)?);
    }
    let all = known.iter().enumerate().filter(|(at, _)| meant.contains(at));
    Ok(all.map(|(_, known)| home.app(&known.name)).collect())
}

/// As [`resolve`]; all if none is named.
pub(crate) fn any(home: &Home, wanted: &[String]) -> Result<Vec<App>, Failure> {
    if wanted.is_empty() || wanted == ["all"] {
        return Ok(known(home)?.iter().map(|known| home.app(&known.name)).collect());
    }
    resolve(home, wanted)
}

/// Just one application.
pub(crate) fn one(home: &Home, wanted: &str) -> Result<App, Failure> {
    let mut meant = resolve(home, &[wanted.to_owned()])?;
    match meant.len() {
        1 => Ok(meant.remove(0)),
        _ => {
            let names: Vec<&str> = meant.iter().map(|app| app.name.as_str()).collect();
            let message = format!("`{}` means {}", wanted.escape_debug(), names.join(", "));
            Err(Failure::tool(USAGE, message).hint("this command is for one application: name it"))
        }
    }
}

/// That no application of those is called so.
pub(crate) fn nobody(name: &str, among: &[App]) -> Failure {
    let names: Vec<&str> = among.iter().map(|app| app.name.as_str()).collect();
    let like = nearest(name, names.iter().copied());
    let like = like.map(|like| format!("; did you mean {like}?")).unwrap_or_default();
    let (name, names) = (name.escape_debug(), names.join(", "));
    Failure::tool(USAGE, format!("no application is called `{name}`{like} (there are {names})"))
}

fn known(home: &Home) -> Result<Vec<Known>, Failure> {
    let mut all: Vec<Known> = Vec::new();
    for name in home.names()? {
        let app = home.app(&name);
        let Some(spec) = app.spec() else {
            all.push(Known { name, id: None, namespace: String::new() });
            continue;
        };
        if spec.foreground && is_over(&app) {
            continue;
        }
        let id = Some(spec.id).filter(|_| !spec.foreground);
        all.push(Known { name, id, namespace: spec.namespace });
    }
    all.sort_by_key(|known| known.id.unwrap_or(u32::MAX));
    Ok(all)
}

/// Whether one that ran in somebody's foreground was killed there. Nothing of it stays.
fn is_over(app: &App) -> bool {
    if Lock::is_held(app) {
        return false;
    }
    match Lock::take(app, std::time::Duration::ZERO) {
        Ok(Some(lock)) => app.remove(lock).is_ok(),
        _ => false,
    }
}

/// Where they are among those that are known.
fn of_word(known: &[Known], word: &str) -> Result<Vec<usize>, Failure> {
    let found = |fits: &dyn Fn(&Known) -> bool| {
        let all = known.iter().enumerate().filter(|(_, known)| fits(known));
        all.map(|(at, _)| at).collect::<Vec<usize>>()
    };
    if word == "all" {
        return Ok(found(&|_| true));
    }
    let named = found(&|known| known.name == word);
    if !named.is_empty() {
        return Ok(named);
    }
    if let Ok(id) = word.parse::<u32>() {
        let numbered = found(&|known| known.id == Some(id));
        if !numbered.is_empty() {
            return Ok(numbered);
        }
    }
    let in_namespace = found(&|known| known.namespace == word);
    if !in_namespace.is_empty() {
        return Ok(in_namespace);
    }
    if let Some(pattern) = word.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        let pattern = Regex::new(pattern).map_err(|error| {
            Failure::tool(USAGE, format!("`{word}` is no regular expression: {error}"))
        })?;
        return some(found(&|known| pattern.is_match(&known.name)), known, word);
    }
    let file = Path::new(word);
    // Nobody is called as a configuration file is, unless with that name.
    if config::is_config(file) && !file.exists() {
        return Err(config::missing(file, USAGE));
    }
    if file.is_file() && config::is_config(file) {
        let names: Vec<String> = config::load(Path::new(word), None, &[])?
            .apps
            .into_iter()
            .map(|app| app.name)
            .collect();
        let found = found(&|known| names.contains(&known.name));
        if found.is_empty() {
            let message = format!("nothing of {word} was started: it has {}", names.join(", "));
            return Err(Failure::tool(UNEXPECTED, message)
                .hint(format!("`phalanx start {word}` starts it")));
        }
        return Ok(found);
    }
    if word.contains(['*', '?', '[', '{']) {
        let glob = Glob::new(word).map_err(|error| {
            Failure::tool(USAGE, format!("`{}` is no pattern: {error}", word.escape_debug()))
        })?;
        let glob = glob.compile_matcher();
        return some(found(&|known| glob.is_match(&known.name)), known, word);
    }
    some(Vec::new(), known, word)
}

fn some(found: Vec<usize>, known: &[Known], word: &str) -> Result<Vec<usize>, Failure> {
    if !found.is_empty() {
        return Ok(found);
    }
    let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
    let hint = match (nearest(word, names.iter().copied()), names.is_empty()) {
        (Some(name), _) => format!("did you mean `{name}`?"),
        (None, true) => "none was started; `phalanx start PROGRAM --name NAME` does".to_owned(),
        (None, false) => format!("there are {}", names.join(", ")),
    };
    let message = format!("no application is called `{}`", word.escape_debug());
    Err(Failure::tool(UNEXPECTED, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<Known> {
        let app = |name: &str, id, namespace: &str| Known {
            name: name.into(),
            id,
            namespace: namespace.into(),
        };
        vec![
            app("api-1", Some(0), "web"),
            app("api-2", Some(1), "web"),
            app("7", Some(2), "default"),
            app("jobs", Some(7), "default"),
            app("own", None, "default"),
        ]
    }

    #[test]
    fn every_way_to_mean_applications() {
        for (word, meant) in [
            ("all", &[0, 1, 2, 3, 4][..]),
            ("api-2", &[1]),
            ("0", &[0]),
            // A name before an id.
            ("7", &[2]),
            ("web", &[0, 1]),
            ("default", &[2, 3, 4]),
            ("api-*", &[0, 1]),
            ("{jobs,own}", &[3, 4]),
            ("/^(api|jo)/", &[0, 1, 3]),
        ] {
            assert_eq!(of_word(&known(), word).ok().as_deref(), Some(meant), "{word}");
        }
        for word in ["nobody", "99", "x*", "/x/", "/(/", "[", ""] {
            assert!(of_word(&known(), word).is_err(), "{word}");
        }
    }
}
