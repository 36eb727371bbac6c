//! What a key's value is as words of a command line.

use super::keys::{Key, Keys, Kind, Paths};
use super::tree::{Item, Node};
use crate::startup;
use std::path::{Component, Path, PathBuf};

/// The words for an option, none if it is not given.
pub(super) fn words(
    key: &Key,
    negated: bool,
    item: &Item,
    keys: &Keys,
    directory: &Path,
) -> Result<Vec<String>, String> {
    match (key.kind, &item.node) {
        (_, Node::Nothing) => Ok(Vec::new()),
        (Kind::Flag, Node::Bool(on)) => Ok(flag(key, *on != negated, negated, keys)),
        (Kind::Flag, node) => Err(format!("expected true or false, and this is {}", node.kind())),
        (Kind::Optional, Node::Bool(true)) => {
            let end = if key.alone { "" } else { "=" };
            Ok(vec![format!("--{}{end}", key.long)])
        }
        (_, Node::Bool(on)) if key.value.split('|').any(|word| word == on.to_string()) => {
            one(key, &on.to_string(), directory)
        }
        (_, Node::Bool(true)) => Err(expected(key, &item.node)),
        (_, Node::Bool(false)) => match key.off() {
            Some(off) => Ok(vec![format!("--{}={off}", key.long)]),
            None if key.may_be_missing() => Ok(Vec::new()),
            None => Err(expected(key, &item.node)),
        },
        // Of pm2's command line a small one is of seconds, and in its files never.
        (_, Node::Number(text)) if key.long == "watch-delay" => {
            one(key, &format!("{text}ms"), directory)
        }
        (_, Node::Number(text) | Node::Text(text)) => one(key, text, directory),
        (_, Node::List(list)) => several(key, list, &item.node, directory),
        (_, Node::Table(table)) if key.takes_table() => {
            let mut words = Vec::new();
            for (name, item) in table {
                let value = item.node.scalar().ok_or_else(|| expected(key, &item.node))?;
                words.extend(one(key, &format!("{name}={value}"), directory)?);
            }
            Ok(words)
        }
        (_, node) => Err(expected(key, node)),
    }
}

/// A flag that is off may have an opposite, for those who have it by themselves.
fn flag(key: &Key, on: bool, negated: bool, keys: &Keys) -> Vec<String> {
    let opposite = format!("no-{}", key.long);
    match on {
        true => vec![format!("--{}", key.long)],
        false if !negated && keys.all.iter().any(|key| key.long == opposite) => {
            vec![format!("--{opposite}")]
        }
        false => Vec::new(),
    }
}

fn expected(key: &Key, node: &Node) -> String {
    let more = match key.kind {
        Kind::Optional => ", true or false",
        _ if key.off().is_some() || key.may_be_missing() => ", or false",
        _ => "",
    };
    format!("expected {}{more}, and this is {}", key.value, node.kind())
}

/// An option and its value: two words if nothing can be mistaken.
fn one(key: &Key, value: &str, directory: &Path) -> Result<Vec<String>, String> {
    if value.contains('\0') {
        return Err("it has a zero byte in it".into());
    }
    let value = match key.commas {
        true => {
            value.split(',').map(|part| placed(key, part, directory)).collect::<Vec<_>>().join(",")
        }
        false => placed(key, value, directory),
    };
    if key.kind == Kind::Optional || value.is_empty() || value.starts_with('-') {
        return Ok(vec![format!("--{}={value}", key.long)]);
    }
    Ok(vec![format!("--{}", key.long), value])
}

