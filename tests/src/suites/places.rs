//! A path is an object: the same verdict by whatever way the object is reached, and on every filesystem.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::ensure;

use crate::harness::{
    files::Mount,
    runner::Suite,
    scene::{Scene, gone, there},
};

pub(super) const SUITE: Suite = Suite {
    name: "places",
    policy: Some(policy),
    tests: &[
        ("dot_dot_and_relative_paths", dots),
        ("proc_self_root_and_cwd", proc_root),
        ("a_symlinked_parent", symlinked_parent),
        ("a_chroot", chroot),
        ("a_bind_mount", bind_mount),
        ("a_bind_mount_in_a_mount_namespace", namespace),
        ("a_renamed_parent", renamed_parent),
        ("tmpfs", tmpfs),
        ("ext4", ext4),
        ("overlayfs", overlayfs),
        ("an_overlay_whose_layers_share_numbers", shared_numbers),
        ("io_uring_on_ext4", uring_ext4),
    ],
};

const SKILL: &str = "placed";

/// The filesystems are mounted before the policy is compiled, one below an allowed directory each, and one aside.
fn policy(scene: &Scene) -> anyhow::Result<String> {
    let mut allowed = vec![scene.make_dir("allowed")?];
    scene.make_dir("denied")?;
    let path = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let mut keep = vec![Mount::tmpfs(&path("tmpfs"))?, Mount::ext4(&path("ext4"))?];
    let lower = ["allowed/lower/unlink", "allowed/lower/away", "denied/lower/unlink", "denied/lower/away"];
    let (overlay, base) = Mount::overlay(&path("overlay"), &lower)?;
    keep.extend([base, overlay]);
    let (layered, below) = layers(scene)?;
    allowed.extend(["layers/listed", "layers/allowed"].map(path));
    keep.extend(below.into_iter().chain([layered]));
    for filesystem in ["tmpfs", "ext4", "overlay"] {
        allowed.push(scene.make_dir(&format!("{filesystem}/allowed"))?);
        scene.make_dir(&format!("{filesystem}/denied"))?;
    }
    scene.keep_mounts(keep);
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    \
         allow_delete: [{}]\n",
        allowed.join(", ")
    ))
}

/// An overlay of two filesystems: the file `listed` of the upper one has the inode number of `victim` in the lower one.
fn layers(scene: &Scene) -> anyhow::Result<(Mount, [Mount; 2])> {
    let path = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let (lower, upper) = (Mount::tmpfs(&path("layer-0"))?, Mount::tmpfs(&path("layer-1"))?);
    // Numbers of a tmpfs count up.
    for n in 0..20 {
        fs::write(format!("{}/{n}", lower.path()), "")?;
    }
    let victim = format!("{}/victim", lower.path());
    fs::write(&victim, "victim")?;
    for dir in ["upper/allowed", "work"] {
        fs::create_dir_all(format!("{}/{dir}", upper.path()))?;
    }
    let (wanted, listed) = (fs::metadata(&victim)?.ino(), format!("{}/upper/listed", upper.path()));
    loop {
        let next = format!("{}/next", upper.path());
        fs::write(&next, "listed")?;
        let ino = fs::metadata(&next)?.ino();
        ensure!(ino <= wanted, "number {wanted} cannot be had");
        if ino == wanted {
            fs::rename(&next, &listed)?;
            break;
        }
        fs::remove_file(&next)?;
    }
    let (lower_dir, upper_dir, at) = (lower.path(), upper.path(), path("layers"));
    let options = format!("lowerdir={lower_dir},upperdir={upper_dir}/upper,workdir={upper_dir}/work,xino=off");
    Ok((Mount::with("overlay", &at, &options)?, [lower, upper]))
}

