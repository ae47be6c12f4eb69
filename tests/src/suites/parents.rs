//! `parents`: who executes counts, by content and by descent, not by name.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::ensure;

use crate::harness::{
    ENFORCER, SELF, command,
    runner::Suite,
    scene::Scene,
    succeed,
    worker::{Entry, Worker},
};

pub(super) const SUITE: Suite = Suite {
    name: "parents",
    policy: Some(policy),
    tests: &[
        ("the_acting_program", acting),
        ("an_ancestor", ancestor),
        ("another_program_by_the_parents_name", renamed),
        ("a_parent_that_has_ended", orphans),
        ("a_script_is_not_its_interpreter", script),
        ("by_a_loader", loader),
        ("no_tracing_where_parents_count", tracing),
        ("a_process_that_was_attached", attached),
        ("a_reload_keeps_who_is_who", reload),
    ],
};

const SKILL: &str = "family";
/// Only bash and what it starts may run it.
const CHILD: &str = "/usr/bin/wc";
/// Only the script may run it.
const GRANDCHILD: &str = "/usr/bin/head";
/// Only the tests' own program may run it.
const OWN: &str = "/usr/bin/cat";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const RAN: &str = "GNU coreutils";

fn script_path(scene: &Scene) -> String {
    scene.dir.join("script").to_string_lossy().into_owned()
}

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let script = script_path(scene);
    fs::write(&script, format!("#!/usr/bin/bash\n{GRANDCHILD} --version\n{CHILD} --version\nexit 0\n"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let hashed = succeed(&["sha256sum", &script])?;
    let digest = hashed.split_whitespace().next().unwrap_or_default();
    let all = format!(
        "[{SELF}, /usr/bin/bash, /usr/bin/python3, {LOADER}, \"sha256:{digest}\", \
         {{path: {CHILD}, parents: [/usr/bin/bash]}}, {{path: {GRANDCHILD}, parents: [\"sha256:{digest}\"]}}, \
         {{path: {OWN}, parents: [{SELF}]}}]"
    );
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: {all}\n  \
         jit:\n    allow_binaries: {all}\n    allow_jit: true\n"
    ))
}

/// The act does not run `program`, and an event says that it is for the parent's sake.
fn refused(scene: &Scene, act: &[&str], program: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    let outcome = scene.act(SKILL, act)?;
    ensure!(!outcome.out.contains(RAN), "{outcome:?}");
    let event = scene.event(mark, "exec", "deny", program)?;
    ensure!(event.text("reason") == "parent not listed", "the reason is {:?}", event.text("reason"));
    ensure!(event.text("rule") == format!("allow_binaries: {program}"), "the rule is {:?}", event.text("rule"));
    Ok(())
}

fn runs(scene: &Scene, act: &[&str]) -> anyhow::Result<()> {
    let outcome = scene.act(SKILL, act)?;
    ensure!(outcome.done()?.out.contains(RAN), "{outcome:?}");
    Ok(())
}

/// A command line for bash that runs a program in a child of its own.
fn shell(program: &str) -> String {
    format!("{program} --version; exit 0")
}

/// A program for Python that becomes another one.
fn python(program: &str) -> String {
    format!("import os; os.execv({program:?}, [{program:?}, '--version'])")
}

fn acting(scene: &Scene) -> anyhow::Result<()> {
    refused(scene, &["exec", CHILD, "--version"], CHILD)?;
    refused(scene, &["exec", "/usr/bin/python3", "-c", &python(CHILD)], CHILD)?;
    runs(scene, &["exec", "/usr/bin/bash", "-c", &shell(CHILD)])?;
    runs(scene, &["exec", "/usr/bin/bash", "-c", &format!("exec {CHILD} --version")])?;
    runs(scene, &["exec", OWN, "--version"])
}

fn ancestor(scene: &Scene) -> anyhow::Result<()> {
    let line = format!("/usr/bin/python3 -c \"{}\"", python(CHILD).replace('"', "'"));
    runs(scene, &["exec", "/usr/bin/bash", "-c", &line])
}

