//! Compiled prefixes against a naive model: a connection is allowed when any rule matches each address at which it may end.
//!
//! `PROPTEST_RNG_SEED=N` repeats a run, `PROPTEST_CASES=N` sets the number of cases. Failures are shrunk and kept in
//! `proptest-regressions/`.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use enforcer_common::{
    decide::{self, Rules},
    event::Reason,
    ids::ObjectId,
    net::{AbstractKey, Address, IPPROTO_TCP, IPPROTO_UDP, PORTS_PER_PREFIX, PortSet},
    rules::BinaryRule,
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};

use super::*;
use crate::manifest::Destination;

/// How many cases a run has, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 30_000;

/// One entry of `network_scope`, before it is text.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    address: IpAddr,
    len: u8,
    port: Option<u16>,
    protocol: Option<&'static str>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracket = |mark| if self.address.is_ipv6() && self.port.is_some() { mark } else { "" };
        write!(f, "{}{}/{}{}", bracket("["), self.address, self.len, bracket("]"))?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
            self.protocol.map_or(Ok(()), |word| write!(f, "/{word}"))?;
        }
        Ok(())
    }
}

/// An address as a row of bits, and of which family. A v4-mapped IPv6 address is the IPv4 address that it reaches.
fn bits(address: IpAddr) -> (&'static str, String) {
    match address {
        IpAddr::V4(v4) => ("v4", format!("{:032b}", v4.to_bits())),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => bits(IpAddr::V4(v4)),
            None => ("v6", format!("{:0128b}", v6.to_bits())),
        },
    }
}

impl Entry {
    /// Whether the addresses of the entry include this one; of a prefix that only covers v4-mapped addresses none do.
    fn covers(&self, address: IpAddr) -> bool {
        let written = match self.address {
            IpAddr::V4(v4) => ("v4", format!("{:032b}", v4.to_bits())),
            IpAddr::V6(v6) => ("v6", format!("{:0128b}", v6.to_bits())),
        };
        let (family, there) = bits(address);
        family == written.0 && there.starts_with(&written.1[..usize::from(self.len)])
    }

    fn matches(&self, address: IpAddr, port: u16, protocol: &str) -> bool {
        self.covers(address)
            && self.port.is_none_or(|own| own == port)
            && self.protocol.is_none_or(|own| own == protocol)
            && matches!(protocol, "tcp" | "udp")
    }

    /// Whether every address of `other` is one of this entry's.
    fn contains(&self, other: &Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4() && self.len <= other.len && self.covers(other.address)
    }
}

/// Where a connection to an address may end: the unspecified one is the host's own.
fn ends(address: IpAddr) -> Vec<IpAddr> {
    const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    match bits(address) {
        (family, text) if !text.contains('1') => {
            let loopback = if family == "v4" { &LOOPBACK[..1] } else { &LOOPBACK };
            [&[address], loopback].concat()
        }
        _ => vec![address],
    }
}

/// Few enough addresses that prefixes nest and connections hit them; some that only look like IPv4.
fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (prop::sample::select(vec![0_u8, 10, 127, 169, 255]), 0_u8..2, 0_u8..2, 0_u8..3)
        .prop_map(|(a, b, c, d)| Ipv4Addr::new(a, b, c, d));
    let near = prop::sample::select(vec![
        "::",
        "::1",
        "::10.0.0.1",
        "::fffe:10.0.0.1",
        "::1:ffff:10.0.0.1",
        "::ffff:0:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:0:1::1",
        "8000::",
        "fe80::1",
        "ff02::1",
    ])
    .prop_map(|text| text.parse::<Ipv6Addr>().expect("an address"));
    prop_oneof![
        3 => v4.clone().prop_map(IpAddr::V4),
        1 => v4.prop_map(|v4| IpAddr::V6(v4.to_ipv6_mapped())),
        3 => near.prop_map(IpAddr::V6),
        1 => any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![6 => 1_u16..6, 1 => 1..=u16::MAX]
}

