//! Self-protection: a governed process that is root with every capability ends no enforcement and gets below no rule.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};

use super::pins::INSTANCE;
use crate::harness::{
    SELF,
    events::EVENT_LIMIT,
    eventually,
    files::Mount,
    runner::Suite,
    scene::{Scene, gone, holds, there},
    worker::{Entry, Worker},
};

pub(super) const SUITE: Suite = Suite {
    name: "tamper",
    policy: Some(policy),
    tests: &[
        ("bpf_in_any_form", bpf),
        ("performance_events", perf),
        ("modules_and_kernels", kernel_code),
        ("memory_ports_and_tracing", locked_down),
        ("block_devices", block_devices),
        ("device_nodes", device_nodes),
        ("sysctl_and_sysfs", interfaces),
        ("cgroups_that_no_rule_names", cgroups),
        ("mounts_that_the_host_sees", host_mounts),
        ("mounts_by_the_new_calls", new_mounts),
        ("mounts_of_a_namespace_that_shares", shared_mounts),
        ("a_root_of_ones_own_as_containers_have_it", own_root),
        ("a_new_bpffs", bpffs),
        ("the_manifest", manifest),
        ("the_runtime_directory_and_the_binary", runtime),
        ("the_pins", pins),
        ("the_daemons_process", process),
        ("what_lies_too_deep_to_be_known", too_deep),
        ("the_clock", clock),
        ("audit_mode_is_no_licence", audit),
    ],
};

pub(super) const SKILL: &str = "tamperer";
const WATCHED: &str = "watched";
const CGROUP: &str = "/sys/fs/cgroup/tests-tamper";

pub(super) fn policy(scene: &Scene) -> anyhow::Result<String> {
    scene.make_dir("free")?;
    fs::create_dir_all(format!("{CGROUP}/listed"))?;
    fs::create_dir_all(format!("{CGROUP}/other"))?;
    let all = "allow_binaries: [\"*\"]\n    allow_delete: [\"*\"]\n    network_scope: [\"*\"]";
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    {all}\n  {WATCHED}:\n    mode: audit\n    {all}\n  \
         delegated:\n    {all}\n    allow_write: [{CGROUP}/listed, /tmp]\n"
    ))
}

/// The act is refused in both modes and reported, and its twin outside is not: that ends with `outside`.
pub(super) fn never(scene: &Scene, kind: &str, reason: &str, act: &[&str], outside: &[i32]) -> anyhow::Result<()> {
    for skill in [SKILL, WATCHED] {
        refused(scene, skill, kind, reason, act)?;
        // Nor from another thread.
        refused(scene, skill, kind, reason, &[&["thread"], act].concat())?;
    }
    let outcome = scene.outside(act)?;
    ensure!(outside.contains(&outcome.status), "outside, {outcome:?} instead of {outside:?}");
    Ok(())
}

/// The act is refused and reported.
fn refused(scene: &Scene, skill: &str, kind: &str, reason: &str, act: &[&str]) -> anyhow::Result<()> {
    let mark = scene.mark();
    let outcome = scene.act(skill, act)?;
    ensure!([libc::EPERM, libc::EACCES].contains(&outcome.status), "{outcome:?}");
    let what = format!("{kind} refused: {}", act.join(" "));
    scene
        .events()
        .wait(mark, &what, |e| {
            e.text("kind") == kind
                && e.text("verdict") == "deny"
                && e.text("reason") == reason
                && e.text("skill") == skill
        })
        .map(drop)
}

fn bpf(scene: &Scene) -> anyhow::Result<()> {
    // BPF_MAP_CREATE, PROG_LOAD, OBJ_GET, MAP_GET_FD_BY_ID, PROG_GET_NEXT_ID, LINK_DETACH, TOKEN_CREATE.
    for command in ["0", "5", "7", "14", "11", "34", "36"] {
        never(
            scene,
            "tamper",
            "governed processes have no use of bpf",
            &["bpf", command],
            &[0, libc::EINVAL, libc::ENOENT, libc::EBADF, libc::EFAULT, libc::E2BIG],
        )?;
    }
    Ok(())
}

fn perf(scene: &Scene) -> anyhow::Result<()> {
    let reason = "performance events reach other processes";
    never(scene, "tamper", reason, &["perf-open"], &[0])?;
    handed(scene, "event", &["offer-perf"], reason)
}

