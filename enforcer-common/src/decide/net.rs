//! Connections and listening: by the longest prefix that covers the address. Sockets: by family, type and protocol.

use super::{Decision, Rules, Ruling, no_policy, opaque, settle};
use crate::{
    event::Reason,
    ids::{RuleId, SkillId},
    net::{self, Address, PortSet},
    rules::{SkillConf, action, skill_flag},
};

/// Where a connection or datagram is to go, or where one is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address.
    pub address: Address,
    /// The port in host order.
    pub port: u16,
    /// The IP protocol of the socket.
    pub protocol: u16,
}

impl Destination {
    /// The bit of [`net::protocol`], 0 for a protocol that no rule can name.
    #[inline(always)]
    fn protocols<R: Rules>(&self, rules: &R) -> u16 {
        let protocols = match self.protocol {
            net::IPPROTO_TCP => net::protocol::TCP,
            net::IPPROTO_UDP => net::protocol::UDP,
            _ => 0,
        };
        rules.opaque(u64::from(protocols)) as u16
    }
}

/// A TCP or UDP socket that was made elsewhere, as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The state, with TCP's numbers (`include/net/tcp_states.h`), which UDP uses, too.
    pub state: u8,
    /// The peer, with port 0 when it has none.
    pub peer: Destination,
    /// Its own address, with port 0 when it has none.
    pub local: Destination,
    /// Whether a governed process is known to have connected it.
    pub outbound: bool,
}

impl Endpoint {
    /// `TCP_ESTABLISHED`.
    pub const ESTABLISHED: u8 = 1;
    /// `TCP_LISTEN`.
    pub const LISTEN: u8 = 10;

    /// Whether it has a peer, or is about to.
    #[must_use]
    #[inline(always)]
    pub const fn is_connected(&self) -> bool {
        self.peer.port != 0 || self.state == Self::ESTABLISHED
    }

    /// Whether it takes connections.
    #[must_use]
    #[inline(always)]
    pub const fn is_listening(&self) -> bool {
        self.state == Self::LISTEN
    }

    /// What it is told apart by: its peer, else its own address.
    #[must_use]
    #[inline(always)]
    pub const fn end(&self) -> &Destination {
        if self.is_connected() { &self.peer } else { &self.local }
    }
}

/// The rule that lets the skill send there. The unspecified address is the host itself, at an address that depends on
/// what the socket is bound to (`net/ipv4/route.c: ip_route_output_key_hash_rcu`, `net/ipv6/tcp_ipv6.c: tcp_v6_connect`):
/// the rules must allow each that it can be, beside itself.
#[inline(always)]
fn reaches<R: Rules>(rules: &R, skill: SkillId, to: &Destination, protocols: u16) -> Option<RuleId> {
    let rule = rules.destination(skill, &to.address, to.port, protocols)?;
    let v6 = to.address.is_unspecified_v6();
    if !v6 && !to.address.is_unspecified_v4() {
        return Some(rule);
    }
    if v6 {
        rules.destination(skill, &Address::LOOPBACK_V6, to.port, protocols)?;
    }
    rules.destination(skill, &Address::LOOPBACK_V4, to.port, protocols)
}

/// What the rules say of sending to a destination.
#[inline(always)]
fn sending<R: Rules>(rules: &R, skill: SkillId, conf: &SkillConf, to: &Destination) -> Ruling {
    if conf.flags & skill_flag::CONNECT_ANY != 0 {
        return Ok(conf.connect_any);
    }
    match to.protocols(rules) {
        0 => Err((Reason::ProtocolNotListed.into(), RuleId::NONE)),
        protocols => reaches(rules, skill, to, protocols).ok_or((Reason::DestinationNotListed.into(), RuleId::NONE)),
    }
}

/// What the rules say of taking connections or datagrams at a local address.
#[inline(always)]
fn taking<R: Rules>(rules: &R, skill: SkillId, conf: &SkillConf, at: &Destination) -> Ruling {
    if conf.flags & skill_flag::LISTEN_ANY != 0 {
        return Ok(conf.listen_any);
    }
    rules
        .listener(skill, &at.address, at.port, at.protocols(rules))
        .ok_or((Reason::ListenNotListed.into(), RuleId::NONE))
}

/// May the skill send to this destination?
#[inline(always)]
pub fn connect<R: Rules>(rules: &R, skill: SkillId, destination: &Destination) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    settle(rules, &conf, action::CONNECT, sending(rules, skill, &conf, destination))
}

/// May the skill take connections or datagrams at this local address? A port of 0 is one that the kernel is yet to choose: only a
/// rule for every port covers it.
#[inline(always)]
pub fn listen<R: Rules>(rules: &R, skill: SkillId, at: &Destination) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    settle(rules, &conf, 0, taking(rules, skill, &conf, at))
}

/// May the skill give a socket this local address? With port 0 it is any client's; listening on it is another question.
#[inline(always)]
pub fn bind<R: Rules>(rules: &R, skill: SkillId, at: &Destination) -> Decision {
    if at.port == 0 { Decision::silent() } else { listen(rules, skill, at) }
}

/// Looks a destination up in the set of ports of its longest prefix.
#[inline(always)]
#[must_use]
pub fn port_allowed(ports: Option<&PortSet>, port: u16, protocols: u16) -> Option<RuleId> {
    ports.and_then(|ports| ports.find(port, protocols))
}

