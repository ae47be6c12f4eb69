//! A name server of the tests' own, over UDP and TCP.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;

/// How long an answer holds, in seconds: less than the daemon's least.
const TTL: u32 = 0;
/// How long a thread waits before it looks whether it shall end.
const NAP: Duration = Duration::from_millis(100);

/// What it knows, and what it was asked.
#[derive(Default)]
struct Zone {
    names: HashMap<String, Vec<IpAddr>>,
    hangs: bool,
    asked: Vec<String>,
}

/// A name server; it ends when this is dropped.
pub(crate) struct Dns {
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Dns {
    /// Starts one at port 53 of an address.
    pub(crate) fn start(ip: &str) -> anyhow::Result<Self> {
        let address = SocketAddr::new(ip.parse()?, 53);
        let udp = UdpSocket::bind(address).with_context(|| address.to_string())?;
        let tcp = TcpListener::bind(address).with_context(|| address.to_string())?;
        udp.set_read_timeout(Some(NAP))?;
        tcp.set_nonblocking(true)?;
        let (zone, stop) = (Arc::default(), Arc::default());
        let (zone_udp, stop_udp) = (Arc::clone(&zone), Arc::clone(&stop));
        let (zone_tcp, stop_tcp) = (Arc::clone(&zone), Arc::clone(&stop));
        let threads = vec![
            thread::spawn(move || serve_udp(&udp, &zone_udp, &stop_udp)),
            thread::spawn(move || serve_tcp(&tcp, &zone_tcp, &stop_tcp)),
        ];
        Ok(Self { zone, stop, threads })
    }

    /// From now on the name has these addresses; with none it does not exist.
    pub(crate) fn set(&self, name: &str, addresses: &[&str]) -> anyhow::Result<()> {
        let addresses = addresses.iter().map(|text| Ok(text.parse()?)).collect::<anyhow::Result<Vec<IpAddr>>>()?;
        self.zone().names.insert(name.to_owned(), addresses);
        Ok(())
    }

    /// Whether it takes queries and does not answer.
    pub(crate) fn hang(&self, hangs: bool) {
        self.zone().hangs = hangs;
    }

    /// The names that it was asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.zone().asked.clone()
    }

    fn zone(&self) -> std::sync::MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_udp(socket: &UdpSocket, zone: &Mutex<Zone>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        // A timeout, or an unreachable peer of an answer before.
        let Ok((len, peer)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = answer(&buffer[..len], zone) {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn serve_tcp(listener: &TcpListener, zone: &Mutex<Zone>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // One query a connection, and a peer that is slow loses its turn.
            Ok((stream, _)) => drop(serve_stream(stream, zone)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(NAP),
            Err(_) => return,
        }
    }
}

fn serve_stream(mut stream: TcpStream, zone: &Mutex<Zone>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut query)?;
    if let Some(answer) = answer(&query, zone) {
        stream.write_all(&u16::try_from(answer.len()).unwrap_or(0).to_be_bytes())?;
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// The answer to a query (RFC 1035, 4.1), or nothing.
fn answer(query: &[u8], zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    const A: [u8; 2] = [0, 1];
    const AAAA: [u8; 2] = [0, 28];
    let (name, end) = question(query)?;
    let kind = query.get(end..end + 2)?;
    let mut zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
    zone.asked.push(name.clone());
    if zone.hangs {
        return None;
    }
    let known = zone.names.get(&name).filter(|addresses| !addresses.is_empty());
    let fits = |ip: &&IpAddr| kind == if ip.is_ipv4() { A } else { AAAA };
    let found: Vec<&IpAddr> = known.into_iter().flatten().filter(fits).collect();
    let code = if known.is_some() { 0 } else { 3 };
    // The query's number; a response, recursion desired and available; one question, and the answers.
    let mut bytes = query.get(..2)?.to_vec();
    bytes.extend([0x81, 0x80 | code, 0, 1]);
    bytes.extend(u16::try_from(found.len()).ok()?.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(query.get(12..end + 4)?);
    for ip in found {
        // The name of the question, by a pointer to it.
        bytes.extend([0xc0, 12]);
        bytes.extend(kind);
        bytes.extend([0, 1]);
        bytes.extend(TTL.to_be_bytes());
        match ip {
            IpAddr::V4(v4) => bytes.extend([&[0, 4][..], &v4.octets()].concat()),
            IpAddr::V6(v6) => bytes.extend([&[0, 16][..], &v6.octets()].concat()),
        }
    }
    Some(bytes)
}

/// The name that a query asks for, and where its type begins.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (vec![], 12);
    loop {
        let len = usize::from(*query.get(at)?);
        if len == 0 {
            return Some((labels.join(".").to_ascii_lowercase(), at + 1));
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + len)?).into_owned());
        at += 1 + len;
    }
}
