//! Paths that are pinned to a content: what an upgrade looks like, and what cannot be measured.

use std::{
    ffi::CString,
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::harness::{
    ENFORCER, command, eventually,
    runner::Suite,
    scene::{Scene, gone, there},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "pin",
    policy: Some(policy),
    tests: &[
        ("an_upgrade_is_reported_as_a_change_and_taken_by_pin_and_reload", upgrade),
        ("what_cannot_be_measured_allows_nothing_and_delays_nobody", unmeasurable),
        ("a_filesystem_that_does_not_answer_is_given_up", dead_mount),
        ("rules_beside_a_filesystem_that_does_not_answer_hold", dead_rules),
        ("many_digests", many),
    ],
};

const SKILL: &str = "pinned";
/// How long a reload may take that measures a few files, under emulation.
const SOON: Duration = Duration::from_secs(20);

/// A tool of the scene's own, which is a copy of `wc` at first.
fn policy(scene: &Scene) -> anyhow::Result<String> {
    install(scene, "/usr/bin/wc")?;
    let tool = scene.dir.join("tool");
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries:\n      - /usr/lib/enforcer/enforcer-tests # the acts\n      - {}\n",
        tool.display()
    ))
}

/// Puts a program in the tool's place, as a package manager does.
fn install(scene: &Scene, program: &str) -> anyhow::Result<()> {
    let new = scene.make_file("tool.new")?;
    fs::copy(program, &new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, scene.dir.join("tool")).map_err(Into::into)
}

fn upgrade(scene: &Scene) -> anyhow::Result<()> {
    let tool = scene.dir.join("tool").to_string_lossy().into_owned();
    let file = scene.daemon(|d| Ok(d.policy().to_string_lossy().into_owned()))?;
    let reload = || scene.daemon(|d| d.reload(&fs::read_to_string(&file)?));
    succeed(&[ENFORCER, "policy", "pin", &file])?;
    let pinned = fs::read_to_string(&file)?;
    ensure!(pinned.contains("# the acts\n") && pinned.matches("sha256: \"sha256:").count() == 2, "{pinned}");
    reload()?;
    succeed(&[ENFORCER, "policy", "check", "--strict", &file])?;
    ensure!(scene.act(SKILL, &["exec", &tool, "--version"])?.done()?.out.contains("GNU coreutils"));

    install(scene, "/usr/bin/id")?;
    let mark = scene.mark();
    scene.act(SKILL, &["exec", &tool, "--version"])?.refused()?;
    let event = scene.event(mark, "exec", "deny", &tool)?;
    ensure!(event.text("reason").starts_with("binary changed"), "{}", event.0);
    ensure!(event.text("hint").contains("enforcer policy pin --update"), "{}", event.0);
    // A binary that no path names was not changed by anybody.
    scene.act(SKILL, &["exec", "/usr/bin/id", "--version"])?.refused()?;
    let other = scene.event(mark, "exec", "deny", "/usr/bin/id")?;
    ensure!(other.text("reason") == "binary not listed" && other.text("hint").is_empty(), "{}", other.0);

    let strict = command(&[ENFORCER, "policy", "check", "--strict", &file])?;
    ensure!(strict.status == 1 && strict.out.contains(&tool), "{strict:?}");
    // Nobody agreed.
    let asked = command(&[ENFORCER, "policy", "pin", "--update", &file])?;
    ensure!(asked.status == 1 && fs::read_to_string(&file)? == pinned, "{asked:?}");
    let shown = succeed(&[ENFORCER, "policy", "pin", "--update", "--yes", &file])?;
    let digest = |path: &str| Ok::<_, anyhow::Error>(format!("sha256:{}", &succeed(&["sha256sum", path])?[..64]));
    let (old, new) = (digest("/usr/bin/wc")?, digest("/usr/bin/id")?);
    ensure!(shown.contains(&format!("{tool}\n  - {old}\n  + {new}\n")), "{shown}");
    // It is in the file, and not yet in force.
    scene.act(SKILL, &["exec", &tool, "--version"])?.refused()?;
    reload()?;
    ensure!(scene.act(SKILL, &["exec", &tool, "--version"])?.done()?.out.contains("GNU coreutils"));
    Ok(())
}

