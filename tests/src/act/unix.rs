//! Acts on unix sockets. A name is a path, or `@` and an abstract name.

use std::{
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
    },
};

use super::{
    Act, Failure, TOKEN,
    net::send,
    sys::{self, check, prepare},
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("unix-stream", [socket]) => connected(socket).and_then(|stream| send(stream.as_raw_fd())),
        ("unix-packet", [socket]) => packet(socket),
        ("unix-datagram", [socket]) => datagram(socket, false),
        ("unix-datagram-connected", [socket]) => datagram(socket, true),
        ("unix-within", [socket]) => within(socket),
        ("unix-datagram-within", [socket]) => datagram_within(socket),
        ("unix-serve", [socket]) => serve(socket),
        ("unix-pair", []) => pair(),
        ("control-then-into-cgroup", [dir]) => control_then(dir),
        _ => return None,
    })
}

/// The address of a name.
fn address(name: &str) -> Result<SocketAddr, Failure> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    address.map_err(Failure::broken)
}

/// A stream socket that is connected to a name.
pub(super) fn connected(name: &str) -> Result<OwnedFd, Failure> {
    UnixStream::connect_addr(&address(name)?).map(OwnedFd::from).map_err(|e| Failure::of(&e))
}

/// Connects a socket of sequenced packets and sends.
fn packet(path: &str) -> Act {
    let path = path.as_bytes();
    // SAFETY: all zeroes is a valid address; the descriptor is new; the address lives through the calls.
    unsafe {
        let fd = prepare("socket", libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0))?;
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
        for (to, from) in address.sun_path.iter_mut().zip(path) {
            *to = from.cast_signed();
        }
        let len = u32::try_from(2 + path.len() + 1).map_err(Failure::broken)?;
        check(libc::connect(sys::fd(fd), (&raw const address).cast(), len))?;
        send(sys::fd(fd))
    }
}

fn datagram(name: &str, connect: bool) -> Act {
    let socket = UnixDatagram::unbound().map_err(Failure::broken)?;
    let address = address(name)?;
    if connect {
        socket.connect_addr(&address).map_err(|e| Failure::of(&e))?;
        return send(socket.as_raw_fd());
    }
    socket.send_to_addr(TOKEN.as_bytes(), &address).map(drop).map_err(|e| Failure::of(&e))
}

/// Listens, lets a child connect, and prints what it says: all of it inside the skill.
fn within(name: &str) -> Act {
    let listener = UnixListener::bind_addr(&address(name)?).map_err(|e| Failure::of(&e))?;
    super::way::fork_and(
        || match UnixStream::connect_addr(&address(name)?) {
            Ok(mut stream) => stream.write_all(TOKEN.as_bytes()).map_err(Failure::broken),
            Err(e) => Err(Failure::of(&e)),
        },
        || {
            let (mut stream, _) = listener.accept().map_err(Failure::broken)?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(Failure::broken)?;
            print!("{text}");
            Ok(())
        },
    )
}

/// Listens, and prints what the first client that says something says.
fn serve(name: &str) -> Act {
    let listener = UnixListener::bind_addr(&address(name)?).map_err(|e| Failure::of(&e))?;
    loop {
        let (mut stream, _) = listener.accept().map_err(Failure::broken)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(Failure::broken)?;
        if !text.is_empty() {
            print!("{text}");
            return Ok(());
        }
    }
}

/// A datagram to a socket that the skill bound itself.
fn datagram_within(name: &str) -> Act {
    let receiver = UnixDatagram::bind_addr(&address(name)?).map_err(|e| Failure::of(&e))?;
    datagram(name, false)?;
    let mut buffer = [0; 64];
    let len = receiver.recv(&mut buffer).map_err(Failure::broken)?;
    print!("{}", String::from_utf8_lossy(&buffer[..len]));
    Ok(())
}

/// Both ends of pairs, which have no names.
fn pair() -> Act {
    let (mut one, mut other) = UnixStream::pair().map_err(|e| Failure::of(&e))?;
    one.write_all(TOKEN.as_bytes()).map_err(|e| Failure::of(&e))?;
    drop(one);
    let mut text = String::new();
    other.read_to_string(&mut text).map_err(|e| Failure::of(&e))?;
    let (one, other) = UnixDatagram::pair().map_err(|e| Failure::of(&e))?;
    one.send(text.as_bytes()).map_err(|e| Failure::of(&e))?;
    let mut buffer = [0; 64];
    let len = other.recv(&mut buffer).map_err(|e| Failure::of(&e))?;
    print!("{}", String::from_utf8_lossy(&buffer[..len]));
    Ok(())
}

/// Asks the daemon something over a connection that it has, comes into a cgroup, and asks again; EPERM when that is refused.
fn control_then(dir: &str) -> Act {
    use std::io::{BufRead as _, BufReader};
    let mut connection = UnixStream::connect("/run/enforcer/control.sock").map_err(Failure::broken)?;
    let mut answers = BufReader::new(connection.try_clone().map_err(Failure::broken)?);
    let mut ask = || {
        let mut answer = String::new();
        connection.write_all(b"{\"op\":\"status\"}\n").map_err(Failure::broken)?;
        answers.read_line(&mut answer).map_err(Failure::broken)?;
        Ok::<_, Failure>(answer)
    };
    let first = ask()?;
    if !first.contains("generation") {
        return Err(Failure::broken(first));
    }
    std::fs::write(format!("{dir}/cgroup.procs"), "0").map_err(Failure::broken)?;
    let second = ask()?;
    println!("{second}");
    if second.contains("generation") {
        return Ok(());
    }
    if second.contains("a governed process") { Err(Failure::Errno(libc::EPERM)) } else { Err(Failure::broken(second)) }
}
