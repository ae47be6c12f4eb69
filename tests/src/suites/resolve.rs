//! What a rule names may come, go and be replaced; and rules may be many.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::ensure;

use crate::harness::{
    eventually,
    files::Mount,
    runner::Suite,
    scene::{Scene, gone, there},
};

pub(super) const SUITE: Suite = Suite {
    name: "resolve",
    policy: Some(policy),
    tests: &[
        ("a_directory_that_appears", appears),
        ("a_directory_whose_parents_appear", parents),
        ("a_directory_that_is_removed_and_made_again", again),
        ("a_directory_that_is_renamed_away", renamed),
        ("a_directory_that_is_replaced_by_a_rename", replaced),
        ("a_symlink_in_the_place_of_a_directory", symlink),
        ("a_symlink_that_is_swapped", swapped),
        ("a_filesystem_that_is_mounted_over", mounted),
        ("a_filesystem_that_is_mounted_below", mounted_below),
        ("a_reused_inode_is_another_object", reused),
        ("one_changed_rule_does_not_rewrite_the_others", changed),
        ("a_path_that_cannot_exist", nowhere),
        ("a_hundred_thousand_rules", many),
    ],
};

const SKILL: &str = "resolver";
/// How long the daemon may take to notice, under emulation.
const SOON: Duration = Duration::from_secs(10);
/// How long the daemon is given to do what it must not.
const NOTICE: Duration = Duration::from_millis(300);
const NAMES: [&str; 10] =
    ["appears", "up/to/here", "again", "renamed", "replaced", "link", "mounted", "below", "bent", "ext4/named"];

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let ext4 = scene.dir.join("ext4");
    if !ext4.exists() {
        scene.keep_mounts(vec![Mount::ext4(&ext4.to_string_lossy())?]);
    }
    for name in ["again", "renamed", "replaced", "mounted", "below", "bent", "first", "second", "ext4/named"] {
        scene.make_dir(name)?;
    }
    let link = scene.dir.join("link");
    if fs::symlink_metadata(&link).is_err() {
        std::os::unix::fs::symlink("first", &link)?;
    }
    Ok(with(scene, ""))
}

fn with(scene: &Scene, binaries: &str) -> String {
    let list: Vec<String> = NAMES.iter().map(|n| format!("\"{}\"", scene.dir.join(n).display())).collect();
    format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_delete: [{}]\n    allow_binaries:\n      \
         - path: /usr/lib/enforcer/enforcer-tests\n{binaries}",
        list.join(", ")
    )
}

/// Whether the skill may delete in this directory now: one try, one file.
fn may(scene: &Scene, dir: &str) -> anyhow::Result<bool> {
    let file = scene.make_file(&format!("{dir}/try"))?;
    let outcome = scene.act(SKILL, &["unlink", &file])?;
    match outcome.status {
        0 => gone(&file).map(|()| true),
        _ => outcome.refused().and_then(|_| there(&file)).map(|()| false),
    }
}

fn soon(scene: &Scene, dir: &str, wanted: bool) -> anyhow::Result<()> {
    let mut last = Ok(!wanted);
    let came = eventually(SOON, || {
        last = may(scene, dir);
        !matches!(last, Ok(now) if now != wanted)
    });
    last?;
    ensure!(came, "deleting in {dir} is {} still", if wanted { "refused" } else { "allowed" });
    Ok(())
}

fn appears(scene: &Scene) -> anyhow::Result<()> {
    scene.make_dir("appears")?;
    soon(scene, "appears", true)
}

fn parents(scene: &Scene) -> anyhow::Result<()> {
    scene.make_dir("up/beside")?;
    ensure!(!may(scene, "up/beside")?, "beside the rule");
    scene.make_dir("up/to/here")?;
    soon(scene, "up/to/here", true)?;
    ensure!(!may(scene, "up/to")?, "above the rule");
    Ok(())
}

