//! The JSON schema of configuration files, made from the command line of `phalanx run`.

use super::deploy::{self, Takes};
use super::keys::{Key, Keys, Kind, OWN, snake};
use serde_json::{Map, Value, json};

/// The schema as a file.
pub(super) fn text() -> String {
    let mut text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
    text.push('\n');
    text
}

fn schema() -> Value {
    let app = json!({ "$ref": "#/$defs/app" });
    let list = json!({ "type": "array", "items": app, "minItems": 1 });
    let by_name = json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/app" }, "minProperties": 1 });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "phalanx",
        "description": "Applications of phalanx: a list `apps`, a table of them by name, or one alone",
        "oneOf": [
            list,
            {
                "type": "object",
                "required": ["apps"],
                "patternProperties": { "^(x-|\\.)": {} },
                "properties": {
                    "$schema": { "type": "string" },
                    "apps": { "description": "The applications", "oneOf": [list, by_name] },
                    (deploy::KEY): { "$ref": "#/$defs/deployments" }
                },
                "additionalProperties": false
            },
            app
        ],
        "$defs": {
            "app": object(&["script"]),
            "deployments": {
                "description": "Where `phalanx deploy` brings what, by name",
                "type": "object",
                "additionalProperties": deployment()
            },
            "environment": object(&[]),
            "variables": {
                "type": "object",
                "additionalProperties": { "type": ["string", "number", "boolean", "null"] }
            },
            "texts": {
                "oneOf": [
                    { "type": ["string", "number"] },
                    { "type": "array", "items": { "type": ["string", "number"] } }
                ]
            }
        }
    })
}

/// An application's table, or what an environment has in its place.
fn object(required: &[&str]) -> Value {
    let mut properties = Map::new();
    for (name, aliases, help) in OWN.iter().filter(|(name, ..)| *name != "env_NAME") {
        if required.is_empty() && matches!(*name, "name" | "environments") {
            continue;
        }
        let mut value = own(name);
        if let Some(value) = value.as_object_mut() {
            value.insert("description".into(), (*help).into());
        }
        properties.insert((*name).to_owned(), value);
        for alias in *aliases {
            properties.insert((*alias).to_owned(), same_as(name));
        }
    }
    for key in &Keys::find_all().all {
        properties.insert(key.snake(), option(key));
        for alias in &key.aliases {
            properties.insert(snake(alias), same_as(&key.snake()));
        }
        if let Some(positive) = key.long.strip_prefix("no-").filter(|_| key.kind == Kind::Flag) {
            let about = format!("false: as {} = true", key.snake());
            properties
                .entry(snake(positive))
                .or_insert_with(|| json!({ "type": "boolean", "description": about }));
        }
    }
    properties.insert("$schema".into(), json!({ "type": "string" }));
    if !required.is_empty() {
        // Of a file that is one application.
        properties.insert(deploy::KEY.into(), json!({ "$ref": "#/$defs/deployments" }));
    }
    let mut all = json!({
        "type": "object",
        "properties": properties,
        "patternProperties": { "^env_[A-Za-z0-9_-]+$": {} },
        "additionalProperties": false
    });
    if !required.is_empty() {
        // Under any of its names.
        let names: Vec<&str> = OWN
            .iter()
            .filter(|(name, ..)| required.contains(name))
            .flat_map(|(name, aliases, _)| [*name].into_iter().chain(aliases.iter().copied()))
            .collect();
        all["anyOf"] = names.iter().map(|name| json!({ "required": [name] })).collect();
    }
    all
}

/// What a deployment has, under both spellings of its keys.
fn deployment() -> Value {
    let mut properties = Map::new();
    for (name, takes, help) in deploy::KEYS {
        let mut value = match takes {
            Takes::Text => json!({ "type": "string" }),
            Takes::Port => json!({ "type": ["integer", "string"] }),
            Takes::Texts => json!({ "$ref": "#/$defs/texts" }),
            Takes::Switch => json!({ "enum": [true, false, "yes", "no"] }),
            Takes::Variables => json!({ "$ref": "#/$defs/variables" }),
        };
        if let Some(value) = value.as_object_mut() {
            value.insert("description".into(), help.into());
        }
        properties.insert(snake(name), value.clone());
        properties.insert(name.replace('_', "-"), value);
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn same_as(name: &str) -> Value {
    json!({ "description": format!("As {name}"), "$ref": format!("#/$defs/app/properties/{name}") })
}

fn own(name: &str) -> Value {
    match name {
        "env" => json!({ "$ref": "#/$defs/variables" }),
        "args" | "env_file" | "after" => json!({ "$ref": "#/$defs/texts" }),
        "pass_env" | "filter_env" => {
            json!({ "oneOf": [{ "type": "boolean" }, { "$ref": "#/$defs/texts" }] })
        }
        "autostart" => json!({ "type": "boolean", "default": true }),
        "environments" => {
            json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/environment" } })
        }
        _ => json!({ "type": "string" }),
    }
}

fn option(key: &Key) -> Value {
    let mut value = match key.kind {
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Optional if key.repeats || key.commas => json!({
            "oneOf": [{ "type": "boolean" }, { "$ref": "#/$defs/texts" }]
        }),
        Kind::Optional => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Value if key.takes_table() => json!({
            "oneOf": [{ "$ref": "#/$defs/texts" }, { "$ref": "#/$defs/variables" }]
        }),
        Kind::Value if key.repeats || key.commas => json!({ "$ref": "#/$defs/texts" }),
        Kind::Value => json!({ "type": ["string", "number"] }),
    };
    if let Some(object) = value.as_object_mut() {
        let mut help = key.help.clone();
        if !key.value.is_empty() {
            help.push_str(&format!(" ({})", key.value));
        }
        object.insert("description".into(), help.into());
        if let Some(default) = &key.default {
            object.insert("default".into(), default.clone().into());
        }
    }
    // `off` and `none` may be said by false.
    if key.kind == Kind::Value && (key.off().is_some() || key.may_be_missing()) {
        let plain = value.get("type").is_some();
        if plain {
            value["type"] = json!(["string", "number", "boolean"]);
        }
    }
    value
}
