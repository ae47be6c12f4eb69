//! Acts on sockets. What reaches a listener is [`TOKEN`].

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::{
    Act, Failure,
    sys::{self, check, prepare},
};

/// What is sent.
pub(crate) const TOKEN: &str = "from the agent";

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    let target = |address: &str| Target::parse(address);
    Some(match (name, words) {
        ("tcp", [address]) => target(address).and_then(|t| t.connect_and_send(libc::SOCK_STREAM)),
        ("udp", [address]) => target(address).and_then(|t| t.connect_and_send(libc::SOCK_DGRAM)),
        ("sendto", [address]) => target(address).and_then(|t| t.send_to(libc::SOCK_DGRAM, 0)),
        ("fastopen", [address]) => target(address).and_then(|t| t.send_to(libc::SOCK_STREAM, libc::MSG_FASTOPEN)),
        ("sendmsg", [address]) => target(address).and_then(|t| t.send_msg(false)),
        ("sendmmsg", [address]) => target(address).and_then(|t| t.send_msg(true)),
        ("sendmmsg-two", [first, second]) => send_two(first, second),
        ("fastopen-connect", [address]) => {
            target(address).and_then(|t| t.connect_later(false)).and_then(|socket| send(socket.as_raw_fd()))
        }
        ("put-off", [address]) => {
            target(address).and_then(|t| t.connect_later(true)).and_then(|socket| send(socket.as_raw_fd()))
        }
        ("put-off-then-to", [first, second]) => target(first)
            .and_then(|t| t.connect_later(true))
            .and_then(|socket| target(second)?.send_to_by(&socket, libc::MSG_FASTOPEN)),
        ("connect-fd", [fd, address]) => sys::number(fd).and_then(|fd| target(address)?.connect_and_send_on(fd)),
        ("socket", [family, kind, protocol]) => socket(family, kind, protocol),
        _ => return None,
    })
}

/// Opens a socket by numbers.
fn socket(family: &str, kind: &str, protocol: &str) -> Act {
    let (family, kind, protocol) = (sys::number(family)?, sys::number(kind)?, sys::number(protocol)?);
    // SAFETY: no pointers.
    check(unsafe { libc::socket(family, kind, protocol) }).map(drop)
}

/// Sends to two destinations by one call and prints how many it were.
fn send_two(first: &str, second: &str) -> Act {
    let targets = [Target::parse(first)?, Target::parse(second)?];
    let socket = targets[0].socket(libc::SOCK_DGRAM)?;
    let mut iov = libc::iovec { iov_base: TOKEN.as_ptr().cast_mut().cast(), iov_len: TOKEN.len() };
    let mut messages = [const { std::mem::MaybeUninit::<libc::mmsghdr>::zeroed() }; 2].map(|message| {
        // SAFETY: all zeroes is a valid message header.
        unsafe { message.assume_init() }
    });
    for (message, target) in messages.iter_mut().zip(&targets) {
        message.msg_hdr.msg_name = target.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_namelen = target.len;
        message.msg_hdr.msg_iov = &raw mut iov;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: everything the headers point to lives through the call, and the kernel only reads it.
    let sent = check(unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), 2, 0) })?;
    println!("{sent}");
    Ok(())
}

pub(super) fn send(fd: i32) -> Act {
    // SAFETY: the buffer lives through the call.
    check(unsafe { libc::send(fd, TOKEN.as_ptr().cast(), TOKEN.len(), libc::MSG_NOSIGNAL) } as i64).map(drop)
}

fn family(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or_default()
}

/// A destination as the kernel takes it.
pub(super) struct Target {
    storage: libc::sockaddr_storage,
    len: u32,
    family: i32,
}

