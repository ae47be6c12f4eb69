//! What a set holds, written down when it is made: by it another daemon knows whether the set is whole, and of which build.
//!
//! Texts lie in arrays that are pinned beside the rest, so that they live and die with what they describe.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Array, MapData, MapInfo},
    programs::{
        ProgramInfo,
        links::{FdLink, PinnedLink},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::pins::{CONTENTS, MARK, NAMES, NEXT_NAMES, NEXT_STATE, PinError, STATE, Set};

/// How many bytes of a text one element holds.
const CHUNK: usize = 4096;
/// The number that a mark begins with: it says how sets are laid out.
const FORMAT: u64 = 0x656e_666f_7263_0001;

/// The program of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The kernel's number, unique since the boot.
    pub id: u32,
    /// What the kernel calls its instructions.
    pub tag: String,
    /// The number of its link; an iterator has one, too.
    pub link: u32,
}

/// What a set holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contents {
    /// The version of the daemon that made it.
    pub version: String,
    /// [`enforcer_common::LAYOUT_VERSION`] of it.
    pub layout: u32,
    /// The SHA-256 of the kernel object.
    pub object: String,
    /// Which sizes of maps were asked for.
    pub sizes: String,
    /// The maps with their numbers.
    pub maps: BTreeMap<String, u32>,
    /// The programs.
    pub programs: BTreeMap<String, Program>,
}

impl Contents {
    /// Writes down what a set holds.
    ///
    /// # Errors
    /// When bpffs does not take it.
    pub(super) fn write(&self, set: &Set) -> Result<(), PinError> {
        write(self, &set.beside(CONTENTS))
    }

    /// Reads what a set holds, and looks whether it does.
    ///
    /// # Errors
    /// When a pin is missing or is another one.
    pub fn read(set: &Set) -> Result<Self, PinError> {
        let damaged = |what: String| PinError::Damaged { set: set.dir().to_owned(), what };
        let contents: Self =
            read(&set.beside(CONTENTS)).map_err(|e| damaged(format!("what it holds is not known: {e}")))?;
        for (name, id) in &contents.maps {
            let found = MapInfo::from_pin(set.map(name)).map_err(|e| damaged(format!("map {name}: {e}")))?;
            if found.id() != *id {
                return Err(damaged(format!("map {name} is another one than was pinned")));
            }
        }
        for (name, program) in &contents.programs {
            let link = PinnedLink::from_pin(set.link(name)).and_then(|link| FdLink::from(link).info());
            let link = link.map_err(|e| damaged(format!("the link of program {name}: {e}")))?;
            let found =
                ProgramInfo::from_pin(set.program(name)).map_err(|e| damaged(format!("program {name}: {e}")))?;
            let same = found.id() == program.id && format!("{:016x}", found.tag()) == program.tag;
            if !same || link.id() != program.link || link.program_id() != program.id {
                return Err(damaged(format!("program {name} is another one than was pinned")));
            }
        }
        Ok(contents)
    }
}

/// The mark of a complete set, with what daemons keep count of over their own end.
///
/// An element is written as a whole by one system call (`kernel/bpf/arraymap.c: array_map_update_elem`): whoever is killed has
/// written all of it, or nothing.
pub struct Mark(Array<MapData, [u64; WORDS]>);

/// How many words an element of a mark has.
const WORDS: usize = 5;

/// The elements of a mark.
mod element {
    /// [`super::FORMAT`], and zeroes.
    pub(super) const FORMAT: u32 = 0;
    /// A [`super::Tally`].
    pub(super) const TALLY: u32 = 1;
    /// How many of the events that were taken were handed on, and zeroes.
    pub(super) const GIVEN: u32 = 2;
    /// How many there are.
    pub(super) const COUNT: u32 = 3;
}

/// Which event it is: a thread reports one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When it was decided.
    pub time_ns: u64,
    /// The thread.
    pub tid: u32,
}

/// What daemons took out of the rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many events were taken, or reported as lost.
    pub taken: u64,
    /// How many events that found the ring of this set full were reported.
    pub reported: u64,
    /// The event that was taken last. Until it has left the ring, it is there still.
    pub last: Stamp,
    /// The number of the last set that this one replaced and whose lost events were reported.
    pub closed: u32,
}

impl Tally {
    fn words(&self) -> [u64; WORDS] {
        [self.taken, self.reported, self.last.time_ns, self.last.tid.into(), self.closed.into()]
    }

    fn from_words([taken, reported, time_ns, tid, closed]: [u64; WORDS]) -> Self {
        let small = |word| u32::try_from(word).unwrap_or_default();
        Self { taken, reported, last: Stamp { time_ns, tid: small(tid) }, closed: small(closed) }
    }
}

