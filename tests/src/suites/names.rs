//! Names in `network_scope`: the daemon asks a name server of the test's own, and what it says opens and closes.
//!
//! The servers listen on addresses of the loopback device that are not loopback addresses: a name server may not hand those
//! out.

use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::{
    act::TOKEN,
    harness::{
        command,
        daemon::Daemon,
        dns::Dns,
        eventually,
        holder::{Holder, Patient},
        listener::Server,
        runner::Suite,
        scene::{Scene, holds},
        succeed,
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "names",
    policy: Some(policy),
    tests: &[
        ("a_name_opens_its_addresses", opens),
        ("ipv6_and_ports_and_protocols", ports),
        ("an_address_that_changes", changes),
        ("the_configured_resolver_and_no_other", resolver),
        ("what_a_zone_may_not_mean", rebinding),
        ("the_hosts_file", hosts),
        ("the_files_that_say_who_is_asked", sources),
        ("a_name_that_does_not_resolve_yet", later),
        ("an_outage_and_the_return", outage),
        ("a_connection_outlives_its_address_and_not_its_name", connections),
        ("a_restart_of_the_daemon", restart),
        ("another_resolv_conf", resolv_conf),
        ("status_shows_the_table", status),
        ("outside_processes_are_untouched", outside),
    ],
};

const SKILL: &str = "caller";
const PORT: u16 = 18_090;
const OTHER: u16 = 18_091;
/// An answer's time and grace in the daemon under test are 3 s together; under emulation everything takes longer.
const CLOSED: Duration = Duration::from_secs(30);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The addresses that names of this suite have.
const ADDRESSES: [&str; 6] =
    ["10.77.0.1/32", "10.77.0.2/32", "10.77.0.3/32", "10.77.0.4/32", "10.77.0.5/32", "fd77::1/128"];

/// The name server, which outlives the suite: the daemon goes on asking.
static DNS: Mutex<Option<Dns>> = Mutex::new(None);

fn dns() -> MutexGuard<'static, Option<Dns>> {
    DNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the name server something, or tells it something.
fn with_dns<T>(ask: impl FnOnce(&Dns) -> anyhow::Result<T>) -> anyhow::Result<T> {
    ask(dns().as_ref().context("no name server")?)
}

fn policy(_: &Scene) -> anyhow::Result<String> {
    for address in ADDRESSES {
        // It may be there from a run before.
        command(&["ip", "address", "add", address, "dev", "lo"])?;
    }
    succeed(&["ip", "link", "set", "lo", "up"])?;
    if dns().is_none() {
        *dns() = Some(Dns::start("127.0.0.1")?);
    }
    with_dns(|dns| {
        dns.set("open.test", &["10.77.0.1"])?;
        dns.set("dual.test", &["10.77.0.2", "fd77::1"])?;
        dns.set("moves.test", &["10.77.0.1"])?;
        dns.set("rebound.test", &["127.0.0.1", "169.254.169.254", "::1", "10.77.0.4"])
    })?;
    fs::write(RESOLV_CONF, "nameserver 127.0.0.1\n")?;
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    \
         network_scope:\n      - open.test:{PORT}\n      - dual.test:{PORT}/tcp\n      - moves.test:{OTHER}\n      \
         - rebound.test:{PORT}\n      - later.test:{PORT}\n      - written.test:{PORT}\n  \
         nameless:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    network_scope: [\"10.77.0.1:{PORT}\"]\n"
    ))
}

fn reaches(scene: &Scene, act: &[&str], server: &Server) -> anyhow::Result<()> {
    scene.act(SKILL, act)?.done()?;
    server.got(TOKEN)
}

fn refused(scene: &Scene, act: &[&str], server: &Server) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(SKILL, act)?.refused()?;
    server.nothing()?;
    let to = server.address();
    let event = scene.events().wait(mark, "a refusal", |e| {
        e.text("kind") == "connect" && e.text("verdict") == "deny" && e.object("address") == to.ip().to_string()
    })?;
    ensure!(event.port() == u64::from(to.port()) && event.text("skill") == SKILL, "{}", event.0);
    ensure!(event.text("reason") == "destination not listed", "{}", event.0);
    Ok(())
}

/// Tries until the act has this status: addresses come and go in their own time.
fn becomes(scene: &Scene, act: &[&str], status: i32) -> anyhow::Result<()> {
    let mut last = None;
    let there = eventually(CLOSED, || {
        last = scene.act(SKILL, act).ok();
        last.as_ref().is_some_and(|outcome| outcome.status == status)
    });
    ensure!(there, "it did not come to {status}: {last:?}; {:?}", scene.daemon(|d| d.status())?["names"]);
    Ok(())
}

