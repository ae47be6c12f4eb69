//! The digest of a file is measured once for as long as its content stays, and never longer.

mod race;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::harness::{events::Event, files::Mount, runner::Suite, scene::Scene, succeed};

pub(super) const SUITE: Suite = Suite {
    name: "digest",
    policy: Some(policy),
    tests: &[
        ("equal_to_sha256sum", equal),
        ("measured_once", measured_once),
        ("what_lies_on_a_loop_device_is_measured_each_time", on_a_loop_device),
        ("every_way_to_write_is_noticed_on_tmpfs", |scene| every_way(scene, TMPFS)),
        ("every_way_to_write_is_noticed_on_ext4", |scene| every_way(scene, DISK)),
        ("a_governed_writer_is_noticed", governed_writer),
        ("a_mapping_without_a_descriptor", held_mapping),
        ("pages_that_input_and_output_hold", held_pages),
        ("a_mount_over_the_file", mounted_over),
        ("written_through_an_overlay", through_an_overlay),
        ("written_below_an_overlay", below_an_overlay),
        ("mapped_below_an_overlay", mapped_below_an_overlay),
        ("open_for_writing_below_an_overlay", open_below_an_overlay),
        ("a_sparse_giant", giant),
        ("a_race_on_tmpfs", |scene| race::race(scene, TMPFS)),
        ("a_race_on_an_overlay", |scene| race::race(scene, OVERLAY)),
        ("copied_up_while_it_is_executed", race::copied_up),
        ("an_overlay_on_a_disk", overlay_on_disk),
    ],
};

const SKILL: &str = "runner";
/// The filesystems, as directories of the scene.
const TMPFS: &str = "tmpfs";
const DISK: &str = "disk";
const LOOP: &str = "loop";
const OVERLAY: &str = "overlay";
const DISK_OVERLAY: &str = "overlay-on-disk";
/// How many files of the lower layer are copied to the upper one while they are executed.
const RISING: u64 = 40;
/// Why a file does not run that a governed process has mapped.
const MAPPED: &str = "a governed process has mapped it to write it";
/// Files that lie in the lower layer before the overlay is mounted.
const LOWER: [&str; 6] = ["equal", "once", "through-write", "through-mapping", "beneath", "held"];
/// As long as any of the programs, so that one can take another's place without a change of length.
const LENGTH: usize = 112 << 10;
/// What the racer that is not listed ends with.
const FOREIGN: i32 = 66;
/// Every way to write that `overwrite` knows; `punch` leaves zeroes.
const WAYS: [&str; 13] = [
    "write",
    "truncating-open",
    "truncate",
    "ftruncate",
    "punch",
    "mapping",
    "mapping-without-descriptor",
    "mapping-made-writable",
    "uring",
    "sendfile",
    "splice",
    "copy-range",
    "link",
];

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let padded = |program: &str| -> anyhow::Result<Vec<u8>> {
        let mut content = fs::read(format!("/usr/bin/{program}"))?;
        ensure!(content.len() <= LENGTH, "{program} is longer than {LENGTH}");
        content.resize(LENGTH, 0);
        Ok(content)
    };
    let foreign = u8::try_from(FOREIGN)?;
    for (name, content) in [
        ("good", padded("wc")?),
        ("evil", padded("id")?),
        ("good-racer", race::ends_with(0)),
        ("evil-racer", race::ends_with(foreign)),
    ] {
        let path = scene.make_file(name)?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let path = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let mut mounts = vec![Mount::ext4_on_disk(&path(DISK))?, Mount::ext4(&path(LOOP))?];
    scene.make_dir(TMPFS)?;
    let base = Mount::tmpfs(&path("base"))?;
    for dir in ["lower", "upper", "work"] {
        fs::create_dir_all(path(&format!("base/{dir}")))?;
    }
    for name in LOWER {
        fs::copy(path("good"), path(&format!("base/lower/{name}")))?;
    }
    for n in 0..RISING {
        fs::copy(path("good-racer"), path(&format!("base/lower/rising-{n}")))?;
    }
    mounts.extend([base, Mount::overlay_of(&path(OVERLAY), &path("base"))?]);
    for dir in ["lower", "upper", "work"] {
        fs::create_dir_all(path(&format!("{DISK}/{dir}")))?;
    }
    fs::copy(path("good"), path(&format!("{DISK}/lower/once")))?;
    mounts.push(Mount::overlay_of(&path(DISK_OVERLAY), &path(DISK))?);
    scene.keep_mounts(mounts);
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    allow_binaries:\n      \
         - path: /usr/lib/enforcer/enforcer-tests\n      - path: {}\n      - path: {}\n",
        path("good"),
        path("good-racer")
    ))
}

fn path(scene: &Scene, name: &str) -> String {
    scene.dir.join(name).to_string_lossy().into_owned()
}

