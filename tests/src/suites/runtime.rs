//! Agents' own runtimes, as Debian has them.

use std::fs;

use anyhow::ensure;

use crate::harness::{
    ENFORCER, command,
    runner::Suite,
    scene::{Scene, gone, holds, there},
};

pub(super) const SUITE: Suite = Suite { name: "runtime", policy: Some(policy), tests: &[("python", python)] };

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let work = scene.make_dir("work")?;
    Ok(format!(
        "version: 1\nskills:\n  agent:\n    allow_binaries: [/usr/bin/python3, /usr/bin/git]\n    \
         allow_delete: [{work}]\n    allow_write: [{work}, /dev/null]\n"
    ))
}

const PYTHON: &str = r#"
import os, subprocess, sys
work = sys.argv[1]
print(subprocess.run(["git", "init", "--quiet", work + "/tree"]).returncode)
open(work + "/note", "w").write("written")
os.unlink(work + "/scrap")
for act in (lambda: subprocess.run(["curl", "--version"]), lambda: os.unlink(work + "/../keep")):
    try:
        act()
        print("done")
    except PermissionError:
        print("refused")
"#;

fn python(scene: &Scene) -> anyhow::Result<()> {
    let work = scene.make_dir("work")?;
    let (scrap, keep) = (scene.make_file("work/scrap")?, scene.make_file("keep")?);
    let script = scene.make_file("script.py")?;
    fs::write(&script, PYTHON)?;
    let mark = scene.mark();
    let outcome = command(&[ENFORCER, "run", "--skill", "agent", "--", "/usr/bin/python3", &script, &work])?;
    ensure!(outcome.status == 0 && outcome.out == "0\nrefused\nrefused\n", "{outcome:?}");
    there(&format!("{work}/tree/.git/HEAD"))?;
    holds(&format!("{work}/note"), "written")?;
    gone(&scrap)?;
    there(&keep)?;
    scene.event(mark, "exec", "deny", "/usr/bin/curl")?;
    scene.event(mark, "delete", "deny", &keep).map(drop)
}
