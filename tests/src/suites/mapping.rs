//! Executable mappings of files: libraries come from where the manifest says, and a loader runs only what is listed.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, thread, time::Duration};

use anyhow::{Context as _, ensure};

use crate::harness::{
    ENFORCER, command,
    events::Event,
    eventually,
    files::Mount,
    runner::Suite,
    scene::{Scene, gone, holds, there},
    succeed,
    worker::{Entry, Outcome, Worker},
};

pub(super) const SUITE: Suite = Suite {
    name: "mapping",
    policy: Some(policy),
    tests: &[
        ("real_programs_run", programs),
        ("a_library_that_the_skill_wrote", own_library),
        ("a_library_by_ld_preload_and_ld_audit", preloaded),
        ("programs_beside_the_libraries", beside),
        ("a_loader_that_is_asked_to_run_a_denied_program", loader),
        ("a_listed_directory_and_a_listed_content", listed),
        ("content_that_can_be_written", writable),
        ("content_that_was_mapped_to_be_written", written_by_mapping),
        ("content_that_is_mapped_and_then_let_go", let_go),
        ("a_mapping_that_becomes_executable_later", later),
        ("library_directories_are_read_only", read_only),
        ("an_empty_list", empty),
        ("everything_is_allowed_by_a_star", star),
        ("the_default_is_not_reported", silent),
        ("a_handler_of_binfmt_misc", handler),
        ("outside_processes_are_untouched", outside),
    ],
};

/// Has the default list.
const SKILL: &str = "plain";
const BINARIES: &str = "/usr/lib/enforcer/enforcer-tests, /usr/bin/bash, /usr/bin/python3, /usr/bin/wc";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// What the handler's files begin with; as a command it does nothing.
const MAGIC: &str = ": enforced";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let (own, listed) = (scene.make_dir("own")?, scene.make_dir("listed")?);
    let (open, script) = (scene.make_dir("listed/open")?, own.clone() + "/handled");
    for (dir, tail) in [("own", 1), ("listed", 1), ("content", 2)] {
        library(scene, dir, tail)?;
    }
    fs::write(&script, format!("{MAGIC}\necho token-of-the-file\n"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let digest = sha256(&library(scene, "content", 2)?)?;
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  \
         {SKILL}:\n    allow_binaries: [{BINARIES}, {LOADER}, {script}]\n    allow_delete: [\"*\"]\n  \
         listed:\n    allow_binaries: [{BINARIES}]\n    allow_delete: [\"*\"]\n    allow_write: [{own}, {open}, {}]\n    \
         allow_libraries: [/usr/lib, /usr/lib64, {listed}, \"{digest}\"]\n  \
         empty:\n    allow_binaries: [{BINARIES}]\n    allow_libraries: []\n  \
         star:\n    allow_binaries: [{BINARIES}]\n    allow_libraries: [\"*\"]\n",
        scene.make_dir("content")?,
    ))
}

/// `sha256:…` of a file.
fn sha256(path: &str) -> anyhow::Result<String> {
    let hashed = succeed(&["sha256sum", path])?;
    Ok(format!("sha256:{}", hashed.split_whitespace().next().unwrap_or_default()))
}

/// A real library of the guest.
fn system_library() -> anyhow::Result<String> {
    let dirs = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found = dirs.iter().map(|dir| format!("{dir}/libm.so.6")).find(|path| Path::new(path).exists());
    found.context("the guest has no libm.so.6")
}

/// A copy of it with `tail` bytes behind it, which makes it another content.
fn library(scene: &Scene, dir: &str, tail: usize) -> anyhow::Result<String> {
    let path = format!("{}/lib.so", scene.make_dir(dir)?);
    let mut content = fs::read(system_library()?)?;
    content.resize(content.len() + tail, 0);
    if fs::read(&path).ok().as_ref() != Some(&content) {
        fs::write(&path, content)?;
    }
    Ok(path)
}

/// The act is refused for this reason, with an event on `path`.
fn refused(scene: &Scene, skill: &str, act: &[&str], path: &str, reason: &str) -> anyhow::Result<Outcome> {
    let mark = scene.mark();
    let outcome = scene.act(skill, act)?;
    outcome.refused()?;
    let event = scene.event(mark, "map", "deny", path)?;
    ensure!(event.text("reason") == reason, "the reason is {:?}", event.text("reason"));
    Ok(outcome)
}

