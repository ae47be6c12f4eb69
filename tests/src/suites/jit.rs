//! Memory that becomes code: only a skill with `allow_jit` makes any.

use anyhow::ensure;

use super::walls::has_entry_32;
use crate::{
    act::RAN,
    harness::{
        runner::Suite,
        scene::Scene,
        worker::{Entry, Outcome, Worker},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "jit",
    policy: Some(policy),
    tests: &[
        ("anonymous_memory", anonymous),
        ("memory_that_looks_like_a_file", disguised),
        ("a_written_mapping_of_a_file", written),
        ("readable_that_is_executable", personality),
        ("own_memory_past_its_protection", own_memory),
        ("tracing_within_the_skill", tracing),
        ("page_faults_that_a_program_answers", faults),
        ("looking_within_the_skill_is_free", looking),
        ("audit_reports_and_allows", audit),
        ("outside_processes_are_untouched", outside),
    ],
};

const SKILL: &str = "strict";
const JIT: &str = "jit";

#[expect(clippy::unnecessary_wraps, reason = "the signature of every suite's policy")]
fn policy(_: &Scene) -> anyhow::Result<String> {
    let binaries = "allow_binaries: [/usr/lib/enforcer/enforcer-tests, /usr/bin/python3]";
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    {binaries}\n  {JIT}:\n    {binaries}\n    allow_jit: true\n  \
         watched:\n    mode: audit\n    {binaries}\n"
    ))
}

/// The act is refused with an event of this reason; under `allow_jit` it is done.
fn only_with_jit(scene: &Scene, act: &[&str], kind: &str, reason: &str) -> anyhow::Result<Outcome> {
    let mark = scene.mark();
    let outcome = scene.act(SKILL, act)?;
    ensure!(outcome.refused()?.out.is_empty(), "{act:?} printed {:?}", outcome.out);
    scene.events().wait(mark, &format!("the refused {act:?}"), |e| {
        e.text("kind") == kind && e.text("verdict") == "deny" && e.text("reason") == reason && e.text("skill") == SKILL
    })?;
    let outcome = scene.act(JIT, act)?;
    outcome.done()?;
    Ok(outcome)
}

/// The same for an act that runs what it made.
fn code_only_with_jit(scene: &Scene, acts: &[&str], reason: &str) -> anyhow::Result<()> {
    for act in acts {
        let outcome = only_with_jit(scene, &[act], "map", reason)?;
        ensure!(outcome.out.contains(RAN), "{act}: {outcome:?}");
    }
    Ok(())
}

const NO_FILE: &str = "memory may not become executable";
const WRITTEN: &str = "a written mapping may not become executable";

fn anonymous(scene: &Scene) -> anyhow::Result<()> {
    let acts = ["anonymous", "anonymous-then-protect", "anonymous-then-pkey", "executed-then-written", "heap", "stack"];
    code_only_with_jit(scene, &acts, NO_FILE)
}

fn disguised(scene: &Scene) -> anyhow::Result<()> {
    code_only_with_jit(scene, &["memfd-map", "memfd-twice", "shared-memory", "anonymous-shared"], NO_FILE)?;
    // A device that gives memory: no library, whoever asks.
    let mark = scene.mark();
    scene.act(SKILL, &["zero-device"])?.refused()?;
    let event = scene.event(mark, "map", "deny", "/dev/zero")?;
    ensure!(event.text("reason") == WRITTEN, "{}", event.0);
    scene.act(JIT, &["zero-device"])?.refused()?;
    Ok(())
}

fn written(scene: &Scene) -> anyhow::Result<()> {
    // Of a file that may be mapped as code, as it is.
    let file = "/usr/bin/python3";
    scene.act(SKILL, &["map-code", file])?.done()?;
    only_with_jit(scene, &["map-writable-code", file], "map", WRITTEN)?;
    let mark = scene.mark();
    let library = "/usr/lib64/ld-linux-x86-64.so.2";
    scene.act(SKILL, &["map-then-protect", library])?.done()?;
    let outcome = scene.act(SKILL, &["map-then-write-then-protect", library])?;
    ensure!(outcome.refused()?.out.is_empty(), "{outcome:?}");
    let event = scene.event(mark, "map", "deny", library)?;
    ensure!(event.text("reason") == WRITTEN, "{}", event.0);
    let outcome = scene.act(JIT, &["map-then-write-then-protect", library])?;
    ensure!(outcome.done()?.out.contains(RAN), "{outcome:?}");
    Ok(())
}

/// No hook can refuse `personality`, so the process ends in it.
fn personality(scene: &Scene) -> anyhow::Result<()> {
    let ways: &[&str] = if has_entry_32(scene)? {
        &["readable-is-executable", "readable-is-executable-32"]
    } else {
        &["readable-is-executable"]
    };
    for way in ways {
        let mark = scene.mark();
        let outcome = scene.act(SKILL, &[way])?;
        outcome.failed(128 + libc::SIGKILL)?;
        ensure!(outcome.out.is_empty(), "{way}: {outcome:?}");
        scene.events().wait(mark, "the end", |e| e.text("kind") == "map" && e.text("reason") == NO_FILE)?;
        let outcome = scene.act(JIT, &[way])?;
        ensure!(outcome.done()?.out.contains(RAN), "{way}: {outcome:?}");
    }
    Ok(())
}

fn own_memory(scene: &Scene) -> anyhow::Result<()> {
    only_with_jit(scene, &["write-own-memory"], "trace", "process memory may not be written").map(drop)
}

fn tracing(scene: &Scene) -> anyhow::Result<()> {
    for act in ["trace-child", "traced-by-parent", "write-memory-of-child"] {
        only_with_jit(scene, &[act], "trace", "process memory may not be written")?;
    }
    Ok(())
}

fn faults(scene: &Scene) -> anyhow::Result<()> {
    only_with_jit(scene, &["userfaultfd"], "trace", "process memory may not be written").map(drop)
}

fn looking(scene: &Scene) -> anyhow::Result<()> {
    let other = Worker::start(&Entry::Run(SKILL))?;
    let pid = other.pid().to_string();
    for file in ["environ", "maps", "auxv", "status"] {
        scene.act(SKILL, &["read-proc", &pid, file])?.done()?;
    }
    scene.act(SKILL, &["list-proc", &pid, "fd"])?.done()?;
    scene.act(SKILL, &["read", "/proc/self/mem"])?.done()?;
    Ok(())
}

fn audit(scene: &Scene) -> anyhow::Result<()> {
    for act in ["anonymous", "anonymous-then-protect", "memfd-map", "readable-is-executable"] {
        let mark = scene.mark();
        let outcome = scene.act("watched", &[act])?;
        ensure!(outcome.done()?.out.contains(RAN), "{act}: {outcome:?}");
        scene.events().wait(mark, act, |e| e.text("kind") == "map" && e.text("verdict") == "audit")?;
    }
    Ok(())
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    for act in ["anonymous", "anonymous-then-protect", "memfd-map", "readable-is-executable"] {
        let outcome = scene.outside(&[act])?;
        ensure!(outcome.done()?.out.contains(RAN), "{act}: {outcome:?}");
    }
    for act in ["write-own-memory", "trace-child", "userfaultfd"] {
        scene.outside(&[act])?.done()?;
    }
    Ok(())
}
