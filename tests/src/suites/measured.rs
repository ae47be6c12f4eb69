//! Where IMA has a policy the daemon measures: what it has measured runs, and nothing else does.

use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

use anyhow::{Context as _, ensure};

use crate::harness::{
    ENFORCER, SELF, command, daemon::Daemon, events::Event, eventually, files::Mount, runner::Suite, scene::Scene,
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "measured",
    policy: Some(policy),
    tests: &[
        ("what_the_policy_names_runs_at_once", named),
        ("what_is_listed_by_its_content_runs_the_second_time", listed),
        ("what_was_changed_does_not_run", changed),
        ("what_was_changed_below_an_overlay_does_not_run", changed_below),
        ("a_script_and_its_interpreter", script),
        ("a_mapping_by_content", mapped),
        ("a_skill_that_may_execute_anything", anything),
        ("without_a_daemon_nothing_new_runs", without_daemon),
        ("status_and_doctor_say_it", said),
    ],
};

const SKILL: &str = "runner";
/// The filesystems, as directories of the scene.
const TMPFS: &str = "tmpfs";
const DISK: &str = "disk";
const OVERLAY: &str = "overlay";
const ALL: [&str; 3] = [TMPFS, DISK, OVERLAY];
/// The reasons.
const YET: &str = "content was not measured yet";
const NEVER: &str = "content could not be measured";
const UNLISTED: &str = "binary not listed";
/// How long the daemon may take to measure a file, under emulation.
const LIMIT: Duration = Duration::from_mins(2);
/// As long as any of the programs, so that one can take another's place without a change of length.
const LENGTH: usize = 112 << 10;

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let mut mounts = vec![Mount::ext4_on_disk(&path(scene, DISK))?];
    scene.make_dir(TMPFS)?;
    let base = Mount::tmpfs(&path(scene, "base"))?;
    for dir in ["lower", "upper", "work"] {
        fs::create_dir_all(path(scene, &format!("base/{dir}")))?;
    }
    mounts.extend([base, Mount::overlay_of(&path(scene, OVERLAY), &path(scene, "base"))?]);
    scene.keep_mounts(mounts);
    program(scene, "good", "wc", LENGTH)?;
    program(scene, "evil", "id", LENGTH)?;
    for dir in ALL {
        program(scene, &format!("{dir}/named"), "wc", LENGTH + 1)?;
    }
    let script = path(scene, "script");
    fs::write(&script, format!("#!{} --version\n", path(scene, &format!("{DISK}/named"))))?;
    let paths = ALL.map(|dir| format!("      - path: {}\n", path(scene, &format!("{dir}/named")))).concat();
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    allow_binaries:\n      - path: {SELF}\n{paths}      \
         - {}\n      - {}\n  any:\n    allow_binaries: [\"*\"]\n",
        digest(&path(scene, "good"))?,
        digest(&script)?,
    ))
}