fn kernel_code(scene: &Scene) -> anyhow::Result<()> {
    let none = scene.make_file("no-module")?;
    let reason = "it loads code into the kernel";
    // Where it may be loaded, it is not understood.
    never(scene, "tamper", reason, &["init-module"], &[libc::ENOEXEC, libc::EBADMSG, libc::EINVAL])?;
    never(scene, "tamper", reason, &["finit-module", &none], &[libc::ENOEXEC, libc::EBADMSG, libc::EINVAL])?;
    never(scene, "tamper", reason, &["kexec-file", &none], &[libc::ENOEXEC, libc::EINVAL, libc::EBADF])?;
    never(scene, "tamper", reason, &["kexec"], &[0])
}

fn locked_down(scene: &Scene) -> anyhow::Result<()> {
    let reason = "it reaches into the kernel or the hardware";
    never(scene, "tamper", reason, &["ioperm"], &[0])?;
    never(scene, "tamper", reason, &["read", "/proc/kcore"], &[0])?;
    let tracefs = Mount::new("tracefs", &scene.make_dir("tracefs")?)?;
    never(scene, "tamper", reason, &["read", &format!("{}/trace", tracefs.path())], &[0])?;
    let reason = "the device lies below everything that rules name";
    never(scene, "tamper", reason, &["read", "/dev/mem"], &[0])?;
    never(scene, "tamper", reason, &["read", "/dev/mapper/control"], &[0])
}

fn block_devices(scene: &Scene) -> anyhow::Result<()> {
    let mount = Mount::ext4(&scene.dir.join("disk").to_string_lossy())?;
    let device = device_of(mount.path())?;
    let reason = "the device lies below everything that rules name";
    for act in ["read", "open-write"] {
        never(scene, "tamper", reason, &[act, &device], &[0, libc::EBUSY])?;
    }
    // Nor one that it is handed.
    handed(scene, "block", &["offer-read", &device], reason)
}

/// What an outsider hands over does not arrive in the skill, and arrives outside.
pub(super) fn handed(scene: &Scene, name: &str, offer: &[&str], reason: &str) -> anyhow::Result<()> {
    for (skill, status) in [(Some(SKILL), libc::EPERM), (Some(WATCHED), libc::EPERM), (None, 0)] {
        let socket = scene.dir.join(format!("{name}-{}", skill.unwrap_or("outside"))).to_string_lossy().into_owned();
        let giver = Worker::start(&Entry::Outside)?;
        let mark = scene.mark();
        let taken = std::thread::scope(|scope| {
            let words = [&[offer[0], &socket], &offer[1..]].concat();
            let offered = scope.spawn(move || giver.act(&words));
            ensure!(eventually(EVENT_LIMIT, || Path::new(&socket).exists()), "nothing is offered");
            let receiver = match skill {
                Some(skill) => scene.worker(skill)?,
                None => scene.outsider()?,
            };
            // The name is there a moment before anybody listens.
            let mut taken = receiver.act(&["receive", &socket]);
            eventually(EVENT_LIMIT, || {
                if taken.as_ref().is_ok_and(|outcome| outcome.out.contains("refused (os error")) {
                    taken = receiver.act(&["receive", &socket]);
                    return false;
                }
                true
            });
            offered.join().map_err(|_| anyhow::anyhow!("the giver panicked"))??.done()?;
            taken
        })?;
        ensure!(taken.status == status, "{name}: {taken:?}");
        if skill.is_some() {
            scene.events().wait(mark, "the refused descriptor", |e| {
                e.text("kind") == "tamper" && e.text("verdict") == "deny" && e.text("reason") == reason
            })?;
        }
    }
    Ok(())
}

/// The device that is mounted there.
pub(super) fn device_of(at: &str) -> anyhow::Result<String> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(at)).context("it is not mounted")?;
    line.split(' ').next().map(str::to_owned).context("no device")
}

fn device_nodes(scene: &Scene) -> anyhow::Result<()> {
    let reason = "the device lies below everything that rules name";
    for (kind, major, minor) in [("b", "7", "0"), ("c", "1", "1"), ("c", "240", "0")] {
        let node = scene.dir.join(format!("free/node-{kind}-{major}")).to_string_lossy().into_owned();
        never(scene, "tamper", reason, &["mknod-device", &node, kind, major, minor], &[0])?;
        fs::remove_file(&node).context("made from outside")?;
    }
    // What keeps nothing may have any name.
    let null = scene.dir.join("free/null").to_string_lossy().into_owned();
    scene.act(SKILL, &["mknod-device", &null, "c", "1", "3"])?.done()?;
    there(&null)
}

