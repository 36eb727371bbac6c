//! The languages of configuration files.

use super::script;
use super::tree::{self, Bounds, Entries, Item, Node};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of a file; what is larger is none that people write.
pub(super) const LARGEST: u64 = 1 << 20;

/// The language of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Toml,
    Yaml,
    /// JSON5 too.
    Json,
    /// What Node evaluates.
    Script,
}

/// What is wrong with a file as a whole, and in which line.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) line: Option<usize>,
    pub(super) words: String,
}

impl Wrong {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self { line: None, words: words.into() }
    }
}

/// The language, by the file's name.
pub(super) fn format(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (stem, extension) = name.rsplit_once('.')?;
    match extension {
        "toml" => Some(Format::Toml),
        "yaml" | "yml" => Some(Format::Yaml),
        "json" | "json5" => Some(Format::Json),
        "js" | "cjs" | "mjs" | "ts" | "cts" | "mts" => {
            stem.ends_with(".config").then_some(Format::Script)
        }
        _ => None,
    }
}

/// What a file says.
pub(super) fn read(path: &Path, format: Format) -> Result<Item, Wrong> {
    match format {
        Format::Script => script::evaluate(path),
        _ => parse(&text(path)?, format),
    }
}

/// The text of a file of a reasonable size.
pub(super) fn text(path: &Path) -> Result<String, Wrong> {
    let cannot = |error: std::io::Error| Wrong::new(format!("cannot read it: {error}"));
    // Opening a pipe would wait for somebody who writes.
    let about = std::fs::metadata(path).map_err(cannot)?;
    if !about.is_file() {
        return Err(Wrong::new("it is no file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Wrong::new("it has more than 1 MiB, which is none that people write"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(good).filter(|byte| **byte == b'\n').count();
        Wrong { line: Some(line), words: "it is no text (UTF-8)".into() }
    })?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
}

/// What a text says.
pub(super) fn parse(text: &str, format: Format) -> Result<Item, Wrong> {
    match format {
        Format::Toml => toml_of(text, &Bounds::default()),
        Format::Yaml => yaml(text),
        Format::Json | Format::Script => json(text),
    }
}

fn toml_of(text: &str, bounds: &Bounds) -> Result<Item, Wrong> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line = |at: usize| 1 + ends.partition_point(|end| *end < at);
    let table = DeTable::parse(text).map_err(|error| Wrong {
        line: error.span().map(|span| line(span.start)),
        words: first_line(error.message()),
    })?;
    let entries = toml_table(table.get_ref(), bounds, 0, &line).map_err(Wrong::new)?;
    Ok(Node::Table(entries).into())
}

/// In the order of the text.
fn toml_table(
    table: &DeTable<'_>,
    bounds: &Bounds,
    depth: usize,
    line: &dyn Fn(usize) -> usize,
) -> Result<Entries, String> {
    let mut entries = Vec::new();
    for (key, value) in table {
        let at = key.span().start;
        let mut item = toml_value(value, bounds, depth + 1, line)?;
        item.line = Some(line(at));
        entries.push((at, (key.get_ref().to_string(), item)));
    }
    entries.sort_by_key(|(at, _)| *at);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn toml_value(
    value: &Spanned<DeValue<'_>>,
    bounds: &Bounds,
    depth: usize,
    line: &dyn Fn(usize) -> usize,
) -> Result<Item, String> {
    bounds.check(depth)?;
    let node = match value.get_ref() {
        DeValue::String(text) => Node::Text(text.to_string()),
        DeValue::Integer(number) => {
            let radix = number.radix();
            // As people write it in base 10; what does not fit is left for whoever takes the key.
            let value = i64::from_str_radix(number.as_str(), radix).ok();
            Node::Number(value.map_or_else(|| number.as_str().to_owned(), |n| n.to_string()))
        }
        // 1.10 is a version too.
        DeValue::Float(number) => Node::Number(number.as_str().to_owned()),
        DeValue::Boolean(value) => Node::Bool(*value),
        DeValue::Datetime(time) => Node::Text(time.to_string()),
        DeValue::Array(array) => {
            let items = array.iter().map(|value| toml_value(value, bounds, depth + 1, line));
            Node::List(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Node::Table(toml_table(table, bounds, depth, line)?),
    };
    Ok(Item { node, line: Some(line(value.span().start)) })
}

fn yaml(text: &str) -> Result<Item, Wrong> {
    if text.trim().is_empty() {
        return Ok(Node::Nothing.into());
    }
    let item = yaml_serde::from_str(text).map_err(|error| {
        let line = error.location().map(|at| at.line());
        Wrong { line, words: without_place(&error.to_string()) }
    })?;
    tree::merge(item).map_err(Wrong::new)
}

/// JSON is a part of JSON5, and people write comments in either.
fn json(text: &str) -> Result<Item, Wrong> {
    if text.trim().is_empty() {
        return Ok(Node::Nothing.into());
    }
    json5::from_str(text).map_err(|error| {
        let line = error.position().map(|at| at.line + 1);
        Wrong { line, words: without_place(&error.to_string()) }
    })
}

/// Without the place at its end, which is told before it.
fn without_place(text: &str) -> String {
    let text = first_line(text);
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it is wrong").to_owned()
}
