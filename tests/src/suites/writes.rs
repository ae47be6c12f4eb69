//! Write and read by every call, on every filesystem and by every way to the object. The same act is made where it is allowed,
//! where it is not, and on what is protected; what the object is before and after says what really happened.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};

use crate::{
    act::ATTRIBUTE,
    harness::{
        act_with,
        breach::Breach,
        files::Mount,
        kernel,
        runner::Suite,
        scene::{Scene, holds},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "writes",
    policy: Some(policy),
    tests: &[
        ("on_tmpfs", tmpfs),
        ("on_ext4", ext4),
        ("on_an_overlay", overlay),
        ("through_mounts", mounts),
        ("through_links", links),
        ("through_descriptors", descriptors),
        ("attributes_by_every_call", attributes),
        ("nodes_and_links_by_every_call", nodes),
        ("io_uring_makes_and_changes", uring),
    ],
};

const SKILL: &str = "scribe";
/// Directories, and why a write below them is refused. Below the first all is allowed, below the second reading alone.
const SIDES: [(&str, Option<&str>); 3] =
    [("allowed", None), ("denied", Some("path not listed")), ("secret", Some("protected"))];

/// What changes a file that is there; `@` is its path.
const CHANGES: [&[&str]; 8] = [
    &["append", "@", "+"],
    &["map-shared", "@"],
    &["shorten", "@"],
    &["truncate", "@"],
    &["open-truncate", "@"],
    &["chmod", "@"],
    &["set-attribute", "@"],
    &["uring", "append", "@", "+"],
];
/// What makes something new.
const CREATIONS: [&[&str]; 4] = [&["create", "@"], &["mkdir", "@"], &["symlink", "/x", "@"], &["mknod-file", "@"]];

/// The filesystems are mounted before the policy is compiled.
fn policy(scene: &Scene) -> anyhow::Result<String> {
    let path = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let below: Vec<String> = ["lower", "copied"]
        .iter()
        .flat_map(|place| SIDES.iter().map(move |(side, _)| format!("{side}/{place}")))
        .flat_map(|dir| CHANGES.iter().map(move |act| format!("{dir}/{}", act.concat())))
        .collect();
    let below: Vec<&str> = below.iter().map(String::as_str).collect();
    if !scene.dir.join("overlay").exists() {
        let mut keep = vec![Mount::tmpfs(&path("tmpfs"))?, Mount::ext4(&path("ext4"))?];
        let (overlay, base) = Mount::overlay(&path("overlay"), &below)?;
        keep.extend([base, overlay]);
        scene.keep_mounts(keep);
    }
    let (mut allowed, mut secret) = (Vec::new(), vec![scene.make_file("allowed/one-secret")?]);
    for filesystem in [".", "tmpfs", "ext4", "overlay"] {
        allowed.push(scene.make_dir(&format!("{filesystem}/allowed"))?);
        secret.push(scene.make_dir(&format!("{filesystem}/secret"))?);
        scene.make_dir(&format!("{filesystem}/denied"))?;
    }
    let clean = |list: Vec<String>| list.join(", ").replace("/./", "/");
    let allowed = clean(allowed);
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    \
         allow_write: [{allowed}]\n    allow_delete: [{allowed}]\n    protect: [{}]\n",
        clean(secret)
    ))
}

/// What can be seen of an object from outside, but for when it was read.
fn state(path: &str) -> anyhow::Result<String> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok("nothing".to_owned()) };
    let content = if meta.is_file() { fs::read(path)? } else { Vec::new() };
    let name = std::ffi::CString::new(path)?;
    // SAFETY: the strings end with NUL; no buffer asks for the size.
    let attribute = unsafe { libc::lgetxattr(name.as_ptr(), ATTRIBUTE.as_ptr(), std::ptr::null_mut(), 0) } >= 0;
    Ok(format!(
        "mode {:o}, owner {}:{}, changed {}, attribute {attribute}, {:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        String::from_utf8_lossy(&content[..content.len().min(64)]),
    ))
}

/// A file of long ago.
fn old_file(scene: &Scene, name: &str) -> anyhow::Result<String> {
    let path = scene.make_file(name)?;
    fs::File::options().write(true).open(&path)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5))?;
    Ok(path)
}

