//! Unix sockets: by the object at a path, by an abstract name; within a skill as ever.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    os::unix::fs::symlink,
    time::Duration,
};

use anyhow::ensure;

use crate::{
    act::TOKEN,
    harness::{
        eventually,
        runner::Suite,
        scene::Scene,
        unix::{self, UnixServer},
        worker::Outcome,
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "unix",
    policy: Some(policy),
    tests: &[
        ("a_path_and_what_lies_beside_it", path),
        ("a_directory", directory),
        ("other_names_of_a_denied_socket", names),
        ("a_socket_that_appears", appears),
        ("abstract_names", abstract_names),
        ("datagrams", datagrams),
        ("sequenced_packets", packets),
        ("sockets_of_the_skill_itself", within),
        ("sockets_of_another_skill", other_skill),
        ("pairs", pairs),
        ("everything_is_allowed_by_a_star", star),
        ("protect_comes_before_a_star", protected),
        ("audit_reports_and_lets_pass", audit),
        ("outside_processes_are_untouched", outside),
    ],
};

const SKILL: &str = "speaker";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let dir = scene.dir.display();
    for name in ["box/deep", "other", "secret"] {
        scene.make_dir(name)?;
    }
    let binaries = "allow_binaries: [{path: /usr/lib/enforcer/enforcer-tests}, {path: /usr/bin/mount}]";
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    {binaries}\n    network_scope:\n      \
         - unix:{dir}/listed\n      - unix:{dir}/listed.dgram\n      - unix:{dir}/box\n      - \"unix:@listed\"\n      \
         - \"unix:@listed.dgram\"\n  \
         neighbour:\n    {binaries}\n  \
         audited:\n    mode: audit\n    {binaries}\n  \
         open-line:\n    {binaries}\n    network_scope: [\"*\"]\n  \
         guarded:\n    {binaries}\n    network_scope: [\"*\"]\n    protect: [{dir}/secret]\n"
    ))
}

fn at(scene: &Scene, name: &str) -> String {
    scene.dir.join(name).to_string_lossy().into_owned()
}

/// The act reaches the server, and is in the stream with the rule that let it.
fn reaches(scene: &Scene, act: &[&str], server: &UnixServer, rule: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(SKILL, act)?.done()?;
    server.got(TOKEN)?;
    // What was refused before may come after the mark.
    let event =
        scene.events().wait(mark, "the connect", |e| e.text("kind") == "connect" && e.text("verdict") == "allow")?;
    ensure!(event.text("rule") == format!("network_scope: unix:{rule}"), "{}", event.0);
    Ok(())
}

/// The act is refused, does not reach the server, and is in the stream with the socket's name.
fn refused(scene: &Scene, act: &[&str], server: &UnixServer, name: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(SKILL, act)?.refused()?;
    server.nothing()?;
    let key = if name.starts_with('@') { "address" } else { "path" };
    let event = scene.events().wait(mark, &format!("a refusal of {name}"), |e| {
        e.text("kind") == "connect" && e.text("verdict") == "deny" && e.object(key) == name
    })?;
    ensure!(event.text("reason") == "unix socket not listed" && event.object("family") == "unix", "{}", event.0);
    Ok(())
}

fn path(scene: &Scene) -> anyhow::Result<()> {
    let listed = at(scene, "listed");
    let (good, bad) = (UnixServer::start(&listed)?, UnixServer::start(&at(scene, "unlisted"))?);
    follows(scene, &good)?;
    reaches(scene, &["unix-stream", good.at()], &good, &listed)?;
    refused(scene, &["unix-stream", bad.at()], &bad, bad.at())?;
    for way in [&["thread"][..], &["double-fork"], &["user", "0"], &["unshare", "user"], &["unshare", "mount"]] {
        reaches(scene, &[way, &["unix-stream", good.at()]].concat(), &good, &listed)?;
        scene.act(SKILL, &[way, &["unix-stream", bad.at()]].concat())?.refused()?;
    }
    bad.nothing()
}

