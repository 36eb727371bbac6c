//! What a configuration file says, whatever language it is in.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

/// How deep tables and lists may be in each other; no key needs more than five.
const DEEPEST: usize = 16;
/// How many values there may be.
const MOST: usize = 50_000;

/// A value, and the line that it is on where the language tells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) node: Node,
    pub(super) line: Option<usize>,
}

/// A value. A table's entries are in the file's order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Nothing,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Item>),
    Table(Entries),
}

/// The entries of a table.
pub(super) type Entries = Vec<(String, Item)>;

impl From<Node> for Item {
    fn from(node: Node) -> Self {
        Self { node, line: None }
    }
}

impl Node {
    /// What it is, in a sentence.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// The text of what is one word of a command line.
    pub(super) fn scalar(&self) -> Option<&str> {
        match self {
            Self::Number(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Counts values, and refuses more than there may be.
pub(super) struct Bounds(Cell<usize>);

impl Default for Bounds {
    fn default() -> Self {
        Self(Cell::new(MOST))
    }
}

impl Bounds {
    pub(super) fn check(&self, depth: usize) -> Result<(), String> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| format!("it has more than {MOST} values"))?);
        if depth > DEEPEST {
            return Err(format!("tables and lists are more than {DEEPEST} deep in each other"));
        }
        Ok(())
    }
}

/// Reads a value from a deserializer that describes what it has.
#[derive(Clone, Copy)]
struct Reading<'b> {
    bounds: &'b Bounds,
    depth: usize,
}

impl Reading<'_> {
    const fn below(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Item;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Item, D::Error> {
        self.bounds.check(self.depth).map_err(de::Error::custom)?;
        from.deserialize_any(self).map(Item::from)
    }
}

/// With bounds of its own.
impl<'de> de::Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bounds = Bounds::default();
        Reading { bounds: &bounds, depth: 0 }.deserialize(from)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Node;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a text, a number, true or false, a list or a table")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = from.next_element_seed(self.below())? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut entries = Entries::new();
        let mut seen = HashSet::new();
        while let Some(Key(key)) = from.next_key()? {
            if !seen.insert(key.clone()) {
                return Err(de::Error::custom(format!("`{}` is there twice", key.escape_debug())));
            }
            entries.push((key, from.next_value_seed(self.below())?));
        }
        Ok(Node::Table(entries))
    }
}

/// A key, which in YAML need not be a text.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(KeyVisitor).map(Self)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = String;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a key, which is a text")
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }
}

/// YAML's merge key: what `<<` names is there too, where nothing else is said.
pub(super) fn merge(item: Item) -> Result<Item, String> {
    let node = match item.node {
        Node::List(list) => Node::List(list.into_iter().map(merge).collect::<Result<_, _>>()?),
        Node::Table(entries) => Node::Table(merge_table(entries)?),
        node => node,
    };
    Ok(Item { node, ..item })
}

fn merge_table(entries: Entries) -> Result<Entries, String> {
    let mut own = Entries::new();
    let mut others = Vec::new();
    for (key, item) in entries {
        let item = merge(item)?;
        match (key.as_str(), item.node) {
            ("<<", Node::Table(table)) => others.push(table),
            ("<<", Node::List(list)) => {
                for item in list {
                    let Node::Table(table) = item.node else {
                        return Err("`<<` is a table, or a list of tables".into());
                    };
                    others.push(table);
                }
            }
            ("<<", _) => return Err("`<<` is a table, or a list of tables".into()),
            (_, node) => own.push((key, Item { node, line: item.line })),
        }
    }
    for (key, item) in others.into_iter().flatten() {
        if !own.iter().any(|(known, _)| *known == key) {
            own.push((key, item));
        }
    }
    Ok(own)
}
