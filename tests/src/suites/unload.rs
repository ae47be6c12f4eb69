//! The way out, and pins that are not as a daemon left them. No daemon runs when these begin.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::Path,
    process::Command,
    ptr::{null, null_mut},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::pins::{INSTANCE, Play, manifest, sets};
use crate::harness::{
    ENFORCER, Output, SELF, bounded, command,
    daemon::{Daemon, unload},
    runner::Suite,
    scene::{Scene, gone, there},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "unload",
    policy: None,
    tests: &[
        // Those that leave what is in force to the next one first: loading takes many times as long as taking over.
        ("is_refused_to_a_governed_process", governed),
        ("a_second_daemon_with_another_runtime_directory_is_refused", second),
        ("a_command_with_a_policy_of_its_own_is_refused_beside_what_is_in_force", beside),
        ("a_set_with_a_missing_map_or_another_one_is_refused", other_map),
        ("asks_on_a_terminal_needs_yes_without_one_and_leaves_an_event", asks),
        ("without_a_daemon_leaves_a_line_in_the_systems_log", without_daemon),
        ("a_command_with_a_policy_of_its_own_that_is_terminated_leaves_nothing", terminated_run),
        ("a_set_without_its_mark_was_never_in_force", unfinished),
        ("a_set_of_a_layout_that_is_not_understood_is_refused", other_mark),
        ("what_is_not_a_set_is_refused", foreign),
        ("bpffs_is_mounted_where_it_is_not", no_bpffs),
        ("a_read_only_bpffs_is_named", read_only),
    ],
};

/// Nothing is attached and nothing pinned.
fn nothing_in_force(play: &Play<'_>) -> anyhow::Result<()> {
    ensure!(sets().is_empty(), "pins are left: {:?}", sets());
    let victim = play.victim()?;
    play.agent.act(&["unlink", &victim])?.done()?;
    gone(&victim)?;
    play.early.act(&["exec", "/usr/bin/id", "--version"])?.done()?;
    Ok(())
}

