//! Names with their addresses: what they open, and what they do not.

use std::net::IpAddr;

use enforcer_common::{
    ids::{RuleId, SkillId},
    net::{Address, protocol},
};

use super::{net_model_tests::Nowhere, ruleset::Ruleset, *};
use crate::names::{Addresses, Source};

/// The ruleset of skills with these scopes.
fn compiled(yaml: &str) -> (Ruleset, Ids) {
    let source = crate::manifest::Source::from_bytes("test.yaml", yaml.into()).expect("text");
    let manifest = crate::manifest::parse(&source).expect("a manifest");
    let mut ids = Ids::default();
    (compile(&manifest, &mut Nowhere, &mut ids).expect("it compiles").ruleset, ids)
}

fn known(names: &[(&str, &[&str])], source: Source) -> Addresses {
    let addresses = |list: &[&str]| list.iter().map(|text| (text.parse().expect("an address"), source)).collect();
    let names = names.iter().map(|(name, list)| (name.parse().expect("a name"), addresses(list)));
    Addresses {
        names: names.collect(),
        resolvers: ["127.0.0.53".parse().expect("an address")].into(),
        ..Addresses::default()
    }
}

/// The text of the rule that allows it.
fn rule(ruleset: &Ruleset, skill: SkillId, address: &str, port: u16, protocols: u16) -> Option<String> {
    let address = match address.parse().expect("an address") {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address(v6.octets()),
    };
    let bits = u128::from_be_bytes(address.0);
    let holds = |prefix: &ruleset::NetPrefix| {
        let there = u128::from_be_bytes(prefix.key.address.0);
        prefix.key.skill == skill && (bits ^ there).leading_zeros() >= prefix.len
    };
    let longest = ruleset.destinations.iter().filter(|(prefix, _)| holds(prefix)).max_by_key(|(prefix, _)| prefix.len);
    let rule: RuleId = longest?.1.find(port, protocols)?;
    Some(ruleset.rules[&rule].text.to_string())
}

const S: SkillId = SkillId(1);
const T: SkillId = SkillId(2);

#[test]
fn a_name_opens_its_addresses_with_its_ports_and_nothing_before_it_resolves() {
    let (mut ruleset, _) = compiled("skills: {s: {network_scope: ['a.example:443/tcp', b.example]}}");
    assert_eq!(rule(&ruleset, S, "10.0.0.1", 443, protocol::TCP), None);
    let found = known(&[("a.example", &["203.0.113.1", "2001:db8::1"]), ("b.example", &["203.0.113.2"])], Source::Dns);
    assert_eq!(ruleset.resolve_names(&found), []);
    let allowed = |address, port, protocols| rule(&ruleset, S, address, port, protocols);
    for address in ["203.0.113.1", "2001:db8::1"] {
        assert_eq!(allowed(address, 443, protocol::TCP).as_deref(), Some("network_scope: a.example:443/tcp"));
        assert_eq!(allowed(address, 443, protocol::UDP), None);
        assert_eq!(allowed(address, 80, protocol::TCP), None);
    }
    assert_eq!(allowed("203.0.113.2", 80, protocol::UDP).as_deref(), Some("network_scope: b.example"));
    assert_eq!(allowed("203.0.113.3", 443, protocol::TCP), None);
    // They change, and nothing of before is left.
    ruleset.resolve_names(&known(&[("a.example", &["203.0.113.9"])], Source::Dns));
    assert_eq!(rule(&ruleset, S, "203.0.113.1", 443, protocol::TCP), None);
    assert_eq!(rule(&ruleset, S, "203.0.113.2", 80, protocol::UDP), None);
    assert!(rule(&ruleset, S, "203.0.113.9", 443, protocol::TCP).is_some());
}