fn entry() -> impl Strategy<Value = Entry> {
    let len = prop_oneof![
        prop::sample::select(vec![0_u8, 1, 8, 24, 31, 32, 64, 79, 80, 81, 95, 96, 97, 104, 127, 128]),
        0_u8..=128
    ];
    let protocol = proptest::option::of(prop::sample::select(vec!["tcp", "udp"]));
    let port = proptest::option::weighted(0.8, port());
    (address(), len, port, protocol).prop_filter_map("IPv4 in IPv6", |(address, len, port, protocol)| {
        let len = if address.is_ipv4() { len.min(32) } else { len };
        // The parser refuses these, and bits behind the prefix.
        if matches!(address, IpAddr::V6(v6) if len >= 96 && v6.to_ipv4_mapped().is_some()) {
            return None;
        }
        let address = ipnet::IpNet::new(address, len).ok()?.trunc().addr();
        Some(Entry { address, len, port, protocol: protocol.filter(|_| port.is_some()) })
    })
}

/// A host of which nothing is asked.
pub(super) struct Nowhere;

impl World for Nowhere {
    fn expand(&self, path: &ManifestPath) -> String {
        path.to_string()
    }
    fn digest(&mut self, path: &Path) -> Result<Digest, String> {
        Err(path.display().to_string())
    }
    fn objects(&mut self, _: &Path, _: bool) -> Result<Vec<(ObjectId, u32)>, NoObject> {
        Ok(vec![])
    }
    fn object(&mut self, _: &Path) -> Result<Option<ObjectId>, NoObject> {
        Ok(None)
    }
    fn cgroups(&mut self, _: &str) -> Result<Vec<(u64, u32)>, String> {
        Ok(vec![])
    }
}

/// A compiled policy, looked up as the kernel's trie does it.
struct Trie(Ruleset);

impl Rules for Trie {
    fn skill(&self, skill: SkillId) -> Option<SkillConf> {
        self.0.skills.get(&skill).copied()
    }
    fn binary(&self, _: SkillId, _: &enforcer_common::ids::Digest) -> Option<BinaryRule> {
        None
    }
    fn object(&self, _: SkillId, _: &ObjectId) -> Option<ObjectRule> {
        None
    }
    fn listener(&self, _: SkillId, _: &Address, _: u16, _: u16) -> Option<RuleId> {
        None
    }
    fn abstract_name(&self, _: &AbstractKey) -> Option<RuleId> {
        None
    }
    fn destination(&self, skill: SkillId, address: &Address, port: u16, protocols: u16) -> Option<RuleId> {
        let wanted = u128::from_be_bytes(address.0);
        let matching = self.0.destinations.iter().filter(|(prefix, _)| {
            let there = u128::from_be_bytes(prefix.key.address.0);
            prefix.key.skill == skill && (wanted ^ there).leading_zeros() >= prefix.len
        });
        let longest: Option<&PortSet> = matching.max_by_key(|(prefix, _)| prefix.len).map(|(_, ports)| ports);
        decide::port_allowed(longest, port, protocols)
    }
    fn entrypoint(&self, _: &enforcer_common::ids::Digest) -> Option<SkillId> {
        None
    }
    fn parent(&self, _: &enforcer_common::ids::Digest) -> u64 {
        0
    }
    fn spend(&self, _: SkillId, _: &SkillConf) -> bool {
        false
    }
}

/// The manifest of two skills with these lists.
#[expect(clippy::default_trait_access, reason = "the type of `spans` is the manifest's own")]
fn manifest(scopes: &[Vec<Entry>; 2]) -> Manifest {
    let skill = |scope: &Vec<Entry>| {
        let parsed = scope.iter().map(|entry| entry.to_string().parse::<Destination>().expect("an entry"));
        Skill { network_scope: Some(Listed::Only(parsed.collect())), ..Skill::default() }
    };
    let named = ["a", "b"].map(|name| name.parse::<SkillName>().expect("a name")).into_iter().zip(scopes);
    Manifest {
        version: 1,
        mode: Mode::Enforce,
        audit_level: AuditLevel::Standard,
        skills: named.map(|(name, scope)| (name, skill(scope))).collect::<BTreeMap<_, _>>(),
        file: "model".into(),
        spans: Default::default(),
    }
}

