//! A descriptor on its way from one process to another, over a unix socket.

use std::{
    fs::File,
    io::Read as _,
    mem,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    ptr,
};

use super::{
    Act, Failure, file, net,
    sys::{self, check, prepare},
    tamper, uring,
    worker::wait,
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("offer", [socket, path]) => File::options()
            .read(true)
            .append(true)
            .open(path)
            .map_err(Failure::broken)
            .and_then(|file| give(socket, &file)),
        ("offer-read", [socket, path]) => {
            File::open(path).map_err(Failure::broken).and_then(|file| give(socket, &file))
        }
        ("offer-map", [socket]) => tamper::new_map().and_then(|map| give(socket, &map)),
        ("offer-perf", [socket]) => tamper::perf_event().and_then(|event| give(socket, &event)),
        ("offer-tcp", [socket, address]) => offered(socket, || connected(address, libc::SOCK_STREAM)),
        ("offer-udp", [socket, address]) => offered(socket, || connected(address, libc::SOCK_DGRAM)),
        ("offer-unix", [socket, name]) => super::unix::connected(name).and_then(|fd| give(socket, &fd)),
        ("offer-raw", [socket]) => offered(socket, || made(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
        ("offer-packet", [socket]) => offered(socket, || made(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)),
        ("offer-listening", [socket, address]) => super::socket::listening(address).and_then(|fd| give(socket, &fd)),
        ("offer-bound-udp", [socket, address]) => {
            UdpSocket::bind(address).map_err(Failure::broken).and_then(|fd| give(socket, &fd))
        }
        ("offer-plain", [socket]) => offered(socket, || made(libc::AF_INET, libc::SOCK_STREAM, 0)),
        ("receive-and-send", [socket]) => receive(socket).and_then(|file| net::send(file.as_raw_fd())),
        ("receive-and-serve", [socket]) => receive(socket).and_then(|file| super::socket::serve_one(file.into())),
        ("receive-and-print", [socket]) => {
            receive(socket).and_then(|file| super::socket::print_one(&OwnedFd::from(file).into()))
        }
        ("serve-by-passing", [address]) => serve_by_passing(address),
        ("take-from-child", ["ring"]) => uring::new_ring().and_then(|ring| take_from_child(&ring)).map(drop),
        ("take-from-child", ["input"]) => take_from_child(&std::io::stdin()).map(drop),
        ("take-from-child", [path]) => {
            File::open(path).map_err(Failure::broken).and_then(|file| take_from_child(&file)).map(drop)
        }
        ("take-from-child-and-send", []) => {
            take_from_child(&std::io::stdin()).and_then(|taken| net::send(taken.as_raw_fd()))
        }
        ("receive", [socket]) => receive(socket).map(drop),
        ("receive-and-append", [socket, text]) => receive(socket).and_then(|file| file::write(file.as_raw_fd(), text)),
        ("receive-and-read", [socket]) => receive(socket).and_then(|mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(Failure::broken)?;
            print!("{text}");
            Ok(())
        }),
        _ => return None,
    })
}

/// How long an offer stands, in milliseconds.
const PATIENCE_MS: i32 = 10_000;

/// Room for one descriptor with its header.
#[repr(C, align(8))]
struct Control([u8; 24]);

/// A message of one byte, with room for a descriptor beside it. What it points to must outlive it.
fn message(iov: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zeroes is a valid message header.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = ptr::from_mut(iov);
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    message
}

fn made(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Failure> {
    // SAFETY: no pointers; the descriptor is new and nobody else's.
    unsafe {
        let fd = prepare("socket", libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol))?;
        Ok(OwnedFd::from_raw_fd(sys::fd(fd)))
    }
}

fn connected(address: &str, kind: i32) -> Result<OwnedFd, Failure> {
    let target = net::Target::parse(address)?;
    let socket = target.socket(kind)?;
    // SAFETY: the address lives through the call.
    prepare("connect", unsafe { libc::connect(socket.as_raw_fd(), target.as_ptr(), target.len()) })?;
    Ok(socket)
}

