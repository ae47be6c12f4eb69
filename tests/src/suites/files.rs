//! Write, truncate, read: `allow_write` and `protect`.

use std::{fs, time::Duration};

use anyhow::ensure;

use super::walls::has_entry_32;
use crate::harness::{
    BROUGHT, act_bringing, act_with, eventually,
    files::Mount,
    kernel,
    runner::Suite,
    scene::{Scene, gone, holds, there},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "files",
    policy: Some(policy),
    tests: &[
        ("create_and_open_for_writing", create),
        ("make_directories_links_and_nodes", make),
        ("attributes", attributes),
        ("shared_mappings", mapping),
        ("rename_into_a_denied_directory", rename_into),
        ("truncation_is_a_delete", truncation),
        ("a_descriptor_from_outside_the_skill", inherited),
        ("a_descriptor_received_over_a_unix_socket", received),
        ("protect_stops_reading_writing_and_deleting", protect),
        ("protect_inside_an_allowed_directory", nearest),
        ("an_allowed_directory_inside_a_protected_one", nearest_allowed),
        ("a_protected_directory_whose_parent_is_moved", protected_way),
        ("devices_that_swallow_everything", devices),
        ("without_allow_write_the_kernel_decides", ungoverned),
        ("outside_processes_are_untouched", outside),
        ("access_control_lists", acl),
        ("io_uring_open_write_and_truncate", uring),
        ("io_uring_requests_with_credentials_of_before", linked),
        ("io_uring_personalities", personality),
        ("files_without_a_name", nameless),
        ("by_a_file_handle", by_handle),
        ("flags_of_a_file", flags),
        ("files_that_the_kernel_writes_or_swaps_to", kernel_files),
        ("copies_within_the_kernel", copies),
        ("a_white_out", whiteout),
    ],
};

const SKILL: &str = "writer";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let (allowed, written) = (scene.make_dir("allowed")?, scene.make_dir("written")?);
    scene.make_dir("denied")?;
    let (secret, inside) = (scene.make_dir("secret")?, scene.make_dir("allowed/secret")?);
    let island = scene.make_dir("secret/island")?;
    let (kept, behind) = (scene.make_dir("allowed/tree/repo/kept")?, scene.make_dir("allowed/tree/real/kept")?);
    let link = format!("{allowed}/tree/link");
    if fs::symlink_metadata(&link).is_err() {
        std::os::unix::fs::symlink("real", &link)?;
    }
    ensure!(fs::canonicalize(format!("{link}/kept"))? == fs::canonicalize(&behind)?, "the link leads elsewhere");
    let binaries = "allow_binaries: [{path: /usr/lib/enforcer/enforcer-tests}]";
    let dir = scene.dir.display();
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    {binaries}\n    allow_write: [{allowed}, {written}, {island}]\n    \
         allow_delete: [{allowed}, {island}]\n    protect: [{secret}, {inside}, {kept}, {link}/kept]\n    \
         network_scope: [\"unix:{dir}\"]\n  \
         lax:\n    {binaries}\n    allow_delete: [{allowed}]\n"
    ))
}

fn denied_event(scene: &Scene, mark: crate::harness::events::Mark, path: &str) -> anyhow::Result<String> {
    let event = scene
        .events()
        .wait(mark, &format!("a refusal of {path}"), |e| e.text("verdict") == "deny" && e.object("path") == path)?;
    Ok(event.text("reason").to_owned())
}

fn create(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("allowed/create/f")?, scene.make_file("denied/create/f")?);
    scene.act(SKILL, &["create", &format!("{allowed}.new")])?.done()?;
    there(&format!("{allowed}.new"))?;
    let mark = scene.mark();
    scene.act(SKILL, &["create", &format!("{denied}.new")])?.refused()?;
    gone(&format!("{denied}.new"))?;
    ensure!(denied_event(scene, mark, &format!("{denied}.new"))? == "path not listed", "another reason");
    scene.act(SKILL, &["append", &allowed, "+"])?.done()?;
    holds(&allowed, "allowed/create/f+")?;
    let mark = scene.mark();
    scene.act(SKILL, &["append", &denied, "+"])?.refused()?;
    holds(&denied, "denied/create/f")?;
    denied_event(scene, mark, &denied)?;
    // Reading is not governed by either list.
    scene.act(SKILL, &["read", &denied])?.done()?;
    Ok(())
}