/// A copy of a program of this length.
fn program(scene: &Scene, name: &str, of: &str, length: usize) -> anyhow::Result<()> {
    let mut content = fs::read(format!("/usr/bin/{of}"))?;
    ensure!(content.len() <= length, "{of} is longer than {length}");
    content.resize(length, 0);
    let path = path(scene, name);
    fs::write(&path, content).with_context(|| path.clone())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn path(scene: &Scene, name: &str) -> String {
    scene.dir.join(name).to_string_lossy().into_owned()
}

/// `sha256:…` of a file.
fn digest(path: &str) -> anyhow::Result<String> {
    let hashed = succeed(&["sha256sum", path])?;
    Ok(format!("sha256:{}", hashed.split_whitespace().next().unwrap_or_default()))
}

/// A fresh copy of the program that is listed by its content.
fn place(scene: &Scene, dir: &str, name: &str) -> anyhow::Result<String> {
    let to = path(scene, &format!("{dir}/{name}"));
    fs::copy(path(scene, "good"), &to).with_context(|| to.clone())?;
    Ok(to)
}

fn overwrite(scene: &Scene, way: &str, victim: &str, with: &str) -> anyhow::Result<()> {
    scene.outside(&["overwrite", way, victim, &path(scene, with)])?.done().map(drop)
}

fn runs(scene: &Scene, skill: &str, victim: &str) -> anyhow::Result<()> {
    let outcome = scene.act(skill, &["exec", victim, "--version"])?;
    ensure!(outcome.done()?.out.contains("GNU coreutils"), "{outcome:?}");
    Ok(())
}

/// The next attempt at an act is refused with this reason.
fn refused(scene: &Scene, act: &[&str], kind: &str, victim: &str, reason: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(SKILL, act)?.refused()?;
    let event = scene.event(mark, kind, "deny", victim)?;
    ensure!(event.text("reason") == reason, "{}", event.0);
    Ok(())
}

/// The file is not known yet, and runs as soon as it is.
fn runs_the_second_time(scene: &Scene, victim: &str) -> anyhow::Result<()> {
    refused(scene, &["exec", victim, "--version"], "exec", victim, YET)?;
    runs_soon(scene, victim)
}

fn runs_soon(scene: &Scene, victim: &str) -> anyhow::Result<()> {
    ensure!(eventually(LIMIT, || runs(scene, SKILL, victim).is_ok()), "{victim} does not run");
    // And from then on.
    runs(scene, SKILL, victim)
}

/// The file is refused each time, at the end for what it contains.
fn never_runs(scene: &Scene, victim: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    let mut breach = Ok(());
    let known = eventually(LIMIT, || {
        breach = scene.act(SKILL, &["exec", victim, "--version"]).and_then(|outcome| outcome.refused().map(drop));
        let told = |e: &_| is_unlisted(e, victim);
        breach.is_err() || scene.events().since(mark).iter().any(told)
    });
    breach.with_context(|| victim.to_owned())?;
    ensure!(known, "{victim} was not measured");
    let event = scene.events().wait(mark, "what it contains", |e| is_unlisted(e, victim))?;
    ensure!(event.object("sha256") == digest(victim)?, "{}", event.0);
    Ok(())
}

fn is_unlisted(event: &Event, victim: &str) -> bool {
    event.is("exec", "deny", victim) && event.text("reason") == UNLISTED
}

fn named(scene: &Scene) -> anyhow::Result<()> {
    for dir in ALL {
        let victim = path(scene, &format!("{dir}/named"));
        runs(scene, SKILL, &victim)?;
        runs(scene, SKILL, &victim)?;
    }
    Ok(())
}

fn listed(scene: &Scene) -> anyhow::Result<()> {
    for dir in ALL {
        let victim = place(scene, dir, "listed")?;
        runs_the_second_time(scene, &victim)?;
        let unlisted = path(scene, &format!("{dir}/unlisted"));
        fs::copy("/usr/bin/id", &unlisted)?;
        never_runs(scene, &unlisted)?;
    }
    Ok(())
}

fn changed(scene: &Scene) -> anyhow::Result<()> {
    for dir in ALL {
        let victim = place(scene, dir, "changed")?;
        let evil = format!("{dir}/source-evil");
        fs::copy(path(scene, "evil"), path(scene, &evil))?;
        for way in ["write", "mapping-without-descriptor", "rename"] {
            runs_soon(scene, &victim)?;
            overwrite(scene, way, &victim, &evil)?;
            never_runs(scene, &victim).with_context(|| way.to_owned())?;
            fs::copy(path(scene, "evil"), path(scene, &evil))?;
            overwrite(scene, "write", &victim, "good")?;
        }
        runs_soon(scene, &victim)?;
    }
    Ok(())
}

fn changed_below(scene: &Scene) -> anyhow::Result<()> {
    let victim = place(scene, OVERLAY, "above")?;
    let layer = path(scene, "base/upper/above");
    for way in ["write", "mapping-without-descriptor", "truncating-open"] {
        runs_soon(scene, &victim)?;
        overwrite(scene, way, &layer, "evil")?;
        never_runs(scene, &victim).with_context(|| way.to_owned())?;
        overwrite(scene, way, &layer, "good")?;
    }
    runs_soon(scene, &victim)
}

fn script(scene: &Scene) -> anyhow::Result<()> {
    for dir in ALL {
        let victim = path(scene, &format!("{dir}/script"));
        fs::copy(path(scene, "script"), &victim)?;
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o755))?;
        runs_the_second_time(scene, &victim)?;
        fs::write(&victim, format!("#!{} --help\n", path(scene, &format!("{DISK}/named"))))?;
        never_runs(scene, &victim)?;
    }
    Ok(())
}