fn unmeasurable(scene: &Scene) -> anyhow::Result<()> {
    let fifo = scene.dir.join("fifo").to_string_lossy().into_owned();
    succeed(&["mkfifo", &fifo])?;
    let sparse = scene.make_file("sparse")?;
    File::options().write(true).open(&sparse)?.set_len(100 << 30)?;
    fs::set_permissions(&sparse, fs::Permissions::from_mode(0o755))?;
    let dir = scene.make_dir("directory")?;
    let missing = scene.dir.join("missing").to_string_lossy().into_owned();
    let paths = [fifo.as_str(), "/dev/zero", &sparse, &dir, &missing];
    let list = paths.join("\n      - ");
    let text = format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries:\n      - /usr/lib/enforcer/enforcer-tests\n      - {list}\n"
    );
    let start = Instant::now();
    scene.daemon(|d| d.reload(&text))?;
    ensure!(start.elapsed() < Duration::from_mins(1), "the reload took {:?}", start.elapsed());
    let status = scene.daemon(|d| d.status())?;
    let warnings = status["warnings"].as_array().context("no warnings")?;
    for path in paths {
        ensure!(warnings.iter().any(|w| w.as_str().is_some_and(|w| w.contains(path))), "{path}: {warnings:?}");
    }
    ensure!(status["skills"][0]["binaries"] == 1, "{status}");
    let hashed = command(&[ENFORCER, "hash", &sparse, "/usr/bin/wc"])?;
    ensure!(
        hashed.status == 1 && hashed.err.contains("107374182400 bytes") && hashed.out.contains("/usr/bin/wc"),
        "{hashed:?}"
    );
    Ok(())
}

/// A FUSE filesystem whose server never answers.
struct Dead {
    path: CString,
    // Closing it is what ends those who wait.
    _server: File,
}

impl Dead {
    fn mount(path: &str) -> anyhow::Result<Self> {
        let server = File::options().read(true).write(true).open("/dev/fuse").context("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let (path, kind, options) = (CString::new(path)?, CString::new("fuse")?, CString::new(options)?);
        // SAFETY: all strings end with a NUL and live until the call returns.
        let outcome = unsafe {
            libc::mount(kind.as_ptr(), path.as_ptr(), kind.as_ptr(), libc::MS_NODEV, options.as_ptr().cast())
        };
        ensure!(outcome == 0, "mount: {}", std::io::Error::last_os_error());
        Ok(Self { path, _server: server })
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // SAFETY: the path ends with a NUL and lives until the call returns.
        unsafe { libc::umount2(self.path.as_ptr(), libc::MNT_DETACH | libc::MNT_FORCE) };
    }
}

fn dead_mount(scene: &Scene) -> anyhow::Result<()> {
    let dir = scene.make_dir("dead")?;
    let dead = Dead::mount(&dir)?;
    let text = format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [/usr/lib/enforcer/enforcer-tests, {dir}/a, {dir}/b, /usr/bin/wc]\n"
    );
    let start = Instant::now();
    scene.daemon(|d| d.reload(&text))?;
    let took = start.elapsed();
    ensure!(took < Duration::from_mins(2), "the reload took {took:?}");
    let status = scene.daemon(|d| d.status())?;
    let silent = status["warnings"]
        .as_array()
        .map_or(0, |all| all.iter().filter(|w| w.as_str().is_some_and(|w| w.contains("no answer within"))).count());
    ensure!(silent == 2 && status["skills"][0]["binaries"] == 2, "{status}");
    scene.act(SKILL, &["exec", "/usr/bin/wc", "--version"])?.done()?;
    drop(dead);
    Ok(())
}

