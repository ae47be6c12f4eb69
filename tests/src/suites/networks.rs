//! Network namespaces: whichever a governed process is in, comes from, or makes, the same is refused and the same is closed.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::ensure;

use crate::{
    act::TOKEN,
    harness::{
        events::{Event, Mark},
        eventually,
        holder::{Holder, Patient},
        listener::{Server, say},
        network::{Network, within},
        runner::Suite,
        scene::Scene,
        worker::{Entry, Worker},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "networks",
    policy: Some(policy),
    tests: &[
        ("one_that_the_process_was_started_in", started),
        ("one_that_it_moves_into", moved),
        ("one_that_it_makes", made),
        ("sockets_of_another_one", sockets),
        ("listening_in_them", listening),
        ("a_reload_closes_what_is_connected_there", withdrawn),
        ("a_reload_ends_listening_there", listening_ends),
        ("outside_processes_are_untouched", outside),
    ],
};

const SKILL: &str = "roamer";
const PORT: u16 = 18_097;
const LOST: u16 = 18_098;
/// The host at the end of a link, at an address that is listed and at one that is not, and the same of IPv6.
const HOST: [&str; 2] = ["10.66.0.1", "10.66.0.2"];
const HOST6: [&str; 2] = ["fd66::1", "fd66::2"];
/// The same of every namespace's own loopback device; of IPv6 the port is another.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "127.0.0.2"];

fn policy(_: &Scene) -> anyhow::Result<String> {
    manifest(true)
}

/// With or without what a reload takes away.
#[expect(clippy::unnecessary_wraps, reason = "the signature of every suite's policy")]
fn manifest(all: bool) -> anyhow::Result<String> {
    let (lost, listened) = if all {
        (format!("\n      - 10.66.0.0/24:{LOST}\n      - 127.0.0.0/8:{LOST}"), format!(", \"127.0.0.1:{LOST}\""))
    } else {
        (String::new(), String::new())
    };
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    \
         listen: [\"127.0.0.1:{PORT}\"{listened}]\n    network_scope:\n      - 10.66.0.1:{PORT}\n      \
         - 10.66.0.3:{PORT}\n      - 127.0.0.3:{PORT}\n      \
         - \"[fd66::1]:{PORT}\"\n      - 127.0.0.1:{PORT}\n      - \"[::1]:{PORT}\"{lost}\n"
    ))
}

/// A namespace that reaches the host by a link.
fn linked(name: &'static str) -> anyhow::Result<Network> {
    let network = Network::make(name)?;
    let ends = |last: u8| [format!("10.66.0.{last}/24"), format!("fd66::{last}/64")];
    let (here, there) = ([1, 2, 3].map(ends), ends(9));
    let here: Vec<&str> = here.iter().flatten().map(String::as_str).collect();
    network.link("roam0", &here, &there.each_ref().map(String::as_str))?;
    Ok(network)
}

/// Servers of the host at the listed address and the other, of both kinds.
fn of_the_host() -> anyhow::Result<[[Server; 2]; 2]> {
    let start = |ip| Server::start(ip, PORT);
    Ok([[start(HOST[0])?, start(HOST[1])?], [start(HOST6[0])?, start(HOST6[1])?]])
}

/// The same of the loopback device of the namespace that lies there.
fn of_loopback(path: &str) -> anyhow::Result<[[Server; 2]; 2]> {
    within(path, || {
        let v4 = [Server::start(LOOPBACK[0], PORT)?, Server::start(LOOPBACK[1], PORT)?];
        Ok([v4, [Server::start("::1", PORT)?, Server::start("::1", PORT + 2)?]])
    })
}

/// The verdict on an address.
fn verdict(scene: &Scene, mark: Mark, verdict: &str, server: &Server) -> anyhow::Result<Event> {
    let ip = server.address().ip().to_string();
    let event = scene.events().wait(mark, &format!("{verdict} {}", server.at()), |e| {
        e.text("kind") == "connect" && e.text("verdict") == verdict && e.object("address") == ip
    })?;
    ensure!(event.port() == u64::from(server.port()) && event.text("skill") == SKILL, "{}", event.0);
    Ok(event)
}

/// The agent reaches the first of each pair and not the second, with these words before each act.
fn one_of_each(scene: &Scene, agent: &Worker, way: &[&str], pairs: &[[Server; 2]; 2]) -> anyhow::Result<()> {
    for [good, bad] in pairs {
        for (act, protocol) in
            [("tcp", "tcp"), ("fastopen", "tcp"), ("udp", "udp"), ("sendto", "udp"), ("sendmmsg", "udp")]
        {
            let mark = scene.mark();
            agent.act(&[way, &[act, &good.at()]].concat())?.done()?;
            good.got(TOKEN)?;
            let event = verdict(scene, mark, "allow", good)?;
            ensure!(event.text("rule") == format!("network_scope: {}", good.at()), "{}", event.0);
            let mark = scene.mark();
            agent.act(&[way, &[act, &bad.at()]].concat())?.refused()?;
            bad.nothing()?;
            let event = verdict(scene, mark, "deny", bad)?;
            ensure!(event.text("reason") == "destination not listed", "{}", event.0);
            ensure!(event.object("protocol") == protocol, "{}", event.0);
        }
    }
    Ok(())
}

