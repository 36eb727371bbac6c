//! `phalanx init`: an annotated configuration file to begin with.

use super::parse::{Format, format};
use crate::args::Init;
use crate::failure::{Failure, UNEXPECTED, USAGE};
use crate::home::name_of;
use crate::{intent, show};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// What is written, but for the name and the script.
const TOML: &str = include_str!("../../../../examples/phalanx.toml");
/// The name and the script in it.
const NAME: &str = "\"shop\"";
const SCRIPT: &str = "\"server.js\"";

/// What programs are called, if nothing else tells.
const SCRIPTS: [&str; 17] = [
    "server.js",
    "app.js",
    "index.js",
    "main.js",
    "server.mjs",
    "app.mjs",
    "index.mjs",
    "server.ts",
    "index.ts",
    "dist/server.js",
    "dist/main.js",
    "dist/index.js",
    "app.py",
    "main.py",
    "server.py",
    "app.rb",
    "config.ru",
];

pub(crate) fn init(options: &Init) -> Result<(), Failure> {
    let file = &options.file;
    // pm2's habit: `init simple`.
    let Some(language) = format(file) else {
        let message = format!("{} is no configuration file by its name", file.display());
        return Err(Failure::tool(USAGE, message)
            .hint("it ends in .toml, .yaml, .yml, .json, .json5, or .config.js, .mjs, .cjs"));
    };
    let directory = file.parent().unwrap_or(Path::new(""));
    let guessed = guess(directory);
    let here = intent::here()?.join(directory);
    let title =
        here.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name =
        Some(name_of(&title)).filter(|name| !name.is_empty()).unwrap_or_else(|| "app".into());
    let script = guessed.clone().unwrap_or_else(|| "server.js".into());
    let extension = file.extension().and_then(|end| end.to_str()).unwrap_or_default();
    let text = text(language, extension, &name, &script);
    write(file, &text, options.force)?;
    let about = match guessed {
        Some(script) => format!("it runs {script}"),
        None => "write in it what `script` is: nothing here tells".to_owned(),
    };
    let shown = file.display();
    show::print(&format!("{shown} is written: {about}\n"));
    show::say(&format!("`phalanx check {shown}` checks it, `phalanx start {shown}` starts it"));
    Ok(())
}

fn write(file: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut open = OpenOptions::new();
    let open = open.write(true).create(true).truncate(force).create_new(!force);
    match open.open(file).and_then(|mut file| file.write_all(text.as_bytes())) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!("{} is there already; nothing was changed", file.display());
            Err(Failure::tool(UNEXPECTED, message).hint("--force overwrites it"))
        }
        done => done.map_err(Failure::os(format_args!("write {}", file.display()))),
    }
}

/// What is to be run here, as far as the directory tells.
fn guess(directory: &Path) -> Option<String> {
    let package = fs::read(directory.join("package.json")).ok();
    let package: Option<Value> = package.and_then(|text| serde_json::from_slice(&text).ok());
    let text = |pointer: &str| package.as_ref()?.pointer(pointer)?.as_str().map(str::to_owned);
    let is_there = |script: &String| directory.join(script).is_file();
    if let Some(script) = text("/main").filter(is_there) {
        return Some(script);
    }
    if text("/scripts/start").is_some() {
        return Some("npm start".into());
    }
    SCRIPTS.iter().map(|name| (*name).to_owned()).find(is_there)
}

/// The file in a language. TOML has all of the annotations, the others those that they can.
pub(super) fn text(language: Format, extension: &str, name: &str, script: &str) -> String {
    let quote = |text: &str| Value::from(text).to_string();
    let (name, script) = (quote(name), quote(script));
    match (language, extension) {
        (Format::Toml, _) => TOML.replacen(NAME, &name, 1).replacen(SCRIPT, &script, 1),
        (Format::Yaml, _) => format!(
            "# Applications of phalanx. Every option of `phalanx run` is a key, and `phalanx check` checks this file.\n\
             apps:\n  - name: {name}\n    script: {script}\n    # instances: max            # one worker per core, as without it\n    \
             # max_memory: 300M          # a worker that has more is replaced, without losing a request\n    \
             # pass_env: [PATH, HOME]    # what is passed on of the shell's variables\n    env:\n      NODE_ENV: development\n    \
             environments:\n      production:                # phalanx start FILE --env production\n        instances: max\n        env:\n          NODE_ENV: production\n"
        ),
        // No comments in what others may parse strictly.
        (Format::Json, "json") => format!(
            "{{\n  \"apps\": [\n    {{\n      \"name\": {name},\n      \"script\": {script},\n      \"env\": {{ \"NODE_ENV\": \"development\" }},\n      \
             \"environments\": {{\n        \"production\": {{ \"instances\": \"max\", \"env\": {{ \"NODE_ENV\": \"production\" }} }}\n      }}\n    }}\n  ]\n}}\n"
        ),
        (Format::Json, _) => format!("{HEAD}{}\n", body(&name, &script)),
        (Format::Script, "mjs" | "mts" | "ts") => {
            format!("{HEAD}export default {};\n", body(&name, &script))
        }
        (Format::Script, _) => format!("{HEAD}module.exports = {};\n", body(&name, &script)),
    }
}

const HEAD: &str = "// Applications of phalanx. Every option of `phalanx run` is a key, and `phalanx check` checks this file.\n";

fn body(name: &str, script: &str) -> String {
    format!(
        "{{\n  apps: [\n    {{\n      name: {name},\n      script: {script},\n      instances: \"max\", // one worker per core\n      \
         // max_memory: \"300M\", // a worker that has more is replaced, without losing a request\n      \
         env: {{ NODE_ENV: \"development\" }},\n      environments: {{\n        production: {{ env: {{ NODE_ENV: \"production\" }} }}, // --env production\n      \
         }},\n    }},\n  ],\n}}"
    )
}
