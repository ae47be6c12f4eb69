//! Destinations: the addresses, prefixes, names and unix sockets of `network_scope` and `listen`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::error::InvalidValue;
use super::path::ManifestPath;

/// `sun_path` of `struct sockaddr_un` (linux/un.h); an abstract name has one byte less, for the NUL before it.
const SUN_PATH: usize = 108;
/// The longest host name, in bytes (RFC 1035, 2.3.4, without the root's dot).
const NAME_MAX: usize = 253;
/// The longest label of a host name, in bytes.
const LABEL_MAX: usize = 63;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One entry of `network_scope`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The addresses of a prefix; never a v4-mapped IPv6 prefix, and no bit is set behind the prefix.
    Net {
        /// The addresses; of full length for a single one.
        prefix: IpNet,
        /// Only this port, never 0; `None`: every port.
        port: Option<u16>,
        /// Only this protocol; `None`: TCP and UDP. Always `None` without a port.
        protocol: Option<Protocol>,
    },
    /// The addresses that a name resolves to.
    Name {
        /// The name, or what follows `*.` if it is a wildcard.
        name: HostName,
        /// Whether every name below `name` is meant, instead of `name` itself.
        wildcard: bool,
        /// Only this port, never 0; `None`: every port.
        port: Option<u16>,
        /// Only this protocol; `None`: TCP and UDP. Always `None` without a port.
        protocol: Option<Protocol>,
    },
    /// A unix socket in the file system.
    UnixPath(ManifestPath),
    /// A unix socket in the abstract namespace: the name without the `@`, never empty.
    UnixAbstract(String),
}

/// One entry of `listen`: a local address, or a prefix of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// The local addresses; of full length for a single one.
    pub prefix: IpNet,
    /// Only this port, never 0; `None`: every port.
    pub port: Option<u16>,
    /// Only this protocol; `None`: TCP and UDP.
    pub protocol: Option<Protocol>,
}

/// A host name in ASCII: lower case, without the dot at its end, of LDH labels, the last one not a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl TryFrom<String> for HostName {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || InvalidValue::new(text, "a host name");
        if !text.is_ascii() {
            return Err(error()
                .because("not ASCII")
                .hint("write an internationalised name in its ASCII form, label by label: xn--…"));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err(error().because("it is empty"));
        }
        if name.len() > NAME_MAX {
            return Err(error().because(format!("{} bytes, at most {NAME_MAX}", name.len())));
        }
        for label in name.split('.') {
            if label.is_empty() {
                return Err(error().because("a label is empty"));
            }
            if let Some(other) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
                return Err(error().because(format!("it has {other:?}")));
            }
            if label.len() > LABEL_MAX {
                return Err(error().because(format!("a label has {} bytes, at most {LABEL_MAX}", label.len())));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(error().because("a label starts or ends with `-`"));
            }
        }
        // What inet_aton would take for an address must not be taken for a name.
        let last = name.rsplit('.').next().unwrap_or(&name);
        let hex = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if hex || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidValue::new(text, "an address or a host name").because("looks like a bad address"));
        }
        Ok(Self(name))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net { prefix, port, protocol } => {
                format_prefix(f, *prefix, port.is_some())?;
                format_port(f, *port, *protocol)
            }
            Self::Name { name, wildcard, port, protocol } => {
                write!(f, "{}{name}", if *wildcard { "*." } else { "" })?;
                format_port(f, *port, *protocol)
            }
            Self::UnixPath(path) => write!(f, "unix:{path}"),
            Self::UnixAbstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_prefix(f, self.prefix, self.port.is_some())?;
        format_port(f, self.port, self.protocol)
    }
}

fn format_prefix(f: &mut fmt::Formatter<'_>, prefix: IpNet, port: bool) -> fmt::Result {
    let bracket = port && matches!(prefix, IpNet::V6(_));
    f.write_str(if bracket { "[" } else { "" })?;
    if prefix.prefix_len() == prefix.max_prefix_len() {
        write!(f, "{}", prefix.addr())?;
    } else {
        write!(f, "{prefix}")?;
    }
    f.write_str(if bracket { "]" } else { "" })
}

fn format_port(f: &mut fmt::Formatter<'_>, port: Option<u16>, protocol: Option<Protocol>) -> fmt::Result {
    let Some(port) = port else { return Ok(()) };
    write!(f, ":{port}")?;
    protocol.map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
}

