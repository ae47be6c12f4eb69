//! Message queues of POSIX, which `mq_open` makes and `mq_unlink` removes without a path: rules that name what `/dev/mqueue` shows
//! hold for them.

use std::{fs, path::Path};

use anyhow::ensure;

use crate::harness::{
    breach::Breach,
    events::Event,
    files::Mount,
    runner::Suite,
    scene::{Scene, gone, there},
};

pub(super) const SUITE: Suite = Suite {
    name: "queues",
    policy: Some(policy),
    tests: &[("made_opened_and_removed", queues), ("of_a_namespace_of_its_own", elsewhere)],
};

/// May use one queue.
const ONE: &str = "one-queue";
/// May use all of them.
const ALL: &str = "all-queues";
/// May use what no rule protects.
const FREE: &str = "free-of-rules";

const MINE: &str = "enforcer-tests-mine";
const OTHER: &str = "enforcer-tests-other";
const NEW: &str = "enforcer-tests-new";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let at = at(scene);
    if !Path::new(&at).exists() {
        scene.keep_mounts(vec![Mount::new("mqueue", &at)?]);
    }
    for queue in [MINE, OTHER] {
        fs::write(format!("{at}/{queue}"), "").or_else(|_| fs::File::create(format!("{at}/{queue}")).map(drop))?;
    }
    let all = "allow_binaries: [\"*\"]";
    Ok(format!(
        "version: 1\nskills:\n  {ONE}:\n    {all}\n    allow_write: [{at}/{MINE}]\n    allow_delete: [{at}/{MINE}]\n  \
         {ALL}:\n    {all}\n    allow_write: [{at}]\n    allow_delete: [{at}]\n  \
         {FREE}:\n    {all}\n    protect: [{at}/{OTHER}]\n    allow_delete: [\"*\"]\n"
    ))
}

/// Where the queues are shown.
fn at(scene: &Scene) -> String {
    scene.dir.join("queues").to_string_lossy().into_owned()
}

/// The act is refused, told of this queue, and the queue is there or not, as it was.
fn refused(scene: &Scene, skill: &str, kind: &str, act: &str, queue: &str) -> anyhow::Result<()> {
    let path = format!("{}/{queue}", at(scene));
    let (before, mark) = (Path::new(&path).exists(), scene.mark());
    let outcome = scene.act(skill, &[act, queue])?;
    if Path::new(&path).exists() != before {
        return Err(Breach(format!("{act} {queue} by {skill}: {outcome:?}")).into());
    }
    outcome.refused()?;
    // On a host the queues may be shown elsewhere, too.
    let told = format!("/{queue}");
    let refusal =
        |e: &Event| e.text("kind") == kind && e.text("verdict") == "deny" && e.object("path").ends_with(&told);
    scene.events().wait(mark, &format!("{act} {queue}"), refusal).map(drop)
}

fn queues(scene: &Scene) -> anyhow::Result<()> {
    let path = |queue: &str| format!("{}/{queue}", at(scene));
    refused(scene, ONE, "write", "mq-create", NEW)?;
    refused(scene, ONE, "write", "mq-write", OTHER)?;
    // Who reads takes the messages away.
    refused(scene, ONE, "write", "mq-read", OTHER)?;
    refused(scene, ONE, "delete", "mq-unlink", OTHER)?;
    // By its path it is the same file.
    scene.act(ONE, &["unlink", &path(OTHER)])?.refused()?;
    scene.act(ONE, &["create", &path(NEW)])?.refused()?;
    gone(&path(NEW))?;
    for act in ["mq-read", "mq-write"] {
        scene.act(ONE, &[act, MINE])?.done()?;
    }
    // What is protected neither, by whichever of the acts that are asked for.
    refused(scene, FREE, "delete", "mq-unlink", OTHER)?;
    let mark = scene.mark();
    scene.act(FREE, &["mq-read", OTHER])?.refused()?;
    scene.events().wait(mark, "the protected queue", |e| {
        e.text("verdict") == "deny" && e.text("reason") == "protected" && e.text("skill") == FREE
    })?;
    for skill in [Some(ALL), Some(FREE), None] {
        let act = |act: &str| match skill {
            Some(skill) => scene.act(skill, &[act, NEW]),
            None => scene.outside(&[act, NEW]),
        };
        act("mq-create")?.done()?;
        there(&path(NEW))?;
        act("mq-read")?.done()?;
        act("mq-unlink")?.done()?;
        gone(&path(NEW))?;
    }
    // One event for one act, whichever way it goes.
    let mark = scene.mark();
    scene.act(ONE, &["unlink", &path(OTHER)])?.refused()?;
    scene.act(ONE, &["mq-unlink", OTHER])?.refused()?;
    refused(scene, ONE, "write", "mq-create", NEW)?;
    let told = scene.events().since(mark).iter().filter(|e| e.text("kind") == "delete").count();
    ensure!(told == 2, "{told} events");
    scene.act(ONE, &["mq-unlink", MINE])?.done()?;
    gone(&path(MINE))?;
    // Queues outlive whoever made them.
    scene.outside(&["mq-unlink", OTHER])?.done()?;
    gone(&path(OTHER))
}

/// The queues of another namespace are other files, which no rule names.
fn elsewhere(scene: &Scene) -> anyhow::Result<()> {
    for (skill, allowed) in [(ALL, false), (FREE, true)] {
        let act = ["unshare", "ipc", "mq-create", NEW];
        let outcome = scene.act(skill, &act)?;
        ensure!(outcome.status == if allowed { 0 } else { libc::EPERM }, "{skill}: {outcome:?}");
    }
    scene.outside(&["unshare", "ipc", "mq-create", NEW])?.done().map(drop)
}