/// Makes a socket and gives it to the first who connects.
fn offered(socket: &str, make: impl FnOnce() -> Result<OwnedFd, Failure>) -> Act {
    give(socket, &make()?)
}

/// Gives a descriptor to the first who connects.
fn give(socket: &str, file: &impl AsRawFd) -> Act {
    // Nobody can connect between bind(2) and listen(2): the name is there when both have been.
    let unlistened = format!("{socket}.new");
    let listener = UnixListener::bind(&unlistened).map_err(Failure::broken)?;
    std::fs::rename(&unlistened, socket).map_err(Failure::broken)?;
    // Whoever is to come may be kept from coming.
    let mut waiting = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives through the call.
    if unsafe { libc::poll(&raw mut waiting, 1, PATIENCE_MS) } != 1 {
        return Err(Failure::broken("nobody came"));
    }
    let (stream, _) = listener.accept().map_err(Failure::broken)?;
    hand_over(&stream, file)
}

fn hand_over(stream: &UnixStream, file: &impl AsRawFd) -> Act {
    let mut byte = *b"x";
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = Control([0; 24]);
    let message = message(&mut iov, &mut control);
    // SAFETY: the control buffer has room for one header and one descriptor, and is aligned for them.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(file.as_raw_fd());
        libc::sendmsg(stream.as_raw_fd(), &raw const message, 0)
    };
    prepare("sendmsg", sent as i64).map(drop)
}

/// Takes what is offered. A descriptor that the kernel keeps back is EPERM: `recvmsg` itself succeeds without it.
fn receive(socket: &str) -> Result<File, Failure> {
    take(&UnixStream::connect(socket).map_err(Failure::broken)?)
}

fn take(stream: &UnixStream) -> Result<File, Failure> {
    let mut byte = [0_u8];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = Control([0; 24]);
    let mut message = message(&mut iov, &mut control);
    // SAFETY: everything the header points to lives through the call.
    check(unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, 0) } as i64)?;
    // SAFETY: the kernel wrote the control buffer; the first header is null when there is none.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || message.msg_flags & libc::MSG_CTRUNC != 0 {
            return Err(Failure::Errno(libc::EPERM));
        }
        Ok(File::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()))
    }
}

/// Takes what a child has inherited back from it by `pidfd_getfd`.
fn take_from_child(file: &impl AsRawFd) -> Result<OwnedFd, Failure> {
    // SAFETY: an act runs in a process with one thread; the child does nothing until it is killed.
    let child = sys::fd(prepare("fork", unsafe {
        match libc::fork() {
            0 => {
                libc::pause();
                libc::_exit(0)
            }
            child => child,
        }
    })?);
    // SAFETY: no pointers; the child is nobody else's to wait for.
    let taken = unsafe {
        let taken = prepare("pidfd_open", libc::syscall(libc::SYS_pidfd_open, child, 0))
            .and_then(|pidfd| check(libc::syscall(libc::SYS_pidfd_getfd, pidfd, file.as_raw_fd(), 0)));
        libc::kill(child, libc::SIGKILL);
        taken
    };
    wait(child);
    // SAFETY: the descriptor is new and nobody else's.
    taken.map(|fd| unsafe { OwnedFd::from_raw_fd(sys::fd(fd)) })
}

/// Takes a connection and hands it to a child over a pair of sockets; the child prints what it is told.
fn serve_by_passing(address: &str) -> Act {
    let listener = TcpListener::bind(address).map_err(Failure::broken)?;
    let (mine, theirs) = UnixStream::pair().map_err(Failure::broken)?;
    super::way::fork_and_then(
        || {
            let mut stream = take(&theirs)?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(Failure::broken)?;
            print!("{text}");
            Ok(())
        },
        || {
            let (client, _) = listener.accept().map_err(Failure::broken)?;
            hand_over(&mine, &client)
        },
    )
}
