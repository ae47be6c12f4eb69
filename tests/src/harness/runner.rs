//! Runs the tests one after another and prints a line for each.
//!
//! A test that panics or takes too long fails alone: it runs in a thread of its own, and when its time is up the processes
//! that it talks to are ended and the next test gets new ones.

use std::{
    io::Write as _,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{
    breach::Failure,
    gale::TRIES,
    scene::{Scene, Stage},
};
use crate::attacks;

/// How long one test may take.
const TEST_LIMIT: Duration = Duration::from_mins(20);
/// How much longer, for each round of a storm that is asked for.
const ROUND_LIMIT: Duration = Duration::from_secs(20);
/// What the daemon says of a key that is not built yet: the only words on which tests are left out.
const NOT_BUILT: &str = "is not supported by this build";

/// How many of the slowest tests are named at the end.
const SHOWN_SLOWEST: usize = 24;

/// One test.
pub(crate) type Test = fn(&Scene) -> anyhow::Result<()>;

/// Tests that share a policy.
pub(crate) struct Suite {
    /// The first part of their names.
    pub(crate) name: &'static str,
    /// The policy that is put in force before the first of them; without one, no daemon runs.
    pub(crate) policy: Option<fn(&Scene) -> anyhow::Result<String>>,
    /// The tests.
    pub(crate) tests: &'static [(&'static str, Test)],
}

/// What kind of guest this is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// An initramfs with the build machine's own programs.
    #[default]
    Plain,
    /// The same, for what attaches and detaches programs again and again, under attack, too; it has the second build.
    Loads,
    /// The same as the first, with a policy of IMA's.
    Ima,
    /// The same as the first, with the daemon for elder kernels.
    Elder,
    /// Debian with agents' runtimes and servers.
    Agents,
    /// Debian with systemd as the first process, and a container engine.
    Systemd,
}

/// What to run.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The suites of this kind of guest.
    pub(crate) place: Place,
    filters: Vec<String>,
    attacks: bool,
    storm: bool,
    list: bool,
}

impl Options {
    /// Reads the command line.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--list" => options.list = true,
                "--attacks" => options.attacks = true,
                "--storm" => options.storm = true,
                "--place" => {
                    options.place = match words.next() {
                        Some(&"plain") => Place::Plain,
                        Some(&"loads") => Place::Loads,
                        Some(&"ima") => Place::Ima,
                        Some(&"elder") => Place::Elder,
                        Some(&"agents") => Place::Agents,
                        Some(&"systemd") => Place::Systemd,
                        _ => return Err("--place needs plain, loads, ima, elder, agents or systemd".to_owned()),
                    };
                }
                "--filter" => options.filters.push((*words.next().ok_or("--filter needs a text")?).to_owned()),
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }

    /// Whether this program is to be left unattached.
    pub(crate) fn wants_mutant(&self, program: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|f| f == program)
    }

    fn wants(&self, name: &str) -> bool {
        (self.filters.is_empty() || self.filters.iter().any(|f| name.contains(f)))
            && (!self.attacks || attacks::includes(name))
    }
}