/// The daemon has found out that the socket is there.
fn follows(scene: &Scene, server: &UnixServer) -> anyhow::Result<()> {
    let mut last: anyhow::Result<Outcome> = scene.act(SKILL, &["unix-stream", server.at()]);
    let reached = eventually(Duration::from_secs(10), || {
        last = scene.act(SKILL, &["unix-stream", server.at()]);
        last.as_ref().is_ok_and(|outcome| outcome.status == 0)
    });
    ensure!(reached, "{} cannot be reached: {last:?}", server.at());
    server.got(TOKEN)?;
    server.nothing().or_else(|_| server.got(TOKEN))
}

fn directory(scene: &Scene) -> anyhow::Result<()> {
    let rule = at(scene, "box");
    for name in ["box/one", "box/deep/two"] {
        let good = UnixServer::start(&at(scene, name))?;
        reaches(scene, &["unix-stream", good.at()], &good, &rule)?;
        reaches(scene, &["unix-datagram", &good.datagrams()], &good, &rule)?;
    }
    let bad = UnixServer::start(&at(scene, "other/one"))?;
    refused(scene, &["unix-stream", bad.at()], &bad, bad.at())
}

/// Symbolic links, hard links, bind mounts: the socket is what it is.
fn names(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (UnixServer::start(&at(scene, "box/real"))?, UnixServer::start(&at(scene, "other/real"))?);
    let (to_good, to_bad) = (at(scene, "other/link"), at(scene, "box/link"));
    symlink(good.at(), &to_good)?;
    symlink(bad.at(), &to_bad)?;
    reaches(scene, &["unix-stream", &to_good], &good, &at(scene, "box"))?;
    refused(scene, &["unix-stream", &to_bad], &bad, bad.at())?;
    let mounted = at(scene, "box/mounted");
    fs::write(&mounted, "")?;
    refused(scene, &["unshare", "mount", "bind", bad.at(), &mounted, "unix-stream", &mounted], &bad, bad.at())?;
    let mounted = at(scene, "other/mounted");
    fs::write(&mounted, "")?;
    let act = ["unshare", "mount", "bind", good.at(), &mounted, "unix-stream", &mounted];
    reaches(scene, &act, &good, &at(scene, "box"))
}

/// A service that restarts makes its socket anew; the rule follows.
fn appears(scene: &Scene) -> anyhow::Result<()> {
    for _ in 0..2 {
        let server = UnixServer::start(&at(scene, "listed"))?;
        follows(scene, &server)?;
    }
    Ok(())
}

fn abstract_names(scene: &Scene) -> anyhow::Result<()> {
    let good = UnixServer::start("@listed")?;
    reaches(scene, &["unix-stream", "@listed"], &good, "@listed")?;
    reaches(scene, &["unix-datagram", "@listed.dgram"], &good, "@listed.dgram")?;
    for name in ["@liste", "@listed2", "@Listed"] {
        let bad = UnixServer::start(name)?;
        refused(scene, &["unix-stream", name], &bad, name)?;
        refused(scene, &["unix-datagram", &bad.datagrams()], &bad, &bad.datagrams())?;
    }
    Ok(())
}

fn datagrams(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (UnixServer::start(&at(scene, "box/d"))?, UnixServer::start(&at(scene, "other/d"))?);
    let (to_good, to_bad) = (good.datagrams(), bad.datagrams());
    for act in ["unix-datagram", "unix-datagram-connected"] {
        reaches(scene, &[act, &to_good], &good, &at(scene, "box"))?;
        refused(scene, &[act, &to_bad], &bad, &to_bad)?;
    }
    Ok(())
}

