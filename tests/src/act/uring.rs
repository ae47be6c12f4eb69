//! Acts through `io_uring`: inline, by a worker thread of the kernel, and by its polling thread.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use io_uring::{
    IoUring, opcode,
    squeue::{Entry, Flags},
    types::{Fd, OpenHow},
};
use libc::AT_FDCWD;

use super::{
    ATTRIBUTE, Act, Failure, net, socket,
    sys::{self, c, check, fd, prepare},
};

/// Who carries the act out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// The task that submits.
    Inline,
    /// A worker thread.
    Worker,
    /// The polling thread.
    Polling,
    /// The task that submits, once what comes before has been done by a worker thread, and with the credentials that it had
    /// when it submitted. Meanwhile it has got new ones, which are the same in everything.
    Linked,
}

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    let how = match name {
        "uring" => How::Inline,
        "uring-worker" => How::Worker,
        "uring-sqpoll" => How::Polling,
        "uring-linked" => How::Linked,
        _ => return None,
    };
    Some(match words {
        ["unlink", path] => c(path).and_then(|path| {
            let entry = opcode::UnlinkAt::new(Fd(AT_FDCWD), path.as_ptr()).build();
            submit(how, entry)
        }),
        ["rename", from, to] => c(from).and_then(|from| {
            let to = c(to)?;
            submit(how, opcode::RenameAt::new(Fd(AT_FDCWD), from.as_ptr(), Fd(AT_FDCWD), to.as_ptr()).build())
        }),
        ["rmdir", path] => c(path).and_then(|path| {
            submit(how, opcode::UnlinkAt::new(Fd(AT_FDCWD), path.as_ptr()).flags(libc::AT_REMOVEDIR).build())
        }),
        ["mkdir", path] => {
            c(path).and_then(|path| submit(how, opcode::MkDirAt::new(Fd(AT_FDCWD), path.as_ptr()).mode(0o755).build()))
        }
        ["symlink", to, path] => c(to).and_then(|to| {
            let path = c(path)?;
            submit(how, opcode::SymlinkAt::new(Fd(AT_FDCWD), to.as_ptr(), path.as_ptr()).build())
        }),
        ["link", from, to] => c(from).and_then(|from| {
            let to = c(to)?;
            submit(how, opcode::LinkAt::new(Fd(AT_FDCWD), from.as_ptr(), Fd(AT_FDCWD), to.as_ptr()).build())
        }),
        ["set-attribute", path] => c(path).and_then(|path| {
            let entry = opcode::SetXattr::new(ATTRIBUTE.as_ptr(), c"x".as_ptr().cast(), path.as_ptr(), 1);
            submit(how, entry.build())
        }),
        ["create", path] => open(how, path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL).map(drop),
        ["punch", path] => open(how, path, libc::O_WRONLY).and_then(|file| punch(how, file)),
        ["splice", path, text] => open(how, path, libc::O_WRONLY).and_then(|file| splice(how, file, text)),
        // By descriptors that are open for reading alone, which is free.
        ["punch-read-only", path] => open(how, path, libc::O_RDONLY).and_then(|file| punch(how, file)),
        ["splice-read-only", path, text] => open(how, path, libc::O_RDONLY).and_then(|file| splice(how, file, text)),
        ["tcp", address] => tcp(how, address),
        ["sendmsg", address] => net::Target::parse(address)
            .and_then(|target| send_message(how, &target.socket(libc::SOCK_DGRAM)?, &target, 0)),
        ["fastopen", address] => fast_open(how, address),
        ["send", address] => send(how, address, |fd, text, len, target| {
            opcode::Send::new(fd, text, len).dest_addr(target.as_ptr()).dest_addr_len(target.len()).build()
        }),
        ["send-zc", address] => send(how, address, |fd, text, len, target| {
            opcode::SendZc::new(fd, text, len).dest_addr(target.as_ptr()).dest_addr_len(target.len()).build()
        }),
        ["serve-tcp", address] => serve(how, address),
        ["socket", family, kind, protocol] => sys::number(family).and_then(|family| {
            let entry = opcode::Socket::new(family, sys::number(kind)?, sys::number(protocol)?).build();
            submit(how, entry)
        }),
        ["open-write", path] => open(how, path, libc::O_WRONLY).map(drop),
        ["open-read", path] => open(how, path, libc::O_RDONLY).map(drop),
        ["open-truncate", path] => open(how, path, libc::O_WRONLY | libc::O_TRUNC).map(drop),
        ["append", path, text] => append(how, path, text),
        ["ftruncate", path] => ftruncate(how, path),
        ["fsetxattr", path] => fsetxattr(how, path, c"user.enforcer"),
        ["fset-attribute", path] => fsetxattr(how, path, ATTRIBUTE),
        ["unlink-by-personality", path] => by_personality(how, path),
        _ => return None,
    })
}

