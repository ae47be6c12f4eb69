//! A reload that takes a destination away: what is connected to it is closed, and what is still allowed is not.

use std::{io::Read as _, net::TcpStream, thread, time::Duration};

use anyhow::ensure;

use crate::{
    act::TOKEN,
    harness::{
        eventually,
        holder::{Holder, Patient},
        listener::Server,
        runner::Suite,
        scene::Scene,
        unix::UnixServer,
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "withdraw",
    policy: Some(policy),
    tests: &[
        ("connections_are_closed", connections),
        ("a_connection_from_a_listed_port", from_a_listed_port),
        ("under_listen_star", listen_star),
        ("a_connection_that_is_put_off", put_off),
        ("descriptors_that_are_a_threads_own", of_a_thread),
        ("listening_ends", listening),
        ("unix_connections_are_closed", unix),
        ("what_becomes_protected_is_closed", protect),
        ("audit_closes_nothing", audit),
    ],
};

const SKILL: &str = "tied";
/// May connect to everything.
const OPEN: &str = "open-line";
/// May take connections everywhere.
const TAKING: &str = "taking";
const KEPT: u16 = 18_094;
const LOST: u16 = 18_095;

fn policy(scene: &Scene) -> anyhow::Result<String> {
    scene.make_dir("box")?;
    scene.make_dir("other")?;
    manifest(scene, &scope(scene, true), &[LOST])
}

/// What may be connected to, with or without what is to be taken away.
fn scope(scene: &Scene, all: bool) -> Vec<String> {
    let mut scope = vec![format!("127.0.0.1:{KEPT}")];
    if all {
        scope.push(format!("127.0.0.0/8:{LOST}"));
        scope.push(format!("[::1]:{LOST}"));
        scope.push(format!("unix:{}/box", scene.dir.display()));
    }
    scope
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of every suite's policy")]
fn manifest(_: &Scene, scope: &[String], listen: &[u16]) -> anyhow::Result<String> {
    let list = |entries: Vec<String>| entries.iter().map(|e| format!("\"{e}\"")).collect::<Vec<_>>().join(", ");
    let (scope, listen) = (list(scope.to_vec()), list(listen.iter().map(|port| format!("127.0.0.1:{port}")).collect()));
    let rest = format!(
        "allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    network_scope: [{scope}]\n    listen: [{listen}]"
    );
    let open = "allow_binaries: [{path: /usr/lib/enforcer/enforcer-tests}]\n    network_scope: [\"*\"]";
    let taking = format!(
        "allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    network_scope: [{scope}]\n    listen: [\"*\"]"
    );
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    {rest}\n  audited:\n    mode: audit\n    {rest}\n  {OPEN}:\n    {open}\n  \
         {TAKING}:\n    {taking}\n"
    ))
}

fn connections(scene: &Scene) -> anyhow::Result<()> {
    let (kept, lost) = (Patient::start(&format!("127.0.0.1:{KEPT}"))?, Patient::start(&format!("127.0.0.2:{LOST}"))?);
    let lost6 = Patient::start(&format!("[::1]:{LOST}"))?;
    let goes_on = Holder::inside(SKILL, "tcp", &kept.at())?;
    let (ends, ends6) = (Holder::inside(SKILL, "tcp", &lost.at())?, Holder::inside(SKILL, "tcp", &lost6.at())?);
    let datagrams = Holder::inside(SKILL, "udp", &format!("127.0.0.1:{LOST}"))?;
    let mark = scene.mark();
    scene.daemon(|d| d.reload(&manifest(scene, &scope(scene, false), &[LOST])?))?;
    for (address, protocol) in [("127.0.0.2", "tcp"), ("::1", "tcp"), ("127.0.0.1", "udp")] {
        let event = scene.events().wait(mark, &format!("the end of {address}"), |e| {
            e.text("kind") == "close" && e.object("address") == address
        })?;
        ensure!(event.text("reason") == "no longer allowed" && event.text("skill") == SKILL, "{}", event.0);
        ensure!(event.port() == u64::from(LOST) && event.object("protocol") == protocol, "{}", event.0);
    }
    for holder in [ends, ends6, datagrams] {
        ensure!(holder.send()? != 0, "a connection that is not allowed any more carries on");
    }
    ensure!(lost.received()?.is_empty() && lost6.received()?.is_empty(), "what the agent said arrived");
    ensure!(goes_on.send()? == 0 && kept.received()? == TOKEN, "an allowed connection ended");
    restore(scene)
}

