//! One name, and name servers of every kind.

use std::time::Instant;

use super::*;
use crate::names::fake::{self, Reply, Server, alias, record, zone};

async fn ask(server: &Server, name: &str) -> Outcome {
    ask_with(server.sources(), name).await
}

async fn ask_with(sources: Sources, name: &str) -> Outcome {
    let name = name.parse().expect("a name");
    Lookup::new(sources, Network::default()).expect("a resolver").ask(&name).await
}

/// The addresses with their TTLs in seconds, sorted.
fn found(outcome: &Outcome) -> Vec<(String, u64)> {
    let mut found: Vec<_> = outcome.answers.iter().map(|a| (a.address.to_string(), a.ttl.as_secs())).collect();
    found.sort();
    found
}

fn pairs(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(address, ttl)| ((*address).to_owned(), *ttl)).collect()
}

#[tokio::test]
async fn both_kinds_of_address() {
    let records = ["10.0.0.1", "10.0.0.2", "2001:db8::1"].map(|address| record("a.example", address, 30));
    let server = Server::start(zone(records.into())).await;
    let outcome = ask(&server, "A.Example.").await;
    assert_eq!(found(&outcome), pairs(&[("10.0.0.1", 30), ("10.0.0.2", 30), ("2001:db8::1", 30)]));
    assert_eq!(outcome.error, None);
    assert!(outcome.answers.iter().all(|answer| answer.source == Source::Dns));
    let asked = server.asked();
    assert!(asked.iter().all(|(name, _, tcp)| name == "a.example" && !tcp), "{asked:?}");
}

#[tokio::test]
async fn aliases_are_followed_and_the_shortest_ttl_counts() {
    let chain = || {
        vec![
            alias("a.example", "b.example", 300),
            alias("b.example", "C.Example", 20),
            record("c.example", "10.0.0.3", 100),
        ]
    };
    // All in one answer, as from a resolver.
    let server = Server::start(move |_, _| Reply::Records(chain())).await;
    assert_eq!(found(&ask(&server, "a.example").await), pairs(&[("10.0.0.3", 20)]));
    // One step an answer.
    let server = Server::start(zone(vec![
        alias("a.example", "b.example", 300),
        alias("b.example", "c.example", 20),
        record("c.example", "10.0.0.3", 100),
    ]))
    .await;
    assert_eq!(found(&ask(&server, "a.example").await), pairs(&[("10.0.0.3", 20)]));
}

#[tokio::test]
async fn a_loop_of_aliases_ends() {
    let loops = || vec![alias("a.example", "b.example", 60), alias("b.example", "a.example", 60)];
    let server = Server::start(move |_, _| Reply::Records(loops())).await;
    let outcome = ask(&server, "a.example").await;
    assert!(outcome.answers.is_empty() && outcome.error.is_some(), "{outcome:?}");
    let server = Server::start(zone(loops())).await;
    let outcome = ask(&server, "a.example").await;
    assert!(outcome.answers.is_empty() && outcome.error.is_some(), "{outcome:?}");
    assert!(server.asked().len() < 64, "{}", server.asked().len());
    let server = Server::start(zone(vec![alias("a.example", "a.example", 60)])).await;
    assert!(ask(&server, "a.example").await.answers.is_empty());
}

#[tokio::test]
async fn records_of_other_names_say_nothing() {
    let mixed = || {
        vec![
            record("a.example", "10.0.0.1", 60),
            record("evil.example", "10.6.6.6", 60),
            alias("evil.example", "a.example", 60),
            alias("x.example", "evil.example", 60),
            record("example", "10.6.6.7", 60),
        ]
    };
    let server = Server::start(move |_, _| Reply::Records(mixed())).await;
    assert_eq!(found(&ask(&server, "a.example").await), pairs(&[("10.0.0.1", 60)]));
    let server = Server::start(|_, _| Reply::Records(vec![record("evil.example", "10.6.6.6", 60)])).await;
    let outcome = ask(&server, "a.example").await;
    assert!(outcome.answers.is_empty() && outcome.error.is_some(), "{outcome:?}");
}

#[tokio::test]
async fn what_does_not_exist_is_said_so() {
    let server = Server::start(zone(vec![])).await;
    assert_eq!(ask(&server, "a.example").await.error.as_deref(), Some("there is no such name"));
    let server = Server::start(|_, _| Reply::Records(vec![])).await;
    assert_eq!(ask(&server, "a.example").await.error.as_deref(), Some("it has no address"));
}

