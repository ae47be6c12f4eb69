//! The tests, by what they are about.

mod delete;

use crate::harness::runner::Suite;

/// All suites, in the order in which they run.
pub(crate) const ALL: &[Suite] = &[delete::SUITE];
