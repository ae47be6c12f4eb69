//! The tests, by what they are about.

mod connect;
mod delete;
mod exec;
mod places;
mod subjects;

use crate::harness::runner::Suite;

/// All suites, in the order in which they run.
pub(crate) const ALL: &[Suite] = &[delete::SUITE, places::SUITE, exec::SUITE, connect::SUITE, subjects::SUITE];
