//! Deployments of a configuration file: where `phalanx deploy` brings which commit, and what is run there.

use super::document::{absolute_file, directory};
use super::keys::dashed;
use super::problem::{self, Problem};
use super::tree::{Entries, Item, Node};
use super::values::absolute;
use super::words::is_variable;
use super::{is_config, parse};
use crate::failure::{Failure, UNEXPECTED, USAGE};
use crate::ui::words::nearest;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The key beside the applications.
pub(super) const KEY: &str = "deploy";

/// What a key of a deployment takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Text,
    Port,
    Texts,
    Switch,
    Variables,
}

/// The keys of a deployment, as pm2 writes them; dashes and underscores are the same.
pub(super) const KEYS: [(&str, Takes, &str); 16] = [
    ("user", Takes::Text, "Who logs in; else as ssh is set up"),
    ("host", Takes::Texts, "The host, or a list of them"),
    ("port", Takes::Port, "The port of ssh there"),
    ("ref", Takes::Text, "What is brought there: a branch, a tag, a commit; else origin/HEAD"),
    ("repo", Takes::Text, "The git repository, as the hosts reach it"),
    ("path", Takes::Text, "The directory on the hosts: absolute, or below the home of `user`"),
    ("key", Takes::Text, "The file of the private key, relative to this file"),
    ("ssh_options", Takes::Texts, "Options of ssh_config(5): NAME=VALUE"),
    ("forward-agent", Takes::Switch, "Let the hosts use the keys of the local agent"),
    ("needs_tty", Takes::Switch, "Commands have a terminal there"),
    ("env", Takes::Variables, "Variables for everything that is run"),
    ("pre-setup", Takes::Texts, "Run on each host before setup"),
    ("post-setup", Takes::Texts, "Run on each host after setup, in PATH/current"),
    ("pre-deploy-local", Takes::Texts, "Run here, before anything is brought anywhere"),
    ("pre-deploy", Takes::Texts, "Run on each host before the new commit, in PATH/current"),
    ("post-deploy", Takes::Texts, "Run on each host with the new commit, in PATH/current"),
];

/// Where a commit is brought, and what is run there. What a file does not say may be missing until somebody needs it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Deployment {
    pub(crate) user: Option<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) port: Option<u16>,
    pub(crate) reference: Option<String>,
    pub(crate) repo: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) ssh_options: Vec<String>,
    pub(crate) forward_agent: bool,
    pub(crate) needs_tty: bool,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) pre_setup: Option<String>,
    pub(crate) post_setup: Option<String>,
    pub(crate) pre_deploy_local: Option<String>,
    pub(crate) pre_deploy: Option<String>,
    pub(crate) post_deploy: Option<String>,
}

/// The deployment of that name in a file, and the file's directory.
///
/// # Errors
/// There is none, or something is wrong with one of them.
pub(crate) fn deployment(file: &Path, name: &str) -> Result<(Deployment, PathBuf), Failure> {
    let shown = file.display();
    let Some(format) = parse::format(file).filter(|_| is_config(file)) else {
        return Err(Failure::tool(USAGE, format!("{shown} is no configuration file by its name")));
    };
    let item = parse::read(file, format).map_err(|wrong| {
        let problem = Problem { line: wrong.line, words: wrong.words, ..Problem::default() };
        problem::failure(&[problem], file)
    })?;
    let (_, deploy) = split(&item);
    let Some(deploy) = deploy else {
        let message = format!("{shown}: there is no deployment in it");
        return Err(Failure::tool(UNEXPECTED, message)
            .hint(format!("`{KEY}` beside `apps` says where to: docs/deploy.md")));
    };
    let mut problems = Vec::new();
    let all = read(deploy, &absolute_directory(file), &mut problems);
    if !problems.is_empty() {
        return Err(problem::failure(&problems, file));
    }
    let names: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
    match all.into_iter().find(|(known, _)| known == name) {
        Some((_, found)) => Ok((found, absolute_directory(file))),
        None => Err(unknown(file, name, &names)),
    }
}

fn unknown(file: &Path, name: &str, names: &[String]) -> Failure {
    let like = nearest(name, names.iter().map(String::as_str));
    let like = like.map(|like| format!("; did you mean {like}?")).unwrap_or_default();
    let known = match names {
        [] => "there are none".to_owned(),
        names => format!("there are {}", names.join(", ")),
    };
    let name = name.escape_debug();
    Failure::tool(
        USAGE,
        format!("{}: no deployment is called `{name}`{like} ({known})", file.display()),
    )
    .hint("`phalanx deploy [FILE] ENV [COMMAND]`: ENV is a key below `deploy`")
}

fn absolute_directory(file: &Path) -> PathBuf {
    directory(&absolute_file(file))
}

