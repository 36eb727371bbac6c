//! One application of a configuration file.

use super::keys::Keys;
use super::layers::{Declared, Entry, Layers};
use super::problem::Problem;
use super::tree::{Entries, Item, Node};
use super::values::{absolute, at_home};
use super::verify::{Given, verify};
use super::{AppConfig, dotenv, parse, values, variables, words};
use crate::home::{check_name, name_of};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What applications of one file have in common.
#[derive(Clone, Copy)]
pub(super) struct Context<'c> {
    pub(super) keys: &'c Keys,
    /// The file's.
    pub(super) directory: &'c Path,
    pub(super) environment: Option<&'c str>,
    /// What is left out is as with pm2.
    pub(super) as_pm2: bool,
}

/// What was found out about an application, whether or not it can be one.
#[derive(Default)]
pub(super) struct Found {
    pub(super) app: Option<AppConfig>,
    /// Also of what cannot be one.
    pub(super) name: Option<String>,
    pub(super) after: Vec<String>,
    /// Its options.
    given: Vec<String>,
    pub(super) environments: BTreeSet<String>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}

/// A value of the wrong kind, where there should be a table.
pub(super) fn no_table(node: &Node) -> String {
    format!("expected a table of variables, and this is {}", node.kind())
}

/// Reads an application; `place` is where it is in the file, `named` its name if that is outside of the table.
pub(super) fn read(
    entries: &Entries,
    place: &str,
    named: Option<&str>,
    context: &Context<'_>,
) -> Found {
    let mut found = read_in(entries, place, named, context, None);
    let is_other = |name: &&String| context.environment != Some(name.as_str());
    let others: Vec<String> = found.environments.iter().filter(is_other).cloned().collect();
    // They have to be right whichever is chosen.
    for name in others {
        let other = Context { environment: Some(&name), ..*context };
        for problem in read_in(entries, place, named, &other, Some(&found.given)).problems {
            let is_known = |known: &Problem| {
                (known.line, &known.key, &known.words)
                    == (problem.line, &problem.key, &problem.words)
            };
            if !found.problems.iter().any(is_known) {
                let place = problem.place.iter().cloned().chain([format!("environment {name}")]);
                let place = Some(place.collect::<Vec<_>>().join(", "));
                found.problems.push(Problem { place, ..problem });
            }
        }
    }
    found
}

/// In the environment of the context. If that is not the chosen one, the options are known that the chosen one has.
fn read_in(
    entries: &Entries,
    place: &str,
    named: Option<&str>,
    context: &Context<'_>,
    chosen: Option<&[String]>,
) -> Found {
    let (environment, is_alone) = (context.environment, place.is_empty());
    let layers = Layers::of(entries, environment, context.keys, context.as_pm2, is_alone);
    let mut reader = Reader { context, place: place.to_owned(), chosen, problems: Vec::new() };
    let name = reader.name(&layers, named);
    if let Some(name) = &name
        && named.is_none()
    {
        reader.place = match place {
            "" => name.clone(),
            place => format!("{place} ({name})"),
        };
    }
    for problem in &layers.problems {
        reader.problems.push(Problem { place: reader.place(), ..problem.clone() });
    }
    let mut found = Found { name: name.clone(), ..Found::default() };
    let app = reader.app(&layers, name, &mut found);
    found.environments = layers.environments;
    if !layers.idle.is_empty() {
        let keys = layers.idle.join(", ");
        let (verb, whose) = if layers.idle.len() == 1 { ("does", "is") } else { ("do", "are") };
        found
            .warnings
            .push(format!("{}: {keys} {whose} pm2's, and {verb} nothing here", reader.place));
    }
    for (first, second) in layers.doubles {
        let words = format!("{first} and {second} mean the same here: the first is taken");
        found.warnings.push(format!("{}: {words}", reader.place));
    }
    found.app = app.filter(|_| reader.problems.is_empty());
    found.problems = reader.problems;
    found
}

