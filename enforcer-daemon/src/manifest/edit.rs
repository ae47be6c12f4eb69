//! Text + digests → text: writes pins into a manifest and leaves everything else as it is, comments and order included.
//!
//! Where an entry stands is known from parsing; how far it reaches is found by looking at the text from there, which knows
//! the common forms of YAML and no others. That is safe because the result is parsed again and must mean what was meant:
//! a form that this does not know is an error, never a manifest that says something else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use super::decode::parse;
use super::digest::Digest;
use super::error::{KeyPath, Position};
use super::model::{Binary, Listed, Manifest, SkillName};
use super::source::Source;

/// The digest that an entry of a skill's `allow_binaries` shall be pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The skill.
    pub skill: SkillName,
    /// The entry's index, from 0.
    pub entry: usize,
    /// What lies at its path.
    pub digest: Digest,
}

impl Pin {
    /// Where it stands in the manifest.
    #[must_use]
    pub fn key(&self) -> KeyPath {
        KeyPath::skill(self.skill.as_str()).key("allow_binaries").index(self.entry)
    }
}

/// Why a manifest was not edited. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The entry is written in a form that is not edited.
    #[error("{key}: {why}; write it by hand, as `path: …` with `sha256: …` below it")]
    Form {
        /// The entry.
        key: KeyPath,
        /// What stands against it.
        why: &'static str,
    },
    /// What came out would not mean what was meant.
    #[error("the manifest is written in a way that cannot be edited; write the digests by hand")]
    Meaning,
}

/// The text of `source` with these entries pinned. `manifest` is what was parsed from it.
///
/// # Errors
///
/// If the text is written in a form that this does not know.
pub fn pin(source: &Source, manifest: &Manifest, pins: &[Pin]) -> Result<String, EditError> {
    let mut edits = Edits::default();
    let offsets = Offsets::of(source.text(), pins.iter().flat_map(|pin| places(manifest, pin)).collect());
    let mut meant = manifest.clone();
    for pin in pins {
        let form = |why| EditError::Form { key: pin.key(), why };
        edit(source.text(), manifest, &offsets, pin, &mut edits).map_err(form)?;
        set(&mut meant, pin).ok_or_else(|| form("there is no such path"))?;
    }
    let text = edits.apply(source.text());
    let again = Source::from_bytes(source.file(), text.clone().into_bytes()).ok().and_then(|s| parse(&s).ok());
    if again.is_some_and(|again| again == meant) { Ok(text) } else { Err(EditError::Meaning) }
}

/// Writes the pin into the model.
fn set(manifest: &mut Manifest, pin: &Pin) -> Option<()> {
    let Some(Listed::Only(entries)) = &mut manifest.skills.get_mut(&pin.skill)?.allow_binaries else { return None };
    let Binary::Path { sha256, .. } = &mut entries.get_mut(pin.entry)?.binary else { return None };
    *sha256 = vec![pin.digest];
    Some(())
}

/// The places of an entry that the edit looks at: of itself, and of its keys.
fn places(manifest: &Manifest, pin: &Pin) -> Vec<Position> {
    let key = pin.key();
    [key.clone(), key.key("path"), key.key("sha256")].iter().filter_map(|key| manifest.position(key)).collect()
}

fn edit(text: &str, m: &Manifest, offsets: &Offsets, pin: &Pin, edits: &mut Edits) -> Result<(), &'static str> {
    let key = pin.key();
    let at = |key: &KeyPath| m.position(key).and_then(|at| offsets.get(at));
    let quoted = format!("\"{}\"", pin.digest);
    let start = at(&key).ok_or("its place is not known")?;
    let style = Style::at(text, start).ok_or("it does not follow a `-`, a `[` or a `{`")?;
    if let Some(sha256) = at(&key.key("sha256")) {
        let value = value_of(text, sha256, style).ok_or("its `sha256` is not one plain text behind its key")?;
        return edits.add(value, &quoted);
    }
    let Some(path) = at(&key.key("path")) else {
        // A bare path.
        let scalar = scalar(text, start, style).ok_or("it is not one plain text")?;
        return match style {
            Style::Block => {
                edits.add(start..start, "path: ")?;
                edits.add_line(text, start, scalar.end, &format!("sha256: {quoted}"))
            }
            Style::Flow => {
                edits.add(start..start, "{path: ")?;
                edits.add(scalar.end..scalar.end, &format!(", sha256: {quoted}}}"))
            }
        };
    };
    let value = value_of(text, path, style).ok_or("its `path` is not one plain text behind its key")?;
    match style {
        Style::Block => edits.add_line(text, path, value.end, &format!("sha256: {quoted}")),
        Style::Flow => edits.add(value.end..value.end, &format!(", sha256: {quoted}")),
    }
}

/// How an entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Behind a `-`.
    Block,
    /// Between brackets.
    Flow,
}