/// Removes a file on either side by the way that `act` makes of its path.
fn both(scene: &Scene, test: &str, act: impl Fn(&str, &str) -> Vec<String>) -> anyhow::Result<()> {
    for side in ["allowed", "denied"] {
        let path = scene.make_file(&format!("{side}/{test}/dir/file"))?;
        let words = act(side, &path);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mark = scene.mark();
        let outcome = scene.act(SKILL, &words)?;
        if side == "allowed" {
            outcome.done()?;
            gone(&path)?;
        } else {
            outcome.refused()?;
            there(&path)?;
            let event = scene
                .events()
                .wait(mark, "a refused delete", |e| e.text("kind") == "delete" && e.text("verdict") == "deny")?;
            ensure!(event.object("path").ends_with("dir/file"), "the path is {:?}", event.object("path"));
        }
    }
    Ok(())
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

fn dots(scene: &Scene) -> anyhow::Result<()> {
    let root = scene.dir.to_string_lossy().into_owned();
    both(scene, "dots", |side, _| {
        let other = if side == "allowed" { "denied" } else { "allowed" };
        words(&["unlink", &format!("{root}/{other}/../{side}/dots/dir/../dir/file")])
    })?;
    both(scene, "relative", |side, _| words(&["cd", &format!("{root}/{side}"), "unlink", "relative/dir/file"]))
}

fn proc_root(scene: &Scene) -> anyhow::Result<()> {
    both(scene, "proc-root", |_, path| words(&["unlink", &format!("/proc/self/root{path}")]))?;
    both(scene, "proc-cwd", |_, path| words(&["cd", path.trim_end_matches("/file"), "unlink", "/proc/self/cwd/file"]))
}

fn symlinked_parent(scene: &Scene) -> anyhow::Result<()> {
    let dir = scene.make_dir("links")?;
    // The link to what is denied lies in an allowed directory, and the other way round.
    for (name, side, other) in [("a", "allowed", "denied"), ("d", "denied", "allowed")] {
        let home = scene.make_dir(&format!("{other}/links"))?;
        std::os::unix::fs::symlink(scene.dir.join(side), format!("{home}/{name}"))?;
    }
    let root = dir.trim_end_matches("/links").to_owned();
    both(scene, "symlinked", |side, _| {
        let link = if side == "allowed" { "denied/links/a" } else { "allowed/links/d" };
        words(&["unlink", &format!("{root}/{link}/symlinked/dir/file")])
    })
}

fn chroot(scene: &Scene) -> anyhow::Result<()> {
    let root = scene.dir.to_string_lossy().into_owned();
    both(scene, "chroot", |side, _| words(&["chroot", &root, "unlink", &format!("/{side}/chroot/dir/file")]))?;
    // With the allowed directory's name for its root, a denied one is what it was.
    both(scene, "chroot-into", |side, _| {
        words(&["chroot", &format!("{root}/{side}"), "unlink", "/chroot-into/dir/file"])
    })
}

fn bind_mount(scene: &Scene) -> anyhow::Result<()> {
    // What is denied is shown below what is allowed, and the other way round.
    let path = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let _denied = Mount::bind(&path("denied"), &path("allowed/bound-denied"))?;
    let _allowed = Mount::bind(&path("allowed"), &path("denied/bound-allowed"))?;
    both(scene, "bind", |side, _| {
        let way = if side == "allowed" { "denied/bound-allowed" } else { "allowed/bound-denied" };
        words(&["unlink", &path(&format!("{way}/bind/dir/file"))])
    })
}

fn namespace(scene: &Scene) -> anyhow::Result<()> {
    let path = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let point = scene.make_dir("allowed/point")?;
    let other = scene.make_dir("denied/point")?;
    both(scene, "namespace", |side, _| {
        let at = if side == "allowed" { &other } else { &point };
        words(&["unshare", "mount", "bind", &path(side), at, "unlink", &format!("{at}/namespace/dir/file")])
    })
}

/// The name of a parent changes nothing as long as it lies where it did.
fn renamed_parent(scene: &Scene) -> anyhow::Result<()> {
    for side in ["allowed", "denied"] {
        let file = scene.make_file(&format!("{side}/parent/dir/file"))?;
        let parent = file.trim_end_matches("/dir/file").to_owned();
        let renamed = format!("{parent}-renamed");
        fs::rename(&parent, &renamed)?;
        let file = format!("{renamed}/dir/file");
        let outcome = scene.act(SKILL, &["unlink", &file])?;
        if side == "allowed" {
            outcome.done()?;
            gone(&file)?;
        } else {
            outcome.refused()?;
            there(&file)?;
        }
    }
    Ok(())
}

/// Unlink, rmdir and rename on a filesystem of its own.
fn on(scene: &Scene, filesystem: &str, way: &[&str]) -> anyhow::Result<()> {
    let test = way.concat();
    for side in ["allowed", "denied"] {
        let base = format!("{filesystem}/{side}/test{test}");
        let file = scene.make_file(&format!("{base}/file"))?;
        let away = scene.make_file(&format!("{base}/away"))?;
        let weapon = scene.make_file(&format!("{filesystem}/allowed/test{test}/weapon"))?;
        let victim = scene.make_file(&format!("{base}/victim"))?;
        let dir = scene.make_dir(&format!("{base}/dir"))?;
        let target = format!("{}/moved-{side}", scene.make_dir(&format!("{filesystem}/allowed/test{test}/to"))?);
        let acts: [(&[&str], &str); 4] = [
            (&["unlink", &file], &file),
            (&["rename", &away, &target], &away),
            (&["rename", &weapon, &victim], if side == "allowed" { &weapon } else { &victim }),
            (&["rmdir", &dir], &dir),
        ];
        for (act, object) in acts {
            if !way.is_empty() && act[0] == "rmdir" {
                continue;
            }
            let act: Vec<&str> = way.iter().chain(act).copied().collect();
            let mark = scene.mark();
            let outcome = scene.act(SKILL, &act)?;
            if side == "allowed" {
                outcome.done()?;
                gone(object)?;
            } else {
                outcome.refused()?;
                there(object)?;
                scene.event(mark, "delete", "deny", object)?;
            }
        }
    }
    Ok(())
}

fn tmpfs(scene: &Scene) -> anyhow::Result<()> {
    on(scene, "tmpfs", &[])
}

fn ext4(scene: &Scene) -> anyhow::Result<()> {
    on(scene, "ext4", &[])
}

fn uring_ext4(scene: &Scene) -> anyhow::Result<()> {
    on(scene, "ext4", &["uring-sqpoll"])
}

/// What lies above, and what lies below and gets a whiteout.
fn overlayfs(scene: &Scene) -> anyhow::Result<()> {
    on(scene, "overlay", &[])?;
    for side in ["allowed", "denied"] {
        let path = |name: &str| scene.dir.join(format!("overlay/{side}/{name}")).to_string_lossy().into_owned();
        let (unlinked, moved) = (path("lower/unlink"), path("lower/away"));
        there(&unlinked)?;
        let acts: [(&[&str], &str); 2] =
            [(&["unlink", &unlinked], &unlinked), (&["rename", &moved, &path("moved")], &moved)];
        for (act, object) in acts {
            let outcome = scene.act(SKILL, act)?;
            if side == "allowed" {
                outcome.done()?;
                gone(object)?;
            } else {
                outcome.refused()?;
                there(object)?;
            }
        }
    }
    Ok(())
}

/// To the kernel both are called the same: a rule for the one must not be one for the other.
fn shared_numbers(scene: &Scene) -> anyhow::Result<()> {
    let path = |name: &str| scene.dir.join("layers").join(name).to_string_lossy().into_owned();
    let (listed, victim) = (path("listed"), path("victim"));
    ensure!(fs::metadata(&listed)?.ino() == fs::metadata(&victim)?.ino(), "they have numbers of their own");
    for file in [&victim, &listed] {
        let mark = scene.mark();
        scene.act(SKILL, &["unlink", file])?.refused()?;
        there(file)?;
        scene.event(mark, "delete", "deny", file)?;
    }
    let warnings = scene.daemon(|d| d.status())?["warnings"].to_string();
    ensure!(warnings.contains("layers/listed is a file of an overlay whose layers lie on several"), "{warnings}");
    // Directories have numbers of the overlay's own.
    let twin = scene.make_file("layers/allowed/file")?;
    scene.act(SKILL, &["unlink", &twin])?.done()?;
    gone(&twin)
}