fn make(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_dir("allowed/make")?, scene.make_dir("denied/make")?);
    let source = scene.make_file("allowed/make/source")?;
    for (act, name) in
        [(&["mkdir"][..], "dir"), (&["mknod"], "node"), (&["symlink", "/x"], "symlink"), (&["link", &source], "link")]
    {
        let (good, bad) = (format!("{allowed}/{name}"), format!("{denied}/{name}"));
        scene.act(SKILL, &[act, &[&good]].concat())?.done()?;
        there(&good)?;
        scene.act(SKILL, &[act, &[&bad]].concat())?.refused()?;
        gone(&bad)?;
    }
    // What is refused is the name, though the file is the other.
    let (bad, mark) = (format!("{denied}/named"), scene.mark());
    scene.act(SKILL, &["link", &source, &bad])?.refused()?;
    scene.event(mark, "write", "deny", &bad).map(drop)
}

fn attributes(scene: &Scene) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let (allowed, denied) = (scene.make_file("allowed/attributes/f")?, scene.make_file("denied/attributes/f")?);
    let mode = |path: &str| fs::metadata(path).map(|m| m.permissions().mode() & 0o777);
    scene.act(SKILL, &["chmod", &allowed])?.done()?;
    ensure!(mode(&allowed)? == 0o600, "the mode has not changed");
    let before = mode(&denied)?;
    scene.act(SKILL, &["chmod", &denied])?.refused()?;
    ensure!(mode(&denied)? == before, "the mode has changed");
    // tmpfs has user attributes from 6.6 on only.
    let outcome = scene.act(SKILL, &["setxattr", &allowed])?;
    ensure!([0, libc::EOPNOTSUPP].contains(&outcome.status), "{outcome:?}");
    let outcome = scene.act(SKILL, &["setxattr", &denied])?;
    let unsupported = outcome.status == libc::EOPNOTSUPP;
    ensure!(unsupported || outcome.status == libc::EPERM, "{outcome:?}");
    Ok(())
}

fn mapping(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("allowed/map/f")?, scene.make_file("denied/map/f")?);
    scene.act(SKILL, &["map-shared", &allowed])?.done()?;
    holds(&allowed, "!llowed/map/f")?;
    scene.act(SKILL, &["map-shared", &denied])?.refused()?;
    holds(&denied, "denied/map/f")
}

fn rename_into(scene: &Scene) -> anyhow::Result<()> {
    let allowed = scene.make_file("allowed/into/f")?;
    let target = scene.make_dir("denied/into")?;
    let mark = scene.mark();
    scene.act(SKILL, &["rename", &allowed, &format!("{target}/f")])?.refused()?;
    there(&allowed)?;
    denied_event(scene, mark, &format!("{target}/f"))?;
    scene.act(SKILL, &["rename", &allowed, &format!("{allowed}.new")])?.done()?;
    there(&format!("{allowed}.new"))
}

/// Where one may write and not delete, a file may be changed and not emptied.
fn truncation(scene: &Scene) -> anyhow::Result<()> {
    for act in ["open-truncate", "truncate", "ftruncate"] {
        let (allowed, written) =
            (scene.make_file(&format!("allowed/{act}/f"))?, scene.make_file(&format!("written/{act}/f"))?);
        scene.act(SKILL, &[act, &allowed])?.done()?;
        holds(&allowed, "")?;
        let mark = scene.mark();
        scene.act(SKILL, &[act, &written])?.refused()?;
        holds(&written, &format!("written/{act}/f"))?;
        scene.event(mark, "delete", "deny", &written)?;
    }
    let written = scene.make_file("written/shorten/f")?;
    scene.act(SKILL, &["shorten", &written])?.done()?;
    holds(&written, "w")?;
    let denied = scene.make_file("denied/shorten/f")?;
    scene.act(SKILL, &["shorten", &denied])?.refused()?;
    holds(&denied, "denied/shorten/f")
}