fn opens(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("10.77.0.1", PORT)?, Server::start("10.77.0.3", PORT)?);
    let mark = scene.mark();
    reaches(scene, &["tcp", &good.at()], &good)?;
    let event = scene.events().wait(mark, "the connect", |e| {
        e.text("kind") == "connect" && e.text("verdict") == "allow" && e.object("address") == "10.77.0.1"
    })?;
    ensure!(event.text("rule") == format!("network_scope: open.test:{PORT}"), "{}", event.0);
    ensure!(event.object("name") == "open.test", "{}", event.0);
    reaches(scene, &["udp", &good.at()], &good)?;
    reaches(scene, &["sendto", &good.at()], &good)?;
    refused(scene, &["tcp", &bad.at()], &bad)?;
    refused(scene, &["sendto", &bad.at()], &bad)
}

fn ports(scene: &Scene) -> anyhow::Result<()> {
    let (v4, v6) = (Server::start("10.77.0.2", PORT)?, Server::start("fd77::1", PORT)?);
    let other = Server::start("10.77.0.2", OTHER)?;
    reaches(scene, &["tcp", &v4.at()], &v4)?;
    reaches(scene, &["tcp", &v6.at()], &v6)?;
    reaches(scene, &["tcp", &format!("[::ffff:10.77.0.2]:{PORT}")], &v4)?;
    refused(scene, &["udp", &v4.at()], &v4)?;
    refused(scene, &["tcp", &other.at()], &other)
}

/// The new address opens; the old one stays for its time and its grace and is closed then.
fn changes(scene: &Scene) -> anyhow::Result<()> {
    let (old, new) = (Server::start("10.77.0.1", OTHER)?, Server::start("10.77.0.3", OTHER)?);
    reaches(scene, &["tcp", &old.at()], &old)?;
    refused(scene, &["tcp", &new.at()], &new)?;
    let mark = scene.mark();
    with_dns(|dns| dns.set("moves.test", &["10.77.0.3"]))?;
    for change in ["+10.77.0.3", "-10.77.0.1"] {
        scene.events().wait(mark, change, |e| {
            e.text("kind") == "names"
                && e.text("reason").starts_with("moves.test:")
                && e.text("reason").contains(change)
        })?;
    }
    reaches(scene, &["tcp", &new.at()], &new)?;
    becomes(scene, &["tcp", &old.at()], libc::EPERM)?;
    // It may have been reached while it was open still.
    let _ = old.got(TOKEN);
    refused(scene, &["tcp", &old.at()], &old)?;
    // What other names have stays.
    let open = Server::start("10.77.0.1", PORT)?;
    reaches(scene, &["tcp", &open.at()], &open)
}

/// What a name loses by itself closes nothing, what the policy loses does.
fn connections(scene: &Scene) -> anyhow::Result<()> {
    with_dns(|dns| dns.set("moves.test", &["10.77.0.1"]))?;
    let (moves, open) = (format!("10.77.0.1:{OTHER}"), format!("10.77.0.1:{PORT}"));
    becomes(scene, &["udp", &moves], 0)?;
    let (old, kept) = (Patient::start(&moves)?, Patient::start(&open)?);
    let (stays, ends) = (Holder::inside(SKILL, "tcp", &moves)?, Holder::inside(SKILL, "tcp", &open)?);
    with_dns(|dns| dns.set("moves.test", &["10.77.0.3"]))?;
    becomes(scene, &["udp", &moves], libc::EPERM)?;
    ensure!(stays.send()? == 0 && old.received()? == TOKEN, "a connection ended with its address");
    let mark = scene.mark();
    let manifest = scene.daemon(|d| Ok(fs::read_to_string(d.policy())?))?;
    scene.daemon(|d| d.reload(&manifest.replace("open.test", "shut.test")))?;
    let event = scene.events().wait(mark, "the end", |e| e.text("kind") == "close")?;
    ensure!(event.object("name") == "open.test" && event.object("address") == "10.77.0.1", "{}", event.0);
    ensure!(ends.send()? != 0 && kept.received()?.is_empty(), "a connection outlived its name");
    scene.daemon(|d| d.reload(&manifest)).map(drop)
}

