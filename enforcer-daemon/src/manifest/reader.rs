//! Walking a tree of YAML values with a schema in hand: types, keys and places, every fault collected.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::str::FromStr;

use super::error::{ErrorKind, InvalidValue, KeyPath, ManifestError, Position, quoted};
use super::model::Listed;
use super::spans::Spans;
use super::yaml::{Key, Node, Value};

/// The longest text that any value may have, in bytes; a path is the longest thing a manifest writes.
const MAX_VALUE_BYTES: usize = 8192;
/// How many errors are kept while reading.
const MAX_ERRORS: usize = 10_000;

/// The keys of one kind of mapping, and a word for the mapping.
#[derive(Clone, Copy)]
pub(crate) struct Keys {
    pub(crate) of: &'static str,
    pub(crate) known: &'static [&'static str],
}

/// A value, the way to it, and the place to name if the value has none.
#[derive(Clone)]
pub(crate) struct Cursor<'n> {
    pub(crate) node: &'n Node,
    pub(crate) path: KeyPath,
    pub(crate) key_at: Position,
}

impl Cursor<'_> {
    /// Where to point for what is wrong with the value: at a scalar itself, else at the key that leads to it.
    fn at(&self) -> Position {
        match (&self.node.value, self.node.at) {
            (Value::Bool(_) | Value::Number(_) | Value::Text(_), Some(at)) => at,
            _ => self.key_at,
        }
    }
}

/// The entries of a mapping whose keys are known and not repeated.
pub(crate) struct Fields<'n>(HashMap<&'n str, Cursor<'n>>);

impl<'n> Fields<'n> {
    /// Takes the value under `key`, if the mapping has it.
    pub(crate) fn take(&mut self, key: &str) -> Option<Cursor<'n>> {
        self.0.remove(key)
    }
}

/// Collects what reading finds.
pub(crate) struct Reader {
    pub(crate) file: String,
    pub(crate) errors: Vec<ManifestError>,
    pub(crate) spans: Spans,
    /// Every kind of mapping, to find where a misplaced key belongs.
    pub(crate) schema: &'static [Keys],
}

