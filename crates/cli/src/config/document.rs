//! The shape of a configuration file: where its applications are, in which order they start, and which are meant.

use super::app::{self, Context};
use super::keys::{Keys, dashed};
use super::layers::is_aside;
use super::order::order;
use super::problem::Problem;
use super::tree::{Entries, Item, Node};
use super::{AppConfig, Loaded, deploy, parse, pm2};
use crate::ui::words::nearest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// More are no file that people write.
const MOST: usize = 500;

/// What was found out about a file.
#[derive(Debug, Default)]
pub(super) struct Examined {
    /// In start order; only those that can be.
    pub(super) apps: Vec<AppConfig>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// All names that the file has, whether or not they are meant.
    pub(super) names: Vec<String>,
}

impl Examined {
    pub(super) fn loaded(self, file: &Path, environment: Option<&str>) -> Loaded {
        Loaded {
            file: absolute_file(file),
            environment: environment.map(str::to_owned),
            apps: self.apps,
            warnings: self.warnings,
        }
    }

    fn wrong(problem: Problem) -> Self {
        Self { problems: vec![problem], ..Self::default() }
    }
}

/// One application's table, and where it is.
struct Part<'e> {
    place: String,
    named: Option<&'e str>,
    entries: &'e Entries,
    line: Option<usize>,
}

/// Reads a file, and everything that is wrong with it.
pub(super) fn examine(file: &Path, environment: Option<&str>) -> Examined {
    let Some(format) = parse::format(file) else {
        let known = "phalanx.toml, .yaml, .yml, .json, .json5, or …config.js, .cjs, .mjs";
        return Examined::wrong(Problem::new(format!(
            "this is no configuration file by its name: {known}"
        )));
    };
    match parse::read(file, format) {
        Ok(item) => examine_item(&item, file, environment),
        Err(wrong) => {
            Examined::wrong(Problem { line: wrong.line, words: wrong.words, ..Problem::default() })
        }
    }
}

/// What a file says.
pub(super) fn examine_item(item: &Item, file: &Path, environment: Option<&str>) -> Examined {
    let mut done = Examined::default();
    let directory = directory(file);
    let (others, deployments) = deploy::split(item);
    if let Some(deployments) = deployments {
        deploy::read(deployments, &directory, &mut done.problems);
    }
    let item = others.as_ref().unwrap_or(item);
    let parts = match parts(item, &mut done) {
        Ok(parts) if parts.len() > MOST => {
            return Examined::wrong(Problem::new(format!(
                "there are more than {MOST} applications"
            )));
        }
        Ok(parts) => parts,
        Err(problem) => return Examined::wrong(problem),
    };
    let keys = Keys::find_all();
    let context =
        Context { keys: &keys, directory: &directory, environment, as_pm2: pm2::is_its_file(file) };
    let mut known = BTreeSet::new();
    let mut drafts = Vec::new();
    for part in &parts {
        let mut found = app::read(part.entries, &part.place, part.named, &context);
        known.append(&mut found.environments);
        for problem in &mut found.problems {
            problem.line = problem.line.or(part.line);
        }
        done.problems.append(&mut found.problems);
        done.warnings.append(&mut found.warnings);
        drafts.push(Draft {
            name: found.name,
            after: found.after,
            app: found.app,
            line: part.line,
        });
    }
    done.names = drafts.iter().filter_map(|draft| draft.name.clone()).collect();
    done.problems.extend(twice(&drafts));
    if let Some(name) = environment
        && !known.contains(name)
    {
        let words = no_environment(name, &known);
        // Where there are some, it is a slip of the pen, which would take the others' settings away.
        match known.is_empty() {
            true => done.warnings.push(words),
            false => done.problems.push(Problem { line: None, place: None, key: None, words }),
        }
    }
    in_order(drafts, &mut done);
    done
}

/// What is known of an application, whether or not it can be one.
struct Draft {
    name: Option<String>,
    after: Vec<String>,
    app: Option<AppConfig>,
    line: Option<usize>,
}

fn in_order(drafts: Vec<Draft>, done: &mut Examined) {
    let named: Vec<(&str, &Draft)> =
        drafts.iter().filter_map(|draft| Some((draft.name.as_deref()?, draft))).collect();
    // One whose name is wrong may be the one that others wait for.
    let is_complete = named.len() == drafts.len();
    let after: Vec<(&str, &[String])> =
        named.iter().map(|(name, draft)| (*name, draft.after.as_slice())).collect();
    match order(&after, is_complete) {
        Ok(order) if done.problems.is_empty() => {
            let app = |at: &usize| named.get(*at)?.1.app.clone();
            done.apps = order.iter().filter_map(app).collect();
            return;
        }
        Ok(_) => {}
        Err(wrong) => done.problems.extend(wrong.into_iter().map(|(at, words)| Problem {
            line: named.get(at).and_then(|(_, draft)| draft.line),
            place: named.get(at).map(|(name, _)| (*name).to_owned()),
            key: Some("after".into()),
            words,
        })),
    }
    done.apps = drafts.into_iter().filter_map(|draft| draft.app).collect();
}

