//! Exec: the content decides, whatever it is called and wherever it lies.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::ensure;

use crate::harness::{
    ENFORCER, SELF, command,
    events::Event,
    runner::Suite,
    scene::{Scene, there},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "exec",
    policy: Some(policy),
    tests: &[
        ("an_unlisted_binary", unlisted),
        ("a_denied_binary_renamed_over_an_allowed_name", renamed_over),
        ("a_copy_of_an_allowed_binary_elsewhere", copy_elsewhere),
        ("a_listed_digest_without_a_path", by_digest),
        ("a_changed_copy_of_an_allowed_binary", changed_copy),
        ("a_binary_rewritten_in_place_with_size_and_time_restored", rewritten),
        ("symlinks", symlinks),
        ("hard_links", hard_links),
        ("proc_self_root_and_descriptors", by_descriptor),
        ("a_bind_mount_over_an_allowed_name", bind_mount),
        ("from_a_chroot", chroot),
        ("files_that_are_no_programs_or_cannot_be_read", odd_files),
        ("a_script_with_a_denied_interpreter", denied_interpreter),
        ("a_denied_script_with_an_allowed_interpreter", denied_script),
        ("a_memfd", memfd),
        ("a_deleted_file", deleted),
        ("by_a_thread_and_by_orphans", tasks),
        ("the_exit_statuses_of_enforcer_run", statuses),
        ("everything_is_allowed_by_a_star", star),
        ("an_absent_list_allows_nothing", absent),
        ("outside_processes_are_untouched", outside),
    ],
};

const SKILL: &str = "runner";
/// What `wc --version` begins with, and `id --version`.
const ALLOWED: &str = "wc (GNU coreutils)";
const DENIED: &str = "id (GNU coreutils)";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let hashed = succeed(&["sha256sum", "/usr/bin/cat"])?;
    let digest = hashed.split_whitespace().next().unwrap_or_default();
    // Named in the policy by its content alone, and it has to exist when the policy is compiled.
    let script = scene.make_file("script-allowed")?;
    fs::write(&script, "#!/usr/bin/bash\necho token-of-the-script\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    allow_binaries:\n      \
         - path: /usr/lib/enforcer/enforcer-tests\n      - path: /usr/bin/wc\n      - path: /usr/bin/bash\n      \
         - path: {script}\n      - sha256:{digest}\n    allow_delete: [\"*\"]\n  \
         free:\n    allow_binaries: [\"*\"]\n  bound: {{}}\n"
    ))
}

/// Runs an act that ends in a program which prints `token`.
fn runs(scene: &Scene, act: &[&str], token: &str) -> anyhow::Result<()> {
    let outcome = scene.act(SKILL, act)?;
    ensure!(outcome.done()?.out.contains(token), "{act:?} printed {:?}", outcome.out);
    Ok(())
}

/// Runs an act that must not end in a program, and finds the event on `path`.
fn refused(scene: &Scene, act: &[&str], path: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    let outcome = scene.act(SKILL, act)?;
    ensure!(outcome.refused()?.out.is_empty(), "{act:?} printed {:?}", outcome.out);
    let event = scene.event(mark, "exec", "deny", path)?;
    ensure!(event.text("reason") == "binary not listed", "the reason is {:?}", event.text("reason"));
    ensure!(event.object("sha256").len() == "sha256:".len() + 64, "the digest is {:?}", event.object("sha256"));
    Ok(())
}