#[test]
fn what_a_containers_resolvers_say_opens_its_skill_alone() {
    let (mut ruleset, _) = compiled("skills: {s: {network_scope: [a.example]}, t: {network_scope: [a.example]}}");
    let inside = |names: &[(&str, &[&str])]| {
        let Addresses { names, .. } = known(names, Source::Dns);
        crate::names::Inside { skill: "t".into(), names, resolvers: ["10.88.0.1".parse().expect("an address")].into() }
    };
    let mut found = known(&[("a.example", &["203.0.113.1"])], Source::Dns);
    found.containers = [
        (7, inside(&[("a.example", &["203.0.113.7", "203.0.113.1"]), ("b.example", &["203.0.113.8"])])),
        (8, inside(&[("a.example", &["203.0.113.7", "127.0.0.1"])])),
    ]
    .into();
    let remarks = ruleset.resolve_names(&found);
    let of = |skill| {
        let open = |address: &str, port| rule(&ruleset, skill, address, port, protocol::TCP).is_some();
        ["203.0.113.1", "203.0.113.7", "203.0.113.8", "127.0.0.1"]
            .map(|address| open(address, 80))
            .into_iter()
            .chain([open("10.88.0.1", 53), open("127.0.0.53", 53)])
            .collect::<Vec<_>>()
    };
    assert_eq!(of(S), [true, false, false, false, false, true]);
    assert_eq!(of(T), [true, true, false, false, true, true]);
    assert!(remarks.len() == 1 && remarks[0].text.contains("127.0.0.1"), "{remarks:?}");
    assert_eq!(names::by_address(&found)[&"203.0.113.7".parse().expect("an address")].as_str(), "a.example");
}

#[test]
fn who_may_answer_in_the_place_of_a_resolver_is_known() {
    let answers = |listen: &str, at: &str| {
        let (ruleset, _) = compiled(&format!("skills: {{s: {{network_scope: [a.example]{listen}}}}}"));
        ruleset.may_listen(S, at.parse().expect("an address"), 53)
    };
    assert!(!answers("", "10.88.0.1"));
    assert!(answers(", listen: ['*']", "10.88.0.1"));
    for (listen, v4, v6) in [
        ("10.88.0.1:53", true, false),
        ("10.88.0.1:53/udp", true, false),
        ("10.88.0.1:54", false, false),
        ("10.88.0.2:53", false, false),
        ("0.0.0.0:53", true, true),
        ("'[::]:53'", true, true),
        ("'[fd00::53]:53'", false, true),
    ] {
        let of = |at| answers(&format!(", listen: [{listen}]"), at);
        assert_eq!((of("10.88.0.1"), of("fd00::53")), (v4, v6), "{listen}");
    }
}

#[test]
fn only_who_lists_a_name_may_ask_the_resolvers() {
    let (mut ruleset, _) = compiled("skills: {s: {network_scope: [a.example]}, t: {network_scope: [203.0.113.0/24]}}");
    ruleset.resolve_names(&known(&[("a.example", &["203.0.113.1"])], Source::Dns));
    for protocols in [protocol::TCP, protocol::UDP] {
        assert_eq!(rule(&ruleset, S, "127.0.0.53", 53, protocols).as_deref(), Some("network_scope: dns"));
        assert_eq!(rule(&ruleset, T, "127.0.0.53", 53, protocols), None);
        assert_eq!(rule(&ruleset, S, "127.0.0.54", 53, protocols), None);
    }
    assert_eq!(rule(&ruleset, S, "127.0.0.53", 853, protocol::TCP), None);
    // Another skill's names are its own.
    assert_eq!(rule(&ruleset, T, "203.0.113.1", 80, protocol::TCP).as_deref(), Some("network_scope: 203.0.113.0/24"));
    assert_eq!(rule(&ruleset, S, "203.0.113.2", 80, protocol::TCP), None);
}

#[test]
fn an_address_inside_a_listed_prefix_has_the_ports_of_both() {
    let (mut ruleset, _) = compiled("skills: {s: {network_scope: ['203.0.113.0/24:80', 'a.example:443']}}");
    ruleset.resolve_names(&known(&[("a.example", &["203.0.113.1"])], Source::Dns));
    let allowed = |address, port| rule(&ruleset, S, address, port, protocol::TCP);
    assert_eq!(allowed("203.0.113.1", 443).as_deref(), Some("network_scope: a.example:443"));
    assert_eq!(allowed("203.0.113.1", 80).as_deref(), Some("network_scope: 203.0.113.0/24:80"));
    assert_eq!(allowed("203.0.113.2", 443), None);
}

