//! Puts a process into a skill, from outside.

use aya::maps::{Array, MapData};
use enforcer_common::{ids::SkillId, names, net::FoundSocket, task::Enrolment};

use super::{Kernel, LoadError, sockets};

/// How many passes over the tasks are made before giving up on a process that makes threads faster.
const MAX_PASSES: u32 = 64;

/// Why a process did not enter a skill.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// There is no such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// It is in another skill, which it cannot leave.
    #[error("process {0} is already governed by another skill")]
    AlreadyGoverned(u32),
    /// It is the daemon, whose label is its own.
    #[error("process {0} is Enforcer's own")]
    Own(u32),
    /// No room for its label.
    #[error("the label map is full: process {0} could not be governed")]
    NoRoom(u32),
    /// It made new threads through every pass.
    #[error("process {0} keeps making threads; stop it and try again")]
    Restless(u32),
    /// No room for the labels of so many threads in governed cgroups.
    #[error("the label map is full: {0} threads in governed cgroups have no label before their first act")]
    NoRoomFor(u32),
    /// Governed cgroups got new threads through every pass.
    #[error("governed cgroups make processes faster than they can be labelled")]
    RestlessCgroups,
    /// It brings open files along that the skill may not have.
    #[error(
        "process {pid} has {count} files open as the skill may not have them; `enforcer events` names them. Close them, or allow them"
    )]
    OpenFiles {
        /// The process.
        pid: u32,
        /// How many.
        count: u32,
    },
    /// The iterator could not be run.
    #[error("cannot run the task iterator: {0}")]
    Iterator(String),
}

/// Runs the iterators over tasks and open files.
pub struct Enroller {
    request: Array<MapData, Enrolment>,
}

impl Enroller {
    /// Takes the map of requests.
    ///
    /// # Errors
    /// When the object has no such map.
    pub fn new(kernel: &Kernel) -> Result<Self, LoadError> {
        let request = kernel.map(names::map::ENROL)?;
        Ok(Self { request })
    }

    /// Labels every thread of process `pid` with `skill`; what they start from then on inherits it. Returns how many threads
    /// got the label.
    ///
    /// # Errors
    /// When the process is not there, is governed by another skill, or cannot be labelled. It is never moved from one
    /// skill to another.
    pub fn enrol(&mut self, kernel: &Kernel, pid: u32, skill: SkillId) -> Result<u32, EnrolError> {
        if pid == std::process::id() && skill != SkillId::RESOLVER {
            return Err(EnrolError::Own(pid));
        }
        let mut labelled = 0;
        for _ in 0..MAX_PASSES {
            let outcome = self.ask(kernel, "enrol", Enrolment { tgid: pid, skill, ..Enrolment::default() })?;
            if outcome.refused > 0 {
                return Err(EnrolError::AlreadyGoverned(pid));
            }
            if outcome.failed > 0 {
                return Err(EnrolError::NoRoom(pid));
            }
            if outcome.seen == 0 {
                return Err(EnrolError::NoProcess(pid));
            }
            labelled += outcome.labelled;
            // A pass that found every thread labelled proves it: a thread made meanwhile had a labelled parent.
            if outcome.labelled == 0 {
                return Ok(labelled);
            }
        }
        Err(EnrolError::Restless(pid))
    }

    /// Labels every task that is in a governed cgroup and has no label, which it would have got by its first act only: whoever is
    /// moved before that would have none. Returns how many got one.
    ///
    /// # Errors
    /// When some could not be labelled; they are by what they do first, as long as they are there.
    pub fn enrol_cgroups(&mut self, kernel: &Kernel) -> Result<u32, EnrolError> {
        let mut labelled = 0;
        for _ in 0..MAX_PASSES {
            let outcome =
                self.ask(kernel, "enrol", Enrolment { query: Enrolment::BY_CGROUP, ..Enrolment::default() })?;
            labelled += outcome.labelled;
            // As above. What comes into such a cgroup meanwhile is labelled on its way.
            match outcome {
                Enrolment { labelled: 0, failed: 0, .. } => return Ok(labelled),
                Enrolment { labelled: 0, failed, .. } => return Err(EnrolError::NoRoomFor(failed)),
                _ => {}
            }
        }
        Err(EnrolError::RestlessCgroups)
    }

    /// How many open files process `pid` has that `skill` may not have as they are open. Each makes an event. Standard input,
    /// output and error are left out.
    ///
    /// # Errors
    /// When the open files cannot be walked.
    pub fn inspect_files(&mut self, kernel: &Kernel, pid: u32, skill: SkillId) -> Result<u32, EnrolError> {
        let request = Enrolment { tgid: pid, skill, ..Enrolment::default() };
        Ok(self.ask(kernel, "inspect_files", request)?.violations)
    }

    /// The sockets of process `pid` that `skill` may not have. Each makes an event.
    ///
    /// # Errors
    /// When the open files cannot be walked.
    pub fn inspect_sockets(
        &mut self,
        kernel: &Kernel,
        pid: u32,
        skill: SkillId,
    ) -> Result<Vec<FoundSocket>, EnrolError> {
        self.sockets(kernel, Enrolment { tgid: pid, skill, ..Enrolment::default() })
    }

    /// The sockets of all governed processes that the rules do not allow. None makes an event.
    ///
    /// # Errors
    /// When the open files cannot be walked.
    pub fn withdrawn_sockets(&mut self, kernel: &Kernel) -> Result<Vec<FoundSocket>, EnrolError> {
        self.sockets(kernel, Enrolment::default())
    }

    fn sockets(&mut self, kernel: &Kernel, request: Enrolment) -> Result<Vec<FoundSocket>, EnrolError> {
        self.run(kernel, "inspect_sockets", request).map(|(_, written)| sockets::records(&written))
    }

    /// Whether process `pid` is in any skill.
    ///
    /// # Errors
    /// When there is no such process, or the tasks cannot be walked.
    pub fn is_governed(&mut self, kernel: &Kernel, pid: u32) -> Result<bool, EnrolError> {
        let outcome =
            self.ask(kernel, "enrol", Enrolment { tgid: pid, query: Enrolment::LOOK, ..Enrolment::default() })?;
        if outcome.seen == 0 { Err(EnrolError::NoProcess(pid)) } else { Ok(outcome.refused > 0) }
    }

    /// Lets an iterator carry out a request, and returns what came of it.
    fn ask(&mut self, kernel: &Kernel, program: &str, request: Enrolment) -> Result<Enrolment, EnrolError> {
        self.run(kernel, program, request).map(|(outcome, _)| outcome)
    }

    /// The same, with what the iterator wrote. No request is left for whoever reads the pin.
    fn run(&mut self, kernel: &Kernel, program: &str, request: Enrolment) -> Result<(Enrolment, Vec<u8>), EnrolError> {
        let failed = |e: &dyn std::fmt::Display| EnrolError::Iterator(e.to_string());
        self.request.set(0, request, 0).map_err(|e| failed(&e))?;
        let written = kernel.iterate(program).map_err(|e| failed(&e))?;
        let outcome = self.request.get(&0, 0).map_err(|e| failed(&e))?;
        self.request.set(0, Enrolment::default(), 0).map_err(|e| failed(&e))?;
        Ok((outcome, written))
    }
}