/// Without a daemon everything stays as it is, and the next one begins with it.
fn restart(scene: &Scene) -> anyhow::Result<()> {
    let (held, good) = (Patient::start(&format!("10.77.0.1:{PORT}"))?, Server::start("10.77.0.2", PORT)?);
    // No name ever had this one; later.test has got 10.77.0.3.
    let bad = Server::start("10.77.0.5", PORT)?;
    let holder = Holder::inside(SKILL, "tcp", &held.at())?;
    reaches(scene, &["tcp", &good.at()], &good)?;
    scene.daemon(Daemon::kill)?;
    // Longer than any answer and its grace.
    std::thread::sleep(Duration::from_secs(4));
    reaches(scene, &["tcp", &good.at()], &good)?;
    scene.act(SKILL, &["tcp", &bad.at()])?.refused()?;
    scene.daemon(Daemon::restart)?;
    reaches(scene, &["tcp", &good.at()], &good)?;
    scene.act(SKILL, &["tcp", &bad.at()])?.refused()?;
    bad.nothing()?;
    ensure!(holder.send()? == 0 && held.received()? == TOKEN, "a connection ended with the daemon");
    Ok(())
}

fn resolver(scene: &Scene) -> anyhow::Result<()> {
    let other = Dns::start("127.0.0.2")?;
    other.set("open.test", &["10.77.0.1"])?;
    let elsewhere = Server::start("127.0.0.1", 5353)?;
    for act in ["dns-udp", "dns-tcp"] {
        let mark = scene.mark();
        let outcome = scene.act(SKILL, &[act, "127.0.0.1:53", "open.test"])?;
        ensure!(outcome.done()?.out.trim() == "10.77.0.1", "{outcome:?}");
        scene.events().wait(mark, "the query", |e| {
            e.text("verdict") == "allow" && e.text("rule") == "network_scope: dns" && e.object("name").is_empty()
        })?;
        scene.act(SKILL, &[act, "127.0.0.2:53", "open.test"])?.refused()?;
        scene.act(SKILL, &[act, "127.0.0.1:5353", "open.test"])?.refused()?;
        // A skill without names has no use for a resolver.
        scene.act("nameless", &[act, "127.0.0.1:53", "secret.open.test"])?.refused()?;
    }
    elsewhere.nothing()?;
    ensure!(other.asked().is_empty(), "{:?}", other.asked());
    let asked = with_dns(|dns| Ok(dns.asked()))?;
    ensure!(!asked.iter().any(|name| name == "secret.open.test"), "{asked:?}");
    // The same query by a process outside.
    scene.outside(&["dns-udp", "127.0.0.2:53", "open.test"])?.done()?;
    ensure!(other.asked() == ["open.test"], "{:?}", other.asked());
    Ok(())
}

/// Whoever owns the zone chooses the addresses: not those of this host or link.
fn rebinding(scene: &Scene) -> anyhow::Result<()> {
    let (good, v4, v6) =
        (Server::start("10.77.0.4", PORT)?, Server::start("127.0.0.1", PORT)?, Server::start("::1", PORT)?);
    reaches(scene, &["tcp", &good.at()], &good)?;
    refused(scene, &["tcp", &v4.at()], &v4)?;
    refused(scene, &["tcp", &v6.at()], &v6)?;
    scene.act(SKILL, &["tcp", &format!("169.254.169.254:{PORT}")])?.refused()?;
    let warnings = scene.daemon(|d| d.status())?["warnings"].to_string();
    for address in ["127.0.0.1 (loopback)", "169.254.169.254 (link-local)", "::1 (loopback)"] {
        ensure!(warnings.contains(address), "{address}: {warnings}");
    }
    Ok(())
}

fn hosts(scene: &Scene) -> anyhow::Result<()> {
    const HOSTS: &str = "/etc/hosts";
    let before = fs::read_to_string(HOSTS)?;
    let server = Server::start("127.0.0.9", PORT)?;
    refused(scene, &["tcp", &server.at()], &server)?;
    fs::write(HOSTS, format!("{before}127.0.0.9 written.test\n"))?;
    becomes(scene, &["tcp", &server.at()], 0)?;
    server.got(TOKEN)?;
    fs::write(HOSTS, before)?;
    becomes(scene, &["tcp", &server.at()], libc::EPERM)
}

