//! Acts on name servers: a query for an IPv4 address, as a program of the agent's own may send it.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use super::{Act, Failure};

const PATIENCE: Duration = Duration::from_secs(10);

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("dns-udp", [server, host]) => over_udp(server, host),
        ("dns-tcp", [server, host]) => over_tcp(server, host),
        _ => return None,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "an error is mapped by value")]
fn errno(error: std::io::Error) -> Failure {
    error.raw_os_error().map_or_else(|| Failure::broken(&error), Failure::Errno)
}

fn over_udp(server: &str, host: &str) -> Act {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(Failure::broken)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(Failure::broken)?;
    socket.send_to(&query(host)?, server).map_err(errno)?;
    let mut answer = [0; 4096];
    let len = socket.recv(&mut answer).map_err(Failure::broken)?;
    print_addresses(&answer[..len])
}

fn over_tcp(server: &str, host: &str) -> Act {
    let mut stream = TcpStream::connect(server).map_err(errno)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(Failure::broken)?;
    let query = query(host)?;
    let len = u16::try_from(query.len()).map_err(Failure::broken)?;
    stream.write_all(&[&len.to_be_bytes()[..], &query].concat()).map_err(errno)?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer).map_err(Failure::broken)?;
    print_addresses(answer.get(2..).unwrap_or_default())
}

/// A query with one question (RFC 1035, 4.1).
fn query(host: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in host.split('.') {
        bytes.push(u8::try_from(label.len()).map_err(Failure::broken)?);
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    Ok(bytes)
}

/// Prints the IPv4 addresses of an answer whose records name the question by a pointer.
fn print_addresses(answer: &[u8]) -> Act {
    let mark = [0xc0, 12, 0, 1, 0, 1];
    if answer.get(..2) != Some(&[0x12, 0x34]) {
        return Err(Failure::broken(format!("no answer: {answer:?}")));
    }
    for record in answer.windows(16).filter(|record| record.starts_with(&mark)) {
        let [a, b, c, d] = [record[12], record[13], record[14], record[15]];
        println!("{a}.{b}.{c}.{d}");
    }
    Ok(())
}
