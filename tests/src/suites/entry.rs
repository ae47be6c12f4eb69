//! Ways into a skill beside its cgroup and `enforcer run`: `enforcer attach`, and the skill's entrypoint.

use std::{fs, os::fd::OwnedFd, path::Path};

use anyhow::ensure;

use super::tamper::device_of;
use crate::{
    act::{Failure, TOKEN, new_map, new_ring},
    harness::{
        BROUGHT, ENFORCER, Output, SELF, act_bringing, bring, command,
        events::Mark,
        files::Mount,
        holder::Patient,
        runner::Suite,
        scene::{Scene, gone, holds, there},
        succeed,
        worker::{Entry, Worker},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "entry",
    policy: Some(policy),
    tests: &[
        ("attach_a_process", process),
        ("attach_a_cgroup", cgroup),
        ("attach_what_is_not_there", not_there),
        ("attach_a_governed_process", governed),
        ("an_entrypoint_leads_to_its_skill", entrypoint),
        ("an_entrypoint_that_is_not_allowed", entrypoint_denied),
        ("an_entrypoint_outside_every_skill", entrypoint_outside),
        ("an_entrypoint_of_a_traced_process", entrypoint_traced),
        ("a_script_as_an_entrypoint", entrypoint_script),
        ("an_entrypoint_with_what_is_open", entrypoint_with_open),
        ("run_with_an_open_file", run_with_file),
        ("attach_with_an_open_file", attach_with_file),
        ("a_cgroup_with_an_open_file", cgroup_with_file),
        ("what_no_rule_can_allow", forbidden),
        ("a_ring_that_is_received", ring_received),
    ],
};

const SKILL: &str = "attached";
const BRINGING: &str = "bringing";
const BRINGING_CGROUP: &str = "/sys/fs/cgroup/tests-bringing";
/// Where the skill before the entrypoint may connect to; the one behind it, to the first alone.
const OPEN: u16 = 18_196;
const SHUT: u16 = 18_197;
const BINARIES: &str = "{path: /usr/lib/enforcer/enforcer-tests}, {path: /usr/bin/bash}";

/// A script that removes the file that it is told, and its digest.
fn script(scene: &Scene, name: &str, interpreter: &str) -> anyhow::Result<(String, String)> {
    let path = scene.dir.join(name).to_string_lossy().into_owned();
    if !Path::new(&path).exists() {
        fs::write(&path, format!("#!{interpreter}\nexec {SELF} act unlink \"$1\"\n"))?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let hashed = succeed(&["sha256sum", &path])?;
    Ok((path, hashed.split_whitespace().next().unwrap_or_default().to_owned()))
}

/// The entrypoint is a copy of bash with a byte behind it: a program of its own that does what it is told.
fn policy(scene: &Scene) -> anyhow::Result<String> {
    let door = scene.dir.join("door");
    if !door.exists() {
        let mut content = fs::read("/usr/bin/bash")?;
        content.push(0);
        fs::write(&door, content)?;
        fs::set_permissions(&door, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let hashed = succeed(&["sha256sum", &door.to_string_lossy()])?;
    let digest = hashed.split_whitespace().next().unwrap_or_default();
    let (one, two) = (scene.make_dir("one")?, scene.make_dir("two")?);
    let (_, of_bash) = script(scene, "script", "/usr/bin/bash")?;
    let (_, of_door) = script(scene, "script-of-the-door", &door.to_string_lossy())?;
    fs::create_dir_all(BRINGING_CGROUP)?;
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [{BINARIES}, \"sha256:{digest}\", \"sha256:{of_bash}\", \"sha256:{of_door}\"]\n    allow_delete: [{one}]\n    \
         allow_jit: true\n    network_scope: [\"127.0.0.1:{OPEN}\", \"127.0.0.1:{SHUT}\"]\n  bringing:\n    match: {{cgroup: /tests-bringing}}\n    allow_binaries: [{BINARIES}]\n    \
         allow_write: [{one}]\n    allow_delete: [{one}]\n  \
         closed:\n    allow_binaries: [{BINARIES}]\n    allow_delete: [{one}]\n  \
         scripted:\n    match: {{entrypoint: \"sha256:{of_bash}\"}}\n    allow_binaries: [{BINARIES}]\n    allow_delete: [{two}]\n  \
         beyond:\n    match: {{entrypoint: \"sha256:{digest}\"}}\n    allow_binaries: [{BINARIES}, {{path: /usr/bin/rm}}]\n    \
         allow_delete: [{two}]\n    allow_write: [{two}]\n    network_scope: [\"127.0.0.1:{OPEN}\"]\n"
    ))
}

fn attach(words: &[&str]) -> anyhow::Result<Output> {
    command(&[&[ENFORCER, "attach", "--skill", SKILL], words].concat())
}

/// The worker may delete in `one` and not in `two`.
fn is_attached(scene: &Scene, worker: &Worker) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("one/f")?, scene.make_file("two/f")?);
    worker.act(&["unlink", &denied])?.refused()?;
    there(&denied)?;
    worker.act(&["unlink", &allowed])?.done()?;
    gone(&allowed)
}

fn process(scene: &Scene) -> anyhow::Result<()> {
    let worker = Worker::start(&Entry::Outside)?;
    let file = scene.make_file("two/before")?;
    worker.act(&["unlink", &file])?.done()?;
    let outcome = attach(&["--pid", &worker.pid().to_string()])?;
    ensure!(outcome.status == 0 && outcome.out.contains(SKILL), "{outcome:?}");
    is_attached(scene, &worker)?;
    let again = attach(&["--pid", &worker.pid().to_string()])?;
    ensure!(again.status == 0, "into the skill that it is in: {again:?}");
    is_attached(scene, &worker)
}

fn cgroup(scene: &Scene) -> anyhow::Result<()> {
    let dir = "/sys/fs/cgroup/tests-attach";
    fs::create_dir_all(format!("{dir}/below"))?;
    let inside = Worker::start(&Entry::Cgroup(&format!("{dir}/below")))?;
    let outcome = attach(&["--cgroup", "/tests-attach"])?;
    ensure!(outcome.status == 0, "{outcome:?}");
    is_attached(scene, &inside)?;
    let later = Worker::start(&Entry::Cgroup(dir))?;
    is_attached(scene, &later)?;
    // A reload does not forget it.
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    is_attached(scene, &Worker::start(&Entry::Cgroup(dir))?)
}

fn not_there(_: &Scene) -> anyhow::Result<()> {
    let mut child = std::process::Command::new("/usr/bin/true").spawn()?;
    let dead = child.id().to_string();
    child.wait()?;
    for words in [["--pid", &dead], ["--pid", "4194303"], ["--cgroup", "/no/such/cgroup"], ["--cgroup", "/"]] {
        let outcome = attach(&words)?;
        ensure!(outcome.status == 1 && outcome.out.is_empty(), "{words:?}: {outcome:?}");
        ensure!(outcome.err.trim().lines().count() == 1, "{words:?}: {:?}", outcome.err);
    }
    let outcome = command(&[ENFORCER, "attach", "--skill", "nobody", "--pid", "1"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("nobody"), "{outcome:?}");
    Ok(())
}

fn governed(scene: &Scene) -> anyhow::Result<()> {
    let worker = scene.worker("closed")?;
    let outcome = attach(&["--pid", &worker.pid().to_string()])?;
    ensure!(outcome.status == 1 && outcome.err.contains("already governed"), "{outcome:?}");
    Ok(())
}

/// Runs a script in the door; its skill is `beyond` if it came through.
fn through(scene: &Scene, skill: &str, script: &str) -> anyhow::Result<crate::harness::worker::Outcome> {
    let door = scene.dir.join("door").to_string_lossy().into_owned();
    scene.act(skill, &["exec", &door, "-c", script])
}

fn entrypoint(scene: &Scene) -> anyhow::Result<()> {
    let (one, two) = (scene.make_file("one/door")?, scene.make_file("two/door")?);
    let mark = scene.mark();
    // `rm` is allowed beyond the door alone, too.
    through(scene, SKILL, &format!("/usr/bin/rm {two}; /usr/bin/rm {one} && exit 9; exit 0"))?.done()?;
    gone(&two)?;
    there(&one)?;
    let event = scene.event(mark, "delete", "deny", &one)?;
    ensure!(event.text("skill") == "beyond", "{}", event.0);
    scene.events().wait(mark, "the entry", |e| e.text("kind") == "enter" && e.text("skill") == "beyond")?;
    Ok(())
}

fn entrypoint_denied(scene: &Scene) -> anyhow::Result<()> {
    let outcome = through(scene, "closed", "echo token")?;
    ensure!(outcome.refused()?.out.is_empty(), "{outcome:?}");
    // A failed exec leaves nothing behind: the worker's child stays in its skill.
    let file = scene.make_file("two/closed")?;
    scene.act("closed", &["unlink", &file])?.refused()?;
    there(&file)
}

/// "Exec of this binary by a governed process": others are none of ours.
fn entrypoint_outside(scene: &Scene) -> anyhow::Result<()> {
    let (door, one) = (scene.dir.join("door"), scene.make_file("one/outside")?);
    ensure!(Path::new(&door).exists(), "no door");
    let outcome =
        scene.outside(&["exec", &door.to_string_lossy(), "-c", &format!("/usr/bin/rm {one} && echo token")])?;
    ensure!(outcome.done()?.out.contains("token"), "{outcome:?}");
    gone(&one)
}

/// What runs is the interpreter, which reads what it is told to: who swaps the script or sets `BASH_ENV` would otherwise run his text in
/// the other skill. A script whose interpreter is an entrypoint leads where that leads.
fn entrypoint_script(scene: &Scene) -> anyhow::Result<()> {
    let (script, of_door) = (scene.dir.join("script"), scene.dir.join("script-of-the-door"));
    let (script, of_door) = (script.to_string_lossy(), of_door.to_string_lossy());
    let (one, two) = (scene.make_file("one/script")?, scene.make_file("two/script")?);
    let mark = scene.mark();
    scene.act(SKILL, &["exec", &script, &two])?.refused()?;
    there(&two)?;
    let event = scene.event(mark, "delete", "deny", &two)?;
    ensure!(event.text("skill") == SKILL, "{}", event.0);
    scene.act(SKILL, &["exec", &script, &one])?.done()?;
    gone(&one)?;
    scene.act(SKILL, &["exec", &of_door, &two])?.done()?;
    gone(&two)
}

/// A tracer would carry over what it holds.
fn entrypoint_traced(scene: &Scene) -> anyhow::Result<()> {
    let door = scene.dir.join("door").to_string_lossy().into_owned();
    let (denied, allowed) = (scene.make_file("two/traced")?, scene.make_file("two/untraced")?);
    let mark = scene.mark();
    // `rm` is allowed beyond the door alone.
    scene.act(SKILL, &["traced", "exec", &door, "-c", &format!("/usr/bin/rm {denied}")])?.refused()?;
    there(&denied)?;
    scene.events().wait(mark, "the refusal", |e| e.text("reason") == "a traced process may not change its skill")?;
    // It is not the tracing that is refused.
    scene.act(SKILL, &["traced", "exec", "/usr/bin/bash", "-c", "exit 0"])?.done()?;
    through(scene, SKILL, &format!("/usr/bin/rm {allowed}"))?.done()?;
    gone(&allowed)
}

/// What the skill before had open is looked at by the rules of the one behind it.
fn entrypoint_with_open(scene: &Scene) -> anyhow::Result<()> {
    let door = scene.dir.join("door").to_string_lossy().into_owned();
    let (good, bad) = (Patient::start(&format!("127.0.0.1:{OPEN}"))?, Patient::start(&format!("127.0.0.1:{SHUT}"))?);
    let file = scene.make_file("one/inherited")?;
    // It waits for the end of the one connection, and speaks over both.
    let inside = format!("read -t 60 -u 7 line; echo {TOKEN} >&7; echo {TOKEN} >&8; exit 0");
    let script = format!(
        "exec 7<>/dev/tcp/127.0.0.1/{SHUT} 8<>/dev/tcp/127.0.0.1/{OPEN} 9>>{file}; exec {door} -c '{inside}' 2>&-"
    );
    let mark = scene.mark();
    scene.act(SKILL, &["exec", "/usr/bin/bash", "-c", &script])?.done()?;
    let event = scene.events().wait(mark, "the closing", |e| e.text("kind") == "close")?;
    ensure!(event.text("skill") == "beyond" && event.text("reason") == "not allowed in the skill", "{}", event.0);
    ensure!(bad.received()?.is_empty(), "a connection that is not allowed carries on");
    ensure!(good.received()?.trim_end() == TOKEN, "an allowed connection ended");
    let event = scene.event(mark, "write", "deny", &file)?;
    ensure!(event.text("skill") == "beyond" && event.text("reason") == "path not listed", "{}", event.0);
    // Without anything open it is only told.
    let mark = scene.mark();
    through(scene, SKILL, "exit 0")?.done()?;
    scene.events().wait(mark, "the entry", |e| e.text("kind") == "enter" && e.text("skill") == "beyond")?;
    Ok(())
}

/// A file that is open for appending, in a directory where the skill may write and in one where it may not.
fn open_file(scene: &Scene, name: &str) -> anyhow::Result<(String, OwnedFd)> {
    let path = scene.make_file(name)?;
    let file = fs::File::options().append(true).open(&path)?;
    Ok((path, file.into()))
}

fn brought_event(scene: &Scene, mark: Mark, path: &str, pid: Option<u32>) -> anyhow::Result<()> {
    let event = scene.event(mark, "write", "deny", path)?;
    ensure!(event.text("skill") == BRINGING && event.text("reason") == "path not listed", "{}", event.0);
    ensure!(pid.is_none_or(|pid| event.number("target") == u64::from(pid)), "{}", event.0);
    Ok(())
}

fn run_with_file(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, file) = open_file(scene, "one/run")?;
    let number = BROUGHT.to_string();
    let outcome = act_bringing(file, BRINGING, &["write-fd", &number, "+"])?;
    ensure!(outcome.status == 0, "{outcome:?}");
    holds(&allowed, "one/run+")?;
    let (denied, file) = open_file(scene, "two/run")?;
    let mark = scene.mark();
    let outcome = act_bringing(file, BRINGING, &["write-fd", &number, "+"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("files open"), "{outcome:?}");
    holds(&denied, "two/run")?;
    brought_event(scene, mark, &denied, None)
}

fn attach_with_file(scene: &Scene) -> anyhow::Result<()> {
    let number = BROUGHT.to_string();
    for (name, fine) in [("one/attach", true), ("two/attach", false)] {
        let (path, file) = open_file(scene, name)?;
        let worker = Worker::start_with(&Entry::Outside, |command| bring(command, file))?;
        let mark = scene.mark();
        let outcome = command(&[ENFORCER, "attach", "--skill", BRINGING, "--pid", &worker.pid().to_string()])?;
        ensure!((outcome.status == 0) == fine, "{outcome:?}");
        if !fine {
            ensure!(outcome.err.contains("files open"), "{outcome:?}");
            brought_event(scene, mark, &path, Some(worker.pid()))?;
        }
        worker.act(&["write-fd", &number, "+"])?.done()?;
        holds(&path, &format!("{name}+"))?;
        // It was refused as it was: still outside.
        let other = scene.make_file("two/other")?;
        let outcome = worker.act(&["unlink", &other])?;
        ensure!((outcome.status == 0) != fine, "{outcome:?}");
    }
    Ok(())
}

/// Who comes by its cgroup keeps what it has open, and the file is named.
fn cgroup_with_file(scene: &Scene) -> anyhow::Result<()> {
    let (denied, file) = open_file(scene, "two/cgroup")?;
    let worker = Worker::start_with(&Entry::Outside, |command| bring(command, file))?;
    let mark = scene.mark();
    fs::write(format!("{BRINGING_CGROUP}/cgroup.procs"), worker.pid().to_string())?;
    brought_event(scene, mark, &denied, Some(worker.pid()))?;
    worker.act(&["open-write", &denied])?.refused()?;
    // One that was there when the cgroup came into the skill.
    let dir = "/sys/fs/cgroup/tests-brought";
    fs::create_dir_all(dir)?;
    let (denied, file) = open_file(scene, "two/before")?;
    let worker = Worker::start_with(&Entry::Cgroup(dir), |command| bring(command, file))?;
    let mark = scene.mark();
    let outcome = command(&[ENFORCER, "attach", "--skill", BRINGING, "--cgroup", "/tests-brought"])?;
    ensure!(outcome.status == 0, "{outcome:?}");
    brought_event(scene, mark, &denied, Some(worker.pid()))?;
    worker.act(&["open-write", &denied])?.refused()?;
    let (allowed, _) = open_file(scene, "one/before")?;
    worker.act(&["open-write", &allowed])?.done()?;
    Ok(())
}

/// What no process of the skill may be handed it may not have from before either, where the skill may write everywhere.
fn forbidden(scene: &Scene) -> anyhow::Result<()> {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    const BESIDE: &str = "/sys/fs/cgroup/tests-beside";
    const SKILL: &str = "closed";
    let (interface, device) =
        ("it tells the kernel what to do, and no rule names it", "the device lies below everything that rules name");
    fs::create_dir_all(BESIDE)?;
    let procs = format!("{BESIDE}/cgroup.procs");
    let disk = Mount::ext4(&scene.dir.join("disk").to_string_lossy())?;
    let read = |path: &str| fs::File::open(path).map(OwnedFd::from);
    let write = |path: &str| fs::File::options().write(true).open(path).map(OwnedFd::from);
    let made = |made: Result<OwnedFd, Failure>| made.map_err(|e| anyhow::anyhow!("{e:?}"));
    let before = fs::read(PATTERN)?;
    let number = BROUGHT.to_string();
    for (file, kind, reason) in [
        (write(PATTERN)?, "write", interface),
        (write(&procs)?, "write", interface),
        (read(&device_of(disk.path())?)?, "tamper", device),
        (made(new_map().map(Into::into))?, "tamper", "governed processes have no use of bpf"),
        (made(new_ring())?, "tamper", "an io_uring from elsewhere acts without the skill"),
    ] {
        let mark = scene.mark();
        let outcome = act_bringing(file.try_clone()?, SKILL, &["write-fd", &number, "0"])?;
        ensure!(outcome.status == 1 && outcome.err.contains("files open"), "{reason}: {outcome:?}");
        let told = |mark, pid: Option<u32>| {
            scene.events().wait(mark, reason, |e| {
                let here = pid.is_none_or(|pid| e.number("target") == u64::from(pid));
                here && e.text("kind") == kind && e.text("verdict") == "deny" && e.text("reason") == reason
            })
        };
        told(mark, None)?;
        let worker = Worker::start_with(&Entry::Outside, |command| bring(command, file))?;
        let mark = scene.mark();
        let outcome = command(&[ENFORCER, "attach", "--skill", SKILL, "--pid", &worker.pid().to_string()])?;
        ensure!(outcome.status == 1 && outcome.err.contains("files open"), "{reason}: {outcome:?}");
        told(mark, Some(worker.pid()))?;
    }
    ensure!(fs::read(PATTERN)? == before && fs::read_to_string(&procs)?.is_empty(), "the kernel was told");
    // The same file as it may be open, and a device that keeps nothing.
    for (file, act) in [(read(PATTERN)?, &["nothing"][..]), (write("/dev/null")?, &["write-fd", &number, "0"])] {
        let outcome = act_bringing(file.try_clone()?, SKILL, act)?;
        ensure!(outcome.status == 0, "{act:?}: {outcome:?}");
        let worker = Worker::start_with(&Entry::Outside, |command| bring(command, file))?;
        let outcome = command(&[ENFORCER, "attach", "--skill", SKILL, "--pid", &worker.pid().to_string()])?;
        ensure!(outcome.status == 0, "{act:?}: {outcome:?}");
        worker.act(act)?.done()?;
    }
    Ok(())
}

/// Whose thread polls a ring cannot be seen from its descriptor. The kernel sends none over a socket.
fn ring_received(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.make_file("two/received")?;
    let mark = scene.mark();
    scene.act(SKILL, &["take-from-child", "ring"])?.refused()?;
    scene.events().wait(mark, "the refused ring", |e| {
        e.text("reason") == "an io_uring from elsewhere acts without the skill" && e.text("verdict") == "deny"
    })?;
    scene.act(SKILL, &["take-from-child", &file])?.done()?;
    scene.outside(&["take-from-child", "ring"])?.done()?;
    Ok(())
}
