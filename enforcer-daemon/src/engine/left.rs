//! What is in force without a daemon, read from the pins.

use std::path::PathBuf;

use super::state::State;
use crate::kernel::{
    Kernel,
    contents::{self, Contents, Kept},
    enrol::Enroller,
    migrate,
    pins::{Set, Sets},
};

/// What a daemon left in force.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Left {
    /// The policy's file.
    pub policy: PathBuf,
    /// The generation in force.
    pub generation: u32,
    /// The skills' names.
    pub skills: Vec<String>,
    /// The version of the programs.
    pub version: String,
    /// Where they are pinned.
    pub pins: PathBuf,
}

/// What is in force, if anything is.
///
/// # Errors
/// When it is damaged or not understood.
pub fn left() -> anyhow::Result<Option<Left>> {
    let Some(set) = Sets::find()?.in_force else { return Ok(None) };
    let (contents, state): (_, State) = (Contents::read(&set)?, contents::kept(Kept::State, &set)?);
    Ok(Some(Left {
        policy: state.policy,
        generation: migrate::generation(&set)?.0,
        skills: state.skills.into_iter().collect(),
        version: contents.version,
        pins: set.dir().to_owned(),
    }))
}

/// Whether a process is in any skill.
///
/// # Errors
/// When the set is of another build, which this one cannot ask, or there is no such process.
pub fn is_governed(set: &Set, pid: u32) -> anyhow::Result<bool> {
    let kernel = Kernel::open(set)?;
    Ok(Enroller::new(&kernel)?.is_governed(&kernel, pid)?)
}