fn tcp(how: How, address: &str) -> Act {
    let target = net::Target::parse(address)?;
    let socket = target.socket(libc::SOCK_STREAM)?;
    let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), target.as_ptr().cast(), target.len()).build();
    submit(how, entry)?;
    let text = net::TOKEN;
    // SAFETY: the buffer lives through the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), text.as_ptr().cast(), text.len(), libc::MSG_NOSIGNAL) };
    check(sent as i64).map(drop)
}

fn send_message(how: How, socket: &OwnedFd, target: &net::Target, flags: i32) -> Act {
    let mut iov = libc::iovec { iov_base: net::TOKEN.as_ptr().cast_mut().cast(), iov_len: net::TOKEN.len() };
    // SAFETY: all zeroes is a valid message header; the kernel only reads what it points to.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = target.as_ptr().cast_mut().cast();
    message.msg_namelen = target.len();
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    let flags = u32::try_from(flags).map_err(Failure::broken)?;
    submit(how, opcode::SendMsg::new(Fd(socket.as_raw_fd()), &raw const message).flags(flags).build())
}

/// Opens a connection by sending. A ring does not wait for it, where the peer has not said before that it takes such.
fn fast_open(how: How, address: &str) -> Act {
    let target = net::Target::parse(address)?;
    let socket = target.socket(libc::SOCK_STREAM)?;
    match send_message(how, &socket, &target, libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL) {
        Err(Failure::Errno(libc::EINPROGRESS)) => {
            socket::wait_for(socket.as_raw_fd(), libc::POLLOUT)?;
            net::send(socket.as_raw_fd())
        }
        sent => sent,
    }
}

/// Sends a datagram by an operation that takes an address.
fn send(how: How, address: &str, entry: impl Fn(Fd, *const u8, u32, &net::Target) -> Entry) -> Act {
    let target = net::Target::parse(address)?;
    let socket = target.socket(libc::SOCK_DGRAM)?;
    let len = u32::try_from(net::TOKEN.len()).map_err(Failure::broken)?;
    submit(how, entry(Fd(socket.as_raw_fd()), net::TOKEN.as_ptr(), len, &target))
}

/// Binds and listens, both since 6.11, and prints what the first client says.
fn serve(how: How, address: &str) -> Act {
    let target = net::Target::parse(address)?;
    let socket = target.socket(libc::SOCK_STREAM)?;
    socket::reuse(&socket)?;
    submit(how, opcode::Bind::new(Fd(socket.as_raw_fd()), target.as_ptr(), target.len()).build())?;
    submit(how, opcode::Listen::new(Fd(socket.as_raw_fd()), 1).build())?;
    socket::serve_one(socket)
}

/// Opens by `openat2`; the descriptor lives as long as this process.
fn open(how: How, path: &str, flags: i32) -> Result<i32, Failure> {
    let path = c(path)?;
    let wanted = OpenHow::new().flags(u64::try_from(flags).map_err(Failure::broken)?);
    submit_for(how, opcode::OpenAt2::new(Fd(AT_FDCWD), path.as_ptr(), &raw const wanted).build())
}

/// Writes at the end of what is there.
fn append(how: How, path: &str, text: &str) -> Act {
    let file = open(how, path, libc::O_WRONLY | libc::O_APPEND)?;
    let len = u32::try_from(text.len()).map_err(Failure::broken)?;
    submit(how, opcode::Write::new(Fd(file), text.as_ptr(), len).offset(u64::MAX).build())
}

/// Empties a file that was opened by a system call of its own; since 6.9.
fn ftruncate(how: How, path: &str) -> Act {
    let path = c(path)?;
    // SAFETY: the path ends with NUL and lives through the call.
    let file = prepare("open", unsafe { libc::open(path.as_ptr(), libc::O_WRONLY) }).map(fd)?;
    submit(how, opcode::Ftruncate::new(Fd(file), 0).build())
}

/// Sets an attribute by a descriptor of a system call of its own; since 5.19.
fn fsetxattr(how: How, path: &str, name: &std::ffi::CStr) -> Act {
    let path = c(path)?;
    // SAFETY: the path ends with NUL and lives through the call.
    let file = prepare("open", unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }).map(fd)?;
    submit(how, opcode::FSetXattr::new(Fd(file), name.as_ptr(), c"x".as_ptr().cast(), 1).build())
}

