//! `enforcer doctor --attack`: the certificate says what held, and what did not.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::harness::{
    ENFORCER, command,
    daemon::{Daemon, unload},
    mutation::Detached,
    runner::Suite,
    scene::Scene,
};

pub(super) const SUITE: Suite = Suite {
    name: "certificate",
    policy: None,
    tests: &[("where_nothing_is_in_force", alone), ("beside_a_policy_and_without_a_program", beside)],
};

/// What the certificate says: its exit status, and itself.
pub(super) fn certificate(options: &[&str]) -> anyhow::Result<(i32, Value)> {
    let outcome = command(&[&[ENFORCER, "doctor", "--attack", "--json"][..], options].concat())?;
    let certificate = serde_json::from_str(&outcome.out).with_context(|| format!("{outcome:?}"))?;
    Ok((outcome.status, certificate))
}

/// The attacks that did not hold, for messages.
pub(super) fn others(certificate: &Value) -> Vec<String> {
    let attacks = certificate["attacks"].as_array().into_iter().flatten();
    let bad = attacks.filter(|a| a["outcome"] == "through" || a["outcome"] == "unclear");
    bad.map(|a| format!("{} {}: {}", a["number"], a["test"], a["why"])).collect()
}

/// Neither directories nor cgroups of the attackers are left.
pub(super) fn nothing_is_left() -> anyhow::Result<()> {
    for (dir, prefix) in [("/var/tmp", "enforcer-attack-"), ("/sys/fs/cgroup", "tests-one")] {
        let left: Vec<_> = fs::read_dir(dir)?
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(prefix))
            .collect();
        ensure!(left.is_empty(), "{left:?} are left in {dir}");
    }
    Ok(())
}

/// It loads the programs for itself, and takes them away.
fn alone(_: &Scene) -> anyhow::Result<()> {
    unload()?;
    let (status, certificate) = certificate(&["--only", "delete::", "--only", "34.1", "--limit", "10m"])?;
    ensure!(status == 0, "{status}: {:?}", others(&certificate));
    ensure!(certificate["held"] == 14 && certificate["through"] == 0, "{certificate}");
    // What needs a host of its own is named.
    ensure!(certificate["untried"] == 1, "{certificate}");
    let untried = certificate["attacks"].as_array().and_then(|all| all.last()).context("no attacks")?;
    ensure!(untried["number"] == "34.1" && untried["why"].as_str().is_some_and(|w| w.contains("host of its own")));
    ensure!(certificate["checks"]["verdict"] == "full", "{certificate}");
    ensure!(fs::read_dir("/sys/fs/bpf/enforcer").map_or(0, Iterator::count) == 0, "programs are left in force");
    // Then nothing has been shown.
    let (status, certificate) = self::certificate(&["--only", "34.1"])?;
    ensure!(status == 2 && certificate["untried"] == 1 && certificate["held"] == 0, "{status}: {certificate}");
    let outcome = command(&[ENFORCER, "doctor", "--attack", "--only", "no-such-attack"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("no attack"), "{outcome:?}");
    nothing_is_left()
}

/// The policy in force stays so; and what a missing program lets through is found.
fn beside(scene: &Scene) -> anyhow::Result<()> {
    let outcome = beside_a_policy(scene);
    // A program that was away has another link since: to the next daemon the set would be a damaged one.
    let unloaded = unload();
    outcome.and(unloaded)
}

fn beside_a_policy(scene: &Scene) -> anyhow::Result<()> {
    let manifest = "version: 1\nskills:\n  mine:\n    mode: audit\n    allow_binaries: [/usr/bin/wc]\n";
    let daemon = Daemon::start(Path::new(&scene.make_dir("daemon")?), manifest)?;
    let skills = |daemon: &Daemon| anyhow::Ok(daemon.status()?["skills"].clone());
    let before = skills(&daemon)?;
    let run = ["--only", "delete::", "--only", "exec::an_unlisted", "--only", "19.1", "--limit", "10m"];
    let (status, whole) = certificate(&run)?;
    ensure!(status == 0 && whole["held"] == 16, "{status}: {:?}; {}", others(&whole), daemon.errors());
    ensure!(skills(&daemon)? == before, "{} instead of {before}", skills(&daemon)?);
    let gap = Detached::new("path_unlink")?.context("no such program")?;
    let (status, without) = certificate(&["--only", "13.1", "--only", "13.2", "--limit", "10m"])?;
    drop(gap);
    let found = without["attacks"].as_array().and_then(|all| all.iter().find(|a| a["number"] == "13.1"));
    ensure!(status == 1 && found.is_some_and(|a| a["outcome"] == "through"), "{status}: {without}");
    ensure!(without["through"] == 1 && without["held"] == 1, "{without}");
    // A manifest that was changed since could not be put back as it was.
    fs::write(daemon.policy(), format!("{manifest}# changed\n"))?;
    let outcome = command(&[ENFORCER, "doctor", "--attack"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("enforcer reload"), "{outcome:?}");
    ensure!(skills(&daemon)? == before, "{} instead of {before}", skills(&daemon)?);
    nothing_is_left()
}