impl Target {
    /// From `127.0.0.1:80`, `[::1]:80`, or `[::ffff:127.0.0.1]:80`, which goes through an IPv6 socket.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let address: SocketAddr = text.parse().map_err(|_| Failure::broken(format!("{text} is no address")))?;
        // SAFETY: all zeroes is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let (len, family) = match address {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: the storage is larger than, and aligned for, every address of the kernel.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(sin) };
                (size_of::<libc::sockaddr_in>(), libc::AF_INET)
            }
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(sin6) };
                (size_of::<libc::sockaddr_in6>(), libc::AF_INET6)
            }
        };
        Ok(Self { storage, len: u32::try_from(len).unwrap_or(0), family })
    }

    /// The same with no family in it.
    pub(super) fn without_family(&self) -> Self {
        let mut storage = self.storage;
        storage.ss_family = family(libc::AF_UNSPEC);
        Self { storage, ..*self }
    }

    /// The address.
    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// Its length.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// A socket of its family.
    pub(super) fn socket(&self, kind: i32) -> Result<OwnedFd, Failure> {
        // SAFETY: no pointers; the descriptor is new and nobody else's.
        unsafe {
            let fd = prepare("socket", libc::socket(self.family, kind | libc::SOCK_CLOEXEC, 0))?;
            Ok(OwnedFd::from_raw_fd(sys::fd(fd)))
        }
    }

    fn connect_and_send(&self, kind: i32) -> Act {
        let socket = self.socket(kind)?;
        self.connect_and_send_on(socket.as_raw_fd())
    }

    pub(super) fn connect_and_send_on(&self, fd: i32) -> Act {
        // SAFETY: the address lives through the call.
        check(unsafe { libc::connect(fd, self.as_ptr(), self.len) })?;
        send(fd)
    }

    /// A connect that is put off until something is sent, if the peer has said before that it takes such, or if nobody asks.
    pub(super) fn connect_later(&self, unasked: bool) -> Result<OwnedFd, Failure> {
        const TCP_FASTOPEN_CONNECT: i32 = 30;
        const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
        let socket = self.socket(libc::SOCK_STREAM)?;
        let one = 1_i32;
        for option in [Some(TCP_FASTOPEN_CONNECT), unasked.then_some(TCP_FASTOPEN_NO_COOKIE)].into_iter().flatten() {
            // SAFETY: the option lives through the call.
            let set =
                unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const one).cast(), 4) };
            prepare("an option of fast open", set)?;
        }
        // SAFETY: the address lives through the call.
        check(unsafe { libc::connect(socket.as_raw_fd(), self.as_ptr(), self.len) })?;
        Ok(socket)
    }

    fn send_to(&self, kind: i32, flags: i32) -> Act {
        self.send_to_by(&self.socket(kind)?, flags)
    }

    fn send_to_by(&self, socket: &OwnedFd, flags: i32) -> Act {
        let flags = flags | libc::MSG_NOSIGNAL;
        let text = TOKEN.as_bytes();
        // SAFETY: the buffer and the address live through the call.
        let sent = unsafe {
            libc::sendto(socket.as_raw_fd(), text.as_ptr().cast(), text.len(), flags, self.as_ptr(), self.len)
        };
        check(sent as i64).map(drop)
    }

    fn send_msg(&self, many: bool) -> Act {
        let socket = self.socket(libc::SOCK_DGRAM)?;
        let mut iov = libc::iovec { iov_base: TOKEN.as_ptr().cast_mut().cast(), iov_len: TOKEN.len() };
        // SAFETY: all zeroes is a valid message header; the kernel only reads what it points to.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_name = self.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_namelen = self.len;
        message.msg_hdr.msg_iov = &raw mut iov;
        message.msg_hdr.msg_iovlen = 1;
        // SAFETY: everything the header points to lives through the call.
        let result = unsafe {
            if many {
                i64::from(libc::sendmmsg(socket.as_raw_fd(), &raw mut message, 1, 0))
            } else {
                libc::sendmsg(socket.as_raw_fd(), &raw const message.msg_hdr, 0) as i64
            }
        };
        check(result).map(drop)
    }
}