/// Does one act, which changes the object where nothing is said against it, and nowhere else. The event tells of `told`.
fn judge(
    scene: &Scene,
    against: Option<&str>,
    act: &[&str],
    object: &str,
    (kind, told): (&str, &str),
) -> anyhow::Result<()> {
    let before = state(object)?;
    let mark = scene.mark();
    let outcome = scene.act(SKILL, act)?;
    let after = state(object)?;
    let Some(reason) = against else {
        outcome.done()?;
        ensure!(before != after, "{act:?} changed nothing: {after}");
        return Ok(());
    };
    if before != after {
        return Err(Breach(format!("{act:?} made of {object} ({before}): {after}")).into());
    }
    outcome.refused()?;
    let event = scene.event(mark, kind, "deny", told).with_context(|| format!("{act:?}"))?;
    ensure!(event.text("reason").contains(reason), "{act:?}: {}", event.0);
    Ok(())
}

/// The same for an act whose event tells of a write to the object itself.
fn write(scene: &Scene, against: Option<&str>, act: &[&str], object: &str) -> anyhow::Result<()> {
    judge(scene, against, act, object, ("write", object))
}

/// Reads, which only protection is against.
fn read(scene: &Scene, side: &str, act: &[&str], object: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    let outcome = scene.act(SKILL, act)?;
    if side != "secret" {
        return outcome.done().map(drop);
    }
    outcome.refused()?;
    let event = scene.event(mark, "read", "deny", object)?;
    ensure!(event.text("reason") == "protected", "{act:?}: {}", event.0);
    Ok(())
}

/// An act on this path.
fn on<'a>(act: &[&'a str], path: &'a str) -> Vec<&'a str> {
    act.iter().map(|word| if *word == "@" { path } else { word }).collect()
}

/// One of [`CHANGES`]. Who maps a file to write it reads it, too, and that is asked first.
fn change(scene: &Scene, (side, against): (&str, Option<&str>), act: &[&str], path: &str) -> anyhow::Result<()> {
    let kind = if side == "secret" && act[0] == "map-shared" { "read" } else { "write" };
    judge(scene, against, &on(act, path), path, (kind, path))
}

/// What changes a file on this filesystem. On 6.1 a worker opens what a ring opens on an overlay, and is not taken for the kernel
/// (`files::io_uring_requests_with_credentials_of_before`).
fn changes(filesystem: &str) -> anyhow::Result<impl Iterator<Item = &'static [&'static str]>> {
    let by_worker = filesystem == "overlay" && kernel()? < (6, 12);
    Ok(CHANGES.into_iter().filter(move |act| !(by_worker && act[0] == "uring")))
}

/// Everything on one filesystem.
fn everything(scene: &Scene, filesystem: &str) -> anyhow::Result<()> {
    for (side, against) in SIDES {
        let base = format!("{filesystem}/{side}/every");
        for act in changes(filesystem)? {
            let path = old_file(scene, &format!("{base}/{}", act.concat()))?;
            change(scene, (side, against), act, &path)?;
        }
        for act in CREATIONS {
            let path = format!("{}/{}", scene.make_dir(&base)?, act[0]);
            write(scene, against, &on(act, &path), &path)?;
        }
        let (file, dir) = (scene.make_file(&format!("{base}/read"))?, scene.make_dir(&base)?);
        read(scene, side, &["read", &file], &file)?;
        read(scene, side, &["read", &dir], &dir)?;
        read(scene, side, &["uring", "open-read", &file], &file)?;
    }
    Ok(())
}

fn tmpfs(scene: &Scene) -> anyhow::Result<()> {
    everything(scene, "tmpfs")
}

fn ext4(scene: &Scene) -> anyhow::Result<()> {
    everything(scene, "ext4")
}

/// What lies above alone; below alone; and below, with a copy above.
fn overlay(scene: &Scene) -> anyhow::Result<()> {
    everything(scene, "overlay")?;
    for place in ["lower", "copied"] {
        for (side, against) in SIDES {
            for act in changes("overlay")? {
                let name = format!("{side}/{place}/{}", act.concat());
                let path = scene.dir.join("overlay").join(&name).to_string_lossy().into_owned();
                if place == "copied" {
                    scene.outside(&["append", &path, "."])?.done()?;
                }
                read(scene, side, &["read", &path], &path)?;
                change(scene, (side, against), act, &path)?;
            }
        }
    }
    Ok(())
}

/// Where another side's directories are shown: what is denied below what is allowed, and the other way round.
fn elsewhere(side: &str) -> &'static str {
    if side == "allowed" { "denied" } else { "allowed" }
}

