//! The tests, by what they are about.

mod bad;
mod budget;
mod connect;
mod control;
mod delete;
mod entry;
mod exec;
mod files;
mod jit;
mod kernel;
mod lifecycle;
mod mapping;
mod modes;
mod places;
mod resolve;
mod subjects;
mod walls;

use crate::harness::runner::Suite;

/// All suites, in the order in which they run.
pub(crate) const ALL: &[Suite] = &[
    delete::SUITE,
    places::SUITE,
    exec::SUITE,
    connect::SUITE,
    subjects::SUITE,
    modes::SUITE,
    control::SUITE,
    walls::SUITE,
    files::SUITE,
    budget::SUITE,
    entry::SUITE,
    resolve::SUITE,
    mapping::SUITE,
    jit::SUITE,
    lifecycle::SUITE,
    kernel::SUITE,
];
