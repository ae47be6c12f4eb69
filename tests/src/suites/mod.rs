//! The tests, by what they are about.

mod bad;
mod budget;
mod certificate;
mod connect;
mod control;
mod delete;
mod devices;
mod digest;
mod elder;
mod entry;
mod entry32;
mod exec;
mod files;
mod full;
mod host;
mod jit;
mod kernel;
mod lifecycle;
mod listen;
mod mapping;
mod measured;
mod modes;
mod names;
mod networks;
mod package;
mod parents;
mod pin;
mod pins;
mod places;
mod queues;
mod resolve;
mod resolving;
mod runtime;
mod servers;
mod sinks;
mod sockets;
mod start;
mod storm;
mod subjects;
mod systemd;
mod tamper;
mod unix;
mod unload;
mod walls;
mod withdraw;
mod workloads;
mod writes;

use crate::harness::runner::{Place, Suite};

/// The suites of a kind of guest, in the order in which they run.
pub(crate) fn of(place: Place) -> &'static [Suite] {
    match place {
        Place::Plain => PLAIN,
        Place::Loads => LOADS,
        Place::Ima => IMA,
        Place::Elder => ELDER,
        Place::Agents => AGENTS,
        Place::Systemd => SYSTEMD,
    }
}

const AGENTS: &[Suite] = &[runtime::SUITE, servers::SUITE, kernel::SUITE];

const IMA: &[Suite] = &[measured::SUITE, kernel::SUITE];

// What the other object decides by other means, and what rests on walks: of the rest the code is the same.
const ELDER: &[Suite] = &[
    measured::SUITE,
    elder::SUITE,
    delete::SUITE,
    places::SUITE,
    connect::SUITE,
    walls::SUITE,
    tamper::SUITE,
    writes::SUITE,
    kernel::SUITE,
];

const SYSTEMD: &[Suite] = &[systemd::SUITE, package::SUITE, workloads::SUITE, resolving::SUITE, kernel::SUITE];

// Where one ends enforcement, the next has to load all programs anew, which takes as long as a hundred tests: each is behind what may leave its
// programs to it.
const LOADS: &[Suite] = &[
    lifecycle::SUITE,
    pins::SUITE,
    start::SUITE,
    storm::SUITE,
    unload::SUITE,
    full::SUITE,
    certificate::SUITE,
    storm::UPGRADES,
    measured::LATER,
    kernel::SUITE,
];

const PLAIN: &[Suite] = &[
    delete::SUITE,
    places::SUITE,
    exec::SUITE,
    digest::SUITE,
    connect::SUITE,
    subjects::SUITE,
    modes::SUITE,
    control::SUITE,
    walls::SUITE,
    tamper::SUITE,
    host::SUITE,
    devices::SUITE,
    files::SUITE,
    writes::SUITE,
    queues::SUITE,
    budget::SUITE,
    entry::SUITE,
    entry32::SUITE,
    resolve::SUITE,
    names::SUITE,
    unix::SUITE,
    listen::SUITE,
    sockets::SUITE,
    withdraw::SUITE,
    networks::SUITE,
    pin::SUITE,
    sinks::SUITE,
    mapping::SUITE,
    jit::SUITE,
    parents::SUITE,
    kernel::SUITE,
];
