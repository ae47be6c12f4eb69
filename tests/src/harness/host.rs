//! The attacks on a host that is in use: `enforcer doctor --attack` calls this.
//!
//! They run below a directory of their own, in a network namespace and cgroups of their own, and never one that would do harm if
//! it succeeded. Where a policy is in force, it stays, and their skills come beside its own; where none is, this loads
//! the programs, and takes them out of force at the end. One line of JSON tells of each attack.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::{
    breach::Failure,
    daemon::unload,
    lent::Lent,
    mutation::INSTANCE,
    network,
    runner::{self, Suite, Test},
    scene::{Scene, Stage},
};
use crate::attacks::{self, Attack};

/// Where the cgroups of the suites are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What their names begin with.
const OWN_CGROUPS: &str = "tests-";
/// How long one attack may take, at least: one that has begun is let end, also where a machine is emulated and does other things beside.
const LEAST: Duration = Duration::from_mins(1);

/// A suite whose attacks are made here.
struct Part {
    suite: &'static str,
    /// Programs that its tests run, without which they show nothing.
    needs: &'static [&'static str],
    /// Tests that are left out, and why.
    without: &'static [(&'static str, &'static str)],
}

const HARM: &str = "it would do harm to this host if it succeeded";
const INTERRUPTED: &str = "it was interrupted";
const ELSEWHERE: &str = "it needs a host of its own: `cargo xtask test --only attacks` makes one";

const fn part(suite: &'static str, needs: &'static [&'static str]) -> Part {
    Part { suite, needs, without: &[] }
}

/// In the order in which they run.
const PARTS: &[Part] = &[
    part("delete", &["/usr/bin/rm"]),
    part("exec", &["/usr/bin/wc", "/usr/bin/bash", "/usr/bin/id", "/usr/bin/dash"]),
    part("connect", &["/usr/bin/ip"]),
    Part {
        suite: "files",
        needs: &["/usr/sbin/mkfs.ext4"],
        without: &[("files_that_the_kernel_writes_or_swaps_to", HARM)],
    },
    part("places", &["/usr/sbin/mkfs.ext4"]),
    part("writes", &["/usr/sbin/mkfs.ext4"]),
    part("walls", &["/usr/bin/mount", "/usr/bin/mkfifo"]),
    part("subjects", &["/usr/bin/bash"]),
    Part {
        suite: "tamper",
        needs: &["/usr/sbin/mkfs.ext4"],
        without: &[
            ("modules_and_kernels", HARM),
            ("sysctl_and_sysfs", HARM),
            ("mounts_that_the_host_sees", HARM),
            ("a_root_of_ones_own_as_containers_have_it", HARM),
            ("the_manifest", HARM),
            ("the_runtime_directory_and_the_binary", HARM),
            ("the_pins", HARM),
            ("the_daemons_process", HARM),
            ("the_clock", HARM),
        ],
    },
    Part {
        suite: "host",
        needs: &["/usr/bin/mount", "/usr/sbin/mkfs.ext4"],
        without: &[("acts_without_a_hook_of_their_own", HARM), ("programs_that_the_kernel_runs", HARM)],
    },
    part("queues", &["/usr/bin/mount"]),
    part("budget", &["/usr/bin/rm"]),
    Part { suite: "entry", needs: &["/usr/bin/bash", "/usr/bin/rm"], without: &[("what_no_rule_can_allow", HARM)] },
    part("unix", &["/usr/bin/mount"]),
    part("listen", &[]),
    part("sockets", &[]),
    part("withdraw", &[]),
    part("digest", &["/usr/sbin/mkfs.ext4"]),
    Part {
        suite: "mapping",
        needs: &["/usr/bin/python3", "/usr/bin/bash", "/usr/bin/wc", "/usr/bin/id"],
        without: &[("a_handler_of_binfmt_misc", HARM)],
    },
    part("jit", &["/usr/bin/python3"]),
    part("parents", &["/usr/bin/python3", "/usr/bin/bash"]),
    part("resolve", &[]),
    part("networks", &["/usr/bin/ip"]),
];

/// What to do.
#[derive(Debug)]
pub(crate) struct Options {
    scratch: PathBuf,
    limit: Duration,
    filters: Vec<String>,
}

impl Options {
    /// Reads the command line.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let (mut scratch, mut limit, mut filters) = (None, Duration::from_mins(1), vec![]);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or(format!("{word} needs a value"));
            match *word {
                "--scratch" => scratch = Some(PathBuf::from(value()?)),
                "--limit" => limit = Duration::from_secs(value()?.parse().map_err(|_| "--limit takes seconds")?),
                "--filter" => filters.push(value()?.to_owned()),
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(Self { scratch: scratch.ok_or("--scratch is missing")?, limit, filters })
    }

    fn wants(&self, attack: &Attack) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|f| attack.test.contains(f) || attack.number() == *f)
    }
}

