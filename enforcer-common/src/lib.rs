//! What the kernel programs and the daemon of Enforcer share.
//!
//! One crate holds the boundary's ABI: ids ([`ids`]), the names of maps and programs ([`names`]), the layouts of map
//! keys and values ([`rules`], [`net`], [`task`]), the events ([`event`]), and the decision core ([`decide`]) that both
//! sides compile: the kernel runs it over BPF maps, the host's tests run it over a model.
//!
//! The crate is `no_std` and has no `unsafe` but the `Pod` markers behind the `user` feature.
#![no_std]
#![expect(
    clippy::cast_possible_truncation,
    reason = "a checked conversion brings a panic or a branch into the kernel programs; each cast is of a value that fits"
)]

pub mod content;
pub mod decide;
pub mod event;
pub mod host;
pub mod ids;
pub mod names;
pub mod net;
pub mod offsets;
#[cfg(feature = "user")]
mod pod;
pub mod rules;
pub mod task;
pub mod unit;

/// The layout of everything in this crate. A pinned map or a running program with another number is not ours to adopt.
pub const LAYOUT_VERSION: u32 = if cfg!(feature = "next-layout") { 2 } else { 1 };