/// Bind mounts in a namespace of the agent's own and outside, and a root of its own.
fn mounts(scene: &Scene) -> anyhow::Result<()> {
    for (side, against) in SIDES {
        let dir = scene.make_dir(&format!("{side}/mounts"))?;
        let own = scene.make_dir(&format!("{}/own-{side}", elsewhere(side)))?;
        let shown = Mount::bind(&dir, &scene.make_dir(&format!("{}/shown-{side}", elsewhere(side)))?)?;
        let ways: [(&[&str], &str); 3] =
            [(&["unshare", "mount", "bind", &dir, &own], &own), (&[], shown.path()), (&["chroot", &dir], "")];
        for (n, (way, at)) in ways.into_iter().enumerate() {
            let (file, new) = (scene.make_file(&format!("{side}/mounts/f{n}"))?, format!("{dir}/new{n}"));
            let (seen, made) = (format!("{at}/f{n}"), format!("{at}/new{n}"));
            read(scene, side, &[way, &["read", &seen]].concat(), &file)?;
            write(scene, against, &[way, &["append", &seen, "+"]].concat(), &file)?;
            write(scene, against, &[way, &["set-attribute", &seen]].concat(), &file)?;
            write(scene, against, &[way, &["truncate", &seen]].concat(), &file)?;
            write(scene, against, &[way, &["create", &made]].concat(), &new)?;
        }
    }
    Ok(())
}

/// Symbolic links to the file, to its directory and to what is not there yet; hard links.
fn links(scene: &Scene) -> anyhow::Result<()> {
    for (side, against) in SIDES {
        let file = scene.make_file(&format!("{side}/links/f"))?;
        let dir = scene.make_dir(&format!("{side}/links"))?;
        let home = scene.make_dir(&format!("{}/links-to-{side}", elsewhere(side)))?;
        let new = format!("{dir}/new");
        for (to, name) in [(&file, "file"), (&dir, "dir"), (&new, "new")] {
            std::os::unix::fs::symlink(to, format!("{home}/{name}"))?;
        }
        for way in [format!("{home}/file"), format!("{home}/dir/f"), format!("{home}/dir/../links/f")] {
            read(scene, side, &["read", &way], &file)?;
            write(scene, against, &["append", &way, "+"], &file)?;
        }
        write(scene, against, &["create-through-link", &format!("{home}/new")], &new)?;
        // A second name that the skill makes must not be more than the first.
        let second = scene.make_dir("allowed/second-names")? + "/" + side;
        let refused = if side == "denied" { Some("link") } else { against };
        judge(scene, refused, &["link", &file, &second], &second, ("write", &file))?;
        write(scene, against, &["truncate", &format!("{home}/file")], &file)?;
    }
    // A rule that names the file itself holds for each of its names.
    let (secret, plain) = (scene.make_file("allowed/one-secret")?, scene.make_file("allowed/one-plain")?);
    for (path, side, against) in [(&plain, "allowed", None), (&secret, "secret", Some("protected"))] {
        let second = format!("{path}.second");
        fs::hard_link(path, &second)?;
        read(scene, side, &["read", &second], &second)?;
        write(scene, against, &["append", &second, "+"], &second)?;
    }
    Ok(())
}

/// Directories and files that are open already, which `/proc/self/fd` opens once more.
fn descriptors(scene: &Scene) -> anyhow::Result<()> {
    for (side, against) in SIDES {
        let file = scene.make_file(&format!("{side}/descriptors/f"))?;
        let dir = scene.make_dir(&format!("{side}/descriptors"))?;
        read(scene, side, &["read-at", &dir, "f"], &file)?;
        write(scene, against, &["append-at", &dir, "f", "+"], &file)?;
        write(scene, against, &["reopen-path-append", &file, "+"], &file)?;
        if side != "secret" {
            write(scene, against, &["reopen-append", &file, "+"], &file)?;
        }
        // One that was opened outside.
        let text = fs::read_to_string(&file)?;
        for (act, fine, wanted) in [
            (&["read-from", "0", "f"][..], side != "secret", text.clone()),
            (&["append-from", "0", "f", "!"], side == "allowed", format!("{text}!")),
        ] {
            let mark = scene.mark();
            let outcome = act_with(fs::File::open(&dir)?.into(), SKILL, act)?;
            if fine {
                ensure!(outcome.status == 0, "{act:?} in {side}: {outcome:?}");
                holds(&file, &wanted)?;
            } else {
                holds(&file, &text)?;
                ensure!(outcome.status == libc::EPERM, "{act:?} in {side}: {outcome:?}");
                let kind = if act[0] == "read-from" { "read" } else { "write" };
                scene.event(mark, kind, "deny", &file)?;
            }
        }
    }
    Ok(())
}

