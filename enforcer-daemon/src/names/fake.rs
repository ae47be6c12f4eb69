//! A name server of the tests' own: it answers as it is told, over UDP and TCP.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    Hosts,
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    proto::{
        op::{Message, OpCode, Query, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata::CNAME},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
};

use super::{Source, sources::Sources};

/// What the server does with a query.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Nothing comes.
    Hang,
    /// These records.
    Records(Vec<Record>),
    /// A code, and no records.
    Code(ResponseCode),
    /// A datagram that says there is more; these records over TCP.
    Truncated(Vec<Record>),
    /// These bytes instead of a message.
    Bytes(Vec<u8>),
    /// An answer to another question.
    OtherQuestion(Vec<Record>),
    /// An answer with another number.
    OtherId(Vec<Record>),
}

/// What a query asked for, and whether it came over TCP.
pub(super) type Asked = (String, RecordType, bool);

type Zone = dyn Fn(&str, RecordType) -> Reply + Send + Sync;

/// A running server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    zone: Arc<Mutex<Box<Zone>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts one that answers each query by name in lower case, without the dot at its end, and type.
    pub(super) async fn start(zone: impl Fn(&str, RecordType) -> Reply + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a UDP socket");
            // Another process may have the port for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("an address");
        let zone: Arc<Mutex<Box<Zone>>> = Arc::new(Mutex::new(Box::new(zone)));
        let asked = Arc::default();
        let tasks = vec![
            tokio::spawn(serve_udp(udp, Arc::clone(&zone), Arc::clone(&asked))),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&zone), Arc::clone(&asked))),
        ];
        Self { address, zone, asked, tasks }
    }

    /// From now on it answers so.
    pub(super) fn change(&self, zone: impl Fn(&str, RecordType) -> Reply + Send + Sync + 'static) {
        *self.zone.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(zone);
    }

    /// What it was asked so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A resolver's configuration with this server alone, and a timeout for the impatient.
    pub(super) fn sources(&self) -> Sources {
        sources(&[self.address])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A configuration with these servers.
pub(super) fn sources(servers: &[SocketAddr]) -> Sources {
    let server = |address: &SocketAddr| {
        let mut config = NameServerConfig::udp_and_tcp(address.ip());
        config.connections.iter_mut().for_each(|connection| connection.port = address.port());
        config
    };
    let config = ResolverConfig::from_parts(None, vec![], servers.iter().map(server).collect());
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_millis(700);
    options.attempts = 1;
    Sources::new(config, options, Hosts::default(), Source::Host)
}

/// A name without a dot at its end.
fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// An address record.
pub(super) fn record(name: &str, address: &str, ttl: u32) -> Record {
    let data = match address.parse().expect("an address") {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    };
    Record::from_rdata(absolute(name), ttl, data)
}

/// An alias.
pub(super) fn alias(name: &str, target: &str, ttl: u32) -> Record {
    Record::from_rdata(absolute(name), ttl, RData::CNAME(CNAME(absolute(target))))
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    name
}

/// A zone that holds these records: what it lacks does not exist.
pub(super) fn zone(records: Vec<Record>) -> impl Fn(&str, RecordType) -> Reply + Send + Sync + 'static {
    let mut by_name: HashMap<String, Vec<Record>> = HashMap::new();
    for record in records {
        by_name.entry(text(&record.name)).or_default().push(record);
    }
    move |name, kind| match by_name.get(name) {
        None => Reply::Code(ResponseCode::NXDomain),
        Some(records) => {
            let fits = |record: &&Record| [kind, RecordType::CNAME].contains(&record.record_type());
            Reply::Records(records.iter().filter(fits).cloned().collect())
        }
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Box<Zone>>>, asked: Arc<Mutex<Vec<Asked>>>) {
    let mut buffer = vec![0; 4096];
    while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
        if let Some(bytes) = answer(&buffer[..len], false, &zone, &asked) {
            // Too long for a datagram: as a real server, say that there is more.
            let _ = socket.send_to(&bytes, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Box<Zone>>>, asked: Arc<Mutex<Vec<Asked>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve_stream(stream, Arc::clone(&zone), Arc::clone(&asked)));
    }
}

async fn serve_stream(mut stream: TcpStream, zone: Arc<Mutex<Box<Zone>>>, asked: Arc<Mutex<Vec<Asked>>>) {
    while let Ok(len) = stream.read_u16().await {
        let mut query = vec![0; usize::from(len)];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        if let Some(bytes) = answer(&query, true, &zone, &asked) {
            let len = u16::try_from(bytes.len()).expect("a message of at most 64 KiB");
            if stream.write_u16(len).await.is_err() || stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

fn answer(query: &[u8], tcp: bool, zone: &Mutex<Box<Zone>>, asked: &Mutex<Vec<Asked>>) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let (name, kind) = (text(question.name()), question.query_type());
    asked.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), kind, tcp));
    let reply = zone.lock().unwrap_or_else(PoisonError::into_inner)(&name, kind);
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_query(question);
    match reply {
        Reply::Hang => return None,
        Reply::Bytes(bytes) => return Some(bytes),
        Reply::Code(code) => message.metadata.response_code = code,
        Reply::Truncated(_) if !tcp => message.metadata.truncation = true,
        Reply::Truncated(records) | Reply::Records(records) => {
            message.add_answers(records);
        }
        Reply::OtherQuestion(records) => {
            message.queries = vec![Query::query(absolute("other.example"), kind)];
            message.add_answers(records);
        }
        Reply::OtherId(records) => {
            message.metadata.id = query.metadata.id.wrapping_add(1);
            message.add_answers(records);
        }
    }
    Some(message.to_vec().expect("a message"))
}