struct Reader<'c> {
    context: &'c Context<'c>,
    place: String,
    /// The options in the chosen environment, if this is another one.
    chosen: Option<&'c [String]>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn place(&self) -> Option<String> {
        Some(self.place.clone()).filter(|place| !place.is_empty())
    }

    fn wrong(&mut self, key: &str, line: Option<usize>, words: impl Into<String>) {
        let key = Some(key.to_owned()).filter(|key| !key.is_empty());
        self.problems.push(Problem { line, place: self.place(), key, words: words.into() });
    }

    fn text(&mut self, entry: Entry<'_>) -> Option<String> {
        match entry.item.node.scalar() {
            Some(text) if !text.contains('\0') => Some(text.to_owned()),
            Some(_) => self.none(entry, "it has a zero byte in it"),
            None => {
                self.none(entry, format!("expected a text, and this is {}", entry.item.node.kind()))
            }
        }
    }

    fn refuse(&mut self, entry: Entry<'_>, words: impl Into<String>) {
        self.wrong(entry.written, entry.item.line, words);
    }

    fn none<T>(&mut self, entry: Entry<'_>, words: impl Into<String>) -> Option<T> {
        self.refuse(entry, words);
        None
    }

    /// A list of texts, or one.
    fn texts(&mut self, entry: Entry<'_>) -> Vec<String> {
        let Node::List(list) = &entry.item.node else {
            return match entry.item.node {
                Node::Nothing => Vec::new(),
                _ => self.text(entry).into_iter().collect(),
            };
        };
        let mut texts = Vec::new();
        for item in list {
            match item.node.scalar().filter(|text| !text.contains('\0')) {
                Some(text) => texts.push(text.to_owned()),
                None => {
                    let line = item.line.or(entry.item.line);
                    self.wrong(
                        entry.written,
                        line,
                        format!("expected texts, and in the list is {}", item.node.kind()),
                    );
                }
            }
        }
        texts
    }

    fn is_on(&mut self, entry: Entry<'_>) -> bool {
        match entry.item.node {
            Node::Bool(on) => on,
            _ => {
                let words =
                    format!("expected true or false, and this is {}", entry.item.node.kind());
                self.refuse(entry, words);
                true
            }
        }
    }

    /// Its own, or one made of the script's.
    fn name(&mut self, layers: &Layers<'_>, named: Option<&str>) -> Option<String> {
        let own = layers.own.get("name").copied();
        let line = own.and_then(|entry| entry.item.line);
        let name = match (own.and_then(|entry| self.text(entry)), named) {
            (Some(name), Some(other)) if name != other => {
                self.wrong(
                    "name",
                    line,
                    format!("it is `{}`, and the table is called `{other}`", name.escape_debug()),
                );
                return None;
            }
            (Some(name), _) => name,
            (None, Some(name)) => name.to_owned(),
            (None, None) if own.is_some() => return None,
            (None, None) => {
                title(layers.own.get("script")?.item.node.scalar()?, self.context.directory)
            }
        };
        match check_name(&name) {
            Ok(()) => Some(name),
            Err(why) => {
                self.wrong(
                    "name",
                    line,
                    format!("`{}` cannot be an application's name: {why}", name.escape_debug()),
                );
                None
            }
        }
    }

    fn app(
        &mut self,
        layers: &Layers<'_>,
        name: Option<String>,
        found: &mut Found,
    ) -> Option<AppConfig> {
        let own = |name: &str| layers.own.get(name).copied();
        let cwd = own("cwd").and_then(|entry| self.text(entry)).unwrap_or_else(|| ".".into());
        let cwd = absolute(self.context.directory, at_home(&cwd));
        let (env, unset) = self.variables(layers);
        let mut pass_env = self.passed(layers);
        pass_env.extend(unset.into_iter().map(|name| format!("!{name}")));
        if let Some(mode) = own("exec_mode").and_then(|entry| Some((entry, self.text(entry)?)))
            && !matches!(mode.1.as_str(), "cluster" | "fork" | "cluster_mode" | "fork_mode")
        {
            self.refuse(mode.0, "expected cluster or fork; here they are the same");
        }
        let autostart = own("autostart").is_none_or(|entry| self.is_on(entry))
            && !own("no_autostart").is_some_and(|entry| self.is_on(entry));
        let namespace = own("namespace").and_then(|entry| self.namespace(entry));
        let after = own("after").map(|entry| self.texts(entry)).unwrap_or_default();
        let command = self.command(layers, &cwd);
        let given = self.options(layers);
        found.after.clone_from(&after);
        found.given = given.iter().flat_map(|given| given.words.iter().cloned()).collect();
        // What is missing keeps nothing else from being told.
        let stand_in = || "app".to_owned();
        let namespace = namespace.unwrap_or_else(|| "default".into());
        let argv = argv(
            &name.clone().unwrap_or_else(stand_in),
            &namespace,
            self.context,
            &given,
            command.clone().unwrap_or_else(|| vec![stand_in()]),
        );
        if self.chosen.is_none_or(|chosen| chosen != found.given) {
            for (key, line, words) in verify(&argv, &given) {
                self.wrong(&key.unwrap_or_default(), line, words);
            }
        }
        let name = name?;
        command?;
        Some(AppConfig { name, namespace, argv, cwd, env, pass_env, after, autostart })
    }

    /// Commands take it in place of a name.
    fn namespace(&mut self, entry: Entry<'_>) -> Option<String> {
        let text = self.text(entry)?;
        match check_name(&text) {
            Ok(()) => Some(text),
            Err(why) => {
                let text = text.escape_debug();
                self.none(entry, format!("`{text}` cannot be a namespace: {why}"))
            }
        }
    }

    /// In the order of the help, so that it is always the same.
    fn options(&mut self, layers: &Layers<'_>) -> Vec<Given> {
        let context = self.context;
        let mut all = Vec::new();
        for key in &context.keys.all {
            let Some((entry, negated)) = layers.options.get(&key.long) else { continue };
            match values::words(key, *negated, entry.item, context.keys, context.directory) {
                Ok(words) if words.is_empty() => {}
                Ok(words) => all.push(Given {
                    written: entry.written.to_owned(),
                    line: entry.item.line,
                    key: key.clone(),
                    words,
                }),
                Err(words) => self.refuse(*entry, words),
            }
        }
        // What is not watched needs no rules.
        let is_off = context.as_pm2 || layers.options.contains_key("watch");
        if is_off && !all.iter().any(|given| given.key.long == "watch") {
            all.retain(|given| {
                !["ignore-watch", "watch-delay", "ext"].contains(&given.key.long.as_str())
            });
        }
        all
    }

    /// The program and its arguments.
    fn command(&mut self, layers: &Layers<'_>, cwd: &Path) -> Option<Vec<String>> {
        let Some(entry) = layers.own.get("script").copied() else {
            // An environment that nobody chooses need not be a whole one.
            if self.chosen.is_some() {
                return None;
            }
            self.wrong(
                "script",
                None,
                "it is missing: the script, program or command line that is run",
            );
            return None;
        };
        let script = self.text(entry)?;
        let args = layers.own.get("args").copied();
        let mut rest = match args.map(|entry| (entry, &entry.item.node)) {
            Some((entry, Node::Text(text))) => match words::split(text) {
                Some(words) => words,
                None => return self.none(entry, "a quote is not closed"),
            },
            Some((entry, _)) => self.texts(entry),
            None => Vec::new(),
        };
        let is_inside = layers.options.contains_key("root");
        let place = |script: &str| match is_inside {
            true => script.to_owned(),
            false => placed(script, cwd, self.context.directory),
        };
        let is_line = script.contains(char::is_whitespace)
            && !places(&script, cwd, self.context.directory).iter().any(|place| place.exists());
        if is_line && words::needs_shell(&script) {
            if !rest.is_empty() {
                return self
                    .none(entry, "it is a command line for a shell: put the arguments into it");
            }
            return Some(vec!["sh".into(), "-c".into(), script]);
        }
        if !is_line {
            return Some([place(&script)].into_iter().chain(rest).collect());
        }
        let mut all = match words::split(&script) {
            Some(words) if !words.is_empty() => words,
            _ => return self.none(entry, "a quote is not closed"),
        };
        all.append(&mut rest);
        if let Some(program) = all.first_mut() {
            *program = place(program);
        }
        Some(all)
    }

    /// What is declared, and what is taken away.
    fn variables(&mut self, layers: &Layers<'_>) -> (BTreeMap<String, String>, BTreeSet<String>) {
        let (mut env, mut unset) = (BTreeMap::new(), BTreeSet::new());
        if let Some(port) = layers.own.get("port").and_then(|entry| entry.item.node.scalar()) {
            env.insert("PORT".to_owned(), port.trim().to_owned());
        }
        for declared in &layers.env {
            match *declared {
                // Another environment's may be on another machine.
                Declared::Files(_) if self.chosen.is_some() => {}
                Declared::Files(entry) => {
                    for file in self.texts(entry) {
                        for (name, value) in self.env_file(entry, &file) {
                            unset.remove(&name);
                            env.insert(name, value);
                        }
                    }
                }
                Declared::Table(entry) => self.table(entry, &mut env, &mut unset),
            }
        }
        (env, unset)
    }

    fn table(
        &mut self,
        entry: Entry<'_>,
        env: &mut BTreeMap<String, String>,
        unset: &mut BTreeSet<String>,
    ) {
        let table = match &entry.item.node {
            Node::Table(table) => table,
            Node::Nothing => return,
            node => return self.refuse(entry, no_table(node)),
        };
        for (name, item) in table {
            match variable(name, item) {
                Ok(Some(value)) => {
                    unset.remove(name);
                    env.insert(name.clone(), value);
                }
                Ok(None) => {
                    env.remove(name);
                    unset.insert(name.clone());
                }
                Err(words) => self.wrong(&format!("{}.{name}", entry.written), item.line, words),
            }
        }
    }

    fn env_file(&mut self, entry: Entry<'_>, file: &str) -> Vec<(String, String)> {
        let path = absolute(self.context.directory, at_home(file));
        parse::text(&path).and_then(|text| dotenv::parse(&text)).unwrap_or_else(|wrong| {
            let line = wrong.line.map(|line| format!(":{line}")).unwrap_or_default();
            let words = format!("{}{line}: {}", path.display(), wrong.words);
            self.none(entry, words).unwrap_or_default()
        })
    }

    /// The patterns of what is passed on.
    fn passed(&mut self, layers: &Layers<'_>) -> Vec<String> {
        let usual = || match self.context.as_pm2 {
            true => vec!["*".to_owned()],
            false => variables::PASSED.map(str::to_owned).to_vec(),
        };
        let mut all = match layers.own.get("pass_env").copied() {
            None => usual(),
            Some(entry) => match &entry.item.node {
                Node::Bool(true) => vec!["*".to_owned()],
                Node::Bool(false) | Node::Nothing => Vec::new(),
                Node::Text(text) => {
                    let words = text.split(|c: char| c == ',' || c.is_whitespace());
                    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
                }
                _ => self.texts(entry),
            },
        };
        // Nothing is passed on by what is only taken away.
        if all.iter().all(|pattern| pattern.starts_with('!')) && !all.is_empty() {
            all.extend(usual());
        }
        // pm2's: what names have in them that are not passed on.
        match layers.own.get("filter_env").copied() {
            Some(Entry { item: Item { node: Node::Bool(true), .. }, .. }) => {
                all = vec!["PATH".into(), "HOME".into()];
            }
            None | Some(Entry { item: Item { node: Node::Bool(false), .. }, .. }) => {}
            Some(entry) => all.extend(self.texts(entry).iter().map(|word| format!("!*{word}*"))),
        }
        if let Some(entry) = layers.own.get("pass_env").copied() {
            for why in all.iter().filter_map(|pattern| variables::check_pattern(pattern).err()) {
                self.refuse(entry, why);
            }
        }
        all
    }
}

