//! Servers that note what reached them.

use std::{
    io::{ErrorKind, Read, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::eventually;

/// How long a byte may take over loopback.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How long a byte that must not arrive is waited for: what was sent over loopback is there when the call returns, but
/// for the reader's thread to wake up.
const QUIET: Duration = Duration::from_millis(150);
/// How long a connection may stay open.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(5);

/// A server on one address, TCP and UDP; it ends when this is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts one.
    pub(crate) fn start(ip: &str, port: u16) -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::new(ip.parse()?, port))
    }

    /// Starts one at an address that may have a scope.
    pub(crate) fn start_at(address: SocketAddr) -> anyhow::Result<Self> {
        let tcp = TcpListener::bind(address).with_context(|| address.to_string())?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address).with_context(|| address.to_string())?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        let mut server = Self { address, received: Arc::default(), stop: Arc::default(), thread: None };
        let (received, stop) = (Arc::clone(&server.received), Arc::clone(&server.stop));
        server.thread = Some(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut idle = true;
                if let Ok((stream, _)) = tcp.accept() {
                    idle = false;
                    let _ = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
                    receive(stream, &received);
                }
                let mut datagram = [0; 256];
                match udp.recv(&mut datagram) {
                    Ok(len) => {
                        idle = false;
                        note(&received, datagram[..len].to_vec());
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

    /// The address and port, as an act takes them.
    pub(crate) fn at(&self) -> String {
        self.address.to_string()
    }

    /// The same as it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// These bytes have arrived, or do so soon. Forgets what came.
    pub(crate) fn got(&self, text: &str) -> anyhow::Result<()> {
        let wanted = text.as_bytes();
        let arrived = eventually(ARRIVAL, || self.taken().iter().any(|bytes| bytes == wanted));
        let all = std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner));
        ensure!(arrived, "{text:?} did not arrive at {}, but {all:?}", self.address);
        Ok(())
    }

    /// Nothing has arrived, not even a connection.
    pub(crate) fn nothing(&self) -> anyhow::Result<()> {
        thread::sleep(QUIET);
        let all = self.taken();
        ensure!(all.is_empty(), "{} was reached: {all:?}", self.address);
        Ok(())
    }

    fn taken(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The next server may want this very port.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Says something to a server, over TCP or UDP; whether it was there to hear it.
pub(crate) fn say(text: &str, to: &str, tcp: bool) -> bool {
    if tcp {
        return TcpStream::connect(to).and_then(|mut stream| stream.write_all(text.as_bytes())).is_ok();
    }
    let local = if to.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
    let said = UdpSocket::bind(local).and_then(|client| {
        // Of a connected socket the second sending tells that nobody was there for the first.
        client.connect(to)?;
        client.send(text.as_bytes())?;
        thread::sleep(Duration::from_millis(20));
        client.take_error()
    });
    matches!(said, Ok(None))
}

/// Notes a connection, and then what is sent over it until it ends.
pub(super) fn receive(mut stream: impl Read + Send + 'static, received: &Arc<Mutex<Vec<Vec<u8>>>>) {
    // A connection is an arrival, whatever is sent over it.
    note(received, Vec::new());
    let received = Arc::clone(received);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        if !bytes.is_empty() {
            note(&received, bytes);
        }
    });
}

pub(super) fn note(received: &Mutex<Vec<Vec<u8>>>, bytes: Vec<u8>) {
    received.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
}
