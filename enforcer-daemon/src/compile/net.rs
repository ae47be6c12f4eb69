//! Network rules: one longest match decides, so the ports of every covering prefix are merged into the longer one.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use enforcer_common::{
    ids::{RuleId, SkillId},
    net::{AbstractKey, AbstractRule, Address, NetKey, PORTS_PER_PREFIX, PortRule, PortSet, protocol},
    rules::{ObjectKey, skill_flag},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Compiler, Slot,
    names::{DNS_RULE, NameRule, Scope},
    ruleset::{NetPrefix, Ruleset},
};
use crate::manifest::{Destination, KeyPath, ListenAddress, Protocol, SkillName};

/// Where IPv4 begins in the address space of the trie: `::ffff:0:0/96`.
const V4_BITS: u32 = 96;

impl Compiler<'_> {
    pub(super) fn destinations(
        &mut self,
        name: &SkillName,
        skill: SkillId,
        at: &KeyPath,
        destinations: &[Destination],
    ) {
        let mut named: HashMap<NetPrefix, Vec<PortRule>> = HashMap::new();
        let mut hosts = vec![];
        for (index, destination) in destinations.iter().enumerate() {
            match destination {
                Destination::Net { prefix, port, protocol } => {
                    let rule = self.rule(name, format!("network_scope: {destination}"));
                    named.entry(net_prefix(skill, prefix)).or_default().push(port_rule(*port, *protocol, rule));
                }
                Destination::Name { name: host, wildcard: false, port, protocol } => {
                    let rule = self.rule(name, format!("network_scope: {destination}"));
                    let ports = port_rule(*port, *protocol, rule);
                    hosts.push(NameRule { name: host.clone(), ports, place: self.place(&at.index(index)) });
                }
                // The validator refuses these until they are enforced.
                Destination::Name { wildcard: true, .. } => {
                    self.error(&at.index(index), "wildcard names are not supported by this build".into());
                }
                // Those are no addresses: see `unix_sockets` and `abstract_sockets`.
                Destination::UnixPath(_) | Destination::UnixAbstract(_) => {}
            }
        }
        let sets = self.port_sets(skill, at, &named);
        self.ruleset.destinations.extend(sets);
        if !hosts.is_empty() {
            let dns = self.rule(name, DNS_RULE.into());
            self.ruleset.scopes.insert(skill, Scope { listed: named, names: hosts, dns });
        }
    }

    /// The local addresses that a skill may take connections and datagrams at.
    pub(super) fn listeners(&mut self, name: &SkillName, skill: SkillId, at: &KeyPath, addresses: &[ListenAddress]) {
        let mut named: HashMap<NetPrefix, Vec<PortRule>> = HashMap::new();
        for address in addresses {
            let rule = self.rule(name, format!("listen: {address}"));
            for prefix in local_prefixes(&address.prefix) {
                let port = port_rule(address.port, address.protocol, rule);
                named.entry(net_prefix(skill, &prefix)).or_default().push(port);
            }
        }
        let sets = self.port_sets(skill, at, &named);
        self.ruleset.listeners.extend(sets);
    }

    /// The ports of each prefix, those of wider ones included.
    fn port_sets(
        &mut self,
        skill: SkillId,
        at: &KeyPath,
        named: &HashMap<NetPrefix, Vec<PortRule>>,
    ) -> HashMap<NetPrefix, PortSet> {
        let mut sets = HashMap::new();
        for (prefix, ports) in merge(skill, named) {
            match port_set(&ports) {
                Some(set) => {
                    sets.insert(prefix, set);
                }
                None => self.error(
                    at,
                    format!("more than {PORTS_PER_PREFIX} ports for one prefix, those of wider prefixes included; allow every port or fewer"),
                ),
            }
        }
        sets
    }

    /// The unix sockets among the destinations that have a path: each is the object there.
    pub(super) fn unix_sockets(
        &mut self,
        name: &SkillName,
        skill: SkillId,
        at: &KeyPath,
        destinations: &[Destination],
        depths: &mut HashMap<(ObjectKey, Slot), u32>,
    ) {
        for (index, destination) in destinations.iter().enumerate() {
            if let Destination::UnixPath(path) = destination {
                self.path(name, skill, &at.index(index), path, Slot::Connect, depths);
            }
        }
    }

    /// Those that have an abstract name.
    pub(super) fn abstract_sockets(
        &mut self,
        name: &SkillName,
        skill: SkillId,
        at: &KeyPath,
        destinations: &[Destination],
    ) {
        for (index, destination) in destinations.iter().enumerate() {
            let Destination::UnixAbstract(socket) = destination else { continue };
            match AbstractKey::new(skill, socket.as_bytes()) {
                Some(key) => {
                    let rule = self.rule(name, format!("network_scope: {destination}"));
                    self.ruleset.abstract_names.insert(key, AbstractRule { rule });
                }
                None => self.error(&at.index(index), format!("{destination}: no socket can have this name")),
            }
        }
    }
}

