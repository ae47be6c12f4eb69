//! The service with a name server, a policy that takes notes, and files of its own.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::{Mutex, PoisonError},
};

use hickory_resolver::proto::rr::RecordType;

use super::*;
use crate::names::fake::{Reply, Server, record, zone};

/// A policy that remembers what it was given.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<(Vec<Addresses>, Vec<String>)>>);

impl Notes {
    fn open(&self, name: &str) -> Vec<String> {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name: HostName = name.parse().expect("a name");
        let addresses = notes.0.last().and_then(|known| known.names.get(&name));
        addresses.into_iter().flat_map(BTreeMap::keys).map(ToString::to_string).collect()
    }

    fn told(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    async fn eventually(&self, name: &str, expected: &[&str]) {
        let asked = async {
            while self.open(name) != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let outcome = timeout(Duration::from_secs(20), asked).await;
        assert!(outcome.is_ok(), "{name} has {:?} instead of {expected:?}", self.open(name));
    }
}

impl Policy for Notes {
    async fn put(&self, addresses: Addresses) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(addresses);
        true
    }

    fn tell(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.push(text);
    }
}

/// A service whose resolver is a server of the test's.
struct Stage {
    names: Names,
    notes: Notes,
    wanted: watch::Sender<Wanted>,
    dir: tempfile::TempDir,
}

const QUICK: Limits = Limits {
    min_ttl: Duration::from_millis(200),
    max_ttl: Duration::from_hours(1),
    grace: Duration::from_millis(500),
    per_name: 256,
    total: 65_536,
};

impl Stage {
    fn set(server: &Server, names: &[&str]) -> Self {
        Self::after(server, names, Addresses::default())
    }

    /// After a service that knew this.
    fn after(server: &Server, names: &[&str], known: Addresses) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files { resolv_conf: dir.path().join("resolv.conf"), hosts: dir.path().join("hosts") };
        let (wanted, receiver) = watch::channel(wanted(1, names));
        let notes = Notes::default();
        let port = server.address.port();
        let names = Names::start_with(receiver, notes.clone(), QUICK, files, known, move |sources| {
            // resolv.conf has no ports.
            let mut servers = sources.config.name_servers().to_vec();
            for server in &mut servers {
                server.connections.iter_mut().for_each(|connection| connection.port = port);
            }
            sources.config = hickory_resolver::config::ResolverConfig::from_parts(None, vec![], servers);
            sources.options.timeout = Duration::from_millis(300);
            sources.options.attempts = 1;
        });
        Self { names, notes, wanted, dir }
    }

    fn want(&self, serial: u64, names: &[&str]) {
        self.wanted.send_replace(wanted(serial, names));
    }

    async fn settle(&self, serial: u64) {
        self.names.settle(serial, Duration::from_secs(20)).await;
    }

    async fn warnings(&self) -> Vec<String> {
        self.names.report().await.expect("a report").warnings()
    }
}

fn wanted(serial: u64, names: &[&str]) -> Wanted {
    let names = names.iter().map(|name| (name.parse().expect("a name"), format!("p.yaml: {name}"))).collect();
    Wanted { serial, names: Arc::new(names), report: true, ..Wanted::default() }
}

/// A container in the network of the test.
fn container(hosts: &str, names: &[&str]) -> Container {
    let network = fs::File::open("/proc/self/ns/net").expect("a network");
    Container {
        path: "/c.scope".into(),
        skill: "inside".into(),
        names: names.iter().map(|name| name.parse().expect("a name")).collect(),
        resolv_conf: "nameserver 127.0.0.9\n".into(),
        hosts: hosts.into(),
        network: Arc::new(network.into()),
    }
}