/// What is brought along is looked at when the process enters the skill, but for the standard streams, which are whoever starts
/// it's.
fn inherited(scene: &Scene) -> anyhow::Result<()> {
    let number = BROUGHT.to_string();
    for (side, reason) in [("denied", "path not listed"), ("secret", "protected")] {
        let path = scene.make_file(&format!("{side}/inherited/f"))?;
        let file = fs::File::options().append(true).open(&path)?;
        let mark = scene.mark();
        let outcome = act_bringing(file.into(), SKILL, &["write-fd", &number, "+"])?;
        holds(&path, &format!("{side}/inherited/f"))?;
        ensure!(outcome.status == 1 && outcome.err.contains("files open"), "{outcome:?}");
        ensure!(denied_event(scene, mark, &path)? == reason, "another reason");
    }
    let secret = scene.make_file("secret/inherited/f")?;
    let outcome = act_bringing(fs::File::open(&secret)?.into(), SKILL, &["nothing"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("files open"), "{outcome:?}");
    let brought = scene.make_file("allowed/inherited/brought")?;
    let file = fs::File::options().append(true).open(&brought)?;
    let outcome = act_bringing(file.into(), SKILL, &["write-fd", &number, "+"])?;
    ensure!(outcome.status == 0, "{outcome:?}");
    holds(&brought, "allowed/inherited/brought+")?;
    let allowed = scene.make_file("allowed/inherited/f")?;
    let file = fs::File::options().append(true).open(&allowed)?;
    let outcome = act_with(file.into(), SKILL, &["write-fd", "0", "+"])?;
    ensure!(outcome.status == 0, "{outcome:?}");
    holds(&allowed, "allowed/inherited/f+")
}

fn received(scene: &Scene) -> anyhow::Result<()> {
    let socket = scene.dir.join("offer").to_string_lossy().into_owned();
    let (allowed, denied) = (scene.make_file("allowed/received/f")?, scene.make_file("denied/received/f")?);
    let secret = scene.make_file("secret/received/f")?;
    for (file, fine) in [(&allowed, true), (&denied, false), (&secret, false)] {
        let friend = scene.outsider()?;
        let (at, path) = (socket.clone(), file.clone());
        let offer = std::thread::spawn(move || friend.act(&["offer", &at, &path]));
        ensure!(eventually(Duration::from_secs(5), || fs::metadata(&socket).is_ok()), "nothing is offered");
        let mark = scene.mark();
        let outcome = scene.act(SKILL, &["receive-and-append", &socket, "+"])?;
        let offered = offer.join().map_err(|_| anyhow::anyhow!("the friend panicked"))??;
        ensure!(offered.status == 0, "{offered:?}, {outcome:?}");
        fs::remove_file(&socket)?;
        if fine {
            outcome.done()?;
            holds(file, "allowed/received/f+")?;
        } else {
            outcome.refused()?;
            ensure!(!fs::read_to_string(file)?.contains('+'), "it was written");
            denied_event(scene, mark, file)?;
        }
    }
    Ok(())
}

fn protect(scene: &Scene) -> anyhow::Result<()> {
    let (plain, secret) = (scene.make_file("denied/protect/f")?, scene.make_file("secret/protect/f")?);
    scene.act(SKILL, &["read", &plain])?.done()?;
    for act in [&["read"][..], &["open-write"], &["unlink"], &["truncate"], &["chmod"]] {
        let mark = scene.mark();
        scene.act(SKILL, &[act, &[&secret]].concat())?.refused()?;
        holds(&secret, "secret/protect/f")?;
        ensure!(denied_event(scene, mark, &secret)? == "protected", "{act:?} was refused for another reason");
    }
    scene.act("lax", &["read", &secret])?.done()?;
    Ok(())
}

fn nearest(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, secret) = (scene.make_file("allowed/nearest/f")?, scene.make_file("allowed/secret/f")?);
    scene.act(SKILL, &["read", &allowed])?.done()?;
    scene.act(SKILL, &["unlink", &allowed])?.done()?;
    for act in ["read", "unlink"] {
        scene.act(SKILL, &[act, &secret])?.refused()?;
    }
    there(&secret)?;
    // Nor by moving what holds it.
    let dir = scene.dir.join("allowed/secret").to_string_lossy().into_owned();
    scene.act(SKILL, &["rename", &dir, &format!("{dir}-moved")])?.refused()?;
    there(&secret)
}