/// Owner, mode, times and extended attributes, by path, by a directory's descriptor, and by one that is open for reading
/// alone, which is enough for each.
fn attributes(scene: &Scene) -> anyhow::Result<()> {
    const BY_PATH: [&str; 11] = [
        "chown",
        "lchown",
        "fchownat",
        "fchownat-empty",
        "fchmodat",
        "utimensat",
        "touch",
        "set-attribute",
        "remove-attribute",
        "lremove-attribute",
        "chmod",
    ];
    const BY_DESCRIPTOR: [&str; 5] = ["fchown", "fchmod", "futimens", "fset-attribute", "fremove-attribute"];
    for (side, against) in SIDES {
        // What is protected is not opened to begin with.
        let by_descriptor = if side == "secret" { &[][..] } else { &BY_DESCRIPTOR };
        for act in BY_PATH.iter().chain(by_descriptor) {
            let path = old_file(scene, &format!("{side}/attributes/{act}"))?;
            if act.contains("remove") {
                scene.outside(&["set-attribute", &path])?.done()?;
            }
            write(scene, against, &[act, &path], &path)?;
        }
        // A symbolic link has an owner and times of its own.
        let dir = scene.make_dir(&format!("{side}/attributes"))?;
        for act in ["lchown", "fchownat", "utimensat"] {
            let link = format!("{dir}/{act}-of-a-link");
            std::os::unix::fs::symlink("nowhere", &link)?;
            write(scene, against, &[act, &link], &link)?;
        }
    }
    Ok(())
}

/// Also second names of a file by its descriptor: from what is not allowed into what is, and the other way round.
fn nodes(scene: &Scene) -> anyhow::Result<()> {
    let target = scene.make_dir("allowed/names")?;
    for (side, against) in SIDES {
        let dir = scene.make_dir(&format!("{side}/nodes"))?;
        for act in ["mkfifoat", "mknod-socket", "mknod-file", "mkdirat"] {
            let path = format!("{dir}/{act}");
            write(scene, against, &[act, &path], &path)?;
        }
        let path = format!("{dir}/symlinkat");
        write(scene, against, &["symlinkat", "/x", &path], &path)?;
        for act in ["link-of-descriptor", "link-of-proc-fd"] {
            let source = scene.make_file(&format!("allowed/nodes/{act}-source"))?;
            let into = format!("{dir}/{act}");
            write(scene, against, &[act, &source, &into], &into)?;
            let source = scene.make_file(&format!("{side}/nodes/{act}-from"))?;
            let from = format!("{target}/{act}-{side}");
            let refused = if side == "denied" { Some("link") } else { against };
            judge(scene, refused, &[act, &source, &from], &from, ("write", &source))?;
        }
    }
    Ok(())
}

fn uring(scene: &Scene) -> anyhow::Result<()> {
    for how in ["uring", "uring-worker", "uring-sqpoll"] {
        for (side, against) in SIDES {
            let dir = scene.make_dir(&format!("{side}/{how}"))?;
            for act in [&["mkdir", "@"][..], &["symlink", "/x", "@"], &["create", "@"]] {
                let path = format!("{dir}/{}", act[0]);
                write(scene, against, &[&[how], &on(act, &path)[..]].concat(), &path)?;
            }
            let source = scene.make_file(&format!("allowed/{how}/source"))?;
            let path = format!("{dir}/link");
            write(scene, against, &[how, "link", &source, &path], &path)?;
            let file = |name: &str| old_file(scene, &format!("{side}/{how}/{name}"));
            let linked = file("linked")?;
            let path = format!("{}/second-{side}", scene.make_dir(&format!("allowed/{how}"))?);
            let refused = if side == "denied" { Some("link") } else { against };
            judge(scene, refused, &[how, "link", &linked, &path], &path, ("write", &linked))?;
            let changed = file("changed")?;
            write(scene, against, &[how, "set-attribute", &changed], &changed)?;
            write(scene, against, &[how, "splice", &changed, "!"], &changed)?;
            write(scene, against, &[how, "punch", &changed], &changed)?;
            if side != "secret" {
                let by_descriptor = file("by-descriptor")?;
                write(scene, against, &[how, "fset-attribute", &by_descriptor], &by_descriptor)?;
                let read_only = file("read-only")?;
                for act in [&["punch-read-only", "@"][..], &["splice-read-only", "@", "!"]] {
                    let outcome = scene.act(SKILL, &[&[how], &on(act, &read_only)[..]].concat())?;
                    holds(&read_only, &format!("{side}/{how}/read-only"))?;
                    outcome.failed(libc::EBADF)?;
                }
            }
        }
    }
    Ok(())
}
