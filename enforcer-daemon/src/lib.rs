//! The userspace of Enforcer.

pub mod hash;
pub mod manifest;
