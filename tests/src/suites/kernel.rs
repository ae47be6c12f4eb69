//! Last of all: what the kernel itself had to say about all this.

use anyhow::ensure;

use crate::harness::{runner::Suite, scene::Scene, succeed};

pub(super) const SUITE: Suite = Suite {
    name: "kernel",
    policy: None,
    tests: &[("has_no_complaints", complaints), ("nothing_stays_attached", detached)],
};

/// Words that a healthy kernel's log does not have.
const COMPLAINTS: [&str; 8] =
    ["BUG:", "Oops", "WARNING:", "general protection", "rcu: INFO", "blocked for more than", "KASAN", "use-after-free"];

fn complaints(_: &Scene) -> anyhow::Result<()> {
    let log = succeed(&["dmesg"])?;
    let found: Vec<&str> = log.lines().filter(|line| COMPLAINTS.iter().any(|word| line.contains(word))).collect();
    ensure!(found.is_empty(), "the kernel's log says:\n{}", found.join("\n"));
    Ok(())
}

/// All was unloaded: what a skill refused is nobody's business now.
fn detached(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.make_file("file")?;
    scene.outside(&["unlink", &file])?.done()?;
    scene.outside(&["exec", "/usr/bin/id", "--version"])?.done()?;
    Ok(())
}