fn nearest_allowed(scene: &Scene) -> anyhow::Result<()> {
    let (island, sea) = (scene.make_file("secret/island/f")?, scene.make_file("secret/sea/f")?);
    scene.act(SKILL, &["read", &island])?.done()?;
    scene.act(SKILL, &["append", &island, "+"])?.done()?;
    scene.act(SKILL, &["unlink", &island])?.done()?;
    gone(&island)?;
    scene.act(SKILL, &["read", &sea])?.refused()?;
    Ok(())
}

/// The agent may move what lies around, and a rule that is resolved again would be lost with its path.
fn protected_way(scene: &Scene) -> anyhow::Result<()> {
    let dir = |name: &str| scene.dir.join("allowed").join(name).to_string_lossy().into_owned();
    let secrets = [scene.make_file("allowed/tree/repo/kept/f")?, scene.make_file("allowed/tree/real/kept/f")?];
    let (sibling, other) = (scene.make_dir("allowed/tree/sibling")?, scene.make_dir("allowed/tree/other")?);
    let (tree, repo, link, real) = (dir("tree"), dir("tree/repo"), dir("tree/link"), dir("tree/real"));
    for way in [&tree, &repo, &link, &real, &dir("")] {
        let way = way.trim_end_matches('/');
        let mark = scene.mark();
        scene.act(SKILL, &["rename", way, &format!("{way}-moved")])?.refused()?;
        there(way)?;
        gone(&format!("{way}-moved"))?;
        // Where it would come to lie nothing may be made for those above.
        if way.starts_with(&tree) {
            let event = scene.event(mark, "delete", "deny", way)?;
            ensure!(event.text("reason") == "a protected path leads through it", "{}", event.0);
        }
    }
    for way in [&repo, &link, &real] {
        scene.act(SKILL, &["rename-exchange", way, &sibling])?.refused()?;
        scene.act(SKILL, &["rename-exchange", &sibling, way])?.refused()?;
        scene.act(SKILL, &["rename-whiteout", way, &format!("{way}-moved")])?.refused()?;
        scene.act(SKILL, &["uring", "rename", way, &format!("{way}-moved")])?.refused()?;
    }
    scene.act(SKILL, &["rmdir", &repo])?.refused()?;
    scene.act(SKILL, &["unlink", &link])?.refused()?;
    let loose = dir("tree/loose");
    scene.act(SKILL, &["symlink", "real", &loose])?.done()?;
    scene.act(SKILL, &["rename", &loose, &link])?.refused()?;
    there(&loose)?;
    // As long as the daemon takes to look again.
    std::thread::sleep(Duration::from_secs(1));
    for secret in &secrets {
        for act in ["read", "unlink"] {
            let mark = scene.mark();
            scene.act(SKILL, &[act, secret])?.refused()?;
            ensure!(denied_event(scene, mark, secret)? == "protected", "{act} was refused for another reason");
        }
        there(secret)?;
    }
    // Beside what leads there everything moves.
    scene.act(SKILL, &["rename-exchange", &sibling, &other])?.done()?;
    scene.act(SKILL, &["rename", &sibling, &format!("{sibling}-moved")])?.done()?;
    there(&format!("{sibling}-moved"))?;
    scene.act(SKILL, &["rmdir", &other])?.done()?;
    let beside = scene.make_file("allowed/tree/repo/beside")?;
    scene.act(SKILL, &["unlink", &beside])?.done()?;
    scene.act(SKILL, &["unlink", &loose])?.done()?;
    gone(&loose)
}

fn devices(scene: &Scene) -> anyhow::Result<()> {
    for device in ["/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"] {
        scene.act(SKILL, &["open-write", device])?.done()?;
    }
    scene.act(SKILL, &["open-truncate", "/dev/null"])?.done()?;
    scene.act(SKILL, &["open-write", "/dev/kmsg"])?.refused()?;
    Ok(())
}