/// A file's applications, without what is said of deployments, and that.
pub(super) fn split(item: &Item) -> (Option<Item>, Option<&Item>) {
    let Node::Table(entries) = &item.node else { return (None, None) };
    let Some((_, deploy)) = entries.iter().find(|(key, _)| key == KEY) else { return (None, None) };
    let others = entries.iter().filter(|(key, _)| key != KEY).cloned().collect();
    (Some(Item { node: Node::Table(others), line: item.line }), Some(deploy))
}

/// All deployments, by name, and what is wrong with them.
pub(super) fn read(
    item: &Item,
    directory: &Path,
    problems: &mut Vec<Problem>,
) -> Vec<(String, Deployment)> {
    let wrong = |key: String, item: &Item, what: &str| Problem {
        line: item.line,
        place: None,
        key: Some(key),
        words: format!("expected {what}, and this is {}", item.node.kind()),
    };
    let tables = match &item.node {
        Node::Table(tables) => tables,
        Node::Nothing => return Vec::new(),
        _ => {
            problems.push(wrong(KEY.to_owned(), item, "a table of deployments by name"));
            return Vec::new();
        }
    };
    let mut all = Vec::new();
    for (name, item) in tables {
        let place = format!("{KEY}.{}", name.escape_debug());
        match &item.node {
            Node::Table(entries) => {
                let mut reader = Reader { place, directory, problems: &mut *problems };
                all.push((name.clone(), reader.deployment(entries)));
            }
            Node::Nothing => {}
            _ => problems.push(wrong(place, item, "a deployment, which is a table")),
        }
    }
    all
}

struct Reader<'r> {
    place: String,
    directory: &'r Path,
    problems: &'r mut Vec<Problem>,
}

