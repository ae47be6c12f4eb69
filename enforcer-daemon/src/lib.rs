//! The userspace of Enforcer.
