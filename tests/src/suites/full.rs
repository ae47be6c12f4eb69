//! Maps that are full: what finds no room is governed all the same, refused, or an error before anything is changed.
//!
//! A daemon of its own, whose maps are small. The last one ends what it enforces.

use std::{fs, time::Duration};

use anyhow::ensure;

use crate::harness::{
    command,
    daemon::Daemon,
    eventually,
    runner::Suite,
    scene::{Scene, gone, there},
    worker::{Entry, Worker},
};

pub(super) const SUITE: Suite = Suite {
    name: "full",
    policy: None,
    tests: &[
        ("the_map_of_cgroups", cgroups),
        ("a_container_that_finds_the_map_full", container),
        ("the_map_of_labels", labels),
    ],
};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Small enough for each of the tests, so that the next daemon can take over what one has loaded.
const SIZES: &[(&str, &str)] = &[("ENFORCER_MAP_SIZES", "CGROUPS=4,BINARIES=64,TASKS=96")];

fn manifest(scene: &Scene, more: &str) -> anyhow::Result<String> {
    let allowed = scene.make_dir("allowed")?;
    let binaries = "allow_binaries: [{path: /usr/lib/enforcer/enforcer-tests}]";
    Ok(format!(
        "version: 1\nskills:\n  crowded:\n    match: {{cgroup: /tests-full}}\n    {binaries}\n    allow_delete: [{allowed}]\n  \
         late:\n    match: {{cgroup: /tests-full-late}}\n    {binaries}\n    allow_delete: [{allowed}]\n{more}"
    ))
}

fn daemon(scene: &Scene) -> anyhow::Result<Daemon> {
    fs::create_dir_all(format!("{CGROUPS}/tests-full/there"))?;
    Daemon::start_with(&scene.dir.join("daemon"), &manifest(scene, "")?, SIZES)
}

/// Whether what comes by this cgroup is governed by this skill, which may delete in one directory.
fn governed(scene: &Scene, daemon: &Daemon, cgroup: &str, skill: &str) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("allowed/f")?, scene.make_file("denied/f")?);
    let worker = Worker::start(&Entry::Cgroup(&format!("{CGROUPS}/{cgroup}")))?;
    let mark = daemon.events.mark();
    worker.act(&["unlink", &denied])?.refused()?;
    there(&denied)?;
    let event = daemon.events.wait(mark, "the refusal", |e| e.is("delete", "deny", &denied))?;
    ensure!(event.text("skill") == skill && event.text("reason") == "path not listed", "{cgroup}: {}", event.0);
    worker.act(&["unlink", &allowed])?.done()?;
    gone(&allowed)
}