fn interfaces(scene: &Scene) -> anyhow::Result<()> {
    let reason = "it tells the kernel what to do, and no rule names it";
    for file in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sysrq-trigger",
        "/sys/module/printk/parameters/time",
    ] {
        let before = fs::read(file).ok();
        never(scene, "write", reason, &["open-write", file], &[0])?;
        refused(scene, SKILL, "write", reason, &["put", file, "|/bin/true"])?;
        // Nor by another instance of procfs in namespaces of its own.
        ensure!(fs::read(file).ok() == before, "{file} has changed");
    }
    let own = scene.make_dir("own-proc")?;
    for way in [&["unshare", "user,pid,mount"][..], &["unshare", "pid,mount"]] {
        let file = format!("{own}/sys/kernel/core_pattern");
        scene.act(SKILL, &[way, &["mount", "proc", &own]].concat())?.done()?;
        let act = [way, &["mounted", "proc", &own, "put", &file, "|/bin/true"]].concat();
        let outcome = scene.act(SKILL, &act)?;
        ensure!([libc::EPERM, libc::EACCES].contains(&outcome.status), "{outcome:?}");
    }
    // What belongs to the process itself goes on.
    scene.act(SKILL, &["put", "/proc/self/oom_score_adj", "500"])?.done()?;
    scene.act(SKILL, &["read", "/proc/sys/kernel/core_pattern"])?.done()?;
    Ok(())
}

fn cgroups(scene: &Scene) -> anyhow::Result<()> {
    let reason = "it tells the kernel what to do, and no rule names it";
    for file in ["cgroup.procs", "cgroup.kill", "cgroup.freeze"] {
        never(scene, "write", reason, &["open-write", &format!("{CGROUP}/other/{file}")], &[0])?;
    }
    let daemon = scene.daemon(|d| Ok(d.pid()))?.to_string();
    let mine = format!("{CGROUP}/other/cgroup.procs");
    refused(scene, SKILL, "write", reason, &["put", &mine, &daemon])?;
    ensure!(fs::read_to_string(&mine)?.is_empty(), "the daemon was moved");
    refused(scene, SKILL, "write", reason, &["mkdir", &format!("{CGROUP}/other/new")])?;
    gone(&format!("{CGROUP}/other/new"))?;
    // A cgroup that a rule names is the skill's to arrange.
    let worker = Worker::start(&Entry::Run("delegated"))?;
    worker.act(&["into-cgroup", &format!("{CGROUP}/listed"), "nothing"])?.done()?;
    worker.act(&["mkdir", &format!("{CGROUP}/listed/new")])?.done()?;
    there(&format!("{CGROUP}/listed/new"))?;
    worker.act(&["open-write", &format!("{CGROUP}/other/cgroup.procs")])?.refused()?;
    Ok(())
}

/// Whether something is mounted there, as the host sees it.
fn mounted(at: &str) -> anyhow::Result<bool> {
    Ok(fs::read_to_string("/proc/self/mounts")?.lines().any(|line| line.split(' ').nth(1) == Some(at)))
}

const HOST_MOUNT: &str = "processes outside would see the mount";

fn host_mounts(scene: &Scene) -> anyhow::Result<()> {
    let (at, from) = (scene.make_dir("mount/at")?, scene.make_dir("mount/from")?);
    for act in [&["mount", "tmpfs", &at][..], &["bind-mount", &from, &at], &["mount", "tmpfs", "/etc"]] {
        refused(scene, SKILL, "mount", HOST_MOUNT, act)?;
        refused(scene, WATCHED, "mount", HOST_MOUNT, act)?;
    }
    ensure!(!mounted(&at)? && !mounted("/etc")?, "it is mounted");
    scene.outside(&["mount", "tmpfs", &at])?.done()?;
    ensure!(mounted(&at)?, "nobody can mount");
    let to = scene.make_dir("mount/to")?;
    refused(scene, SKILL, "mount", HOST_MOUNT, &["move-mount", &at, &to])?;
    refused(scene, SKILL, "mount", HOST_MOUNT, &["umount", &at])?;
    let remount = "the filesystem's settings are not this process's";
    refused(scene, SKILL, "mount", remount, &["remount", &at]).or_else(|_| {
        // `mount` is asked first.
        refused(scene, SKILL, "mount", HOST_MOUNT, &["remount", &at])
    })?;
    refused(scene, SKILL, "mount", HOST_MOUNT, &["umount", "/sys/fs/cgroup"])?;
    ensure!(mounted(&at)? && mounted("/sys/fs/cgroup")?, "it is gone");
    // In a namespace of its own it does as it likes, but for the filesystem's own settings.
    scene.act(SKILL, &["unshare", "mount", "umount", &at])?.done()?;
    scene.act(SKILL, &["unshare", "mount", "mount", "tmpfs", &to])?.done()?;
    scene.act(SKILL, &["unshare", "user,mount", "bind-mount", &from, &to])?.done()?;
    refused(scene, SKILL, "mount", remount, &["unshare", "mount", "remount", &at])?;
    ensure!(mounted(&at)? && !mounted(&to)?, "its namespace is not its own");
    scene.outside(&["umount", &at])?.done()?;
    ensure!(!mounted(&at)?, "nobody can unmount");
    Ok(())
}

