//! The userspace of Enforcer: compiles the Claw Policy Manifest, loads the kernel programs, streams events.
//!
//! The data's way is one line: YAML → [`manifest`] → [`compile`] → [`kernel`] maps → hook → ring buffer → [`events`] → sinks.
//! [`engine`] owns the kernel side, [`service`] puts it together with the event stream and the [`control`] socket,
//! [`cli`] is the command line.

pub mod ask;
pub mod checks;
pub mod cli;
pub mod compile;
pub mod control;
mod elf;
pub mod engine;
pub mod events;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod hash;
pub mod ima;
pub mod kernel;
pub mod manifest;
pub mod measure;
pub mod memory;
pub mod mounts;
pub mod names;
pub mod notify;
pub mod own;
pub mod pins;
pub mod replace;
pub mod service;
pub mod users;
pub mod watch;
pub mod workload;