/// Runs `enforcer unload` on a terminal, where somebody types this.
fn ask(answer: &str) -> anyhow::Result<Output> {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: the pointers are to locals, and the others may be null.
    let opened = unsafe { libc::openpty(&raw mut ours, &raw mut theirs, null_mut(), null(), null()) };
    ensure!(opened == 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: both were just opened and are nobody else's.
    let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    writeln!(ours, "{answer}")?;
    let mut command = Command::new(ENFORCER);
    command.arg("unload").stdin(theirs);
    bounded(&mut command)
}

/// The last event is that of the end, after everything that came before it.
fn asks(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    let outcome = command(&[ENFORCER, "unload"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("--yes"), "{outcome:?}");
    // What is not "yes" changes nothing.
    let outcome = ask("no")?;
    ensure!(outcome.out.contains("Type yes") && outcome.err.contains("nothing was changed"), "{outcome:?}");
    play.in_force()?;
    let mark = play.daemon.events.mark();
    let victim = play.victim()?;
    play.agent.act(&["unlink", &victim])?.refused()?;
    let outcome = ask("yes")?;
    ensure!(outcome.out.contains("nothing is enforced any more"), "{outcome:?}");
    ensure!(play.daemon.wait()? == 0, "{}", play.daemon.errors());
    play.daemon.events.wait(mark, "the end", |e| e.text("kind") == "unload")?;
    let events = play.daemon.events.since(mark);
    let last = events.last().context("no event")?;
    ensure!(last.text("kind") == "unload" && last.text("reason").contains("enforcer unload"), "{}", last.0);
    ensure!(events.iter().any(|e| e.is("delete", "deny", &victim)), "the refusal before it is missing");
    ensure!(play.daemon.errors().contains("nothing is enforced any more"), "{}", play.daemon.errors());
    nothing_in_force(&play)
}

fn without_daemon(scene: &Scene) -> anyhow::Result<()> {
    const LOG: &str = "/dev/log";
    let mut play = Play::begin(scene, &[])?;
    play.daemon.kill()?;
    let _ = fs::remove_file(LOG);
    let log = UnixDatagram::bind(LOG)?;
    log.set_read_timeout(Some(Duration::from_secs(5)))?;
    let outcome = command(&[ENFORCER, "unload", "--yes"])?;
    fs::remove_file(LOG)?;
    ensure!(outcome.status == 0 && outcome.err.contains("enforcement was ended"), "{outcome:?}");
    let mut line = [0; 512];
    let length = log.recv(&mut line)?;
    let line = String::from_utf8_lossy(&line[..length]).into_owned();
    ensure!(line.starts_with("<85>enforcer[") && line.contains("user 0"), "{line:?}");
    nothing_in_force(&play)?;
    // There is nothing to end any more, which is no error.
    ensure!(succeed(&[ENFORCER, "unload", "--yes"])?.contains("nothing was in force"), "it ended something");
    Ok(())
}

fn governed(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &["/usr/bin/enforcer"])?;
    for daemon in [true, false] {
        if !daemon {
            play.daemon.kill()?;
        }
        for force in [&[][..], &["--force"]] {
            let act = [&["exec", "/usr/bin/enforcer", "unload", "--yes"], force].concat();
            let outcome = play.agent.act(&act)?;
            ensure!(outcome.status == 1, "with a daemon: {daemon}; {force:?}: {outcome:?}");
        }
        play.in_force()?;
    }
    Ok(())
}

fn second(scene: &Scene) -> anyhow::Result<()> {
    let play = Play::begin(scene, &[])?;
    let policy = play.daemon.policy().to_string_lossy().into_owned();
    let outcome = command(&[ENFORCER, "daemon", "--policy", &policy, "--runtime-dir", "/run/enforcer-other"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("another daemon"), "{outcome:?}");
    ensure!(outcome.err.contains(&play.daemon.pid().to_string()), "{outcome:?}");
    // Nor does it end what another one enforces.
    let outcome = command(&[ENFORCER, "unload", "--yes", "--runtime-dir", "/run/enforcer-other"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("another daemon"), "{outcome:?}");
    play.in_force()
}

fn beside(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    let policy = play.daemon.policy().to_string_lossy().into_owned();
    play.daemon.kill()?;
    let outcome = command(&[ENFORCER, "run", "--policy", &policy, "--skill", "s", "--", SELF, "act", "nothing"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("enforcer unload"), "{outcome:?}");
    play.in_force()
}

fn terminated_run(scene: &Scene) -> anyhow::Result<()> {
    unload()?;
    let policy = scene.make_file("run.yaml")?;
    fs::write(&policy, manifest(scene, &[SELF, "/usr/bin/sleep"])?)?;
    let run = format!(
        "enforcer run --policy {policy} --skill s -- /usr/bin/sleep 1000 & run=$!; \
         until [ -e {INSTANCE}/set-1/mark ]; do sleep 0.05; done; sleep 1; kill -TERM $run; wait $run"
    );
    command(&["sh", "-c", &run])?;
    ensure!(sets().is_empty(), "pins are left: {:?}", sets());
    Ok(())
}

/// As a daemon leaves it that is killed before its first policy is in force.
fn unfinished(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    let before = sets();
    play.daemon.kill()?;
    fs::remove_file(format!("{INSTANCE}/{}/mark", before[0]))?;
    let outcome = command(&[ENFORCER, "status"])?;
    ensure!(outcome.status == 1, "{outcome:?}");
    play.daemon.restart()?;
    ensure!(sets().len() == 1 && sets() != before, "the sets are {:?}", sets());
    // The processes of the cgroup are governed anew.
    let victim = play.victim()?;
    play.early.act(&["unlink", &victim])?.refused()?;
    there(&victim)?;
    // And every program of the set before is gone: what one of them refused is allowed when all is unloaded.
    play.daemon.stop()?;
    nothing_in_force(&play)
}

/// A daemon refuses to take this over; what is left of it stays in force.
fn not_taken(play: &Play<'_>, words: &[&str]) -> anyhow::Result<()> {
    let policy = play.daemon.policy().to_string_lossy().into_owned();
    let outcome = command(&[ENFORCER, "daemon", "--policy", &policy])?;
    ensure!(outcome.status == 1 && outcome.err.contains("enforcer unload"), "{outcome:?}");
    for word in words {
        ensure!(outcome.err.contains(word), "no {word:?} in {:?}", outcome.err);
    }
    play.in_force()
}

/// The same, until it is unloaded.
fn refused(play: &Play<'_>, words: &[&str], unload: &[&str]) -> anyhow::Result<()> {
    not_taken(play, words)?;
    succeed(&[&[ENFORCER, "unload", "--yes"], unload].concat())?;
    nothing_in_force(play)
}

/// A map that is missing, and one that is another map. When each is in its place again, it is taken over.
fn other_map(scene: &Scene) -> anyhow::Result<()> {
    const ASIDE: &str = "/sys/fs/bpf/tests-aside";
    let mut play = Play::begin(scene, &[])?;
    play.daemon.kill()?;
    let map = |name: &str| format!("{INSTANCE}/{}/maps/{name}", sets()[0]);
    fs::rename(map("ENTRYPOINTS"), ASIDE)?;
    not_taken(&play, &["map ENTRYPOINTS"])?;
    fs::rename(map("RESOLVED"), map("ENTRYPOINTS"))?;
    not_taken(&play, &["damaged", "ENTRYPOINTS is another one"])?;
    fs::rename(map("ENTRYPOINTS"), map("RESOLVED"))?;
    fs::rename(ASIDE, map("ENTRYPOINTS"))?;
    play.daemon.restart()?;
    play.in_force()
}

/// What a version before this layout of sets, or after it, may have left.
fn other_mark(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    play.daemon.kill()?;
    let pin = |name: &str| format!("{INSTANCE}/{}/{name}", sets()[0]);
    fs::remove_file(pin("mark"))?;
    // An array of one element is no mark.
    fs::rename(pin("maps/HOST"), pin("mark"))?;
    let outcome = command(&[ENFORCER, "unload", "--yes"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("--force"), "{outcome:?}");
    refused(&play, &["damaged", "its mark is not one that this build understands"], &["--force"])
}

fn foreign(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    play.daemon.kill()?;
    fs::create_dir(format!("{INSTANCE}/somebody"))?;
    let outcome = command(&[ENFORCER, "unload", "--yes"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("somebody"), "{outcome:?}");
    refused(&play, &["somebody", "--force"], &["--force"])
}

/// Unmounts bpffs while `test` runs.
fn without_bpffs(test: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    succeed(&["umount", "/sys/fs/bpf"])?;
    let outcome = test();
    if command(&["mountpoint", "-q", "/sys/fs/bpf"])?.status != 0 {
        succeed(&["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])?;
    }
    outcome
}

fn no_bpffs(scene: &Scene) -> anyhow::Result<()> {
    unload()?;
    without_bpffs(|| {
        let mut daemon = Daemon::start(Path::new(&scene.make_dir("daemon")?), &manifest(scene, &[SELF])?)?;
        succeed(&["mountpoint", "-q", "/sys/fs/bpf"])?;
        ensure!(sets().len() == 1, "the sets are {:?}", sets());
        ensure!(daemon.stop()? == 0, "{}", daemon.errors());
        Ok(())
    })
}

fn read_only(scene: &Scene) -> anyhow::Result<()> {
    unload()?;
    without_bpffs(|| {
        succeed(&["mount", "-t", "bpf", "-o", "ro", "bpf", "/sys/fs/bpf"])?;
        let policy = scene.make_file("read-only.yaml")?;
        fs::write(&policy, manifest(scene, &[SELF])?)?;
        let outcome = command(&[ENFORCER, "daemon", "--policy", &policy])?;
        succeed(&["umount", "/sys/fs/bpf"])?;
        ensure!(outcome.status == 1 && outcome.err.contains("Read-only"), "{outcome:?}");
        ensure!(outcome.err.contains(INSTANCE), "{outcome:?}");
        Ok(())
    })
}
