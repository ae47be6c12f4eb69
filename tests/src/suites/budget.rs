//! `delete_budget`: so many deletes within the window, exactly, whoever makes them.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::harness::{
    breach::Breach,
    events::Mark,
    runner::Suite,
    scene::{Scene, gone, holds, there},
    worker::Outcome,
};

pub(super) const SUITE: Suite = Suite {
    name: "budget",
    policy: Some(policy),
    tests: &[
        ("rm_rf_of_a_thousand_files", rm_rf),
        ("many_threads", threads),
        ("a_refused_delete_costs_nothing", refused),
        ("the_window_passes", window),
        ("a_reload_does_not_give_it_back", reload),
        ("every_way_to_delete_counts", ways),
        ("every_way_to_delete_counts_the_same", mixed),
        ("the_edge_of_the_window", edge),
    ],
};

/// A skill for each test, because each has a budget of its own.
const SKILLS: [(&str, &str); 6] = [
    ("remover", "50/min"),
    ("threader", "64/min"),
    ("clumsy", "3/min"),
    ("patient", "2/3s"),
    ("reloader", "2/min"),
    ("edgy", "2/2s"),
];
/// Ways to delete beside unlink: `@` is the object, `@new` another name, `@other` another file.
const WAYS: [(&str, &[&str]); 6] = [
    ("rmdir", &["rmdir", "@"]),
    ("rename-over", &["rename", "@other", "@"]),
    ("rename-away", &["rename", "@", "@new"]),
    ("truncate", &["truncate", "@"]),
    ("open-truncate", &["open-truncate", "@"]),
    ("ftruncate", &["ftruncate", "@"]),
];
/// Who carries each of them out.
const HOWS: [(&str, &[&str]); 4] =
    [("by-call", &[]), ("inline", &["uring"]), ("worker", &["uring-worker"]), ("polling", &["uring-sqpoll"])];
/// As many as there are kinds of deletes in `mixed`.
const MIXED: usize = 5;

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let allowed = scene.make_dir("allowed")?;
    scene.make_dir("denied")?;
    let skill = |(name, budget): &(&str, &str)| {
        format!(
            "  {name}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}, {{path: /usr/bin/rm}}]\n    \
             allow_delete: [{allowed}]\n    delete_budget: {budget}\n"
        )
    };
    let names = WAYS.iter().map(|(way, _)| (*way, "2/h".to_owned()));
    let names = names.chain(HOWS.iter().map(|(how, _)| (*how, format!("{MIXED}/h"))));
    let ways: String = names.map(|(name, budget)| skill(&(name, &budget))).collect();
    Ok(format!("version: 1\nskills:\n{}{ways}", SKILLS.iter().map(skill).collect::<String>()))
}

/// Makes files and returns their directory.
fn files(scene: &Scene, test: &str, count: usize) -> anyhow::Result<String> {
    for n in 0..count {
        scene.make_file(&format!("allowed/{test}/{n}"))?;
    }
    scene.make_dir(&format!("allowed/{test}"))
}

fn left(dir: &str) -> anyhow::Result<usize> {
    Ok(fs::read_dir(dir)?.count())
}

fn rm_rf(scene: &Scene) -> anyhow::Result<()> {
    let dir = files(scene, "rm", 1000)?;
    let mark = scene.mark();
    scene.act("remover", &["exec", "/usr/bin/rm", "-rf", &dir])?.failed(1)?;
    ensure!(left(&dir)? == 950, "{} of 1000 files are left", left(&dir)?);
    let event =
        scene.events().wait(mark, "the refusal", |e| e.text("kind") == "delete" && e.text("verdict") == "deny")?;
    ensure!(event.text("reason").contains("budget"), "the reason is {:?}", event.text("reason"));
    ensure!(event.text("rule").contains("delete_budget"), "the rule is {:?}", event.text("rule"));
    Ok(())
}

