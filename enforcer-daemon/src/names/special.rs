//! Addresses that a name server may not hand out.
//!
//! Whoever owns a name's zone chooses its addresses. Where a manifest means "the API of that company", its zone must not
//! be able to mean "whatever listens on this host" or "the cloud's metadata service" instead (DNS rebinding). Such an address
//! is taken from the hosts file, and from nowhere else; a skill that lists a prefix that holds it has the ports of that entry
//! there. Private addresses are what names mean inside a company; they are taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The documented addresses of metadata services that are neither link-local nor loopback.
const METADATA: [IpAddr; 4] = [
    // Alibaba Cloud, Oracle Cloud, Azure's host, and the IPv6 address of Amazon EC2.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// What kind of address it is, when an answer of a name server may not name it.
#[must_use]
pub fn refused(address: IpAddr) -> Option<&'static str> {
    if METADATA.contains(&address) {
        return Some("a cloud's metadata service");
    }
    match address {
        IpAddr::V4(v4) => refused_v4(v4),
        IpAddr::V6(v6) => refused_v6(v6),
    }
}

/// Whether it is an address of a private network: names inside a company have such (RFC 1918, RFC 6598, RFC 4193).
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Kinds by the special-purpose registry of IANA (RFC 6890).
fn refused_v4(v4: Ipv4Addr) -> Option<&'static str> {
    let [first, ..] = v4.octets();
    if first == 0 {
        Some("this host")
    } else if v4.is_loopback() {
        Some("loopback")
    } else if v4.is_link_local() {
        Some("link-local")
    } else if v4.is_multicast() {
        Some("multicast")
    } else if first >= 240 {
        Some("reserved or broadcast")
    } else {
        None
    }
}

fn refused_v6(v6: Ipv6Addr) -> Option<&'static str> {
    let segments = v6.segments();
    let embedded = |high: u16, low: u16| {
        let ([one, two], [three, four]) = (high.to_be_bytes(), low.to_be_bytes());
        refused(Ipv4Addr::new(one, two, three, four).into())
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0, 0, 0, 0, 0, 0, ..] => Some("unspecified or IPv4 written as IPv6"),
        [0, 0, 0, 0, 0, 0xffff, ..] => Some("IPv4 written as IPv6"),
        // NAT64 and 6to4 lead to the IPv4 address that they hold (RFC 6052, RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        _ if v6.is_unicast_link_local() => Some("link-local"),
        _ if v6.is_multicast() => Some("multicast"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_this_host_or_link_is_refused() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "::2",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:93.184.216.34",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            assert!(refused(text.parse().expect("an address")).is_some(), "{text}");
        }
    }

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for text in ["10.0.0.1", "172.31.0.1", "192.168.0.1", "100.64.0.1", "100.127.0.1", "fd00::1", "fc00::1"] {
            assert!(is_private(text.parse().expect("an address")), "{text}");
        }
        for text in ["11.0.0.1", "172.32.0.1", "192.169.0.1", "100.128.0.1", "2001:db8::1"] {
            assert!(!is_private(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn public_and_private_addresses_are_taken() {
        for text in [
            "93.184.216.34",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "128.0.0.1",
            "169.253.255.255",
            "223.255.255.255",
            "2001:db8::1",
            "64:ff9b::93.184.216.34",
            "2002:5db8:d822::1",
            "fd00::1",
            "fec0::1",
        ] {
            assert_eq!(refused(text.parse().expect("an address")), None, "{text}");
        }
    }
}
