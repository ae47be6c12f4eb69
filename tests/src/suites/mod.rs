//! The tests, by what they are about.

mod bad;
mod connect;
mod control;
mod delete;
mod exec;
mod kernel;
mod lifecycle;
mod modes;
mod places;
mod subjects;

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
    lifecycle::SUITE,
    kernel::SUITE,
];