fn again(scene: &Scene) -> anyhow::Result<()> {
    soon(scene, "again", true)?;
    for _ in 0..3 {
        fs::remove_dir(scene.dir.join("again"))?;
        scene.make_dir("again")?;
        soon(scene, "again", true)?;
    }
    Ok(())
}

/// The name was allowed, not the object for ever.
fn renamed(scene: &Scene) -> anyhow::Result<()> {
    soon(scene, "renamed", true)?;
    fs::rename(scene.dir.join("renamed"), scene.dir.join("renamed-away"))?;
    soon(scene, "renamed-away", false)?;
    fs::rename(scene.dir.join("renamed-away"), scene.dir.join("renamed"))?;
    soon(scene, "renamed", true)
}

fn replaced(scene: &Scene) -> anyhow::Result<()> {
    soon(scene, "replaced", true)?;
    scene.make_dir("replacement")?;
    ensure!(!may(scene, "replacement")?, "it is not named yet");
    // rename(2) puts it in the place of an empty directory in one step.
    fs::rename(scene.dir.join("replacement"), scene.dir.join("replaced"))?;
    soon(scene, "replaced", true)
}

/// Reads the policy again, which takes whatever is there now.
fn reload(scene: &Scene) -> anyhow::Result<()> {
    let text = with(scene, "");
    scene.daemon(|d| d.reload(&text)).map(drop)
}

/// It stays like this: a try now, and one after the daemon has had time to notice.
fn stays(scene: &Scene, dir: &str, wanted: bool) -> anyhow::Result<()> {
    for _ in 0..3 {
        ensure!(may(scene, dir)? == wanted, "deleting in {dir} is {}", if wanted { "refused" } else { "allowed" });
        std::thread::sleep(NOTICE);
    }
    Ok(())
}

/// An agent that may write beside the rule's directory could put a link there: nothing but a reload follows it.
fn symlink(scene: &Scene) -> anyhow::Result<()> {
    soon(scene, "bent", true)?;
    scene.make_dir("victim")?;
    let bent = scene.dir.join("bent");
    fs::remove_dir(&bent)?;
    std::os::unix::fs::symlink("victim", &bent)?;
    stays(scene, "victim", false)?;
    fs::remove_file(&bent)?;
    scene.make_dir("bent")?;
    soon(scene, "bent", true)
}

/// One that was there when the policy was read leads where it led then.
fn swapped(scene: &Scene) -> anyhow::Result<()> {
    soon(scene, "first", true)?;
    ensure!(!may(scene, "second")?, "the link does not lead there");
    std::os::unix::fs::symlink("second", scene.dir.join("link.new"))?;
    fs::rename(scene.dir.join("link.new"), scene.dir.join("link"))?;
    stays(scene, "second", false)?;
    reload(scene)?;
    soon(scene, "second", true)?;
    soon(scene, "first", false)
}

fn mounted(scene: &Scene) -> anyhow::Result<()> {
    soon(scene, "mounted", true)?;
    let at = scene.dir.join("mounted").to_string_lossy().into_owned();
    {
        let _over = Mount::tmpfs(&at)?;
        stays(scene, "mounted", false)?;
        reload(scene)?;
        soon(scene, "mounted", true)?;
    }
    reload(scene)?;
    soon(scene, "mounted", true)
}

fn mounted_below(scene: &Scene) -> anyhow::Result<()> {
    soon(scene, "below", true)?;
    let at = scene.dir.join("below/mount").to_string_lossy().into_owned();
    let _below = Mount::tmpfs(&at)?;
    stays(scene, "below/mount", false)?;
    reload(scene)?;
    soon(scene, "below/mount", true)
}

/// A filesystem that gives the number of what was removed to the next that comes: the rule must not come along.
fn reused(scene: &Scene) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    soon(scene, "ext4/named", true)?;
    let (named, other) = (scene.dir.join("ext4/named"), scene.dir.join("ext4/other"));
    let before = fs::metadata(&named)?.ino();
    fs::remove_dir(&named)?;
    fs::create_dir(&other)?;
    ensure!(fs::metadata(&other)?.ino() == before, "the number was not given again: the test shows nothing");
    stays(scene, "ext4/other", false)?;
    fs::remove_dir_all(&other)?;
    scene.make_dir("ext4/named")?;
    soon(scene, "ext4/named", true)
}

