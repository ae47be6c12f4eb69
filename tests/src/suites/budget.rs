//! `delete_budget`: so many deletes within the window, exactly, whoever makes them.

use std::fs;

use anyhow::ensure;

use crate::harness::{runner::Suite, scene::Scene};

pub(super) const SUITE: Suite = Suite {
    name: "budget",
    policy: Some(policy),
    tests: &[
        ("rm_rf_of_a_thousand_files", rm_rf),
        ("many_threads", threads),
        ("a_refused_delete_costs_nothing", refused),
        ("the_window_passes", window),
        ("a_reload_does_not_give_it_back", reload),
    ],
};

/// A skill for each test, because each has a budget of its own.
const SKILLS: [(&str, &str); 5] =
    [("remover", "50/min"), ("threader", "64/min"), ("clumsy", "3/min"), ("patient", "2/3s"), ("reloader", "2/min")];

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let allowed = scene.make_dir("allowed")?;
    scene.make_dir("denied")?;
    let skill = |(name, budget): &(&str, &str)| {
        format!(
            "  {name}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}, {{path: /usr/bin/rm}}]\n    \
             allow_delete: [{allowed}]\n    delete_budget: {budget}\n"
        )
    };
    Ok(format!("version: 1\nskills:\n{}", SKILLS.iter().map(skill).collect::<String>()))
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
        std::thread::sleep(std::time::Duration::from_millis(3100));
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