impl FromStr for Destination {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(socket) = text.strip_prefix("unix:") {
            return unix(text, socket);
        }
        if text.starts_with('/') {
            return Err(InvalidValue::new(text, EXPECTED)
                .because("a path")
                .hint(format!("write {} for a unix socket", super::quoted(&format!("unix:{text}")))));
        }
        let (host, port, protocol) = split_port(text)?;
        if let Some(prefix) = address(text, host)? {
            return Ok(Self::Net { prefix, port, protocol });
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or(rest);
            let port = match scheme {
                "https" => ":443",
                "http" => ":80",
                _ => "",
            };
            return Err(InvalidValue::new(text, EXPECTED)
                .because("a URL")
                .hint(format!("write the name alone: {}", super::quoted(&format!("{host}{port}")))));
        }
        let (name, wildcard) = match host.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (host, false),
        };
        if host == "*" {
            return Err(InvalidValue::new(text, EXPECTED)
                .because("`*` stands alone in its list")
                .hint("write \"0.0.0.0/0:PORT\" and \"[::/0]:PORT\" for one port of every address"));
        }
        if name.contains('*') {
            return Err(InvalidValue::new(text, EXPECTED)
                .because("`*` stands for whole labels at the start")
                .hint("write \"*.example.com\" for every name below example.com"));
        }
        let name = name.parse().map_err(|error: InvalidValue| InvalidValue {
            found: error.found.replacen(&super::quoted(name), &super::quoted(text), 1),
            expected: EXPECTED.into(),
            hint: error.hint,
        })?;
        Ok(Self::Name { name, wildcard, port, protocol })
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || InvalidValue::new(text, "a local address, such as 127.0.0.1:8080 or [::1]:8080");
        if text.starts_with("unix:") || text.starts_with('/') {
            let hint = "leave it out: a unix socket is made where allow_write allows a file";
            return Err(error().because("a unix socket").hint(hint));
        }
        let port_alone = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
        if let Some(port) = port_alone.split('/').next().filter(|port| is_port(port)) {
            return Err(error().because("no address").hint(format!(
                "write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" and \"[::]:{port}\" for all addresses at once"
            )));
        }
        let (host, port, protocol) = split_port(text)?;
        let prefix = address(text, host)?.ok_or_else(|| match host {
            "localhost" => error().because("a name").hint("write 127.0.0.1, and [::1] for IPv6"),
            "*" => error().because("`*` stands alone in its list"),
            _ => error(),
        })?;
        Ok(Self { prefix, port, protocol })
    }
}

/// Whether a text is a number that a port could have.
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port != 0) && text.bytes().all(|b| b.is_ascii_digit())
}

const PORTS: &str = "a port from 1 to 65535";
const EXPECTED: &str = "an address, a prefix or a name, then :PORT or :PORT/PROTOCOL if need be; or unix:PATH";

/// Splits `HOST[:PORT[/PROTOCOL]]`, where HOST may be in brackets; brackets are removed.
fn split_port(text: &str) -> Result<(&str, Option<u16>, Option<Protocol>), InvalidValue> {
    let error = || InvalidValue::new(text, EXPECTED);
    if text.is_empty() {
        return Err(error().because("it is empty"));
    }
    if let Some(other) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
        return Err(error().because(format!("it has {other:?}")));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| error().because("no `]`"))?;
        if host.parse::<Ipv6Addr>().is_err() && host.parse::<IpNet>().is_err() && !host.contains(':') {
            return Err(error().because("brackets are for IPv6").hint(format!("write {host}{port}")));
        }
        match port.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if port.is_empty() => (host, None),
            None => return Err(error().because("no `:` after `]`")),
        }
    } else {
        match text.split_once(':') {
            // A bare IPv6 address or prefix, which has no port, or a URL, which is refused later.
            Some((_, rest)) if rest.contains(':') || rest.starts_with("//") => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let Some(port) = port else {
        return Ok((host, None, None));
    };
    let (port, protocol) = match port.split_once('/') {
        None => (port, None),
        Some((port, "tcp")) => (port, Some(Protocol::Tcp)),
        Some((port, "udp")) => (port, Some(Protocol::Udp)),
        Some((_, other)) => {
            return Err(error()
                .because(format!("protocol {}", super::quoted(other)))
                .expecting("the protocol tcp or udp"));
        }
    };
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error().because(format!("{} is no port", super::quoted(port))).expecting(PORTS));
    }
    match port.parse::<u16>() {
        Ok(0) => Err(error().because("port 0").expecting(PORTS).hint("leave the port out for every port")),
        Ok(number) => Ok((host, Some(number), protocol)),
        Err(_) => Err(error().because(format!("port {}", cut(port))).expecting(PORTS)),
    }
}

