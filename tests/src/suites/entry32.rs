//! The entry to the kernel for 32-bit programs: other numbers and other layouts, and the same verdicts. A kernel without it refuses
//! more than any rule: there is nothing to try, which the tests look at.

use std::fs;

use anyhow::ensure;

use super::walls::has_entry_32;
use crate::{
    act::TOKEN,
    harness::{
        SELF,
        events::Event,
        listener::Server,
        runner::Suite,
        scene::{Scene, gone, holds, there},
        worker::{Entry, Worker},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "entry32",
    policy: Some(policy),
    tests: &[
        ("deletes", deletes),
        ("writes", writes),
        ("exec", exec),
        ("connect", connect),
        ("signals_and_tracing", walls),
    ],
};

const SKILL: &str = "narrow";
const PORT: u16 = 18_132;

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let allowed = scene.make_dir("allowed")?;
    scene.make_dir("denied")?;
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: {SELF}}}, {{path: /usr/bin/wc}}]\n    \
         allow_delete: [{allowed}]\n    allow_write: [{allowed}]\n    network_scope: [\"127.0.0.1:{PORT}\"]\n"
    ))
}

/// By this entry, with these words.
fn by<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["in-32"], words].concat()
}

fn deletes(scene: &Scene) -> anyhow::Result<()> {
    if !has_entry_32(scene)? {
        return Ok(());
    }
    for side in ["allowed", "denied"] {
        let file = |name: &str| scene.make_file(&format!("{side}/deleted/{name}"));
        let (unlinked, at, moved, cut) = (file("unlinked")?, file("at")?, file("moved")?, file("cut")?);
        let dir = scene.make_dir(&format!("{side}/deleted/dir"))?;
        let to = format!("{}/{side}", scene.make_dir("allowed/moved-to")?);
        let acts: [(&[&str], &str); 5] = [
            (&["unlink", &unlinked], &unlinked),
            (&["unlinkat", &at], &at),
            (&["rename", &moved, &to], &moved),
            (&["rmdir", &dir], &dir),
            (&["truncate", &cut], &cut),
        ];
        for (act, object) in acts {
            let (mark, outcome) = (scene.mark(), scene.act(SKILL, &by(act))?);
            if side == "denied" {
                outcome.refused()?;
                there(object)?;
                ensure!(act[0] != "truncate" || fs::metadata(object)?.len() > 0, "{object} was cut");
                // Whoever renames or cuts writes, too, of which either may be refused.
                let refusal = |e: &Event| e.text("verdict") == "deny" && e.object("path") == object;
                let event = scene.events().wait(mark, object, refusal)?;
                let kind = event.text("kind");
                ensure!(kind == "delete" || ["rename", "truncate"].contains(&act[0]) && kind == "write", "{}", event.0);
            } else if act[0] == "truncate" {
                outcome.done()?;
                holds(object, "")?;
            } else {
                outcome.done()?;
                gone(object)?;
            }
        }
    }
    Ok(())
}

fn writes(scene: &Scene) -> anyhow::Result<()> {
    if !has_entry_32(scene)? {
        return Ok(());
    }
    for side in ["allowed", "denied"] {
        let old = scene.make_file(&format!("{side}/written/old"))?;
        let path = |name: &str| scene.dir.join(format!("{side}/written/{name}")).to_string_lossy().into_owned();
        let (new, dir, name) = (path("new"), path("dir"), path("name"));
        let acts: [(&[&str], &str); 4] = [
            (&["open-write", &old], &old),
            (&["create", &new], &new),
            (&["mkdir", &dir], &dir),
            (&["link", &old, &name], &name),
        ];
        for (act, object) in acts {
            let (mark, outcome) = (scene.mark(), scene.act(SKILL, &by(act))?);
            if side == "allowed" {
                outcome.done()?;
                there(object)?;
                continue;
            }
            outcome.refused()?;
            if act[0] != "open-write" {
                gone(object)?;
            }
            scene.events().wait(mark, &act.join(" "), |e| e.text("kind") == "write" && e.text("verdict") == "deny")?;
        }
    }
    Ok(())
}

fn exec(scene: &Scene) -> anyhow::Result<()> {
    if !has_entry_32(scene)? {
        return Ok(());
    }
    let ran = scene.act(SKILL, &by(&["exec", "/usr/bin/wc", "--version"]))?;
    ensure!(ran.done()?.out.contains("wc (GNU coreutils)"), "it printed {:?}", ran.out);
    let (mark, refused) = (scene.mark(), scene.act(SKILL, &by(&["exec", "/usr/bin/id", "--version"]))?);
    ensure!(refused.refused()?.out.is_empty(), "it printed {:?}", refused.out);
    scene.event(mark, "exec", "deny", "/usr/bin/id").map(drop)
}

fn connect(scene: &Scene) -> anyhow::Result<()> {
    if !has_entry_32(scene)? {
        return Ok(());
    }
    let (listed, other) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    for way in ["tcp", "tcp-by-socketcall"] {
        scene.act(SKILL, &by(&[way, &listed.at()]))?.done()?;
        listed.got(TOKEN)?;
        let mark = scene.mark();
        scene.act(SKILL, &by(&[way, &other.at()]))?.refused()?;
        other.nothing()?;
        scene.events().wait(mark, way, |e| {
            e.text("kind") == "connect" && e.text("verdict") == "deny" && e.object("address") == "127.0.0.2"
        })?;
    }
    Ok(())
}

fn walls(scene: &Scene) -> anyhow::Result<()> {
    if !has_entry_32(scene)? {
        return Ok(());
    }
    let (outside, own) = (Worker::start(&Entry::Outside)?, Worker::start(&Entry::Run(SKILL))?);
    let (target, friend) = (outside.pid().to_string(), own.pid().to_string());
    let acts: [(&[&str], &str); 2] = [(&["kill", &target, "9"], "signal"), (&["trace", &target], "trace")];
    for (act, kind) in acts {
        let mark = scene.mark();
        scene.act(SKILL, &by(act))?.refused()?;
        scene.events().wait(mark, kind, |e| e.text("kind") == kind && e.text("verdict") == "deny")?;
    }
    outside.act(&["nothing"])?.done()?;
    // Whether a signal could be sent.
    scene.act(SKILL, &by(&["kill", &friend, "0"]))?.done().map(drop)
}
