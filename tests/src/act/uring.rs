//! Acts through `io_uring`: inline, by a worker thread of the kernel, and by its polling thread.

use std::os::fd::AsRawFd as _;

use io_uring::{IoUring, opcode, squeue::Entry, types::Fd};
use libc::AT_FDCWD;

use super::{
    Act, Failure, net,
    sys::{c, check},
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
}

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    let how = match name {
        "uring" => How::Inline,
        "uring-worker" => How::Worker,
        "uring-sqpoll" => How::Polling,
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
        ["tcp", address] => tcp(how, address),
        ["sendmsg", address] => send_message(how, address),
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

fn send_message(how: How, address: &str) -> Act {
    let target = net::Target::parse(address)?;
    let socket = target.socket(libc::SOCK_DGRAM)?;
    let mut iov = libc::iovec { iov_base: net::TOKEN.as_ptr().cast_mut().cast(), iov_len: net::TOKEN.len() };
    // SAFETY: all zeroes is a valid message header; the kernel only reads what it points to.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = target.as_ptr().cast_mut().cast();
    message.msg_namelen = target.len();
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    submit(how, opcode::SendMsg::new(Fd(socket.as_raw_fd()), &raw const message).build())
}

/// Submits one entry and waits for its result. What the entry points to must live until then.
fn submit(how: How, entry: Entry) -> Act {
    const IDLE_MS: u32 = 1000;
    let mut builder = IoUring::builder();
    if how == How::Polling {
        builder.setup_sqpoll(IDLE_MS);
    }
    let mut ring: IoUring = builder.build(4).map_err(|e| Failure::broken(format!("io_uring_setup: {e}")))?;
    let entry = if how == How::Worker { entry.flags(io_uring::squeue::Flags::ASYNC) } else { entry };
    // SAFETY: the callers keep what the entry points to until this function returns.
    unsafe { ring.submission().push(&entry) }.map_err(Failure::broken)?;
    ring.submit_and_wait(1).map_err(|e| Failure::broken(format!("io_uring_enter: {e}")))?;
    let result = ring.completion().next().ok_or_else(|| Failure::broken("no completion"))?.result();
    if result < 0 { Err(Failure::Errno(-result)) } else { Ok(()) }
}
