//! Connections and sockets. How prefixes become ports of one address is the compiler's affair and tested there.

use std::collections::HashSet;

use enforcer_common::{
    decide::{self, Destination, Endpoint, Rules},
    event::{Reason, Verdict},
    ids::{Digest, ObjectId, RuleId, SkillId},
    net::{AbstractKey, Address, PORTS_PER_PREFIX, PortRule, PortSet, protocol},
    rules::{BinaryRule, ObjectRule, SkillConf, action, skill_flag},
};
use proptest::{collection::vec, prelude::*};

use crate::{harness::check, policy::reason};

/// One skill with one prefix, which covers every address but the loopback ones when `loopback` does not say so; and one of
/// `listen`, which covers every address.
struct OnePrefix {
    conf: Option<SkillConf>,
    ports: Option<PortSet>,
    listening: Option<PortSet>,
    loopback: bool,
}

impl Rules for OnePrefix {
    fn skill(&self, _: SkillId) -> Option<SkillConf> {
        self.conf
    }
    fn binary(&self, _: SkillId, _: &Digest) -> Option<BinaryRule> {
        None
    }
    fn object(&self, _: SkillId, _: &ObjectId) -> Option<ObjectRule> {
        None
    }
    fn destination(&self, _: SkillId, address: &Address, port: u16, protocols: u16) -> Option<RuleId> {
        let covered = self.loopback || ![Address::LOOPBACK_V4, Address::LOOPBACK_V6].contains(address);
        decide::port_allowed(self.ports.as_ref().filter(|_| covered), port, protocols)
    }
    fn listener(&self, _: SkillId, _: &Address, port: u16, protocols: u16) -> Option<RuleId> {
        decide::port_allowed(self.listening.as_ref(), port, protocols)
    }
    fn abstract_name(&self, key: &AbstractKey) -> Option<RuleId> {
        (key.name.starts_with(b"known")).then_some(RuleId(300))
    }
    fn entrypoint(&self, _: &Digest) -> Option<SkillId> {
        None
    }
    fn parent(&self, _: &Digest) -> u64 {
        0
    }

    fn spend(&self, _: SkillId, _: &SkillConf) -> bool {
        false
    }
}

/// `PORT/PROTOCOL` as a manifest has it; 0 for every port.
type Port = (u16, &'static str);

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let port = prop_oneof![1 => Just(0_u16), 6 => 1_u16..6, 1 => any::<u16>()];
    vec((port, prop::sample::select(vec!["", "tcp", "udp"])), 0..=PORTS_PER_PREFIX)
}

fn port_set(ports: &[Port]) -> PortSet {
    // What lies behind `count` is of an earlier policy and must not matter.
    let stale = PortRule { port: 0, protocols: protocol::ANY, rule: RuleId(999) };
    let mut set = PortSet { count: 0, reserved: 0, ports: [stale; PORTS_PER_PREFIX] };
    for ((number, (port, word)), slot) in (1..).zip(ports).zip(&mut set.ports) {
        let protocols = match *word {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            _ => protocol::ANY,
        };
        *slot = PortRule { port: *port, protocols, rule: RuleId(number) };
        set.count += 1;
    }
    set
}

/// Any, audit, approval, strict; or no skill at all.
fn conf() -> impl Strategy<Value = Option<SkillConf>> {
    proptest::option::weighted(0.95, any::<[bool; 4]>()).prop_map(|bits| {
        bits.map(|[any, audit, approval, strict]| {
            let flag = |on: bool, bit: u32| if on { bit } else { 0 };
            let rule = |on: bool, number: u32| RuleId(if on { number } else { 0 });
            SkillConf {
                flags: flag(any, skill_flag::CONNECT_ANY)
                    | flag(audit, skill_flag::AUDIT)
                    | flag(strict, skill_flag::REPORT_ALLOWED),
                require_2fa: flag(approval, action::CONNECT) | action::EXEC | action::DELETE | action::WRITE,
                connect_any: rule(any, 100),
                require_2fa_rule: RuleId(200),
                ..SkillConf::default()
            }
        })
    })
}