/// Set by a signal: the attack that runs is the last.
static ENDED: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: libc::c_int) {
    ENDED.store(true, Ordering::Relaxed);
}

/// Makes the attacks; success when they could be made, whatever came of them.
pub(crate) fn run(options: &Options, suites: &[Suite]) -> ExitCode {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores into an atomic, which a handler may.
        unsafe { libc::signal(signal, end as *const () as libc::sighandler_t) };
    }
    match attack(options, suites) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn attack(options: &Options, suites: &[Suite]) -> anyhow::Result<()> {
    let before = own_cgroups();
    if let Some(cgroup) = before.iter().find(|cgroup| is_populated(cgroup)) {
        // A suite's policy would govern what runs there.
        bail!("processes run in {}, which the attacks would use: end or move them", cgroup.display());
    }
    let lent = Lent::find()?;
    if lent.is_none() && is_in_force() {
        bail!("a policy is in force, and no daemon answers: `systemctl start enforcer`, or `enforcer unload`");
    }
    let is_lent = lent.is_some();
    own_network().context("a network namespace")?;
    let mut stage = Stage::at(&options.scratch, lent)?;
    let outcome = all(options, suites, &mut stage);
    let given_back = stage.give_back();
    stage.clear();
    let unloaded = if is_lent || !is_in_force() { Ok(()) } else { unload() };
    for cgroup in own_cgroups().difference(&before) {
        remove_cgroup(cgroup);
    }
    outcome.and(given_back).and(unloaded)
}

fn all(options: &Options, suites: &[Suite], stage: &mut Stage) -> anyhow::Result<()> {
    let deadline = Instant::now() + options.limit;
    let wanted: Vec<&Attack> = attacks::all().filter(|attack| options.wants(attack)).collect();
    ensure!(!wanted.is_empty(), "no attack has such a name or number");
    let mut done = BTreeSet::new();
    for part in PARTS {
        let Some(suite) = suites.iter().find(|suite| suite.name == part.suite) else { continue };
        let mine: Vec<(&Attack, Test)> = suite
            .tests
            .iter()
            .filter_map(|(test, body)| {
                let name = format!("{}::{test}", suite.name);
                wanted.iter().find(|attack| attack.test == name).map(|attack| (*attack, *body))
            })
            .collect();
        let mut scene = None;
        for (attack, body) in mine {
            done.insert(attack.test);
            if let Some(why) = part.untried(attack) {
                tell(attack, "untried", &why, Duration::ZERO);
                continue;
            }
            if ENDED.load(Ordering::Relaxed) || Instant::now() >= deadline {
                let why = if Instant::now() >= deadline { "the time was up" } else { INTERRUPTED };
                tell(attack, "untried", why, Duration::ZERO);
                continue;
            }
            let started = Instant::now();
            let failure = one(stage, suite, &mut scene, body, deadline);
            match &failure {
                None => tell(attack, "held", "", started.elapsed()),
                Some(failure) if failure.breach => tell(attack, "through", &failure.why, started.elapsed()),
                // The signal reached the attackers, too.
                Some(_) if ENDED.load(Ordering::Relaxed) => tell(attack, "untried", INTERRUPTED, Duration::ZERO),
                Some(failure) => tell(attack, "unclear", &failure.why, started.elapsed()),
            }
            if failure.is_some()
                && let Some(scene) = scene.take()
            {
                scene.abandon();
            }
        }
        if let Some(scene) = scene {
            scene.close();
        }
    }
    for attack in wanted.into_iter().filter(|attack| !done.contains(attack.test)) {
        tell(attack, "untried", ELSEWHERE, Duration::ZERO);
    }
    Ok(())
}