fn new_mounts(scene: &Scene) -> anyhow::Result<()> {
    let at = scene.make_dir("new-mount")?;
    refused(scene, SKILL, "mount", HOST_MOUNT, &["new-mount", "tmpfs", &at])?;
    ensure!(!mounted(&at)?, "it is mounted");
    scene.act(SKILL, &["unshare", "mount", "new-mount", "tmpfs", &at])?.done()?;
    ensure!(!mounted(&at)?, "its namespace is not its own");
    scene.outside(&["new-mount", "tmpfs", &at])?.done()?;
    ensure!(mounted(&at)?, "nobody can mount");
    scene.outside(&["umount", &at])?.done()?;
    Ok(())
}

fn shared_mounts(scene: &Scene) -> anyhow::Result<()> {
    let base = Mount::tmpfs(&scene.dir.join("shared").to_string_lossy())?;
    crate::harness::succeed(&["mount", "--make-shared", base.path()])?;
    let at = scene.make_dir("shared/at")?;
    refused(scene, SKILL, "mount", HOST_MOUNT, &["unshare-shared", "mount", "tmpfs", &at])?;
    ensure!(!mounted(&at)?, "it reached the host");
    scene.outside(&["unshare-shared", "mount", "tmpfs", &at])?.done()?;
    ensure!(mounted(&at)?, "the mount is not shared");
    refused(scene, SKILL, "mount", HOST_MOUNT, &["unshare-shared", "umount", &at])?;
    ensure!(mounted(&at)?, "it reached the host");
    // What makes mounts private does not, beside a bind.
    let (bound, from) = (scene.make_dir("shared/bound")?, scene.make_dir("shared-from")?);
    for way in ["bind-private", "bind-slave"] {
        refused(scene, SKILL, "mount", HOST_MOUNT, &["unshare-shared", way, &from, &bound])?;
        ensure!(!mounted(&bound)?, "{way} reached the host");
        scene.outside(&["unshare-shared", way, &from, &bound])?.done()?;
        ensure!(mounted(&bound)?, "{way} binds nothing");
        scene.outside(&["unshare-shared", "umount", &bound])?.done()?;
    }
    scene.act(SKILL, &["unshare-shared", "make-private", base.path()])?.done()?;
    scene.act(SKILL, &["unshare", "mount", "umount", &at])?.done()?;
    ensure!(mounted(&at)?, "its namespace is not its own");
    scene.outside(&["unshare-shared", "umount", &at])?.done()?;
    ensure!(!mounted(&at)?, "the mount is not shared");
    Ok(())
}

fn own_root(scene: &Scene) -> anyhow::Result<()> {
    let root = scene.make_dir("root")?;
    // The guest's first root cannot be pivoted away (`fs/namespace.c: path_pivot_root`), so it is done below another one.
    let act = ["unshare", "mount", "bind", &root, &root, "chroot", &root, "nothing"];
    scene.act(SKILL, &act)?.done()?;
    refused(scene, SKILL, "mount", HOST_MOUNT, &["pivot", "/tmp"])?;
    Ok(())
}

fn bpffs(scene: &Scene) -> anyhow::Result<()> {
    let at = scene.make_dir("bpffs")?;
    let act = ["unshare", "mount", "mount", "bpf", &at];
    refused(scene, SKILL, "mount", "pins are made in a bpffs", &act)?;
    scene.outside(&act)?.done()?;
    // What lies in one is not to be changed.
    let host = Mount::new("bpf", &at)?;
    let dir = format!("{}/dir", host.path());
    fs::create_dir(&dir)?;
    let reason = "it tells the kernel what to do, and no rule names it";
    refused(scene, SKILL, "delete", reason, &["rmdir", &dir])?;
    refused(scene, SKILL, "delete", reason, &["rename", &dir, &format!("{at}/other")])
        .or_else(|_| refused(scene, SKILL, "write", reason, &["rename", &dir, &format!("{at}/other")]))?;
    refused(scene, WATCHED, "write", reason, &["mkdir", &format!("{at}/new")])?;
    there(&dir)?;
    scene.outside(&["rmdir", &dir])?.done()?;
    Ok(())
}