fn started(scene: &Scene) -> anyhow::Result<()> {
    let network = linked("roam-started")?;
    let agent = within(&network.path(), || Worker::start(&Entry::Run(SKILL)))?;
    one_of_each(scene, &agent, &[], &of_the_host()?)?;
    one_of_each(scene, &agent, &[], &of_loopback(&network.path())?)
}

fn moved(scene: &Scene) -> anyhow::Result<()> {
    let network = linked("roam-moved")?;
    let (path, agent) = (network.path(), scene.worker(SKILL)?);
    one_of_each(scene, &agent, &["network", &path], &of_the_host()?)?;
    one_of_each(scene, &agent, &["network", &path], &of_loopback(&path)?)
}

/// An agent in a network namespace, and a user namespace, that it has made.
fn maker() -> anyhow::Result<(Worker, String)> {
    let agent = Worker::start(&Entry::Run(SKILL))?;
    agent.act(&["here", "new-network", "nothing"])?.done()?;
    let path = format!("/proc/{}/ns/net", agent.pid());
    ensure!(std::fs::read_link(&path)? != std::fs::read_link("/proc/self/ns/net")?, "it is where we are");
    Ok((agent, path))
}

fn made(scene: &Scene) -> anyhow::Result<()> {
    let (agent, path) = maker()?;
    let servers = of_loopback(&path)?;
    one_of_each(scene, &agent, &[], &servers)?;
    for way in [&["thread"][..], &["double-fork"]] {
        one_of_each(scene, &agent, way, &servers)?;
    }
    // In one of each act's own nobody is there: what is not refused finds that out.
    for way in [&["new-network"][..], &["user", "1000", "new-network"]] {
        let [[good, bad], _] = &servers;
        scene.act(SKILL, &[way, &["tcp", &good.at()]].concat())?.failed(libc::ECONNREFUSED)?;
        let mark = scene.mark();
        scene.act(SKILL, &[way, &["tcp", &bad.at()]].concat())?.refused()?;
        verdict(scene, mark, "deny", bad)?;
    }
    Ok(())
}

/// A socket that was made in one namespace and is used in another.
fn sockets(scene: &Scene) -> anyhow::Result<()> {
    let network = linked("roam-sockets")?;
    let (path, [[good, bad], _]) = (network.path(), of_the_host()?);
    for act in ["tcp-by-a-socket-of", "udp-by-a-socket-of"] {
        scene.act(SKILL, &[act, &path, &good.at()])?.done()?;
        good.got(TOKEN)?;
        let mark = scene.mark();
        scene.act(SKILL, &[act, &path, &bad.at()])?.refused()?;
        bad.nothing()?;
        verdict(scene, mark, "deny", &bad)?;
    }
    Ok(())
}

/// The agent may serve at one address there, and at no other.
fn serves_at_one(scene: &Scene, agent: &Worker, way: &[&str], path: &str) -> anyhow::Result<()> {
    let (listed, other) = (format!("127.0.0.1:{PORT}"), format!("127.0.0.2:{PORT}"));
    for (act, protocol) in [("serve-tcp", "tcp"), ("serve-udp", "udp")] {
        let tcp = protocol == "tcp";
        let mark = scene.mark();
        let (outcome, said) = thread::scope(|scope| {
            let serving = scope.spawn(|| agent.act(&[way, &[act, &listed]].concat()));
            let said = within(path, || Ok(eventually(Duration::from_secs(8), || say(TOKEN, &listed, tcp))));
            (serving.join(), said)
        });
        let outcome = outcome.map_err(|_| anyhow::anyhow!("the server panicked"))??;
        ensure!(said? && outcome.done()?.out == TOKEN, "{outcome:?}");
        let event =
            scene.events().wait(mark, "the bind", |e| e.text("kind") == "bind" && e.text("verdict") == "allow")?;
        ensure!(
            event.text("rule") == format!("listen: {listed}") && event.object("protocol") == protocol,
            "{}",
            event.0
        );
        for (address, kind) in [(other.as_str(), "bind"), ("0.0.0.0:18099", "bind"), ("127.0.0.1:0", "listen")] {
            if kind == "listen" && !tcp {
                continue;
            }
            let mark = scene.mark();
            agent.act(&[way, &[act, address]].concat())?.refused()?;
            let event =
                scene.events().wait(mark, address, |e| e.text("kind") == kind && e.text("verdict") == "deny")?;
            ensure!(event.text("reason") == "listening is not listed" && event.text("skill") == SKILL, "{}", event.0);
            ensure!(address.rsplit_once(':').is_some_and(|(ip, _)| ip == event.object("address")), "{}", event.0);
            let reached = within(path, || Ok(TcpStream::connect(address).is_ok()))?;
            ensure!(!reached, "somebody listens at {address}");
        }
    }
    Ok(())
}

