//! Before, during and after; starts that are refused. No daemon runs when these begin.

use std::{fs, path::Path, time::Instant};

use anyhow::ensure;

use super::bad;
use crate::{
    act::TOKEN,
    harness::{
        ENFORCER, SELF, command,
        daemon::{Daemon, unload},
        listener::Server,
        runner::Suite,
        scene::{Scene, gone, there},
        worker::{Entry, Worker},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "lifecycle",
    policy: None,
    tests: &[
        ("doctor_says_full", doctor),
        ("before_during_and_after", before_during_after),
        ("run_with_a_policy_of_its_own", run_with_policy),
        ("bad_manifests_are_refused_in_bounded_time", bad_manifests),
        ("policy_check_agrees_with_the_daemon", policy_check),
        ("the_community_example_is_accepted", community),
        ("keys_that_are_not_built_are_refused_by_name", not_built),
        ("not_root", not_root),
        ("no_daemon", no_daemon),
    ],
};

const PORT: u16 = 18_070;
/// Most of it is the guest's emulation; the daemon gives up long before.
const BOUND_S: u64 = 60;

fn doctor(_: &Scene) -> anyhow::Result<()> {
    let outcome = command(&[ENFORCER, "doctor"])?;
    ensure!(outcome.status == 0 && outcome.out.contains("full:"), "{outcome:?}");
    Ok(())
}

/// The same acts by the same process, which was in the cgroup before the daemon was there.
fn before_during_after(scene: &Scene) -> anyhow::Result<()> {
    unload()?;
    let cgroup = "/sys/fs/cgroup/tests-lifecycle";
    fs::create_dir_all(cgroup)?;
    let worker = Worker::start(&Entry::Cgroup(cgroup))?;
    let outsider = Worker::start(&Entry::Outside)?;
    let server = Server::start("127.0.0.1", PORT)?;
    let allowed = scene.make_dir("allowed")?;
    let at = server.at();
    let mut round = 0;
    let mut try_all = |worker: &Worker, refused: bool| -> anyhow::Result<()> {
        round += 1;
        let victim = scene.make_file(&format!("denied/{round}"))?;
        let other = scene.make_file(&format!("allowed/{round}"))?;
        let (unlink, exec, tcp) = (
            worker.act(&["unlink", &victim])?,
            worker.act(&["exec", "/usr/bin/id", "--version"])?,
            worker.act(&["tcp", &at])?,
        );
        if refused {
            unlink.refused()?;
            there(&victim)?;
            ensure!(exec.refused()?.out.is_empty(), "{exec:?}");
            tcp.refused()?;
            server.nothing()?;
        } else {
            unlink.done()?;
            gone(&victim)?;
            ensure!(exec.done()?.out.contains("GNU coreutils"), "{exec:?}");
            tcp.done()?;
            server.got(TOKEN)?;
        }
        worker.act(&["exec", "/usr/bin/wc", "--version"])?.done()?;
        worker.act(&["unlink", &other])?.done()?;
        gone(&other)
    };
    try_all(&worker, false)?;
    let manifest = format!(
        "skills:\n  s:\n    match: {{cgroup: /tests-lifecycle}}\n    allow_binaries: [{{path: /usr/bin/wc}}]\n    \
         allow_delete: [{allowed}]\n"
    );
    let mut daemon = Daemon::start(Path::new(&scene.make_dir("daemon")?), &manifest)?;
    try_all(&worker, true)?;
    try_all(&outsider, false)?;
    ensure!(daemon.terminate()? == 0, "the daemon did not end well: {}", daemon.errors());
    try_all(&worker, true)?;
    try_all(&outsider, false)?;
    unload()?;
    try_all(&worker, false)?;
    let first = daemon
        .events
        .wait(crate::harness::events::Events::default().mark(), "a start", |e| e.text("kind") == "start")?;
    ensure!(first.text("reason").contains("policy.yaml"), "{}", first.0);
    Ok(())
}

/// `enforcer run --policy`: a daemon for as long as one command runs.
fn run_with_policy(scene: &Scene) -> anyhow::Result<()> {
    unload()?;
    let policy = scene.make_file("run.yaml")?;
    let allowed = scene.make_dir("run-allowed")?;
    fs::write(
        &policy,
        format!("skills:\n  s:\n    allow_binaries: [{{path: {SELF}}}]\n    allow_delete: [{allowed}]\n"),
    )?;
    let (good, bad) = (scene.make_file("run-allowed/file")?, scene.make_file("run-denied/file")?);
    let script = ["fork", "unlink", good.as_str()];
    let run = [ENFORCER, "run", "--policy", &policy, "--skill", "s", "--", SELF, "act"];
    let outcome = command(&[&run[..], &script].concat())?;
    ensure!(outcome.status == 0, "{outcome:?}");
    gone(&good)?;
    let outcome = command(&[&run[..], &["unlink", &bad]].concat())?;
    ensure!(outcome.status == libc::EPERM, "{outcome:?}");
    there(&bad)?;
    ensure!(outcome.err.contains(&bad), "the refusal is not shown: {}", outcome.err);
    // Nothing is left behind.
    ensure!(command(&[ENFORCER, "status"])?.status == 1, "a daemon still answers");
    Ok(())
}

fn bad_manifests(scene: &Scene) -> anyhow::Result<()> {
    unload()?;
    for case in bad::cases(&scene.dir)? {
        let started = Instant::now();
        let outcome = command(&[ENFORCER, "daemon", "--policy", &case.file])?;
        ensure!(outcome.status == 1, "{}: the daemon ended with {}", case.name, outcome.status);
        ensure!(started.elapsed().as_secs() < BOUND_S, "{}: took {:?}", case.name, started.elapsed());
        case.explained(&outcome.err)?;
        ensure!(outcome.out.is_empty(), "{}: it printed {:?}", case.name, outcome.out);
    }
    ensure!(command(&[ENFORCER, "status"])?.status == 1, "a daemon answers");
    Ok(())
}

fn policy_check(scene: &Scene) -> anyhow::Result<()> {
    for case in bad::cases(&scene.dir)? {
        let outcome = command(&[ENFORCER, "policy", "check", &case.file])?;
        ensure!(outcome.status == 1, "{}: {outcome:?}", case.name);
        case.explained(&format!("{}{}", outcome.out, outcome.err))?;
    }
    Ok(())
}

/// As it stands in the manifest's reference.
const COMMUNITY: &str = r#"# claw.policy.yaml
skills:
  file_manager:
    allow_binaries: ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    network_scope: ["api.github.com"]
    require_2fa: true
audit_level: strict
"#;

fn community(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.make_file("community.yaml")?;
    fs::write(&file, COMMUNITY)?;
    let outcome = command(&[ENFORCER, "policy", "check", &file])?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let outcome = command(&[ENFORCER, "policy", "check", "--json", &file])?;
    let json: serde_json::Value = serde_json::from_str(&outcome.out)?;
    ensure!(outcome.status == 0 && !json.is_null(), "{outcome:?}");
    Ok(())
}

fn not_built(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.make_file("not-built.yaml")?;
    for (key, text) in [
        ("via", "via: 127.0.0.1:3128"),
        ("wildcard", "network_scope: [\"*.example.com\"]"),
        ("require_2fa", "require_2fa: [write]"),
    ] {
        fs::write(&file, format!("skills:\n  s:\n    {text}\n"))?;
        let outcome = command(&[ENFORCER, "daemon", "--policy", &file])?;
        ensure!(outcome.status == 1 && outcome.err.contains("not supported by this build"), "{outcome:?}");
        ensure!(outcome.err.contains(&format!("{file}:3:")) && outcome.err.contains(key), "{:?}", outcome.err);
    }
    Ok(())
}

fn not_root(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.make_file("not-root.yaml")?;
    fs::write(&file, "skills:\n  s: {}\n")?;
    let user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", ENFORCER];
    let outcome = command(&[&user[..], &["daemon", "--policy", &file]].concat())?;
    ensure!(outcome.status == 1 && outcome.err.trim().lines().count() == 1, "{outcome:?}");
    ensure!(outcome.err.contains("root"), "{:?}", outcome.err);
    let outcome = command(&[&user[..], &["doctor"]].concat())?;
    ensure!(outcome.status == 2 && outcome.out.contains("none:"), "{outcome:?}");
    Ok(())
}

fn no_daemon(_: &Scene) -> anyhow::Result<()> {
    unload()?;
    for words in [&["status"][..], &["events"], &["reload"], &["run", "--skill", "s", "--", "/usr/bin/id"]] {
        let outcome = command(&[&[ENFORCER][..], words].concat())?;
        ensure!(outcome.status == 1 && outcome.out.is_empty(), "{words:?}: {outcome:?}");
        ensure!(outcome.err.contains("enforcer daemon --policy"), "{words:?}: {:?}", outcome.err);
    }
    Ok(())
}
