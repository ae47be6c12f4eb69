//! Connections and sockets. How prefixes become ports of one address is the compiler's affair and tested there.

use std::collections::HashSet;

use enforcer_common::{
    decide::{self, Destination, Rules},
    event::{Reason, Verdict},
    ids::{Digest, ObjectId, RuleId, SkillId},
    net::{Address, PORTS_PER_PREFIX, PortRule, PortSet, protocol},
    rules::{BinaryRule, ObjectRule, SkillConf, action, skill_flag},
};
use proptest::{collection::vec, prelude::*};

use crate::{harness::check, policy::reason};

/// One skill with one prefix, which covers every address.
struct OnePrefix {
    conf: Option<SkillConf>,
    ports: Option<PortSet>,
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
    fn destination(&self, _: SkillId, _: &Address, port: u16, protocols: u16) -> Option<RuleId> {
        decide::port_allowed(self.ports.as_ref(), port, protocols)
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
        let rules = OnePrefix { conf, ports: ports.as_deref().map(port_set) };
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
        let rules = OnePrefix { conf, ports: None };
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
