//! The kernel programs of Enforcer.
//!
//! Thin on purpose: a program finds out who acts ([`subject`]), reads the facts of the act from kernel structures
//! ([`kernel`]), lets the decision core of `enforcer-common` decide over the maps ([`policy`]), writes the event
//! ([`report`]) and returns the verdict ([`verdict`]). One module per family of hooks: [`exec`], [`mapping`], [`file`],
//! [`net`], [`task`], [`wall`], [`owner`], [`queue`], [`tamper`], [`privilege`], [`mount`]; [`resolve`] tells the daemon what the kernel calls a file.
#![no_std]
#![no_main]
#![allow(unreachable_pub, reason = "a program is found by its symbol; in a binary crate nothing is reachable")]
#![allow(clippy::needless_pass_by_value, reason = "the program macros hand the context over by value")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a checked conversion brings a panic that the verifier refuses; each cast is of a value that fits"
)]
// `verdict` writes return values as opaque constants; see there.
#![feature(asm_experimental_arch)]

mod ascent;
mod atomic;
mod budget;
mod clear;
mod digest;
mod exec;
mod file;
mod kernel;
mod label;
mod mapping;
mod maps;
mod mount;
mod net;
mod opaque;
mod owner;
mod policy;
mod privilege;
mod queue;
mod repeat;
mod report;
mod resolve;
mod socket;
mod subject;
mod tamper;
mod task;
mod unit;
mod unix;
mod verdict;
mod wall;

/// The programs call helpers that the kernel gives to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing panics: the verifier would refuse the loop below if it could be reached.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