fn ungoverned(scene: &Scene) -> anyhow::Result<()> {
    let denied = scene.make_file("denied/lax/f")?;
    scene.act("lax", &["append", &denied, "+"])?.done()?;
    holds(&denied, "denied/lax/f+")?;
    scene.act("lax", &["create", &format!("{denied}.new")])?.done()?;
    scene.act("lax", &["truncate", &denied])?.refused()?;
    holds(&denied, "denied/lax/f+")
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    let secret = scene.make_file("secret/outside/f")?;
    for act in ["read", "open-write", "truncate", "unlink"] {
        scene.outside(&[act, &secret])?.done()?;
    }
    gone(&secret)
}

fn acl(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("allowed/acl/f")?, scene.make_file("denied/acl/f")?);
    let mark = scene.mark();
    scene.act(SKILL, &["set-acl", &denied])?.refused()?;
    denied_event(scene, mark, &denied)?;
    // The group's bits are the mask of a list; 0644 shows 0644 with one, too, and the write bit of the owner is kept.
    ensure!(succeed(&["stat", "-c", "%A", &denied])?.trim() == "-rw-r--r--", "it has changed");
    scene.act(SKILL, &["set-acl", &allowed])?.done()?;
    ensure!(listed(&allowed)? && !listed(&denied)?, "the list is not where it should be");
    // Nor is one taken away.
    scene.outside(&["set-acl", &denied])?.done()?;
    let mark = scene.mark();
    scene.act(SKILL, &["remove-acl", &denied])?.refused()?;
    denied_event(scene, mark, &denied)?;
    scene.act(SKILL, &["remove-acl", &allowed])?.done()?;
    ensure!(!listed(&allowed)? && listed(&denied)?, "the list is not where it should be");
    Ok(())
}

/// Whether a file has an access control list.
fn listed(path: &str) -> anyhow::Result<bool> {
    let path = std::ffi::CString::new(path)?;
    let name = c"system.posix_acl_access";
    // SAFETY: the strings end with NUL; no buffer asks for the size.
    Ok(unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) } > 0)
}

fn uring(scene: &Scene) -> anyhow::Result<()> {
    ["uring", "uring-worker", "uring-sqpoll"].iter().try_for_each(|how| uring_by(scene, how))
}

fn uring_by(scene: &Scene, how: &str) -> anyhow::Result<()> {
    let name = |dir: &str| format!("{dir}/{how}/f");
    let (allowed, denied) = (scene.make_file(&name("allowed"))?, scene.make_file(&name("denied"))?);
    let (written, secret) = (scene.make_file(&name("written"))?, scene.make_file(&name("secret"))?);
    let mark = scene.mark();
    scene.act(SKILL, &[how, "append", &denied, "+"])?.refused()?;
    holds(&denied, &name("denied"))?;
    denied_event(scene, mark, &denied)?;
    scene.act(SKILL, &[how, "append", &allowed, "+"])?.done()?;
    holds(&allowed, &format!("{}+", name("allowed")))?;
    scene.act(SKILL, &[how, "open-read", &secret])?.refused()?;
    scene.act(SKILL, &[how, "open-read", &denied])?.done()?;
    let mark = scene.mark();
    scene.act(SKILL, &[how, "open-truncate", &written])?.refused()?;
    holds(&written, &name("written"))?;
    scene.event(mark, "delete", "deny", &written)?;
    // `IORING_OP_FTRUNCATE` came with 6.9.
    let outcome = scene.act(SKILL, &[how, "ftruncate", &written])?;
    ensure!([libc::EPERM, libc::EINVAL].contains(&outcome.status), "{outcome:?}");
    let known = outcome.status == libc::EPERM;
    ensure!(known == (kernel()? >= (6, 9)), "{outcome:?}");
    holds(&written, &name("written"))?;
    let outcome = scene.act(SKILL, &[how, "ftruncate", &allowed])?;
    ensure!(outcome.status == if known { 0 } else { libc::EINVAL }, "{outcome:?}");
    scene.act(SKILL, &[how, "open-truncate", &allowed])?.done()?;
    holds(&allowed, "")
}

