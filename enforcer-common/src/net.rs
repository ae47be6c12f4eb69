//! Network destinations: keys and values of the `DESTINATIONS` trie.

use core::net::IpAddr;

use crate::ids::{RuleId, SkillId};

/// An IPv4 or IPv6 address as IPv6: IPv4 is written `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), so that a v4-mapped IPv6
/// address and the IPv4 address that it reaches are one key, with one verdict.
// Aligned for the same reason as `Digest`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// From an IPv4 address in network order.
    #[must_use]
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]])
    }

    /// Whether this is `::`.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified_v6(&self) -> bool {
        // One number, without a loop or a way out in the midst: a verifier walks this, too.
        u128::from_ne_bytes(self.0) == 0
    }

    /// Whether this is `0.0.0.0`.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified_v4(&self) -> bool {
        u128::from_ne_bytes(self.0) == u128::from_ne_bytes(Self::from_v4([0; 4]).0)
    }

    /// Its bytes as two numbers, the first eight in the first.
    #[must_use]
    #[inline(always)]
    pub const fn halves(&self) -> (u64, u64) {
        let whole = u128::from_ne_bytes(self.0);
        (whole as u64, (whole >> 64) as u64)
    }

    /// The address of two such numbers.
    #[must_use]
    #[inline(always)]
    pub const fn of_halves([low, high]: [u64; 2]) -> Self {
        Self(((high as u128) << 64 | low as u128).to_ne_bytes())
    }

    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::from_v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// Whether this is an IPv4 address.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.0[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }
}

/// As it is written: IPv4 as such.
impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Self::from(address.0).to_canonical()
    }
}

/// How many bits of a [`NetKey`] stand before the address.
pub const SKILL_BITS: u32 = 32;

/// The data of a key of `DESTINATIONS`; the trie's prefix length stands before it and counts the skill's 32 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetKey {
    /// The skill; always compared whole.
    pub skill: SkillId,
    /// The address.
    pub address: Address,
}

/// Bits of [`PortRule::protocols`].
pub mod protocol {
    /// TCP.
    pub const TCP: u16 = 1;
    /// UDP.
    pub const UDP: u16 = 1 << 1;
    /// TCP and UDP.
    pub const ANY: u16 = TCP | UDP;
}

/// `IPPROTO_TCP`.
pub const IPPROTO_TCP: u16 = 6;
/// `IPPROTO_UDP`.
pub const IPPROTO_UDP: u16 = 17;
/// `AF_UNSPEC`: a connect with it dissolves an association.
pub const AF_UNSPEC: u16 = 0;
/// `AF_UNIX`.
pub const AF_UNIX: u16 = 1;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;
/// `AF_NETLINK`.
pub const AF_NETLINK: u16 = 16;
/// `NETLINK_ROUTE`: routes, addresses and links.
pub const NETLINK_ROUTE: u16 = 0;

/// One allowed port of a prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRule {
    /// The port in host order; 0 allows every port.
    pub port: u16,
    /// Bits of [`protocol`].
    pub protocols: u16,
    /// The rule that allows it.
    pub rule: RuleId,
}

/// How many ports one prefix can name. More are an error when the policy is compiled.
pub const PORTS_PER_PREFIX: usize = 16;

/// The value of `DESTINATIONS`, within [`crate::rules::Versioned`].
///
/// The compiler merges the ports of every covering prefix into the longer one, so that one lookup of the longest match
/// decides. A prefix with no port denies what a shorter one would allow: `::/0` must not reach into `::ffff:0:0/96`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    /// How many of `ports` are in use.
    pub count: u32,
    /// Not used.
    pub reserved: u32,
    /// The allowed ports.
    pub ports: [PortRule; PORTS_PER_PREFIX],
}

impl PortSet {
    /// The rule that allows `port` with `protocols` (one bit of [`protocol`]).
    #[must_use]
    #[inline(always)]
    pub fn find(&self, port: u16, protocols: u16) -> Option<RuleId> {
        let mut i = 0;
        // The loop is bounded by the array, not by `count`, so that the verifier sees its end.
        while i < PORTS_PER_PREFIX {
            if i as u32 >= self.count {
                return None;
            }
            let rule = &self.ports[i];
            if (rule.port == 0 || rule.port == port) && rule.protocols & protocols != 0 {
                return Some(rule.rule);
            }
            i += 1;
        }
        None
    }
}

/// The longest abstract name of a unix socket, in bytes (`sun_path` of `struct sockaddr_un` without the NUL before it).
pub const ABSTRACT_NAME: usize = 107;

/// The key of `ABSTRACT`: a unix socket without a file, by its name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AbstractKey {
    /// The skill that may reach it.
    pub skill: SkillId,
    /// How many bytes the name has.
    pub len: u32,
    /// The name without the NUL before it, with zeroes behind it.
    pub name: [u8; ABSTRACT_NAME + 1],
}

impl AbstractKey {
    /// The key of a name. `None` when no socket can have such a name.
    #[must_use]
    pub fn new(skill: SkillId, name: &[u8]) -> Option<Self> {
        let mut key = Self { skill, len: name.len() as u32, name: [0; ABSTRACT_NAME + 1] };
        if name.is_empty() || name.len() > ABSTRACT_NAME {
            return None;
        }
        key.name.get_mut(..name.len())?.copy_from_slice(name);
        Some(key)
    }
}

/// The value of `ABSTRACT`, within [`crate::rules::Versioned`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AbstractRule {
    /// The rule that allows it.
    pub rule: RuleId,
}

/// The value of `SOCKETS`, which programs of another build go on with if its size is the same: it means the same in every layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketLabel {
    /// The skill in which the socket was made; 0, which is none, when it was made elsewhere.
    pub skill: SkillId,
    /// One of [`socket_kind`]. What a listening socket accepts has that of the listening one.
    pub kind: u32,
}

/// Values of [`SocketLabel::kind`].
pub mod socket_kind {
    /// It was made, and perhaps takes connections, or was accepted.
    pub const MADE: u32 = 0;
    /// A unix socket whose connection does not leave the skill.
    pub const WITHIN: u32 = 1;
    /// A TCP socket that a governed process has connected, or has tried to. It stays that: what is known to be connected from here
    /// is not taken for what came to a port.
    pub const OUTBOUND: u32 = 2;
}

/// What the daemon is told of a socket that a process may not have: a record of the iterator over open files.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoundSocket {
    /// The inode of the socket, by which it is known again.
    pub ino: u64,
    /// The thread whose descriptor it is, in the initial pid namespace.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// The descriptor.
    pub fd: u32,
    /// The skill.
    pub skill: SkillId,
    /// The peer, or its own address where it has no peer.
    pub address: Address,
    /// The port in host order.
    pub port: u16,
    /// The family.
    pub family: u16,
    /// The type.
    pub socket_type: u16,
    /// The protocol.
    pub protocol: u16,
}

const _: () = assert!(size_of::<SocketLabel>() == 8);
const _: () = assert!(size_of::<FoundSocket>() == 48);
const _: () = assert!(size_of::<NetKey>() == 20);
const _: () = assert!(size_of::<AbstractKey>() == 116);
const _: () = assert!(size_of::<PortSet>() == 8 + 8 * PORTS_PER_PREFIX);