/// The text of a variable, or nothing if it is taken away.
fn variable(name: &str, item: &Item) -> Result<Option<String>, String> {
    variables::check_name(name)?;
    match &item.node {
        Node::Nothing => Ok(None),
        Node::Bool(on) => Ok(Some(on.to_string())),
        Node::Number(text) | Node::Text(text) if !text.contains('\0') => Ok(Some(text.clone())),
        Node::Number(_) | Node::Text(_) => Err("it has a zero byte in it".into()),
        node => {
            Err(format!("expected a text, a number, true or false, and this is {}", node.kind()))
        }
    }
}

/// The command line for `phalanx run`.
fn argv(
    name: &str,
    namespace: &str,
    context: &Context<'_>,
    given: &[Given],
    command: Vec<String>,
) -> Vec<String> {
    let mut argv = vec!["--name".to_owned(), name.to_owned()];
    if namespace != "default" {
        argv.push(format!("--namespace={namespace}"));
    }
    let counts = ["instances", "min", "max"];
    if context.as_pm2 && !given.iter().any(|given| counts.contains(&given.key.long.as_str())) {
        argv.extend(["--instances".to_owned(), "1".to_owned()]);
    }
    argv.extend(given.iter().flat_map(|given| given.words.iter().cloned()));
    // An option that may have a value ends with the next one.
    let mut command = command.into_iter();
    let Some(program) = command.next() else { return argv };
    let rest: Vec<String> = command.collect();
    if program.starts_with('-') {
        argv.push("--".into());
        argv.push(program);
    } else {
        argv.push(program);
        if !rest.is_empty() {
            argv.push("--".into());
        }
    }
    argv.extend(rest);
    argv
}

/// A name from a script: its own without directory and extension.
fn title(script: &str, directory: &Path) -> String {
    let word = script.split_whitespace().next().unwrap_or(script);
    let path = absolute(directory, word);
    let path = if word.trim_matches(['.', '/']).is_empty() { directory } else { &path };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    name_of(&stem)
}

/// A script beside what is said about it; a bare name that is no file there is looked for in $PATH.
fn placed(script: &str, cwd: &Path, directory: &Path) -> String {
    let is_there = |path: &Path| match script.contains('/') {
        true => path.exists(),
        false => path.is_file() || path.join("package.json").is_file(),
    };
    let places = places(script, cwd, directory);
    if let Some(place) = places.iter().find(|place| is_there(place)) {
        return place.display().to_string();
    }
    match places {
        [place, _] if script.contains('/') => place.display().to_string(),
        _ => script.to_owned(),
    }
}

/// Where a script is looked for.
fn places(script: &str, cwd: &Path, directory: &Path) -> [PathBuf; 2] {
    let script = at_home(script);
    [absolute(cwd, &script), absolute(directory, &script)]
}
