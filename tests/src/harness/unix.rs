//! Servers on unix sockets that note what reached them.

use std::{
    io::ErrorKind,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::{
    eventually,
    listener::{PATIENCE, note, receive},
};

const ARRIVAL: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(150);
const NAP: Duration = Duration::from_millis(5);

/// A stream server at a name and a datagram server at that name with `.dgram` behind it; both end when this is dropped.
pub(crate) struct UnixServer {
    name: String,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The address of a path, or of `@` and an abstract name.
fn address(name: &str) -> std::io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

impl UnixServer {
    /// Starts one; what lies at the path is replaced.
    pub(crate) fn start(name: &str) -> anyhow::Result<Self> {
        let datagrams = format!("{name}.dgram");
        for path in [name, &datagrams] {
            if Path::new(path).exists() {
                std::fs::remove_file(path)?;
            }
        }
        let stream = UnixListener::bind_addr(&address(name)?).with_context(|| name.to_owned())?;
        let datagram = UnixDatagram::bind_addr(&address(&datagrams)?).with_context(|| datagrams.clone())?;
        stream.set_nonblocking(true)?;
        datagram.set_nonblocking(true)?;
        let mut server = Self { name: name.to_owned(), received: Arc::default(), stop: Arc::default(), thread: None };
        let (received, stop) = (Arc::clone(&server.received), Arc::clone(&server.stop));
        server.thread = Some(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut idle = true;
                if let Ok((client, _)) = stream.accept() {
                    idle = false;
                    let _ = client.set_nonblocking(false).and_then(|()| client.set_read_timeout(Some(PATIENCE)));
                    receive(client, &received);
                }
                let mut buffer = [0; 256];
                match datagram.recv(&mut buffer) {
                    Ok(len) => {
                        idle = false;
                        note(&received, buffer[..len].to_vec());
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
                if idle {
                    thread::sleep(NAP);
                }
            }
        }));
        Ok(server)
    }

    /// The stream socket's name.
    pub(crate) fn at(&self) -> &str {
        &self.name
    }

    /// The datagram socket's name.
    pub(crate) fn datagrams(&self) -> String {
        format!("{}.dgram", self.name)
    }

    /// These bytes have arrived, or do so soon. Forgets what came.
    pub(crate) fn got(&self, text: &str) -> anyhow::Result<()> {
        let arrived = eventually(ARRIVAL, || self.taken().iter().any(|bytes| bytes == text.as_bytes()));
        let all = std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner));
        ensure!(arrived, "{text:?} did not arrive at {}, but {all:?}", self.name);
        Ok(())
    }

    /// Nothing has arrived, not even a connection.
    pub(crate) fn nothing(&self) -> anyhow::Result<()> {
        thread::sleep(QUIET);
        let all = self.taken();
        ensure!(all.is_empty(), "{} was reached: {all:?}", self.name);
        Ok(())
    }

    fn taken(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A listening socket of sequenced packets at a path; nobody waits at it.
pub(crate) fn packets(path: &str) -> anyhow::Result<UnixListener> {
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    ensure!(path.len() < address.sun_path.len(), "{path} is too long");
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX)?;
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from.cast_signed();
    }
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    ensure!(fd >= 0, "no socket of sequenced packets: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = u32::try_from(size_of_val(&address))?;
    // SAFETY: the address lives through the calls.
    let listens = unsafe { libc::bind(fd, (&raw const address).cast(), len) == 0 && libc::listen(fd, 4) == 0 };
    ensure!(listens, "{path}: {}", std::io::Error::last_os_error());
    Ok(socket.into())
}

impl Drop for UnixServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