/// The prefixes that an entry of `listen` covers. The unspecified address stands for every local one; an IPv6 socket that is
/// bound to it takes IPv4, too, so `::` stands for both.
fn local_prefixes(prefix: &IpNet) -> Vec<IpNet> {
    let every = |v6: bool| {
        let v4 = IpNet::from(Ipv4Net::default());
        if v6 { vec![IpNet::from(Ipv6Net::default()), v4] } else { vec![v4] }
    };
    let whole = prefix.prefix_len() == prefix.max_prefix_len();
    if whole && prefix.addr().is_unspecified() { every(prefix.addr().is_ipv6()) } else { vec![*prefix] }
}

/// The trie's key for a prefix.
pub(super) fn net_prefix(skill: SkillId, prefix: &IpNet) -> NetPrefix {
    let (address, len) = match prefix.network() {
        IpAddr::V4(v4) => (Address::from_v4(v4.octets()), V4_BITS + u32::from(prefix.prefix_len())),
        IpAddr::V6(v6) => (Address(v6.octets()), u32::from(prefix.prefix_len())),
    };
    NetPrefix { key: NetKey { skill, address }, len }
}

fn port_rule(port: Option<u16>, protocol: Option<Protocol>, rule: RuleId) -> PortRule {
    let protocols = match protocol {
        None => protocol::ANY,
        Some(Protocol::Tcp) => protocol::TCP,
        Some(Protocol::Udp) => protocol::UDP,
    };
    PortRule { port: port.unwrap_or(0), protocols, rule }
}

/// Adds to each prefix what its wider ones allow, and closes IPv4 where an IPv6 prefix would reach into it.
pub(super) fn merge(skill: SkillId, named: &HashMap<NetPrefix, Vec<PortRule>>) -> HashMap<NetPrefix, Vec<PortRule>> {
    let lengths: BTreeSet<u32> = named.keys().map(|p| p.len).collect();
    let v4_root = NetPrefix { key: NetKey { skill, address: Address::from_v4([0; 4]) }, len: V4_BITS };
    let mut merged: HashMap<NetPrefix, Vec<PortRule>> = HashMap::with_capacity(named.len() + 1);
    for (prefix, own) in named {
        let mut ports = own.clone();
        for len in lengths.range(family_start(prefix)..prefix.len).rev() {
            let wider = NetPrefix { key: NetKey { skill, address: truncate(prefix.key.address, *len) }, len: *len };
            ports.extend(named.get(&wider).into_iter().flatten());
        }
        merged.insert(*prefix, ports);
    }
    let reaches_v4 = |p: &NetPrefix| p.len < V4_BITS && truncate(v4_root.key.address, p.len) == p.key.address;
    if named.keys().any(reaches_v4) {
        merged.entry(v4_root).or_default();
    }
    merged
}

