//! Names of `network_scope` with the addresses that they have now → network rules.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use enforcer_common::{
    ids::{RuleId, SkillId},
    net::{PORTS_PER_PREFIX, PortRule, PortSet, protocol},
};
use ipnet::IpNet;

use super::{
    Remark,
    net::{covers, merge, net_prefix, port_set},
    ruleset::{NetPrefix, Ruleset},
};
use crate::{
    manifest::HostName,
    names::{Addresses, DNS_PORT, Known, Source, special},
};

/// The text of the rule that lets a skill that lists names ask the configured resolvers.
pub const DNS_RULE: &str = "network_scope: dns";

/// A name of a skill's `network_scope`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule {
    /// The name.
    pub name: HostName,
    /// The ports that its addresses get.
    pub ports: PortRule,
    /// Where it stands in the manifest.
    pub place: String,
}

/// The `network_scope` of a skill that has names in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// What it lists by prefix.
    pub listed: HashMap<NetPrefix, Vec<PortRule>>,
    /// What it lists by name.
    pub names: Vec<NameRule>,
    /// The rule that lets it ask the configured resolvers.
    pub dns: RuleId,
}

impl Ruleset {
    /// The names that any skill lists, each with the first place that has it.
    #[must_use]
    pub fn host_names(&self) -> BTreeMap<HostName, String> {
        let mut names = BTreeMap::new();
        for rule in self.scopes.values().flat_map(|scope| &scope.names) {
            names.entry(rule.name.clone()).or_insert_with(|| rule.place.clone());
        }
        names
    }

    /// Gives the skills that list names the addresses that the names have now, and the way to the resolvers. Returns what the
    /// manifest's author should know.
    pub fn resolve_names(&mut self, known: &Addresses) -> Vec<Remark> {
        let mut remarks = vec![];
        self.destinations.retain(|prefix, _| !self.scopes.contains_key(&prefix.key.skill));
        for (skill, scope) in &self.scopes {
            let name = self.names.get(skill).map_or("", |text| &*text.name);
            let inside = known.containers.values().filter(|inside| inside.skill == name);
            let said: Vec<_> = std::iter::once((&known.names, &known.resolvers))
                .chain(inside.map(|inside| (&inside.names, &inside.resolvers)))
                .collect();
            self.destinations.extend(scope.resolve(*skill, &said, &mut remarks));
        }
        remarks
    }
}

impl Scope {
    /// `said` is what the host's resolvers say and what those of the skill's containers do, each with the resolvers.
    fn resolve(
        &self,
        skill: SkillId,
        said: &[(&Known, &BTreeSet<IpAddr>)],
        remarks: &mut Vec<Remark>,
    ) -> HashMap<NetPrefix, PortSet> {
        let mut named: HashMap<NetPrefix, Vec<PortRule>> = HashMap::new();
        let mut places: HashMap<NetPrefix, &NameRule> = HashMap::new();
        for rule in &self.names {
            // Several may say the same; the better word counts.
            let mut addresses: BTreeMap<&IpAddr, &Source> = BTreeMap::new();
            for (address, source) in said.iter().filter_map(|(names, _)| names.get(&rule.name)).flatten() {
                addresses.entry(address).and_modify(|known| *known = (*known).min(source)).or_insert(source);
            }
            for (address, source) in addresses {
                let prefix = net_prefix(skill, &IpNet::from(*address));
                if *source == Source::Dns {
                    let listed = covers(&self.listed, &prefix);
                    if let Some(kind) = special::refused(*address) {
                        // What a listed prefix allows there it allows by itself: on its own ports, and on no others.
                        if !listed {
                            remarks.push(rule.remark(&format!(
                                "its name server says {address} ({kind}), which stays closed: list the address if it is meant"
                            )));
                        }
                        continue;
                    }
                    if !listed && special::is_private(*address) {
                        remarks.push(rule.remark(&format!("it has the private address {address}")));
                    }
                }
                named.entry(prefix).or_default().push(rule.ports);
                places.insert(prefix, rule);
            }
        }
        let resolvers: BTreeSet<&IpAddr> = said.iter().flat_map(|(_, resolvers)| *resolvers).collect();
        for resolver in resolvers {
            named.entry(net_prefix(skill, &IpNet::from(*resolver))).or_default().push(self.dns_port());
        }
        let mut all = self.listed.clone();
        for (prefix, ports) in &named {
            all.entry(*prefix).or_default().extend(ports);
        }
        let without_names = merge(skill, &self.listed);
        let mut resolved = HashMap::new();
        for (prefix, ports) in merge(skill, &all) {
            let set = port_set(&ports).or_else(|| {
                // An address is of full length: no other prefix inherits from it, so that it can go alone.
                if let Some(rule) = places.get(&prefix) {
                    remarks.push(rule.remark(&format!(
                        "more than {PORTS_PER_PREFIX} ports for one of its addresses, those of other rules included: the address is not allowed by its name"
                    )));
                }
                without_names.get(&prefix).and_then(|ports| port_set(ports))
            });
            resolved.extend(set.map(|set| (prefix, set)));
        }
        resolved
    }

    fn dns_port(&self) -> PortRule {
        PortRule { port: DNS_PORT, protocols: protocol::ANY, rule: self.dns }
    }
}

impl NameRule {
    fn remark(&self, text: &str) -> Remark {
        Remark { place: self.place.clone(), text: format!("{}: {text}", self.name) }
    }
}

/// The names of each address, for events: the first in the order of the alphabet.
#[must_use]
pub fn by_address(known: &Addresses) -> HashMap<IpAddr, HostName> {
    let mut names = HashMap::new();
    let inside = known.containers.values().flat_map(|inside| &inside.names);
    for (name, addresses) in known.names.iter().chain(inside) {
        for address in addresses.keys() {
            names.entry(*address).or_insert_with(|| name.clone());
        }
    }
    names
}
