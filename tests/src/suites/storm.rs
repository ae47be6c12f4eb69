//! Attacks by exec, delete and connect, and by processes that are just being made, while the daemon is killed, reloaded or
//! replaced all the time. `ENFORCER_STORM_ROUNDS` says how often.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::pins::{Play, manifest, sets};
use crate::harness::{
    ENFORCER, SELF,
    daemon::Daemon,
    events::Mark,
    eventually,
    random::Random,
    runner::{Suite, rounds},
    scene::{Scene, there},
    worker::{Entry, Worker},
};

pub(super) const SUITE: Suite =
    Suite { name: "storm", policy: None, tests: &[("of_kills", kills), ("of_reloads", reloads)] };

/// The second build of the daemon, of another layout.
const NEXT: &str = "enforcer-next";
/// What a daemon takes from its start until it enforces the manifest, at most, in milliseconds.
const START_MS: u64 = 600;
/// Between two attempts of an attacker while the verifier needs the CPU.
const REST: Duration = Duration::from_millis(250);

/// Upgrades and downgrades need the second build.
pub(super) const UPGRADES: Suite = Suite {
    name: "upgrade",
    policy: None,
    tests: &[("to_another_layout_and_back", there_and_back), ("that_is_killed_halfway", halfway)],
};

/// What the attackers did.
struct Attempts {
    victim: String,
    made: AtomicU64,
}

/// Attacks while `storm` goes on: each attempt must be refused, and nothing may happen. What is allowed happens all the time. The storm
/// is handed what says whether the attackers make one attempt after the other, as they do at first, or only now and then.
fn attack(
    play: &mut Play<'_>,
    storm: impl FnOnce(&mut Daemon, &AtomicBool) -> anyhow::Result<()>,
) -> anyhow::Result<Attempts> {
    let attempts = Attempts { victim: play.victim()?, made: AtomicU64::new(0) };
    let (victim, server) = (attempts.victim.as_str(), play.server());
    let (away, second) = (play.allowed("away")?, play.allowed("second")?);
    fs::remove_file(&second)?;
    // A copy of what may run, a byte longer.
    let changed = play.changed_copy()?;
    let acts: [&[&str]; 9] = [
        &["unlink", victim],
        &["double-fork", "unlink", victim],
        &["exec", "/usr/bin/id", "--version"],
        &["thread", "tcp", &server],
        &["vfork", "unlink", victim],
        // Labels.
        &["unshare", "user,mount,cgroup", "unlink", victim],
        // Objects.
        &["rename", &away, victim],
        &["link", victim, &second],
        // Content.
        &["exec", &changed, "act", "nothing"],
    ];
    let workers = (0..acts.len()).map(|_| Worker::start(&Entry::Run("s"))).collect::<anyhow::Result<Vec<_>>>()?;
    for worker in workers.iter().chain([&play.early, &play.agent]) {
        // The verifier takes long enough under emulation as it is.
        worker.yield_to_others();
    }
    let (stop, allowed) = (AtomicBool::new(false), play.allowed("storm")?);
    let hurry = AtomicBool::new(true);
    let rest = || {
        if !hurry.load(Ordering::Relaxed) {
            thread::sleep(REST);
        }
    };
    let (early, agent) = (&play.early, &play.agent);
    let daemon = &mut play.daemon;
    thread::scope(|scope| {
        let twin = scope.spawn(|| -> anyhow::Result<()> {
            while !stop.load(Ordering::Relaxed) {
                for worker in [early, agent] {
                    fs::write(&allowed, "")?;
                    worker.act(&["unlink", &allowed])?.done().context("what is allowed")?;
                    worker.act(&["exec", SELF, "act", "nothing"])?.done().context("what is allowed")?;
                    rest();
                }
            }
            Ok(())
        });
        let attackers: Vec<_> = workers
            .iter()
            .zip(acts)
            .map(|(worker, act)| {
                let (stop, made) = (&stop, &attempts.made);
                scope.spawn(move || -> anyhow::Result<()> {
                    while !stop.load(Ordering::Relaxed) {
                        worker.act(act)?.refused()?;
                        made.fetch_add(1, Ordering::Relaxed);
                        rest();
                    }
                    Ok(())
                })
            })
            .collect();
        let outcome = storm(daemon, &hurry);
        stop.store(true, Ordering::Relaxed);
        twin.join().map_err(|_| anyhow::anyhow!("the twin panicked"))??;
        for attacker in attackers {
            attacker.join().map_err(|_| anyhow::anyhow!("an attacker panicked"))??;
        }
        outcome
    })?;
    there(&attempts.victim)?;
    play.nothing_arrived()?;
    Ok(attempts)
}

/// Every attempt is an event, or is among those that a `drop` event counts. A daemon that is killed between handing an event
/// on and counting it makes one too many of them, never one too few: nobody can say whether it has arrived.
fn accounted_for(play: &Play<'_>, mark: Mark, attempts: &Attempts, daemons: u64) -> anyhow::Result<()> {
    let made = attempts.made.load(Ordering::Relaxed);
    let counts = || {
        let events = play.daemon.events.since(mark);
        let refusals = events.iter().filter(|e| e.text("verdict") == "deny");
        let dropped: u64 = events.iter().filter(|e| e.text("kind") == "drop").map(|e| e.number("dropped")).sum();
        (refusals.count() as u64, dropped)
    };
    let whole = eventually(Duration::from_secs(30), || {
        thread::sleep(Duration::from_millis(200));
        let (shown, dropped) = counts();
        shown + dropped >= made
    });
    let (shown, dropped) = counts();
    eprintln!("({made} attempts: {shown} events, {dropped} counted as lost; {daemons} daemons) ");
    ensure!(whole, "{shown} shown and {dropped} lost are fewer than {made}; {}", play.daemon.errors());
    ensure!(shown <= made, "{shown} events of {made} attempts");
    ensure!(shown + dropped <= made + daemons, "{shown} shown and {dropped} lost are too many for {made}");
    Ok(())
}