#[test]
fn a_connection_goes_where_a_port_is_listed() {
    let reasons = [
        Reason::Allowed,
        Reason::DestinationNotListed,
        Reason::ProtocolNotListed,
        Reason::NeedsApproval,
        Reason::NoPolicy,
    ];
    let protocol = prop::sample::select(vec![6_u16, 17, 6, 17, 0, 1, 132, 136, 255, 262]);
    let strategy = (conf(), proptest::option::weighted(0.9, ports()), 0_u16..7, protocol);
    check("connect", 4, &reasons.map(Reason::as_str), &strategy, |(conf, ports, port, protocol), tally| {
        let rules = OnePrefix { conf, ports: ports.as_deref().map(port_set), listening: None, loopback: true };
        let destination = Destination { address: Address::default(), port, protocol };
        let decision = decide::connect(&rules, SkillId(1), &destination);
        tally.count(reason(decision).as_str());

        let word = match protocol {
            6 => "tcp",
            17 => "udp",
            _ => "other",
        };
        let matching: HashSet<u32> = (1..)
            .zip(ports.iter().flatten())
            .filter(|(_, (p, w))| (*p == 0 || *p == port) && (*w == word || (w.is_empty() && word != "other")))
            .map(|(number, _)| number)
            .collect();
        let Some(conf) = conf else {
            prop_assert_eq!((decision.verdict, reason(decision)), (Verdict::Deny, Reason::NoPolicy));
            return Ok(());
        };
        let any = conf.connect_any != RuleId::NONE;
        let listed = any || !matching.is_empty();
        let approval = conf.require_2fa & action::CONNECT != 0;
        prop_assert_eq!(decision.allows(), listed && !approval, "{:?} with {:?}", decision, ports);
        if decision.allows() {
            let named = if any { decision.rule == RuleId(100) } else { matching.contains(&decision.rule.0) };
            prop_assert!(named, "{:?} by {:?}", decision, ports);
            return Ok(());
        }
        let why = match (listed, word) {
            (true, _) => Reason::NeedsApproval,
            (false, "other") => Reason::ProtocolNotListed,
            (false, _) => Reason::DestinationNotListed,
        };
        prop_assert_eq!(reason(decision), why);
        prop_assert!(decision.report);
        prop_assert_eq!(decision.refuses(), conf.flags & skill_flag::AUDIT == 0);
        Ok(())
    });
}

#[test]
fn a_socket_that_no_rule_can_name_is_not_made() {
    let family = prop_oneof![4 => prop::sample::select(vec![1_u16, 2, 10, 16, 17, 40]), 1 => any::<u16>()];
    let socket_type = 0_u16..11;
    let protocol =
        prop_oneof![4 => prop::sample::select(vec![0_u16, 1, 6, 17, 58, 132, 136, 255, 262]), 1 => any::<u16>()];
    let strategy = (conf(), family, socket_type, protocol);
    check("socket", 2, &["allow", "deny", "audit"], &strategy, |(conf, family, kind, protocol), tally| {
        let rules = OnePrefix { conf, ports: None, listening: None, loopback: true };
        let decision = decide::socket(&rules, SkillId(1), family, kind, protocol);
        tally.count(decision.verdict.as_str());
        // Everything that a later question is asked about: unix, plain TCP and UDP, and routes over netlink.
        let (inet, stream, datagram) = (matches!(family, 2 | 10), kind == 1, kind == 2);
        let tcp = inet && stream && matches!(protocol, 0 | 6);
        let udp = inet && datagram && matches!(protocol, 0 | 17);
        let harmless = family == 1 || tcp || udp || (family == 16 && protocol == 0);
        let allowed = conf.is_some_and(|conf| {
            harmless || (conf.connect_any != RuleId::NONE && conf.require_2fa & action::CONNECT == 0)
        });
        prop_assert_eq!(decision.allows(), allowed);
        prop_assert_eq!(decision.refuses(), !allowed && conf.is_none_or(|conf| conf.flags & skill_flag::AUDIT == 0));
        Ok(())
    });
}