/// Runs the suites; success when every test passed.
pub(crate) fn run(options: &Options, suites: &[Suite]) -> ExitCode {
    let (mut passed, mut failures, mut slowest) = (0, Vec::new(), Vec::new());
    let mut stage = Stage::default();
    for suite in suites {
        let name = |test: &str| format!("{}::{test}", suite.name);
        let wanted: Vec<_> = suite.tests.iter().filter(|(test, _)| options.wants(&name(test))).collect();
        if options.list {
            for (test, _) in wanted {
                println!("{}", name(test));
            }
            continue;
        }
        let (mut scene, mut ignored) = (None, None);
        for (test, body) in wanted {
            let name = name(test);
            print!("test {name} ... ");
            flush();
            let started = Instant::now();
            if let Some(missing) = &ignored {
                println!("ignored, {missing}");
                continue;
            }
            let outcome = if options.storm && suite.policy.is_some() {
                stormy(&mut stage, suite, &mut scene, *body)
            } else {
                once(&mut stage, suite, &mut scene, *body)
            };
            let outcome = outcome.map_err(|failure| failure.why);
            slowest.push((started.elapsed(), name.clone()));
            ignored = outcome.as_ref().err().and_then(|why| not_built(why));
            if let Some(missing) = &ignored {
                println!("ignored, {missing}");
                continue;
            }
            match outcome {
                Ok(()) => {
                    passed += 1;
                    println!("ok");
                }
                Err(why) => {
                    println!("FAILED\n    {}", why.trim().replace('\n', "\n    "));
                    failures.push(name);
                    // What the failure left behind is not the next test's business.
                    if let Some(scene) = scene.take() {
                        scene.abandon();
                    }
                }
            }
            flush();
        }
        if let Some(scene) = scene {
            scene.close();
        }
    }
    if options.list {
        return ExitCode::SUCCESS;
    }
    stage.clear();
    if !failures.is_empty() {
        println!("\nfailures:");
        for name in &failures {
            println!("    {name}");
        }
    }
    slowest.sort_unstable_by(|a, b| b.cmp(a));
    let total: Duration = slowest.iter().map(|(took, _)| *took).sum();
    println!("\n{:.0} s; the slowest:", total.as_secs_f32());
    for (took, name) in slowest.iter().take(SHOWN_SLOWEST) {
        println!("    {:>5.1} s {name}", took.as_secs_f32());
    }
    println!("{passed} passed, {} failed", failures.len());
    flush();
    if failures.is_empty() && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a test on its scene, which is set if it is not.
fn once(stage: &mut Stage, suite: &Suite, scene: &mut Option<Arc<Scene>>, body: Test) -> Result<(), Failure> {
    let set = match scene {
        Some(scene) => Arc::clone(scene),
        None => stage.set(suite).map_err(|e| format!("the scene could not be set: {e:#}"))?,
    };
    *scene = Some(Arc::clone(&set));
    bounded(&set, body, limit())
}

/// Runs a test while a storm goes on. What fails without showing that an attack got through is tried again: in the end each must
/// have been whole once, and none got through at any time.
fn stormy(stage: &mut Stage, suite: &Suite, scene: &mut Option<Arc<Scene>>, body: Test) -> Result<(), Failure> {
    let mut last = Failure::from(String::new());
    for _ in 0..TRIES {
        if scene.is_none() {
            *scene = Some(stage.set(suite).map_err(|e| format!("the scene could not be set: {e:#}"))?);
        }
        let mut gale = stage.storm();
        let outcome = once(stage, suite, scene, body);
        let ended = gale.end();
        let counts = gale.counts();
        eprintln!("({} kills, {} reloads) ", counts.kills, counts.reloads);
        match (outcome, ended) {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(failure), _) if failure.breach => return Err(failure),
            (Err(failure), Ok(())) => last = failure,
            (_, Err(e)) => last = format!("the storm: {e:#}").into(),
        }
        if let Some(scene) = scene.take() {
            scene.abandon();
        }
    }
    Err(last)
}

/// The line of an error that says that a build lacks what a whole suite is about.
fn not_built(why: &str) -> Option<String> {
    let scene = why.starts_with("the scene could not be set");
    let line = why.lines().find(|line| scene && line.contains(NOT_BUILT))?;
    line.rsplit(": ").next().map(str::to_owned)
}

/// How often the storms do what they do, when `ENFORCER_STORM_ROUNDS` says it.
pub(crate) fn rounds() -> Option<u32> {
    std::env::var("ENFORCER_STORM_ROUNDS").ok().and_then(|text| text.parse().ok())
}

/// How long a test may take.
pub(super) fn limit() -> Duration {
    TEST_LIMIT + ROUND_LIMIT * rounds().unwrap_or(0)
}

/// Runs one test in a thread of its own.
pub(super) fn bounded(scene: &Arc<Scene>, body: Test, limit: Duration) -> Result<(), Failure> {
    let (done, outcome) = mpsc::sync_channel(1);
    let of_test = Arc::clone(scene);
    let thread = thread::spawn(move || {
        let result = body(&of_test);
        drop(of_test);
        let _ = done.send(result);
    });
    match outcome.recv_timeout(limit) {
        Ok(result) => result.map_err(Failure::from),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            // Ending the workers gives the thread an error to end with, wherever it waits for one.
            scene.abandon();
            Err(format!("took longer than {} s", limit.as_secs()).into())
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(match thread.join() {
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                format!("panicked: {}", text.unwrap_or_default())
            }
            Ok(()) => "ended without a result".to_owned(),
        }
        .into()),
    }
}

pub(super) fn flush() {
    // Nobody reading is no reason to stop.
    let _ = std::io::stdout().flush();
}