fn listening(scene: &Scene) -> anyhow::Result<()> {
    let network = Network::make("roam-listening")?;
    let path = network.path();
    let agent = within(&path, || Worker::start(&Entry::Run(SKILL)))?;
    serves_at_one(scene, &agent, &[], &path)?;
    let agent = scene.worker(SKILL)?;
    serves_at_one(scene, &agent, &["network", &path], &path)?;
    let (agent, path) = maker()?;
    serves_at_one(scene, &agent, &[], &path)
}

fn restore(scene: &Scene) -> anyhow::Result<()> {
    let manifest = manifest(true)?;
    scene.daemon(|d| d.reload(&manifest)).map(drop)
}

/// Withdraws the other port, and waits for the end of what this process has connected to it.
fn reload_and_see(scene: &Scene, pids: &[u32]) -> anyhow::Result<()> {
    let mark = scene.mark();
    let manifest = manifest(false)?;
    scene.daemon(|d| d.reload(&manifest))?;
    for pid in pids {
        let event = scene.events().wait(mark, &format!("the end of {pid}'s"), |e| {
            e.text("kind") == "close" && e.number("target") == u64::from(*pid)
        })?;
        ensure!(event.text("reason") == "no longer allowed" && event.text("skill") == SKILL, "{}", event.0);
        ensure!(
            event.port() == u64::from(LOST)
                && ["10.66.0.", "127.0.0."].iter().any(|net| event.object("address").starts_with(net)),
            "{}",
            event.0
        );
    }
    Ok(())
}

fn withdrawn(scene: &Scene) -> anyhow::Result<()> {
    let network = linked("roam-withdrawn")?;
    let path = network.path();
    let way = ["network", path.as_str()];
    let (mut ends, mut goes_on) = (vec![], vec![]);
    // To the host, by a process that was started there and by one that has moved; and both to a server that is there itself.
    let cases = [
        ("10.66.0.1", false, false),
        ("10.66.0.3", false, true),
        ("127.0.0.1", true, false),
        ("127.0.0.3", true, true),
    ];
    for (ip, is_there, moves) in cases {
        let start = |port: u16| {
            let address = format!("{ip}:{port}");
            let server = if is_there { within(&path, || Patient::start(&address)) } else { Patient::start(&address) }?;
            let holder = if moves {
                Holder::inside_by(&way, SKILL, "tcp", &address)
            } else {
                within(&path, || Holder::inside(SKILL, "tcp", &address))
            }?;
            anyhow::Ok((holder, server))
        };
        ends.push(start(LOST)?);
        goes_on.push(start(PORT)?);
    }
    let datagrams = within(&path, || Holder::inside(SKILL, "udp", &format!("{}:{LOST}", HOST[0])))?;
    // And one in a namespace of its own.
    let (agent, own) = maker()?;
    let lost = within(&own, || Patient::start(&format!("127.0.0.1:{LOST}")))?;
    agent.act(&["here", "keep-tcp", &lost.at()])?.done()?;
    let mut pids: Vec<u32> = ends.iter().map(|(holder, _)| holder.pid()).collect();
    pids.extend([datagrams.pid(), agent.pid()]);
    reload_and_see(scene, &pids)?;
    for (holder, server) in ends {
        ensure!(server.received()?.is_empty(), "what nobody said arrived");
        ensure!(holder.send()? != 0, "a connection to {} carries on", server.at());
    }
    ensure!(datagrams.send()? != 0, "datagrams are sent");
    ensure!(lost.received()?.is_empty() && agent.act(&["send-kept"])?.status != 0, "the agent's own carries on");
    for (holder, server) in goes_on {
        ensure!(holder.send()? == 0 && server.received()? == TOKEN, "an allowed connection ended");
    }
    restore(scene)
}

fn listening_ends(scene: &Scene) -> anyhow::Result<()> {
    let network = Network::make("roam-ends")?;
    let path = network.path();
    let (lost, kept) = (format!("127.0.0.1:{LOST}"), format!("127.0.0.1:{PORT}"));
    let ends = within(&path, || Holder::inside(SKILL, "listen", &lost))?;
    let _goes_on = within(&path, || Holder::inside(SKILL, "listen", &kept))?;
    let listens = |at: &str| within(&path, || Ok(TcpStream::connect(at).is_ok()));
    ensure!(listens(&lost)? && listens(&kept)?, "nobody listens");
    reload_and_see(scene, &[ends.pid()])?;
    ensure!(!listens(&lost)?, "somebody listens");
    ensure!(listens(&kept)?, "what is allowed ended");
    restore(scene)
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    let network = linked("roam-outside")?;
    let path = network.path();
    let ([[_, bad], [_, bad6]], agent) = (of_the_host()?, scene.outsider()?);
    let mark = scene.mark();
    for server in [&bad, &bad6] {
        for act in ["tcp", "sendto"] {
            agent.act(&["network", &path, act, &server.at()])?.done()?;
            server.got(TOKEN)?;
        }
    }
    let seen = scene.events().since(mark);
    ensure!(seen.iter().all(|e| e.text("kind") != "connect"), "{seen:?}");
    Ok(())
}