#[tokio::test]
async fn a_container_asks_for_itself() {
    let server = Server::start(zone(vec![record("a.example", "10.0.0.1", 600)])).await;
    let stage = Stage::set(&server, &["a.example", "b.example"]);
    stage.settle(1).await;
    let want = |serial, containers: BTreeMap<u64, Container>| {
        let wanted = Wanted { containers: Arc::new(containers), ..wanted(serial, &["a.example", "b.example"]) };
        stage.wanted.send_replace(wanted);
    };
    let inside = || {
        let notes = stage.notes.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.0.last().and_then(|known| known.containers.get(&7)).cloned()
    };
    let open = |name: &str| {
        let name: HostName = name.parse().expect("a name");
        let addresses = inside().and_then(|inside| inside.names.get(&name).cloned());
        addresses.into_iter().flatten().map(|(address, source)| (address.to_string(), source)).collect::<Vec<_>>()
    };
    want(2, [(7, container("10.9.9.9 b.example\n", &["a.example", "b.example"]))].into());
    stage.settle(2).await;
    // Nobody answers at the container's resolver, and its hosts file's word is no better than one's.
    assert_eq!(open("b.example"), [("10.9.9.9".to_owned(), Source::Dns)]);
    assert_eq!((open("a.example"), stage.notes.open("b.example")), (vec![], vec![]));
    assert_eq!(stage.notes.open("a.example"), ["10.0.0.1"]);
    let known = inside().expect("it is known");
    assert_eq!((known.skill.as_str(), known.resolvers), ("inside", [IpAddr::from([127, 0, 0, 9])].into()));
    let warnings = stage.warnings().await;
    assert!(
        warnings.iter().any(|line| line.contains("a.example, as /c.scope asks for it, does not resolve")),
        "{warnings:?}"
    );
    // Another file: the server of the test's answers.
    let other = Container { resolv_conf: "nameserver 127.0.0.1\n".into(), ..container("", &["a.example"]) };
    want(3, [(7, other)].into());
    let answered = async {
        while open("a.example") != [("10.0.0.1".to_owned(), Source::Dns)] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), answered).await.is_ok(), "{:?}", open("a.example"));
    assert_eq!(open("b.example"), []);
    want(4, BTreeMap::new());
    stage.settle(4).await;
    assert_eq!(inside(), None);
    assert_eq!(stage.notes.open("a.example"), ["10.0.0.1"]);
    assert!(stage.notes.told().iter().any(|line| line == "a container of inside: b.example: +10.9.9.9"));
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
}

#[tokio::test]
async fn names_are_open_when_the_start_is_over_and_follow_the_zone() {
    let server = Server::start(zone(vec![record("a.example", "10.0.0.1", 0)])).await;
    let stage = Stage::set(&server, &["a.example", "b.example"]);
    stage.settle(1).await;
    assert_eq!(stage.notes.open("a.example"), ["10.0.0.1"]);
    assert_eq!(
        stage.warnings().await,
        ["p.yaml: b.example: b.example does not resolve: there is no such name; closed until it does"]
    );
    server.change(zone(vec![record("a.example", "10.0.0.2", 0), record("b.example", "10.0.0.9", 0)]));
    // The old one stays through its grace, beside the new one.
    stage.notes.eventually("a.example", &["10.0.0.1", "10.0.0.2"]).await;
    stage.notes.eventually("a.example", &["10.0.0.2"]).await;
    stage.notes.eventually("b.example", &["10.0.0.9"]).await;
    assert_eq!(stage.warnings().await, [""; 0]);
    let told = stage.notes.told();
    for line in ["a.example: +10.0.0.1", "a.example: +10.0.0.2", "a.example: -10.0.0.1", "b.example: +10.0.0.9"] {
        assert!(told.iter().any(|text| text == line), "{line}: {told:?}");
    }
    let report = stage.names.report().await.expect("a report");
    let lines = report.lines(Instant::now());
    assert_eq!((lines[0]["name"].as_str(), lines[0]["state"].as_str()), (Some("a.example"), Some("resolved")));
    assert_eq!(lines[0]["addresses"][0]["address"], "10.0.0.2");
}

#[tokio::test]
async fn what_the_service_before_knew_stays_for_the_grace() {
    let server = Server::start(zone(vec![record("b.example", "10.0.0.2", 60)])).await;
    let addresses: BTreeMap<_, _> = ["a.example", "b.example"]
        .map(|name| (name.parse().expect("a name"), [([10, 0, 0, 7].into(), Source::Dns)].into()))
        .into();
    let stage =
        Stage::after(&server, &["a.example", "b.example"], Addresses { names: addresses, ..Addresses::default() });
    stage.notes.eventually("b.example", &["10.0.0.2", "10.0.0.7"]).await;
    stage.notes.eventually("b.example", &["10.0.0.2"]).await;
    stage.notes.eventually("a.example", &[]).await;
    assert!(!stage.notes.told().iter().any(|line| line.contains('+') && line.contains("10.0.0.7")));
}