#[tokio::test]
async fn one_kind_of_address_is_enough() {
    let server = Server::start(|_, kind| match kind {
        RecordType::A => Reply::Records(vec![record("a.example", "10.0.0.1", 60)]),
        _ => Reply::Records(vec![]),
    })
    .await;
    let outcome = ask(&server, "a.example").await;
    assert_eq!((found(&outcome), outcome.error), (pairs(&[("10.0.0.1", 60)]), None));
    // The other kind fails: what there is counts, and it is asked for again soon.
    let server = Server::start(|_, kind| match kind {
        RecordType::A => Reply::Records(vec![record("a.example", "10.0.0.1", 60)]),
        _ => Reply::Code(ResponseCode::ServFail),
    })
    .await;
    let outcome = ask(&server, "a.example").await;
    assert_eq!(found(&outcome), pairs(&[("10.0.0.1", 60)]));
    assert!(outcome.error.as_deref().is_some_and(|e| e.starts_with("AAAA: ")), "{outcome:?}");
}

#[tokio::test]
async fn servers_that_fail_hang_or_babble() {
    let garbage = vec![0xff; 300];
    let mut overlong = vec![0, 0, 0x81, 0x80, 0, 1, 0x27, 0x10, 0, 0, 0, 0];
    overlong.extend([0xc0; 40]);
    for reply in [
        Reply::Hang,
        Reply::Code(ResponseCode::ServFail),
        Reply::Code(ResponseCode::Refused),
        Reply::Bytes(vec![]),
        Reply::Bytes(garbage),
        Reply::Bytes(overlong),
        Reply::OtherQuestion(vec![record("a.example", "10.6.6.6", 60)]),
        Reply::OtherId(vec![record("a.example", "10.6.6.6", 60)]),
    ] {
        let sent = reply.clone();
        let server = Server::start(move |_, _| sent.clone()).await;
        let started = Instant::now();
        let outcome = ask(&server, "a.example").await;
        assert!(outcome.answers.is_empty() && outcome.error.is_some(), "{reply:?}: {outcome:?}");
        assert!(started.elapsed() < LIMIT, "{reply:?}");
    }
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp() {
    // Nearly as many as this server's messages of 64 KiB hold; the table keeps what it has room for.
    let many = || {
        (0..2_000_u32)
            .map(|n| record("a.example", &IpAddr::from((0x0a00_0000 + n).to_be_bytes()).to_string(), 60))
            .collect()
    };
    let server = Server::start(move |_, kind| match kind {
        RecordType::A => Reply::Truncated(many()),
        _ => Reply::Records(vec![]),
    })
    .await;
    let outcome = ask(&server, "a.example").await;
    assert_eq!(outcome.answers.len(), 2_000, "{:?}", outcome.error);
    assert!(server.asked().iter().any(|(_, _, tcp)| *tcp));
}

#[tokio::test]
async fn the_next_resolver_answers_where_the_first_does_not() {
    let silent = Server::start(|_, _| Reply::Hang).await;
    let server = Server::start(zone(vec![record("a.example", "10.0.0.1", 60)])).await;
    let outcome = ask_with(fake::sources(&[silent.address, server.address]), "a.example").await;
    assert_eq!(found(&outcome), pairs(&[("10.0.0.1", 60)]), "{:?}", outcome.error);
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_localhost_is_this_host() {
    let server = Server::start(|name, kind| match kind {
        RecordType::A => Reply::Records(vec![record(name, "10.6.6.6", 60)]),
        _ => Reply::Records(vec![]),
    })
    .await;
    let mut sources = server.sources();
    sources.hosts.read_hosts_conf(&b"127.0.0.1 dev.example # mine\n::1 Dev.Example other\n"[..]).expect("hosts");
    let outcome = ask_with(sources, "dev.example").await;
    assert_eq!(found(&outcome), pairs(&[("127.0.0.1", 86_400), ("::1", 86_400)]));
    assert!(outcome.answers.iter().all(|answer| answer.source == Source::Host));
    let outcome = ask(&server, "localhost").await;
    assert_eq!(found(&outcome), pairs(&[("127.0.0.1", 86_400), ("::1", 86_400)]));
    assert!(outcome.answers.iter().all(|answer| answer.source == Source::Host));
    assert!(server.asked().is_empty(), "{:?}", server.asked());
    assert_eq!(found(&ask(&server, "a.example").await), pairs(&[("10.6.6.6", 60)]));
}

#[tokio::test]
async fn the_search_list_is_for_names_without_a_dot() {
    let server = Server::start(zone(vec![
        record("db.corp.example", "10.0.0.1", 60),
        record("a.b.corp.example", "10.6.6.6", 60),
    ]))
    .await;
    let sources = || {
        let mut sources = server.sources();
        sources.config.add_search(Name::from_ascii("corp.example.").expect("a name"));
        sources
    };
    assert_eq!(found(&ask_with(sources(), "db").await), pairs(&[("10.0.0.1", 60)]));
    assert!(ask_with(sources(), "a.b").await.answers.is_empty());
}