impl Style {
    /// The style of the entry that starts at `start`, from what stands before it.
    fn at(text: &str, start: usize) -> Option<Self> {
        match text.get(..start)?.trim_end().chars().next_back()? {
            '-' => Some(Self::Block),
            '[' | '{' | ',' => Some(Self::Flow),
            // In brackets over several lines, a comment may stand at the end of the line before.
            _ if text[..start].trim_end_matches([' ', '\t']).ends_with(['\n', '\r']) => Some(Self::Flow),
            _ => None,
        }
    }
}

/// The range of the text value behind the key at `key`, on the key's line.
fn value_of(text: &str, key: usize, style: Style) -> Option<Range<usize>> {
    let key = scalar(text, key, style)?;
    let rest = text.get(key.end..)?;
    let value = rest.trim_start_matches([' ', '\t']).strip_prefix(':')?.trim_start_matches([' ', '\t']);
    scalar(text, text.len() - value.len(), style)
}

/// The range of the scalar that starts at `start`: in quotes, or plain and on one line.
fn scalar(text: &str, start: usize, style: Style) -> Option<Range<usize>> {
    let rest = text.get(start..)?;
    let length = match rest.chars().next()? {
        '"' => {
            let mut escaped = false;
            rest.char_indices().skip(1).find_map(|(at, c)| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes.then_some(at + 1)
            })?
        }
        '\'' => {
            let mut chars = rest.char_indices().skip(1).peekable();
            loop {
                match chars.next()? {
                    (_, '\'') if chars.next_if(|(_, c)| *c == '\'').is_some() => {}
                    (at, '\'') => break at + 1,
                    _ => {}
                }
            }
        }
        '|' | '>' | '&' | '*' | '!' | '[' | ']' | '{' | '}' | ',' | '#' | '%' | '@' | '`' | '\n' | '\r' => return None,
        _ => plain(rest, style),
    };
    Some(start..start + length)
}

/// How long the plain scalar is that `rest` starts with, without the blanks behind it.
fn plain(rest: &str, style: Style) -> usize {
    let mut previous = ' ';
    let mut end = rest.len();
    let mut chars = rest.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map_or('\n', |(_, next)| *next);
        let stops = match c {
            '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => true,
            '#' => previous.is_whitespace() && at > 0,
            ':' => next.is_whitespace() || style == Style::Flow && ",[]{}".contains(next),
            ',' | '[' | ']' | '{' | '}' => style == Style::Flow,
            _ => false,
        };
        if stops {
            end = at;
            break;
        }
        previous = c;
    }
    rest[..end].trim_end().len()
}

/// Where positions are in the text, in bytes.
struct Offsets(HashMap<Position, usize>);

impl Offsets {
    /// One pass over the text: a list may have a hundred thousand entries on one line.
    fn of(text: &str, wanted: BTreeSet<Position>) -> Self {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut wanted = wanted.into_iter().peekable();
        let mut here = Position::START;
        let mut chars = text.char_indices().peekable();
        while let (Some(next), Some((offset, c))) = (wanted.peek(), chars.next()) {
            if here == *next {
                found.insert(here, offset);
                wanted.next();
            }
            let ends = match c {
                '\n' | '\u{85}' | '\u{2028}' | '\u{2029}' => true,
                '\r' => chars.peek().is_none_or(|(_, next)| *next != '\n'),
                _ => false,
            };
            here = if ends {
                Position { line: here.line + 1, column: 1 }
            } else {
                Position { line: here.line, column: here.column + 1 }
            };
        }
        Self(found)
    }

    fn get(&self, at: Position) -> Option<usize> {
        self.0.get(&at).copied()
    }
}

/// Replacements, by where they start. An alias makes one place stand for several entries: then all must agree.
#[derive(Default)]
struct Edits(BTreeMap<(usize, usize), String>);

impl Edits {
    fn add(&mut self, range: Range<usize>, text: &str) -> Result<(), &'static str> {
        let there = self.0.entry((range.start, range.end)).or_insert_with(|| text.to_owned());
        if there == text { Ok(()) } else { Err("an alias uses the same lines for another file") }
    }

    /// Adds a line below the one with `end`, indented like what stands at `like`.
    fn add_line(&mut self, text: &str, like: usize, end: usize, new: &str) -> Result<(), &'static str> {
        let start = text[..like].rfind('\n').map_or(0, |newline| newline + 1);
        let indent = " ".repeat(text[start..like].chars().count());
        let (at, newline) = match text[end..].find('\n').map(|newline| end + newline) {
            Some(at) if text[..at].ends_with('\r') => (at - 1, "\r\n"),
            Some(at) => (at, "\n"),
            None => (text.len(), "\n"),
        };
        self.add(at..at, &format!("{newline}{indent}{new}"))
    }

    fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 96 * self.0.len());
        let mut from = 0;
        for ((start, end), new) in &self.0 {
            // Of ranges that overlap, the meaning would tell: here only the order must hold.
            out.push_str(text.get(from..*start).unwrap_or_default());
            out.push_str(new);
            from = *end;
        }
        out.push_str(&text[from..]);
        out
    }
}
