//! Connections: by the longest prefix that covers the destination.

use super::{Decision, Rules, no_policy, settle};
use crate::{
    event::Reason,
    ids::{RuleId, SkillId},
    net::{self, Address, PortSet},
    rules::{action, skill_flag},
};

/// Where a connection or datagram is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address.
    pub address: Address,
    /// The port in host order.
    pub port: u16,
    /// The IP protocol of the socket.
    pub protocol: u16,
}

/// May the skill send to this destination?
#[inline(always)]
pub fn connect<R: Rules>(rules: &R, skill: SkillId, destination: &Destination) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let protocols = match destination.protocol {
        net::IPPROTO_TCP => net::protocol::TCP,
        net::IPPROTO_UDP => net::protocol::UDP,
        _ => 0,
    };
    let ruling = if conf.flags & skill_flag::CONNECT_ANY != 0 {
        Ok(conf.connect_any)
    } else if protocols == 0 {
        Err((Reason::ProtocolNotListed.into(), RuleId::NONE))
    } else {
        match rules.destination(skill, &destination.address, destination.port, protocols) {
            Some(rule) => Ok(rule),
            None => Err((Reason::DestinationNotListed.into(), RuleId::NONE)),
        }
    };
    settle(&conf, action::CONNECT, ruling)
}

/// Looks a destination up in the set of ports of its longest prefix.
#[inline(always)]
#[must_use]
pub fn port_allowed(ports: Option<&PortSet>, port: u16, protocols: u16) -> Option<RuleId> {
    ports.and_then(|ports| ports.find(port, protocols))
}

/// May the skill make such a socket? Unix and TCP and UDP sockets are decided when they connect; netlink is what programs
/// read routes and addresses with. Everything else sends past the network rules, so nothing allows it but `["*"]`.
#[inline(always)]
pub fn socket<R: Rules>(rules: &R, skill: SkillId, family: u16, socket_type: u16, protocol: u16) -> Decision {
    const SOCK_STREAM: u16 = 1;
    const SOCK_DGRAM: u16 = 2;
    const NETLINK_ROUTE: u16 = 0;
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let inet =
        matches!((socket_type, protocol), (SOCK_STREAM, 0 | net::IPPROTO_TCP) | (SOCK_DGRAM, 0 | net::IPPROTO_UDP));
    let decided_later = match family {
        net::AF_UNIX => true,
        net::AF_INET | net::AF_INET6 => inet,
        net::AF_NETLINK => protocol == NETLINK_ROUTE,
        _ => false,
    };
    if decided_later {
        // No event and no approval: the socket itself reaches nobody.
        return Decision::silent();
    }
    let ruling = if conf.flags & skill_flag::CONNECT_ANY != 0 {
        Ok(conf.connect_any)
    } else {
        Err((Reason::ProtocolNotListed.into(), RuleId::NONE))
    };
    settle(&conf, action::CONNECT, ruling)
}
