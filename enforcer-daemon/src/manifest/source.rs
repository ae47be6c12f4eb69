//! The text of a manifest, read within bounds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::error::{ErrorKind, KeyPath, ManifestError, ManifestErrors, Position};
use crate::hash::{OpenError, open_regular};

/// The largest manifest, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;

/// The text of a manifest and the name under which messages mention it.
#[derive(Clone, Debug)]
pub struct Source {
    file: String,
    text: String,
}

impl Source {
    /// Reads the regular file at `path`: at most [`MAX_BYTES`], even if it grows meanwhile, and without waiting.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is not a regular file, is too large, or is not UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, ManifestErrors> {
        let name = path.display().to_string();
        let (file, metadata) = open_regular(path).map_err(|error| open_error(&name, &error))?;
        if metadata.len() > MAX_BYTES {
            return Err(too_large(&name, &format!("{} bytes", metadata.len())).into());
        }
        Self::read_bounded::<File>(&name, file)
    }

    /// Reads standard input to its end, as the manifest `-`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is too large, or is not UTF-8 text.
    pub fn read_stdin() -> Result<Self, ManifestErrors> {
        Self::read_bounded("-", io::stdin().lock())
    }

    /// A manifest that is in memory already, under the name `file`.
    ///
    /// # Errors
    ///
    /// If it is too large or not UTF-8 text.
    pub fn from_bytes(file: &str, bytes: Vec<u8>) -> Result<Self, ManifestErrors> {
        if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_BYTES) {
            return Err(too_large(file, &format!("more than {MAX_BYTES} bytes")).into());
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                let before = String::from_utf8_lossy(&error.as_bytes()[..offset]);
                let found = format!("the byte 0x{:02x} at offset {offset}", error.as_bytes()[offset]);
                return Err(not_text(file, &before, found, "UTF-8 text").into());
            }
        };
        let body = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if let Some((offset, other)) = body.char_indices().find(|(_, c)| !is_printable(*c)) {
            let offset = text.len() - body.len() + offset;
            let found = format!("the control character {other:?} at offset {offset}");
            return Err(not_text(file, &text[..offset], found, "text").into());
        }
        Ok(Self { file: file.to_owned(), text })
    }

    fn read_bounded<R: Read>(name: &str, reader: R) -> Result<Self, ManifestErrors> {
        let mut bytes = Vec::new();
        reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| read_error(name, &error))?;
        Self::from_bytes(name, bytes)
    }

    /// The name under which messages mention the manifest.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Whether YAML 1.1 allows the character (5.1, Character Set), as its scanner has it.
fn is_printable(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..) && c != '\u{feff}'
}

fn io_error(file: &str, found: String, expected: &str) -> ManifestError {
    ManifestError {
        kind: ErrorKind::Io,
        file: file.to_owned(),
        position: None,
        path: KeyPath::root(),
        found,
        expected: expected.to_owned(),
        hint: None,
        message: None,
    }
}

fn read_error(file: &str, error: &io::Error) -> ManifestError {
    ManifestError {
        message: Some(format!("cannot read: {error}")),
        ..io_error(file, error.to_string(), "a readable file")
    }
}

fn open_error(file: &str, error: &OpenError) -> ManifestError {
    match error {
        OpenError::NotRegular { kind, .. } => io_error(file, (*kind).to_owned(), "a regular file"),
        OpenError::Io { source, .. } => ManifestError {
            message: Some(format!("cannot open: {source}")),
            ..io_error(file, source.to_string(), "a readable file")
        },
    }
}

fn too_large(file: &str, found: &str) -> ManifestError {
    ManifestError {
        kind: ErrorKind::TooLarge,
        ..io_error(file, found.to_owned(), &format!("a manifest of at most {MAX_BYTES} bytes"))
    }
}

fn not_text(file: &str, before: &str, found: String, expected: &str) -> ManifestError {
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let position = Position {
        line: count(before.bytes().filter(|b| *b == b'\n').count() + 1),
        column: count(before[line_start..].chars().count() + 1),
    };
    ManifestError { kind: ErrorKind::Syntax, position: Some(position), ..io_error(file, found, expected) }
}