fn manifest(scene: &Scene) -> anyhow::Result<()> {
    let path = scene.daemon(|d| Ok(d.policy().to_path_buf()))?;
    let text = fs::read_to_string(&path)?;
    let dir = path.parent().context("its directory")?.to_string_lossy().into_owned();
    let path = path.to_string_lossy().into_owned();
    let other = scene.make_file("free/other.yaml")?;
    let linked = scene.dir.join("free/linked").to_string_lossy().into_owned();
    for skill in [SKILL, WATCHED] {
        let own = "it is Enforcer's own";
        for act in [&["open-write", &path][..], &["append", &path, "x"], &["chmod", &path], &["setxattr", &path]] {
            refused(scene, skill, "write", own, act)?;
        }
        for act in [&["unlink", &path][..], &["open-truncate", &path], &["truncate", &path]] {
            let outcome = scene.act(skill, act)?;
            ensure!(outcome.status == libc::EPERM, "{outcome:?}");
        }
        refused(scene, skill, "delete", own, &["rename", &other, &path])?;
        refused(scene, skill, "delete", own, &["rename-exchange", &other, &path])?;
        refused(scene, skill, "write", own, &["link", &path, &linked])?;
        for away in [&dir, "/tmp/enforcer-tests", "/tmp"] {
            let outcome = scene.act(skill, &["rename", away, &format!("{away}.away")])?;
            ensure!([libc::EPERM, libc::EBUSY].contains(&outcome.status), "{outcome:?}");
            there(away)?;
        }
        // By another name.
        let bound = scene.make_dir("free/bound")?;
        let act = ["unshare", "mount", "bind", &dir, &bound, "unlink", &format!("{bound}/policy.yaml")];
        scene.act(skill, &act)?.refused()?;
        scene.act(skill, &["read", &path])?.done()?;
    }
    holds(&path, &text)?;
    gone(&linked)?;
    // What lies beside it is not ours.
    let beside = format!("{dir}/beside");
    scene.act(SKILL, &["create", &beside])?.done()?;
    scene.act(SKILL, &["unlink", &beside])?.done()?;
    Ok(())
}

fn runtime(scene: &Scene) -> anyhow::Result<()> {
    for path in ["/run/enforcer/control.sock", "/run/enforcer/daemon.lock", "/usr/bin/enforcer", SELF] {
        let away = format!("{path}.away");
        for act in [&["unlink", path][..], &["chmod", path], &["rename", path, &away]] {
            scene.act(SKILL, act)?.refused()?;
        }
        there(path)?;
    }
    refused(scene, SKILL, "write", "it is Enforcer's own", &["create", "/run/enforcer/new"])?;
    scene.act(SKILL, &["rename", "/run/enforcer", "/run/other"])?.refused()?;
    there("/run/enforcer/control.sock")?;
    ensure!(!Path::new("/run/enforcer/new").exists(), "it was made");
    scene.daemon(|d| d.status())?;
    let beside = "/run/tests-tamper";
    scene.act(SKILL, &["create", beside])?.done()?;
    scene.act(SKILL, &["unlink", beside])?.done()?;
    Ok(())
}