/// A request that follows a worker's is carried out by the task with the credentials that it had, which are not those that it
/// has by then: so does the kernel act for itself. On an overlay it does both.
fn linked(scene: &Scene) -> anyhow::Result<()> {
    const HOW: &str = "uring-linked";
    uring_by(scene, HOW)?;
    let (allowed, denied) = (scene.make_file("allowed/linked/f")?, scene.make_file("denied/linked/f")?);
    let mark = scene.mark();
    scene.act(SKILL, &[HOW, "open-write", &denied])?.refused()?;
    denied_event(scene, mark, &denied)?;
    scene.act(SKILL, &[HOW, "open-write", &allowed])?.done()?;
    // tmpfs has user attributes from 6.6 on only; the hook is asked before it.
    let outcome = scene.act(SKILL, &[HOW, "fsetxattr", &allowed])?;
    ensure!([0, libc::EOPNOTSUPP].contains(&outcome.status), "{outcome:?}");
    scene.act(SKILL, &[HOW, "fsetxattr", &denied])?.refused()?;
    let at = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let base = Mount::tmpfs(&at("layers"))?;
    for side in ["good", "bad"] {
        for dir in ["upper", "work", "lower"] {
            scene.make_dir(&format!("layers/{side}/{dir}"))?;
        }
        fs::write(format!("{}/{side}/lower/below", base.path()), "below")?;
    }
    let good = Mount::overlay_of(&at("allowed/stacked"), &format!("{}/good", base.path()))?;
    let bad = Mount::overlay_of(&at("denied/stacked"), &format!("{}/bad", base.path()))?;
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    let (allowed, denied) = (at("allowed/stacked/below"), at("denied/stacked/below"));
    for path in [&allowed, &denied] {
        // A name that the kernel has at hand is opened without a worker.
        scene.outside(&["read", path])?.done()?;
    }
    let mark = scene.mark();
    scene.act(SKILL, &[HOW, "append", &denied, "+"])?.refused()?;
    denied_event(scene, mark, &denied)?;
    holds(&denied, "below")?;
    // The layers, which no rule names, are the kernel's: it copies the file up, and opens it. A worker, to whom 6.1 hands every
    // open on an overlay, is not taken for the kernel.
    for text in ["below+", "below++"] {
        let mut outcome = scene.act(SKILL, &[HOW, "append", &allowed, "+"])?;
        for _ in 0..4 {
            // Where another walk of the name comes between, the kernel hands it to a worker after all.
            if outcome.status == libc::EPERM {
                outcome = scene.act(SKILL, &[HOW, "append", &allowed, "+"])?;
            }
        }
        if fs::read_to_string("/proc/sys/kernel/osrelease")?.starts_with("6.1.") {
            outcome.refused()?;
            holds(&allowed, "below")?;
        } else {
            outcome.done()?;
            holds(&allowed, text)?;
        }
    }
    drop((good, bad, base));
    scene.daemon(|d| d.reload(&manifest)).map(drop)
}

fn personality(scene: &Scene) -> anyhow::Result<()> {
    for how in ["uring", "uring-worker", "uring-sqpoll"] {
        let allowed = scene.make_file(&format!("allowed/{how}/personal"))?;
        let mark = scene.mark();
        scene.act(SKILL, &[how, "unlink-by-personality", &allowed])?.refused()?;
        there(&allowed)?;
        scene.events().wait(mark, "the refusal", |e| e.text("reason") == "io_uring personalities are not allowed")?;
        scene.outside(&[how, "unlink-by-personality", &allowed])?.done()?;
        gone(&allowed)?;
    }
    Ok(())
}

/// `O_TMPFILE` and a link that gives it a name.
fn nameless(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_dir("allowed/nameless")?, scene.make_dir("denied/nameless")?);
    let name = |dir: &str| format!("{dir}/named");
    scene.act(SKILL, &["tmpfile-link", &allowed, &name(&allowed)])?.done()?;
    there(&name(&allowed))?;
    for (made, linked) in [(&denied, &denied), (&allowed, &denied), (&denied, &allowed)] {
        let name = format!("{linked}/from-{}", if made == &denied { "denied" } else { "allowed" });
        scene.act(SKILL, &["tmpfile-link", made, &name])?.refused()?;
        gone(&name)?;
    }
    Ok(())
}