impl Reader {
    pub(crate) fn error(
        &mut self,
        kind: ErrorKind,
        position: Position,
        path: &KeyPath,
        found: impl Into<String>,
        expected: impl Into<String>,
        hint: Option<String>,
    ) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(ManifestError {
                kind,
                file: self.file.clone(),
                position: Some(position),
                path: path.clone(),
                found: found.into(),
                expected: expected.into(),
                hint,
                message: None,
            });
        }
    }

    fn wrong_type(&mut self, cursor: &Cursor<'_>, expected: &str, hint: Option<String>) {
        let found = describe(&cursor.node.value);
        self.error(ErrorKind::Type, cursor.at(), &cursor.path, found, expected, hint);
    }

    pub(crate) fn invalid(&mut self, cursor: &Cursor<'_>, wrong: InvalidValue) {
        self.error(ErrorKind::Value, cursor.at(), &cursor.path, wrong.found, wrong.expected, wrong.hint);
    }

    /// The fields of a mapping. Unknown and repeated keys are errors.
    pub(crate) fn fields<'n>(&mut self, cursor: &Cursor<'n>, keys: Keys) -> Option<Fields<'n>> {
        let entries = self.entries(cursor, keys.of)?;
        let mut fields = HashMap::with_capacity(entries.len());
        for (key, field) in entries {
            if keys.known.contains(&key.name.as_str()) {
                fields.insert(key.name.as_str(), field);
            } else {
                let hint = self.hint_for(&key.name, keys);
                let found = format!("the unknown key {}", quoted(&key.name));
                self.error(
                    ErrorKind::UnknownKey,
                    key.at,
                    &field.path,
                    found,
                    format!("a key of {}", keys.of),
                    Some(hint),
                );
            }
        }
        Some(Fields(fields))
    }

    /// The entries of a mapping, each key once. Repeated keys are errors.
    pub(crate) fn entries<'n>(&mut self, cursor: &Cursor<'n>, what: &str) -> Option<Vec<(&'n Key, Cursor<'n>)>> {
        let Value::Map(map) = &cursor.node.value else {
            let hint = matches!(cursor.node.value, Value::Null).then(|| "write {} if it has no keys".to_owned());
            self.wrong_type(cursor, &format!("a mapping: {what}"), hint);
            return None;
        };
        let mut seen: HashMap<&str, Position> = HashMap::with_capacity(map.len());
        let mut entries = Vec::with_capacity(map.len());
        for (key, node) in map {
            let path = cursor.path.key(&key.name);
            if let Some(first) = seen.get(key.name.as_str()) {
                let hint = format!("it was written in line {} already; remove one of the two", first.line);
                let found = format!("the key {} a second time", quoted(&key.name));
                self.error(ErrorKind::DuplicateKey, key.at, &path, found, "each key once", Some(hint));
                continue;
            }
            seen.insert(&key.name, key.at);
            self.spans.key(path.clone(), key.at);
            entries.push((key, Cursor { node, path, key_at: key.at }));
        }
        Some(entries)
    }

    fn hint_for(&self, key: &str, keys: Keys) -> String {
        if key == "<<" {
            return "merge keys are not supported; an alias can stand for a whole value".into();
        }
        let close = |known: &&&str| key.len() <= 64 && similar(key, known).is_some();
        if let Some(known) = keys.known.iter().filter(close).min_by_key(|known| similar(key, known)) {
            return format!("did you mean `{known}`?");
        }
        if let Some(other) = self.schema.iter().find(|other| other.known.contains(&key)) {
            return format!("`{key}` is a key of {}", other.of);
        }
        let mut hint = "the keys are ".to_owned();
        for (n, known) in keys.known.iter().enumerate() {
            // Writing to a String does not fail.
            let _ = write!(hint, "{}{known}", if n > 0 { ", " } else { "" });
        }
        hint
    }

    /// The entries of a list, each with its place noted.
    pub(crate) fn list<'n>(&mut self, cursor: &Cursor<'n>, of: &str) -> Option<Vec<Cursor<'n>>> {
        let Value::List(entries) = &cursor.node.value else {
            let hint = match &cursor.node.value {
                Value::Null => Some("write [] for an empty list".to_owned()),
                Value::Text(text) => Some(format!("write a list: [{}]", quoted(text))),
                Value::Number(text) => Some(format!("write a list: [{text}]")),
                Value::Bool(_) | Value::List(_) | Value::Map(_) => None,
            };
            self.wrong_type(cursor, &format!("a list of {of}"), hint);
            return None;
        };
        let at = |entry: &Node| entry.at.unwrap_or(cursor.key_at);
        self.spans.list(&cursor.path, entries.iter().map(at).collect());
        let child = |(n, node)| Cursor { node, path: cursor.path.index(n), key_at: at(node) };
        Some(entries.iter().enumerate().map(child).collect())
    }

    /// A list of values, or `["*"]`.
    pub(crate) fn listed<T>(
        &mut self,
        cursor: &Cursor<'_>,
        of: &str,
        mut entry: impl FnMut(&mut Self, &Cursor<'_>) -> Option<T>,
    ) -> Option<Listed<T>> {
        let entries = self.list(cursor, of)?;
        let is_star = |cursor: &Cursor<'_>| matches!(&cursor.node.value, Value::Text(text) if text == "*");
        if let [only] = &*entries
            && is_star(only)
        {
            return Some(Listed::Everything);
        }
        let mut values = Vec::with_capacity(entries.len());
        let mut complete = true;
        for cursor in &entries {
            if is_star(cursor) {
                let hint = Some("[\"*\"] alone allows everything; remove it or the other entries".to_owned());
                self.error(
                    ErrorKind::Conflict,
                    cursor.at(),
                    &cursor.path,
                    "\"*\" beside other entries",
                    "\"*\" alone",
                    hint,
                );
                complete = false;
            } else if let Some(value) = entry(self, cursor) {
                values.push(value);
            } else {
                complete = false;
            }
        }
        complete.then_some(Listed::Only(values))
    }

    /// A list of at least one value, without `*`.
    pub(crate) fn some<T: FromStr<Err = InvalidValue>>(
        &mut self,
        cursor: &Cursor<'_>,
        of: &str,
        empty_hint: &str,
    ) -> Option<Vec<T>> {
        let entries = self.list(cursor, of)?;
        if entries.is_empty() {
            let hint = Some(empty_hint.to_owned());
            self.error(ErrorKind::Value, cursor.at(), &cursor.path, "an empty list", format!("a list of {of}"), hint);
            return None;
        }
        self.all(&entries, of)
    }

    /// Every entry parsed; `None` if one of them is wrong.
    pub(crate) fn all<T: FromStr<Err = InvalidValue>>(&mut self, entries: &[Cursor<'_>], of: &str) -> Option<Vec<T>> {
        let values: Vec<Option<T>> = entries.iter().map(|entry| self.parse(entry, of)).collect();
        values.into_iter().collect()
    }

    /// A text.
    pub(crate) fn text<'n>(&mut self, cursor: &Cursor<'n>, expected: &str) -> Option<&'n str> {
        match &cursor.node.value {
            Value::Text(text) if text.len() > MAX_VALUE_BYTES => {
                let found = format!("{} ({} bytes)", quoted(text), text.len());
                let hint = Some(format!("no value is longer than {MAX_VALUE_BYTES} bytes"));
                self.error(ErrorKind::Value, cursor.at(), &cursor.path, found, expected, hint);
                None
            }
            Value::Text(text) => Some(text),
            Value::Number(text) => {
                self.wrong_type(
                    cursor,
                    expected,
                    Some(format!("a text that looks like a number needs quotes: \"{text}\"")),
                );
                None
            }
            Value::Null => {
                let hint = (expected == "a path").then(|| "a lone ~ is YAML for nothing; write \"~/\"".to_owned());
                self.wrong_type(cursor, expected, hint);
                None
            }
            Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                self.wrong_type(cursor, expected, None);
                None
            }
        }
    }

    /// A text that a type parses.
    pub(crate) fn parse<T: FromStr<Err = InvalidValue>>(&mut self, cursor: &Cursor<'_>, expected: &str) -> Option<T> {
        self.parse_with(cursor, expected, str::parse)
    }

    /// A text that a function parses.
    pub(crate) fn parse_with<T>(
        &mut self,
        cursor: &Cursor<'_>,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        let text = self.text(cursor, expected)?;
        parse(text).map_err(|wrong| self.invalid(cursor, wrong)).ok()
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&mut self, cursor: &Cursor<'_>, words: &[(&'static str, T)]) -> Option<T> {
        let expected = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" | ");
        let text = self.text(cursor, &expected)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let close = |word: &str| {
            if text.len() <= 64 { similar(text, word) } else { None }
        };
        let hint = words.iter().filter(|(word, _)| close(word).is_some()).min_by_key(|(word, _)| close(word));
        let hint = hint.map(|(word, _)| format!("did you mean `{word}`?"));
        self.error(ErrorKind::Value, cursor.at(), &cursor.path, quoted(text), expected, hint);
        None
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, cursor: &Cursor<'_>) -> Option<bool> {
        match &cursor.node.value {
            Value::Bool(value) => Some(*value),
            value => {
                let hint = match value {
                    Value::Text(text) if matches!(&**text, "true" | "false") => {
                        Some(format!("remove the quotes: {text}"))
                    }
                    Value::Text(text) if matches!(&*text.to_ascii_lowercase(), "yes" | "on") => {
                        Some("write true".into())
                    }
                    Value::Text(text) if matches!(&*text.to_ascii_lowercase(), "no" | "off") => {
                        Some("write false".into())
                    }
                    _ => None,
                };
                self.wrong_type(cursor, "true or false", hint);
                None
            }
        }
    }
}

/// How far `word` is from `known` in its own spelling, if that is near enough for a slip.
fn similar(word: &str, known: &str) -> Option<usize> {
    let distance = strsim::damerau_levenshtein(&word.to_ascii_lowercase(), known);
    (distance <= known.len().div_ceil(3)).then_some(distance)
}

/// A value as messages mention it.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(text) => format!("the number {}", quoted(text).trim_matches('"')),
        Value::Text(text) => format!("the text {}", quoted(text)),
        Value::List(entries) if entries.is_empty() => "an empty list".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}