/// Whether a socket is of a kind of which rules tell more: TCP and UDP by address, unix by its name, and the netlink that
/// programs read routes and addresses with, by its messages.
#[inline(always)]
const fn is_decided_later(family: u16, socket_type: u16, protocol: u16) -> bool {
    const SOCK_STREAM: u16 = 1;
    const SOCK_DGRAM: u16 = 2;
    match family {
        net::AF_UNIX => true,
        net::AF_INET | net::AF_INET6 => {
            matches!((socket_type, protocol), (SOCK_STREAM, 0 | net::IPPROTO_TCP) | (SOCK_DGRAM, 0 | net::IPPROTO_UDP))
        }
        net::AF_NETLINK => protocol == net::NETLINK_ROUTE,
        _ => false,
    }
}

/// What nothing but `["*"]` allows.
#[inline(always)]
fn only_any<R: Rules>(rules: &R, skill: SkillId, reason: Reason) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let any = conf.flags & skill_flag::CONNECT_ANY != 0;
    settle(rules, &conf, action::CONNECT, if any { Ok(conf.connect_any) } else { Err((reason.into(), RuleId::NONE)) })
}

/// May the skill make or use such a socket? What rules cannot tell apart sends past them.
#[inline(always)]
pub fn socket<R: Rules>(rules: &R, skill: SkillId, family: u16, socket_type: u16, protocol: u16) -> Decision {
    if is_decided_later(family, socket_type, protocol) {
        // No event and no approval: the socket itself reaches nobody.
        return if rules.skill(skill).is_some() { Decision::silent() } else { no_policy() };
    }
    only_any(rules, skill, Reason::ProtocolNotListed)
}

/// May the skill send this netlink message? Reading routes, addresses and links is free; what changes them could lead an
/// allowed address elsewhere.
#[inline(always)]
pub fn netlink<R: Rules>(rules: &R, skill: SkillId, protocol: u16, changes: bool) -> Decision {
    if protocol != net::NETLINK_ROUTE {
        only_any(rules, skill, Reason::ProtocolNotListed)
    } else if changes {
        only_any(rules, skill, Reason::NetworkChange)
    } else if rules.skill(skill).is_some() {
        Decision::silent()
    } else {
        no_policy()
    }
}

/// May the skill set this option of an IP socket? Source routes send packets to other addresses than the one that was
/// decided about; the packet filters' and the load balancer's rules, which any IP socket can be told (`net/netfilter/nf_sockopt.c`), and
/// a socket's own `IPsec` policy do so, too.
#[inline(always)]
pub fn option<R: Rules>(rules: &R, skill: SkillId, level: i32, name: i32) -> Decision {
    const SOL_IP: i32 = 0;
    const SOL_IPV6: i32 = 41;
    const IP_OPTIONS: i32 = 4;
    const IPV6_2292RTHDR: i32 = 5;
    const IPV6_2292PKTOPTIONS: i32 = 6;
    // What lies behind its structure are options of that label's packets (`net/ipv6/ip6_flowlabel.c: fl_create`).
    const IPV6_FLOWLABEL_MGR: i32 = 32;
    const IPV6_RTHDR: i32 = 57;
    const IP_IPSEC_POLICY: i32 = 16;
    const IP_XFRM_POLICY: i32 = 17;
    const IPV6_IPSEC_POLICY: i32 = 34;
    const IPV6_XFRM_POLICY: i32 = 35;
    // Of IPv6, too.
    const IPT_REPLACE: i32 = 64;
    const IPT_COUNTERS: i32 = 65;
    const ARPT_REPLACE: i32 = 96;
    const ARPT_COUNTERS: i32 = 97;
    const EBT_REPLACE: i32 = 128;
    const EBT_COUNTERS: i32 = 129;
    // `include/uapi/linux/ip_vs.h`: `IP_VS_BASE_CTL` and `IP_VS_SO_SET_MAX`.
    const IP_VS_FIRST: i32 = 64 + 1024 + 64;
    const IP_VS_LAST: i32 = IP_VS_FIRST + 15;
    match (level, name) {
        (SOL_IP, IP_OPTIONS) | (SOL_IPV6, IPV6_2292RTHDR | IPV6_2292PKTOPTIONS | IPV6_FLOWLABEL_MGR | IPV6_RTHDR) => {
            only_any(rules, skill, Reason::SourceRoute)
        }
        (
            SOL_IP,
            IP_IPSEC_POLICY..=IP_XFRM_POLICY
            | IPT_REPLACE..=IPT_COUNTERS
            | ARPT_REPLACE..=ARPT_COUNTERS
            | EBT_REPLACE..=EBT_COUNTERS
            | IP_VS_FIRST..=IP_VS_LAST,
        )
        | (SOL_IPV6, IPV6_IPSEC_POLICY..=IPV6_XFRM_POLICY | IPT_REPLACE..=IPT_COUNTERS) => {
            only_any(rules, skill, Reason::NetworkChange)
        }
        _ => Decision::silent(),
    }
}

/// May the skill have this TCP or UDP socket, which was made and perhaps connected elsewhere? What came to an address where the
/// skill may listen may have come to the skill, unless it is known to have been connected from here.
#[inline(always)]
pub fn arrival<R: Rules>(rules: &R, skill: SkillId, found: &Endpoint) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let listed = opaque(rules, taking(rules, skill, &conf, &found.local));
    let tcp = found.local.protocol == net::IPPROTO_TCP;
    if found.is_connected() {
        if tcp && !found.outbound && listed.is_ok() {
            return Decision::silent();
        }
        return settle(rules, &conf, action::CONNECT, sending(rules, skill, &conf, &found.peer));
    }
    if found.local.port == 0 || (tcp && !found.is_listening()) {
        return Decision::silent();
    }
    settle(rules, &conf, 0, listed)
}