/// A connection that came to a governed process, whose peer waits for what it says.
fn accepted(skill: &str, at: &str) -> anyhow::Result<(Holder, thread::JoinHandle<Option<String>>)> {
    let address = at.to_owned();
    let peer = thread::spawn(move || {
        let mut stream = None;
        eventually(Duration::from_secs(20), || {
            stream = TcpStream::connect(&address).ok();
            stream.is_some()
        });
        let (mut stream, mut text) = (stream?, String::new());
        stream.set_read_timeout(Some(Duration::from_mins(1))).ok()?;
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    });
    Ok((Holder::inside(skill, "accept", at)?, peer))
}

/// Withdraws what `skill` is connected to, by each of these ways, from where it may listen; what it has accepted there goes on.
fn only_what_came_stays(scene: &Scene, skill: &str, ways: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut ends = vec![];
    for (n, (kind, from)) in (2..).zip(ways) {
        let lost = Patient::start(&format!("127.0.0.{n}:{LOST}"))?;
        ends.push((Holder::inside(skill, kind, &format!("{from}{}", lost.at()))?, lost));
    }
    let kept = Patient::start(&format!("127.0.0.1:{KEPT}"))?;
    let goes_on = Holder::inside(skill, "tcp", &kept.at())?;
    let (taken, peer) = accepted(skill, &format!("127.0.0.1:{LOST}"))?;
    let mark = scene.mark();
    scene.daemon(|d| d.reload(&manifest(scene, &scope(scene, false), &[LOST])?))?;
    for (holder, lost) in ends {
        let pid = u64::from(holder.pid());
        let event = scene.events().wait(mark, "the end", |e| e.text("kind") == "close" && e.number("target") == pid)?;
        ensure!(event.text("skill") == skill && event.port() == u64::from(LOST), "{}", event.0);
        ensure!(holder.send()? != 0 && lost.received()?.is_empty(), "what the agent said arrived at {}", lost.at());
    }
    ensure!(taken.send()? == 0, "a connection that came ended");
    let said = peer.join().map_err(|_| anyhow::anyhow!("the peer panicked"))?;
    ensure!(said.as_deref() == Some(TOKEN), "{said:?}");
    ensure!(goes_on.send()? == 0 && kept.received()? == TOKEN, "an allowed connection ended");
    restore(scene)
}

/// What was connected from a port at which the skill may listen did not come to it.
fn from_a_listed_port(scene: &Scene) -> anyhow::Result<()> {
    only_what_came_stays(scene, SKILL, &[("tcp-from", &format!("127.0.0.1:{LOST},"))])
}

/// Every local end is one where the skill may listen.
fn listen_star(scene: &Scene) -> anyhow::Result<()> {
    only_what_came_stays(scene, TAKING, &[("tcp", ""), ("fastopen", ""), ("tcp-from", "127.0.0.1:18096,")])
}

/// Nothing was sent yet, so that the server has heard of nobody.
fn put_off(scene: &Scene) -> anyhow::Result<()> {
    let (kept, lost) = (Server::start("127.0.0.1", KEPT)?, Server::start("127.0.0.2", LOST)?);
    let goes_on = Holder::inside(SKILL, "put-off", &kept.at())?;
    let ends = Holder::inside(SKILL, "put-off", &lost.at())?;
    kept.nothing()?;
    let (mark, pid) = (scene.mark(), u64::from(ends.pid()));
    scene.daemon(|d| d.reload(&manifest(scene, &scope(scene, false), &[LOST])?))?;
    let event = scene.events().wait(mark, "the end", |e| e.text("kind") == "close" && e.number("target") == pid)?;
    ensure!(event.object("address") == "127.0.0.2" && event.port() == u64::from(LOST), "{}", event.0);
    ensure!(ends.send()? != 0, "it is connected after all");
    lost.nothing()?;
    ensure!(goes_on.send()? == 0, "what is allowed ended");
    kept.got(TOKEN)?;
    restore(scene)
}

