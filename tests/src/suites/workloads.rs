//! Containers and systemd units, as podman and systemd make them.

use std::{fs, os::unix::fs::MetadataExt as _, thread, time::Duration};

use anyhow::{Context as _, anyhow, bail, ensure};

use crate::harness::{
    ENFORCER, Output, SELF, command,
    events::Mark,
    eventually,
    runner::Suite,
    scene::{Scene, gone, holds, there},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "workloads",
    policy: Some(policy),
    tests: &[
        ("a_container_by_its_name", by_name),
        ("a_container_whose_hook_tells_of_it", hooked),
        ("a_hook_for_nobody", hook_for_nobody),
        ("a_container_of_another_driver", cgroupfs),
        ("a_container_that_nobody_means", not_meant),
        ("a_container_that_is_attached", attached_container),
        ("the_containers_paths_and_no_others", paths),
        ("two_containers_of_a_skill_and_the_host", two_containers),
        ("stop_start_restart_and_pause", restarted),
        ("a_binary_that_was_replaced_and_a_restart", replaced),
        ("a_cgroup_that_borrows_a_containers_name", borrowed),
        ("a_unit_by_its_pattern", unit),
        ("a_unit_that_is_attached", attached_unit),
        ("a_thousand_short_lived_ones", many),
    ],
};

pub(super) const IMAGE: &str = "localhost/agent:1";
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long the daemon may take to notice, under emulation.
const SOON: Duration = Duration::from_secs(20);

/// The manifest names paths of the containers: `/bin/busybox` and `/scratch` are not the host's.
fn policy(scene: &Scene) -> anyhow::Result<String> {
    image(scene)?;
    let lists = "allow_binaries: [/bin/busybox, /scratch/busybox-own]\n    allow_delete: [/scratch, /data, /escape]\n    \
                 allow_write: [/scratch, /data, /escape, /dev, /tmp]\n    protect: [/secret]";
    let unit = scene.make_dir("unit")?;
    let of_unit =
        format!("allow_binaries: [{SELF}, /usr/bin/bash, /usr/bin/rm, /usr/bin/sleep]\n    allow_delete: [{unit}]");
    Ok(format!(
        "version: 1\nskills:\n  boxed:\n    match: {{container: web}}\n    {lists}\n  \
         labelled:\n    match: {{container: \"label=enforcer.test=yes\"}}\n    {lists}\n  \
         handy:\n    {lists}\n  \
         claw:\n    match: {{unit: \"claw@*.service\"}}\n    {of_unit}\n  \
         later:\n    {of_unit}\n"
    ))
}

