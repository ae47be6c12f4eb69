//! Where the keys and the list entries of a manifest stand.

use std::collections::HashMap;

use super::error::{KeyPath, Position};

/// The places of a manifest's keys and list entries, by their paths.
///
/// Entries are kept as one array per list: a policy may have a hundred thousand of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    keys: HashMap<KeyPath, Position>,
    lists: HashMap<String, Vec<Position>>,
}

impl Spans {
    /// Notes the place of a key.
    pub(crate) fn key(&mut self, path: KeyPath, at: Position) {
        self.keys.insert(path, at);
    }

    /// Notes the places of a list's entries.
    pub(crate) fn list(&mut self, path: &KeyPath, entries: Vec<Position>) {
        self.lists.insert(path.as_str().to_owned(), entries);
    }

    /// The place of the key or the entry that `path` leads to.
    pub(crate) fn get(&self, path: &KeyPath) -> Option<Position> {
        if path.is_root() {
            return Some(Position::START);
        }
        if let Some(at) = self.keys.get(path) {
            return Some(*at);
        }
        let (list, index) = path.split_index()?;
        self.lists.get(list)?.get(index).copied()
    }
}
