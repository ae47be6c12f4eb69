//! A guest that systemd runs, as a server has it.

use anyhow::ensure;

use crate::harness::{ENFORCER, command, runner::Suite, scene::Scene};

pub(super) const SUITE: Suite =
    Suite { name: "systemd", policy: Some(policy), tests: &[("enforces_under_systemd", enforces)] };

#[expect(clippy::unnecessary_wraps, reason = "the signature of every suite's policy")]
fn policy(_: &Scene) -> anyhow::Result<String> {
    Ok("version: 1\nskills:\n  agent:\n    allow_binaries: [/usr/bin/bash, /usr/bin/wc]\n".to_owned())
}

fn enforces(scene: &Scene) -> anyhow::Result<()> {
    // Its answer is `degraded` when a unit failed: then this is not the system that the other tests expect.
    let state = command(&["systemctl", "is-system-running", "--wait"])?;
    ensure!(state.out.trim() == "running", "{state:?}: {:?}", command(&["systemctl", "--failed", "--no-legend"])?);
    let run = |program| command(&[ENFORCER, "run", "--skill", "agent", "--", "/usr/bin/bash", "-c", program]);
    let allowed = run("/usr/bin/wc --version; true")?;
    ensure!(allowed.out.contains("GNU coreutils"), "{allowed:?}");
    let mark = scene.mark();
    let refused = run("/usr/bin/id --version; true")?;
    ensure!(refused.out.is_empty(), "{refused:?}");
    scene.event(mark, "exec", "deny", "/usr/bin/id").map(drop)
}
