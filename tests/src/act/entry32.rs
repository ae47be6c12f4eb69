//! Acts by the entry to the kernel for 32-bit programs, which a 64-bit program may use, too. The numbers are those of
//! `arch/x86/entry/syscalls/syscall_32.tbl`.

use super::{
    Act, Failure,
    net::send,
    sys::{fd, number},
    tty::{Low, call_32},
};

const OPEN: u32 = 5;
const LINK: u32 = 9;
const UNLINK: u32 = 10;
const EXECVE: u32 = 11;
const PTRACE: u32 = 26;
const KILL: u32 = 37;
const RENAME: u32 = 38;
const MKDIR: u32 = 39;
const RMDIR: u32 = 40;
const TRUNCATE: u32 = 92;
const SOCKETCALL: u32 = 102;
const UNLINKAT: u32 = 301;
const SOCKET: u32 = 359;
const CONNECT: u32 = 362;

/// `include/uapi/linux/net.h`.
const SYS_CONNECT: u32 = 3;
/// `include/uapi/linux/ptrace.h`.
const PTRACE_ATTACH: u32 = 16;
/// `AT_FDCWD` of `include/uapi/linux/fcntl.h`.
const HERE: u32 = (-100_i32).cast_unsigned();

/// The family's entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    if name != "in-32" {
        return None;
    }
    Some(match words {
        ["unlink", path] => on(UNLINK, path, 0),
        ["unlinkat", path] => text(path).and_then(|path| call_32(UNLINKAT, [HERE, path, 0])).map(drop),
        ["rmdir", path] => on(RMDIR, path, 0),
        ["truncate", path] => on(TRUNCATE, path, 0),
        ["mkdir", path] => on(MKDIR, path, 0o755),
        ["open-write", path] => on(OPEN, path, libc::O_WRONLY.cast_unsigned()),
        ["create", path] => on(OPEN, path, (libc::O_WRONLY | libc::O_CREAT).cast_unsigned()),
        ["rename", from, to] => between(RENAME, from, to),
        ["link", from, to] => between(LINK, from, to),
        ["exec", path, arguments @ ..] => exec(path, arguments),
        ["tcp", address] => tcp(address, false),
        ["tcp-by-socketcall", address] => tcp(address, true),
        ["kill", pid, signal] => number(pid).and_then(|pid| call_32(KILL, [pid, number(signal)?, 0])).map(drop),
        ["trace", pid] => number(pid).and_then(|pid| call_32(PTRACE, [PTRACE_ATTACH, pid, 0])).map(drop),
        _ => return None,
    })
}

/// The address of a text.
fn text(text: &str) -> Result<u32, Failure> {
    Low::holding(&[text.as_bytes(), b"\0"].concat()).map(|low| low.0)
}

fn on(call: u32, path: &str, flags: u32) -> Act {
    call_32(call, [text(path)?, flags, 0o644]).map(drop)
}

fn between(call: u32, from: &str, to: &str) -> Act {
    call_32(call, [text(from)?, text(to)?, 0]).map(drop)
}

fn exec(path: &str, arguments: &[&str]) -> Act {
    let path = text(path)?;
    let mut list = path.to_le_bytes().to_vec();
    for argument in arguments {
        list.extend(text(argument)?.to_le_bytes());
    }
    list.extend([0; 4]);
    call_32(EXECVE, [path, Low::holding(&list)?.0, 0]).map(drop)
}

/// Connects to an IPv4 address, and sends.
fn tcp(address: &str, by_socketcall: bool) -> Act {
    let address: std::net::SocketAddrV4 =
        address.parse().map_err(|_| Failure::broken(format!("{address} is no IPv4 address")))?;
    let (family, kind) = (libc::AF_INET.cast_unsigned(), libc::SOCK_STREAM.cast_unsigned());
    let socket = call_32(SOCKET, [family, kind, 0]).map_err(|_| Failure::broken("no socket"))?;
    let socket = fd(socket).cast_unsigned();
    let mut name = [0; 16];
    name[..2].copy_from_slice(&u16::try_from(family).map_err(Failure::broken)?.to_le_bytes());
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    name[4..8].copy_from_slice(&address.ip().octets());
    let arguments = [socket, Low::holding(&name)?.0, 16];
    if by_socketcall {
        let list: Vec<u8> = arguments.iter().flat_map(|argument| argument.to_le_bytes()).collect();
        call_32(SOCKETCALL, [SYS_CONNECT, Low::holding(&list)?.0, 0])?;
    } else {
        call_32(CONNECT, arguments)?;
    }
    send(socket.cast_signed())
}