impl Ruleset {
    /// Whether the skill may take connections or datagrams that are sent to this address: there, or at every address of the host.
    #[must_use]
    pub fn may_listen(&self, skill: SkillId, at: IpAddr, port: u16) -> bool {
        if self.skills.get(&skill).is_some_and(|conf| conf.flags & skill_flag::LISTEN_ANY != 0) {
            return true;
        }
        let places = [at, Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        places.into_iter().any(|place| {
            let whole = net_prefix(skill, &IpNet::from(place));
            // As the kernel does: the longest prefix has the ports of all that cover it.
            let nearest = (0..=whole.len).rev().find_map(|len| {
                self.listeners
                    .get(&NetPrefix { key: NetKey { address: truncate(whole.key.address, len), ..whole.key }, len })
            });
            nearest.is_some_and(|ports| ports.find(port, protocol::ANY).is_some())
        })
    }
}

/// Whether a prefix of this family in `named` holds all of `prefix`.
pub(super) fn covers(named: &HashMap<NetPrefix, Vec<PortRule>>, prefix: &NetPrefix) -> bool {
    (family_start(prefix)..=prefix.len).any(|len| {
        let wider = NetPrefix { key: NetKey { address: truncate(prefix.key.address, len), ..prefix.key }, len };
        named.contains_key(&wider)
    })
}

/// How long a prefix of the same family is at the least. IPv4 lies below some IPv6 prefixes as the trie sees it; a rule for
/// IPv6 says nothing of IPv4.
fn family_start(prefix: &NetPrefix) -> u32 {
    if prefix.len >= V4_BITS && prefix.key.address.is_v4() { V4_BITS } else { 0 }
}

/// The address with the bits behind `len` cleared.
fn truncate(address: Address, len: u32) -> Address {
    let bits = u128::from_be_bytes(address.0);
    let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
    Address((bits & mask).to_be_bytes())
}

/// The ports as the map holds them, without those that another one covers; `None` when there are too many.
pub(super) fn port_set(ports: &[PortRule]) -> Option<PortSet> {
    let mut set = PortSet::default();
    for port in ports {
        let used = &set.ports[..set.count as usize];
        let covered =
            used.iter().any(|u| (u.port == 0 || u.port == port.port) && u.protocols & port.protocols == port.protocols);
        if covered {
            continue;
        }
        *set.ports.get_mut(set.count as usize)? = *port;
        set.count += 1;
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> NetPrefix {
        net_prefix(SkillId(1), &text.parse().expect("a prefix"))
    }

    fn allows(merged: &HashMap<NetPrefix, Vec<PortRule>>, address: &str, port: u16) -> bool {
        let full = net_prefix(SkillId(1), &IpNet::from(address.parse::<IpAddr>().expect("an address")));
        let longest = (0..=128u32).rev().find_map(|len| {
            merged.get(&NetPrefix { key: NetKey { address: truncate(full.key.address, len), ..full.key }, len })
        });
        longest.is_some_and(|ports| port_set(ports).expect("few ports").find(port, protocol::TCP).is_some())
    }

    fn policy(rules: &[(&str, Option<u16>)]) -> HashMap<NetPrefix, Vec<PortRule>> {
        let mut named: HashMap<NetPrefix, Vec<PortRule>> = HashMap::new();
        for (text, port) in rules {
            named.entry(prefix(text)).or_default().push(port_rule(*port, None, RuleId(1)));
        }
        merge(SkillId(1), &named)
    }

    #[test]
    fn a_longer_prefix_does_not_hide_what_a_wider_one_allows() {
        let merged = policy(&[("10.0.0.0/8", Some(443)), ("10.1.0.0/16", Some(80))]);
        assert!(allows(&merged, "10.1.2.3", 443));
        assert!(allows(&merged, "10.1.2.3", 80));
        assert!(!allows(&merged, "10.2.2.3", 80));
        assert!(!allows(&merged, "11.1.2.3", 443));
    }

    #[test]
    fn everything_of_ipv6_is_nothing_of_ipv4() {
        let merged = policy(&[("::/0", None)]);
        assert!(allows(&merged, "2001:db8::1", 1));
        assert!(!allows(&merged, "10.0.0.1", 1));
        let both = policy(&[("::/0", None), ("0.0.0.0/0", Some(53))]);
        assert!(allows(&both, "10.0.0.1", 53));
        assert!(!allows(&both, "10.0.0.1", 54));
    }

    #[test]
    fn the_unspecified_address_stands_for_every_local_one() {
        let of = |text: &str| {
            let prefixes = local_prefixes(&text.parse().expect("a prefix"));
            prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("0.0.0.0/32"), "0.0.0.0/0");
        assert_eq!(of("::/128"), "::/0 0.0.0.0/0");
        assert_eq!(of("::/0"), "::/0");
        assert_eq!(of("127.0.0.1/32"), "127.0.0.1/32");
    }

    #[test]
    fn ports_that_are_covered_take_no_room() {
        let many: Vec<PortRule> = (1..=100).map(|p| port_rule(Some(p), None, RuleId(1))).collect();
        assert!(port_set(&many).is_none());
        let covered: Vec<PortRule> = std::iter::once(port_rule(None, None, RuleId(1))).chain(many).collect();
        assert_eq!(port_set(&covered).map(|s| s.count), Some(1));
    }
}
