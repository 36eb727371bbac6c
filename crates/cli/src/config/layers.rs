//! The keys of one application: what each means, and what an environment puts in their place.

use super::keys::{self, Found, Keys, dashed};
use super::pm2::{self, Fate};
use super::problem::Problem;
use super::tree::{Entries, Item, Node};
use std::collections::{BTreeMap, BTreeSet};

/// What a key means.
#[derive(Debug)]
enum Meaning<'k> {
    /// One of those that are no options, by its first name.
    Own(&'static str),
    Option(Found<'k>),
    /// `env_NAME`.
    EnvOf(String),
    /// pm2's, and nothing here.
    Idle,
    Wrong(String),
}

/// A key as it is written, and what it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'e> {
    pub(super) written: &'e str,
    pub(super) item: &'e Item,
}

/// What an application says in the chosen environment.
#[derive(Debug, Default)]
pub(super) struct Layers<'e> {
    pub(super) own: BTreeMap<&'static str, Entry<'e>>,
    /// By the option's name; and whether the key is its opposite.
    pub(super) options: BTreeMap<String, (Entry<'e>, bool)>,
    /// What declares variables, the last one wins.
    pub(super) env: Vec<Declared<'e>>,
    /// The environments that it knows.
    pub(super) environments: BTreeSet<String>,
    pub(super) idle: Vec<&'e str>,
    /// Two keys that mean the same, in a file of pm2's, where they do not.
    pub(super) doubles: Vec<(&'e str, &'e str)>,
    as_pm2: bool,
    /// It is all of its file.
    alone: bool,
    pub(super) problems: Vec<Problem>,
}

/// Something that declares variables.
#[derive(Clone, Copy, Debug)]
pub(super) enum Declared<'e> {
    Files(Entry<'e>),
    Table(Entry<'e>),
}

impl<'e> Layers<'e> {
    /// Of an application's table.
    pub(super) fn of(
        entries: &'e Entries,
        environment: Option<&str>,
        keys: &Keys,
        as_pm2: bool,
        alone: bool,
    ) -> Self {
        let mut layers = Self { as_pm2, alone, ..Self::default() };
        layers.add(entries, environment, keys, false);
        let chosen = layers.own.remove("environments");
        if let Some(chosen) = chosen {
            layers.choose(chosen, environment, keys);
        }
        layers
    }

    fn wrong(&mut self, written: &str, item: &Item, words: impl Into<String>) {
        let key = Some(written.to_owned());
        self.problems.push(Problem { line: item.line, key, words: words.into(), place: None });
    }

    /// A table of tables, by environment.
    fn choose(&mut self, all: Entry<'e>, environment: Option<&str>, keys: &Keys) {
        let Node::Table(tables) = &all.item.node else {
            let words = format!(
                "expected a table for each environment, and this is {}",
                all.item.node.kind()
            );
            return self.wrong(all.written, all.item, words);
        };
        for (name, item) in tables {
            self.environments.insert(name.clone());
            let Node::Table(entries) = &item.node else {
                let words = format!("expected a table of keys, and this is {}", item.node.kind());
                self.wrong(&format!("{}.{name}", all.written), item, words);
                continue;
            };
            if environment == Some(name) {
                // Even if there is none: what it says is more than what was said before.
                self.add(entries, None, keys, true);
            } else {
                // It has to be right whichever is chosen.
                let mut other = Self::default();
                other.add(entries, None, keys, true);
                self.problems.append(&mut other.problems);
            }
        }
    }

    fn add(&mut self, entries: &'e Entries, environment: Option<&str>, keys: &Keys, inside: bool) {
        let mut seen: BTreeMap<String, &'e str> = BTreeMap::new();
        let mut files = Vec::new();
        let mut tables = Vec::new();
        let mut chosen = Vec::new();
        // A file of one application may name its schema, and have what is nobody's.
        let is_its = |key: &str| key != "$schema" && (inside || !self.alone || !is_aside(key));
        let its: Vec<_> = entries.iter().filter(|(key, _)| is_its(key)).collect();
        for (written, item) in its {
            let entry = Entry { written, item };
            let meaning = meaning(written, item, keys);
            let name = match &meaning {
                Meaning::Own(name) => (*name).to_owned(),
                Meaning::Option(found) => found.key.long.clone(),
                _ => written.clone(),
            };
            let is_unset = is_unset(&item.node);
            if is_unset && matches!(meaning, Meaning::Own(_) | Meaning::Option(_)) {
                if !seen.contains_key(&name) {
                    self.unset(&meaning);
                }
                continue;
            }
            if let Some(other) = seen.insert(name, written) {
                if self.as_pm2 {
                    self.doubles.push((other, written));
                    continue;
                }
                self.wrong(
                    written,
                    item,
                    format!("it means the same as `{other}`, which is there too"),
                );
                continue;
            }
            match meaning {
                Meaning::Own("environments" | "name") | Meaning::EnvOf(_) if inside => {
                    self.wrong(written, item, "it cannot be in an environment");
                }
                Meaning::Own("env") => tables.push(Declared::Table(entry)),
                Meaning::Own("env_file") => files.push(Declared::Files(entry)),
                Meaning::Own(name) => {
                    self.own.insert(name, entry);
                }
                Meaning::Option(found) => {
                    self.options.insert(found.key.long.clone(), (entry, found.negated));
                }
                Meaning::EnvOf(name) => {
                    if is_unset {
                        // It is known all the same.
                    } else if environment == Some(&name) {
                        chosen.push(Declared::Table(entry));
                    } else if !matches!(item.node, Node::Table(_)) {
                        self.wrong(written, item, super::app::no_table(&item.node));
                    }
                    self.environments.insert(name);
                }
                Meaning::Idle if !is_unset && pm2::is_told(&dashed(written), &item.node) => {
                    self.idle.push(written);
                }
                Meaning::Idle => {}
                Meaning::Wrong(words) => self.wrong(written, item, words),
            }
        }
        self.env.extend(files.into_iter().chain(tables).chain(chosen));
    }

    /// Takes back what was said before, outside of the environment.
    fn unset(&mut self, meaning: &Meaning<'_>) {
        match meaning {
            Meaning::Own(name) => drop(self.own.remove(name)),
            Meaning::Option(found) => {
                self.options.remove(&found.key.long);
                if found.key.long == "port" {
                    self.own.remove("port");
                }
            }
            Meaning::EnvOf(_) | Meaning::Idle | Meaning::Wrong(_) => {}
        }
    }
}

/// Whether a key says nothing: `null`, or an empty text, as `process.env.X || ''` makes it.
fn is_unset(node: &Node) -> bool {
    match node {
        Node::Nothing => true,
        Node::Text(text) => text.trim().is_empty(),
        _ => false,
    }
}

/// Whether a key at the top of a file is for whoever wrote it: anchors of YAML have their place there.
pub(super) fn is_aside(key: &str) -> bool {
    key.starts_with("x-") || key.starts_with('.')
}

/// pm2's, which means nothing here, but has to be right.
const UNTOLD: [&str; 1] = ["exec_mode"];

fn meaning<'k>(written: &str, item: &Item, keys: &'k Keys) -> Meaning<'k> {
    let name = dashed(written);
    let own = |(own, aliases, _): &(&'static str, &[&str], &str)| {
        let is = dashed(own) == name || aliases.contains(&name.as_str());
        (is && *own != "env_NAME").then_some(*own)
    };
    let untold = UNTOLD.iter().copied().find(|own| dashed(own) == name);
    if let Some(own) = keys::OWN.iter().find_map(own).or(untold) {
        return Meaning::Own(own);
    }
    // Of the port that a program reads from PORT, and not of those that are shared.
    if name == "port" && is_port(&item.node) {
        return Meaning::Own("port");
    }
    let option = || keys.find(&name).or_else(|| pm2::same(&name).find_map(|name| keys.find(name)));
    if name == "autostart" || name == "no-autostart" {
        return Meaning::Own(if name == "autostart" { "autostart" } else { "no_autostart" });
    }
    if let Some(found) = option() {
        return Meaning::Option(found);
    }
    match pm2::fate(&name) {
        Some(Fate::Refused(instead)) => return Meaning::Wrong(instead.to_owned()),
        Some(Fate::Idle) => return Meaning::Idle,
        None => {}
    }
    if let Some(environment) = written.strip_prefix("env_").filter(|name| !name.is_empty()) {
        return Meaning::EnvOf(environment.to_owned());
    }
    Meaning::Wrong(unknown(&name, keys))
}