/// A copy of a program, made from outside.
fn copy(scene: &Scene, of: &str, name: &str) -> anyhow::Result<String> {
    let path = scene.make_file(name)?;
    fs::copy(of, &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn unlisted(scene: &Scene) -> anyhow::Result<()> {
    let mark = scene.mark();
    runs(scene, &["exec", "/usr/bin/wc", "--version"], ALLOWED)?;
    let event = scene.event(mark, "exec", "allow", "/usr/bin/wc")?;
    ensure!(event.text("rule") == "allow_binaries: /usr/bin/wc", "the rule is {:?}", event.text("rule"));
    refused(scene, &["exec", "/usr/bin/id", "--version"], "/usr/bin/id")
}

fn renamed_over(scene: &Scene) -> anyhow::Result<()> {
    let wc = copy(scene, "/usr/bin/wc", "over/wc")?;
    runs(scene, &["exec", &wc, "--version"], ALLOWED)?;
    let id = copy(scene, "/usr/bin/id", "over/id")?;
    scene.act(SKILL, &["rename", &id, &wc])?.done()?;
    refused(scene, &["exec", &wc, "--version"], &wc)
}

fn copy_elsewhere(scene: &Scene) -> anyhow::Result<()> {
    let wc = copy(scene, "/usr/bin/wc", "elsewhere/some-tool")?;
    runs(scene, &["exec", &wc, "--version"], "some-tool (GNU coreutils)")
        .or_else(|_| runs(scene, &["exec", &wc, "--version"], ALLOWED))?;
    let id = copy(scene, "/usr/bin/id", "elsewhere/wc")?;
    refused(scene, &["exec", &id, "--version"], &id)
}

fn by_digest(scene: &Scene) -> anyhow::Result<()> {
    runs(scene, &["exec", "/usr/bin/cat", "--version"], "cat (GNU coreutils)")
}

fn changed_copy(scene: &Scene) -> anyhow::Result<()> {
    let wc = copy(scene, "/usr/bin/wc", "changed/wc")?;
    runs(scene, &["exec", &wc, "--version"], ALLOWED)?;
    let mut content = fs::read(&wc)?;
    content.push(0);
    fs::write(&wc, content)?;
    refused(scene, &["exec", &wc, "--version"], &wc)
}

fn rewritten(scene: &Scene) -> anyhow::Result<()> {
    let wc = copy(scene, "/usr/bin/wc", "rewritten/wc")?;
    runs(scene, &["exec", &wc, "--version"], ALLOWED)?;
    let before = fs::metadata(&wc)?;
    let content = fs::read(&wc)?;
    let mut id = fs::read("/usr/bin/id")?;
    id.resize(content.len().max(id.len()), 0);
    fs::write(&wc, &id)?;
    fs::File::options().write(true).open(&wc)?.set_modified(before.modified()?)?;
    refused(scene, &["exec", &wc, "--version"], &wc)?;
    fs::write(&wc, &content)?;
    fs::File::options().write(true).open(&wc)?.set_len(content.len() as u64)?;
    runs(scene, &["exec", &wc, "--version"], ALLOWED)
}

fn symlinks(scene: &Scene) -> anyhow::Result<()> {
    let dir = scene.make_dir("symlinks")?;
    let (good, bad) = (format!("{dir}/id"), format!("{dir}/wc"));
    std::os::unix::fs::symlink("/usr/bin/wc", &good)?;
    std::os::unix::fs::symlink("/usr/bin/id", &bad)?;
    let outcome = scene.act(SKILL, &["exec", &good, "--version"])?;
    ensure!(outcome.done()?.out.contains("GNU coreutils"), "{outcome:?}");
    refused(scene, &["exec", &bad, "--version"], "/usr/bin/id")
}

fn hard_links(scene: &Scene) -> anyhow::Result<()> {
    let id = copy(scene, "/usr/bin/id", "links/id")?;
    let link = format!("{id}.link");
    fs::hard_link(&id, &link)?;
    refused(scene, &["exec", &link, "--version"], &link)?;
    let wc = copy(scene, "/usr/bin/wc", "links/wc")?;
    let link = format!("{wc}.link");
    fs::hard_link(&wc, &link)?;
    scene.act(SKILL, &["exec", &link, "--version"])?.done()?;
    Ok(())
}

fn by_descriptor(scene: &Scene) -> anyhow::Result<()> {
    for act in ["fexecve", "proc-fd-exec"] {
        let outcome = scene.act(SKILL, &[act, "/usr/bin/wc", "--version"])?;
        ensure!(outcome.done()?.out.contains("GNU coreutils"), "{outcome:?}");
        refused(scene, &[act, "/usr/bin/id", "--version"], "/usr/bin/id")?;
    }
    runs(scene, &["exec", "/proc/self/root/usr/bin/wc", "--version"], "GNU coreutils")?;
    refused(scene, &["exec", "/proc/self/root/usr/bin/id", "--version"], "/usr/bin/id")?;
    runs(scene, &["execveat", "/usr/bin", "wc", "--version"], "GNU coreutils")?;
    refused(scene, &["execveat", "/usr/bin", "../bin/id", "--version"], "/usr/bin/id")?;
    runs(scene, &["cd", "/usr", "exec", "bin/../bin/wc", "--version"], "GNU coreutils")?;
    refused(scene, &["cd", "/usr", "exec", "bin/../bin/id", "--version"], "/usr/bin/id")
}

fn bind_mount(scene: &Scene) -> anyhow::Result<()> {
    let wc = copy(scene, "/usr/bin/wc", "bound/wc")?;
    let script = ["unshare", "mount", "bind", "/usr/bin/id", &wc, "exec", &wc, "--version"];
    let mark = scene.mark();
    let outcome = scene.act(SKILL, &script)?;
    ensure!(outcome.refused()?.out.is_empty(), "{outcome:?}");
    scene.events().wait(mark, "a refusal", |e| e.text("kind") == "exec" && e.text("verdict") == "deny")?;
    runs(scene, &["unshare", "mount", "exec", &wc, "--version"], ALLOWED)
}

fn write_script(scene: &Scene, name: &str, text: &str) -> anyhow::Result<String> {
    let path = scene.make_file(name)?;
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn denied_interpreter(scene: &Scene) -> anyhow::Result<()> {
    // The script's content is listed, and dash is not.
    let script = scene.dir.join("script-allowed").to_string_lossy().into_owned();
    runs(scene, &["exec", &script], "token-of-the-script")?;
    let other = write_script(scene, "scripts/dash", "#!/usr/bin/dash\necho token\n")?;
    refused(scene, &["exec", &other], &other)?;
    refused(scene, &["exec", "/usr/bin/dash", &other], "/usr/bin/dash")
}

fn denied_script(scene: &Scene) -> anyhow::Result<()> {
    let script = write_script(scene, "scripts/bash", "#!/usr/bin/bash\necho token\n")?;
    refused(scene, &["exec", &script], &script)?;
    // Reading is not executing: what an allowed interpreter does is governed act by act.
    runs(scene, &["exec", "/usr/bin/bash", &script], "token")
}

fn memfd(scene: &Scene) -> anyhow::Result<()> {
    let mark = scene.mark();
    let outcome = scene.act(SKILL, &["memfd-exec", "sealed", "/usr/bin/id", "--version"])?;
    ensure!(outcome.refused()?.out.is_empty(), "{outcome:?}");
    let event = scene.events().wait(mark, "a refusal", |e| e.text("kind") == "exec" && e.text("verdict") == "deny")?;
    let hashed = succeed(&["sha256sum", "/usr/bin/id"])?;
    let digest = hashed.split_whitespace().next().unwrap_or_default();
    ensure!(event.object("sha256") == format!("sha256:{digest}"), "{}", event.0);
    runs(scene, &["memfd-exec", "sealed", "/usr/bin/wc", "--version"], "GNU coreutils")?;
    // What can still be written, or cut, is not what was measured.
    for seals in ["unsealed", "half-sealed", "shrinkable"] {
        let mark = scene.mark();
        let outcome = scene.act(SKILL, &["memfd-exec", seals, "/usr/bin/wc", "--version"])?;
        ensure!(outcome.refused()?.out.is_empty(), "{outcome:?}");
        let denied = |e: &Event| e.text("kind") == "exec" && e.text("verdict") == "deny";
        let event = scene.events().wait(mark, "a refusal", denied)?;
        ensure!(event.text("reason") == "memory file is not sealed", "{}", event.0);
    }
    // Where anything may run, so may this.
    scene.act("free", &["memfd-exec", "unsealed", "/usr/bin/id", "--version"])?.done()?;
    Ok(())
}

fn deleted(scene: &Scene) -> anyhow::Result<()> {
    let id = copy(scene, "/usr/bin/id", "deleted/id")?;
    let mark = scene.mark();
    let outcome = scene.act(SKILL, &["deleted-exec", &id, "--version"])?;
    ensure!(outcome.refused()?.out.is_empty(), "{outcome:?}");
    scene.events().wait(mark, "a refusal", |e| e.text("kind") == "exec" && e.text("verdict") == "deny")?;
    let wc = copy(scene, "/usr/bin/wc", "deleted/wc")?;
    runs(scene, &["deleted-exec", &wc, "--version"], "GNU coreutils")
}

fn tasks(scene: &Scene) -> anyhow::Result<()> {
    for way in ["fork", "double-fork", "vfork", "setsid", "thread"] {
        runs(scene, &[way, "exec", "/usr/bin/wc", "--version"], ALLOWED)?;
        refused(scene, &[way, "exec", "/usr/bin/id", "--version"], "/usr/bin/id")?;
    }
    Ok(())
}

fn statuses(scene: &Scene) -> anyhow::Result<()> {
    let missing = scene.dir.join("no-such-program").to_string_lossy().into_owned();
    let cases: [(&[&str], i32); 6] = [
        (&["/usr/bin/bash", "-c", "exit 0"], 0),
        (&["/usr/bin/bash", "-c", "exit 7"], 7),
        (&["/usr/bin/bash", "-c", "kill -TERM $$"], 128 + libc::SIGTERM),
        (&["/usr/bin/bash", "-c", "kill -KILL $$"], 128 + libc::SIGKILL),
        (&["/usr/bin/id"], 126),
        (&[&missing], 127),
    ];
    for (words, wanted) in cases {
        let all: Vec<&str> = [ENFORCER, "run", "--skill", SKILL, "--"].iter().chain(words).copied().collect();
        let outcome = command(&all)?;
        ensure!(
            outcome.status == wanted,
            "{words:?} ended with {} instead of {wanted}: {}",
            outcome.status,
            outcome.err
        );
    }
    let outcome = command(&[ENFORCER, "run", "--skill", "nobody", "--", "/usr/bin/bash", "-c", "echo ran"])?;
    ensure!(outcome.status == 1 && !outcome.out.contains("ran"), "{outcome:?}");
    ensure!(outcome.err.contains("nobody") && outcome.err.contains(SKILL), "{:?}", outcome.err);
    // By its name on PATH, and as another user.
    let outcome =
        command(&[ENFORCER, "run", "--skill", SKILL, "--user", "agent", "--", "bash", "-c", "echo $UID $HOME"])?;
    ensure!(outcome.out.trim() == "1000 /home/agent", "{outcome:?}");
    Ok(())
}

/// With another root the names are others, and the content is what it was.
fn chroot(scene: &Scene) -> anyhow::Result<()> {
    let root = scene.make_dir("root")?;
    copy(scene, SELF, "root/usr/bin/tool")?;
    let changed = copy(scene, SELF, "root/usr/lib/enforcer/enforcer-tests")?;
    let mut content = fs::read(&changed)?;
    content.push(0);
    fs::write(&changed, content)?;
    scene.act(SKILL, &["chroot", &root, "exec", "/usr/bin/tool", "act", "nothing"])?.done()?;
    refused(scene, &["chroot", &root, "exec", "/usr/lib/enforcer/enforcer-tests", "act", "nothing"], &changed)
}

/// The kernel runs none of the former, whoever asks. One that may be executed and not read is measured like any other.
fn odd_files(scene: &Scene) -> anyhow::Result<()> {
    let empty = scene.make_file("odd/empty")?;
    fs::write(&empty, "")?;
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o755))?;
    refused(scene, &["exec", &empty], &empty)?;
    let dir = scene.make_dir("odd/directory")?;
    let fifo = scene.dir.join("odd/fifo").to_string_lossy().into_owned();
    succeed(&["mkfifo", "-m", "755", &fifo])?;
    let plain = copy(scene, "/usr/bin/wc", "odd/plain")?;
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644))?;
    for path in [&dir, &fifo, &plain] {
        scene.act(SKILL, &["exec", path])?.failed(libc::EACCES)?;
    }
    for (program, listed) in [("/usr/bin/wc", true), ("/usr/bin/id", false)] {
        let hidden = copy(scene, program, &format!("odd/hidden-{listed}"))?;
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o711))?;
        let act = ["user", "1000", "exec", &hidden, "--version"];
        ensure!(command(&["setpriv", "--reuid", "1000", "cat", &hidden])?.status != 0, "it can be read");
        if listed {
            runs(scene, &act, ALLOWED)?;
        } else {
            refused(scene, &act, &hidden)?;
        }
    }
    Ok(())
}

