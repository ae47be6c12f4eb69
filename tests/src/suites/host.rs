//! The host as a whole: what a root process can do to it by system calls that pass no hook but a capability's, and by files that
//! name a program for the kernel to run.

use std::fs;

use anyhow::ensure;

use super::{
    tamper::{self, SKILL, never},
    walls::has_entry_32,
};
use crate::harness::{
    breach::Breach,
    files::Mount,
    kernel,
    runner::Suite,
    scene::{Scene, holds},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "host",
    policy: Some(tamper::policy),
    tests: &[
        ("acts_without_a_hook_of_their_own", acts),
        ("a_filesystem_that_stands_still", frozen),
        ("settings_of_a_mount", mount_settings),
        ("programs_that_the_kernel_runs", programs),
    ],
};

const HOST: &str = "it acts upon the host as a whole";

fn acts(scene: &Scene) -> anyhow::Result<()> {
    let none = scene.dir.join("no-such-file").to_string_lossy().into_owned();
    let disk = Mount::ext4(&scene.dir.join("quota").to_string_lossy())?;
    // From outside each is done, or fails at what comes after the permission.
    let acts: &[(&[&str], i32)] = &[
        (&["reboot"], 0),
        (&["delete-module"], libc::ENOENT),
        (&["acct", &none], libc::ENOENT),
        (&["swapon", &none], libc::ENOENT),
        (&["swapoff"], libc::ENOENT),
        (&["same-name", "host"], 0),
        (&["same-name", "domain"], 0),
        (&["set-quota", disk.path()], libc::ESRCH),
        (&["watch-opens"], 0),
    ];
    for (act, outside) in acts {
        never(scene, "tamper", HOST, act, &[*outside])?;
    }
    if has_entry_32(scene)? {
        never(scene, "tamper", HOST, &["swapoff-32"], &[libc::ENOENT])?;
    }
    for call in ["adjtimex", "clock_adjtime"] {
        never(scene, "tamper", "the clock dates events", &["adjust-clock", call], &[0])?;
    }
    // What is not the host's name is the process's own, and what a namespace of users permits.
    for namespaces in ["uts", "user,uts", "root,uts"] {
        let act = ["unshare", namespaces, "same-name", "host"];
        let outside = scene.outside(&act)?.status;
        scene.act(SKILL, &act)?.failed(outside)?;
        ensure!(outside == 0 || namespaces == "user,uts", "nobody can name a namespace: {outside}");
    }
    Ok(())
}

/// Whoever writes on it would wait: the daemon too, if it were its.
fn frozen(scene: &Scene) -> anyhow::Result<()> {
    let disk = Mount::ext4(&scene.dir.join("frozen").to_string_lossy())?;
    // What was done from outside, a governed process does not undo.
    for act in ["freeze", "thaw"] {
        never(scene, "tamper", HOST, &[act, disk.path()], &[0])?;
    }
    Ok(fs::write(format!("{}/file", disk.path()), "")?)
}

/// Whether a mount is read-only, as the host sees it.
fn is_read_only(at: &str) -> anyhow::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(4);
        words.next() == Some(at) && words.next().is_some_and(|options| options.starts_with("ro"))
    }))
}

fn mount_settings(scene: &Scene) -> anyhow::Result<()> {
    let mount = Mount::tmpfs(&scene.dir.join("settings").to_string_lossy())?;
    let newer = kernel()? >= (6, 15);
    let reason = "processes outside would see the mount";
    for act in if newer { &["mount-read-only", "tree-read-only"][..] } else { &["mount-read-only"] } {
        for skill in [SKILL, "watched"] {
            let mark = scene.mark();
            let outcome = scene.act(skill, &[act, mount.path()])?;
            if is_read_only(mount.path())? {
                return Err(Breach(format!("{act} reached the host: {outcome:?}")).into());
            }
            outcome.refused()?;
            scene.events().wait(mark, &format!("the refused {act}"), |e| {
                e.text("kind") == "mount" && e.text("verdict") == "deny" && e.text("reason") == reason
            })?;
        }
        // In a namespace of its own the mounts are its own.
        for namespaces in ["mount", "root,mount"] {
            scene.act(SKILL, &["unshare", namespaces, act, mount.path()])?.done()?;
            ensure!(!is_read_only(mount.path())?, "its namespace is not its own");
        }
        scene.outside(&[act, mount.path()])?.done()?;
        ensure!(is_read_only(mount.path())?, "nobody can");
        succeed(&["mount", "-o", "remount,bind,rw", mount.path()])?;
    }
    Ok(())
}

/// Each of these files names a program that the kernel runs as root, outside every skill, or leads to one.
fn programs(scene: &Scene) -> anyhow::Result<()> {
    let binfmt = {
        succeed(&["modprobe", "binfmt_misc"])?;
        Mount::new("binfmt_misc", &scene.dir.join("binfmt").to_string_lossy())?
    };
    // A hierarchy of cgroups of the first version, whose release agent runs when a cgroup is empty.
    let cgroups = Mount::with("cgroup", &scene.dir.join("cgroups").to_string_lossy(), "none,name=enforcer-tests");
    let agent = cgroups.as_ref().map(|mount| format!("{}/release_agent", mount.path())).ok();
    let register = format!("{}/register", binfmt.path());
    let files = [
        Some("/proc/sys/kernel/core_pattern"),
        Some("/proc/sys/kernel/modprobe"),
        Some("/proc/sys/kernel/hotplug"),
        Some("/proc/sys/kernel/poweroff_cmd"),
        Some("/sys/kernel/uevent_helper"),
        Some("/sys/module/firmware_class/parameters/path"),
        Some(register.as_str()),
        agent.as_deref(),
    ];
    let mut tried = 0;
    for file in files.into_iter().flatten().filter(|file| fs::metadata(file).is_ok()) {
        tried += 1;
        let before = fs::read_to_string(file).unwrap_or_default();
        let reason = "it tells the kernel what to do, and no rule names it";
        never(scene, "write", reason, &["open-write", file], &[0])?;
        for skill in [SKILL, "watched"] {
            let outcome = scene.act(skill, &["put", file, ":enforced:M::enforced::/bin/true:"])?;
            ensure!([libc::EPERM, libc::EACCES].contains(&outcome.status), "{file}: {outcome:?}");
        }
        if file != register {
            holds(file, &before)?;
        }
    }
    ensure!(tried >= 5, "{tried} files alone are there");
    ensure!(fs::metadata(format!("{}/enforced", binfmt.path())).is_err(), Breach("a handler was registered".into()));
    // From outside it is.
    let text = ":enforced:M::enforced::/bin/true:";
    scene.outside(&["put", &register, text])?.done()?;
    fs::write(format!("{}/enforced", binfmt.path()), "-1")?;
    Ok(())
}