/// Where the kernel gives such a descriptor to nobody, the process ends.
fn of_a_thread(scene: &Scene) -> anyhow::Result<()> {
    let way = ["thread", "own-files"];
    let (kept, lost) = (Patient::start(&format!("127.0.0.1:{KEPT}"))?, Patient::start(&format!("127.0.0.2:{LOST}"))?);
    let goes_on = Holder::inside_by(&way, SKILL, "tcp", &kept.at())?;
    let ends = Holder::inside_by(&way, SKILL, "tcp", &lost.at())?;
    let (mark, pid) = (scene.mark(), u64::from(ends.pid()));
    scene.daemon(|d| d.reload(&manifest(scene, &scope(scene, false), &[LOST])?))?;
    let event = scene.events().wait(mark, "the end", |e| e.text("kind") == "close" && e.number("target") == pid)?;
    let reason = event.text("reason");
    let ended = reason == "no longer allowed, and its process was ended: the descriptor is a thread's own";
    ensure!(ended || reason == "no longer allowed", "{}", event.0);
    // It cannot be told to send when it is not there.
    let sent = ends.send();
    ensure!(!ended || sent.as_ref().map_or(true, |status| *status == 128 + libc::SIGKILL), "it goes on: {sent:?}");
    ensure!(sent.map_or(true, |status| status != 0) && lost.received()?.is_empty(), "what the agent said arrived");
    ensure!(goes_on.send()? == 0 && kept.received()? == TOKEN, "an allowed connection ended");
    restore(scene)
}

fn restore(scene: &Scene) -> anyhow::Result<()> {
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest)).map(drop)
}

fn listening(scene: &Scene) -> anyhow::Result<()> {
    let at = format!("127.0.0.1:{LOST}");
    let _server = Holder::inside(SKILL, "listen", &at)?;
    TcpStream::connect(&at)?;
    scene.daemon(|d| d.reload(&manifest(scene, &scope(scene, true), &[KEPT])?))?;
    ensure!(TcpStream::connect(&at).is_err(), "somebody listens");
    restore(scene)
}

fn unix(scene: &Scene) -> anyhow::Result<()> {
    let server = UnixServer::start(&scene.dir.join("box/s").to_string_lossy())?;
    let holder = Holder::inside(SKILL, "unix", server.at())?;
    let mark = scene.mark();
    scene.daemon(|d| d.reload(&manifest(scene, &scope(scene, false), &[LOST])?))?;
    scene.events().wait(mark, "the end", |e| e.text("kind") == "close" && e.object("family") == "unix")?;
    ensure!(holder.send()? != 0 && server.got(TOKEN).is_err(), "a unix connection carries on");
    restore(scene)
}

/// A new `protect` ends what a rule for its directory, or a star, had allowed.
fn protect(scene: &Scene) -> anyhow::Result<()> {
    let start = |name: &str| UnixServer::start(&scene.dir.join(name).to_string_lossy());
    let (one, two, kept) = (start("box/one")?, start("box/two")?, start("other/kept")?);
    let ends = [(Holder::inside(SKILL, "unix", one.at())?, &one), (Holder::inside(OPEN, "unix", two.at())?, &two)];
    let goes_on = Holder::inside(OPEN, "unix", kept.at())?;
    let protected = format!("    protect: [{}/box]\n    network_scope", scene.dir.display());
    let manifest = policy(scene)?.replace("    network_scope", &protected);
    let mark = scene.mark();
    scene.daemon(|d| d.reload(&manifest))?;
    for (holder, server) in ends {
        let pid = u64::from(holder.pid());
        scene.events().wait(mark, "the end", |e| {
            e.text("kind") == "close" && e.object("family") == "unix" && e.number("target") == pid
        })?;
        ensure!(holder.send()? != 0 && server.got(TOKEN).is_err(), "{} is still reached", server.at());
    }
    ensure!(goes_on.send()? == 0, "an allowed connection ended");
    kept.got(TOKEN)?;
    restore(scene)
}

fn audit(scene: &Scene) -> anyhow::Result<()> {
    let lost = Patient::start(&format!("127.0.0.3:{LOST}"))?;
    let holder = Holder::inside("audited", "tcp", &lost.at())?;
    scene.daemon(|d| d.reload(&manifest(scene, &scope(scene, false), &[LOST])?))?;
    ensure!(holder.send()? == 0 && lost.received()? == TOKEN, "audit mode closed a connection");
    restore(scene)
}
