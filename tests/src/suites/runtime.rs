//! Agents' own runtimes, as Debian has them.

use std::fs;

use anyhow::ensure;

use crate::harness::{
    ENFORCER, Output, command,
    runner::Suite,
    scene::{Scene, gone, holds, there},
};

pub(super) const SUITE: Suite = Suite {
    name: "runtime",
    policy: Some(policy),
    tests: &[("python", python), ("node", node), ("node_without_allow_jit", node_strict), ("perl", perl), ("git", git)],
};

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let work = scene.make_dir("work")?;
    let paths = format!("allow_delete: [{work}]\n    allow_write: [{work}, /dev/null]\n");
    Ok(format!(
        "version: 1\nskills:\n  \
         agent:\n    allow_binaries: [/usr/bin/python3, /usr/bin/git]\n    {paths}  \
         node:\n    allow_binaries: [/usr/bin/node]\n    allow_jit: true\n    {paths}  \
         strict:\n    allow_binaries: [/usr/bin/node, /usr/bin/perl]\n    {paths}"
    ))
}

/// Runs a program in a skill.
fn run(skill: &str, words: &[&str]) -> anyhow::Result<Output> {
    command(&[&[ENFORCER, "run", "--skill", skill, "--"], words].concat())
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
    let outcome = run("agent", &["/usr/bin/python3", &script, &work])?;
    ensure!(outcome.status == 0 && outcome.out == "0\nrefused\nrefused\n", "{outcome:?}");
    there(&format!("{work}/tree/.git/HEAD"))?;
    holds(&format!("{work}/note"), "written")?;
    gone(&scrap)?;
    there(&keep)?;
    scene.event(mark, "exec", "deny", "/usr/bin/curl")?;
    scene.event(mark, "delete", "deny", &keep).map(drop)
}

/// Loops long enough to be compiled, and has code of its own compiled.
const NODE: &str = r#"
const fs = require("fs"), { spawnSync } = require("child_process"), work = process.argv[2];
let sum = 0;
for (let i = 0; i < 3e6; i++) sum = (sum + i * i) % 1000003;
const wasm = new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
console.log(sum, wasm instanceof WebAssembly.Module, require("crypto").createHash("sha256").digest("hex").slice(0, 8));
fs.writeFileSync(work + "/note.js", "written");
fs.unlinkSync(work + "/scrap.js");
console.log(spawnSync("/usr/bin/curl", ["--version"]).error.code);
try { fs.unlinkSync(work + "/../keep.js"); console.log("done"); } catch (e) { console.log(e.code); }
"#;

fn node(scene: &Scene) -> anyhow::Result<()> {
    let work = scene.make_dir("work")?;
    let (scrap, keep) = (scene.make_file("work/scrap.js")?, scene.make_file("keep.js")?);
    let script = scene.make_file("script.js")?;
    fs::write(&script, NODE)?;
    let mark = scene.mark();
    let outcome = run("node", &["/usr/bin/node", &script, &work])?;
    let lines: Vec<_> = outcome.out.lines().collect();
    ensure!(outcome.status == 0 && lines.len() == 3 && lines[1..] == ["EPERM", "EPERM"], "{outcome:?}");
    ensure!(lines[0].ends_with(" true e3b0c442"), "{outcome:?}");
    holds(&format!("{work}/note.js"), "written")?;
    gone(&scrap)?;
    there(&keep)?;
    scene.event(mark, "exec", "deny", "/usr/bin/curl")?;
    scene.event(mark, "delete", "deny", &keep).map(drop)
}

/// Its compiler gets no memory to write code into; without the compiler it runs.
fn node_strict(scene: &Scene) -> anyhow::Result<()> {
    let hello = ["-e", "console.log('hello')"];
    let mark = scene.mark();
    let outcome = run("strict", &[&["/usr/bin/node"], &hello[..]].concat())?;
    ensure!(outcome.status != 0 && outcome.out.is_empty(), "{outcome:?}");
    scene.events().wait(mark, "the refusal", |e| {
        e.text("kind") == "map" && e.text("verdict") == "deny" && e.text("reason") == "memory may not become executable"
    })?;
    let outcome = run("strict", &[&["/usr/bin/node", "--jitless"], &hello[..]].concat())?;
    ensure!(outcome.status == 0 && outcome.out == "hello\n", "{outcome:?}");
    Ok(())
}

/// Its modules with code of their own are libraries.
fn perl(scene: &Scene) -> anyhow::Result<()> {
    let work = scene.make_dir("work")?;
    let program = "use POSIX; use List::Util 'sum'; use Socket; \
                   open(my $out, '>', \"$ARGV[0]/note.pl\") or die; print $out sum(1..4), ' ', floor(2.5); close $out; \
                   exec '/usr/bin/curl', '--version'; print $!{EPERM} ? 'refused' : 'other'";
    let mark = scene.mark();
    let outcome = run("strict", &["/usr/bin/perl", "-e", program, &work])?;
    ensure!(outcome.out == "refused", "{outcome:?}");
    holds(&format!("{work}/note.pl"), "10 2")?;
    scene.event(mark, "exec", "deny", "/usr/bin/curl").map(drop)
}

/// It runs itself for what it does in parts.
fn git(scene: &Scene) -> anyhow::Result<()> {
    let tree = format!("{}/repository", scene.make_dir("work")?);
    let copy = format!("{}/clone", scene.make_dir("work")?);
    let user = ["/usr/bin/git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "safe.directory=*"];
    let git = |words: &[&str]| -> anyhow::Result<String> {
        let outcome = run("agent", &[&user[..], words].concat())?;
        ensure!(outcome.status == 0, "{words:?}: {outcome:?}");
        Ok(outcome.out)
    };
    git(&["init", "--quiet", &tree])?;
    fs::write(format!("{tree}/file"), "one\n")?;
    git(&["-C", &tree, "add", "file"])?;
    git(&["-C", &tree, "commit", "--quiet", "--message", "first"])?;
    git(&["clone", "--quiet", &tree, &copy])?;
    git(&["-C", &copy, "gc", "--quiet"])?;
    let log = git(&["-C", &copy, "log", "--format=%s"])?;
    ensure!(log == "first\n", "{log:?}");
    holds(&format!("{copy}/file"), "one\n")
}