/// Removes a cgroup and those below it, which makes room in the maps.
fn remove(name: &str) -> anyhow::Result<()> {
    let dir = format!("{CGROUPS}/{name}");
    let find = ["find", &dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"];
    // A process that was killed is in its cgroup until it has ended.
    let gone = eventually(Duration::from_secs(20), || command(&find).is_ok_and(|outcome| outcome.status == 0));
    ensure!(gone, "{dir} cannot be removed: {:?}", command(&find)?);
    Ok(())
}

fn cgroups(scene: &Scene) -> anyhow::Result<()> {
    let daemon = daemon(scene)?;
    let generation = daemon.generation()?;
    // A reload with more rules than there is room for is an error, and changes nothing.
    let many: Vec<String> = (0..100).map(|n| format!("\"sha256:{n:064x}\"")).collect();
    let wider = manifest(scene, &format!("  many:\n    allow_binaries: [{}]\n", many.join(", ")))?;
    let error = daemon.reload(&wider).map(|_| ()).err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(error.contains("BINARIES") && error.contains("full"), "{error:?}");
    ensure!(daemon.generation()? == generation, "the generation has changed");
    governed(scene, &daemon, "tests-full/there", "crowded")?;
    // Two are there, two fit, the rest does not.
    for n in 0..6 {
        fs::create_dir_all(format!("{CGROUPS}/tests-full/{n}"))?;
    }
    ensure!(daemon.status()?["cgroups"] == 4, "{}", daemon.status()?["cgroups"]);
    for n in 0..6 {
        governed(scene, &daemon, &format!("tests-full/{n}"), "crowded")?;
    }
    fs::create_dir_all(format!("{CGROUPS}/tests-full/5/below/it"))?;
    governed(scene, &daemon, "tests-full/5/below/it", "crowded")?;
    // One that a skill names, and what is below it.
    fs::create_dir_all(format!("{CGROUPS}/tests-full-late/below"))?;
    governed(scene, &daemon, "tests-full-late", "late")?;
    governed(scene, &daemon, "tests-full-late/below", "late")?;
    // Nobody else is.
    fs::create_dir_all(format!("{CGROUPS}/tests-full-free"))?;
    let free = Worker::start(&Entry::Cgroup(&format!("{CGROUPS}/tests-full-free")))?;
    let file = scene.make_file("denied/free")?;
    free.act(&["unlink", &file])?.done()?;
    // A reload that would have to hold them all is an error, and changes nothing: neither its rules nor its cgroups come.
    let denied = scene.make_dir("denied")?;
    let wider = manifest(
        scene,
        &format!(
            "  wide:\n    match: {{cgroup: /tests-full-free}}\n    allow_binaries: [\"*\"]\n    allow_delete: [{denied}]\n"
        ),
    )?
    .replace("allow_delete: [", &format!("allow_delete: [{denied}, "));
    let error = daemon.reload(&wider).map(|_| ()).err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(error.contains("CGROUPS") && error.contains("full") && error.contains("stays in force"), "{error:?}");
    ensure!(daemon.generation()? == generation, "the generation has changed");
    let file = scene.make_file("denied/free")?;
    free.act(&["unlink", &file])?.done()?;
    for n in 0..6 {
        governed(scene, &daemon, &format!("tests-full/{n}"), "crowded")?;
    }
    governed(scene, &daemon, "tests-full/5", "crowded")?;
    drop(free);
    ["tests-full", "tests-full-late", "tests-full-free"].iter().try_for_each(|name| remove(name))
}

fn labels(scene: &Scene) -> anyhow::Result<()> {
    let mut daemon = daemon(scene)?;
    let dir = format!("{CGROUPS}/tests-full");
    let late = Worker::start(&Entry::Outside)?;
    let crowd = Worker::start(&Entry::Cgroup(&dir))?;
    let mark = daemon.events.mark();
    // Children until there is no room: the one that finds none is not made.
    crowd.act(&["here", "crowd", "200"])?.refused()?;
    daemon.events.wait(mark, "the refused fork", |e| {
        e.text("kind") == "fork" && e.text("verdict") == "deny" && e.text("reason") == "label map is full"
    })?;
    // Who comes now has no room either, and is told so in the stream.
    fs::write(format!("{dir}/cgroup.procs"), late.pid().to_string())?;
    let allowed = scene.make_file("allowed/late")?;
    let mark = daemon.events.mark();
    let outcome = late.act(&["here", "unlink", &allowed])?;
    outcome.refused()?;
    there(&allowed)?;
    daemon
        .events
        .wait(mark, "the refusal", |e| e.is("delete", "deny", &allowed) && e.text("reason") == "label map is full")?;
    // The daemon goes on, and so do those outside.
    daemon.status()?;
    let outsider = Worker::start(&Entry::Outside)?;
    let file = scene.make_file("denied/outside")?;
    outsider.act(&["unlink", &file])?.done()?;
    drop(crowd);
    let room =
        eventually(Duration::from_secs(10), || late.act(&["here", "unlink", &allowed]).is_ok_and(|o| o.status == 0));
    ensure!(room, "there is no room when the crowd has gone");
    gone(&allowed)?;
    daemon.stop()?;
    Ok(())
}

/// The daemon comes to know of it when there is no room, and it is governed all the same.
fn container(scene: &Scene) -> anyhow::Result<()> {
    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    // Cgroups of its own: what other tests left would not fit.
    fs::create_dir_all(format!("{CGROUPS}/tests-full-own/there"))?;
    fs::create_dir_all(format!("{CGROUPS}/tests-full-free"))?;
    let boxed = format!("  boxed:\n    match: {{container: {}}}\n    allow_binaries: [\"*\"]\n", &ID[..12]);
    let text = manifest(scene, &boxed)?.replace("/tests-full", "/tests-full-own");
    let daemon = Daemon::start_with(&scene.dir.join("daemon"), &text, SIZES)?;
    // Two are there, and two fit.
    for n in 0..4 {
        fs::create_dir_all(format!("{CGROUPS}/tests-full-own/more-{n}"))?;
    }
    let dir = format!("tests-full-box/libpod-{ID}.scope");
    fs::create_dir_all(format!("{CGROUPS}/{dir}/below"))?;
    let known = eventually(Duration::from_secs(20), || daemon.status().is_ok_and(|s| s["workloads"] == 1));
    ensure!(known, "{}", daemon.status()?);
    for cgroup in [dir.clone(), format!("{dir}/below")] {
        let worker = Worker::start(&Entry::Cgroup(&format!("{CGROUPS}/{cgroup}")))?;
        let (file, mark) = (scene.make_file("denied/boxed")?, daemon.events.mark());
        worker.act(&["unlink", &file])?.refused()?;
        there(&file)?;
        let event = daemon.events.wait(mark, "the refusal", |e| e.is("delete", "deny", &file))?;
        ensure!(event.text("skill") == "boxed", "{cgroup}: {}", event.0);
    }
    let free = Worker::start(&Entry::Cgroup(&format!("{CGROUPS}/tests-full-free")))?;
    let file = scene.make_file("denied/free")?;
    free.act(&["unlink", &file])?.done()?;
    gone(&file)?;
    drop(free);
    ["tests-full-own", "tests-full-box", "tests-full-free"].iter().try_for_each(|name| remove(name))
}