/// Runs a program of real life in the skill.
fn runs(skill: &str, words: &[&str]) -> anyhow::Result<String> {
    let all: Vec<&str> = [ENFORCER, "run", "--skill", skill, "--"].iter().chain(words).copied().collect();
    let outcome = command(&all)?;
    ensure!(outcome.status == 0, "{words:?} ended with {}: {}{}", outcome.status, outcome.out, outcome.err);
    Ok(outcome.out)
}

fn programs(scene: &Scene) -> anyhow::Result<()> {
    // Extension modules, and libraries by name.
    let script = "import json, socket, hashlib, ctypes\n\
                  print(hashlib.sha256(b'').hexdigest()[:8], ctypes.CDLL('libm.so.6').abs(-3))";
    let out = runs(SKILL, &["/usr/bin/python3", "-c", script])?;
    ensure!(out == "e3b0c442 3\n", "{out:?}");
    let out = runs(SKILL, &["/usr/bin/bash", "-c", "echo one two | wc -w"])?;
    ensure!(out.trim() == "2", "{out:?}");
    let file = scene.make_file("own/real")?;
    let out = runs(SKILL, &["/usr/bin/wc", "-c", &file])?;
    ensure!(out.starts_with("8 "), "{out:?}");
    Ok(())
}

fn own_library(scene: &Scene) -> anyhow::Result<()> {
    let (system, own) = (system_library()?, library(scene, "own", 1)?);
    for act in ["map-code", "map-code-shared"] {
        scene.act(SKILL, &[act, &system])?.done()?;
        refused(scene, SKILL, &[act, &own], &own, "library not listed")?;
    }
    let load = |path: &str| format!("import ctypes; ctypes.CDLL({path:?}); print('loaded')");
    ensure!(runs(SKILL, &["/usr/bin/python3", "-c", &load(&system)])? == "loaded\n", "no system library");
    let mark = scene.mark();
    let outcome = command(&[ENFORCER, "run", "--skill", SKILL, "--", "/usr/bin/python3", "-c", &load(&own)])?;
    ensure!(outcome.status == 1 && !outcome.out.contains("loaded"), "{outcome:?}");
    let event = scene.event(mark, "map", "deny", &own)?;
    ensure!(event.object("sha256") == sha256(&own)?, "the digest to list is {:?}", event.object("sha256"));
    Ok(())
}

fn preloaded(scene: &Scene) -> anyhow::Result<()> {
    let (system, own) = (system_library()?, library(scene, "own", 1)?);
    for variable in ["LD_PRELOAD", "LD_AUDIT"] {
        // What the loader has loaded it says itself.
        let with = |path: &str| format!("{variable}={path} LD_DEBUG=files /usr/bin/wc --version 2>&1");
        let mark = scene.mark();
        let out = runs(SKILL, &["/usr/bin/bash", "-c", &with(&own)])?;
        ensure!(out.contains("failed to map segment") && out.contains("GNU coreutils"), "{variable}: {out}");
        scene.event(mark, "map", "deny", &own)?;
        let out = runs(SKILL, &["/usr/bin/bash", "-c", &with(&system)])?;
        ensure!(!out.contains("failed to map segment"), "{variable}: {out}");
    }
    Ok(())
}

/// `/usr` is in the list, and the programs below it are not libraries.
fn beside(scene: &Scene) -> anyhow::Result<()> {
    refused(scene, SKILL, &["map-code", "/usr/bin/id"], "/usr/bin/id", "library not listed")?;
    // A listed program may be mapped as it may be run.
    scene.act(SKILL, &["map-code", "/usr/bin/wc"])?.done()?;
    Ok(())
}

fn loader(scene: &Scene) -> anyhow::Result<()> {
    let copy = format!("{}/copy", scene.make_dir("own")?);
    fs::copy("/usr/bin/id", &copy)?;
    let good = format!("{}/good", scene.make_dir("own")?);
    fs::copy("/usr/bin/wc", &good)?;
    let library = system_library()?;
    for path in ["/usr/bin/id", &copy, &library] {
        let mark = scene.mark();
        let outcome = scene.act(SKILL, &["exec", LOADER, path, "--version"])?;
        ensure!(outcome.status != 0 && !outcome.out.contains("GNU coreutils"), "{path}: {outcome:?}");
        let real = fs::canonicalize(path)?.to_string_lossy().into_owned();
        let event = scene.event(mark, "map", "deny", &real)?;
        ensure!(event.text("reason") == "binary not listed", "the reason is {:?}", event.text("reason"));
    }
    for path in ["/usr/bin/wc", &good] {
        let outcome = scene.act(SKILL, &["exec", LOADER, path, "--version"])?;
        ensure!(outcome.done()?.out.contains("GNU coreutils"), "{path}: {outcome:?}");
    }
    // An option does not lead past it, and neither does a preloaded program.
    for words in [&["--preload", "/usr/bin/wc", "/usr/bin/id"][..], &["--argv0", "wc", "/usr/bin/id"]] {
        let outcome = scene.act(SKILL, &[&["exec", LOADER], words].concat())?;
        ensure!(outcome.status != 0 && !outcome.out.contains("uid="), "{words:?}: {outcome:?}");
    }
    Ok(())
}