impl Mark {
    /// Marks a set as complete, with the counts that it begins with.
    ///
    /// # Errors
    /// When bpffs does not take it.
    pub fn set(set: &Set, tally: &Tally, given: u64) -> Result<Self, PinError> {
        let path = set.beside(MARK);
        let failed = |e: aya::maps::MapError| PinError::io(&path, &e);
        let mut array: Array<_, [u64; WORDS]> = Array::create(element::COUNT, 0).map_err(failed)?;
        array.set(element::FORMAT, first(FORMAT), 0).map_err(failed)?;
        array.set(element::TALLY, tally.words(), 0).map_err(failed)?;
        array.set(element::GIVEN, first(given), 0).map_err(failed)?;
        array.pin(&path).map_err(|e| PinError::io(&path, &e))?;
        Self::get(set)
    }

    /// The mark of a set that is complete.
    ///
    /// # Errors
    /// When it is not what this build calls a mark.
    pub fn get(set: &Set) -> Result<Self, PinError> {
        let damaged = |what: String| PinError::Damaged { set: set.dir().to_owned(), what };
        let other = || damaged("its mark is not one that this build understands".into());
        let map = MapData::from_pin(set.beside(MARK)).map_err(|e| damaged(format!("its mark: {e}")))?;
        let array: Array<_, [u64; WORDS]> =
            aya::maps::Map::from_map_data(map).and_then(TryInto::try_into).map_err(|_| other())?;
        match array.get(&element::FORMAT, 0) {
            Ok([FORMAT, ..]) if array.len() == element::COUNT => Ok(Self(array)),
            _ => Err(other()),
        }
    }

    /// What was taken.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally::from_words(self.read(element::TALLY))
    }

    /// Remembers what was taken.
    pub fn keep(&mut self, tally: &Tally) {
        self.write(element::TALLY, tally.words());
    }

    /// How many of the events that were taken were handed on.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.read(element::GIVEN)[0]
    }

    /// Remembers how many were handed on.
    pub fn give(&mut self, count: u64) {
        self.write(element::GIVEN, first(count));
    }

    fn read(&self, element: u32) -> [u64; WORDS] {
        self.0.get(&element, 0).unwrap_or_default()
    }

    fn write(&mut self, element: u32, words: [u64; WORDS]) {
        if let Err(e) = self.0.set(element, words, 0) {
            tracing::error!("the count of events is not kept: {e}");
        }
    }
}

/// An element that is one number.
fn first(word: u64) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    words[0] = word;
    words
}

/// The texts that a set keeps for the daemons to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// What changes with the policy.
    State,
    /// The addresses that names have, which change all the time.
    Names,
}

impl Kept {
    /// Its pin, and that of the one that is to take its place.
    fn pins(self, set: &Set) -> (PathBuf, PathBuf) {
        let (now, next) = match self {
            Self::State => (STATE, NEXT_STATE),
            Self::Names => (NAMES, NEXT_NAMES),
        };
        (set.beside(now), set.beside(next))
    }
}

/// Replaces a text that a set keeps, as a whole.
///
/// # Errors
/// When bpffs does not take it; then the one before stays.
pub fn keep(kept: Kept, value: &impl Serialize, set: &Set) -> Result<(), PinError> {
    let (path, next) = kept.pins(set);
    // What a daemon left that ended here.
    let _ = fs::remove_file(&next);
    write(value, &next)?;
    fs::rename(&next, &path).map_err(|e| PinError::io(&path, &e))
}

/// Whether a set keeps this.
#[must_use]
pub fn has(kept: Kept, set: &Set) -> bool {
    kept.pins(set).0.exists()
}

/// Reads a text that a set keeps.
///
/// # Errors
/// When there is none, or this build does not understand it.
pub fn kept<T: DeserializeOwned>(kept: Kept, set: &Set) -> Result<T, PinError> {
    read(&kept.pins(set).0)
        .map_err(|e| PinError::Damaged { set: set.dir().to_owned(), what: format!("what its daemon knew: {e}") })
}

/// Writes a text with its length in front, in elements of [`CHUNK`] bytes.
fn write(value: &impl Serialize, path: &Path) -> Result<(), PinError> {
    let failed = |e: &dyn std::fmt::Display| PinError::io(path, e);
    let text = serde_json::to_vec(value).map_err(|e| failed(&e))?;
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    let count = u32::try_from(bytes.len().div_ceil(CHUNK)).map_err(|e| failed(&e))?;
    let mut array: Array<_, [u8; CHUNK]> = Array::create(count, 0).map_err(|e| failed(&e))?;
    for (index, part) in (0..).zip(bytes.chunks(CHUNK)) {
        let mut chunk = [0; CHUNK];
        chunk[..part.len()].copy_from_slice(part);
        array.set(index, chunk, 0).map_err(|e| failed(&e))?;
    }
    array.pin(path).map_err(|e| failed(&e))
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let array: Array<_, [u8; CHUNK]> = aya::maps::Map::from_map_data(MapData::from_pin(path)?)?.try_into()?;
    let mut bytes = vec![];
    for chunk in array.iter() {
        bytes.extend(chunk?);
    }
    let (length, text) = bytes.split_first_chunk().ok_or_else(|| anyhow::anyhow!("it is empty"))?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let text = text.get(..length).ok_or_else(|| anyhow::anyhow!("it is cut off"))?;
    Ok(serde_json::from_slice(text)?)
}