/// Makes one attack; `None` when it held.
fn one(
    stage: &mut Stage,
    suite: &Suite,
    scene: &mut Option<std::sync::Arc<Scene>>,
    body: Test,
    deadline: Instant,
) -> Option<Failure> {
    let set = match scene {
        Some(scene) => std::sync::Arc::clone(scene),
        None => match stage.set(suite) {
            Ok(set) => std::sync::Arc::clone(scene.insert(set)),
            Err(e) => return Some(Failure::from(e.context("its policy could not be put in force"))),
        },
    };
    let limit = deadline.saturating_duration_since(Instant::now()).max(LEAST);
    runner::bounded(&set, body, limit).err()
}

impl Part {
    /// Why an attack of this part is not made here.
    fn untried(&self, attack: &Attack) -> Option<String> {
        let test = attack.test.rsplit("::").next().unwrap_or_default();
        if let Some((_, why)) = self.without.iter().find(|(name, _)| *name == test) {
            return Some((*why).to_owned());
        }
        let missing = self.needs.iter().find(|program| !Path::new(program).exists())?;
        Some(format!("{missing} is not there"))
    }
}

/// Writes a line of JSON.
fn tell(attack: &Attack, outcome: &str, why: &str, took: Duration) {
    let Value::Object(mut line) = attack.describe() else { return };
    line.insert("outcome".to_owned(), outcome.into());
    if !why.is_empty() {
        line.insert("why".to_owned(), why.into());
    }
    line.insert("ms".to_owned(), json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
    let mut out = io::stdout().lock();
    if writeln!(out, "{}", Value::Object(line)).and_then(|()| out.flush()).is_err() {
        // Nobody listens any more: what was in force is put back all the same.
        ENDED.store(true, Ordering::Relaxed);
    }
}

/// Whether programs are pinned.
fn is_in_force() -> bool {
    fs::read_dir(INSTANCE).is_ok_and(|mut sets| sets.next().is_some())
}

fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

fn own_cgroups() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(OWN_CGROUPS)).map(|e| e.path()).collect()
}

/// Removes a cgroup with those below it; what still runs in it, an attacker's child, is ended.
fn remove_cgroup(cgroup: &Path) {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&below.path());
        }
    }
    let gone = super::eventually(Duration::from_secs(5), || fs::remove_dir(cgroup).is_ok() || !cgroup.exists());
    if !gone {
        eprintln!("{} could not be removed", cgroup.display());
    }
}

/// Moves this process into a new network namespace whose loopback device is up.
fn own_network() -> anyhow::Result<()> {
    // SAFETY: no pointers; this process has one thread yet, and its children are to follow.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        bail!(io::Error::last_os_error());
    }
    network::bring_up("lo")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{harness::runner::Place, suites};

    #[test]
    fn what_is_left_out_is_there() {
        for part in PARTS {
            let suite = suites::of(Place::Plain).iter().find(|suite| suite.name == part.suite);
            let suite = suite.unwrap_or_else(|| panic!("no suite {}", part.suite));
            assert!(suite.policy.is_some(), "{}", part.suite);
            for (test, _) in part.without {
                assert!(suite.tests.iter().any(|(name, _)| name == test), "{}::{test}", part.suite);
                assert!(attacks::includes(&format!("{}::{test}", part.suite)), "{}::{test}", part.suite);
            }
        }
    }

    #[test]
    fn most_attacks_are_made() {
        let made = attacks::all().filter(|attack| {
            let (suite, test) = attack.test.split_once("::").expect("a suite");
            let part = PARTS.iter().find(|part| part.suite == suite);
            part.is_some_and(|part| part.without.iter().all(|(name, _)| *name != test))
        });
        assert!(made.count() >= 180);
    }
}