#[tokio::test]
async fn an_outage_closes_after_the_grace_and_the_return_opens() {
    let server = Server::start(zone(vec![record("a.example", "10.0.0.1", 0)])).await;
    let stage = Stage::set(&server, &["a.example"]);
    stage.settle(1).await;
    server.change(|_, _| Reply::Hang);
    tokio::time::sleep(QUICK.min_ttl).await;
    assert_eq!(stage.notes.open("a.example"), ["10.0.0.1"], "it was closed before its time");
    stage.notes.eventually("a.example", &[]).await;
    assert!(stage.warnings().await[0].contains("does not resolve"), "{:?}", stage.warnings().await);
    server.change(zone(vec![record("a.example", "10.0.0.1", 0)]));
    stage.notes.eventually("a.example", &["10.0.0.1"]).await;
}

#[tokio::test]
async fn a_resolver_that_hangs_does_not_hold_the_others_up() {
    let server = Server::start(|name, kind| match (name, kind) {
        ("a.example", RecordType::A) => Reply::Records(vec![record("a.example", "10.0.0.1", 60)]),
        ("a.example", _) => Reply::Records(vec![]),
        _ => Reply::Hang,
    })
    .await;
    let mut names: Vec<String> = (0..15).map(|n| format!("slow{n}.example")).collect();
    names.push("a.example".into());
    let stage = Stage::set(&server, &names.iter().map(String::as_str).collect::<Vec<_>>());
    stage.notes.eventually("a.example", &["10.0.0.1"]).await;
    stage.settle(1).await;
    assert_eq!(stage.warnings().await.len(), 15);
}

#[tokio::test]
async fn many_names_are_asked_for_a_few_at_a_time() {
    let server = Server::start(|name, kind| match kind {
        RecordType::A => Reply::Records(vec![record(name, "10.0.0.1", 60)]),
        _ => Reply::Records(vec![]),
    })
    .await;
    let names: Vec<String> = (0..500).map(|n| format!("n{n}.example")).collect();
    let stage = Stage::set(&server, &names.iter().map(String::as_str).collect::<Vec<_>>());
    stage.settle(1).await;
    for name in &names {
        assert_eq!(stage.notes.open(name), ["10.0.0.1"], "{name}");
    }
    // Not one generation a name.
    let generations = stage.notes.0.lock().expect("notes").0.len();
    assert!(generations <= 500, "{generations}");
}

#[tokio::test]
async fn a_reload_keeps_what_stays_and_forgets_what_goes() {
    let server =
        Server::start(zone(vec![record("a.example", "10.0.0.1", 600), record("b.example", "10.0.0.2", 600)])).await;
    let stage = Stage::set(&server, &["a.example"]);
    stage.settle(1).await;
    stage.want(2, &["a.example", "b.example"]);
    stage.settle(2).await;
    assert_eq!(
        (stage.notes.open("a.example"), stage.notes.open("b.example")),
        (vec!["10.0.0.1".into()], vec!["10.0.0.2".into()])
    );
    let of_a = server.asked().iter().filter(|(name, ..)| name == "a.example").count();
    assert_eq!(of_a, 2, "A and AAAA, once");
    stage.want(3, &["b.example"]);
    stage.settle(3).await;
    assert_eq!(stage.notes.open("a.example"), [""; 0]);
}

#[tokio::test]
async fn changed_files_are_read_again() {
    let server = Server::start(zone(vec![record("a.example", "10.0.0.1", 600)])).await;
    let stage = Stage::set(&server, &["a.example"]);
    stage.settle(1).await;
    let resolvers = || stage.notes.0.lock().expect("notes").0.last().expect("addresses").resolvers.clone();
    assert_eq!(resolvers(), [IpAddr::from(Ipv4Addr::LOCALHOST)].into());
    write(&stage.dir.path().join("hosts"), "10.1.1.1 a.example\n");
    stage.notes.eventually("a.example", &["10.0.0.1", "10.1.1.1"]).await;
    fs::remove_file(stage.dir.path().join("hosts")).expect("removed");
    stage.notes.eventually("a.example", &["10.0.0.1"]).await;
    // By rename, as a DHCP client does it.
    write(&stage.dir.path().join("new"), "nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions timeout:1\n");
    fs::rename(stage.dir.path().join("new"), stage.dir.path().join("resolv.conf")).expect("renamed");
    let changed = async {
        while resolvers().len() != 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), changed).await.is_ok(), "{:?}", resolvers());
    assert!(stage.notes.told().iter().any(|line| line == "resolvers: +127.0.0.2"), "{:?}", stage.notes.told());
}
