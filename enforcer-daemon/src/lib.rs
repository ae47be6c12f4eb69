//! The userspace of Enforcer.

pub mod cli;
pub mod hash;
pub mod manifest;
