//! What the fuzzers call here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use hickory_resolver::proto::{
    op::Message,
    rr::{Name, RecordType},
    serialize::binary::BinDecodable as _,
};

use super::{
    Place, Question, Source,
    lookup::follow,
    sources::Sources,
    table::{Limits, Outcome, Table},
};

/// The name that is asked for, where the answer names none.
const ASKED: &str = "api.example.";

/// Takes an answer as it comes from the wire into an empty table.
pub(crate) fn answer(bytes: &[u8]) {
    let Ok(message) = Message::from_bytes(bytes) else { return };
    let asked = message.queries.first().map(|query| query.name().clone());
    let name = asked.unwrap_or_else(|| Name::from_ascii(ASKED).expect("a name"));
    let records = &message.answers;
    let said: BTreeSet<IpAddr> = records.iter().filter_map(|record| record.data.ip_addr()).collect();
    let mut outcome = Outcome::default();
    for kind in [RecordType::A, RecordType::AAAA] {
        let answers = follow(&name, kind, records);
        assert!(answers.len() <= records.len(), "more addresses than records");
        for answer in &answers {
            assert!(said.contains(&answer.address) && answer.source == Source::Dns, "{answer:?} was not said");
            assert_eq!(answer.address.is_ipv4(), kind == RecordType::A, "{answer:?} is no {kind}");
        }
        outcome.answers.extend(answers);
    }
    let limits = Limits { per_name: 8, total: 8, ..Limits::default() };
    let mut table = Table::new(limits);
    let question = Question { place: Place::Host, name: "api.example".parse().expect("a name") };
    let now = Instant::now();
    table.want(&BTreeMap::from([(question.clone(), true)]), now);
    table.advance(now);
    for _ in 0..2 {
        table.answer(&question, outcome.clone(), now, 0.5);
        let kept: usize = table.known().map(|(_, addresses)| addresses.len()).sum();
        assert!(kept <= limits.per_name.min(said.len()), "{kept} addresses are kept");
    }
    let end = now + limits.max_ttl + limits.grace;
    table.advance(end);
    assert!(table.known().all(|(_, addresses)| addresses.is_empty()), "an address has no end");
}

/// Reads both files.
pub(crate) fn files(resolv_conf: &str, hosts: &str) {
    let sources = Sources::inside("a container", resolv_conf, hosts);
    let again = Sources::inside("a container", resolv_conf, hosts);
    assert_eq!(sources.resolvers(), again.resolvers(), "two readings differ");
}