/// A port as a plain number, which may be a text.
fn is_port(node: &Node) -> bool {
    node.scalar().is_some_and(|text| text.trim().parse::<u16>().is_ok())
}

fn unknown(name: &str, keys: &Keys) -> String {
    let own = keys::OWN.iter().filter(|(own, ..)| *own != "env_NAME");
    let own = own.flat_map(|(own, aliases, _)| aliases.iter().copied().chain([*own]));
    let own: Vec<String> = own.chain(["autostart"]).map(dashed).collect();
    let options = keys.all.iter();
    let options = options.flat_map(|key| key.aliases.iter().chain([&key.long]).map(String::as_str));
    let negated = keys.all.iter().filter_map(|key| key.long.strip_prefix("no-"));
    let known = own.iter().map(String::as_str).chain(options).chain(negated);
    let known: Vec<&str> = known.collect();
    // Of `instances_production` the beginning is a key, which is not all that is meant.
    let like = crate::ui::words::nearest(name, known.iter().copied());
    if let Some(like) = like.filter(|like| like.len() + 3 >= name.len()) {
        return format!("there is no such key; did you mean {}?", keys::snake(like));
    }
    // `instances_production`
    let mut halves =
        name.match_indices('-').filter_map(|(at, _)| Some((name.get(..at)?, name.get(at + 1..)?)));
    match halves.rfind(|(key, _)| known.contains(key)) {
        Some((key, environment)) => format!(
            "there is no such key; what {} is in an environment is said in environments.{environment}",
            keys::snake(key)
        ),
        None => "there is no such key; `phalanx check --schema` has them all".into(),
    }
}