fn several(
    key: &Key,
    list: &[Item],
    whole: &Node,
    directory: &Path,
) -> Result<Vec<String>, String> {
    let scalar = |item: &Item| {
        let text = item.node.scalar().map(str::to_owned);
        text.ok_or_else(|| {
            format!("expected {}, and in the list is {}", key.value, item.node.kind())
        })
    };
    let values = list.iter().map(scalar).collect::<Result<Vec<_>, _>>()?;
    if values.is_empty() {
        return Ok(key.off().map(|off| format!("--{}={off}", key.long)).into_iter().collect());
    }
    if key.commas {
        if let Some(value) = values.iter().find(|value| value.contains(',')) {
            return Err(format!("`{}` has a comma in it, which separates", value.escape_debug()));
        }
        return one(key, &values.join(","), directory);
    }
    // Words of a command, split at spaces.
    if key.value == "COMMAND" {
        return one(key, &values.join(" "), directory);
    }
    if !key.repeats {
        return Err(format!("expected one value, and this is {}", whole.kind()));
    }
    let words = values.iter().map(|value| one(key, value, directory));
    Ok(words.collect::<Result<Vec<_>, _>>()?.concat())
}

/// A value in which a path is relative to the file.
fn placed(key: &Key, value: &str, directory: &Path) -> String {
    let place = |path: &str| absolute(directory, at_home(path)).display().to_string();
    let is_word =
        value.is_empty() || value.eq_ignore_ascii_case("null") || key.off() == Some(value);
    match key.paths {
        _ if is_word => value.to_owned(),
        Paths::Whole => place(value),
        Paths::Slashed if value.contains('/') => place(value),
        Paths::Home => at_home(value).display().to_string(),
        Paths::Behind => match value.split_once('=') {
            Some((name, path)) if !path.is_empty() => format!("{name}={}", place(path)),
            _ => value.to_owned(),
        },
        Paths::Slashed | Paths::None => value.to_owned(),
    }
}

/// With the home directory for `~`, as a shell has it; another user's (`~name`) is not looked for.
pub(super) fn at_home(path: &str) -> PathBuf {
    let below = if path == "~" { Some("") } else { path.strip_prefix("~/") };
    match below.zip(home()) {
        Some((below, home)) => absolute(&home, below),
        None => path.into(),
    }
}

/// `HOME`; else, as at boot there may be none, what the user database has.
pub(super) fn home() -> Option<PathBuf> {
    let named = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    named.or_else(|| {
        let uid = rustix::process::geteuid().as_raw();
        let users = startup::local_users();
        users.lines().filter_map(startup::entry).find(|user| user.uid == uid).map(|user| user.home)
    })
}

