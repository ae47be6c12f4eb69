//! Acts on sockets beside sending: binding, listening, options, netlink; and sockets that are held until later.

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::{
    Act, Failure,
    net::{self, Target},
    sys::{self, check, prepare},
};

/// How long a server waits for its client, in milliseconds.
const PATIENCE_MS: i32 = 10_000;

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("serve-tcp", [address]) => serve_tcp(address),
        ("serve-udp", [address]) => serve_udp(address),
        ("listen-unbound", []) => listen_unbound(),
        ("tcp-from", [local, address]) => from(local, address, libc::SOCK_STREAM),
        ("udp-from", [local, address]) => from(local, address, libc::SOCK_DGRAM),
        ("udp-then-to", [first, second]) => udp_then_to(first, second),
        ("udp-unspec", [address]) => udp_unspec(address),
        ("connect-v4-on-v6", [address]) => v4_on_v6(address),
        ("sendto-v4-on-v6", [address]) => {
            Target::parse("[::1]:1").and_then(|six| send_to(&six.socket(libc::SOCK_DGRAM)?, &Target::parse(address)?))
        }
        ("bind-unspec", [address]) => Target::parse(address).and_then(|target| {
            let socket = target.socket(libc::SOCK_STREAM)?;
            bind(&socket, &target.without_family())
        }),
        ("dissolve", [address]) => dissolve(address),
        ("broadcast", [address]) => broadcast(address),
        ("set-option", [family, level, option, bytes]) => set_option(family, level, option, bytes),
        ("netlink-read", []) => netlink(&[LINKS]),
        ("netlink-mtu", [mtu]) => sys::number(mtu).and_then(|mtu| netlink(&[set_mtu(mtu)?])),
        ("netlink-read-and-mtu", [mtu]) => sys::number(mtu).and_then(|mtu| netlink(&[LINKS, set_mtu(mtu)?])),
        ("hold", [kind, address]) => hold(kind, address),
        _ => return None,
    })
}

fn wait_readable(fd: i32) -> Act {
    wait_for(fd, libc::POLLIN)
}

pub(super) fn wait_for(fd: i32, events: libc::c_short) -> Act {
    let mut waiting = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry, which lives through the call.
    if unsafe { libc::poll(&raw mut waiting, 1, PATIENCE_MS) } == 1 {
        Ok(())
    } else {
        Err(Failure::broken("nobody came"))
    }
}

/// Binds, listens, and prints what the first client says.
fn serve_tcp(address: &str) -> Act {
    let target = Target::parse(address)?;
    let socket = target.socket(libc::SOCK_STREAM)?;
    bind(&socket, &target)?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
    serve_one(socket)
}

/// Prints what the first client says.
pub(super) fn serve_one(socket: OwnedFd) -> Act {
    wait_readable(socket.as_raw_fd())?;
    let (mut stream, _) = TcpListener::from(socket).accept().map_err(Failure::broken)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(Failure::broken)?;
    print!("{text}");
    Ok(())
}

/// Binds and prints the first datagram.
fn serve_udp(address: &str) -> Act {
    let address: SocketAddr = address.parse().map_err(Failure::broken)?;
    print_one(&UdpSocket::bind(address).map_err(|e| Failure::of(&e))?)
}

/// Prints the first datagram.
pub(super) fn print_one(socket: &UdpSocket) -> Act {
    wait_readable(socket.as_raw_fd())?;
    let mut buffer = [0; 64];
    let len = socket.recv(&mut buffer).map_err(Failure::broken)?;
    print!("{}", String::from_utf8_lossy(&buffer[..len]));
    Ok(())
}

/// Listens without a bind: the kernel chooses the port.
fn listen_unbound() -> Act {
    let socket = Target::parse("127.0.0.1:1")?.socket(libc::SOCK_STREAM)?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1) }).map(drop)
}

fn bind(socket: &OwnedFd, target: &Target) -> Act {
    reuse(socket)?;
    // SAFETY: the address lives through the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), target.as_ptr(), target.len()) }).map(drop)
}

/// Lets it have an address that was in use a moment ago.
pub(super) fn reuse(socket: &OwnedFd) -> Act {
    let one = 1_i32;
    // SAFETY: the option lives through the call.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const one).cast(), 4)
    };
    prepare("SO_REUSEADDR", set).map(drop)
}

fn connect(socket: &OwnedFd, target: &Target) -> Act {
    // SAFETY: the address lives through the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), target.as_ptr(), target.len()) }).map(drop)
}

/// Binds, then connects and sends.
fn from(local: &str, address: &str, kind: i32) -> Act {
    let (local, target) = (Target::parse(local)?, Target::parse(address)?);
    let socket = local.socket(kind)?;
    bind(&socket, &local)?;
    connect(&socket, &target)?;
    net::send(socket.as_raw_fd())
}

/// Connects a datagram socket to one address, then sends to another.
fn udp_then_to(first: &str, second: &str) -> Act {
    let (first, second) = (Target::parse(first)?, Target::parse(second)?);
    let socket = first.socket(libc::SOCK_DGRAM)?;
    prepare("connect", connect(&socket, &first).map_or(-1, |()| 0))?;
    send_to(&socket, &second)
}

fn send_to(socket: &OwnedFd, target: &Target) -> Act {
    let text = net::TOKEN.as_bytes();
    // SAFETY: the buffer and the address live through the call.
    let sent =
        unsafe { libc::sendto(socket.as_raw_fd(), text.as_ptr().cast(), text.len(), 0, target.as_ptr(), target.len()) };
    check(sent as i64).map(drop)
}

/// A datagram to an IPv4 address whose family is left out, which the kernel takes for IPv4.
fn udp_unspec(address: &str) -> Act {
    let target = Target::parse(address)?.without_family();
    send_to(&target.socket(libc::SOCK_DGRAM)?, &target)
}