/// A listening rule is a connecting rule with another reason and without approvals.
#[test]
fn listening_goes_by_its_own_rules() {
    let reasons = [Reason::Allowed, Reason::ListenNotListed, Reason::NoPolicy];
    let protocol = prop::sample::select(vec![6_u16, 17]);
    let strategy = (conf(), proptest::option::weighted(0.9, ports()), 0_u16..7, protocol);
    check("listen", 3, &reasons.map(Reason::as_str), &strategy, |(conf, ports, port, protocol), tally| {
        let rules = OnePrefix { conf, ports: None, listening: ports.as_deref().map(port_set), loopback: true };
        let at = Destination { address: Address::default(), port, protocol };
        let decision = decide::listen(&rules, SkillId(1), &at);
        tally.count(reason(decision).as_str());
        let word = if protocol == 6 { "tcp" } else { "udp" };
        let listed = ports.iter().flatten().any(|(p, w)| (*p == 0 || *p == port) && (*w == word || w.is_empty()));
        prop_assert_eq!(decision.allows(), listed && conf.is_some(), "{:?} with {:?}", decision, ports);
        // A client's port is the kernel's choice.
        let bound = decide::bind(&rules, SkillId(1), &at);
        prop_assert_eq!(bound.allows(), port == 0 || decision.allows());
        Ok(())
    });
}

/// `connect` of the unspecified address reaches the host itself, wherever the socket is bound to.
#[test]
fn the_unspecified_address_takes_the_loopback_rules_too() {
    let every = Some(port_set(&[(0, "")]));
    for loopback in [false, true] {
        let rules = OnePrefix { conf: Some(SkillConf::default()), ports: every, listening: None, loopback };
        let connects = |address: Address| {
            decide::connect(&rules, SkillId(1), &Destination { address, port: 80, protocol: 6 }).allows()
        };
        assert_eq!(connects(Address::default()), loopback);
        assert_eq!(connects(Address::from_v4([0; 4])), loopback);
        assert!(connects(Address::from_v4([0, 0, 0, 1])));
        assert!(connects(Address::from_v4([192, 0, 2, 1])));
    }
}

/// Of a socket from elsewhere the peer decides, or, where something is taken, its own address; of what rules cannot name, its kind.
#[test]
fn a_socket_from_elsewhere_is_judged_by_its_ends() {
    let protocol = prop::sample::select(vec![6_u16, 17, 6, 17, 1, 132, 255]);
    let family = prop::sample::select(vec![2_u16, 10, 2, 10, 16, 17, 40]);
    let strategy = (family, 1_u16..4, protocol, any::<[bool; 4]>(), [0_u16..4, 0_u16..4], [ports(), ports()]);
    let labels = ["allow", "deny"];
    check("arrival", 2, &labels, &strategy, |(family, kind, protocol, bits, [to, at], [out, taken]), tally| {
        let [connected, listening, any, outbound] = bits;
        let flags = if any { skill_flag::CONNECT_ANY } else { 0 };
        let rules = OnePrefix {
            conf: Some(SkillConf { flags, connect_any: RuleId(100), ..SkillConf::default() }),
            ports: Some(port_set(&out)),
            listening: Some(port_set(&taken)),
            loopback: true,
        };
        let end = |port| Destination { address: Address::from_v4([192, 0, 2, 1]), port, protocol };
        let state = match (connected, listening) {
            (true, _) => Endpoint::ESTABLISHED,
            (_, true) => Endpoint::LISTEN,
            _ => 7,
        };
        let found = Endpoint { state, peer: end(if connected { to } else { 0 }), local: end(at), outbound };
        let plain = matches!(family, 2 | 10) && matches!((kind, protocol), (1, 6) | (2, 17));
        // First the kind, then the ends of what has any.
        let mut decision = decide::socket(&rules, SkillId(1), family, kind, protocol);
        if decision.allows() && plain {
            decision = decide::arrival(&rules, SkillId(1), &found);
        }
        tally.count(decision.verdict.as_str());
        let word = match protocol {
            6 => "tcp",
            17 => "udp",
            _ => "other",
        };
        let lists =
            |ports: &[Port], port| ports.iter().any(|(p, w)| (*p == 0 || *p == port) && (*w == word || w.is_empty()));
        let expected = if !plain {
            any || (family == 16 && protocol == 0)
        } else if connected {
            any || lists(&out, to) || (protocol == 6 && !outbound && lists(&taken, at))
        } else {
            at == 0 || (protocol == 6 && !listening) || lists(&taken, at)
        };
        prop_assert_eq!(decision.allows(), expected, "{:?}: {:?}", found, decision);
        Ok(())
    });
}

