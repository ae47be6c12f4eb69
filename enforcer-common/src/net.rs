//! Network destinations: keys and values of the `DESTINATIONS` trie.

use crate::ids::{RuleId, SkillId};

/// An IPv4 or IPv6 address as IPv6: IPv4 is written `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), so that a v4-mapped IPv6
/// address and the IPv4 address that it reaches are one key, with one verdict.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// From an IPv4 address in network order.
    #[must_use]
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]])
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.0[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
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

const _: () = assert!(size_of::<NetKey>() == 20);
const _: () = assert!(size_of::<PortSet>() == 8 + 8 * PORTS_PER_PREFIX);