/// Connects a datagram socket of IPv6 to an IPv4 address as such.
fn v4_on_v6(address: &str) -> Act {
    let socket = Target::parse("[::1]:1")?.socket(libc::SOCK_DGRAM)?;
    connect(&socket, &Target::parse(address)?)?;
    net::send(socket.as_raw_fd())
}

/// Connects a datagram socket and dissolves that again.
fn dissolve(address: &str) -> Act {
    let target = Target::parse(address)?;
    let socket = target.socket(libc::SOCK_DGRAM)?;
    prepare("connect", connect(&socket, &target).map_or(-1, |()| 0))?;
    connect(&socket, &target.without_family())
}

fn broadcast(address: &str) -> Act {
    let target = Target::parse(address)?;
    let socket = target.socket(libc::SOCK_DGRAM)?;
    let one = 1_i32;
    // SAFETY: the option lives through the call.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BROADCAST, (&raw const one).cast(), 4)
    };
    prepare("SO_BROADCAST", set)?;
    send_to(&socket, &target)
}

/// Sets an option to bytes in hexadecimal.
fn set_option(family: &str, level: &str, option: &str, bytes: &str) -> Act {
    let (family, level, option) = (sys::number(family)?, sys::number(level)?, sys::number(option)?);
    let bytes: Result<Vec<u8>, _> =
        (0..bytes.len() / 2).map(|i| u8::from_str_radix(&bytes[2 * i..2 * i + 2], 16)).collect();
    let bytes = bytes.map_err(Failure::broken)?;
    // SAFETY: the descriptor is new; the bytes live through the call.
    unsafe {
        let fd = prepare("socket", libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let socket = OwnedFd::from_raw_fd(sys::fd(fd));
        let len = u32::try_from(bytes.len()).map_err(Failure::broken)?;
        check(libc::setsockopt(socket.as_raw_fd(), level, option, bytes.as_ptr().cast(), len)).map(drop)
    }
}

/// A request of route netlink: `struct nlmsghdr`, `struct ifinfomsg`, and one attribute of four bytes.
type Request = [u32; 10];

const LINK_NEW: u32 = 16;
const LINK_GET: u32 = 18;
const NLM_F_REQUEST: u32 = 1;
const NLM_F_ACK: u32 = 4;

/// Asks about the loopback link; the attribute is padding of a kind that is skipped.
const LINKS: Request = [40, LINK_GET | NLM_F_REQUEST << 16, 1, 0, 0, 1, 0, 0, 8, 0];

/// Sets the loopback link's MTU.
fn set_mtu(mtu: u32) -> Result<Request, Failure> {
    const IFLA_MTU: u32 = 4;
    if mtu == 0 {
        return Err(Failure::broken("no MTU"));
    }
    Ok([40, LINK_NEW | (NLM_F_REQUEST | NLM_F_ACK) << 16, 2, 0, 0, 1, 0, 0, 8 | IFLA_MTU << 16, mtu])
}

/// Sends requests in one message and takes the answer.
fn netlink(requests: &[Request]) -> Act {
    let message: Vec<u8> = requests.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect();
    // SAFETY: the descriptor is new; the buffers live through the calls.
    unsafe {
        let fd = prepare("socket", libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?;
        let socket = OwnedFd::from_raw_fd(sys::fd(fd));
        check(libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) as i64)?;
        wait_readable(socket.as_raw_fd())?;
        let mut answer = [0_u8; 4096];
        check(libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) as i64)?;
    }
    Ok(())
}

pub(super) fn listening(address: &str) -> Result<OwnedFd, Failure> {
    let target = Target::parse(address)?;
    let socket = target.socket(libc::SOCK_STREAM)?;
    bind(&socket, &target)?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 4) })?;
    Ok(socket)
}

/// Gets a socket, says `ready`, waits for a line, and sends: a program that got its socket before something happened.
fn hold(kind: &str, address: &str) -> Act {
    let socket = match kind {
        "tcp" | "udp" => {
            let target = Target::parse(address)?;
            let socket = target.socket(if kind == "tcp" { libc::SOCK_STREAM } else { libc::SOCK_DGRAM })?;
            connect(&socket, &target)?;
            socket
        }
        "unix" => super::unix::connected(address)?,
        "raw" => {
            // SAFETY: the descriptor is new.
            unsafe {
                let fd = prepare("socket", libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP))?;
                OwnedFd::from_raw_fd(sys::fd(fd))
            }
        }
        "tcp-from" => {
            let (local, address) = address.split_once(',').ok_or_else(|| Failure::broken("two addresses"))?;
            let (local, target) = (Target::parse(local)?, Target::parse(address)?);
            let socket = local.socket(libc::SOCK_STREAM)?;
            bind(&socket, &local)?;
            connect(&socket, &target)?;
            socket
        }
        "fastopen" => {
            let target = Target::parse(address)?;
            let socket = target.socket(libc::SOCK_STREAM)?;
            let (fd, flags) = (socket.as_raw_fd(), libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL);
            // SAFETY: nothing is sent; the address lives through the call.
            check(unsafe { libc::sendto(fd, std::ptr::null(), 0, flags, target.as_ptr(), target.len()) } as i64)?;
            socket
        }
        "put-off" => Target::parse(address)?.connect_later(true)?,
        "listen" => listening(address)?,
        "accept" => {
            let socket = listening(address)?;
            wait_readable(socket.as_raw_fd())?;
            TcpListener::from(socket).accept().map_err(Failure::broken)?.0.into()
        }
        other => return Err(Failure::broken(format!("no kind {other}"))),
    };
    let mut out = std::io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush()).map_err(Failure::broken)?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(Failure::broken)?;
    net::send(socket.as_raw_fd())
}