fn dead_rules(scene: &Scene) -> anyhow::Result<()> {
    let (work, sealed) = (scene.make_dir("tree/scratch")?, scene.make_dir("tree/sealed")?);
    let (tree, dir) = (scene.dir.join("tree").to_string_lossy().into_owned(), scene.make_dir("tree/dead")?);
    let dead = Dead::mount(&dir)?;
    let rules = |allowed: &[&str], protected: &str| {
        format!(
            "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [/usr/lib/enforcer/enforcer-tests]\n    \
             allow_delete: [{}]\n    protect: [{protected}]\n",
            allowed.join(", ")
        )
    };
    let reload = |text: &str| {
        let start = Instant::now();
        let outcome = scene.daemon(|d| d.reload(text));
        ensure!(start.elapsed() < Duration::from_mins(1), "the reload took {:?}", start.elapsed());
        outcome
    };
    // The whole tree, which has the dead one in it, and places within that.
    reload(&rules(&[&tree, &format!("{dir}/a"), &format!("{dir}/b"), &format!("{dir}/c")], &sealed))?;
    let status = scene.daemon(|d| d.status())?;
    let silent = status["warnings"]
        .as_array()
        .map_or(0, |all| all.iter().filter(|w| w.as_str().is_some_and(|w| w.contains("no answer within"))).count());
    ensure!(silent == 3, "{status}");
    let acts = || -> anyhow::Result<()> {
        let (mine, kept) = (scene.make_file("tree/scratch/mine")?, scene.make_file("tree/sealed/kept")?);
        let other = scene.make_file("other")?;
        scene.act(SKILL, &["unlink", &mine])?.done()?;
        gone(&mine)?;
        for path in [&kept, &other] {
            scene.act(SKILL, &["unlink", path])?.refused()?;
            there(path)?;
        }
        Ok(())
    };
    acts()?;
    // What cannot be protected is not passed over, and what was in force stays.
    let before = scene.daemon(|d| d.generation())?;
    let error = reload(&rules(&[&tree], &dir)).err().context("it was taken")?.to_string();
    ensure!(error.contains("no answer within") && error.contains(&dir), "{error}");
    ensure!(scene.daemon(|d| d.generation())? == before);
    acts()?;
    // It is not asked for ever: once it is gone, a reload finds what lies there.
    drop(dead);
    let later = format!("{dir}/a");
    reload(&rules(&[&work, &later], &sealed))?;
    acts()?;
    fs::write(&later, "later")?;
    let deleted = || scene.act(SKILL, &["unlink", &later]).is_ok_and(|act| act.done().is_ok());
    ensure!(eventually(SOON, deleted), "the rule for {later} does not take effect");
    gone(&later)
}

fn many(scene: &Scene) -> anyhow::Result<()> {
    const MANY: usize = 50_000;
    let file = scene.make_file("many.yaml")?;
    let digest = |n: usize| format!("      - \"sha256:{n:064x}\"\n");
    let mut text =
        format!("version: 1\nskills:\n  {SKILL}:\n    allow_binaries:\n      - /usr/lib/enforcer/enforcer-tests\n");
    text.extend((0..MANY).map(digest));
    let start = Instant::now();
    scene.daemon(|d| d.reload(&text))?;
    eprintln!("{MANY} digests in {:?}", start.elapsed());
    let status = scene.daemon(|d| d.status())?;
    ensure!(status["skills"][0]["binaries"] == MANY + 1, "{status}");
    // A million do not fit into the file, and the error says so before anything is parsed.
    text.extend((MANY..1_000_000).map(digest));
    fs::write(&file, &text)?;
    let start = Instant::now();
    let checked = command(&[ENFORCER, "policy", "check", &file])?;
    ensure!(checked.status == 1 && checked.out.contains("at most 16777216 bytes"), "{checked:?}");
    ensure!(start.elapsed() < Duration::from_mins(1), "the refusal took {:?}", start.elapsed());
    there(&file)
}
