//! What the engine's thread does about containers and units: those that appear, begin, and go; and those attached by hand.

use std::{collections::BTreeSet, path::Path};

use enforcer_common::{
    ids::ObjectId,
    task::{CgroupLabel, cgroup_flag},
};

use super::{CgroupNews, EnterError, PolicyError, owner::Owner};
use crate::{
    compile::world::{self, World},
    kernel::enrol::EnrolError,
    workload::{self, Kind, Selector, Workload},
};

/// What systemd executes in a unit's cgroup before the unit's own program, since version 255.
pub(super) const LAUNCHERS: [&str; 2] = ["/usr/lib/systemd/systemd-executor", "/lib/systemd/systemd-executor"];
/// How often the processes of a cgroup are looked at until none is new.
const PASSES: u32 = 8;

impl Owner {
    /// Takes the news of cgroups that were made and removed, and puts what is meant into its skill.
    pub(super) fn cgroups_changed(&mut self, news: Vec<CgroupNews>) -> Result<(), PolicyError> {
        let mut changed = false;
        let mut met = vec![];
        for news in news {
            changed |= match news {
                CgroupNews::Made { path } => {
                    let new = Workload::at(&path).filter(|workload| self.met(workload.clone()));
                    let is_new = new.is_some();
                    met.extend(new);
                    is_new
                }
                CgroupNews::Lost => self.members.is_curious(),
                CgroupNews::Gone { id } => {
                    // The kernel forgot its label when it went, but `govern` may have written it once more just after.
                    self.maps.cgroups().leave(id);
                    self.members.forget(id)
                }
                CgroupNews::Begun { cgroup } => {
                    self.maps.cgroups().named(cgroup).is_some_and(|named| self.members.begins(named))
                }
            };
        }
        if !changed {
            return Ok(());
        }
        self.again()?;
        for workload in met {
            self.catch_up(&workload);
        }
        Ok(())
    }

    /// Labels what runs its own program already: the daemon came to know of it too late.
    fn catch_up(&mut self, workload: &Workload) {
        let Some(member) = self.members.get(workload.id) else { return };
        let Some(skill) = member.skill.as_deref().and_then(|name| self.skill(name).ok()) else { return };
        for pid in workload.processes() {
            if !self.members.runs_its_own(workload.id, pid) {
                continue;
            }
            match self.enroller.enrol(&self.kernel, pid, skill) {
                Ok(0) | Err(EnrolError::NoProcess(_)) => {}
                Ok(_) => tracing::warn!("process {pid} of {} ran before it was governed", workload.path),
                Err(e) => tracing::error!("{}: {e}", workload.path),
            }
        }
    }

    /// Governs one that is meant, at once and without its paths; true when it is.
    fn met(&mut self, workload: Workload) -> bool {
        let id = workload.id;
        if let Some(skill) = self.members.meet(workload) {
            return self.govern(id, &skill);
        }
        self.members.forget(id);
        false
    }

    /// Puts the cgroup of a member into its skill, if the policy in force has it.
    fn govern(&mut self, id: u64, skill: &str) -> bool {
        let Ok(skill) = self.skill(skill) else { return false };
        let Some(member) = self.members.get(id) else { return false };
        let label = CgroupLabel { flags: cgroup_flag::ON_EXEC, ..CgroupLabel::new(skill, id) };
        let path = member.workload.path.clone();
        // Its own first: what is made below it from then on has its label.
        let entered = self.maps.cgroups().enter(&[(id, 0)], label).and_then(|()| {
            let below = world::cgroups(&path).unwrap_or_default();
            self.maps.cgroups().enter(&below, label)
        });
        if let Err(e) = &entered {
            tracing::error!("{path} could not be governed: {e}");
        }
        // What was removed meanwhile nobody would take out again.
        if Workload::at_id(&path) != Some(id) {
            self.maps.cgroups().leave(id);
            self.members.forget(id);
            return false;
        }
        entered.is_ok()
    }

    /// A runtime's hook tells of a container whose processes do not run yet. Returns the skill that it is in.
    ///
    /// # Errors
    /// When it belongs to a skill and cannot be governed: then it must not start.
    pub(super) fn introduced(
        &mut self,
        id: &str,
        pid: u32,
        bundle: &Path,
        skill: Option<String>,
    ) -> Result<Option<String>, EnterError> {
        if let Some(skill) = &skill {
            self.skill(skill)?;
        }
        let workload = workload::of_container(id, pid).map_err(EnterError::Cgroup)?;
        let cgroup = workload.id;
        let Some(skill) = self.members.introduce(workload, bundle, skill) else { return Ok(None) };
        if !self.govern(cgroup, &skill) {
            return Err(EnterError::Cgroup(format!("container {id} could not be governed by skill {skill}")));
        }
        self.again().map_err(|e| EnterError::Cgroup(e.to_string()))?;
        self.keep_members();
        Ok(Some(skill))
    }

    /// Puts running containers or units into a skill, with all that runs in them; returns how many.
    ///
    /// # Errors
    /// When there is none, or the policy has no such skill.
    pub(super) fn attach_workloads(&mut self, selector: &Selector, skill: &str) -> Result<usize, EnterError> {
        self.skill(skill)?;
        let found = self.members.attach(selector, skill).map_err(|e| EnterError::Cgroup(e.to_string()))?;
        if found.is_empty() {
            return Err(EnterError::Cgroup("there is no such container or unit; it must be running".into()));
        }
        let before = self.members.governed();
        if let Err(e) = self.again() {
            self.members.detach(&found);
            return Err(EnterError::Cgroup(e.to_string()));
        }
        self.enrol_members(&before, &found);
        self.keep_members();
        Ok(found.len())
    }

    /// The next daemon knows of those that were put into a skill by hand.
    fn keep_members(&mut self) {
        if let Err(e) = self.keep() {
            tracing::error!("what was attached by hand is not kept for the next daemon: {e}");
        }
    }

    /// Labels the processes of members that came into a skill while they were running; `before` are those that were in one.
    pub(super) fn enrol_members(&mut self, before: &BTreeSet<u64>, found: &[u64]) {
        for id in found.iter().filter(|id| !before.contains(id)) {
            let Some(member) = self.members.get(*id) else { continue };
            let Some(skill) = member.skill.as_deref().and_then(|name| self.skill(name).ok()) else { continue };
            let workload = member.workload.clone();
            let mut done = BTreeSet::new();
            for _ in 0..PASSES {
                let new: Vec<u32> = workload.processes().into_iter().filter(|pid| !done.contains(pid)).collect();
                if new.is_empty() {
                    break;
                }
                for pid in new {
                    done.insert(pid);
                    match self.enroller.enrol(&self.kernel, pid, skill) {
                        Ok(_) | Err(EnrolError::NoProcess(_)) => {}
                        Err(e) => tracing::error!("{}: {e}", workload.path),
                    }
                    if let Err(e) = self.inspect(pid, skill) {
                        tracing::warn!("open files of process {pid}: {e}");
                    }
                }
            }
            if let Kind::Container(_) = workload.kind {
                self.members.begins(*id);
            }
        }
    }
}

/// The identities of the service managers' own programs.
pub(super) fn launchers(world: &mut dyn World) -> Vec<ObjectId> {
    let found = LAUNCHERS.iter().filter_map(|path| world.object(Path::new(path)).ok().flatten());
    found.collect::<BTreeSet<_>>().into_iter().collect()
}
