//! Carries over what a set that is in force knows into the one that replaces it, while both are attached.
//!
//! Both give their verdicts meanwhile, and the stricter one holds. What they have in common over all layouts: the numbers of
//! skills, the beginning of a label ([`enforcer_common::task::Inherited`]), and the values of `BUDGETS`, `SOCKETS` and
//! `CONTENTS`; of the last two both use the same map. Which cgroups are governed comes from the policy, which is in force in the newer set before any task has a label in it.

use std::time::Instant;

use aya::maps::{Array, HashMap, MapData, MapError};
use enforcer_common::{
    ids::{Generation, SkillId},
    names::map,
    rules::{Budget, PolicyState},
    task::Enrolment,
};

use super::{Kernel, LoadError, enrol::EnrolError, load::open_map, passing, pins::Set};

/// How many passes are made before giving up on tasks or counts that change faster than they are carried over.
const MAX_PASSES: u32 = 64;

/// Why labels could not be carried over. The set before stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// A map could not be opened: its layout is one that cannot be carried over.
    #[error("what is in force cannot be carried over: {0}; `enforcer unload` ends it, and then this version can start")]
    Open(#[from] LoadError),
    /// A map could not be read or written.
    #[error("carrying over map `{map}`: {cause}")]
    Map {
        /// The map.
        map: &'static str,
        /// The kernel's words.
        cause: String,
    },
    /// The tasks could not be walked.
    #[error(transparent)]
    Walk(#[from] EnrolError),
}

fn failed(map: &'static str) -> impl Fn(MapError) -> MigrateError {
    move |e| MigrateError::Map { map, cause: e.to_string() }
}

/// The generation that is in force in a set.
///
/// # Errors
/// When it cannot be read.
pub fn generation(set: &Set) -> Result<Generation, MigrateError> {
    let policy: Array<MapData, PolicyState> = open_map(set, map::POLICY)?;
    Ok(policy.get(&0, 0).map_err(failed(map::POLICY))?.generation)
}

/// Carries over the label of every task. The kernel program looks at the old label while it holds the task, so that none is
/// given to another task at the same address; a task that is made meanwhile has its parent's label in both sets.
///
/// # Errors
/// When a label finds no room, or tasks are made faster than they can be looked at.
pub fn tasks(kernel: &Kernel) -> Result<(), MigrateError> {
    let mut request: Array<MapData, Enrolment> = kernel.map(map::ENROL)?;
    let walk = |e: std::io::Error| EnrolError::Iterator(e.to_string());
    for _ in 0..MAX_PASSES {
        request.set(0, Enrolment::default(), 0).map_err(failed(map::ENROL))?;
        kernel.iterate("inherit").map_err(walk)?;
        let outcome = request.get(&0, 0).map_err(failed(map::ENROL))?;
        if outcome.failed > 0 {
            return Err(MigrateError::Map { map: map::TASKS, cause: "there is no room for every label".into() });
        }
        if outcome.labelled == 0 {
            return Ok(());
        }
    }
    Err(MigrateError::Map { map: map::TASKS, cause: "processes are made faster than they are carried over".into() })
}

/// Carries over how much of their budgets the skills have used up. Both sets charge for every delete meanwhile.
///
/// # Errors
/// When the kernel does not take one, or deletes go on faster than they are carried over.
pub fn budgets(before: &Set, kernel: &Kernel) -> Result<(), MigrateError> {
    let old: HashMap<MapData, SkillId, Budget> = open_map(before, map::BUDGETS)?;
    let mut new: HashMap<MapData, SkillId, Budget> = kernel.map(map::BUDGETS)?;
    for entry in &old {
        let (skill, mut budget) = entry.map_err(failed(map::BUDGETS))?;
        let mut passes = 0;
        loop {
            new.insert(skill, budget, 0).map_err(failed(map::BUDGETS))?;
            // A program that has counted in one set may have yet to count in the other.
            passing::wait(Instant::now());
            let now = old.get(&skill, 0).map_err(failed(map::BUDGETS))?;
            if now.count == budget.count {
                break;
            }
            budget = now;
            passes += 1;
            if passes == MAX_PASSES {
                return Err(MigrateError::Map { map: map::BUDGETS, cause: "deletes do not stop for a moment".into() });
            }
        }
    }
    Ok(())
}
