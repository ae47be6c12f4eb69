//! Acts on other processes.

use super::{
    Act, Failure, owner,
    sys::{self, check},
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    if name == "traced" {
        return Some(traced(words));
    }
    let [pid, rest @ ..] = words else { return None };
    let Ok(pid) = pid.parse::<i32>() else { return None };
    Some(match (name, rest) {
        ("kill", [signal]) => sys::number(signal).and_then(|signal| kill(pid, signal)),
        ("tgkill", [signal]) => sys::number(signal).and_then(|signal: i32| {
            // SAFETY: no pointers.
            check(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, signal) }).map(drop)
        }),
        ("pidfd-kill", [signal]) => sys::number(signal).and_then(|signal| pidfd_kill(pid, signal)),
        ("signal-of-a-file", [signal]) => sys::number(signal).and_then(|signal| signal_of_a_file(pid, signal)),
        ("ptrace-attach", []) => ptrace(libc::PTRACE_ATTACH, pid),
        ("ptrace-seize", []) => ptrace(libc::PTRACE_SEIZE, pid),
        ("read-memory", []) => read_memory(pid),
        ("write-memory", [address]) => sys::number(address).and_then(|address| write_memory(pid, address)),
        ("poke-memory", [address]) => sys::number(address).and_then(|address| poke_memory(pid, address)),
        ("write-mem-file", [address]) => sys::number(address).and_then(|address| write_mem_file(pid, address)),
        ("advise-memory", [address]) => sys::number(address).and_then(|address| advise_memory(pid, address)),
        ("write-proc", [file]) => std::fs::File::options()
            .write(true)
            .open(format!("/proc/{pid}/{file}"))
            .map(drop)
            .map_err(|e| Failure::of(&e)),
        ("put-proc", [file, text]) => super::file::put(&format!("/proc/{pid}/{file}"), text),
        ("read-proc", [file]) => std::fs::read(format!("/proc/{pid}/{file}")).map(drop).map_err(|e| Failure::of(&e)),
        ("list-proc", [dir]) => std::fs::read_dir(format!("/proc/{pid}/{dir}")).map(drop).map_err(|e| Failure::of(&e)),
        ("follow-proc", [link]) => {
            std::fs::read_link(format!("/proc/{pid}/{link}")).map(drop).map_err(|e| Failure::of(&e))
        }
        ("pidfd-getfd", []) => pidfd(pid).and_then(|pidfd| {
            // SAFETY: no pointers.
            check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0) }).map(drop)
        }),
        _ => return None,
    })
}

fn kill(pid: i32, signal: i32) -> Act {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Makes another process the owner of a pipe, and lets the kernel send it a signal when there is something to read. What it does about the
/// signal is told to nobody.
fn signal_of_a_file(pid: i32, signal: i32) -> Act {
    let pipe = owner::pipe()?;
    owner::set(pipe[0], pid)?;
    owner::ask_for_signals(pipe[0], signal)?;
    // SAFETY: the byte lives through the call.
    check(unsafe { libc::write(pipe[1], b"x".as_ptr().cast(), 1) as i64 }).map(drop)
}

fn pidfd(pid: i32) -> Result<i64, Failure> {
    // SAFETY: no pointers.
    sys::prepare("pidfd_open", unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

fn pidfd_kill(pid: i32, signal: i32) -> Act {
    let pidfd = pidfd(pid)?;
    // SAFETY: no siginfo is given.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, 0, 0) }).map(drop)
}

fn ptrace(request: libc::c_uint, pid: i32) -> Act {
    // SAFETY: neither request reads or writes our memory.
    check(unsafe { libc::ptrace(request, pid, 0, 0) }).map(drop)
}

/// Reads a word of the other process's memory: of its stack, which the map of our own would not name.
fn read_memory(pid: i32) -> Act {
    let mut word = 0_u64;
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    // Wherever it points to: permission is asked first, and EFAULT means that it was given.
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x1000), iov_len: 8 };
    // SAFETY: the local buffer is ours and lives through the call; the remote address is only a number.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    match check(read as i64) {
        Err(Failure::Errno(libc::EFAULT)) => Ok(()),
        other => other.map(drop),
    }
}

/// What the acts below write.
const WRITTEN: u64 = 0x4141_4141_4141_4141;

/// Writes a word into the other process's memory.
fn write_memory(pid: i32, address: usize) -> Act {
    let mut word = WRITTEN;
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: 8 };
    // SAFETY: the local buffer is ours and lives through the call; the remote address is only a number here.
    let written = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    check(written as i64).map(drop)
}

/// The same by `PTRACE_POKEDATA`, which takes that the process is traced and has stopped.
fn poke_memory(pid: i32, address: usize) -> Act {
    ptrace(libc::PTRACE_ATTACH, pid)?;
    let mut status = 0;
    // SAFETY: the pointer is to a local; the other process's address is only a number here.
    unsafe {
        sys::prepare("waitpid", libc::waitpid(pid, &raw mut status, libc::__WALL))?;
        let poked = check(libc::ptrace(libc::PTRACE_POKEDATA, pid, address, WRITTEN));
        libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0);
        poked.map(drop)
    }
}

/// The same by `/proc/PID/mem`.
fn write_mem_file(pid: i32, address: u64) -> Act {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().write(true).open(format!("/proc/{pid}/mem")).map_err(|e| Failure::of(&e))?;
    file.write_all_at(&WRITTEN.to_ne_bytes(), address).map_err(|e| Failure::of(&e))
}

/// Has the page of the address put out of memory.
fn advise_memory(pid: i32, address: usize) -> Act {
    const PAGE: usize = 4096;
    let pidfd = pidfd(pid)?;
    let start = std::ptr::without_provenance_mut(address & !(PAGE - 1));
    let range = libc::iovec { iov_base: start, iov_len: PAGE };
    // SAFETY: the range is only numbers here, and lives through the call.
    let advised =
        unsafe { libc::syscall(libc::SYS_process_madvise, pidfd, &raw const range, 1, libc::MADV_PAGEOUT, 0) };
    check(advised).map(drop)
}

/// A child that this process traces does the act. Where it is a program that starts, it is let go then.
fn traced(act: &[&str]) -> Act {
    // SAFETY: an act runs in a process with one thread.
    let child = sys::prepare("fork", unsafe { libc::fork() })?;
    if child == 0 {
        // SAFETY: no pointers.
        let status = if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } == 0 {
            super::status(act)
        } else {
            super::BROKEN
        };
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(status)) }
    }
    let child = sys::fd(child);
    let mut status = 0;
    // SAFETY: the pointer is to a local; a stopped child is let go.
    unsafe {
        libc::waitpid(child, &raw mut status, 0);
        if libc::WIFSTOPPED(status) {
            libc::ptrace(libc::PTRACE_DETACH, child, 0, 0);
            libc::waitpid(child, &raw mut status, 0);
        }
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        errno => Err(Failure::Errno(errno)),
    }
}
