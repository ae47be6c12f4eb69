//! Delete: unlink, rmdir, rename over and away, by every call.

use std::{fs, thread};

use anyhow::ensure;

use crate::harness::{
    act_with,
    runner::Suite,
    scene::{Scene, gone, holds, there},
    worker::{Entry, Worker},
};

pub(super) const SUITE: Suite = Suite {
    name: "delete",
    policy: Some(policy),
    tests: &[
        ("unlink", unlink),
        ("unlink_in_nested_directories", nested),
        ("unlinkat_by_a_directory_descriptor", unlinkat),
        ("a_directory_descriptor_from_outside_the_skill", inherited),
        ("rmdir", rmdir),
        ("rename_within_an_allowed_directory", rename_within),
        ("rename_away_from_a_denied_directory", rename_away),
        ("rename_into_a_denied_directory", rename_into),
        ("rename_over_a_victim", rename_over),
        ("rename_noreplace", rename_noreplace),
        ("rename_exchange_in_both_directions", exchange),
        ("rename_of_a_denied_directory", rename_directory),
        ("a_hard_link_into_an_allowed_directory", hard_link),
        ("a_path_that_is_swapped_in_a_loop", swapped),
        ("too_deep_a_path", too_deep),
        ("io_uring_unlink_and_rename", io_uring),
        ("rm_rf", rm_rf),
        ("outside_processes_are_untouched", outside),
        ("the_event_has_every_key", keys),
    ],
};

/// The skill of this suite.
const SKILL: &str = "deleter";
/// Why what no rule covers is refused.
pub(super) const NOT_LISTED: &str = "path not listed";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let allowed = scene.make_dir("allowed")?;
    scene.make_dir("denied")?;
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    \
         allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}, {{path: /usr/bin/rm}}]\n    \
         allow_delete: [{allowed}]\n    reason: ask before you delete\n"
    ))
}

/// A file that may go and one that may not.
fn pair(scene: &Scene, test: &str) -> anyhow::Result<(String, String)> {
    Ok((scene.make_file(&format!("allowed/{test}/file"))?, scene.make_file(&format!("denied/{test}/file"))?))
}

/// The same act on an allowed and on a denied object: one is gone, the other is there, and both are in the stream.
fn twins(scene: &Scene, allowed: (&str, &[&str]), denied: (&str, &[&str])) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(SKILL, denied.1)?.refused()?;
    there(denied.0)?;
    let event = scene.event(mark, "delete", "deny", denied.0)?;
    ensure!(event.text("reason") == NOT_LISTED, "the reason is {:?}", event.text("reason"));
    let mark = scene.mark();
    scene.act(SKILL, allowed.1)?.done()?;
    gone(allowed.0)?;
    scene.event(mark, "delete", "allow", allowed.0)?;
    Ok(())
}

fn unlink(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "unlink")?;
    twins(scene, (&allowed, &["unlink", &allowed]), (&denied, &["unlink", &denied]))
}

fn nested(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "nested/a/b/c/d/e")?;
    twins(scene, (&allowed, &["unlink", &allowed]), (&denied, &["unlink", &denied]))
}

fn unlinkat(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "unlinkat")?;
    let dir = |path: &str| path.trim_end_matches("/file").to_owned();
    twins(scene, (&allowed, &["unlinkat", &dir(&allowed), "file"]), (&denied, &["unlinkat", &dir(&denied), "file"]))
}

fn inherited(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "inherited")?;
    let delete = |path: &str| {
        let dir = fs::File::open(path.trim_end_matches("/file"))?;
        act_with(dir.into(), SKILL, &["unlinkat-fd", "0", "file"])
    };
    ensure!(delete(&allowed)?.status == 0, "the allowed one");
    gone(&allowed)?;
    ensure!(delete(&denied)?.status == libc::EPERM, "the denied one");
    there(&denied)
}

fn rmdir(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_dir("allowed/rmdir/dir")?, scene.make_dir("denied/rmdir/dir")?);
    twins(scene, (&allowed, &["rmdir", &allowed]), (&denied, &["rmdir", &denied]))?;
    let parent = scene.make_dir("denied/rmdir")?;
    scene.act(SKILL, &["rmdirat", &parent, "dir"])?.refused()?;
    there(&denied)
}

fn rename_within(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "within")?;
    let to = |path: &str| format!("{path}.new");
    twins(scene, (&allowed, &["rename", &allowed, &to(&allowed)]), (&denied, &["rename", &denied, &to(&denied)]))?;
    there(&to(&allowed))?;
    gone(&to(&denied))
}

fn rename_away(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "away")?;
    let target = scene.make_dir("allowed/away-to")?;
    let (a, d) = (format!("{target}/a"), format!("{target}/d"));
    twins(scene, (&allowed, &["rename", &allowed, &a]), (&denied, &["rename", &denied, &d]))?;
    there(&a)?;
    gone(&d)
}