/// Digits of a number that is too large, short enough for a message.
fn cut(digits: &str) -> &str {
    digits.get(..20).unwrap_or(digits)
}

/// The address or prefix `host`, or `None` if it is meant to be a name.
fn address(text: &str, host: &str) -> Result<Option<IpNet>, InvalidValue> {
    let error = || InvalidValue::new(text, EXPECTED);
    if let Some((_, zone)) = host.split_once('%') {
        return Err(error()
            .because(format!("scope {}", super::quoted(zone)))
            .hint("leave out the `%` and what follows"));
    }
    let (addr, len) = match host.split_once('/') {
        _ if host.contains("://") => return Ok(None),
        Some((addr, len)) => (addr, Some(len)),
        None => (host, None),
    };
    let Ok(addr) = addr.parse::<IpAddr>() else {
        if host.contains(':') {
            let port = len.and_then(|len| len.split_once(':'));
            return Err(match port {
                Some((len, port)) => error()
                    .because("a port after an IPv6 prefix without brackets")
                    .hint(format!("write \"[{addr}/{len}]:{port}\"")),
                None => error().because("not an IPv6 address"),
            });
        }
        return match len {
            Some(path) if !path.is_empty() && addr.parse::<HostName>().is_ok() => Err(error()
                .because("a name with a path or a prefix length")
                .hint("the kernel sees addresses and ports, no paths")),
            Some(_) => Err(error().because("looks like a bad address")),
            None => Ok(None),
        };
    };
    let max = if addr.is_ipv4() { 32 } else { 128 };
    let len = match len {
        None => max,
        Some(len) => match len.parse::<u8>() {
            Ok(number) if number <= max && len.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return Err(bad_length(text, len, max, addr)),
        },
    };
    let net = IpNet::new_assert(addr, len);
    if let (IpAddr::V6(v6), true) = (addr, len >= 96)
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(error()
            .because("IPv4 written as IPv6")
            .expecting("an IPv4 address or prefix")
            .hint(format!("write {}", v4_form(v4, len - 96))));
    }
    if net.trunc() != net {
        return Err(error()
            .because(format!("bits are set behind the first {len}"))
            .expecting("a prefix without further bits, or an address")
            .hint(format!("write {} for the prefix, or {addr} for the address", net.trunc())));
    }
    Ok(Some(net))
}

fn bad_length(text: &str, len: &str, max: u8, addr: IpAddr) -> InvalidValue {
    let error = InvalidValue::new(text, EXPECTED);
    if matches!(len, "tcp" | "udp") {
        return error.because("a protocol without a port").hint("write :PORT before it");
    }
    if let (Some((len, port)), IpAddr::V6(_)) = (len.split_once(':'), addr) {
        return error
            .because("a port after an IPv6 prefix without brackets")
            .hint(format!("write \"[{addr}/{len}]:{port}\""));
    }
    error.because(format!("prefix length {}", super::quoted(len))).expecting(format!("a prefix length from 0 to {max}"))
}

fn v4_form(addr: Ipv4Addr, len: u8) -> String {
    match Ipv4Net::new(addr, len) {
        Ok(net) if len < 32 => net.trunc().to_string(),
        _ => addr.to_string(),
    }
}

/// `unix:PATH` or `unix:@NAME`, given what follows `unix:`.
fn unix(text: &str, socket: &str) -> Result<Destination, InvalidValue> {
    if let Some(name) = socket.strip_prefix('@') {
        let error = || InvalidValue::new(text, "unix:@ and a name of 1 to 107 bytes");
        return match name.len() {
            0 => Err(error()),
            bytes if bytes >= SUN_PATH => Err(error().because(format!("{bytes} bytes"))),
            _ if name.contains(char::is_control) => Err(error().because("it has control characters")),
            _ => Ok(Destination::UnixAbstract(name.to_owned())),
        };
    }
    let path: ManifestPath = socket.parse().map_err(|error: InvalidValue| InvalidValue {
        expected: "unix:/PATH, or unix:@NAME for an abstract socket".into(),
        ..error
    })?;
    Ok(Destination::UnixPath(path))
}
