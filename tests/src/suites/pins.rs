//! What is in force stays in force without a daemon, and the next daemon takes it over. No daemon runs when these begin.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    act::TOKEN,
    harness::{
        ENFORCER, SELF, command,
        daemon::Daemon,
        eventually,
        listener::Server,
        runner::Suite,
        scene::{Scene, gone, there},
        succeed,
        worker::{Entry, Worker},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "pins",
    policy: None,
    tests: &[
        ("a_killed_daemon_changes_no_verdict", killed),
        ("a_terminated_daemon_changes_no_verdict", terminated),
        ("a_restart_takes_over_without_a_gap", restart),
        ("what_was_attached_by_hand_stays", attached),
        ("a_restart_is_no_reload", no_reload),
        ("a_restart_puts_a_changed_manifest_in_force", changed),
        ("a_restart_with_a_bad_manifest_leaves_the_old_one_in_force", bad),
        ("events_without_a_daemon_are_counted_exactly", flood),
        ("the_status_without_a_daemon", status),
    ],
};

/// Where the pins are.
pub(super) const INSTANCE: &str = "/sys/fs/bpf/enforcer";
const CGROUP: &str = "/sys/fs/cgroup/tests-pins";
const PORT: u16 = 18_071;

/// A policy, its daemon, and processes on both sides.
pub(super) struct Play<'a> {
    scene: &'a Scene,
    /// The daemon.
    pub(super) daemon: Daemon,
    /// In the skill by its cgroup, since before the daemon.
    pub(super) early: Worker,
    /// In the skill by `enforcer run`.
    pub(super) agent: Worker,
    outsider: Worker,
    server: Server,
    round: AtomicU32,
}

/// The policy: programs that may run, one directory to delete in, nothing to connect to.
pub(super) fn manifest(scene: &Scene, binaries: &[&str]) -> anyhow::Result<String> {
    let allowed = scene.make_dir("allowed")?;
    let binaries: Vec<String> = binaries.iter().map(|path| format!("{{path: {path}}}")).collect();
    Ok(format!(
        "skills:\n  s:\n    match: {{cgroup: /tests-pins}}\n    allow_binaries: [{}]\n    allow_delete: [{allowed}]\n",
        binaries.join(", ")
    ))
}

impl<'a> Play<'a> {
    /// Begins, with programs that may run beside the suite's own.
    pub(super) fn begin(scene: &'a Scene, binaries: &[&str]) -> anyhow::Result<Self> {
        fs::create_dir_all(CGROUP)?;
        let early = Worker::start(&Entry::Cgroup(CGROUP))?;
        let manifest = manifest(scene, &[&[SELF], binaries].concat())?;
        let daemon = Daemon::start(Path::new(&scene.make_dir("daemon")?), &manifest)?;
        Ok(Self {
            scene,
            daemon,
            early,
            agent: Worker::start(&Entry::Run("s"))?,
            outsider: Worker::start(&Entry::Outside)?,
            server: Server::start("127.0.0.1", PORT)?,
            round: AtomicU32::new(0),
        })
    }

    /// A file that must not be deleted.
    pub(super) fn victim(&self) -> anyhow::Result<String> {
        self.scene.make_file(&format!("denied/{}", self.round.fetch_add(1, Ordering::Relaxed)))
    }

    /// A file that may be deleted.
    pub(super) fn allowed(&self, name: &str) -> anyhow::Result<String> {
        self.scene.make_file(&format!("allowed/{name}"))
    }

    /// A program that is a byte longer than one that may run.
    pub(super) fn changed_copy(&self) -> anyhow::Result<String> {
        let path = self.scene.make_file("allowed/changed")?;
        let mut content = fs::read(SELF)?;
        content.push(0);
        fs::write(&path, content)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(path)
    }

    /// The address of a server that must not be reached.
    pub(super) fn server(&self) -> String {
        self.server.at()
    }

    /// Nothing reached the server.
    pub(super) fn nothing_arrived(&self) -> anyhow::Result<()> {
        self.server.nothing()
    }

    /// Every process of the skill is refused what it may not do, and may do the rest; who is outside may do all.
    pub(super) fn in_force(&self) -> anyhow::Result<()> {
        let newcomer = Worker::start(&Entry::Cgroup(CGROUP))?;
        for worker in [&self.early, &self.agent, &newcomer] {
            let (victim, other) = (self.victim()?, self.scene.make_file("allowed/file")?);
            worker.act(&["unlink", &victim])?.refused()?;
            worker.act(&["double-fork", "unlink", &victim])?.refused()?;
            there(&victim)?;
            ensure!(worker.act(&["exec", "/usr/bin/id", "--version"])?.refused()?.out.is_empty(), "id ran");
            worker.act(&["tcp", &self.server()])?.refused()?;
            self.nothing_arrived()?;
            worker.act(&["unlink", &other])?.done()?;
            gone(&other)?;
        }
        let victim = self.victim()?;
        self.outsider.act(&["unlink", &victim])?.done()?;
        gone(&victim)?;
        self.outsider.act(&["tcp", &self.server()])?.done()?;
        self.server.got(TOKEN)
    }
}