/// What leaves an allowed directory for another place was deleted there, which is allowed; nothing is deleted where it
/// goes. Whether it may be written there is `allow_write`'s business.
fn rename_into(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "into")?;
    scene.act(SKILL, &["rename", &allowed, &format!("{denied}.new")])?.done()?;
    there(&format!("{denied}.new"))
}

fn rename_over(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "over")?;
    let weapon = |n: u32| scene.make_file(&format!("allowed/over/weapon{n}"));
    let (first, second) = (weapon(1)?, weapon(2)?);
    scene.act(SKILL, &["rename", &first, &allowed])?.done()?;
    holds(&allowed, "allowed/over/weapon1")?;
    let mark = scene.mark();
    scene.act(SKILL, &["rename", &second, &denied])?.refused()?;
    holds(&denied, "denied/over/file")?;
    there(&second)?;
    scene.event(mark, "delete", "deny", &denied)?;
    Ok(())
}

fn rename_noreplace(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "noreplace")?;
    let to = |path: &str| format!("{path}.new");
    twins(
        scene,
        (&allowed, &["rename-noreplace", &allowed, &to(&allowed)]),
        (&denied, &["rename-noreplace", &denied, &to(&denied)]),
    )
}

fn exchange(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "exchange")?;
    for (a, b) in [(&allowed, &denied), (&denied, &allowed)] {
        let mark = scene.mark();
        scene.act(SKILL, &["rename-exchange", a, b])?.refused()?;
        holds(&allowed, "allowed/exchange/file")?;
        holds(&denied, "denied/exchange/file")?;
        scene.event(mark, "delete", "deny", &denied)?;
    }
    let other = scene.make_file("allowed/exchange/other")?;
    scene.act(SKILL, &["rename-exchange", &allowed, &other])?.done()?;
    holds(&other, "allowed/exchange/file")
}

fn rename_directory(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "directory/sub")?;
    let dir = |path: &str| path.trim_end_matches("/file").to_owned();
    let target = scene.make_dir("allowed/directory-to")?;
    scene.act(SKILL, &["rename", &dir(&allowed), &format!("{target}/a")])?.done()?;
    scene.act(SKILL, &["rename", &dir(&denied), &format!("{target}/d")])?.refused()?;
    there(&denied)
}

/// A second name where the skill may delete would make the object deletable: no such link. Where both names lie under the
/// same rule it gains nothing.
fn hard_link(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = pair(scene, "link")?;
    let second = format!("{allowed}.second");
    let mark = scene.mark();
    scene.act(SKILL, &["link", &denied, &second])?.refused()?;
    gone(&second)?;
    // The name may be made; it is the file that may not have it.
    let event = scene.event(mark, "write", "deny", &denied)?;
    ensure!(event.text("reason").contains("link"), "{}", event.0);
    scene.act(SKILL, &["link", &allowed, &second])?.done()?;
    scene.act(SKILL, &["unlink", &second])?.done()?;
    gone(&second)?;
    // One that was made from outside goes, and the object keeps its first name and its content.
    fs::hard_link(&denied, &second)?;
    scene.act(SKILL, &["unlink", &second])?.done()?;
    gone(&second)?;
    holds(&denied, "denied/link/file")?;
    scene.act(SKILL, &["unlink", &denied])?.refused()?;
    there(&denied)
}

fn too_deep(scene: &Scene) -> anyhow::Result<()> {
    let near = scene.make_dir("allowed/near")?;
    let far = scene.make_dir("allowed/far")?;
    scene.outside(&["deep", &near, "40"])?.done()?;
    scene.outside(&["deep", &far, "80"])?.done()?;
    scene.act(SKILL, &["unlink-deep", &near, "40"])?.done()?;
    let mark = scene.mark();
    scene.act(SKILL, &["unlink-deep", &far, "80"])?.refused()?;
    let event = scene.events().wait(mark, "a refusal for depth", |e| e.text("verdict") == "deny")?;
    ensure!(event.text("reason").contains("path is too deep"), "the reason is {:?}", event.text("reason"));
    scene.outside(&["unlink-deep", &far, "80"])?.done()?;
    Ok(())
}

fn io_uring(scene: &Scene) -> anyhow::Result<()> {
    for way in ["uring", "uring-worker", "uring-sqpoll"] {
        let (allowed, denied) = pair(scene, way)?;
        twins(scene, (&allowed, &[way, "unlink", &allowed]), (&denied, &[way, "unlink", &denied]))?;
        let (allowed, denied) = pair(scene, &format!("{way}-rename"))?;
        let to = |path: &str| format!("{path}.new");
        twins(
            scene,
            (&allowed, &[way, "rename", &allowed, &to(&allowed)]),
            (&denied, &[way, "rename", &denied, &to(&denied)]),
        )?;
    }
    Ok(())
}