#[test]
fn two_names_that_share_an_address_have_the_ports_of_both_there() {
    let (mut ruleset, _) = compiled("skills: {s: {network_scope: ['a.example:443', 'b.example:80']}}");
    ruleset.resolve_names(&known(&[("a.example", &["203.0.113.1"]), ("b.example", &["203.0.113.1"])], Source::Dns));
    for port in [80, 443] {
        assert!(rule(&ruleset, S, "203.0.113.1", port, protocol::TCP).is_some());
    }
}

#[test]
fn a_zone_cannot_mean_what_lies_on_this_host_or_link() {
    let (mut ruleset, _) = compiled("skills: {s: {network_scope: [a.example]}}");
    let rebound = ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0", "::ffff:203.0.113.1"];
    let remarks = ruleset.resolve_names(&known(&[("a.example", &rebound)], Source::Dns));
    assert_eq!(remarks.len(), rebound.len(), "{remarks:?}");
    assert!(remarks[0].place.starts_with("test.yaml:1:"), "{remarks:?}");
    for address in rebound {
        assert_eq!(rule(&ruleset, S, address, 80, protocol::TCP), None, "{address}");
    }
    // The host's own file may.
    assert_eq!(ruleset.resolve_names(&known(&[("a.example", &["127.0.0.1"])], Source::Host)), []);
    assert!(rule(&ruleset, S, "127.0.0.1", 80, protocol::TCP).is_some());
    // The manifest may list them by prefix: then the prefix's own ports are open, and not those of the name.
    let (mut ruleset, _) = compiled("skills: {s: {network_scope: ['127.0.0.0/8:1', 'a.example:80', '[::/0]:1']}}");
    ruleset.resolve_names(&known(&[("a.example", &["127.0.0.1", "169.254.169.254"])], Source::Dns));
    assert!(rule(&ruleset, S, "127.0.0.1", 1, protocol::TCP).is_some());
    for address in ["127.0.0.1", "169.254.169.254"] {
        assert_eq!(rule(&ruleset, S, address, 80, protocol::TCP), None, "{address}");
    }
}

#[test]
fn private_addresses_are_taken_and_mentioned() {
    let (mut ruleset, _) = compiled("skills: {s: {network_scope: [a.example]}}");
    let remarks = ruleset.resolve_names(&known(&[("a.example", &["10.0.0.1"])], Source::Dns));
    assert!(remarks.len() == 1 && remarks[0].text.contains("private address 10.0.0.1"), "{remarks:?}");
    assert!(rule(&ruleset, S, "10.0.0.1", 80, protocol::TCP).is_some());
}

#[test]
fn too_many_ports_close_the_address_and_change_nothing_else() {
    let names: Vec<String> = (1..=20).map(|port| format!("'a.example:{port}'")).collect();
    let scope =
        format!("skills: {{s: {{network_scope: ['203.0.113.0/24:99', '203.0.113.7:98', {}]}}}}", names.join(", "));
    let (mut ruleset, _) = compiled(&scope);
    let remarks = ruleset.resolve_names(&known(&[("a.example", &["203.0.113.1", "203.0.113.7"])], Source::Dns));
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    for address in ["203.0.113.1", "203.0.113.7"] {
        assert_eq!(rule(&ruleset, S, address, 1, protocol::TCP), None);
        assert!(rule(&ruleset, S, address, 99, protocol::TCP).is_some(), "{address}");
    }
    assert!(rule(&ruleset, S, "203.0.113.7", 98, protocol::TCP).is_some());
    assert!(rule(&ruleset, S, "127.0.0.53", 53, protocol::UDP).is_some());
}
