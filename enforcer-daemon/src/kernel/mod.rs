//! The kernel's side of the daemon: find the field offsets, load and attach the programs, write the maps.
//!
//! [`offsets`] reads the running kernel's BTF, [`programs`] lists what is attached where, [`load`] does it,
//! [`pins`] keeps it in bpffs, [`contents`] says what lies there, [`migrate`] carries labels into a newer set,
//! [`maps`] applies a compiled policy, [`resolve`] asks the kernel for the identity of a file, [`enrol`] puts a process
//! into a skill, [`measuring`] tells what files contain, [`host`] tells the programs about the host, [`sockets`] closes what a process may not have,
//! [`ringbuf`] reads what the programs report.

pub mod cgroups;
pub mod contents;
pub mod elder;
pub mod enrol;
pub mod host;
pub mod load;
pub mod maps;
pub mod measuring;
pub mod migrate;
mod object;
pub mod offsets;
pub mod passing;
pub mod pins;
pub mod programs;
pub mod release;
pub mod resolve;
pub mod ringbuf;
pub mod sockets;
mod versions;

pub use load::{Kernel, LoadError};
