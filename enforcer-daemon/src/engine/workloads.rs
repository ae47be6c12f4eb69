//! What the engine's thread does about containers and units: those that appear, begin, and go; and those attached by hand.

use std::{collections::BTreeSet, path::Path};

use enforcer_common::{
    ids::{ObjectId, SkillId},
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
        let before = self.members.governed();
        let (mut changed, mut lost) = (false, false);
        let mut met = BTreeSet::new();
        for news in news {
            changed |= match news {
                CgroupNews::Made { path } => {
                    let new = Workload::at(&path).filter(|workload| self.met(workload.clone()));
                    let is_new = new.is_some();
                    met.extend(new.map(|workload| workload.id));
                    is_new
                }
                CgroupNews::Lost => {
                    lost = true;
                    self.members.is_curious()
                }
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
        let mut outcome = self.again();
        if lost {
            // Those that were found now may have begun, and so may those of whose beginning nobody could tell.
            met.extend(self.members.governed().difference(&before));
            met.extend(self.members.waiting());
        }
        // Whatever became of the rules: who runs is governed.
        let mut begun = false;
        for id in met {
            begun |= self.catch_up(id);
        }
        if begun {
            outcome = self.again();
        }
        self.keep_members();
        outcome
    }

    /// Labels what runs its own program already: the daemon came to know of it too late. True when a container has begun by that.
    fn catch_up(&mut self, id: u64) -> bool {
        let Some((workload, skill)) = self.governed_member(id) else { return false };
        let mut late = false;
        self.each_process(&workload, |owner, pid| {
            if !owner.members.runs_its_own(id, pid) {
                // It may by the next pass.
                return false;
            }
            late = true;
            match owner.enroller.enrol(&owner.kernel, pid, skill) {
                Ok(0) | Err(EnrolError::NoProcess(_)) => {}
                Ok(_) => {
                    tracing::warn!("process {pid} of {} ran before it was governed", workload.path);
                    owner.look_at(pid, skill);
                }
                Err(e) => tracing::error!("{}: {e}", workload.path),
            }
            true
        });
        late && self.members.begins(id)
    }

    /// A member whose skill is in force, and that skill.
    fn governed_member(&self, id: u64) -> Option<(Workload, SkillId)> {
        let member = self.members.get(id)?;
        let skill = self.skill(member.skill.as_deref()?).ok()?;
        Some((member.workload.clone(), skill))
    }

    /// Does something for each process of a member until no pass finds one that it was not done for. `work` says whether it was.
    fn each_process(&mut self, workload: &Workload, mut work: impl FnMut(&mut Self, u32) -> bool) {
        let mut done = BTreeSet::new();
        for _ in 0..PASSES {
            let mut news = false;
            for pid in workload.processes() {
                if !done.contains(&pid) && work(self, pid) {
                    done.insert(pid);
                    news = true;
                }
            }
            if !news {
                return;
            }
        }
        tracing::error!(
            "{} makes processes faster than they can be governed: some may not be; stop it and start it again",
            workload.path
        );
    }

    /// Reports what a process has open that it may not have.
    fn look_at(&mut self, pid: u32, skill: SkillId) {
        if let Err(e) = self.inspect(pid, skill) {
            tracing::warn!("open files of process {pid}: {e}");
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
        self.arrange(cgroup, pid);
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
            let Some((workload, skill)) = self.governed_member(*id) else { continue };
            self.each_process(&workload, |owner, pid| {
                match owner.enroller.enrol(&owner.kernel, pid, skill) {
                    Ok(_) | Err(EnrolError::NoProcess(_)) => {}
                    Err(e) => tracing::error!("{}: {e}", workload.path),
                }
                owner.look_at(pid, skill);
                true
            });
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