/// Of a thousand rules one is changed: one is written.
fn changed(scene: &Scene) -> anyhow::Result<()> {
    const COUNT: u32 = 1000;
    let list =
        |last: u32| (0..COUNT).chain([last]).fold(String::new(), |text, n| format!("{text}      - sha256:{n:064x}\n"));
    let written = |text: &str| {
        scene.daemon(|d| {
            d.reload(text)?;
            Ok(d.status()?["written"].as_u64())
        })
    };
    ensure!(written(&with(scene, &list(COUNT)))? > Some(u64::from(COUNT)), "the rules were not written");
    // One goes, one comes.
    let wrote = written(&with(scene, &list(COUNT + 1)))?;
    ensure!(wrote == Some(2), "{wrote:?} rules were written for one that has changed");
    let wrote = written(&with(scene, &list(COUNT + 1)))?;
    ensure!(wrote == Some(2), "the same policy was written again: {wrote:?}");
    written(&with(scene, ""))?;
    soon(scene, "again", true)
}

/// Below a file, or along a link that leads to itself: such rules allow nothing and keep none of the others out, neither when the
/// policy is loaded nor when something appears later.
fn nowhere(scene: &Scene) -> anyhow::Result<()> {
    let (file, link) = (scene.make_file("nowhere/file")?, scene.dir.join("nowhere/link"));
    let later = scene.dir.join("nowhere/later").to_string_lossy().into_owned();
    let dir = scene.make_dir("nowhere/dir")?;
    std::os::unix::fs::symlink(&link, &link)?;
    let paths = [&format!("{file}/below"), &link.to_string_lossy().into_owned(), &later, &dir];
    let list = paths.map(String::as_str).join(", ");
    let text = format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    \
         allow_delete: [{list}]\n    protect: [{}/below]\n",
        link.display()
    );
    scene.daemon(|d| d.reload(&text))?;
    let warnings = scene.daemon(|d| d.status())?["warnings"].to_string();
    for path in &paths[..3] {
        ensure!(warnings.contains(&format!("{path} does not exist")), "{path}: {warnings}");
    }
    ensure!(may(scene, "nowhere/dir")?, "an allowed directory is not");
    scene.act(SKILL, &["unlink", &file])?.refused()?;
    scene.make_dir("nowhere/later")?;
    soon(scene, "nowhere/later", true)?;
    // A directory in the place of the link.
    fs::remove_file(&link)?;
    scene.make_dir("nowhere/link/below")?;
    soon(scene, "nowhere/link", true)?;
    soon(scene, "nowhere/link/below", false)?;
    // What no filesystem can have is an error of the manifest.
    let long = text.replace(&dir, &format!("/{}", "n".repeat(256)));
    let error = scene.daemon(|d| d.reload(&long)).err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(error.contains("255 bytes"), "{error:?}");
    ensure!(may(scene, "nowhere/dir")?, "a reload that failed has changed something");
    let back = with(scene, "");
    scene.daemon(|d| d.reload(&back))?;
    soon(scene, "again", true)
}

fn many(scene: &Scene) -> anyhow::Result<()> {
    const COUNT: u32 = 100_000;
    let mut list = String::new();
    for n in 0..COUNT {
        writeln!(list, "      - sha256:{n:064x}")?;
    }
    let text = with(scene, &list);
    scene.daemon(|d| d.reload(&text))?;
    let status = scene.daemon(|d| d.status())?;
    ensure!(status["skills"][0]["binaries"] == COUNT + 1, "{}", status["skills"]);
    soon(scene, "again", true)?;
    let back = with(scene, "");
    scene.daemon(|d| d.reload(&back))?;
    soon(scene, "again", true)
}
