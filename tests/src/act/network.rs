//! Acts in other network namespaces, and what goes with a process into one.

use std::{fs::File, os::fd::AsRawFd as _};

use super::{
    Act, Failure,
    net::{self, Target},
    sys::{check, prepare},
};

/// The number of the socket that a worker keeps for the acts of its children.
const KEPT: i32 = 9;

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("network", [path, act @ ..]) => enter(path).and_then(|()| super::perform(act)),
        ("new-network", act) => new().and_then(|()| super::perform(act)),
        ("tcp-by-a-socket-of", [path, address]) => by_a_socket_of(path, address, libc::SOCK_STREAM),
        ("udp-by-a-socket-of", [path, address]) => by_a_socket_of(path, address, libc::SOCK_DGRAM),
        ("keep-tcp", [address]) => keep(address),
        ("send-kept", []) => net::send(KEPT),
        _ => return None,
    })
}

/// Moves this task into the namespace that lies there.
fn enter(path: &str) -> Act {
    let namespace = File::open(path).map_err(|e| Failure::broken(format!("{path}: {e}")))?;
    // SAFETY: no pointers.
    prepare("setns", unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// A new one, in a new user namespace, so that whoever may not do it here may do it there; its loopback device comes up by `ioctl`.
fn new() -> Act {
    // SAFETY: no pointers.
    prepare("unshare", unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) })?;
    let socket = Target::parse("127.0.0.1:1")?.socket(libc::SOCK_DGRAM)?;
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).map_err(Failure::broken)?;
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).map_err(Failure::broken)?;
    // SAFETY: the request lives through the call.
    prepare("SIOCSIFFLAGS", unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
        .map(drop)
}

/// Makes a socket in another namespace, comes back, and connects by it.
fn by_a_socket_of(path: &str, address: &str, kind: i32) -> Act {
    const HERE: &str = "/proc/thread-self/ns/net";
    let (target, here) = (Target::parse(address)?, File::open(HERE).map_err(Failure::broken)?);
    enter(path)?;
    let socket = target.socket(kind)?;
    // SAFETY: no pointers.
    prepare("setns", unsafe { libc::setns(here.as_raw_fd(), libc::CLONE_NEWNET) })?;
    target.connect_and_send_on(socket.as_raw_fd())
}

/// Connects, and keeps the socket under a number that the worker's children inherit.
fn keep(address: &str) -> Act {
    let target = Target::parse(address)?;
    let socket = target.socket(libc::SOCK_STREAM)?;
    // SAFETY: the address lives through the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), target.as_ptr(), target.len()) })?;
    // SAFETY: the number is nobody else's.
    prepare("dup2", unsafe { libc::dup2(socket.as_raw_fd(), KEPT) }).map(drop)
}