fn kills(scene: &Scene) -> anyhow::Result<()> {
    let rounds = rounds().unwrap_or(40);
    let mut play = Play::begin(scene, &[])?;
    let mut random = Random::seeded();
    let mark = play.daemon.events.mark();
    let attempts = attack(&mut play, |daemon, _| {
        for _ in 0..rounds {
            daemon.kill()?;
            daemon.spawn_again(ENFORCER)?;
            thread::sleep(Duration::from_millis(random.below(START_MS)));
        }
        daemon.kill()?;
        daemon.restart()
    })?;
    accounted_for(&play, mark, &attempts, u64::from(rounds))?;
    play.in_force()
}

fn reloads(scene: &Scene) -> anyhow::Result<()> {
    let rounds = rounds().unwrap_or(30);
    let mut play = Play::begin(scene, &[])?;
    let texts = [manifest(scene, &[SELF, "/usr/bin/wc"])?, manifest(scene, &[SELF])?];
    let mark = play.daemon.events.mark();
    let attempts = attack(&mut play, |daemon, _| {
        for text in texts.iter().cycle().take(usize::try_from(rounds)?) {
            daemon.reload(text)?;
        }
        Ok(())
    })?;
    accounted_for(&play, mark, &attempts, 0)?;
    fs::write(play.daemon.policy(), &texts[1])?;
    play.daemon.reload(&texts[1])?;
    play.in_force()
}

/// What was replaced goes when its events have been read; a ring that nobody read for a minute holds ten thousand.
fn one_set() -> anyhow::Result<()> {
    let one = eventually(Duration::from_secs(90), || sets().len() == 1);
    ensure!(one, "the sets are {:?}", sets());
    Ok(())
}

/// Another build takes over, from programs that hold alone. The attackers hurry from the first of its pins on, before which
/// nothing changes but that the verifier works.
fn replace(daemon: &mut Daemon, program: &str, hurry: &AtomicBool) -> anyhow::Result<()> {
    hurry.store(false, Ordering::Relaxed);
    let before = sets();
    daemon.spawn_again(program)?;
    let begun = eventually(Duration::from_mins(2), || sets().iter().any(|set| !before.contains(set)));
    hurry.store(true, Ordering::Relaxed);
    ensure!(begun, "{program} made no set; {}", daemon.errors());
    daemon.wait_until_it_answers()
}

/// Labels that came by `enforcer run`, by a cgroup that the process has left, and from a parent go along.
fn there_and_back(scene: &Scene) -> anyhow::Result<()> {
    let rounds = rounds().unwrap_or(1);
    let mut play = Play::begin(scene, &[])?;
    let moved = Worker::start(&Entry::Cgroup("/sys/fs/cgroup/tests-pins"))?;
    let victim = play.victim()?;
    let before = play.daemon.events.mark();
    moved.act(&["unlink", &victim])?.refused()?;
    play.daemon.events.wait(before, "the first refusal", |e| e.is("delete", "deny", &victim))?;
    // A program that may run, mapped as code by its content: nobody may write it any more.
    let code = play.allowed("code")?;
    fs::copy(SELF, &code)?;
    moved.act(&["map-code", &code])?.done()?;
    fs::write("/sys/fs/cgroup/cgroup.procs", moved.pid().to_string()).context("the move")?;
    let mark = play.daemon.events.mark();
    let attempts = attack(&mut play, |daemon, hurry| {
        for round in 0..rounds {
            for program in [NEXT, ENFORCER] {
                // Sometimes the daemon before ended in good order.
                if round % 2 == 0 {
                    daemon.terminate()?;
                } else {
                    daemon.kill()?;
                }
                replace(daemon, program, hurry)?;
                moved.act(&["unlink", &victim])?.refused().context(program)?;
                moved.act(&["append", &code, "+"])?.refused().context(program)?;
            }
        }
        Ok(())
    })?;
    one_set()?;
    // The moved one's, two each time.
    attempts.made.fetch_add(4 * u64::from(rounds), Ordering::Relaxed);
    let replaced = play.daemon.events.since(mark);
    let replaced = replaced.iter().filter(|e| e.text("kind") == "start" && e.text("reason").contains("in place of"));
    ensure!(replaced.count() as u64 == 2 * u64::from(rounds), "not every start was one of another build");
    accounted_for(&play, mark, &attempts, 2 * u64::from(rounds))?;
    there(&victim)?;
    ensure!(fs::read(&code)? == fs::read(SELF)?, "the code was changed");
    play.in_force()
}

/// Wherever it ends, what was in force is, and the next one gets to the end.
fn halfway(scene: &Scene) -> anyhow::Result<()> {
    let rounds = rounds().unwrap_or(1);
    let mut play = Play::begin(scene, &[])?;
    let mut random = Random::seeded();
    attack(&mut play, |daemon, _| {
        for _ in 0..rounds {
            daemon.kill()?;
            daemon.spawn_again(NEXT)?;
            thread::sleep(Duration::from_millis(random.below(START_MS * 20)));
        }
        daemon.kill()?;
        daemon.restart_as(NEXT)?;
        daemon.kill()?;
        daemon.restart()
    })?;
    one_set()?;
    play.in_force()
}
