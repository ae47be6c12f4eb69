//! Sockets of governed processes that the rules do not allow, or not any more: found by the iterator, closed from here.
//!
//! The daemon takes a copy of the process's descriptor (`pidfd_getfd`, since 5.6) and breaks the connection at its own end, which is
//! the very socket: it works in every network namespace, and the process cannot have put another one in its place
//! unnoticed, because the socket's inode is compared. A TCP peer gets a reset.
//!
//! Before 6.9 nothing copies a descriptor out of a table that belongs to one thread alone, and not to its process's first: there the
//! process is ended instead.

use enforcer_common::net::{AF_INET, AF_INET6, AF_UNIX, FoundSocket, IPPROTO_TCP, IPPROTO_UDP};
use rustix::{
    fs::{fstat, stat},
    io::Errno,
    net::{Shutdown, connect_unspec, shutdown},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal},
};

/// What became of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not connected and takes no connections any more.
    Closed,
    /// Its process was ended, because its descriptor cannot be had.
    Ended,
    /// The process has closed it meanwhile, or has ended.
    Gone,
    /// It stays as it was.
    Stays(Errno),
}

/// Reads the iterator's output.
#[must_use]
pub fn records(bytes: &[u8]) -> Vec<FoundSocket> {
    let (records, _) = bytes.as_chunks::<{ size_of::<FoundSocket>() }>();
    // SAFETY: each chunk is as long as a record, which is plain integers without padding; the read does not ask for alignment.
    records.iter().map(|chunk| unsafe { chunk.as_ptr().cast::<FoundSocket>().read_unaligned() }).collect()
}

/// Closes a socket of another process.
#[must_use]
pub fn close(found: &FoundSocket) -> Outcome {
    match try_close(found) {
        Ok(outcome) => outcome,
        Err(Errno::SRCH | Errno::BADF) => Outcome::Gone,
        Err(e) => Outcome::Stays(e),
    }
}

fn process_id(number: u32) -> Result<Pid, Errno> {
    i32::try_from(number).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)
}

fn try_close(found: &FoundSocket) -> Result<Outcome, Errno> {
    /// `PIDFD_THREAD`, since 6.9: a thread that is not its process's first, and has descriptors of its own.
    const THREAD: u32 = 0o200;
    // Nothing takes from a process what it can send past every rule.
    if !matches!((found.family, found.protocol), (AF_UNIX, _) | (AF_INET | AF_INET6, IPPROTO_TCP | IPPROTO_UDP)) {
        return Err(Errno::OPNOTSUPP);
    }
    let of_thread = found.tid != found.tgid;
    let flags = if of_thread { PidfdFlags::from_bits_retain(THREAD) } else { PidfdFlags::empty() };
    let pidfd = match pidfd_open(process_id(found.tid)?, flags) {
        // The flag is not known (`kernel/pid.c: pidfd_open`).
        Err(Errno::INVAL) if of_thread => return end(found),
        opened => opened?,
    };
    let fd = i32::try_from(found.fd).map_err(|_| Errno::BADF)?;
    let socket = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty())?;
    if fstat(&socket)?.st_ino != found.ino {
        return Ok(Outcome::Gone);
    }
    if found.family == AF_UNIX {
        shutdown(&socket, Shutdown::Both)?;
    } else {
        connect_unspec(&socket)?;
    }
    Ok(Outcome::Closed)
}

/// Ends the process that has the socket. It is held first, so that it is the one that is looked at.
fn end(found: &FoundSocket) -> Result<Outcome, Errno> {
    let process = pidfd_open(process_id(found.tgid)?, PidfdFlags::empty())?;
    let descriptor = format!("/proc/{}/task/{}/fd/{}", found.tgid, found.tid, found.fd);
    match stat(descriptor.as_str()) {
        Ok(socket) if socket.st_ino == found.ino => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(Outcome::Gone),
        Err(e) => return Err(e),
    }
    pidfd_send_signal(&process, Signal::KILL)?;
    Ok(Outcome::Ended)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::{
            fd::{AsRawFd as _, OwnedFd},
            unix::{fs::MetadataExt as _, net::UnixStream, process::ExitStatusExt as _},
        },
        process::Command,
    };

    use super::*;

    fn found(fd: i32, family: u16, protocol: u16) -> FoundSocket {
        let ino = std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("a descriptor").ino();
        let fd = u32::try_from(fd).expect("a descriptor");
        FoundSocket {
            ino,
            tid: std::process::id(),
            tgid: std::process::id(),
            fd,
            family,
            protocol,
            ..FoundSocket::default()
        }
    }

    #[test]
    fn a_connection_is_broken_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (mut server, _) = listener.accept().expect("a client");
        assert_eq!(close(&found(client.as_raw_fd(), AF_INET, IPPROTO_TCP)), Outcome::Closed);
        assert!(client.write_all(b"x").is_err());
        let outcome = server.read(&mut [0; 8]);
        assert!(matches!(&outcome, Ok(0)) || outcome.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));

        let (mut one, mut other) = UnixStream::pair().expect("a pair");
        assert_eq!(close(&found(one.as_raw_fd(), AF_UNIX, 0)), Outcome::Closed);
        assert!(one.write_all(b"x").is_err());
        assert_eq!(other.read(&mut [0; 8]).expect("the end"), 0);
    }

    #[test]
    fn another_socket_in_its_place_is_left_alone() {
        let (mut one, _other) = UnixStream::pair().expect("a pair");
        let mut stale = found(one.as_raw_fd(), AF_UNIX, 0);
        stale.ino += 1;
        assert_eq!(close(&stale), Outcome::Gone);
        one.write_all(b"x").expect("still connected");
        let closed = FoundSocket { fd: 1 << 20, ..stale };
        assert_eq!(close(&closed), Outcome::Gone);
    }

    #[test]
    fn a_process_is_ended_for_the_socket_that_was_found_alone() {
        let (socket, other) = UnixStream::pair().expect("a pair");
        let fd = socket.as_raw_fd();
        let ino = std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("a descriptor").ino();
        let mut child = Command::new("sleep").arg("600").stdin(OwnedFd::from(socket)).spawn().expect("a child");
        let found =
            FoundSocket { ino, tid: child.id(), tgid: child.id(), fd: 0, family: AF_UNIX, ..FoundSocket::default() };
        assert_eq!(end(&FoundSocket { ino: ino + 1, ..found }), Ok(Outcome::Gone));
        assert_eq!(end(&FoundSocket { fd: 1 << 20, ..found }), Ok(Outcome::Gone));
        assert!(child.try_wait().expect("the child").is_none(), "it was ended for another socket");
        assert_eq!(end(&found), Ok(Outcome::Ended));
        assert_eq!(child.wait().expect("the child").signal(), Some(9));
        drop(other);
    }

    #[test]
    fn what_is_no_whole_record_is_left_out() {
        assert!(records(&[0; 47]).is_empty());
        assert_eq!(records(&[0; 100]).len(), 2);
    }
}