fn star(scene: &Scene) -> anyhow::Result<()> {
    let outcome = scene.act("free", &["exec", "/usr/bin/id", "--version"])?;
    ensure!(outcome.done()?.out.contains(DENIED), "{outcome:?}");
    let script = write_script(scene, "scripts/star", "#!/usr/bin/dash\necho token\n")?;
    let outcome = scene.act("free", &["exec", &script])?;
    ensure!(outcome.done()?.out.contains("token"), "{outcome:?}");
    Ok(())
}

fn absent(scene: &Scene) -> anyhow::Result<()> {
    let mark = scene.mark();
    let outcome = command(&[ENFORCER, "run", "--skill", "bound", "--", "/usr/bin/wc", "--version"])?;
    ensure!(outcome.status == 126 && outcome.out.is_empty(), "{outcome:?}");
    let event = scene.event(mark, "exec", "deny", "/usr/bin/wc")?;
    ensure!(event.text("skill") == "bound", "{}", event.0);
    // Of the skill that may run anything, deletes and connects are absent, too.
    let file = scene.make_file("absent/file")?;
    scene.act("free", &["unlink", &file])?.refused()?;
    there(&file)?;
    scene.act("free", &["tcp", "127.0.0.1:9"])?.refused()?;
    Ok(())
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    let outcome = scene.outside(&["exec", "/usr/bin/id", "--version"])?;
    ensure!(outcome.done()?.out.contains(DENIED), "{outcome:?}");
    scene.outside(&["memfd-exec", "unsealed", "/usr/bin/id", "--version"])?.done()?;
    Ok(())
}
