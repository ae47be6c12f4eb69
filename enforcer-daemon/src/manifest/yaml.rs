//! YAML text → a tree of values with their places; the only module that knows `serde_yaml`.
//!
//! `serde_yaml` tells a place only with an error. So the visitor of a scalar stores the value and then fails, and the
//! parent, which sees the error, takes the scalar's place from it and goes on: the deserializer has moved past the
//! scalar by then. The error's type is opaque to generic code, hence the place is read from its text. Both habits
//! belong to `serde_yaml` 0.9.34, its last release; the table tests of places keep them true. What is lost if they ever
//! change is places, or the whole parse, but never a value.
//!
//! Time and memory are bounded: by the size of the text, and, for what aliases stand for, by [`MAX_VALUES`] and
//! [`MAX_TEXT_BYTES`], since `serde_yaml`'s own limit counts jumps to anchors and not what lies behind them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor};
use serde_yaml::Deserializer;

use super::bounds;
use super::error::Position;

/// How many values a manifest may have, aliases written out.
pub(crate) const MAX_VALUES: usize = 1_000_000;
/// How many bytes of text the values of a manifest may have, aliases written out.
pub(crate) const MAX_TEXT_BYTES: usize = 32 << 20;
/// The message with which a scalar's visitor fails after it stored the value.
const TAKEN: &str = "\u{1}taken";

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    /// Where it starts; for a list or mapping, where the first thing in it starts, if there is one.
    pub(crate) at: Option<Position>,
    pub(crate) value: Value,
}

/// A YAML value.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// As it would be written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    /// In the order of the text, duplicates included.
    Map(Vec<(Key, Node)>),
}

/// The key of a mapping: any scalar, by its text.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) at: Position,
    pub(crate) name: String,
}

/// Why a text is not one YAML document within the limits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no value.
    Empty,
    /// More values, bytes or levels than allowed.
    TooLarge { at: Option<Position>, limit: &'static str },
    /// A tag such as `!name`.
    Tag { at: Option<Position> },
    /// There is a second document.
    SecondDocument { at: Option<Position> },
    /// Anything else.
    Syntax { at: Option<Position>, message: String },
}

/// Reads one YAML document.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    if let Some(limit) = bounds::exceeded(text) {
        return Err(Fault::TooLarge { at: None, limit });
    }
    let mut documents = Deserializer::from_str(text);
    let Some(first) = documents.next() else {
        return Err(Fault::Empty);
    };
    let mut reader = Budget { values: MAX_VALUES, bytes: MAX_TEXT_BYTES, fault: None };
    let mut slot = None;
    let outcome = Seed { budget: &mut reader, slot: &mut slot }.deserialize(first);
    let node = match finish(outcome, slot) {
        Ok(node) => node,
        Err(error) => return Err(fault(reader.fault, &error)),
    };
    if let Some(second) = documents.next() {
        // Fails at the second document's first event, or with the syntax error that stands there.
        let error = second.deserialize_any(Stop).err();
        let at = error.as_ref().and_then(location);
        return Err(match error {
            Some(error) if !error.to_string().contains(TAKEN) => fault(None, &error),
            _ => Fault::SecondDocument { at },
        });
    }
    if matches!(node.value, Value::Null) { Err(Fault::Empty) } else { Ok(node) }
}

fn fault(own: Option<Fault>, error: &serde_yaml::Error) -> Fault {
    let at = location(error);
    match own {
        Some(Fault::Tag { .. }) => Fault::Tag { at },
        Some(fault) => fault,
        None => {
            let mut message = error.to_string();
            // The kinds of serde_yaml's errors are private; these two are limits of its own.
            if message.starts_with("recursion limit exceeded") {
                return Fault::TooLarge { at, limit: "128 levels of lists and mappings" };
            }
            if message.starts_with("repetition limit exceeded") {
                return Fault::TooLarge { at, limit: "100 aliases per value" };
            }
            if let Some(at) = at {
                message = message.replacen(&format!(" at line {} column {}", at.line, at.column), "", 1);
            }
            Fault::Syntax { at, message }
        }
    }
}

fn location(error: &serde_yaml::Error) -> Option<Position> {
    let location = error.location()?;
    Some(Position { line: u32::try_from(location.line()).ok()?, column: u32::try_from(location.column()).ok()? })
}