fn threads(scene: &Scene) -> anyhow::Result<()> {
    let dir = files(scene, "threads", 400)?;
    let outcome = scene.act("threader", &["unlink-each", &dir, "8"])?;
    ensure!(outcome.done()?.out.trim() == "64" && left(&dir)? == 336, "{} went: {outcome:?}", 400 - left(&dir)?);
    // Not one more, from another process either.
    let outcome = scene.act("threader", &["double-fork", "unlink-each", &dir, "1"])?;
    ensure!(outcome.out.trim() == "0" && left(&dir)? == 336, "{outcome:?}");
    Ok(())
}

fn refused(scene: &Scene) -> anyhow::Result<()> {
    let dir = files(scene, "clumsy", 5)?;
    let denied = scene.make_file("denied/clumsy")?;
    scene.act("clumsy", &["unlink-many", &denied, "2", "10"])?.refused()?;
    let outcome = scene.act("clumsy", &["unlink-each", &dir, "1"])?;
    ensure!(outcome.done()?.out.trim() == "3", "{outcome:?}");
    Ok(())
}

fn window(scene: &Scene) -> anyhow::Result<()> {
    let dir = files(scene, "window", 5)?;
    for wanted in [3, 1] {
        scene.act("patient", &["unlink-each", &dir, "1"])?.done()?;
        ensure!(left(&dir)? == wanted, "{} are left instead of {wanted}", left(&dir)?);
        std::thread::sleep(Duration::from_millis(3100));
    }
    Ok(())
}

fn reload(scene: &Scene) -> anyhow::Result<()> {
    let dir = files(scene, "reload", 5)?;
    scene.act("reloader", &["unlink-each", &dir, "1"])?.done()?;
    ensure!(left(&dir)? == 3, "{} are left", left(&dir)?);
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    scene.act("reloader", &["unlink-each", &dir, "1"])?.done()?;
    ensure!(left(&dir)? == 3, "{} are left after a reload", left(&dir)?);
    Ok(())
}

/// The refusal names the budget.
fn over(scene: &Scene, mark: Mark, path: &str) -> anyhow::Result<()> {
    let event = scene.event(mark, "delete", "deny", path)?;
    ensure!(event.text("reason").contains("budget"), "{}", event.0);
    ensure!(event.text("rule").contains("delete_budget"), "{}", event.0);
    Ok(())
}

/// An object for a way to delete, and the act on it.
fn prepared(scene: &Scene, dir: &str, way: &str, act: &[&str]) -> anyhow::Result<(String, Vec<String>)> {
    let name = format!("allowed/{dir}/{way}");
    let path = if way == "rmdir" { scene.make_dir(&name)? } else { scene.make_file(&name)? };
    let other = scene.make_file(&format!("{name}-other"))?;
    let act = act.iter().map(|word| match *word {
        "@" => path.clone(),
        "@new" => format!("{path}-new"),
        "@other" => other.clone(),
        word => word.to_owned(),
    });
    Ok((path.clone(), act.collect()))
}

/// The object is as it was, or deleted as this way does it.
fn is_whole(way: &str, dir: &str, path: &str, whole: bool) -> anyhow::Result<()> {
    let name = format!("allowed/{dir}/{way}");
    match (way, whole) {
        ("rmdir", true) => there(path),
        (_, true) => holds(path, &name),
        ("rmdir" | "rename-away" | "unlink", false) => gone(path),
        ("rename-over", false) => holds(path, &format!("{name}-other")),
        (_, false) => holds(path, ""),
    }
}

fn act(scene: &Scene, skill: &str, how: &[&str], act: &[String]) -> anyhow::Result<Outcome> {
    let words: Vec<&str> = how.iter().copied().chain(act.iter().map(String::as_str)).collect();
    scene.act(skill, &words)
}

