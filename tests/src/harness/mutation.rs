//! Whether the attacks notice a missing program: each is left unattached in turn, and at least one attack must then succeed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSockAddr, CgroupSockAddrAttachType, Iter, Lsm,
    links::{FdLink, PinnedLink},
};

use super::{
    runner::{self, Options, Suite},
    scene::Stage,
};
use crate::attacks;

/// Where the daemon pins what is in force.
pub(super) const INSTANCE: &str = "/sys/fs/bpf/enforcer";
/// The root of the cgroup hierarchy, where the cgroup programs are attached.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// How long a program may go on after its link has gone.
const GRACE: Duration = Duration::from_secs(1);
/// Programs that refuse the same at another place: what the first lets through is stopped by those behind it, which are left out with it.
const BEHIND: &[(&str, &[&str])] = &[
    ("task_alloc", &["sched_process_fork"]),
    ("socket_connect", &["connect4", "connect6"]),
    ("task_movememory", &["ptrace_access_check"]),
];
/// Programs that the daemon runs over tasks or files.
const ITERATORS: &[&str] = &["enrol", "inspect_files", "inspect_sockets"];

/// Runs the mutants whose names the options want; success when no mutant survived.
pub(crate) fn run(options: &Options, suites: &[Suite]) -> ExitCode {
    let mut stage = Stage::default();
    let (mut killed, mut survivors) = (0, 0);
    for program in attacks::programs().into_iter().filter(|program| options.wants_mutant(program)) {
        print!("test mutant::{program} ... ");
        runner::flush();
        match mutant(&mut stage, program, suites) {
            Ok(Outcome::Killed(test)) => {
                killed += 1;
                println!("ok\n    noticed by {test}");
            }
            Ok(Outcome::Absent) => println!("ignored, it is not used on this kernel"),
            Ok(Outcome::Survived) => {
                println!("FAILED\n    no attack got through");
                survivors += 1;
            }
            Err(e) => {
                println!("FAILED\n    {e:#}");
                survivors += 1;
            }
        }
        runner::flush();
    }
    stage.clear();
    println!("{killed} passed, {survivors} failed");
    if survivors == 0 && killed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

enum Outcome {
    /// By this test.
    Killed(String),
    Survived,
    /// The program is not used on this kernel.
    Absent,
}

/// Runs the attacks on one program without it, until one gets through.
fn mutant(stage: &mut Stage, program: &str, suites: &[Suite]) -> anyhow::Result<Outcome> {
    let mut detached: Vec<Detached> = Vec::new();
    let behind = BEHIND.iter().find(|(first, _)| *first == program).map_or(&[][..], |(_, behind)| *behind);
    // Suites without a policy load programs of their own.
    for suite in suites.iter().filter(|suite| suite.policy.is_some()) {
        let name = |test: &str| format!("{}::{test}", suite.name);
        let mut tests = suite.tests.iter().filter(|(test, _)| attacks::is_on(program, &name(test))).peekable();
        if tests.peek().is_none() {
            continue;
        }
        let scene = stage.set(suite)?;
        if detached.is_empty() {
            let Some(gap) = Detached::new(program)? else { return Ok(Outcome::Absent) };
            detached.push(gap);
            for program in behind {
                detached.extend(Detached::new(program)?);
            }
        }
        for (test, body) in tests {
            if runner::bounded(&scene, *body, runner::limit()).is_err() {
                scene.abandon();
                return Ok(Outcome::Killed(name(test)));
            }
        }
        scene.close();
    }
    Ok(Outcome::Survived)
}

/// A program that is not attached until this is dropped.
pub(crate) struct Detached {
    program: PathBuf,
    link: PathBuf,
    name: String,
}

impl Detached {
    /// `None` when no such program is attached.
    pub(crate) fn new(program: &str) -> anyhow::Result<Option<Self>> {
        let set = set_in_force()?;
        // Where a hook's arguments changed, there are two programs for it, of which a kernel takes one.
        for name in [program.to_owned(), format!("{program}_idmap")] {
            let link = set.join("links").join(&name);
            if !link.exists() {
                continue;
            }
            // A link that goes with its last descriptor is detached then and there.
            let pinned = PinnedLink::from_pin(&link)?;
            fs::remove_file(&link)?;
            drop(pinned);
            // Its inode holds it until a grace period of RCU has passed (`kernel/bpf/inode.c: bpf_free_inode`).
            thread::sleep(GRACE);
            // From here on it is attached again when this is dropped.
            return Ok(Some(Self { program: set.join("progs").join(&name), link, name }));
        }
        Ok(None)
    }

    fn attach(&self) -> anyhow::Result<()> {
        let link: FdLink = match self.name.as_str() {
            "connect4" => self.attach_to_cgroup(CgroupSockAddrAttachType::Connect4)?,
            "connect6" => self.attach_to_cgroup(CgroupSockAddrAttachType::Connect6)?,
            "sendmsg4" => self.attach_to_cgroup(CgroupSockAddrAttachType::UDPSendMsg4)?,
            "sendmsg6" => self.attach_to_cgroup(CgroupSockAddrAttachType::UDPSendMsg6)?,
            name if ITERATORS.contains(&name) => {
                let mut iterator = Iter::from_pin(&self.program)?;
                let id = iterator.attach()?;
                iterator.take_link(id)?.try_into()?
            }
            name if name.starts_with("cgroup_") || name.starts_with("sched_") => {
                let mut tracepoint = BtfTracePoint::from_pin(&self.program)?;
                let id = tracepoint.attach()?;
                tracepoint.take_link(id)?.into()
            }
            _ => {
                let mut lsm = Lsm::from_pin(&self.program)?;
                let id = lsm.attach()?;
                lsm.take_link(id)?.into()
            }
        };
        link.pin(&self.link)?;
        Ok(())
    }

    fn attach_to_cgroup(&self, hook: CgroupSockAddrAttachType) -> anyhow::Result<FdLink> {
        let mut program = CgroupSockAddr::from_pin(&self.program, hook)?;
        let id = program.attach(File::open(CGROUP_ROOT)?, CgroupAttachMode::Single)?;
        Ok(program.take_link(id)?.try_into()?)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if let Err(e) = self.attach() {
            // What follows would be blamed on the wrong program.
            eprintln!("{} could not be attached again: {e:#}", self.name);
            std::process::exit(1);
        }
    }
}

/// The directory of the only set of pins.
fn set_in_force() -> anyhow::Result<PathBuf> {
    let mut sets = Vec::new();
    for entry in fs::read_dir(Path::new(INSTANCE)).context(INSTANCE)? {
        let path = entry?.path();
        if path.join("links").is_dir() {
            sets.push(path);
        }
    }
    match sets.pop() {
        Some(set) if sets.is_empty() => Ok(set),
        _ => bail!("not one set of pins in {INSTANCE}"),
    }
}