fn mapped(scene: &Scene) -> anyhow::Result<()> {
    for dir in [TMPFS, DISK] {
        let victim = place(scene, dir, "mapped")?;
        let act = ["map-code", &victim];
        refused(scene, &act, "map", &victim, YET)?;
        let maps = || scene.act(SKILL, &act).is_ok_and(|outcome| outcome.status == 0);
        ensure!(eventually(LIMIT, maps), "{victim} is not mapped");
    }
    // Of a memory file nobody knows when it changes.
    scene.act(SKILL, &["memfd-exec", "sealed", &path(scene, "good"), "--version"])?.refused()?;
    // What lies below is known when a program is executed, and not when it is mapped.
    let victim = place(scene, OVERLAY, "mapped")?;
    runs_soon(scene, &victim)?;
    refused(scene, &["map-code", &victim], "map", &victim, NEVER)
}

fn anything(scene: &Scene) -> anyhow::Result<()> {
    for dir in ALL {
        runs(scene, "any", &place(scene, dir, "anything")?)?;
    }
    Ok(())
}

/// IMA gets a policy while the daemon runs, which takes over then. The guest has the policy from here on.
pub(super) const LATER: Suite =
    Suite { name: "measured_later", policy: Some(policy), tests: &[("a_policy_of_ima_that_is_loaded", loaded_later)] };

fn loaded_later(scene: &Scene) -> anyhow::Result<()> {
    const RULE: &str = "measure func=BPRM_CHECK mask=MAY_EXEC\n";
    let measured_by = || -> anyhow::Result<String> {
        let status = scene.daemon(|daemon| daemon.status())?;
        Ok(status["measured_by"].as_str().unwrap_or_default().to_owned())
    };
    let known = place(scene, DISK, "known")?;
    runs(scene, SKILL, &known)?;
    ensure!(measured_by()? == "kernel", "it is the {}", measured_by()?);
    fs::write("/sys/kernel/security/ima/policy", RULE)?;
    // Where the file stays, what is measured tells.
    succeed(&[&path(scene, "good"), "--version"])?;
    ensure!(eventually(LIMIT, || measured_by().is_ok_and(|by| by == "daemon")), "the kernel measures still");
    // What the policy names was measured, and what the kernel has measured counts no more.
    runs(scene, SKILL, &path(scene, &format!("{DISK}/named")))?;
    runs_the_second_time(scene, &known)?;
    for dir in [TMPFS, OVERLAY] {
        runs_the_second_time(scene, &place(scene, dir, "new")?)?;
    }
    ensure!(fs::read_to_string("/proc/cmdline")?.split(' ').all(|word| !word.starts_with("ima")), "it was booted so");
    Ok(())
}

/// What was measured runs and what was changed does not, daemon or none; nobody else can have anything measured.
fn without_daemon(scene: &Scene) -> anyhow::Result<()> {
    let places = |name: &str| -> anyhow::Result<Vec<String>> {
        ALL.iter().map(|dir| place(scene, dir, &format!("alone-{name}"))).collect()
    };
    let (known, changed, new) = (places("known")?, places("changed")?, places("new")?);
    for victim in known.iter().chain(&changed) {
        runs_soon(scene, victim)?;
    }
    scene.outsider()?;
    scene.daemon(Daemon::kill)?;
    for victim in &changed {
        overwrite(scene, "write", victim, "evil")?;
    }
    for _ in 0..2 {
        for victim in &known {
            runs(scene, SKILL, victim)?;
        }
        for victim in new.iter().chain(&changed) {
            scene.act(SKILL, &["exec", victim, "--version"])?.refused()?;
            // As the daemon does, inside and outside a skill.
            scene.act(SKILL, &["ask-content", victim])?.done()?;
            scene.outside(&["ask-content", victim])?.done()?;
        }
        thread::sleep(Duration::from_millis(100));
    }
    scene.daemon(Daemon::restart)?;
    for victim in known.iter().chain(&new) {
        runs_soon(scene, victim)?;
    }
    for victim in &changed {
        never_runs(scene, victim)?;
    }
    Ok(())
}

fn said(scene: &Scene) -> anyhow::Result<()> {
    let status = scene.daemon(|daemon| daemon.status())?;
    ensure!(status["measured_by"] == "daemon", "{status}");
    let by_policy = fs::read_to_string("/proc/cmdline")?.contains("ima_policy=");
    let why = if by_policy { "ima_policy=" } else { "this kernel cannot measure files for programs" };
    ensure!(status["warnings"].to_string().contains(why), "{status}");
    let shown = command(&[ENFORCER, "status"])?;
    ensure!(shown.out.contains("measured by the daemon"), "{shown:?}");
    let outcome = command(&[ENFORCER, "doctor"])?;
    let says = ["digests are measured by the daemon", why, "partial:"].iter().all(|s| outcome.out.contains(s));
    ensure!(outcome.status == 1 && says, "{outcome:?}");
    Ok(())
}
