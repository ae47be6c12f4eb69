//! What the programs for kernels before 6.1 decide otherwise: the daemon measures (`measured`), and a unix socket is known only where
//! the skill made it.

use anyhow::ensure;

use crate::{
    act::TOKEN,
    harness::{ENFORCER, command, runner::Suite, scene::Scene, unix::UnixServer},
};

pub(super) const SUITE: Suite = Suite {
    name: "elder",
    policy: Some(policy),
    tests: &[
        ("unix_sockets_that_a_rule_names_are_refused", named),
        ("unix_sockets_of_the_skill_itself", within),
        ("unix_sockets_where_all_are_allowed", all),
        ("unix_sockets_where_something_is_protected", protected),
        ("status_and_doctor_say_it", said),
    ],
};

const SKILL: &str = "speaker";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let dir = scene.dir.display();
    scene.make_dir("secret")?;
    let binaries = "allow_binaries: [{path: /usr/lib/enforcer/enforcer-tests}]";
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    {binaries}\n    network_scope:\n      - unix:{dir}/listed\n      - \
         \"unix:@listed\"\n  open-line:\n    {binaries}\n    network_scope: [\"*\"]\n  guarded:\n    {binaries}\n    network_scope: \
         [\"*\"]\n    protect: [{dir}/secret]\n"
    ))
}

fn at(scene: &Scene, name: &str) -> String {
    scene.dir.join(name).to_string_lossy().into_owned()
}

/// Neither a stream nor a datagram arrives, and each is in the stream of events.
fn refused(scene: &Scene, skill: &str, name: &str) -> anyhow::Result<()> {
    let server = UnixServer::start(name)?;
    for act in [["unix-stream", name], ["unix-datagram", &server.datagrams()]] {
        let mark = scene.mark();
        scene.act(skill, &act)?.refused()?;
        server.nothing()?;
        scene.events().wait(mark, &format!("a refusal of {name}"), |e| {
            e.text("kind") == "connect" && e.text("verdict") == "deny" && e.text("reason") == "unix socket not listed"
        })?;
    }
    Ok(())
}

fn named(scene: &Scene) -> anyhow::Result<()> {
    for name in [at(scene, "listed"), "@listed".into(), at(scene, "unlisted"), "@unlisted".into()] {
        refused(scene, SKILL, &name)?;
    }
    Ok(())
}

fn within(scene: &Scene) -> anyhow::Result<()> {
    for name in [at(scene, "within"), "@within".into()] {
        let outcome = scene.act(SKILL, &["unix-within", &name])?;
        ensure!(outcome.done()?.out == TOKEN, "{outcome:?}");
        let outcome = scene.act(SKILL, &["unix-datagram-within", &format!("{name}.d")])?;
        ensure!(outcome.done()?.out == TOKEN, "{outcome:?}");
    }
    Ok(())
}

fn all(scene: &Scene) -> anyhow::Result<()> {
    for name in [at(scene, "any"), "@any".into()] {
        let server = UnixServer::start(&name)?;
        scene.act("open-line", &["unix-stream", &name])?.done()?;
        server.got(TOKEN)?;
        scene.act("open-line", &["unix-datagram", &server.datagrams()])?.done()?;
        server.got(TOKEN)?;
    }
    Ok(())
}

fn protected(scene: &Scene) -> anyhow::Result<()> {
    refused(scene, "guarded", &at(scene, "secret/s"))?;
    // It may be a link to what is protected.
    refused(scene, "guarded", &at(scene, "elsewhere"))
}

fn said(scene: &Scene) -> anyhow::Result<()> {
    let status = scene.daemon(|daemon| daemon.status())?;
    ensure!(status["warnings"].to_string().contains("unix sockets are not told apart"), "{status}");
    let outcome = command(&[ENFORCER, "doctor"])?;
    let says = outcome.out.contains("digests are measured by the daemon")
        && outcome.out.contains("every program was accepted");
    ensure!(outcome.status == 1 && says, "{outcome:?}");
    Ok(())
}
