//! The attacker: single acts by raw system calls.
//!
//! An act is a list of words: an act's name with its arguments, after any number of ways to do it (`thread`,
//! `double-fork`, `unshare user,mount`, `chroot DIR`, …). Its result is the errno of the call that matters.

mod code;
mod content;
mod dns;
mod entry32;
mod exec;
mod file;
mod host;
mod net;
mod network;
mod odd;
mod owner;
mod passing;
mod process;
mod socket;
mod sys;
mod tamper;
mod tty;
mod unix;
mod uring;
mod way;
pub(crate) mod worker;
mod write;

pub(crate) use code::RAN;
pub(crate) use net::TOKEN;
pub(crate) use tamper::new_map;
pub(crate) use tty::NO_ENTRY;
pub(crate) use uring::new_ring;
pub(crate) use write::ATTRIBUTE;

use std::{fmt, io};

/// The status of an act that was not understood or could not be prepared: no errno of Linux.
const BROKEN: u8 = 250;

/// Why an act was not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel said no to the call that matters.
    Errno(i32),
    /// It did not come to that.
    Broken(String),
}

/// What comes of an act.
pub(crate) type Act = Result<(), Failure>;

impl Failure {
    /// The kernel said no to a call of the standard library. An error without an errno is none of the kernel's.
    pub(crate) fn of(error: &io::Error) -> Self {
        error.raw_os_error().map_or_else(|| Self::broken(error), Self::Errno)
    }

    /// The act could not be prepared.
    pub(crate) fn broken(what: impl fmt::Display) -> Self {
        Self::Broken(what.to_string())
    }
}

/// Does an act and turns it into an exit status.
pub(crate) fn status(words: &[&str]) -> u8 {
    match perform(words) {
        Ok(()) => 0,
        Err(Failure::Errno(errno)) => u8::try_from(errno).ok().filter(|errno| *errno != 0).unwrap_or(BROKEN),
        Err(Failure::Broken(what)) => {
            println!("{}: {what}", words.join(" "));
            BROKEN
        }
    }
}

/// Does an act.
pub(crate) fn perform(words: &[&str]) -> Act {
    let Some((name, rest)) = words.split_first() else { return Err(Failure::broken("no act")) };
    // The families know their own names; the first that does takes it.
    [
        way::perform,
        file::perform,
        write::perform,
        code::perform,
        net::perform,
        network::perform,
        exec::perform,
        process::perform,
        passing::perform,
        uring::perform,
        socket::perform,
        unix::perform,
        tamper::perform,
        content::perform,
        odd::perform,
        dns::perform,
        tty::perform,
        entry32::perform,
        host::perform,
        owner::perform,
    ]
    .iter()
    .find_map(|family| family(name, rest))
    .unwrap_or_else(|| Err(Failure::broken("no such act, or not with these arguments")))
}
