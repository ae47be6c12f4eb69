//! What the daemon knows and the maps do not say. It is pinned beside them, so that the next daemon goes on where this one was.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{first::FirstDigests, resolving::Arranged};
use crate::{
    compile::{Ids, world::Loaded},
    kernel::{
        contents::{self, Kept},
        pins::{PinError, Set},
    },
    names::Addresses,
};

/// What is kept. A build that knows more keys reads those of an older one with what stands for "nothing", and one that knows
/// fewer leaves the others out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// The manifest in force.
    pub(super) policy: PathBuf,
    /// The SHA-256 of its text, by which the next daemon knows whether it is the same.
    pub(super) manifest: String,
    /// What `~` means in it.
    pub(super) home: PathBuf,
    /// The numbers of skills and rules: labels and events have them.
    pub(super) ids: Ids,
    /// What was found when the policy was loaded.
    pub(super) loaded: Loaded,
    /// Cgroups that were attached by hand, with their skills; they stay over reloads.
    pub(super) attached: BTreeMap<String, String>,
    /// Containers and units that were attached by hand, by the id of their cgroup, with their skills.
    pub(super) members: BTreeMap<u64, String>,
    /// What the binaries of containers were when they were first measured.
    pub(super) first: FirstDigests,
    /// How they ask for names, by the id of their cgroup.
    pub(super) arranged: BTreeMap<u64, Arranged>,
    /// The names of skills that are in force.
    pub(super) skills: BTreeSet<String>,
}

/// Keeps the state in the set of pins, and beside it the addresses that names have, which are open until the next daemon has
/// asked. Each is written only when it changed.
pub(super) struct Keeper {
    /// What the set has; `None` when it has none yet.
    state: Option<State>,
    names: Option<Addresses>,
}

impl Keeper {
    /// With what the set has, if a daemon before this one kept it there.
    pub(super) fn new(state: Option<State>, names: Option<Addresses>) -> Self {
        Self { state, names }
    }

    /// Keeps a state.
    pub(super) fn keep(&mut self, state: State, set: &Set) -> Result<(), PinError> {
        if self.state.as_ref() != Some(&state) {
            contents::keep(Kept::State, &state, set)?;
            self.state = Some(state);
        }
        Ok(())
    }

    /// Keeps new numbers, before anything has them. The rest stays: it is of the policy in force.
    pub(super) fn keep_ids(&mut self, ids: &Ids, set: &Set) -> Result<(), PinError> {
        if self.state.as_ref().is_none_or(|state| state.ids != *ids) {
            let state = State { ids: ids.clone(), ..self.state.clone().unwrap_or_default() };
            return self.keep(state, set);
        }
        Ok(())
    }

    /// Keeps the addresses that names have.
    pub(super) fn keep_names(&mut self, names: &Addresses, set: &Set) -> Result<(), PinError> {
        if self.names.as_ref() != Some(names) {
            contents::keep(Kept::Names, names, set)?;
            self.names = Some(names.clone());
        }
        Ok(())
    }
}