/// What is left of the limits.
struct Budget {
    values: usize,
    bytes: usize,
    fault: Option<Fault>,
}

impl Budget {
    /// Takes one value with `bytes` of text.
    fn take<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        let left = (self.values.checked_sub(1), self.bytes.checked_sub(bytes));
        if let (Some(values), Some(bytes)) = left {
            (self.values, self.bytes) = (values, bytes);
            return Ok(());
        }
        let limit = if left.0.is_none() { "1,000,000 values" } else { "32 MiB of values" };
        self.fault = Some(Fault::TooLarge { at: None, limit });
        Err(E::custom("too large"))
    }
}

/// Turns what a seed did into a node: a scalar comes as a stored value and an error with its place.
fn finish<E: fmt::Display>(outcome: Result<(), E>, slot: Option<Value>) -> Result<Node, E> {
    match (outcome, slot) {
        (Ok(()), slot) => {
            let value = slot.unwrap_or(Value::Null);
            let at = match &value {
                Value::List(entries) => entries.first().and_then(|entry| entry.at),
                Value::Map(entries) => entries.first().map(|(key, _)| key.at),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => None,
            };
            Ok(Node { at, value })
        }
        (Err(error), Some(value)) => Ok(Node { at: Some(place(&error)), value }),
        (Err(error), None) => Err(error),
    }
}

/// The place at the end of an error's text: `… at line 3 column 7`, which is left out at the first character.
fn place(error: &impl fmt::Display) -> Position {
    let text = error.to_string();
    let place = text.rsplit_once(TAKEN).and_then(|(_, place)| {
        let (line, column) = place.strip_prefix(" at line ")?.split_once(" column ")?;
        Some(Position { line: line.parse().ok()?, column: column.parse().ok()? })
    });
    place.unwrap_or(Position::START)
}

/// Reads any value into `slot`.
struct Seed<'a> {
    budget: &'a mut Budget,
    slot: &'a mut Option<Value>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed<'_> {
    fn scalar<E: serde::de::Error>(self, value: Value, bytes: usize) -> Result<(), E> {
        self.budget.take(bytes)?;
        *self.slot = Some(value);
        Err(E::custom(TAKEN))
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.scalar(Value::Null, 0)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.scalar(Value::Null, 0)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Value::Bool(value), 0)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Value::Number(value.to_string()), 0)
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<(), E> {
        self.scalar(Value::Number(value.to_string()), 0)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Value::Number(value.to_string()), 0)
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<(), E> {
        self.scalar(Value::Number(value.to_string()), 0)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Value::Number(format!("{value:?}")), 0)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.scalar(Value::Text(value.to_owned()), value.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.budget.take(0)?;
        let mut entries = Vec::new();
        loop {
            let mut slot = None;
            let outcome = list.next_element_seed(Seed { budget: self.budget, slot: &mut slot });
            match outcome {
                Ok(None) => break,
                Ok(Some(())) => entries.push(finish(Ok(()), slot)?),
                Err(error) => entries.push(finish(Err(error), slot)?),
            }
        }
        *self.slot = Some(Value::List(entries));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.budget.take(0)?;
        let mut entries = Vec::new();
        loop {
            let mut name = None;
            let at = match map.next_key_seed(KeySeed { budget: self.budget, slot: &mut name }) {
                Ok(None) => break,
                Ok(Some(())) => return Err(A::Error::custom("a key without its place")),
                Err(error) if name.is_none() => return Err(error),
                Err(error) => place(&error),
            };
            let mut slot = None;
            let outcome = map.next_value_seed(Seed { budget: self.budget, slot: &mut slot });
            let node = finish(outcome, slot)?;
            entries.push((Key { at, name: name.unwrap_or_default() }, node));
        }
        *self.slot = Some(Value::Map(entries));
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.budget.fault = Some(Fault::Tag { at: None });
        Err(A::Error::custom("tag"))
    }
}

/// Reads the text of a scalar key into `slot`.
struct KeySeed<'a> {
    budget: &'a mut Budget,
    slot: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain key")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        self.budget.take(name.len())?;
        *self.slot = Some(name.to_owned());
        Err(E::custom(TAKEN))
    }
}

/// Fails at the first event, whatever it is.
struct Stop;

impl<'de> Visitor<'de> for Stop {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TAKEN)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom(TAKEN))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom(TAKEN))
    }
}