/// A fresh copy of the listed program; what lies in the overlay's lower layer is there already.
fn place(scene: &Scene, dir: &str, name: &str) -> anyhow::Result<String> {
    let victim = path(scene, &format!("{dir}/{name}"));
    if dir != OVERLAY || !LOWER.contains(&name) {
        fs::copy(path(scene, "good"), &victim).with_context(|| victim.clone())?;
    }
    Ok(victim)
}

/// Puts a fresh copy of the listed program in the place of a file.
fn renew(scene: &Scene, victim: &str) -> anyhow::Result<()> {
    fs::remove_file(victim)?;
    fs::copy(path(scene, "good"), victim).map(drop).with_context(|| victim.to_owned())
}

/// How many digests were measured so far, and how many were known.
fn counts(scene: &Scene) -> anyhow::Result<(u64, u64)> {
    // The worker's own exec counts, too: not from here on.
    scene.worker(SKILL)?;
    let status = scene.daemon(|daemon| daemon.status())?;
    let count = |key: &str| status["digests"][key].as_u64().with_context(|| format!("no count of {key}"));
    Ok((count("measured")?, count("known")?))
}

fn runs(scene: &Scene, victim: &str) -> anyhow::Result<()> {
    let outcome = scene.act(SKILL, &["exec", victim, "--version"])?;
    ensure!(outcome.done()?.out.contains("GNU coreutils"), "{outcome:?}");
    Ok(())
}

/// The file is refused for its content, which is what `sha256sum` says it is.
fn refused(scene: &Scene, victim: &str) -> anyhow::Result<()> {
    let event = refused_because(scene, &["exec", victim, "--version"], "binary not listed")?;
    let found = event.object("sha256").to_owned();
    ensure!(found == format!("sha256:{}", sha256sum(victim)?), "{found} is not the digest of {victim}");
    Ok(())
}

fn refused_because(scene: &Scene, act: &[&str], reason: &str) -> anyhow::Result<Event> {
    let mark = scene.mark();
    let outcome = scene.act(SKILL, act)?;
    ensure!(outcome.refused()?.out.is_empty(), "{outcome:?}");
    let denied = |e: &Event| e.text("kind") == "exec" && e.text("verdict") == "deny";
    let event = scene.events().wait(mark, "a refused exec", denied)?;
    ensure!(event.text("reason") == reason, "{}", event.0);
    Ok(event)
}

