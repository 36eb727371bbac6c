//! What is written about the keys is current: the schema, the table, the example.

use super::super::init;
use super::super::keys::{Key, Keys, Kind, OWN, command, snake};
use super::super::parse::Format;
use super::super::schema;
use super::examined;
use clap::Arg;
use std::fs;
use std::path::{Path, PathBuf};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// With BLESS=1 it is written anew instead.
fn is_current(path: &str, wanted: &str) {
    let path = root(path);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, wanted).expect("written");
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    let differs = text.lines().zip(wanted.lines()).find(|(old, new)| old != new);
    assert!(text == wanted, "{} is not current (BLESS=1 writes it): {differs:?}", path.display());
}

#[test]
fn the_schema_is_current() {
    is_current("docs/phalanx.schema.json", &schema::text());
}

const BEGIN: &str = "<!-- keys: made by a test; BLESS=1 writes them -->\n";
const END: &str = "<!-- end of keys -->\n";

#[test]
fn the_table_of_keys_is_current() {
    let page = fs::read_to_string(root("docs/configuration.md")).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the place of the table");
    let (_, after) = rest.split_once(END).expect("its end");
    is_current("docs/configuration.md", &format!("{before}{BEGIN}\n{}\n{END}{after}", table()));
}

fn table() -> String {
    let keys = Keys::find_all();
    let command = command();
    let heading = |key: &Key| {
        let arg = command.get_arguments().find(|arg| arg.get_id() == key.id.as_str());
        arg.and_then(Arg::get_help_heading).unwrap_or("Options")
    };
    let mut headings: Vec<&str> = Vec::new();
    for heading in keys.all.iter().map(heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut text = String::new();
    for name in headings {
        text.push_str(&format!("### {name}\n\n| key | value | default | |\n|---|---|---|---|\n"));
        for key in keys.all.iter().filter(|key| heading(key) == name) {
            text.push_str(&row(key));
        }
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

fn row(key: &Key) -> String {
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    let mut names = code(&key.snake());
    for alias in &key.aliases {
        names.push_str(&format!(", {}", code(&snake(alias))));
    }
    if let Some(positive) = key.long.strip_prefix("no-").filter(|_| key.kind == Kind::Flag) {
        names.push_str(&format!(", or {}", code(&format!("{} = false", snake(positive)))));
    }
    let value = match key.kind {
        Kind::Flag => "true or false".to_owned(),
        Kind::Optional if key.commas => format!("{}; a list, or true", code(&key.value)),
        Kind::Optional => format!("{}, or true", code(&key.value)),
        Kind::Value if key.commas || key.repeats => format!("{}; a list", code(&key.value)),
        Kind::Value => code(&key.value),
    };
    let default = key.default.as_deref().map(code).unwrap_or_default();
    let help = key.help.replace('|', "\\|").replace('<', "\\<");
    format!("| {names} | {value} | {default} | {help} |\n")
}

#[test]
fn all_own_keys_are_on_the_page() {
    let page = fs::read_to_string(root("docs/configuration.md")).expect("the page");
    for (name, aliases, _) in OWN {
        for name in aliases.iter().chain([&name]) {
            assert!(page.contains(&format!("`{name}`")), "`{name}` is not on the page");
        }
    }
}

#[test]
fn what_init_writes_can_be_loaded() {
    for (format, extension, file) in [
        (Format::Toml, "toml", "/srv/phalanx.toml"),
        (Format::Yaml, "yml", "/srv/phalanx.yml"),
        (Format::Json, "json", "/srv/phalanx.json"),
        (Format::Json, "json5", "/srv/phalanx.json5"),
    ] {
        let text = init::text(format, extension, "my-app", "npm start");
        for (environment, node_env) in [(None, "development"), (Some("production"), "production")] {
            let done = examined(&text, file, environment);
            assert_eq!((done.problems, done.warnings), (vec![], vec![]), "{text}");
            let app = done.apps.first().expect("one");
            assert_eq!(app.name, "my-app", "{file}");
            assert!(
                app.argv.ends_with(&["npm".into(), "--".into(), "start".into()]),
                "{:?}",
                app.argv
            );
            assert_eq!(app.env.get("NODE_ENV").map(String::as_str), Some(node_env), "{file}");
        }
    }
    let script = init::text(Format::Script, "js", "a", "b.js");
    assert!(
        script.contains("module.exports = {") && script.contains("script: \"b.js\""),
        "{script}"
    );
}

/// What is commented out in the example is right as well.
#[test]
fn the_example_is_right_in_all_of_its_lines() {
    let text = fs::read_to_string(root("examples/phalanx.toml")).expect("the example");
    let is_key = |line: &str| {
        let key = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            || line.starts_with("[[")
    };
    let open: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line))
        .filter(|line| !line.starts_with("env_file"))
        .collect();
    let done = examined(&open.join("\n"), "/srv/phalanx.toml", Some("production"));
    assert_eq!((done.problems, done.warnings), (vec![], vec![]), "{}", open.join("\n"));
    assert_eq!(done.names, ["shop", "worker"]);
    let shop = done.apps.first().expect("shop");
    for option in ["--grace", "--health-path", "--canary=30s", "--rollback", "--max-memory"] {
        assert!(shop.argv.iter().any(|word| word == option), "{option}: {:?}", shop.argv);
    }
    let passed: Vec<&str> = shop.pass_env.iter().map(String::as_str).collect();
    assert_eq!(passed, super::super::variables::PASSED, "the list in the example is the usual one");
}