/// Only those of these names.
pub(super) fn select(done: &mut Examined, only: &[String]) -> Result<(), String> {
    for name in only {
        if !done.names.contains(name) {
            let like = nearest(name, done.names.iter().map(String::as_str));
            let like = like.map(|like| format!("; did you mean {like}?")).unwrap_or_default();
            let (name, known) = (name.escape_debug(), done.names.join(", "));
            return Err(format!("no application is called `{name}`{like} (there are {known})"));
        }
    }
    if !only.is_empty() {
        done.apps.retain(|app| only.contains(&app.name));
    }
    Ok(())
}

/// By its name from the root.
pub(super) fn absolute_file(file: &Path) -> PathBuf {
    super::values::absolute(&crate::intent::here().unwrap_or_default(), file)
}

/// The directory of a file, with the links in its name as they are.
pub(super) fn directory(file: &Path) -> PathBuf {
    absolute_file(file).parent().map(Path::to_path_buf).unwrap_or_default()
}

fn no_environment(name: &str, known: &BTreeSet<String>) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    match known.as_slice() {
        [] => format!("no application knows the environment `{name}`: there are none"),
        known => {
            format!("no application knows the environment `{name}`: there are {}", known.join(", "))
        }
    }
}

fn twice(drafts: &[Draft]) -> Vec<Problem> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut problems = Vec::new();
    for (at, draft) in drafts.iter().enumerate() {
        let Some(name) = &draft.name else { continue };
        if let Some(first) = seen.insert(name, at) {
            let words =
                format!("two applications are called {name} (number {} and {})", first + 1, at + 1);
            problems.push(Problem { line: draft.line, ..Problem::new(words) });
        }
    }
    problems
}

/// Where applications are in it.
fn parts<'e>(item: &'e Item, done: &mut Examined) -> Result<Vec<Part<'e>>, Problem> {
    let none = || Problem::new("there is no application in it");
    match &item.node {
        Node::List(list) => Ok(of_list(list, "", done)),
        Node::Table(entries) => {
            let is_list = |key: &str| matches!(key, "apps" | "pm2");
            let Some((key, apps)) = entries.iter().find(|(key, _)| is_list(key)) else {
                return match entries.iter().any(|(key, _)| key != "$schema" && !is_aside(key)) {
                    true => Ok(vec![Part { place: String::new(), named: None, entries, line: None }]),
                    false => Err(none()),
                };
            };
            let is_other = |other: &str| other != key && !is_aside(other);
            for (other, item) in entries.iter().filter(|(other, _)| is_other(other)) {
                beside(other, item, done);
            }
            match &apps.node {
                Node::List(list) => Ok(of_list(list, key, done)),
                Node::Table(tables) => Ok(of_tables(tables, key, done)),
                node => Err(Problem {
                    line: apps.line,
                    key: Some(key.clone()),
                    ..Problem::new(format!("expected a list of applications, or a table of them by name, and this is {}", node.kind()))
                }),
            }
        }
        Node::Nothing => Err(none()),
        node => Err(Problem::new(format!("expected tables and keys, and this is {}", node.kind()))),
    }
    .and_then(|parts: Vec<Part<'e>>| match parts.is_empty() && done.problems.is_empty() {
        true => Err(none()),
        false => Ok(parts),
    })
}

fn of_list<'e>(list: &'e [Item], key: &str, done: &mut Examined) -> Vec<Part<'e>> {
    let key = if key.is_empty() { "apps" } else { key };
    let part = |(at, item): (usize, &'e Item)| match &item.node {
        Node::Table(entries) => {
            Some(Part { place: format!("{key}[{at}]"), named: None, entries, line: item.line })
        }
        node => {
            let words = format!("expected an application, and this is {}", node.kind());
            let key = Some(format!("{key}[{at}]"));
            done.problems.push(Problem { line: item.line, key, ..Problem::new(words) });
            None
        }
    };
    list.iter().enumerate().filter_map(part).collect()
}

fn of_tables<'e>(tables: &'e Entries, key: &str, done: &mut Examined) -> Vec<Part<'e>> {
    let part = |(name, item): &'e (String, Item)| match &item.node {
        Node::Table(entries) => Some(Part {
            place: format!("{key}.{name}"),
            named: Some(name),
            entries,
            line: item.line,
        }),
        node => {
            let words = format!(
                "expected an application, and this is {}; one alone is [[apps]] or [apps.NAME]",
                node.kind()
            );
            let key = Some(format!("{key}.{name}"));
            done.problems.push(Problem { line: item.line, key, ..Problem::new(words) });
            None
        }
    };
    tables.iter().filter_map(part).collect()
}

/// What is in a file beside its applications.
fn beside(key: &str, item: &Item, done: &mut Examined) {
    let words = match dashed(key).as_str() {
        "$schema" => return,
        "static" => {
            "pm2's; files are served by a server of your own, which phalanx runs".to_owned()
        }
        other => {
            let known = nearest(other, ["apps", deploy::KEY, "$schema"]);
            let like = known.map(|like| format!("; did you mean {like}?")).unwrap_or_default();
            format!("there is no such key beside apps{like}")
        }
    };
    done.problems.push(Problem { line: item.line, key: Some(key.to_owned()), words, place: None });
}