/// The names of the sets of pins.
pub(super) fn sets() -> Vec<String> {
    let entries = fs::read_dir(INSTANCE).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn killed(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    play.in_force()?;
    let mark = play.daemon.events.mark();
    play.daemon.kill()?;
    play.in_force()?;
    // What it saw no more, the next daemon reports.
    let victim = play.victim()?;
    play.agent.act(&["unlink", &victim])?.refused()?;
    play.daemon.restart()?;
    play.in_force()?;
    play.daemon.events.wait(mark, "the refusal without a daemon", |e| e.is("delete", "deny", &victim))?;
    let start = play.daemon.events.wait(mark, "the takeover", |e| e.text("kind") == "start")?;
    ensure!(start.text("reason").contains("taken over"), "{}", start.0);
    Ok(())
}

fn terminated(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    ensure!(play.daemon.terminate()? == 0, "{}", play.daemon.errors());
    ensure!(play.daemon.errors().contains("stays in force"), "{}", play.daemon.errors());
    play.in_force()?;
    play.daemon.restart()?;
    play.in_force()
}

/// An attack runs all the time; the programs that refuse it are the same afterwards, and so is the generation.
fn restart(scene: &Scene) -> anyhow::Result<()> {
    const RESTARTS: u32 = 10;
    let mut play = Play::begin(scene, &[])?;
    let (before, generation) = (sets(), play.daemon.generation()?);
    let victim = play.victim()?;
    let attacker = Worker::start(&Entry::Run("s"))?;
    let (stop, attempts) = (AtomicBool::new(false), AtomicU32::new(0));
    let took = thread::scope(|scope| -> anyhow::Result<Duration> {
        let attack = scope.spawn(|| -> anyhow::Result<()> {
            while !stop.load(Ordering::Relaxed) {
                attacker.act(&["unlink-many", &victim, "2", "50"])?.refused()?;
                attempts.fetch_add(100, Ordering::Relaxed);
            }
            Ok(())
        });
        let mut took = Duration::ZERO;
        let restarts = (0..RESTARTS).try_for_each(|_| {
            play.daemon.kill()?;
            let started = Instant::now();
            play.daemon.restart()?;
            took += started.elapsed();
            anyhow::Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        attack.join().map_err(|_| anyhow::anyhow!("the attack panicked"))??;
        restarts.map(|()| took / RESTARTS)
    })?;
    there(&victim)?;
    eprintln!("({} attempts; a takeover took {} ms) ", attempts.load(Ordering::Relaxed), took.as_millis());
    ensure!(sets() == before && before.len() == 1, "the pins were {before:?} and are {:?}", sets());
    ensure!(play.daemon.generation()? == generation, "the generation was {generation}");
    play.in_force()
}

fn attached(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    let by_hand = "/sys/fs/cgroup/tests-pins-by-hand";
    fs::create_dir_all(by_hand)?;
    succeed(&[ENFORCER, "attach", "--skill", "s", "--cgroup", "/tests-pins-by-hand"])?;
    let worker = Worker::start(&Entry::Cgroup(by_hand))?;
    let victim = play.victim()?;
    for round in 0..3 {
        worker.act(&["unlink", &victim])?.refused().with_context(|| format!("round {round}"))?;
        let newcomer = Worker::start(&Entry::Cgroup(by_hand))?;
        newcomer.act(&["unlink", &victim])?.refused().with_context(|| format!("newcomer, round {round}"))?;
        match round {
            0 => play.daemon.kill()?,
            1 => play.daemon.restart()?,
            _ => {}
        }
    }
    // And over a reload by the second daemon.
    let manifest = manifest(scene, &[SELF, "/usr/bin/wc"])?;
    play.daemon.reload(&manifest)?;
    worker.act(&["unlink", &victim])?.refused()?;
    Worker::start(&Entry::Cgroup(by_hand))?.act(&["unlink", &victim])?.refused()?;
    there(&victim)
}

/// Who replaces a binary and sees to it that the daemon ends has not put it on the list.
fn no_reload(scene: &Scene) -> anyhow::Result<()> {
    let program = scene.make_file("program")?;
    fs::copy("/usr/bin/wc", &program)?;
    let mut play = Play::begin(scene, &[&program])?;
    play.agent.act(&["exec", &program, "--version"])?.done()?;
    play.daemon.kill()?;
    fs::remove_file(&program)?;
    fs::copy("/usr/bin/id", &program)?;
    play.agent.act(&["exec", &program, "--version"])?.refused()?;
    play.daemon.restart()?;
    ensure!(play.agent.act(&["exec", &program, "--version"])?.refused()?.out.is_empty(), "it ran");
    succeed(&[ENFORCER, "reload"])?;
    play.agent.act(&["exec", &program, "--version"])?.done()?;
    Ok(())
}

fn changed(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    let generation = play.daemon.generation()?;
    play.agent.act(&["exec", "/usr/bin/wc", "--version"])?.refused()?;
    play.daemon.kill()?;
    fs::write(play.daemon.policy(), manifest(scene, &[SELF, "/usr/bin/wc"])?)?;
    play.agent.act(&["exec", "/usr/bin/wc", "--version"])?.refused()?;
    play.daemon.restart()?;
    play.agent.act(&["exec", "/usr/bin/wc", "--version"])?.done()?;
    ensure!(play.daemon.generation()? == generation + 1, "the generation is {}", play.daemon.generation()?);
    // What the policy had and has no more goes, too.
    play.daemon.kill()?;
    fs::write(play.daemon.policy(), manifest(scene, &[SELF])?)?;
    play.daemon.restart()?;
    play.agent.act(&["exec", "/usr/bin/wc", "--version"])?.refused()?;
    play.in_force()
}

fn bad(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    let good = fs::read_to_string(play.daemon.policy())?;
    play.daemon.kill()?;
    fs::write(play.daemon.policy(), "skills:\n  s:\n    allow_deletes: []\n")?;
    let policy = play.daemon.policy().to_string_lossy().into_owned();
    let outcome = command(&[ENFORCER, "daemon", "--policy", &policy])?;
    ensure!(outcome.status == 1 && outcome.err.contains("allow_deletes"), "{outcome:?}");
    play.in_force()?;
    fs::write(play.daemon.policy(), good)?;
    play.daemon.restart()?;
    play.in_force()
}

/// More refusals than the ring holds, while nobody reads it.
fn flood(scene: &Scene) -> anyhow::Result<()> {
    const THREADS: u64 = 4;
    const EACH: u64 = 5_000;
    let mut play = Play::begin(scene, &[])?;
    let victim = play.victim()?;
    let mark = play.daemon.events.mark();
    play.daemon.kill()?;
    play.agent.act(&["unlink-many", &victim, &THREADS.to_string(), &EACH.to_string()])?.refused()?;
    there(&victim)?;
    play.daemon.restart()?;
    let counts = || {
        let events = play.daemon.events.since(mark);
        let shown = events.iter().filter(|e| e.is("delete", "deny", &victim)).count() as u64;
        let dropped: u64 = events.iter().filter(|e| e.text("kind") == "drop").map(|e| e.number("dropped")).sum();
        (shown, dropped)
    };
    let exact = eventually(Duration::from_mins(1), || {
        thread::sleep(Duration::from_millis(200));
        let (shown, dropped) = counts();
        shown + dropped == THREADS * EACH
    });
    let (shown, dropped) = counts();
    ensure!(exact, "{shown} shown and {dropped} lost are not {}; {}", THREADS * EACH, play.daemon.errors());
    ensure!(dropped > 0, "the ring was never full");
    // They are reported once: not again by the next one.
    let mark = play.daemon.events.mark();
    play.daemon.kill()?;
    play.daemon.restart()?;
    play.agent.act(&["unlink", &victim])?.refused()?;
    play.daemon.events.wait(mark, "the refusal", |e| e.is("delete", "deny", &victim))?;
    thread::sleep(Duration::from_millis(1500));
    let again = play.daemon.events.since(mark).into_iter().find(|e| e.text("kind") == "drop");
    ensure!(again.is_none(), "reported again: {}", again.map(|e| e.0.to_string()).unwrap_or_default());
    Ok(())
}

fn status(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    let generation = play.daemon.generation()?;
    play.daemon.kill()?;
    let text = succeed(&[ENFORCER, "status"])?;
    let policy = play.daemon.policy().to_string_lossy().into_owned();
    ensure!(text.contains("no daemon answers") && text.contains("stays in force"), "{text}");
    ensure!(text.contains(&policy) && text.contains("skills   s"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&succeed(&[ENFORCER, "status", "--json"])?)?;
    ensure!(json["pid"].is_null() && json["generation"] == generation && json["skills"][0] == "s", "{json}");
    play.daemon.stop()?;
    let outcome = command(&[ENFORCER, "status"])?;
    ensure!(outcome.status == 1 && outcome.out.is_empty(), "{outcome:?}");
    Ok(())
}