fn pins(scene: &Scene) -> anyhow::Result<()> {
    const BPFFS: &str = "/sys/fs/bpf";
    let set = fs::read_dir(INSTANCE)?.next().context("no set of pins")??.path().to_string_lossy().into_owned();
    let pinned = fs::read_dir(format!("{set}/links"))?.count();
    let (link, map, mark) = (format!("{set}/links/path_unlink"), format!("{set}/maps/TASKS"), format!("{set}/mark"));
    for path in [&link, &map, &mark, &set, INSTANCE] {
        there(path)?;
    }
    for skill in [SKILL, WATCHED] {
        let own = "it is Enforcer's own";
        for pin in [&link, &map, &mark] {
            refused(scene, skill, "delete", own, &["unlink", pin])?;
            refused(scene, skill, "write", own, &["rename", pin, &format!("{pin}-away")])?;
            refused(scene, skill, "write", own, &["chmod", pin])?;
            refused(scene, skill, "write", own, &["link", pin, &format!("{set}/other")])?;
        }
        for dir in [&format!("{set}/links"), &set, INSTANCE] {
            refused(scene, skill, "write", own, &["mkdir", &format!("{dir}/new")])?;
            refused(scene, skill, "delete", own, &["rmdir", dir])?;
            scene.act(skill, &["rename", dir, &format!("{dir}-away")])?.refused()?;
            there(dir)?;
        }
        // By another name, and behind a mount that the host would see.
        let bound = scene.make_dir("free/pins")?;
        let act = ["unshare", "mount", "bind", &set, &bound, "unlink", &format!("{bound}/links/path_unlink")];
        scene.act(skill, &act)?.refused()?;
        for over in [INSTANCE, BPFFS] {
            refused(scene, skill, "mount", HOST_MOUNT, &["bind-mount", &bound, over])?;
        }
        refused(scene, skill, "mount", HOST_MOUNT, &["umount", BPFFS])?;
    }
    for path in [&link, &map, &mark] {
        there(path)?;
    }
    ensure!(fs::read_dir(format!("{set}/links"))?.count() == pinned, "the links are others");
    // A pin of somebody else's is made and removed outside.
    let other = format!("{BPFFS}/tests-tamper");
    scene.outside(&["mkdir", &other])?.done()?;
    scene.outside(&["rmdir", &other])?.done()?;
    Ok(())
}

fn process(scene: &Scene) -> anyhow::Result<()> {
    let daemon = scene.daemon(|d| Ok(d.pid()))?.to_string();
    let own = "it is Enforcer's own process";
    for skill in [SKILL, WATCHED] {
        for act in ["limit", "nice", "ionice", "idle", "pin-to-cpu"] {
            refused(scene, skill, "tamper", own, &[act, &daemon])?;
        }
        refused(scene, skill, "tamper", own, &["put", &format!("/proc/{daemon}/oom_score_adj"), "1000"])?;
        for signal in ["9", "19", "15"] {
            refused(scene, skill, "signal", own, &["kill", &daemon, signal])?;
        }
        refused(scene, skill, "trace", own, &["ptrace-attach", &daemon])?;
        let outcome = scene.act(skill, &["move-memory", &daemon])?;
        ensure!(outcome.status == libc::EPERM, "{outcome:?}");
        refused(scene, skill, "trace", own, &["read-memory", &daemon])?;
    }
    scene.daemon(|d| d.status())?;
    // Of a process outside that is not the daemon it is a wall, and within the skill there is none.
    let neighbour = Worker::start(&Entry::Outside)?;
    let pid = neighbour.pid().to_string();
    for act in ["limit", "nice", "ionice", "idle", "pin-to-cpu"] {
        refused(scene, SKILL, "tamper", "target is outside the skill", &[act, &pid])?;
        scene.outside(&[act, &pid])?.done()?;
    }
    scene.outside(&["move-memory", &pid])?.done()?;
    let own = scene.worker(SKILL)?.pid().to_string();
    for act in ["limit", "ionice", "pin-to-cpu"] {
        scene.act(SKILL, &[act, &own])?.done()?;
    }
    Ok(())
}

/// Everything is allowed, but whether this is Enforcer's own cannot be seen.
fn too_deep(scene: &Scene) -> anyhow::Result<()> {
    let (near, far) = (scene.make_dir("free/near")?, scene.make_dir("free/far")?);
    for (dir, depth) in [(&near, "40"), (&far, "80")] {
        scene.outside(&["deep", dir, depth])?.done()?;
    }
    scene.act(SKILL, &["unlink-deep", &near, "40"])?.done()?;
    never(scene, "delete", "path is too deep to decide", &["unlink-deep", &far, "80"], &[0])
}

fn clock(scene: &Scene) -> anyhow::Result<()> {
    never(scene, "tamper", "the clock dates events", &["set-clock"], &[0])
}

fn audit(scene: &Scene) -> anyhow::Result<()> {
    // What the policy alone forbids is only watched.
    let target = Worker::start(&Entry::Outside)?;
    let mark = scene.mark();
    scene.act(WATCHED, &["kill", &target.pid().to_string(), "0"])?.done()?;
    scene.events().wait(mark, "the watched signal", |e| e.text("kind") == "signal" && e.text("verdict") == "audit")?;
    Ok(())
}