fn packets(scene: &Scene) -> anyhow::Result<()> {
    let (to_good, to_bad) = (at(scene, "box/packets"), at(scene, "other/packets"));
    let (good, bad) = (unix::packets(&to_good)?, unix::packets(&to_bad)?);
    scene.act(SKILL, &["unix-packet", &to_good])?.done()?;
    let (mut client, _) = good.accept()?;
    let mut text = String::new();
    client.read_to_string(&mut text)?;
    ensure!(text == TOKEN, "{text:?}");
    let mark = scene.mark();
    scene.act(SKILL, &["unix-packet", &to_bad])?.refused()?;
    let nobody = bad.accept().map_err(|e| e.kind());
    ensure!(matches!(nobody, Err(ErrorKind::WouldBlock)), "{nobody:?}");
    scene.event(mark, "connect", "deny", &to_bad)?;
    scene.outside(&["unix-packet", &to_bad])?.done()?;
    bad.accept().map(drop).map_err(Into::into)
}

fn within(scene: &Scene) -> anyhow::Result<()> {
    for name in [at(scene, "other/within"), "@within".into()] {
        let outcome = scene.act(SKILL, &["unix-within", &name])?;
        ensure!(outcome.done()?.out == TOKEN, "{outcome:?}");
        let outcome = scene.act(SKILL, &["unix-datagram-within", &format!("{name}.d")])?;
        ensure!(outcome.done()?.out == TOKEN, "{outcome:?}");
    }
    Ok(())
}

/// What one skill made is none of another's.
fn other_skill(scene: &Scene) -> anyhow::Result<()> {
    let neighbour = scene.worker("neighbour")?;
    let name = at(scene, "other/neighbour");
    let (at, server) = (name.clone(), std::sync::Arc::clone(&neighbour));
    let serving = std::thread::spawn(move || server.act(&["unix-serve", &at]));
    ensure!(eventually(Duration::from_secs(5), || fs::metadata(&name).is_ok()), "nobody serves");
    scene.act(SKILL, &["unix-stream", &name])?.refused()?;
    // The same from outside, which also ends the server.
    scene.outside(&["unix-stream", &name])?.done()?;
    let outcome = serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(outcome.done()?.out == TOKEN, "{outcome:?}");
    Ok(())
}

fn pairs(scene: &Scene) -> anyhow::Result<()> {
    let outcome = scene.act(SKILL, &["unix-pair"])?;
    ensure!(outcome.done()?.out == TOKEN, "{outcome:?}");
    Ok(())
}

fn star(scene: &Scene) -> anyhow::Result<()> {
    for name in [at(scene, "other/star"), "@star".into()] {
        let server = UnixServer::start(&name)?;
        scene.act("neighbour", &["unix-stream", &name])?.refused()?;
        server.nothing()?;
        scene.act("open-line", &["unix-stream", &name])?.done()?;
        server.got(TOKEN)?;
        scene.act("open-line", &["unix-datagram", &server.datagrams()])?.done()?;
        server.got(TOKEN)?;
    }
    Ok(())
}

fn protected(scene: &Scene) -> anyhow::Result<()> {
    let (secret, open) = (UnixServer::start(&at(scene, "secret/s"))?, UnixServer::start(&at(scene, "other/open"))?);
    scene.act("guarded", &["unix-stream", open.at()])?.done()?;
    open.got(TOKEN)?;
    let mark = scene.mark();
    scene.act("guarded", &["unix-stream", secret.at()])?.refused()?;
    secret.nothing()?;
    let event = scene.event(mark, "connect", "deny", secret.at())?;
    ensure!(event.text("reason") == "protected", "{}", event.0);
    Ok(())
}

fn audit(scene: &Scene) -> anyhow::Result<()> {
    let server = UnixServer::start(&at(scene, "other/audit"))?;
    let mark = scene.mark();
    scene.act("audited", &["unix-stream", server.at()])?.done()?;
    server.got(TOKEN)?;
    scene.event(mark, "connect", "audit", server.at()).map(drop)
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    for name in [at(scene, "other/outside"), "@outside".into()] {
        let server = UnixServer::start(&name)?;
        for act in [&["unix-stream", server.at()], &["unix-datagram", &server.datagrams()][..]] {
            scene.outside(act)?.done()?;
            server.got(TOKEN)?;
        }
    }
    Ok(())
}