/// A path as seen from a directory, without asking what is there: links stay links.
pub(crate) fn absolute(directory: &Path, path: impl AsRef<Path>) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in directory.join(path).components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            Component::CurDir => {}
            part => whole.push(part),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_given() {
        let keys = Keys::find_all();
        let text = |text: &str| Node::Text(text.into());
        let list =
            |items: &[&str]| Node::List(items.iter().map(|item| text(item).into()).collect());
        let table = |name: &str, value: &str| Node::Table(vec![(name.into(), text(value).into())]);
        let number = |text: &str| Node::Number(text.into());
        let (on, off) = (Node::Bool(true), Node::Bool(false));
        for (name, node, wanted) in [
            ("rollback", on.clone(), Ok("--rollback")),
            ("rollback", off.clone(), Ok("")),
            ("rollback", Node::Nothing, Ok("")),
            ("rollback", text("yes"), Err("expected true or false, and this is a text")),
            ("autorestart", off.clone(), Ok("--no-autorestart")),
            ("autorestart", on.clone(), Ok("")),
            ("no-autorestart", on.clone(), Ok("--no-autorestart")),
            ("keeper", off.clone(), Ok("--no-keeper")),
            ("inspect", on.clone(), Ok("--inspect")),
            ("watch", on.clone(), Ok("--watch=")),
            ("watch", list(&["src", "lib"]), Ok("--watch=src,lib")),
            ("watch-delay", number("50"), Ok("--watch-delay 50ms")),
            ("cron-restart", text("0,30 * * * *"), Ok("--cron 0,30 * * * *")),
            ("out-file", text("logs/out.log"), Ok("--output /etc/app/logs/out.log")),
            ("error", text("NULL"), Ok("--error NULL")),
            ("inspect", off.clone(), Ok("")),
            ("inspect", number("9230"), Ok("--inspect=9230")),
            ("instances", text("max"), Ok("--instances max")),
            ("instances", number("-1"), Ok("--instances=-1")),
            ("instances", on.clone(), Err("expected N|max|-N, or false, and this is true")),
            ("heartbeat", off.clone(), Ok("--heartbeat=off")),
            ("grace", off.clone(), Err("expected TIME, and this is false")),
            ("max-memory", off, Ok("")),
            ("stop-exit-codes", list(&["0", "3"]), Ok("--stop-exit-codes 0,3")),
            ("stop-exit-codes", list(&["0,3"]), Err("`0,3` has a comma in it, which separates")),
            ("capabilities", list(&[]), Ok("--capabilities=none")),
            ("listen", list(&["1", "2"]), Ok("--listen 1 --listen 2")),
            ("listen", table("web", ":80"), Ok("--listen web=:80")),
            ("listen", text(""), Ok("--listen=")),
            ("secret", table("KEY", "k"), Ok("--secret KEY=/etc/app/k")),
            ("root", text("./jail"), Ok("--root /etc/app/jail")),
            ("landlock-ro", text("/usr,lib"), Ok("--landlock-ro /usr,/etc/app/lib")),
            ("interpreter", text("node"), Ok("--interpreter node")),
            ("interpreter", text("bin/node"), Ok("--interpreter /etc/app/bin/node")),
            ("health-path", text("/ok"), Ok("--health-path /ok")),
            ("health-command", list(&["curl", "-f"]), Ok("--health-command curl -f")),
            ("grace", list(&["1"]), Err("expected one value, and this is a list")),
            ("grace", table("a", "b"), Err("expected TIME, and this is a table")),
            ("name-of-nobody", on, Err("unknown")),
        ] {
            let found = keys.find(name);
            let done = found.map(|found| {
                words(found.key, found.negated, &node.clone().into(), &keys, Path::new("/etc/app"))
            });
            let done = done.unwrap_or_else(|| Err("unknown".into())).map(|words| words.join(" "));
            assert_eq!(done.as_deref().map_err(String::as_str), wanted, "{name} = {node:?}");
        }
    }

    #[test]
    fn the_home_directory() {
        let keys = Keys::find_all();
        let home = home().expect("a home directory").display().to_string();
        for (name, value, wanted) in [
            ("out-file", "~/til.log", "--output HOME/til.log"),
            ("out-file", "~", "--output HOME"),
            ("out-file", "~other/x", "--output /etc/app/~other/x"),
            ("out-file", "a/~/x", "--output /etc/app/a/~/x"),
            ("root", "~/jail", "--root HOME/jail"),
            ("interpreter", "~/bin/node", "--interpreter HOME/bin/node"),
            ("secret", "KEY=~/keys/a", "--secret KEY=HOME/keys/a"),
            ("landlock-ro", "~/a,/b,~/c", "--landlock-ro HOME/a,/b,HOME/c"),
            ("watch", "~/src,lib", "--watch=HOME/src,lib"),
            ("ignore-watch", "~/x", "--ignore-watch ~/x"),
        ] {
            let found = keys.find(name).expect("a key");
            let item = Node::Text(value.into()).into();
            let done = words(found.key, false, &item, &keys, Path::new("/etc/app"));
            let wanted = wanted.replace("HOME", &home);
            assert_eq!(done.map(|words| words.join(" ")), Ok(wanted), "{name} = {value}");
        }
    }

    #[test]
    fn paths() {
        let at = |path: &str| absolute(Path::new("/srv/current"), path).display().to_string();
        assert_eq!(at("."), "/srv/current");
        assert_eq!(at("./a/./b"), "/srv/current/a/b");
        assert_eq!(at("../x"), "/srv/x");
        assert_eq!(at("../../../x"), "/x");
        assert_eq!(at("/abs"), "/abs");
    }
}