fn renamed(scene: &Scene) -> anyhow::Result<()> {
    let dir = scene.make_dir("renamed")?;
    let (bad, good) = (format!("{dir}/bash"), format!("{dir}/some-tool"));
    fs::copy("/usr/bin/python3", &bad)?;
    fs::copy("/usr/bin/bash", &good)?;
    refused(scene, &["exec", &bad, "-c", &python(CHILD)], CHILD)?;
    runs(scene, &["exec", &good, "-c", &shell(CHILD)])
}

fn orphans(scene: &Scene) -> anyhow::Result<()> {
    refused(scene, &["double-fork", "exec", CHILD, "--version"], CHILD)?;
    runs(scene, &["double-fork", "exec", "/usr/bin/bash", "-c", &shell(CHILD)])?;
    // Bash has ended before its child begins.
    // Not there yet: to truncate a file is to delete what is in it.
    let out = scene.dir.join("orphan").to_string_lossy().into_owned();
    let line =
        format!("(while kill -0 $$ 2>/dev/null; do :; done; {CHILD} --version > {out}) > /dev/null 2>&1 & exit 0");
    scene.act(SKILL, &["exec", "/usr/bin/bash", "-c", &line])?.done()?;
    let ran = crate::harness::eventually(std::time::Duration::from_mins(1), || {
        fs::read_to_string(&out).is_ok_and(|text| text.contains(RAN))
    });
    ensure!(ran, "the orphan could not run its program");
    Ok(())
}

/// The script runs what the script may run, and not what its interpreter may.
fn script(scene: &Scene) -> anyhow::Result<()> {
    let script = script_path(scene);
    let mark = scene.mark();
    let outcome = scene.act(SKILL, &["exec", &script])?;
    ensure!(outcome.done()?.out.contains("head (GNU coreutils)"), "{outcome:?}");
    ensure!(!outcome.out.contains("wc (GNU coreutils)"), "{outcome:?}");
    let event = scene.event(mark, "exec", "deny", CHILD)?;
    ensure!(event.text("reason") == "parent not listed", "{}", event.0);
    refused(scene, &["exec", "/usr/bin/bash", "-c", &shell(GRANDCHILD)], GRANDCHILD)
}

/// Neither as the program that a loader is asked to run.
fn loader(scene: &Scene) -> anyhow::Result<()> {
    let mark = scene.mark();
    let outcome = scene.act(SKILL, &["exec", LOADER, CHILD, "--version"])?;
    ensure!(!outcome.out.contains(RAN), "{outcome:?}");
    let event = scene.event(mark, "map", "deny", CHILD)?;
    ensure!(event.text("reason") == "parent not listed", "{}", event.0);
    runs(scene, &["exec", "/usr/bin/bash", "-c", &format!("{LOADER} {CHILD} --version; exit 0")])
}

/// `allow_jit` would let a process write itself into another one.
fn tracing(scene: &Scene) -> anyhow::Result<()> {
    for act in ["trace-child", "traced-by-parent", "write-memory-of-child", "write-own-memory"] {
        let mark = scene.mark();
        scene.act("jit", &[act])?.refused()?;
        scene.events().wait(mark, act, |e| e.text("kind") == "trace" && e.text("verdict") == "deny")?;
    }
    scene.act("jit", &["anonymous"])?.done()?;
    Ok(())
}

/// What a process was before it was governed nobody has measured.
fn attached(scene: &Scene) -> anyhow::Result<()> {
    let worker = Worker::start(&Entry::Outside)?;
    let outcome = command(&[ENFORCER, "attach", "--skill", SKILL, "--pid", &worker.pid().to_string()])?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let mark = scene.mark();
    worker.act(&["exec", OWN, "--version"])?.refused()?;
    let event = scene.event(mark, "exec", "deny", OWN)?;
    ensure!(event.text("reason") == "parent not listed", "{}", event.0);
    let outcome = worker.act(&["exec", SELF, "act", "exec", OWN, "--version"])?;
    ensure!(outcome.done()?.out.contains(RAN), "{outcome:?}");
    Ok(())
}

fn reload(scene: &Scene) -> anyhow::Result<()> {
    let worker = scene.worker(SKILL)?;
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&format!("{manifest}  other:\n    allow_binaries: []\n")))?;
    ensure!(worker.act(&["exec", OWN, "--version"])?.done()?.out.contains(RAN), "the worker is another now");
    refused(scene, &["exec", CHILD, "--version"], CHILD)?;
    scene.daemon(|d| d.reload(&manifest)).map(drop)
}
