//! The tests, by what they are about.

mod bad;
mod budget;
mod connect;
mod control;
mod delete;
mod digest;
mod entry;
mod exec;
mod files;
mod kernel;
mod lifecycle;
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
    digest::SUITE,
    connect::SUITE,
    subjects::SUITE,
    modes::SUITE,
    control::SUITE,
    walls::SUITE,
    files::SUITE,
    budget::SUITE,
    entry::SUITE,
    resolve::SUITE,
    lifecycle::SUITE,
    kernel::SUITE,
];
