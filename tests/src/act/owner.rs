//! The owners of files: whom the kernel signals when there is something to read.

use super::{
    Act, Failure,
    sys::{self, c, check, fd, prepare},
    tty::terminal,
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("own-a-fifo", [path, owner, signal]) => fifo(path, owner, signal, set),
        ("own-a-fifo-ex", [path, owner, signal]) => fifo(path, owner, signal, set_ex),
        ("own-a-fifo-myself", [path, signal]) => {
            // In a pid namespace of its own, the number that it has there.
            fifo(path, &std::process::id().to_string(), signal, set)
        }
        ("own-a-socket", [call, owner]) => socket(call, owner),
        ("own-nobody", []) => pipe().and_then(|pipe| set(pipe[0], 0)),
        ("own-the-foreground", [way]) => foreground(way),
        _ => return None,
    })
}

/// `include/uapi/asm-generic/fcntl.h`.
const F_SETSIG: i32 = 10;

/// Makes a process the owner, or a group.
pub(super) fn set(file: i32, owner: i32) -> Act {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(file, libc::F_SETOWN, owner) }).map(drop)
}

/// The same by an argument in memory.
fn set_ex(file: i32, owner: i32) -> Act {
    const F_SETOWN_EX: i32 = 15;
    const F_OWNER_PID: i32 = 1;
    let owner = [F_OWNER_PID, owner];
    // SAFETY: the owner is as `struct f_owner_ex` has it, and lives through the call.
    check(unsafe { libc::fcntl(file, F_SETOWN_EX, owner.as_ptr()) }).map(drop)
}

/// Lets the kernel send a signal when there is something to read.
pub(super) fn ask_for_signals(file: i32, signal: i32) -> Act {
    // SAFETY: no pointers.
    unsafe {
        check(libc::fcntl(file, F_SETSIG, signal))?;
        check(libc::fcntl(file, libc::F_SETFL, libc::O_ASYNC)).map(drop)
    }
}

pub(super) fn pipe() -> Result<[i32; 2], Failure> {
    let mut pipe = [0; 2];
    // SAFETY: the array takes the two descriptors.
    prepare("pipe", unsafe { libc::pipe(pipe.as_mut_ptr()) })?;
    Ok(pipe)
}

/// Opens a pipe that has a name, and has a process signalled when somebody writes to it. It stays open until the process ends.
fn fifo(path: &str, owner: &str, signal: &str, set: fn(i32, i32) -> Act) -> Act {
    let (owner, signal, path) = (sys::number(owner)?, sys::number(signal)?, c(path)?);
    // SAFETY: the path ends with NUL and lives through the call.
    let file = fd(prepare("open", unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK) })?);
    set(file, owner)?;
    ask_for_signals(file, signal)
}

/// Makes a process the owner of a socket by an ioctl.
fn socket(call: &str, owner: &str) -> Act {
    const FIOSETOWN: libc::c_ulong = 0x8901;
    const SIOCSPGRP: libc::c_ulong = 0x8902;
    let owner: i32 = sys::number(owner)?;
    let call = if call == "fiosetown" { FIOSETOWN } else { SIOCSPGRP };
    // SAFETY: the owner lives through the call.
    unsafe {
        let socket = fd(prepare("socket", libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0))?);
        check(libc::ioctl(socket, call, &raw const owner)).map(drop)
    }
}

/// Asks for the signals of a terminal that nobody owns, of which those in its foreground become the owners.
fn foreground(way: &str) -> Act {
    let on: i32 = 1;
    let terminal = terminal()?;
    // SAFETY: the number lives through the call.
    check(unsafe {
        if way == "ioctl" {
            libc::ioctl(terminal, libc::FIOASYNC, &raw const on)
        } else {
            libc::fcntl(terminal, libc::F_SETFL, libc::O_ASYNC)
        }
    })
    .map(drop)
}
