//! Listening: by local address, port and protocol; TCP when it takes connections, UDP when it gets a port.

use std::{
    io::Write as _,
    net::{TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::ensure;

use crate::{
    act::TOKEN,
    harness::{
        eventually, kernel,
        listener::{Server, say},
        runner::Suite,
        scene::Scene,
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "listen",
    policy: Some(policy),
    tests: &[
        ("a_listed_address_and_port", listed),
        ("another_port_address_or_protocol", others),
        ("every_local_address", every),
        ("a_port_that_the_kernel_chooses", chosen),
        ("a_clients_own_port", client),
        ("an_absent_list_allows_nothing", absent),
        ("everything_is_allowed_by_a_star", star),
        ("audit_reports_and_lets_pass", audit),
        ("io_uring", io_uring),
        ("outside_processes_are_untouched", outside),
    ],
};

const SKILL: &str = "server";
const PORT: u16 = 18_082;
const OTHER: u16 = 18_083;

#[expect(clippy::unnecessary_wraps, reason = "the signature of every suite's policy")]
fn policy(_: &Scene) -> anyhow::Result<String> {
    let binaries = "allow_binaries: [{path: /usr/lib/enforcer/enforcer-tests}]";
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    {binaries}\n    network_scope: [\"127.0.0.1:{PORT}\"]\n    \
         listen:\n      - 127.0.0.1:{PORT}/tcp\n      - 127.0.0.2:{PORT}/udp\n      - \"[::1]:{PORT}\"\n      - 127.0.1.0/24\n  \
         wide:\n    {binaries}\n    listen: [\"0.0.0.0:{PORT}\"]\n  \
         wider:\n    {binaries}\n    listen: [\"[::]:{PORT}\"]\n  \
         mute:\n    {binaries}\n    network_scope: [\"*\"]\n  \
         audited:\n    mode: audit\n    {binaries}\n  \
         star:\n    {binaries}\n    listen: [\"*\"]\n"
    ))
}

/// The act serves, and what is said to it from outside arrives.
fn serves(scene: &Scene, skill: &str, act: &str, address: &str, reached_at: &str) -> anyhow::Result<()> {
    serves_by(&[], scene, skill, act, address, reached_at)
}

/// The same, done in this way.
fn serves_by(
    way: &[&str],
    scene: &Scene,
    skill: &str,
    act: &str,
    address: &str,
    reached_at: &str,
) -> anyhow::Result<()> {
    let worker = scene.worker(skill)?;
    let words: Vec<String> = [way, &[act, address]].concat().into_iter().map(str::to_owned).collect();
    let server = Arc::clone(&worker);
    let serving = thread::spawn(move || server.act(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    let said = eventually(Duration::from_secs(8), || say(TOKEN, reached_at, act != "serve-udp"));
    let outcome = serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(said && outcome.done()?.out == TOKEN, "{act} {address}: {outcome:?}");
    Ok(())
}

/// The act is refused, nobody can connect, and the event tells where.
fn refused(scene: &Scene, skill: &str, act: &str, address: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(skill, &[act, address])?.refused()?;
    ensure!(act == "serve-udp" || TcpStream::connect(address).is_err(), "somebody listens at {address}");
    let (ip, _) = address.rsplit_once(':').unwrap_or_default();
    let event = scene.events().wait(mark, &format!("a refusal of {address}"), |e| {
        ["bind", "listen"].contains(&e.text("kind"))
            && e.text("verdict") == "deny"
            && e.object("address") == ip.trim_matches(['[', ']'])
    })?;
    ensure!(event.text("reason") == "listening is not listed", "{}", event.0);
    Ok(())
}

fn listed(scene: &Scene) -> anyhow::Result<()> {
    let tcp = format!("127.0.0.1:{PORT}");
    let mark = scene.mark();
    serves(scene, SKILL, "serve-tcp", &tcp, &tcp)?;
    for kind in ["bind", "listen"] {
        let event = scene.events().wait(mark, kind, |e| e.text("kind") == kind && e.text("verdict") == "allow")?;
        ensure!(event.text("rule") == format!("listen: {tcp}/tcp") && event.port() == u64::from(PORT), "{}", event.0);
    }
    let udp = format!("127.0.0.2:{PORT}");
    serves(scene, SKILL, "serve-udp", &udp, &udp)?;
    let v6 = format!("[::1]:{PORT}");
    serves(scene, SKILL, "serve-tcp", &v6, &v6)?;
    serves(scene, SKILL, "serve-udp", &v6, &v6)?;
    let mapped = format!("[::ffff:127.0.0.1]:{PORT}");
    serves(scene, SKILL, "serve-tcp", &mapped, &tcp)
}

fn others(scene: &Scene) -> anyhow::Result<()> {
    for (act, address) in [
        ("serve-tcp", format!("127.0.0.1:{OTHER}")),
        ("serve-udp", format!("127.0.0.1:{PORT}")),
        ("serve-tcp", format!("127.0.0.2:{PORT}")),
        ("serve-udp", format!("127.0.0.2:{OTHER}")),
        ("serve-tcp", format!("[::1]:{OTHER}")),
        ("serve-tcp", format!("0.0.0.0:{PORT}")),
        ("serve-udp", format!("0.0.0.0:{PORT}")),
        ("serve-tcp", format!("[::]:{PORT}")),
    ] {
        refused(scene, SKILL, act, &address)?;
    }
    for way in [&["thread"][..], &["double-fork"], &["unshare", "user"]] {
        scene.act(SKILL, &[way, &["serve-tcp", &format!("127.0.0.1:{OTHER}")]].concat())?.refused()?;
    }
    Ok(())
}

/// `0.0.0.0` is every address of IPv4, `::` every address.
fn every(scene: &Scene) -> anyhow::Result<()> {
    let (loopback, any, any6) = (format!("127.0.0.1:{PORT}"), format!("0.0.0.0:{PORT}"), format!("[::]:{PORT}"));
    serves(scene, "wide", "serve-tcp", &any, &loopback)?;
    serves(scene, "wide", "serve-tcp", &loopback, &loopback)?;
    serves(scene, "wide", "serve-udp", &any, &loopback)?;
    // An address of no family is the unspecified one of IPv4 (`net/ipv4/af_inet.c: __inet_bind`).
    scene.act("wide", &["bind-unspec", &any])?.done()?;
    let mark = scene.mark();
    scene.act(SKILL, &["bind-unspec", &any])?.refused()?;
    let event = scene.events().wait(mark, "the bind", |e| e.text("kind") == "bind" && e.text("verdict") == "deny")?;
    ensure!(event.object("address") == "0.0.0.0" && event.port() == u64::from(PORT), "{}", event.0);
    refused(scene, "wide", "serve-tcp", &any6)?;
    // A socket of IPv6 takes IPv4, too.
    serves(scene, "wider", "serve-tcp", &any6, &loopback)?;
    serves(scene, "wider", "serve-tcp", &loopback, &loopback)
}

/// A bind to port 0 reaches nobody; listening there is judged by the port that was got, without a bind by every port.
fn chosen(scene: &Scene) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(SKILL, &["serve-tcp", "127.0.0.1:0"])?.refused()?;
    let event =
        scene.events().wait(mark, "a refusal", |e| e.text("kind") == "listen" && e.text("verdict") == "deny")?;
    ensure!(event.port() > 1024 && event.object("address") == "127.0.0.1", "{}", event.0);
    scene.act(SKILL, &["listen-unbound"])?.refused()?;
    scene.act("star", &["listen-unbound"])?.done()?;
    // Every port of a prefix.
    serves(scene, SKILL, "serve-tcp", "127.0.1.7:19999", "127.0.1.7:19999")
}

fn client(scene: &Scene) -> anyhow::Result<()> {
    let server = Server::start("127.0.0.1", PORT)?;
    for act in ["tcp-from", "udp-from"] {
        scene.act(SKILL, &[act, "127.0.0.1:0", &server.at()])?.done()?;
        server.got(TOKEN)?;
        scene.act(SKILL, &[act, &format!("127.0.0.1:{OTHER}"), &server.at()])?.refused()?;
        server.nothing()?;
    }
    Ok(())
}

fn absent(scene: &Scene) -> anyhow::Result<()> {
    for act in ["serve-tcp", "serve-udp"] {
        refused(scene, "mute", act, &format!("127.0.0.1:{PORT}"))?;
    }
    scene.act("mute", &["listen-unbound"])?.refused()?;
    Ok(())
}

fn star(scene: &Scene) -> anyhow::Result<()> {
    let at = format!("127.0.0.9:{OTHER}");
    serves(scene, "star", "serve-tcp", &at, &at)?;
    serves(scene, "star", "serve-udp", &at, &at)
}

fn audit(scene: &Scene) -> anyhow::Result<()> {
    let at = format!("127.0.0.9:{OTHER}");
    let mark = scene.mark();
    serves(scene, "audited", "serve-tcp", &at, &at)?;
    scene.events().wait(mark, "the report", |e| e.text("kind") == "listen" && e.text("verdict") == "audit").map(drop)
}

/// Binding and listening are operations of their own since 6.11.
fn io_uring(scene: &Scene) -> anyhow::Result<()> {
    let (listed, other) = (format!("127.0.0.1:{PORT}"), format!("127.0.0.1:{OTHER}"));
    for way in ["uring", "uring-worker", "uring-sqpoll"] {
        if kernel()? < (6, 11) {
            for address in [&listed, &other] {
                scene.act(SKILL, &[way, "serve-tcp", address])?.failed(libc::EINVAL)?;
            }
            continue;
        }
        let mark = scene.mark();
        serves_by(&[way], scene, SKILL, "serve-tcp", &listed, &listed)?;
        for kind in ["bind", "listen"] {
            // Those of the skill before may be late.
            let event = scene.events().wait(mark, kind, |e| {
                e.text("kind") == kind && e.text("verdict") == "allow" && e.text("skill") == SKILL
            })?;
            ensure!(event.text("rule") == format!("listen: {listed}/tcp"), "{}", event.0);
        }
        // Port 0 is bound, and what the kernel has chosen is not listed.
        for (address, kind) in [(other.as_str(), "bind"), ("127.0.0.1:0", "listen")] {
            let mark = scene.mark();
            scene.act(SKILL, &[way, "serve-tcp", address])?.refused()?;
            let event =
                scene.events().wait(mark, address, |e| e.text("kind") == kind && e.text("verdict") == "deny")?;
            ensure!(event.text("reason") == "listening is not listed", "{}", event.0);
            ensure!(event.object("address") == "127.0.0.1", "{}", event.0);
            ensure!(kind == "listen" || event.port() == u64::from(OTHER), "{}", event.0);
        }
        ensure!(TcpStream::connect(&other).is_err(), "somebody listens at {other}");
        serves_by(&[way], scene, "star", "serve-tcp", &other, &other)?;
    }
    Ok(())
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    for act in ["serve-tcp", "serve-udp"] {
        let server = scene.outsider()?;
        let serving = thread::spawn(move || server.act(&[act, "127.0.0.9:18085"]));
        let said = eventually(Duration::from_secs(8), || {
            if act == "serve-tcp" {
                TcpStream::connect("127.0.0.9:18085").and_then(|mut s| s.write_all(TOKEN.as_bytes())).is_ok()
            } else {
                let sent = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(TOKEN.as_bytes(), "127.0.0.9:18085"));
                thread::sleep(Duration::from_millis(50));
                sent.is_ok() && serving.is_finished()
            }
        });
        let outcome = serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        ensure!(said && outcome.done()?.out == TOKEN, "{act}: {outcome:?}");
    }
    Ok(())
}