fn sha256sum(path: &str) -> anyhow::Result<String> {
    let printed = succeed(&["sha256sum", path])?;
    Ok(printed.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Lets a process outside every skill replace the content.
fn overwrite(scene: &Scene, way: &str, victim: &str, with: &str) -> anyhow::Result<()> {
    scene.outside(&["overwrite", way, victim, &path(scene, with)])?.done().map(drop)
}

fn equal(scene: &Scene) -> anyhow::Result<()> {
    for dir in [TMPFS, DISK, LOOP, OVERLAY] {
        let victim = place(scene, dir, "equal")?;
        // Once measured and once known.
        for _ in 0..2 {
            let mark = scene.mark();
            runs(scene, &victim)?;
            let event = scene.event(mark, "exec", "allow", &victim)?;
            ensure!(event.object("sha256") == format!("sha256:{}", sha256sum(&victim)?), "{dir}: {}", event.0);
        }
        let unlisted = path(scene, &format!("{dir}/unlisted"));
        fs::copy("/usr/bin/id", &unlisted)?;
        refused(scene, &unlisted)?;
        refused(scene, &unlisted)?;
    }
    Ok(())
}

fn measured_once(scene: &Scene) -> anyhow::Result<()> {
    // In an overlay: from the lower layer, and from the upper one.
    for (dir, name) in [(TMPFS, "once"), (DISK, "once"), (OVERLAY, "once"), (OVERLAY, "once-above")] {
        let victim = place(scene, dir, name)?;
        let before = counts(scene)?;
        for _ in 0..4 {
            runs(scene, &victim)?;
        }
        let (measured, known) = counts(scene)?;
        let found = (measured - before.0, known - before.1);
        ensure!(found == (1, 3), "{victim}: {} measured, {} known", found.0, found.1);
    }
    Ok(())
}

fn on_a_loop_device(scene: &Scene) -> anyhow::Result<()> {
    /// What `mkfs.ext4` takes for a disk as small as this.
    const BLOCK: usize = 1024;
    let victim = place(scene, LOOP, "backed")?;
    let before = counts(scene)?;
    runs(scene, &victim)?;
    runs(scene, &victim)?;
    ensure!(counts(scene)? == (before.0 + 2, before.1), "a digest was kept");
    // The disk is a file: somebody writes the program there, and nobody opens the program's own file.
    succeed(&["sync"])?;
    let image = path(scene, &format!("{LOOP}.img"));
    let (good, evil) = (fs::read(path(scene, "good"))?, fs::read(path(scene, "evil"))?);
    let mut disk = fs::read(&image)?;
    let mut replaced = 0;
    for (old, new) in good.chunks(BLOCK).zip(evil.chunks(BLOCK)) {
        // Blocks of one value are everywhere.
        if old.iter().all(|b| *b == old[0]) {
            continue;
        }
        for block in disk.chunks_mut(BLOCK).filter(|block| *block == old) {
            block.copy_from_slice(new);
            replaced += 1;
        }
    }
    ensure!(replaced > 0, "the program was not found on the disk");
    let mut file = fs::File::options().write(true).open(&image)?;
    std::io::Write::write_all(&mut file, &disk)?;
    file.sync_all()?;
    // The kernel lets go of what it has read.
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    refused(scene, &victim)
}

fn every_way(scene: &Scene, dir: &str) -> anyhow::Result<()> {
    // On the same filesystem: `copy_file_range` copies to no other.
    let (good, evil) = (format!("{dir}/source-good"), format!("{dir}/source-evil"));
    fs::copy(path(scene, "good"), path(scene, &good))?;
    fs::copy(path(scene, "evil"), path(scene, &evil))?;
    for way in WAYS {
        let victim = place(scene, dir, &format!("way-{way}"))?;
        let meta = fs::metadata(&victim)?;
        runs(scene, &victim)?;
        runs(scene, &victim)?;
        overwrite(scene, way, &victim, &evil).with_context(|| way.to_owned())?;
        fs::File::options().write(true).open(&victim)?.set_modified(meta.modified()?)?;
        ensure!(fs::metadata(&victim)?.len() == meta.len(), "{way} changed the length");
        refused(scene, &victim).with_context(|| way.to_owned())?;
        refused(scene, &victim).with_context(|| way.to_owned())?;
        overwrite(scene, "write", &victim, &good)?;
        runs(scene, &victim).with_context(|| way.to_owned())?;
    }
    let victim = place(scene, dir, "way-rename")?;
    runs(scene, &victim)?;
    overwrite(scene, "rename", &victim, &evil)?;
    refused(scene, &victim)
}

fn governed_writer(scene: &Scene) -> anyhow::Result<()> {
    let write = |way: &str, victim: &str, with: &str| {
        scene.act(SKILL, &["overwrite", way, victim, &path(scene, with)])?.done().map(drop)
    };
    for dir in [TMPFS, DISK, OVERLAY] {
        let victim = place(scene, dir, "governed")?;
        runs(scene, &victim)?;
        write("write", &victim, "evil")?;
        refused(scene, &victim)?;
        write("write", &victim, "good")?;
        runs(scene, &victim)?;
        for way in ["mapping-without-descriptor", "mapping-made-writable"] {
            write(way, &victim, "evil")?;
            refused(scene, &victim)?;
            // What it contains now need not be what it contains when it runs.
            write(way, &victim, "good")?;
            refused_because(scene, &["exec", &victim, "--version"], MAPPED)?;
            renew(scene, &victim)?;
            runs(scene, &victim)?;
        }
    }
    Ok(())
}

fn held_mapping(scene: &Scene) -> anyhow::Result<()> {
    for dir in [TMPFS, DISK] {
        let victim = place(scene, dir, "held")?;
        runs(scene, &victim)?;
        // The kernel does not run what is open for writing, and a mapping keeps the file open.
        let act = ["hold-mapping", &victim, "fork", "exec", &victim, "--version"];
        scene.act(SKILL, &act)?.failed(libc::ETXTBSY)?;
        refused_because(scene, &["exec", &victim, "--version"], MAPPED)?;
        renew(scene, &victim)?;
        runs(scene, &victim)?;
    }
    // It does not look below an overlay.
    let victim = place(scene, OVERLAY, "held")?;
    runs(scene, &victim)?;
    let act = ["hold-mapping", &victim, "fork", "exec", &victim, "--version"];
    refused_because(scene, &act, "file below the overlay is open for writing")?;
    refused_because(scene, &["exec", &victim, "--version"], MAPPED)?;
    renew(scene, &victim)?;
    runs(scene, &victim)
}

/// The kernel lets nobody hold the pages of a file on a disk for long.
fn held_pages(scene: &Scene) -> anyhow::Result<()> {
    for dir in [TMPFS, OVERLAY] {
        let victim = place(scene, dir, "held-pages")?;
        runs(scene, &victim)?;
        let act = ["hold-pages", &victim, "fork", "exec", &victim, "--version"];
        refused_because(scene, &act, MAPPED)?;
        refused_because(scene, &act[3..], MAPPED)?;
        renew(scene, &victim)?;
        runs(scene, &victim)?;
        // Outside it is nobody's business.
        ensure!(scene.outside(&act)?.done()?.out.contains("GNU coreutils"), "{dir}: it did not run");
        runs(scene, &victim)?;
    }
    Ok(())
}

fn mapped_below_an_overlay(scene: &Scene) -> anyhow::Result<()> {
    let victim = place(scene, OVERLAY, "mapped-below")?;
    runs(scene, &victim)?;
    let layer = path(scene, "base/upper/mapped-below");
    scene.act(SKILL, &["overwrite", "mapping-without-descriptor", &layer, &path(scene, "good")])?.done()?;
    refused_because(scene, &["exec", &victim, "--version"], MAPPED)?;
    renew(scene, &victim)?;
    runs(scene, &victim)
}

fn mounted_over(scene: &Scene) -> anyhow::Result<()> {
    let victim = place(scene, TMPFS, "mounted-over")?;
    runs(scene, &victim)?;
    succeed(&["mount", "--bind", &path(scene, "evil"), &victim])?;
    let outcome = refused_because(scene, &["exec", &victim, "--version"], "binary not listed");
    succeed(&["umount", &victim])?;
    outcome?;
    runs(scene, &victim)
}

fn through_an_overlay(scene: &Scene) -> anyhow::Result<()> {
    for (name, way) in [("through-write", "write"), ("through-mapping", "mapping-without-descriptor")] {
        let victim = place(scene, OVERLAY, name)?;
        // The first write copies the file to the upper layer, the later ones find it there.
        for _ in 0..2 {
            runs(scene, &victim)?;
            runs(scene, &victim)?;
            overwrite(scene, way, &victim, "evil")?;
            refused(scene, &victim)?;
            overwrite(scene, way, &victim, "good")?;
        }
        runs(scene, &victim)?;
    }
    Ok(())
}

fn below_an_overlay(scene: &Scene) -> anyhow::Result<()> {
    let above = place(scene, OVERLAY, "above")?;
    let beneath = place(scene, OVERLAY, "beneath")?;
    for (victim, layer) in [(above, "base/upper/above"), (beneath, "base/lower/beneath")] {
        let layer = path(scene, layer);
        for way in ["write", "mapping-without-descriptor", "truncating-open", "uring"] {
            runs(scene, &victim)?;
            runs(scene, &victim)?;
            overwrite(scene, way, &layer, "evil")?;
            refused(scene, &victim).with_context(|| format!("{way} {layer}"))?;
            overwrite(scene, way, &layer, "good")?;
            runs(scene, &victim)?;
        }
    }
    Ok(())
}

fn open_below_an_overlay(scene: &Scene) -> anyhow::Result<()> {
    let victim = place(scene, OVERLAY, "opened")?;
    runs(scene, &victim)?;
    let writer = fs::File::options().write(true).open(path(scene, "base/upper/opened"))?;
    let act = ["exec", &victim, "--version"];
    refused_because(scene, &act, "file below the overlay is open for writing")?;
    drop(writer);
    runs(scene, &victim)
}

/// A file that is larger than what is measured takes no time.
fn giant(scene: &Scene) -> anyhow::Result<()> {
    const BOUND: Duration = Duration::from_mins(1);
    for dir in [TMPFS, DISK] {
        let victim = place(scene, dir, "giant")?;
        runs(scene, &victim)?;
        let length = fs::metadata(&victim)?.len();
        fs::File::options().write(true).open(&victim)?.set_len(100 << 30)?;
        let began = Instant::now();
        refused_because(scene, &["exec", &victim, "--version"], "content could not be measured")?;
        ensure!(began.elapsed() < BOUND, "{dir}: it took {:?}", began.elapsed());
        fs::File::options().write(true).open(&victim)?.set_len(length)?;
        runs(scene, &victim)?;
    }
    Ok(())
}

/// An overlay whose layers lie on a disk's filesystem, as containers have it: known from the second exec on, and noticed when
/// it is written, through the overlay and below it.
fn overlay_on_disk(scene: &Scene) -> anyhow::Result<()> {
    let (victim, below) = (path(scene, &format!("{DISK_OVERLAY}/once")), path(scene, &format!("{DISK}/lower/once")));
    runs(scene, &victim)?;
    let (measured, known) = counts(scene)?;
    for _ in 0..3 {
        runs(scene, &victim)?;
    }
    let (later, used) = counts(scene)?;
    ensure!(later == measured && used >= known + 3, "{measured} and {known} became {later} and {used}");
    overwrite(scene, "write", &below, &path(scene, "evil"))?;
    refused(scene, &victim)?;
    overwrite(scene, "write", &below, &path(scene, "good"))?;
    runs(scene, &victim)?;
    overwrite(scene, "write", &victim, &path(scene, "evil"))?;
    refused(scene, &victim)
}