/// An image with a busybox and files to try.
pub(super) fn image(scene: &Scene) -> anyhow::Result<()> {
    if command(&["podman", "image", "exists", IMAGE])?.status == 0 {
        return Ok(());
    }
    let root = scene.make_dir("image")?;
    for dir in ["bin/other", "scratch", "keep", "secret", "data", "tmp", "etc", "proc", "sys", "dev"] {
        fs::create_dir_all(format!("{root}/{dir}"))?;
    }
    fs::copy("/usr/bin/busybox", format!("{root}/bin/busybox")).context("busybox")?;
    fs::copy("/usr/bin/busybox", format!("{root}/scratch/busybox-own")).context("busybox")?;
    // Another content under a name of its own.
    let mut other = fs::read("/usr/bin/busybox")?;
    other.push(0);
    fs::write(format!("{root}/bin/other/true"), other)?;
    fs::set_permissions(format!("{root}/bin/other/true"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    for name in ["sh", "rm", "cat", "sleep", "ls", "touch", "mv"] {
        std::os::unix::fs::symlink("busybox", format!("{root}/bin/{name}"))?;
    }
    for file in ["scratch/f", "scratch/g", "scratch/h", "scratch/i", "keep/f", "secret/f"] {
        fs::write(format!("{root}/{file}"), file)?;
    }
    // Whoever followed it on the host would open the host's files to the container.
    std::os::unix::fs::symlink(format!("../../../../..{}", scene.make_dir("victim")?), format!("{root}/escape"))?;
    succeed(&["sh", "-c", &format!("tar -C {root} -c . | podman import - {IMAGE}")]).map(drop)
}

/// What an agent in a container tries, and says what it could do.
const TRY: &str = "rm /scratch/f && echo removed; rm -f /keep/f; [ -e /keep/f ] && echo kept; \
                   cat /secret/f || echo hidden; echo x > /data/made && echo made; echo x > /keep/new || echo refused; \
                   /bin/other/true || echo denied";
/// What it says when its skill governs it.
const GOVERNED: [&str; 6] = ["removed", "kept", "hidden", "made", "refused", "denied"];

fn run(scene: &Scene, options: &[&str], script: &str) -> anyhow::Result<Output> {
    let data = format!("{}:/data", scene.make_dir("data")?);
    let start = ["podman", "run", "--network", "none", "-v", &data];
    command(&[&start[..], options, &[IMAGE, "/bin/sh", "-c", script]].concat())
}

/// It did what it may, on its own files, and nothing else; the events name its skill.
fn is_governed(scene: &Scene, mark: Mark, skill: &str, outcome: &Output) -> anyhow::Result<()> {
    let said: Vec<&str> = outcome.out.lines().collect();
    ensure!(said == GOVERNED, "{skill}: {outcome:?}");
    let data = scene.make_dir("data")?;
    holds(&format!("{data}/made"), "x\n")?;
    fs::remove_file(format!("{data}/made"))?;
    for kind in ["delete", "read", "write", "exec"] {
        scene.events().wait(mark, &format!("the refused {kind}"), |e| {
            e.text("kind") == kind && e.text("verdict") == "deny" && e.text("skill") == skill
        })?;
    }
    Ok(())
}

fn workloads(scene: &Scene) -> anyhow::Result<u64> {
    scene.daemon(|d| d.status())?["workloads"].as_u64().context("no workloads in the status")
}

/// They are forgotten when they have gone.
fn none_left(scene: &Scene) -> anyhow::Result<()> {
    let mut last = 0;
    let gone = eventually(SOON, || {
        last = workloads(scene).unwrap_or(u64::MAX);
        last == 0
    });
    ensure!(gone, "{last} are governed still");
    // Nor is a rule of theirs left, but those for what is Enforcer's own.
    let mut skills = serde_json::Value::Null;
    let clean = eventually(SOON, || {
        skills = scene.daemon(|d| d.status()).unwrap_or_default()["skills"].take();
        let of = |name: &str| skills.as_array().and_then(|all| all.iter().find(|s| s["name"] == name));
        let (Some(boxed), Some(labelled)) = (of("boxed"), of("labelled")) else { return false };
        boxed["binaries"] == 0 && labelled["binaries"] == 0 && boxed["objects"] == labelled["objects"]
    });
    ensure!(clean, "{skills}");
    Ok(())
}

/// The daemon sees the container appear. Without the hook nothing keeps the container waiting meanwhile, so it waits by itself
/// here.
fn by_name(scene: &Scene) -> anyhow::Result<()> {
    let data = scene.make_dir("data")?;
    let mark = scene.mark();
    let script = format!("while [ ! -e /data/go ]; do sleep 0.2; done; rm /data/go; {TRY}");
    let outcome = thread::scope(|scope| {
        let container = scope.spawn(|| run(scene, &["--rm", "--name", "web"], &script));
        let seen = eventually(SOON, || workloads(scene).is_ok_and(|number| number == 1));
        fs::write(format!("{data}/go"), "")?;
        let outcome = container.join().map_err(|_| anyhow!("podman's thread panicked"))??;
        ensure!(seen, "the container was not seen: {outcome:?}");
        Ok(outcome)
    })?;
    is_governed(scene, mark, "boxed", &outcome)?;
    none_left(scene)
}

pub(super) const HOOKS: &str = "/run/enforcer-hooks";

/// A directory with the hook, as an operator has it in `/usr/share/containers/oci/hooks.d`.
pub(super) fn hooks() -> anyhow::Result<()> {
    fs::create_dir_all(HOOKS)?;
    let hook = "{\"version\": \"1.0.0\", \"when\": {\"always\": true}, \"stages\": [\"createRuntime\"], \
                \"hook\": {\"path\": \"/usr/bin/enforcer\", \"args\": [\"enforcer\", \"oci-hook\"]}}";
    fs::write(format!("{HOOKS}/enforcer.json"), hook).context(HOOKS)
}

fn hooked(scene: &Scene) -> anyhow::Result<()> {
    hooks()?;
    let mark = scene.mark();
    let annotation = "enforcer.test=yes";
    let outcome = run(scene, &["--hooks-dir", HOOKS, "--rm", "--annotation", annotation], TRY)?;
    is_governed(scene, mark, "labelled", &outcome)?;
    none_left(scene)
}

/// Whom no skill means may start; when the daemon cannot be asked, nobody may.
fn hook_for_nobody(scene: &Scene) -> anyhow::Result<()> {
    hooks()?;
    let outcome = run(scene, &["--hooks-dir", HOOKS, "--rm"], "echo free; /bin/other/true && echo runs")?;
    ensure!(outcome.status == 0 && outcome.out == "free\nruns\n", "{outcome:?}");
    let state = "{\"ociVersion\": \"1.0.2\", \"id\": \"nobody\", \"status\": \"created\", \"pid\": 1, \"bundle\": \"/nowhere\"}";
    let hook = |options: &str| command(&["sh", "-c", &format!("echo '{state}' | {ENFORCER} oci-hook {options}")]);
    let outcome = hook("--runtime-dir /run/no-daemon")?;
    ensure!(outcome.status == 1 && outcome.err.contains("no daemon"), "{outcome:?}");
    let outcome = hook("--skill nobody")?;
    ensure!(outcome.status == 1 && outcome.err.contains("nobody"), "{outcome:?}");
    let outcome = command(&["sh", "-c", &format!("echo nonsense | {ENFORCER} oci-hook")])?;
    ensure!(outcome.status == 1 && outcome.err.contains("state"), "{outcome:?}");
    Ok(())
}

fn cgroupfs(scene: &Scene) -> anyhow::Result<()> {
    hooks()?;
    let mark = scene.mark();
    let data = format!("{}:/data", scene.make_dir("data")?);
    let outcome = command(&[
        "podman",
        "--cgroup-manager=cgroupfs",
        "run",
        "--network",
        "none",
        "-v",
        &data,
        "--hooks-dir",
        HOOKS,
        "--rm",
        "--name",
        "web",
        IMAGE,
        "/bin/sh",
        "-c",
        TRY,
    ])?;
    is_governed(scene, mark, "boxed", &outcome)?;
    none_left(scene)
}

fn not_meant(scene: &Scene) -> anyhow::Result<()> {
    let outcome = run(scene, &["--rm", "--name", "webs"], TRY)?;
    ensure!(outcome.out.contains("secret/f") && !outcome.out.contains("kept"), "{outcome:?}");
    none_left(scene)
}

/// One that runs already: what it runs and what comes into it later.
fn attached_container(scene: &Scene) -> anyhow::Result<()> {
    let data = scene.make_dir("data")?;
    // It tries when it is told to.
    let script = format!(
        "while [ ! -e /data/go ]; do sleep 0.2; done; rm /data/go; ({TRY}) >/data/said 2>/dev/null; sleep 1000"
    );
    let outcome = run(scene, &["-d", "--name", "runs"], &script)?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let attach = |name: &str| command(&[ENFORCER, "attach", "--skill", "handy", "--container", name]);
    let outcome = attach("no-such-container")?;
    ensure!(outcome.status == 1 && outcome.err.contains("no such container"), "{outcome:?}");
    let outcome = attach("runs")?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let mark = scene.mark();
    fs::write(format!("{data}/go"), "")?;
    let said = format!("{data}/said");
    let whole = eventually(SOON, || fs::read_to_string(&said).is_ok_and(|s| s.ends_with("denied\n")));
    let text = fs::read_to_string(&said).unwrap_or_default();
    ensure!(whole && text.lines().collect::<Vec<_>>() == GOVERNED, "{text:?}");
    scene.events().wait(mark, "the refused exec", |e| {
        e.text("kind") == "exec" && e.text("verdict") == "deny" && e.text("skill") == "handy"
    })?;
    let outcome = command(&["podman", "exec", "runs", "/bin/sh", "-c", "rm -f /keep/f; [ -e /keep/f ] && echo kept"])?;
    ensure!(outcome.out == "kept\n", "{outcome:?}");
    succeed(&["podman", "rm", "-f", "-t", "0", "runs"])?;
    for file in ["said", "made"] {
        let _ = fs::remove_file(format!("{data}/{file}"));
    }
    none_left(scene)
}

/// The paths lead to the container's own files by whatever way, and to nothing of the same name elsewhere.
fn paths(scene: &Scene) -> anyhow::Result<()> {
    let (victim, same) = (scene.make_file("victim/f")?, "/scratch/f");
    fs::create_dir_all("/scratch")?;
    fs::write(same, "the host's")?;
    let mounts = [&format!("{}:/victim", scene.make_dir("victim")?), "/scratch:/host"];
    hooks()?;
    let options =
        ["--hooks-dir", HOOKS, "--rm", "--name", "web", "-v", mounts[0], "-v", mounts[1], "--cap-add", "SYS_ADMIN"];
    let script = "rm /keep/../scratch/g && echo dots; rm /proc/self/root/scratch/h && echo root; \
                  busybox mount --bind /scratch /tmp && rm /tmp/i && echo bound; \
                  rm -f /scratch/../keep/f /proc/self/root/keep/f; [ -e /keep/f ] && echo kept; \
                  busybox ln -s /keep/f /scratch/link; (echo x > /scratch/link) || echo link; \
                  rm -f /host/f /host/../host/f; [ -e /host/f ] && echo host; (echo x > /host/new) || echo new; \
                  rm -f /victim/f /escape/f; [ -e /victim/f ] && echo victim; \
                  busybox mount --bind /keep /scratch && rm -f /scratch/f; [ -e /keep/f ] && echo bind";
    let mark = scene.mark();
    let outcome = run(scene, &[&options[..], &["--security-opt", "seccomp=unconfined"]].concat(), script)?;
    let said: Vec<&str> = outcome.out.lines().collect();
    let all = ["dots", "root", "bound", "kept", "link", "host", "new", "victim", "bind"];
    ensure!(said == all, "{outcome:?}");
    holds(same, "the host's")?;
    gone("/scratch/new")?;
    there(&victim)?;
    // The path in an event is as the container or as the host sees it, whichever could still be asked.
    for path in [same, &victim] {
        let ino = fs::metadata(path)?.ino();
        scene.events().wait(mark, &format!("the refused delete of {path}"), |e| {
            e.text("kind") == "delete" && e.text("verdict") == "deny" && e.0["object"]["ino"] == ino
        })?;
    }
    none_left(scene)
}

/// Each of two has its own files by the same paths. What is on the host is the container's when it is the container's file, and the
/// skill's paths mean nothing there.
fn two_containers(scene: &Scene) -> anyhow::Result<()> {
    let data = scene.make_dir("data")?;
    // With the hook neither runs before its paths are known, however slow the machine.
    hooks()?;
    let label = ["--hooks-dir", HOOKS, "--annotation", "enforcer.test=yes"];
    let script = format!("while [ ! -e /data/go ]; do sleep 0.2; done; rm /data/go; ({TRY}) >/data/said 2>/dev/null");
    let outcome = run(scene, &[&["-d", "--name", "first"][..], &label].concat(), &script)?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let mark = scene.mark();
    let outcome = run(scene, &[&["--rm", "--name", "second"][..], &label].concat(), TRY)?;
    is_governed(scene, mark, "labelled", &outcome)?;
    // The first, from the host.
    let merged = succeed(&["podman", "mount", "first"])?;
    let merged = merged.trim();
    fs::create_dir_all("/scratch")?;
    fs::write("/scratch/f", "the host's")?;
    let mark = scene.mark();
    let remove =
        |path: &str| command(&[ENFORCER, "run", "--skill", "labelled", "--", "/usr/bin/busybox", "rm", "-f", path]);
    let own = remove(&format!("{merged}/scratch/g"))?;
    ensure!(
        own.status == 0,
        "the container's own file could not be removed: {own:?}; {:?}",
        scene.events().since(mark)
    );
    gone(&format!("{merged}/scratch/g"))?;
    ensure!(remove(&format!("{merged}/keep/f"))?.status != 0, "a file that no rule names was removed");
    there(&format!("{merged}/keep/f"))?;
    ensure!(remove("/scratch/f")?.status != 0, "the host's file was removed");
    holds("/scratch/f", "the host's")?;
    scene.event(mark, "delete", "deny", "/scratch/f")?;
    succeed(&["podman", "umount", "first"])?;
    // Nor has the second's end taken anything from the first.
    fs::write(format!("{data}/go"), "")?;
    let said = format!("{data}/said");
    let whole = eventually(SOON, || fs::read_to_string(&said).is_ok_and(|s| s.ends_with("denied\n")));
    let text = fs::read_to_string(&said).unwrap_or_default();
    ensure!(whole && text.lines().collect::<Vec<_>>() == GOVERNED, "{text:?}");
    succeed(&["podman", "rm", "-f", "-t", "0", "first"])?;
    for file in ["said", "made"] {
        let _ = fs::remove_file(format!("{data}/{file}"));
    }
    none_left(scene)
}

fn restarted(scene: &Scene) -> anyhow::Result<()> {
    hooks()?;
    let wait = "sleep 1000";
    let outcome = run(scene, &["--hooks-dir", HOOKS, "-d", "--name", "web"], wait)?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let mark = scene.mark();
    let kept = |after: &str| -> anyhow::Result<()> {
        let outcome =
            command(&["podman", "exec", "web", "/bin/sh", "-c", "rm -f /keep/f; [ -e /keep/f ] && echo kept"])?;
        if outcome.out != "kept\n" {
            let state = command(&["podman", "inspect", "--format", "{{json .State}}", "web"])?;
            bail!("after {after}: {outcome:?}; {}; {:?}", state.out, scene.events().since(mark));
        }
        Ok(())
    };
    kept("run")?;
    for step in [&["pause"][..], &["unpause"], &["restart", "-t", "0"], &["stop", "-t", "0"], &["start"]] {
        succeed(&[&["podman"], step, &["web"]].concat())?;
        match step[0] {
            "pause" => ensure!(workloads(scene)? == 1, "{} are governed", workloads(scene)?),
            "stop" => none_left(scene)?,
            step => kept(step)?,
        }
    }
    succeed(&["podman", "rm", "-f", "-t", "0", "web"])?;
    none_left(scene)
}

/// What its processes left in a listed binary's place is not measured anew because the container was started again, but by a
/// reload, which its operator answers for.
fn replaced(scene: &Scene) -> anyhow::Result<()> {
    hooks()?;
    let outcome = run(scene, &["--hooks-dir", HOOKS, "-d", "--name", "web"], "sleep 1000")?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let inside = |script: &str| command(&["podman", "exec", "web", "/bin/sh", "-c", script]);
    let own = "/scratch/busybox-own echo ran";
    ensure!(inside(own)?.out == "ran\n", "the listed binary does not run");
    ensure!(inside("echo x >> /scratch/busybox-own && echo written")?.out == "written\n", "it may not be written");
    ensure!(inside(own)?.out.is_empty(), "another content runs");
    for step in [&["restart", "-t", "0"][..], &["stop", "-t", "0"], &["start"]] {
        succeed(&[&["podman"], step, &["web"]].concat())?;
        if step[0] != "stop" {
            ensure!(inside(own)?.out.is_empty(), "another content runs after {}", step[0]);
            ensure!(inside("echo alive")?.out == "alive\n", "what was listed does not run");
        }
    }
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    ensure!(inside(own)?.out == "ran\n", "a reload does not measure");
    succeed(&["podman", "rm", "-f", "-t", "0", "web"])?;
    none_left(scene)
}

/// A user to whom a cgroup was delegated calls one below it like a container.
fn borrowed(scene: &Scene) -> anyhow::Result<()> {
    // Without the hook: what it executes before the daemon knows its paths is refused, and it asks again.
    let outcome = run(scene, &["-d", "--name", "web"], "until sleep 1000; do :; done")?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let id = succeed(&["podman", "inspect", "--format", "{{.Id}}", "web"])?;
    let users = format!("{CGROUPS}/tests-user");
    let false_one = format!("{users}/libpod-{}.scope", id.trim());
    fs::create_dir_all(&users)?;
    std::os::unix::fs::chown(&users, Some(1000), Some(1000))?;
    let one = |when: &str| -> anyhow::Result<()> {
        let mut last = 0;
        let one = eventually(SOON, || {
            last = workloads(scene).unwrap_or(u64::MAX);
            last == 1
        });
        if !one {
            let state = command(&["podman", "inspect", "--format", "{{json .State}}", "web"])?;
            bail!("{last} are governed {when}: {}", state.out);
        }
        let script =
            "rm -f /keep/f; [ -e /keep/f ] && echo kept; rm /scratch/g 2>/dev/null; [ -e /scratch/g ] || echo removed";
        let outcome = command(&["podman", "exec", "web", "/bin/sh", "-c", script])?;
        ensure!(outcome.out == "kept\nremoved\n", "{when}: {outcome:?}");
        Ok(())
    };
    fs::create_dir(&false_one)?;
    one("beside it")?;
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    one("after a reload")?;
    // The other was there first.
    succeed(&["podman", "stop", "-t", "0", "web"])?;
    none_left(scene)?;
    succeed(&["podman", "start", "web"])?;
    one("when the container comes back")?;
    // Whoever is in it is in no skill.
    let file = scene.make_file("kept/borrowed")?;
    succeed(&["sh", "-c", &format!("echo $$ > {false_one}/cgroup.procs; exec rm {file}")])?;
    gone(&file)?;
    succeed(&["podman", "rm", "-f", "-t", "0", "web"])?;
    fs::remove_dir(&false_one)?;
    fs::remove_dir(&users)?;
    none_left(scene)
}

/// A unit's program is governed from its exec on, systemd's own before it is not.
fn unit(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("unit/f")?, scene.make_file("kept/f")?);
    let mark = scene.mark();
    let script = format!("/usr/bin/rm {allowed}; /usr/bin/rm {denied}; /usr/bin/id; /usr/bin/sleep 100");
    succeed(&["systemd-run", "--unit", "claw@1.service", "-p", "PrivateTmp=no", "--", "/usr/bin/bash", "-c", &script])?;
    let event = scene.event(mark, "delete", "deny", &denied)?;
    ensure!(event.text("skill") == "claw", "{}", event.0);
    scene.event(mark, "exec", "deny", "/usr/bin/id")?;
    scene.events().wait(mark, "the entry", |e| e.text("kind") == "enter" && e.text("skill") == "claw")?;
    gone(&allowed)?;
    there(&denied)?;
    ensure!(workloads(scene)? == 1, "{}", workloads(scene)?);
    succeed(&["systemctl", "stop", "claw@1.service"])?;
    none_left(scene)?;
    // Another unit's program is none of ours.
    let mark = scene.mark();
    succeed(&["systemd-run", "--wait", "--unit", "paw@1.service", "--", "/usr/bin/rm", &denied])?;
    gone(&denied)?;
    let events = scene.events().since(mark);
    ensure!(events.iter().all(|e| e.text("verdict") != "deny"), "something of it was refused");
    Ok(())
}

fn attached_unit(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("unit/later")?, scene.make_file("kept/later")?);
    let go = scene.dir.join("go").to_string_lossy().into_owned();
    let script = format!(
        "while [ ! -e {go} ]; do /usr/bin/sleep 0.2; done; /usr/bin/rm {allowed}; /usr/bin/rm {denied}; /usr/bin/sleep 100"
    );
    succeed(&["systemd-run", "--unit", "paw@2.service", "--", "/usr/bin/bash", "-c", &script])?;
    let outcome = command(&[ENFORCER, "attach", "--skill", "later", "--unit", "no-such.service"])?;
    ensure!(outcome.status == 1, "{outcome:?}");
    let outcome = command(&[ENFORCER, "attach", "--skill", "later", "--unit", "paw@2.service"])?;
    ensure!(outcome.status == 0, "{outcome:?}");
    let mark = scene.mark();
    fs::write(&go, "")?;
    scene.event(mark, "delete", "deny", &denied)?;
    gone(&allowed)?;
    there(&denied)?;
    succeed(&["systemctl", "stop", "paw@2.service"])?;
    none_left(scene)
}

/// Cgroups of units and containers, made and removed at once: nothing is left of them, in the kernel or in the daemon.
fn many(scene: &Scene) -> anyhow::Result<()> {
    const COUNT: u32 = 1000;
    none_left(scene)?;
    let pid = scene.daemon(|d| Ok(d.pid()))?;
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    let governed = || Ok::<_, anyhow::Error>(scene.daemon(|d| d.status())?["cgroups"].clone());
    let (files, cgroups) = (open()?, governed()?);
    for n in 0..COUNT {
        for name in [format!("claw@{n}.service"), format!("libpod-{n:064x}.scope")] {
            let dir = format!("{CGROUPS}/system.slice/{name}");
            fs::create_dir(&dir)?;
            fs::create_dir(format!("{dir}/below"))?;
            fs::remove_dir(format!("{dir}/below"))?;
            fs::remove_dir(&dir)?;
        }
    }
    none_left(scene)?;
    let mut left = (0, serde_json::Value::Null);
    let same = eventually(SOON, || {
        left = (open().unwrap_or(0), governed().unwrap_or_default());
        left.0 <= files && left.1 == cgroups
    });
    ensure!(same, "{left:?} files and cgroups after {:?}", (files, cgroups));
    // And it goes on.
    unit(scene)
}