fn rm_rf(scene: &Scene) -> anyhow::Result<()> {
    for side in ["allowed", "denied"] {
        for file in ["a", "b/c", "b/d/e"] {
            scene.make_file(&format!("{side}/tree/{file}"))?;
        }
    }
    let (allowed, denied) = (scene.make_dir("allowed/tree")?, scene.make_dir("denied/tree")?);
    scene.act(SKILL, &["exec", "/usr/bin/rm", "-rf", &allowed])?.done()?;
    gone(&allowed)?;
    let mark = scene.mark();
    let outcome = scene.act(SKILL, &["exec", "/usr/bin/rm", "-rf", &denied])?;
    ensure!(outcome.status == 1 && outcome.out.contains("Operation not permitted"), "rm said {outcome:?}");
    for file in ["a", "b/c", "b/d/e"] {
        there(&format!("{denied}/{file}"))?;
        scene.event(mark, "delete", "deny", &format!("{denied}/{file}"))?;
    }
    Ok(())
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    let (_, denied) = pair(scene, "outside")?;
    let mark = scene.mark();
    scene.outside(&["unlink", &denied])?.done()?;
    gone(&denied)?;
    // An event of a later act proves that none came for this one.
    let (_, other) = pair(scene, "outside-after")?;
    scene.act(SKILL, &["unlink", &other])?.refused()?;
    scene.event(mark, "delete", "deny", &other)?;
    ensure!(!scene.events().since(mark).iter().any(|e| e.object("path") == denied), "an ungoverned act was reported");
    Ok(())
}

fn keys(scene: &Scene) -> anyhow::Result<()> {
    let (_, denied) = pair(scene, "keys")?;
    let mark = scene.mark();
    scene.act(SKILL, &["unlink", &denied])?.refused()?;
    let event = scene.event(mark, "delete", "deny", &denied)?;
    for key in [
        "time",
        "id",
        "kind",
        "verdict",
        "skill",
        "reason",
        "pid",
        "tid",
        "ppid",
        "uid",
        "comm",
        "exe",
        "cgroup",
        "generation",
        "object",
    ] {
        ensure!(!event.0[key].is_null(), "no {key} in {}", event.0);
    }
    ensure!(event.text("skill") == SKILL && event.text("comm") == "enforcer-tests", "{}", event.0);
    ensure!(event.text("exe") == "/usr/lib/enforcer/enforcer-tests", "the program is {:?}", event.text("exe"));
    ensure!(event.text("advice") == "ask before you delete", "the advice is {:?}", event.text("advice"));
    ensure!(event.number("pid") == event.number("tid"), "{}", event.0);
    ensure!(event.number("ppid") == u64::from(scene.worker(SKILL)?.pid()), "{}", event.0);
    let meta = fs::metadata(&denied)?;
    ensure!(event.0["object"]["ino"].as_u64() == Some(std::os::unix::fs::MetadataExt::ino(&meta)), "{}", event.0);
    let time = event.text("time");
    // 2026-11-22T05:50:46.055702331Z
    ensure!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "the time is {time:?}");
    Ok(())
}

/// While the agent deletes by one path, a friend swaps what it leads to: a directory that is allowed, and a link to one that is not.
fn swapped(scene: &Scene) -> anyhow::Result<()> {
    const TRIES: usize = 300;
    let (inside, denied) = (scene.make_dir("allowed/swapped")?, scene.make_dir("denied/swapped")?);
    let (way, link) = (format!("{inside}/way"), format!("{inside}/link"));
    fs::create_dir(&way)?;
    std::os::unix::fs::symlink(&denied, &link)?;
    let victim = scene.make_file("denied/swapped/f")?;
    let friend = Worker::start(&Entry::Outside)?;
    let (a, b) = (way.clone(), link.clone());
    let swaps = thread::spawn(move || friend.act(&["repeat", "20000", "rename-exchange", &a, &b]));
    let mut gone = 0;
    for _ in 0..TRIES {
        // The directory is now at one name, now at the other.
        for dir in [&way, &link] {
            if fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()) {
                let _ = fs::write(format!("{dir}/f"), "f");
            }
        }
        gone += usize::from(scene.act(SKILL, &["unlink", &format!("{way}/f")])?.status == 0);
        if fs::symlink_metadata(&victim).is_err() {
            break;
        }
        if swaps.is_finished() {
            break;
        }
    }
    swaps.join().map_err(|_| anyhow::anyhow!("the friend panicked"))??.done()?;
    there(&victim)?;
    ensure!(gone > 0, "nothing was deleted: the test shows nothing");
    Ok(())
}