/// Puts a hole in the place of the first page.
fn punch(how: How, file: i32) -> Act {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    submit(how, opcode::Fallocate::new(Fd(file), 4096).mode(mode).build())
}

/// Moves a text from a pipe to the beginning of a file.
fn splice(how: How, file: i32, text: &str) -> Act {
    let mut pipe = [0; 2];
    // SAFETY: the array takes the descriptors.
    prepare("pipe", unsafe { libc::pipe(pipe.as_mut_ptr()) })?;
    // SAFETY: the buffer lives through the call.
    prepare("write", unsafe { libc::write(pipe[1], text.as_ptr().cast(), text.len()) } as i64)?;
    let len = u32::try_from(text.len()).map_err(Failure::broken)?;
    submit(how, opcode::Splice::new(Fd(pipe[0]), -1, Fd(file), 0, len).build())
}

/// Removes a file in the name of credentials that were registered before.
fn by_personality(how: How, path: &str) -> Act {
    let path = c(path)?;
    let mut ring = ring(how)?;
    let personality = ring.submitter().register_personality().map_err(Failure::broken)?;
    let entry = opcode::UnlinkAt::new(Fd(AT_FDCWD), path.as_ptr()).build().personality(personality);
    submit_to(&mut ring, how, entry).map(drop)
}

/// Submits one entry and waits for its result. What the entry points to must live until then.
fn submit(how: How, entry: Entry) -> Act {
    submit_for(how, entry).map(drop)
}

/// The same, for what it gives.
fn submit_for(how: How, entry: Entry) -> Result<i32, Failure> {
    submit_to(&mut ring(how)?, how, entry)
}

/// A ring that nobody polls, without what is mapped of it.
pub(crate) fn new_ring() -> Result<OwnedFd, Failure> {
    let ring = ring(How::Inline)?;
    // SAFETY: the descriptor is open for as long as the ring is there.
    unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned().map_err(Failure::broken)
}

fn ring(how: How) -> Result<IoUring, Failure> {
    const IDLE_MS: u32 = 1000;
    let mut builder = IoUring::builder();
    match how {
        How::Polling => drop(builder.setup_sqpoll(IDLE_MS)),
        // What a worker has left to do waits until the task asks for results.
        How::Linked => drop(builder.setup_single_issuer().setup_defer_taskrun()),
        How::Inline | How::Worker => {}
    }
    builder.build(4).map_err(|e| Failure::broken(format!("io_uring_setup: {e}")))
}

fn submit_to(ring: &mut IoUring, how: How, entry: Entry) -> Result<i32, Failure> {
    if how == How::Linked {
        return submit_linked(ring, entry);
    }
    let entry = if how == How::Worker { entry.flags(Flags::ASYNC) } else { entry };
    // SAFETY: the callers keep what the entry points to until this function returns.
    unsafe { ring.submission().push(&entry) }.map_err(Failure::broken)?;
    ring.submit_and_wait(1).map_err(|e| Failure::broken(format!("io_uring_enter: {e}")))?;
    let result = ring.completion().next().ok_or_else(|| Failure::broken("no completion"))?.result();
    if result < 0 { Err(Failure::Errno(-result)) } else { Ok(result) }
}

/// Submits the entry behind one that a worker does, and changes credentials before its turn comes.
fn submit_linked(ring: &mut IoUring, entry: Entry) -> Result<i32, Failure> {
    const THE_ACT: u64 = 1;
    let first = opcode::Nop::new().build().flags(Flags::ASYNC | Flags::IO_LINK);
    // SAFETY: the callers keep what the entry points to until this function returns.
    unsafe { ring.submission().push_multiple(&[first, entry.user_data(THE_ACT)]) }.map_err(Failure::broken)?;
    ring.submit().map_err(|e| Failure::broken(format!("io_uring_enter: {e}")))?;
    // SAFETY: no pointers.
    prepare("PR_SET_KEEPCAPS", unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })?;
    ring.submit_and_wait(2).map_err(|e| Failure::broken(format!("io_uring_enter: {e}")))?;
    let act = ring.completion().find(|done| done.user_data() == THE_ACT);
    let result = act.ok_or_else(|| Failure::broken("no completion"))?.result();
    if result < 0 { Err(Failure::Errno(-result)) } else { Ok(result) }
}
