//! The tests, by what they are about.

mod bad;
mod budget;
mod connect;
mod control;
mod delete;
mod entry;
mod exec;
mod files;
mod kernel;
mod lifecycle;
mod listen;
mod modes;
mod places;
mod resolve;
mod sockets;
mod subjects;
mod unix;
mod walls;
mod withdraw;

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
    unix::SUITE,
    listen::SUITE,
    sockets::SUITE,
    withdraw::SUITE,
    lifecycle::SUITE,
    kernel::SUITE,
];