/// A connection that was made from a port at which the skill may listen is none that came there.
#[test]
fn a_listed_port_says_nothing_of_what_was_connected_from_it() {
    let every = Some(port_set(&[(0, "")]));
    let end = |protocol| Destination { address: Address::from_v4([192, 0, 2, 1]), port: 80, protocol };
    for (protocol, outbound, ports, allowed) in [
        (6, false, None, true),
        (6, true, None, false),
        (6, true, every, true),
        (17, false, None, false),
        (17, true, None, false),
        (17, false, every, true),
    ] {
        for star in [false, true] {
            let flags = if star { skill_flag::LISTEN_ANY } else { 0 };
            let conf = SkillConf { flags, listen_any: RuleId(7), ..SkillConf::default() };
            let rules = OnePrefix { conf: Some(conf), ports, listening: every.filter(|_| !star), loopback: true };
            let found = Endpoint { state: Endpoint::ESTABLISHED, peer: end(protocol), local: end(protocol), outbound };
            assert_eq!(decide::arrival(&rules, SkillId(1), &found).allows(), allowed, "{found:?}");
        }
    }
}

#[test]
fn messages_and_options_that_lead_elsewhere_are_refused() {
    for any in [false, true] {
        let flags = if any { skill_flag::CONNECT_ANY } else { 0 };
        let rules = OnePrefix {
            conf: Some(SkillConf { flags, connect_any: RuleId(100), ..SkillConf::default() }),
            ports: None,
            listening: None,
            loopback: true,
        };
        let skill = SkillId(1);
        assert!(decide::netlink(&rules, skill, 0, false).allows());
        for (protocol, changes) in [(0, true), (16, false), (12, false), (9, true)] {
            assert_eq!(decide::netlink(&rules, skill, protocol, changes).allows(), any);
        }
        for (level, name) in [(0, 4), (41, 5), (41, 6), (41, 32), (41, 57)] {
            assert_eq!(decide::option(&rules, skill, level, name).allows(), any);
        }
        // IPsec policies, iptables, arptables, ebtables, IPVS, ip6tables.
        let v4 = [16, 17, 64, 65, 96, 97, 128, 129, 1152, 1154, 1167].map(|name| (0, name));
        for (level, name) in v4.into_iter().chain([34, 35, 64, 65].map(|name| (41, name))) {
            let decision = decide::option(&rules, skill, level, name);
            assert_eq!(decision.allows(), any);
            assert!(any || reason(decision) == Reason::NetworkChange);
        }
        for name in [15, 18, 63, 66, 95, 98, 127, 130, 1151, 1168] {
            assert!(decide::option(&rules, skill, 0, name).allows());
        }
        // The traffic class, and what is no option of IP.
        for (level, name) in [(41, 66), (41, 67), (41, 96), (1, 64), (6, 17)] {
            assert!(decide::option(&rules, skill, level, name).allows());
        }
        for (level, name) in [(0, 1), (41, 26), (41, 31), (41, 33), (1, 2), (6, 1)] {
            assert!(decide::option(&rules, skill, level, name).allows());
        }
        let known = |name: &[u8]| AbstractKey::new(skill, name).expect("a name");
        assert!(decide::unix_name(&rules, &known(b"known")).allows());
        assert_eq!(decide::unix_name(&rules, &known(b"other")).allows(), any);
    }
    assert!(AbstractKey::new(SkillId(1), b"").is_none());
    assert!(AbstractKey::new(SkillId(1), &[b'x'; 108]).is_none());
}