/// Who writes them chooses what a name leads to, and who is asked for it.
fn sources(scene: &Scene) -> anyhow::Result<()> {
    const HOSTS: &str = "/etc/hosts";
    let server = Server::start("127.0.0.9", PORT)?;
    for path in [HOSTS, RESOLV_CONF] {
        let before = fs::read_to_string(path)?;
        let mark = scene.mark();
        for act in [&["append", path, "127.0.0.9 written.test\n"][..], &["open-truncate", path], &["unlink", path]] {
            scene.act(SKILL, act)?.refused()?;
        }
        scene
            .events()
            .wait(mark, "the refusal", |e| e.is("write", "deny", path) && e.text("reason") == "it is Enforcer's own")?;
        holds(path, &before)?;
        // On the same filesystem.
        let other = "/etc/other.tests";
        fs::write(other, "other")?;
        scene.act(SKILL, &["rename", other, path])?.refused()?;
        holds(path, &before)?;
        fs::remove_file(other)?;
        scene.act(SKILL, &["read", path])?.done()?;
    }
    refused(scene, &["tcp", &server.at()], &server)?;
    // What lies beside them is not ours.
    let beside = "/etc/hosts.tests";
    scene.act(SKILL, &["create", beside])?.done()?;
    scene.act(SKILL, &["append", beside, "x"])?.done()?;
    fs::remove_file(beside)?;
    // Outside it works, and is followed.
    let before = fs::read_to_string(HOSTS)?;
    scene.outside(&["append", HOSTS, "127.0.0.9 written.test\n"])?.done()?;
    becomes(scene, &["tcp", &server.at()], 0)?;
    server.got(TOKEN)?;
    fs::write(HOSTS, before)?;
    becomes(scene, &["tcp", &server.at()], libc::EPERM)
}

fn later(scene: &Scene) -> anyhow::Result<()> {
    let server = Server::start("10.77.0.3", PORT)?;
    refused(scene, &["tcp", &server.at()], &server)?;
    let warnings = scene.daemon(|d| d.status())?["warnings"].to_string();
    ensure!(
        warnings.contains("later.test does not resolve: there is no such name; closed until it does"),
        "{warnings}"
    );
    with_dns(|dns| dns.set("later.test", &["10.77.0.3"]))?;
    // After a while the daemon asks every 30 s.
    let mark = scene.mark();
    let reloaded = scene.daemon(|d| {
        let manifest = fs::read_to_string(d.policy())?;
        d.reload(&manifest.replace("later.test", "later2.test"))?;
        d.reload(&manifest)
    });
    reloaded.context("a reload")?;
    scene.events().wait(mark, "the address", |e| e.text("reason").contains("later.test: +10.77.0.3"))?;
    reaches(scene, &["tcp", &server.at()], &server)
}

fn outage(scene: &Scene) -> anyhow::Result<()> {
    let server = Server::start("10.77.0.1", PORT)?;
    reaches(scene, &["tcp", &server.at()], &server)?;
    with_dns(|dns| {
        dns.hang(true);
        Ok(())
    })?;
    // What is in use stays for its time and grace.
    reaches(scene, &["tcp", &server.at()], &server)?;
    let closed = becomes(scene, &["tcp", &server.at()], libc::EPERM);
    with_dns(|dns| {
        dns.hang(false);
        Ok(())
    })?;
    closed?;
    becomes(scene, &["tcp", &server.at()], 0)
}

fn resolv_conf(scene: &Scene) -> anyhow::Result<()> {
    let other = Dns::start("127.0.0.3")?;
    for (name, address) in [("open.test", "10.77.0.1"), ("dual.test", "10.77.0.2")] {
        other.set(name, &[address])?;
    }
    fs::write(RESOLV_CONF, "# another\nnameserver 127.0.0.3\n")?;
    let moved = becomes(scene, &["dns-udp", "127.0.0.3:53", "open.test"], 0)
        .and_then(|()| becomes(scene, &["dns-udp", "127.0.0.1:53", "open.test"], libc::EPERM));
    fs::write(RESOLV_CONF, "nameserver 127.0.0.1\n")?;
    moved?;
    becomes(scene, &["dns-udp", "127.0.0.1:53", "open.test"], 0)?;
    scene.act(SKILL, &["dns-udp", "127.0.0.3:53", "open.test"])?.refused().map(drop)
}

fn status(scene: &Scene) -> anyhow::Result<()> {
    let status = scene.daemon(|d| d.status())?;
    ensure!(status["resolvers"] == serde_json::json!(["127.0.0.1"]), "{}", status["resolvers"]);
    let names = status["names"].as_array().context("no names")?;
    let open = names.iter().find(|name| name["name"] == "open.test").context("no open.test")?;
    ensure!(open["state"] == "resolved" && open["addresses"][0]["address"] == "10.77.0.1", "{open}");
    ensure!(open["addresses"][0]["seconds_left"].as_u64().is_some_and(|left| left <= 3), "{open}");
    let text = succeed(&["enforcer", "status"])?;
    ensure!(text.lines().any(|line| line.contains("open.test") && line.contains("10.77.0.1 (")), "{text}");
    Ok(())
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    let server = Server::start("10.77.0.3", OTHER)?;
    scene.outside(&["tcp", &server.at()])?.done()?;
    server.got(TOKEN)
}