impl Reader<'_> {
    fn wrong(&mut self, key: &str, item: &Item, words: impl Into<String>) {
        self.problems.push(Problem {
            line: item.line,
            place: Some(self.place.clone()),
            key: Some(key.escape_debug().to_string()),
            words: words.into(),
        });
    }

    fn expected(&mut self, key: &str, item: &Item, what: &str) {
        self.wrong(key, item, format!("expected {what}, and this is {}", item.node.kind()));
    }

    fn deployment(&mut self, entries: &Entries) -> Deployment {
        let mut done = Deployment::default();
        let mut seen = BTreeSet::new();
        for (key, item) in entries {
            if !seen.insert(dashed(key)) {
                self.wrong(key, item, "it is there twice, in two spellings");
            }
            // What a script leaves undefined.
            if item.node != Node::Nothing {
                self.key(&mut done, key, item);
            }
        }
        done
    }

    fn key(&mut self, done: &mut Deployment, key: &str, item: &Item) {
        match dashed(key).as_str() {
            "user" => done.user = self.checked(key, item, destination),
            "host" => done.hosts = self.hosts(key, item),
            "port" => done.port = self.port(key, item),
            "ref" => done.reference = self.checked(key, item, reference),
            "repo" => done.repo = self.checked(key, item, reference),
            "path" => done.path = self.checked(key, item, place),
            "key" => {
                done.key = self.text(key, item).map(|text| local(self.directory, &text));
            }
            "ssh-options" => done.ssh_options = self.options(key, item),
            "forward-agent" => done.forward_agent = self.is_on(key, item),
            "needs-tty" => done.needs_tty = self.is_on(key, item),
            "env" => done.env = self.variables(key, item),
            "pre-setup" => done.pre_setup = self.commands(key, item),
            "post-setup" => done.post_setup = self.commands(key, item),
            "pre-deploy-local" => done.pre_deploy_local = self.commands(key, item),
            "pre-deploy" => done.pre_deploy = self.commands(key, item),
            "post-deploy" => done.post_deploy = self.commands(key, item),
            other => {
                let known = nearest(other, KEYS.iter().map(|(name, ..)| *name));
                let like = known.map(|like| format!("; did you mean {like}?")).unwrap_or_default();
                self.wrong(key, item, format!("there is no such key of a deployment{like}"));
            }
        }
    }

    fn text(&mut self, key: &str, item: &Item) -> Option<String> {
        match item.node.scalar() {
            Some(text) if !text.trim().is_empty() && !text.contains('\0') => Some(text.to_owned()),
            Some(_) => {
                self.wrong(key, item, "expected a text, and there is nothing in it");
                None
            }
            None => {
                self.expected(key, item, "a text");
                None
            }
        }
    }

    fn checked(
        &mut self,
        key: &str,
        item: &Item,
        check: fn(&str) -> Result<(), &'static str>,
    ) -> Option<String> {
        let text = self.text(key, item)?;
        match check(&text) {
            Ok(()) => Some(text),
            Err(why) => {
                self.wrong(key, item, format!("`{}` {why}", text.escape_debug()));
                None
            }
        }
    }

    /// A list of texts, or one.
    fn texts(&mut self, key: &str, item: &Item) -> Vec<String> {
        let Node::List(list) = &item.node else {
            return self.text(key, item).into_iter().collect();
        };
        list.iter().filter_map(|item| self.text(key, item)).collect()
    }

    fn hosts(&mut self, key: &str, item: &Item) -> Vec<String> {
        let mut hosts = self.texts(key, item);
        for host in &hosts {
            if let Err(why) = destination(host) {
                self.wrong(key, item, format!("`{}` {why}", host.escape_debug()));
            }
        }
        let mut seen = BTreeSet::new();
        hosts.retain(|host| seen.insert(host.clone()));
        hosts
    }

    fn port(&mut self, key: &str, item: &Item) -> Option<u16> {
        let text = item.node.scalar().unwrap_or_default();
        let port = text.trim().parse().ok().filter(|port| *port > 0);
        if port.is_none() {
            self.expected(key, item, "a port from 1 to 65535");
        }
        port
    }

    /// Each as it stands after `-o`; with that, for those who write it.
    fn options(&mut self, key: &str, item: &Item) -> Vec<String> {
        let mut options = Vec::new();
        for text in self.texts(key, item) {
            let option = text.trim();
            let option = option.strip_prefix("-o").map_or(option, str::trim_start);
            let name = option.split(['=', ' ']).next().unwrap_or_default();
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
            if !is_name || name.len() == option.len() {
                let words = format!(
                    "`{}` is no option of ssh_config(5), as in StrictHostKeyChecking=accept-new",
                    text.escape_debug()
                );
                self.wrong(key, item, words);
            }
            options.push(option.to_owned());
        }
        options
    }

    fn is_on(&mut self, key: &str, item: &Item) -> bool {
        match &item.node {
            Node::Bool(on) => *on,
            Node::Text(text) if matches!(text.as_str(), "yes" | "true") => true,
            Node::Text(text) if matches!(text.as_str(), "no" | "false") => false,
            _ => {
                self.expected(key, item, "true or false");
                false
            }
        }
    }

    fn variables(&mut self, key: &str, item: &Item) -> Vec<(String, String)> {
        let Node::Table(table) = &item.node else {
            self.expected(key, item, "a table of variables");
            return Vec::new();
        };
        let mut all = Vec::new();
        for (name, item) in table {
            let whole = format!("{key}.{name}");
            if !is_variable(name) {
                self.wrong(&whole, item, "a variable has letters, digits and `_` in its name");
                continue;
            }
            match &item.node {
                Node::Nothing => {}
                Node::Bool(on) => all.push((name.clone(), on.to_string())),
                node => match node.scalar().filter(|text| !text.contains('\0')) {
                    Some(text) => all.push((name.clone(), text.to_owned())),
                    None => self.expected(&whole, item, "a text"),
                },
            }
        }
        all
    }

    /// For a shell; of a list each only if those before did well. Nothing at all is no command.
    fn commands(&mut self, key: &str, item: &Item) -> Option<String> {
        if item.node.scalar().is_some_and(|text| text.trim().is_empty()) {
            return None;
        }
        match self.texts(key, item).as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            // A line of its own for each: one may end in a comment.
            all => Some(
                all.iter().map(|one| format!("{{ {one}\n}}")).collect::<Vec<_>>().join(" &&\n"),
            ),
        }
    }
}

/// ssh takes what begins with a dash for an option, and so could run anything.
fn destination(text: &str) -> Result<(), &'static str> {
    let dash = text.starts_with('-') || text.contains("@-");
    if dash {
        return Err("begins with a dash, which ssh takes for an option");
    }
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if text.contains(odd) { Err("has a blank in it") } else { Ok(()) }
}

/// What is given to git.
pub(crate) fn reference(text: &str) -> Result<(), &'static str> {
    if text.starts_with('-') {
        return Err("begins with a dash, which git takes for an option");
    }
    if text.contains(char::is_control) { Err("has a line break in it") } else { Ok(()) }
}

/// A directory there.
fn place(text: &str) -> Result<(), &'static str> {
    if text.starts_with('~') && text != "~" && !text.starts_with("~/") {
        return Err("is another user's home: write the whole path");
    }
    if text.trim_end_matches('/').is_empty() || matches!(text, "." | "~" | "~/") {
        return Err("is no place of its own: a directory below is needed");
    }
    if text.contains(char::is_control) { Err("has a line break in it") } else { Ok(()) }
}

/// A file here.
fn local(directory: &Path, text: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => absolute(directory, text),
    }
}
