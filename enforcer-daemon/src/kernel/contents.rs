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
use sha2::{Digest as _, Sha256};

use super::pins::{CONTENTS, MARK, NAMES, NEXT_MARK, NEXT_NAMES, NEXT_STATE, PinError, STATE, Set};

/// How many bytes of a text one element holds.
const CHUNK: usize = 4096;
/// The number that a mark begins with: it says how sets are laid out.
const FORMAT: u64 = 0x656e_666f_7263_0002;
/// The same of sets whose mark has one count of what was handed on instead of one for each sink.
const FORMAT_BEFORE: u64 = 0x656e_666f_7263_0001;

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

/// How many sinks a mark can count for.
pub const MOST_SINKS: u32 = 16;

/// The elements of a mark.
mod element {
    /// [`super::FORMAT`], and zeroes.
    pub(super) const FORMAT: u32 = 0;
    /// A [`super::Tally`].
    pub(super) const TALLY: u32 = 1;
    /// The first of those that say of a sink which it is, and how many of the events that were taken it has, and zeroes.
    pub(super) const SINKS: u32 = 2;
    /// How many there are.
    pub(super) const COUNT: u32 = SINKS + super::MOST_SINKS;
    /// How many there were in [`super::FORMAT_BEFORE`], of which the last counted what the first sink has.
    pub(super) const COUNT_BEFORE: u32 = 3;
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

/// What a sink has of the events that were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCount {
    /// Which one: the beginning of the SHA-256 of what it is called. 0 where there is none.
    pub sink: u64,
    /// How many of the events that were taken it has, or was told that it has lost.
    pub given: u64,
}

impl SinkCount {
    /// Whichever sink comes first.
    pub const ANY: u64 = u64::MAX;

    /// Which sink it is that is called so.
    #[must_use]
    pub fn key(sink: &str) -> u64 {
        let digest: [u8; 32] = Sha256::digest(sink).into();
        digest.first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes).clamp(1, Self::ANY - 1))
    }

    fn words(self) -> [u64; WORDS] {
        let mut words = first(self.given);
        words[1] = self.sink;
        words
    }

    fn from_words([given, sink, ..]: [u64; WORDS]) -> Self {
        Self { sink, given }
    }
}

impl Mark {
    /// Marks a set as complete, with the counts that it begins with: none, or those of the set that it replaces.
    ///
    /// # Errors
    /// When bpffs does not take it.
    pub fn set(set: &Set, before: Option<&Self>) -> Result<(), PinError> {
        // How many of its losses were reported is the business of the ring before.
        let tally = before.map(|mark| Tally { reported: 0, ..mark.tally() }).unwrap_or_default();
        Self::pin(&set.beside(MARK), &tally, &before.map(Self::sinks).unwrap_or_default())
    }

    /// The mark of a set that this build works with; one of the format before is replaced.
    ///
    /// # Errors
    /// When it is not what this build calls a mark, or bpffs does not take a new one.
    pub fn current(set: &Set) -> Result<Self, PinError> {
        let mark = Self::get(set)?;
        if mark.0.len() == element::COUNT {
            return Ok(mark);
        }
        let (path, next) = (set.beside(MARK), set.beside(NEXT_MARK));
        // What a daemon left that ended here.
        let _ = fs::remove_file(&next);
        Self::pin(&next, &mark.tally(), &mark.sinks())?;
        fs::rename(&next, &path).map_err(|e| PinError::io(&path, &e))?;
        Self::get(set)
    }

    fn pin(path: &Path, tally: &Tally, sinks: &[SinkCount]) -> Result<(), PinError> {
        let failed = |e: aya::maps::MapError| PinError::io(path, &e);
        let mut array: Array<_, [u64; WORDS]> = Array::create(element::COUNT, 0).map_err(failed)?;
        array.set(element::FORMAT, first(FORMAT), 0).map_err(failed)?;
        array.set(element::TALLY, tally.words(), 0).map_err(failed)?;
        for (index, sink) in (element::SINKS..element::COUNT).zip(sinks) {
            array.set(index, sink.words(), 0).map_err(failed)?;
        }
        array.pin(path).map_err(|e| PinError::io(path, &e))
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
        match (array.get(&element::FORMAT, 0), array.len()) {
            (Ok([FORMAT, ..]), element::COUNT) | (Ok([FORMAT_BEFORE, ..]), element::COUNT_BEFORE) => Ok(Self(array)),
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

    /// What each sink has of the events that were taken, those that have a count.
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkCount> {
        if self.0.len() == element::COUNT_BEFORE {
            // It counted for the first sink alone, whichever that was.
            return vec![SinkCount { sink: SinkCount::ANY, given: self.read(element::SINKS)[0] }];
        }
        (element::SINKS..element::COUNT).map(|index| SinkCount::from_words(self.read(index))).collect()
    }

    /// Remembers what a sink has, the one at this place of [`Mark::sinks`].
    pub fn give(&mut self, place: u32, count: SinkCount) {
        self.write(element::SINKS + place.min(MOST_SINKS - 1), count.words());
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