fn listed(scene: &Scene) -> anyhow::Result<()> {
    let mark = scene.mark();
    let (by_place, by_content) = (library(scene, "listed", 1)?, library(scene, "content", 2)?);
    scene.act("listed", &["map-code", &by_place])?.done()?;
    let event = scene.event(mark, "map", "allow", &by_place)?;
    ensure!(event.text("rule").starts_with("allow_libraries: "), "the rule is {:?}", event.text("rule"));
    scene.act("listed", &["map-code", &by_content])?.done()?;
    let event = scene.event(mark, "map", "allow", &by_content)?;
    ensure!(event.text("rule").starts_with("allow_libraries: sha256:"), "the rule is {:?}", event.text("rule"));
    let own = library(scene, "own", 1)?;
    refused(scene, "listed", &["map-code", &own], &own, "library not listed")?;
    // Without the rules, neither.
    for path in [&by_place, &by_content] {
        refused(scene, SKILL, &["map-code", path], path, "library not listed")?;
    }
    Ok(())
}

/// What is listed by content alone lies where the skill may write.
fn writable(scene: &Scene) -> anyhow::Result<()> {
    let dir = scene.make_dir("content")?;
    let (lib, fresh) = (library(scene, "content", 2)?, format!("{dir}/fresh.so"));
    fs::copy(&lib, &fresh)?;
    refused(scene, "listed", &["map-code-while-writing", &fresh], &fresh, "content is open for writing")?;
    scene.act("listed", &["append", &fresh, "+"])?.done()?;
    refused(scene, "listed", &["map-code", &fresh], &fresh, "library not listed")?;
    fs::copy(&lib, &fresh)?;
    // It was held already when somebody had it open: another file shows that it is mapped, and what comes of it.
    let mapped = format!("{dir}/mapped.so");
    fs::copy(&lib, &mapped)?;
    scene.act("listed", &["map-code", &mapped])?.done()?;
    let before = fs::read(&mapped)?;
    for act in [&["append", &mapped, "+"][..], &["open-write", &mapped], &["truncate", &mapped], &["shorten", &mapped]]
    {
        let mark = scene.mark();
        scene.act("listed", act)?.refused()?;
        ensure!(fs::read(&mapped)? == before, "{act:?} changed it");
        let event = scene.event(mark, "write", "deny", &mapped)?;
        ensure!(event.text("reason") == "content is in use as code", "the reason is {:?}", event.text("reason"));
    }
    // Something else may take its place.
    let next = scene.make_file("content/next")?;
    scene.act("listed", &["rename", &next, &mapped])?.done()?;
    holds(&mapped, "content/next")
}

/// Neither a descriptor nor, on an overlay, the mapping itself is seen when the file is mapped for its content.
fn written_by_mapping(scene: &Scene) -> anyhow::Result<()> {
    let at = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let lib = library(scene, "content", 2)?;
    let (stacked, base) = Mount::overlay(&at("content/overlay"), &[])?;
    let mounts = (stacked, base, Mount::tmpfs(&at("content/tmpfs"))?, Mount::ext4(&at("content/ext4"))?);
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    for (dir, while_held) in [
        ("tmpfs", "content is open for writing"),
        ("ext4", "content is open for writing"),
        ("overlay", "a governed process has mapped it to write it"),
    ] {
        let (victim, fresh) = (at(&format!("content/{dir}/victim.so")), at(&format!("content/{dir}/fresh.so")));
        for path in [&victim, &fresh] {
            fs::copy(&lib, path)?;
        }
        refused(scene, "listed", &["hold-mapping", &victim, "map-code", &victim], &victim, while_held)?;
        let after = "a governed process has mapped it to write it";
        refused(scene, "listed", &["map-code", &victim], &victim, after)?;
        scene.act("listed", &["map-code", &fresh])?.done()?;
        // A mapping that cannot write is none of these.
        scene.act("listed", &["map-code-shared", &fresh])?.done()?;
    }
    drop(mounts);
    scene.daemon(|d| d.reload(&manifest)).map(drop)
}