fn by_handle(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("allowed/handle/f")?, scene.make_file("denied/handle/f")?);
    let mark = scene.mark();
    scene.act(SKILL, &["append-by-handle", &denied, "+"])?.refused()?;
    holds(&denied, "denied/handle/f")?;
    denied_event(scene, mark, &denied)?;
    scene.act(SKILL, &["append-by-handle", &allowed, "+"])?.done()?;
    holds(&allowed, "allowed/handle/f+")
}

/// An ioctl on a descriptor that is open for reading. tmpfs has flags from 6.6 on.
fn flags(scene: &Scene) -> anyhow::Result<()> {
    let at = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let (good, bad) = (Mount::ext4(&at("allowed/flags"))?, Mount::ext4(&at("denied/flags"))?);
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    let has = |path: &str| Ok::<_, anyhow::Error>(scene.outside(&["has-noatime", path])?.status == 0);
    let ways: &[&str] = if has_entry_32(scene)? { &["chattr", "chattr-32"] } else { &["chattr"] };
    for way in ways {
        let allowed = scene.make_file(&format!("allowed/flags/{way}"))?;
        let denied = scene.make_file(&format!("denied/flags/{way}"))?;
        let mark = scene.mark();
        scene.act(SKILL, &[way, &denied])?.refused()?;
        denied_event(scene, mark, &denied)?;
        ensure!(!has(&denied)?, "{way}: the flag is set");
        scene.act(SKILL, &[way, &allowed])?.done()?;
        ensure!(has(&allowed)?, "{way}: the flag is not set");
    }
    drop((good, bad));
    scene.daemon(|d| d.reload(&manifest)).map(drop)
}

/// `acct` and `swapon` have the kernel write to a file: neither by a governed process, be the file listed or not.
fn kernel_files(scene: &Scene) -> anyhow::Result<()> {
    for act in ["acct", "swapon"] {
        for dir in ["allowed", "denied"] {
            let name = format!("{dir}/{act}/f");
            let (file, mark) = (scene.make_file(&name)?, scene.mark());
            scene.act(SKILL, &[act, &file])?.refused()?;
            holds(&file, &name)?;
            scene.events().wait(mark, &format!("the refused {act}"), |e| {
                e.text("verdict") == "deny" && e.text("reason").contains("the host as a whole")
            })?;
            // What it is opened for is another question: a file of a few bytes is no swap.
            let outcome = scene.outside(&[act, &file])?;
            ensure!(outcome.status != libc::EPERM, "{outcome:?}");
        }
    }
    // SAFETY: null ends the accounting that the act from outside began.
    unsafe { libc::acct(std::ptr::null()) };
    Ok(())
}

fn copies(scene: &Scene) -> anyhow::Result<()> {
    let source = scene.make_file("denied/copies/source")?;
    let (allowed, denied) = (scene.make_file("allowed/copies/f")?, scene.make_file("denied/copies/f")?);
    scene.act(SKILL, &["clone-range", &source, &denied])?.refused()?;
    holds(&denied, "denied/copies/f")?;
    scene.act(SKILL, &["clone-range", &source, &allowed])?.done()?;
    holds(&allowed, "denied/copies/source")
}

/// A rename that leaves a device behind, as overlayfs does.
fn whiteout(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("allowed/whiteout/f")?, scene.make_file("denied/whiteout/f")?);
    let to = |path: &str| format!("{path}.moved");
    scene.act(SKILL, &["rename-whiteout", &denied, &to(&denied)])?.refused()?;
    holds(&denied, "denied/whiteout/f")?;
    gone(&to(&denied))?;
    scene.act(SKILL, &["rename-whiteout", &allowed, &to(&allowed)])?.done()?;
    holds(&to(&allowed), "allowed/whiteout/f")
}