/// Two of a kind are the budget: a third is refused, and so is an unlink.
fn ways(scene: &Scene) -> anyhow::Result<()> {
    for (way, words) in WAYS {
        for n in 0..3 {
            let dir = format!("ways-{way}-{n}");
            let (path, words) = prepared(scene, &dir, way, words)?;
            let mark = scene.mark();
            let outcome = act(scene, way, &[], &words)?;
            is_whole(way, &dir, &path, n == 2)?;
            if n == 2 {
                outcome.refused()?;
                // What is moved is what is counted.
                over(scene, mark, if way == "rename-over" { &words[1] } else { &path })?;
            } else {
                outcome.done()?;
            }
        }
        let file = scene.make_file(&format!("allowed/ways-{way}/unlink"))?;
        let mark = scene.mark();
        scene.act(way, &["unlink", &file])?.refused()?;
        there(&file)?;
        over(scene, mark, &file)?;
        // What deletes nothing is free.
        let empty = scene.make_file(&format!("allowed/ways-{way}/empty"))?;
        fs::write(&empty, "")?;
        for act in [&["truncate", &empty][..], &["open-truncate", &empty], &["append", &empty, "+"]] {
            scene.act(way, act)?.done()?;
        }
        holds(&empty, "+")?;
    }
    Ok(())
}

/// One of each kind is the budget, whoever carries them out: then each is refused.
fn mixed(scene: &Scene) -> anyhow::Result<()> {
    let unlink: (&str, &[&str]) = ("unlink", &["unlink", "@"]);
    // A ring has no truncation by path, and one by descriptor from 6.9 on only.
    let kinds =
        || [unlink].into_iter().chain(WAYS.into_iter().filter(|(way, _)| !["truncate", "ftruncate"].contains(way)));
    ensure!(kinds().count() == MIXED, "the budget is for another count");
    for (skill, how) in HOWS {
        for whole in [false, true] {
            for (way, words) in kinds() {
                let dir = format!("mixed-{skill}-{whole}");
                let (path, words) = prepared(scene, &dir, way, words)?;
                let mark = scene.mark();
                let outcome = act(scene, skill, how, &words)?;
                is_whole(way, &dir, &path, whole)?;
                if whole {
                    outcome.refused()?;
                    over(scene, mark, if way == "rename-over" { &words[1] } else { &path })?;
                } else {
                    outcome.done()?;
                }
            }
        }
    }
    Ok(())
}

/// Each delete comes back when its own window has passed, and not before. What is known of a moment is what lies before and
/// behind it, so that a slow machine shows less and nothing wrong.
fn edge(scene: &Scene) -> anyhow::Result<()> {
    const WINDOW: Duration = Duration::from_secs(2);
    const BETWEEN: Duration = Duration::from_millis(500);
    let delete = || {
        let file = scene.make_file("allowed/edge/f")?;
        let begun = Instant::now();
        let outcome = scene.act("edgy", &["unlink", &file])?;
        let ended = Instant::now();
        if outcome.status == 0 {
            gone(&file)?;
        } else {
            outcome.refused().and_then(|_| there(&file))?;
        }
        anyhow::Ok((outcome.status == 0, begun, ended))
    };
    // Before the first, so that none of its time counts.
    scene.act("edgy", &["nothing"])?.done()?;
    let first = delete()?;
    std::thread::sleep(BETWEEN);
    let second = delete()?;
    ensure!(first.0 && second.0, "the budget was spent before");
    let mut refused = 0;
    for (_, begun, ended) in [first, second] {
        loop {
            let (done, tried, answered) = delete()?;
            if done && answered.duration_since(begun) < WINDOW {
                return Err(Breach("a delete came back within its window".to_owned()).into());
            }
            ensure!(done || tried.duration_since(ended) < WINDOW, "a delete did not come back after its window");
            if done {
                break;
            }
            refused += 1;
            // The ring of events is not what this is about.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    ensure!(refused > 0, "nothing was refused: the test shows nothing");
    Ok(())
}