/// The kernel forgets inodes that nobody has, and must not forget one that is mapped, also by way of an overlay. When
/// nobody has the file any more, it is as any other.
fn let_go(scene: &Scene) -> anyhow::Result<()> {
    let at = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let lib = library(scene, "content", 2)?;
    let (stacked, base) = Mount::overlay(&at("content/stacked"), &[])?;
    let mounts = (stacked, base, Mount::ext4(&at("content/disk"))?);
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    let holder = Worker::start(&Entry::Run("listed"))?;
    for dir in ["disk", "stacked"] {
        let victim = at(&format!("content/{dir}/held.so"));
        let (held, until) = (at(&format!("own/{dir}-held")), at(&format!("own/{dir}-until")));
        fs::copy(&lib, &victim)?;
        thread::scope(|scope| {
            let holding = scope.spawn(|| holder.act(&["hold-code", &victim, &held, &until]));
            let outcome = cannot_write(scene, &victim, &held);
            fs::write(&until, "")?;
            holding.join().map_err(|_| anyhow::anyhow!("the holder panicked"))??.done()?;
            outcome
        })?;
        let written = eventually(Duration::from_secs(20), || {
            forget_inodes().is_ok()
                && scene.act("listed", &["append", &victim, "+"]).is_ok_and(|outcome| outcome.done().is_ok())
        });
        ensure!(written, "{victim} cannot be written though nobody has it any more");
    }
    drop(mounts);
    scene.daemon(|d| d.reload(&manifest)).map(drop)
}

/// The kernel lets the inodes go that nobody has.
fn forget_inodes() -> anyhow::Result<()> {
    succeed(&["sync"])?;
    Ok(fs::write("/proc/sys/vm/drop_caches", "3")?)
}

/// While it is mapped.
fn cannot_write(scene: &Scene, victim: &str, held: &str) -> anyhow::Result<()> {
    ensure!(eventually(Duration::from_secs(30), || Path::new(held).exists()), "{victim} is not mapped");
    let before = fs::read(victim)?;
    for _ in 0..5 {
        for act in [&["append", victim, "+"][..], &["shorten", victim]] {
            forget_inodes()?;
            scene.act("listed", act)?.refused()?;
        }
    }
    ensure!(fs::read(victim)? == before, "{victim} was changed");
    Ok(())
}

fn later(scene: &Scene) -> anyhow::Result<()> {
    let (system, own) = (system_library()?, library(scene, "own", 1)?);
    for act in ["map-then-protect", "map-then-protect-shared"] {
        scene.act(SKILL, &[act, &system])?.done()?;
        refused(scene, SKILL, &[act, &own], &own, "library not listed")?;
        refused(scene, SKILL, &[act, "/usr/bin/id"], "/usr/bin/id", "library not listed")?;
    }
    Ok(())
}

fn read_only(scene: &Scene) -> anyhow::Result<()> {
    // Without `allow_write`, and outside the directories, the kernel decides.
    let free = scene.make_file("own/free")?;
    scene.act(SKILL, &["append", &free, "+"])?.done()?;
    for path in ["/usr/lib/enforcer-new.so", "/usr/bin/enforcer-new", "/usr/enforcer-new"] {
        let mark = scene.mark();
        scene.act(SKILL, &["create", path])?.refused()?;
        gone(path)?;
        let event = scene.event(mark, "write", "deny", path)?;
        ensure!(event.text("reason") == "library directories are read-only", "{}", event.0);
        // On the same filesystem, so that a rename is possible.
        fs::write("/var/lib/enforcer-free", "")?;
        scene.act(SKILL, &["rename", "/var/lib/enforcer-free", path])?.refused()?;
        there("/var/lib/enforcer-free")?;
    }
    let system = system_library()?;
    for act in ["open-write", "chmod", "truncate"] {
        scene.act(SKILL, &[act, &system])?.refused()?;
    }
    let second = scene.dir.join("own/second").to_string_lossy().into_owned();
    scene.act(SKILL, &["link", &system, &second])?;
    gone(&second)?;
    // `allow_write` is nearer.
    let (sealed, open) = (scene.make_file("listed/f")?, scene.make_file("listed/open/f")?);
    scene.act("listed", &["append", &sealed, "+"])?.refused()?;
    holds(&sealed, "listed/f")?;
    scene.act("listed", &["append", &open, "+"])?.done()?;
    holds(&open, "listed/open/f+")?;
    scene.act("listed", &["unlink", &sealed])?.done()?;
    gone(&sealed)
}