/// A connection: by which skill, where to, with which protocol.
type Connection = (usize, IpAddr, u16, &'static str);

fn agree(scopes: &[Vec<Entry>; 2], connections: &[Connection]) -> Result<(), TestCaseError> {
    let mut ids = Ids::default();
    let ruleset = match compile(&manifest(scopes), &mut Nowhere, &mut ids) {
        Ok(compiled) => compiled.ruleset,
        Err(errors) => {
            // Too many ports for one prefix, those of wider prefixes included.
            let crowded = |entry: &Entry, scope: &[Entry]| {
                scope.iter().filter(|wider| wider.contains(entry)).count() > PORTS_PER_PREFIX
            };
            let really = scopes.iter().any(|scope| scope.iter().any(|entry| crowded(entry, scope)));
            prop_assert!(really, "{}", errors);
            return Ok(());
        }
    };
    let trie = Trie(ruleset);
    for (index, address, port, protocol) in connections {
        let skill = ids.known_skill(["a", "b"][*index]).expect("a skill of the policy");
        let destination = decide::Destination {
            address: match address {
                IpAddr::V4(v4) => Address::from_v4(v4.octets()),
                IpAddr::V6(v6) => Address(v6.octets()),
            },
            port: *port,
            protocol: match *protocol {
                "tcp" => IPPROTO_TCP,
                "udp" => IPPROTO_UDP,
                _ => 1,
            },
        };
        let decision = decide::connect(&trie, skill, &destination);
        let matching = |address| scopes[*index].iter().filter(move |entry| entry.matches(address, *port, protocol));
        let ends = ends(*address);
        let all = ends.iter().all(|end| matching(*end).next().is_some());
        let texts: Vec<String> = ends
            .iter()
            .flat_map(|end| matching(*end))
            .map(|entry| format!("network_scope: {}", entry.to_string().parse::<Destination>().expect("an entry")))
            .collect();
        prop_assert_eq!(decision.allows(), all, "{:?} matches {:?}: {:?}", address, texts, decision);
        if decision.allows() {
            let rule = &trie.0.rules[&decision.rule];
            prop_assert_eq!(&*rule.skill, ["a", "b"][*index]);
            prop_assert!(texts.iter().any(|text| **text == *rule.text), "{} is none of {texts:?}", rule.text);
        } else {
            let known = matches!(*protocol, "tcp" | "udp");
            let reason = if known { Reason::DestinationNotListed } else { Reason::ProtocolNotListed };
            prop_assert_eq!(decision.reason, reason);
        }
    }
    Ok(())
}

#[test]
fn a_connection_is_allowed_when_any_rule_matches() {
    let mut config = Config { source_file: Some(file!()), max_shrink_iters: 20_000, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one("net model"),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    // Not by `eprintln!`, which the test harness swallows: the log of a run that passed has its seed, too.
    let _ = writeln!(std::io::stderr(), "network rules: {} cases, PROPTEST_RNG_SEED={seed}", config.cases);
    let scope = prop_oneof![9 => vec(entry(), 0..8), 1 => vec(entry(), 16..40)];
    let protocol = prop::sample::select(vec!["tcp", "udp", "tcp", "udp", "icmp"]);
    let connection = (0_usize..2, address(), port(), protocol);
    let strategy = ([scope.clone(), scope], vec(connection, 1..12));
    let result = TestRunner::new(config).run(&strategy, |(scopes, connections)| agree(&scopes, &connections));
    if let Err(failure) = result {
        panic!("PROPTEST_RNG_SEED={seed}: {failure}");
    }
}