fn empty(scene: &Scene) -> anyhow::Result<()> {
    let system = system_library()?;
    refused(scene, "empty", &["map-code", &system], &system, "library not listed")?;
    // A static program needs none; a dynamic one ends before its first instruction.
    scene.act("empty", &["fork", "nothing"])?.done()?;
    let outcome = command(&[ENFORCER, "run", "--skill", "empty", "--", "/usr/bin/wc", "--version"])?;
    ensure!(outcome.status != 0 && outcome.out.is_empty(), "{outcome:?}");
    Ok(())
}

fn star(scene: &Scene) -> anyhow::Result<()> {
    let own = library(scene, "own", 1)?;
    let mark = scene.mark();
    for path in [&own, "/usr/bin/id"] {
        scene.act("star", &["map-code", path])?.done()?;
        let event = scene.event(mark, "map", "allow", path)?;
        ensure!(event.text("rule") == "allow_libraries: *", "the rule is {:?}", event.text("rule"));
    }
    // Nothing is read-only by it, and memory is another matter.
    scene.act("star", &["create", "/usr/lib/enforcer-star"])?.done()?;
    fs::remove_file("/usr/lib/enforcer-star")?;
    let mark = scene.mark();
    scene.act("star", &["anonymous"])?.refused()?;
    // The next test counts what comes after it.
    let told = |e: &Event| e.text("kind") == "map" && e.text("verdict") == "deny";
    scene.events().wait(mark, "the refused memory", told).map(drop)
}

fn silent(scene: &Scene) -> anyhow::Result<()> {
    let mark = scene.mark();
    let own = library(scene, "own", 1)?;
    scene.act(SKILL, &["map-code", &system_library()?])?.done()?;
    refused(scene, SKILL, &["map-code", &own], &own, "library not listed")?;
    let maps: Vec<_> = scene.events().since(mark).into_iter().filter(|e| e.text("kind") == "map").collect();
    ensure!(maps.len() == 1, "{maps:?}");
    Ok(())
}

/// The handler is executed like an interpreter, so it must be listed like one.
fn handler(scene: &Scene) -> anyhow::Result<()> {
    const DIR: &str = "/proc/sys/fs/binfmt_misc";
    let script = scene.dir.join("own/handled").to_string_lossy().into_owned();
    succeed(&["modprobe", "binfmt_misc"])?;
    succeed(&["mount", "-t", "binfmt_misc", "binfmt_misc", DIR])?;
    let register = |handler: &str, flags: &str| {
        fs::write(
            format!("{DIR}/register"),
            format!(":enforced:M::{MAGIC}::{handler}:{flags}").replace(": e", "\\x3a e"),
        )
    };
    let outcomes = || -> anyhow::Result<()> {
        // `F` opens the handler at once.
        for flags in ["", "F"] {
            register("/usr/bin/bash", flags)?;
            let outcome = scene.act(SKILL, &["exec", &script])?;
            ensure!(outcome.done()?.out.contains("token-of-the-file"), "{outcome:?}");
            fs::write(format!("{DIR}/enforced"), "-1")?;
            register("/usr/bin/dash", flags)?;
            let mark = scene.mark();
            let outcome = scene.act(SKILL, &["exec", &script])?;
            ensure!(outcome.refused()?.out.is_empty(), "{outcome:?}");
            scene.event(mark, "exec", "deny", "/usr/bin/dash")?;
            fs::write(format!("{DIR}/enforced"), "-1")?;
        }
        Ok(())
    };
    let result = outcomes();
    succeed(&["umount", DIR])?;
    result
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    let own = library(scene, "own", 1)?;
    for act in ["map-code", "map-code-shared", "map-then-protect", "map-writable-code"] {
        scene.outside(&[act, &own])?.done()?;
    }
    let outcome = scene.outside(&["exec", LOADER, "/usr/bin/id", "--version"])?;
    ensure!(outcome.done()?.out.contains("GNU coreutils"), "{outcome:?}");
    Ok(())
}
