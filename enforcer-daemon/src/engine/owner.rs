//! The engine's thread: it owns the kernel side, the policy in force, and what was attached by hand.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, RwLock, mpsc},
};

use aya::maps::{MapData, PerCpuArray};
use enforcer_common::{
    ids::{Generation, ObjectId, RuleId, SkillId},
    names::map,
    net::FoundSocket,
};
use tokio::sync::watch;

use super::{
    Closed, DigestCounts, Directory, EnterError, Origin, PolicyError, Request, Site, SkillStatus, StartError, Status,
    Unmeasured,
    measured::{self, Measuring},
    members::Members,
    resolving,
    ring::Ring,
    state::{Keeper, State},
    workloads::launchers,
};
use crate::{
    compile::{
        self, Ids, Remark,
        world::{self, Host, Loaded, World as _},
    },
    events::ledger::Ledger,
    kernel::{
        Kernel,
        contents::{self, Contents, Kept},
        elder,
        enrol::{EnrolError, Enroller},
        host::HostMap,
        load::{self, CGROUP_ROOT, Debug},
        maps::PolicyMaps,
        migrate,
        pins::{self, PinError, Sets},
        resolve::Resolver,
        sockets::{self, Outcome},
    },
    manifest::{AuditLevel, ValidManifest},
    memory,
    names::{Addresses, Wanted},
};

/// The engine's thread.
pub(super) struct Owner {
    pub(super) kernel: Kernel,
    pub(super) maps: PolicyMaps,
    pub(super) resolver: Resolver,
    pub(super) enroller: Enroller,
    /// Containers and units.
    pub(super) members: Members,
    drops: PerCpuArray<MapData, u64>,
    measurements: PerCpuArray<MapData, u64>,
    pub(super) ids: Ids,
    loaded: Loaded,
    site: Site,
    pub(super) host: HostMap,
    pub(super) measuring: Measuring,
    file: PathBuf,
    manifest: Arc<ValidManifest>,
    /// Cgroups that were attached by hand, with their skills; they stay over reloads.
    attached: BTreeMap<String, String>,
    pub(super) keeper: Keeper,
    /// The files of sinks, by the sink's path, with the names they had.
    pub(super) held: BTreeMap<PathBuf, Vec<(PathBuf, ObjectId)>>,
    warnings: Vec<Remark>,
    pub(super) directory: Arc<RwLock<Directory>>,
    told: Told,
    /// What is known of the policy's names, and what its author should know of that.
    names: Addresses,
    name_warnings: Vec<Remark>,
}

/// Who is told of a policy that was put in force.
pub(super) struct Told {
    /// The paths that it names.
    pub(super) watched: watch::Sender<BTreeSet<PathBuf>>,
    /// The host names that it names.
    pub(super) wanted: watch::Sender<Wanted>,
    /// The sockets that were closed.
    pub(super) closed: tokio::sync::mpsc::Sender<Closed>,
}

/// What a started engine hands out once.
pub(super) struct Handover {
    pub(super) owner: Owner,
    pub(super) rings: Vec<Ring>,
    pub(super) debug: Option<Debug>,
    pub(super) origin: Origin,
    pub(super) ledger: Ledger,
    /// The addresses of names that the daemon before knew.
    pub(super) known: Addresses,
    /// Takes the files that are to be measured.
    pub(super) unmeasured: mpsc::SyncSender<Unmeasured>,
}

impl Owner {
    /// Takes over the programs that are in force, if they are of this build; else loads and attaches them, beside those in
    /// force, which then go. Puts the policy in force.
    pub(super) fn start(
        manifest: ValidManifest,
        file: PathBuf,
        site: Site,
        directory: Arc<RwLock<Directory>>,
        told: Told,
    ) -> Result<Handover, StartError> {
        load::check_cgroup_root()?;
        pins::prepare()?;
        let mut sets = Sets::find()?;
        let kept: Option<State> = sets.in_force.as_ref().map(|set| contents::kept(Kept::State, set)).transpose()?;
        let with_names = sets.in_force.as_ref().filter(|set| contents::has(Kept::Names, set));
        let names: Option<Addresses> = with_names.map(|set| contents::kept(Kept::Names, set)).transpose()?;
        let adopted = sets.in_force.as_ref().map(Kernel::adopt).transpose()?.flatten();
        let is_adopted = adopted.is_some();
        let before = if is_adopted { None } else { sets.in_force.clone() };
        let (kernel, debug) = match adopted {
            Some(kernel) => (kernel, None),
            None => Kernel::attach(&sets)?,
        };
        let generation = before.as_ref().map_or(Ok(Generation(0)), migrate::generation)?;
        let mut enroller = Enroller::new(&kernel)?;
        // Before there is a thread that asks the programs.
        enroller.enrol(&kernel, std::process::id(), SkillId::RESOLVER)?;
        let (measuring, unmeasured) = Measuring::begin(&kernel)?;
        let mut owner = Self {
            maps: PolicyMaps::open(&kernel, generation)?,
            resolver: Resolver::new(&kernel)?,
            enroller,
            measuring,
            members: Members::default(),
            drops: kernel.map(map::DROPS)?,
            measurements: kernel.map(map::MEASUREMENTS)?,
            ids: Ids::default(),
            loaded: Loaded::default(),
            site,
            host: HostMap::new(&kernel)?,
            kernel,
            file,
            manifest: Arc::new(manifest),
            attached: BTreeMap::new(),
            keeper: if is_adopted { Keeper::new(kept.clone(), names.clone()) } else { Keeper::new(None, None) },
            held: BTreeMap::new(),
            warnings: vec![],
            directory,
            told,
            names: names.unwrap_or_default(),
            name_warnings: vec![],
        };
        owner.begin(kept)?;
        // Also what the daemon before may not have come to.
        owner.enrol_cgroups();
        let origin = match &before {
            Some(before) => Origin::Replaced(Contents::read(before)?.version),
            None if is_adopted => Origin::Adopted,
            None => Origin::New,
        };
        if let Some(before) = &before {
            migrate::tasks(&owner.kernel)?;
            migrate::budgets(before, &owner.kernel)?;
        }
        if before.is_some() || is_adopted {
            // The daemon before may have ended between a change of the policy and this.
            owner.close_withdrawn();
        }
        owner.kernel.commit(before.as_ref())?;
        sets.leftovers.extend(before);
        let mut rings = sets.clean()?.into_iter().map(Ring::replaced).collect::<Result<Vec<_>, _>>()?;
        rings.push(Ring::in_force(&owner.kernel)?);
        let ledger = Ledger::open(owner.kernel.set())?;
        let known = owner.names.clone();
        Ok(Handover { owner, rings, debug, origin, ledger, known, unmeasured })
    }

    /// Goes on where the daemon before this one was, or begins with a policy that was never in force.
    fn begin(&mut self, kept: Option<State>) -> Result<(), PolicyError> {
        let manifest = Arc::clone(&self.manifest);
        let Some(kept) = kept else { return self.apply(manifest).map(drop) };
        self.ids.clone_from(&kept.ids);
        self.ids.remember_parents(&self.maps.in_force().parents);
        self.attached.clone_from(&kept.attached);
        self.members.expect(kept.members);
        self.members.expect_arranged(kept.arranged);
        if let Ok(mut directory) = self.directory.write() {
            directory.remember(&self.ids.texts());
            directory.names = compile::names::by_address(&self.names);
        }
        // The end of a daemon is no reload: what its author vouched for is what was there when the policy was loaded.
        let same = manifest.text().is_some_and(|text| text.to_string() == kept.manifest) && self.site.home == kept.home;
        if !same {
            return self.apply(manifest).map(drop);
        }
        self.loaded.clone_from(&kept.loaded);
        self.loaded.settle();
        self.members.first = kept.first;
        self.members.want(manifest.manifest());
        self.put_in_force(&manifest)?;
        self.keep()?;
        Ok(())
    }

    /// Writes down what the next daemon needs to know.
    pub(super) fn keep(&mut self) -> Result<(), PinError> {
        let state = State {
            policy: self.file.clone(),
            manifest: self.manifest.text().map(|text| text.to_string()).unwrap_or_default(),
            home: self.site.home.clone(),
            ids: self.ids.clone(),
            loaded: self.loaded.written(),
            attached: self.attached.clone(),
            members: self.members.by_hand(),
            first: self.members.first.clone(),
            arranged: self.members.arranged(),
            skills: self.maps.in_force().names.values().map(|skill| skill.name.to_string()).collect(),
        };
        self.keeper.keep(state, self.kernel.set())?;
        self.keeper.keep_names(&self.names, self.kernel.set())
    }

    /// Carries out requests until nobody can send any more.
    pub(super) fn serve(mut self, inbox: &mpsc::Receiver<Request>) {
        memory::give_back();
        // Nothing is in force any more: the programs answer no questions, and there is nothing to keep up to date.
        let mut unloaded = false;
        // Whoever asked may have gone away; then nobody wants the answer.
        loop {
            if !unloaded {
                self.look_now_and_then();
            }
            let Some(request) = self.next_request(inbox) else { return };
            match request {
                Request::Refresh(reply) if unloaded => {
                    let _ = reply.send(Ok(false));
                }
                Request::Cgroups(_, reply) if unloaded => {
                    let _ = reply.send(Ok(()));
                }
                Request::Hold(_, _, reply) if unloaded => {
                    let _ = reply.send(Ok(()));
                }
                Request::Apply(manifest, file, reply) => {
                    let before = std::mem::replace(&mut self.file, file);
                    let outcome = self.apply(Arc::new(*manifest));
                    if outcome.is_err() {
                        self.file = before;
                    }
                    let _ = reply.send(outcome.map(|generation| (generation, self.warnings.clone())));
                    memory::give_back();
                }
                Request::Refresh(reply) => {
                    let _ = reply.send(self.refresh());
                }
                Request::Names(names, reply) => {
                    let _ = reply.send(self.resolve_names(names));
                }
                Request::Enter(pid, skill, reply) => {
                    let _ = reply.send(self.enter(pid, &skill));
                }
                Request::AttachCgroup(cgroup, skill, reply) => {
                    let _ = reply.send(self.attach_cgroup(cgroup, skill));
                }
                Request::AttachWorkloads(selector, skill, reply) => {
                    let _ = reply.send(self.attach_workloads(&selector, &skill));
                }
                Request::Container { id, pid, bundle, skill, reply } => {
                    let _ = reply.send(self.introduced(&id, pid, &bundle, skill));
                }
                Request::Cgroups(news, reply) => {
                    let _ = reply.send(self.cgroups_changed(news));
                }
                Request::Inspect(pid, skill, reply) => {
                    let _ = reply.send(self.inspect(pid, skill).unwrap_or(0));
                }
                Request::IsGoverned(pid, reply) => {
                    let _ = reply.send(self.enroller.is_governed(&self.kernel, pid));
                }
                Request::Status(reply) => {
                    let _ = reply.send(self.status());
                }
                Request::Hold(sink, files, reply) => {
                    let _ = reply.send(self.hold(sink, &files));
                }
                Request::WhoMeasures(reply) => {
                    if !unloaded {
                        self.look_who_measures();
                    }
                    let _ = reply.send(());
                }
                Request::Dropped(reply) => {
                    let _ = reply.send(self.dropped());
                }
                Request::Unload(reply) => {
                    let outcome = Sets::find().and_then(Sets::remove);
                    unloaded |= outcome.is_ok();
                    let _ = reply.send(outcome);
                }
            }
        }
    }

    /// Waits for a request, and meanwhile clears away what the policy before has left. `None` when nobody will ask any more.
    fn next_request(&mut self, inbox: &mpsc::Receiver<Request>) -> Option<Request> {
        if let Some(wait) = self.maps.collects_in() {
            match inbox.recv_timeout(wait) {
                Ok(request) => return Some(request),
                Err(mpsc::RecvTimeoutError::Timeout) => self.maps.collect(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
        inbox.recv().ok()
    }

    /// Loads a policy: binaries are measured anew.
    fn apply(&mut self, manifest: Arc<ValidManifest>) -> Result<Generation, PolicyError> {
        let before = std::mem::take(&mut self.loaded);
        let found = std::mem::take(&mut self.members.found);
        let first = std::mem::take(&mut self.members.first);
        self.members.want(manifest.manifest());
        let governed = self.members.governed();
        let outcome = self.put_in_force(&manifest);
        if outcome.is_ok() {
            self.manifest = manifest;
            self.loaded.settle();
            let now: Vec<u64> = self.members.governed().into_iter().collect();
            self.enrol_members(&governed, &now);
            // It is in force all the same; the next daemon will load it anew.
            if let Err(e) = self.keep() {
                tracing::error!("what the next daemon should know is not kept: {e}");
            }
        } else {
            self.loaded = before;
            (self.members.found, self.members.first) = (found, first);
            self.members.want(self.manifest.manifest());
        }
        outcome
    }

    /// Puts the policy in force again, for the containers and units that there are now.
    pub(super) fn again(&mut self) -> Result<(), PolicyError> {
        let manifest = Arc::clone(&self.manifest);
        self.put_in_force(&manifest).map(drop)
    }

    /// Looks again at what lies at the policy's paths; binaries stay pinned to what they were.
    pub(super) fn refresh(&mut self) -> Result<bool, PolicyError> {
        let before = self.maps.generation();
        let manifest = Arc::clone(&self.manifest);
        Ok(self.put_in_force(&manifest)? != before)
    }

    /// What no skill may change, the manifest included.
    fn own(&self) -> Vec<PathBuf> {
        let mut own = self.site.own.clone();
        own.push(self.file.clone());
        own
    }

    /// Compiles the manifest and puts it in force. A cgroup that was made while it was compiled may have been given a label by
    /// the policy before; where cgroups have changed it is looked at once more.
    fn put_in_force(&mut self, manifest: &ValidManifest) -> Result<Generation, PolicyError> {
        const PASSES: u32 = 8;
        for _ in 0..PASSES {
            let before = self.maps.in_force();
            let (cgroups, names) = (before.cgroups.clone(), before.cgroup_names.clone());
            self.put_in_force_once(manifest)?;
            let now = self.maps.in_force();
            if now.cgroups == cgroups && now.cgroup_names == names {
                return Ok(self.maps.generation());
            }
        }
        tracing::warn!(
            "cgroups come and go faster than the policy is compiled: some may have the label of the policy before"
        );
        Ok(self.maps.generation())
    }

    fn put_in_force_once(&mut self, manifest: &ValidManifest) -> Result<(), PolicyError> {
        let before = self.maps.in_force().rules.keys().copied().collect();
        let outcome = self.compile_and_apply(manifest);
        self.forget_rules(&before);
        outcome
    }

    /// Forgets the texts of rules that neither the policy in force nor the one before has, once there are many: events of those
    /// have been read.
    fn forget_rules(&mut self, before: &HashSet<RuleId>) {
        /// So many are kept in any case, so that small policies keep all.
        const SPARE: usize = 4096;
        let now = &self.maps.in_force().rules;
        if self.ids.rules() <= now.len() + before.len() + SPARE {
            return;
        }
        self.ids.forget_rules(|rule| now.contains_key(&rule) || before.contains(&rule));
        if let Ok(mut directory) = self.directory.write() {
            directory.forget_rules(|rule| now.contains_key(&rule) || before.contains(&rule));
        }
    }

    fn compile_and_apply(&mut self, manifest: &ValidManifest) -> Result<(), PolicyError> {
        let seen = self.maps.governed_cgroups();
        if let Err(e) = self.host.refresh() {
            tracing::warn!("{e}; the drivers that give raw access are those that were known before");
        }
        self.members.look().map_err(PolicyError::Cgroups)?;
        let curious = self.members.is_curious();
        let own = self.own();
        let held = self.held.values().flatten().cloned().chain(self.members.guarded()).collect();
        let mut host = Host::new(&mut self.resolver, &mut self.members, self.site.home.clone(), own, &mut self.loaded)
            .map_err(PolicyError::Mounts)?;
        host.hold(held);
        host.measure_binaries(manifest.manifest());
        let mut compiled = compile::compile(manifest.manifest(), &mut host, &mut self.ids)?;
        // A cgroup that is gone does not come back: one of that name would be another.
        self.attached.retain(|cgroup, skill| {
            let found = host.cgroups(cgroup).unwrap_or_default();
            // A skill that is gone denies all, which is what its processes get.
            if let Some(skill) = self.ids.known_skill(skill) {
                compiled.ruleset.add_cgroups(skill, &found);
            }
            !found.is_empty()
        });
        self.maps.check(&compiled.ruleset)?;
        // Before the flip: a label of a new skill must mean the same to the next daemon, and the first event of the new policy
        // must find its rule.
        self.keeper.keep_ids(&self.ids, self.kernel.set())?;
        compiled.ruleset.curious = curious;
        if curious {
            compiled.ruleset.launchers = launchers(&mut host);
        }
        let containers = resolving::asking(&mut host, &compiled.ruleset);
        if self.host.measures().by().is_daemon() {
            // Before it is in force, so that what it names runs from the beginning.
            let (mut named, inside) = (host.measured(), host.measured_inside());
            named.extend(inside.iter().map(measured::by_descriptor));
            self.measuring.measure(named);
        }
        let name_warnings = compiled.ruleset.resolve_names(&self.names);
        if let Ok(mut directory) = self.directory.write() {
            directory.remember(&compiled.ruleset);
        }
        let watched = compiled.ruleset.watched.clone();
        let network_differs = self.maps.in_force().network_differs(&compiled.ruleset);
        let names = compiled.ruleset.host_names();
        let (new_cgroups, _) = self.maps.apply(compiled.ruleset, &seen)?;
        self.warnings = compiled.warnings;
        self.name_warnings = name_warnings;
        // Always told, even if nothing changed: the watcher waits for it.
        self.told.watched.send_replace(watched);
        let report = manifest.manifest().audit_level != AuditLevel::Basic;
        self.told.wanted.send_modify(|wanted| {
            let (serial, names) = (wanted.serial + 1, Arc::new(names));
            *wanted = Wanted { serial, names, containers: Arc::new(containers), report };
        });
        self.inspect_cgroups(&new_cgroups);
        if network_differs {
            self.close_withdrawn();
        }
        Ok(())
    }

    /// Gives the policy in force the addresses that its names have now.
    fn resolve_names(&mut self, names: Addresses) -> Result<bool, PolicyError> {
        let before = self.maps.generation();
        let mut next = self.maps.in_force().clone();
        let warnings = next.resolve_names(&names);
        for warning in warnings.iter().filter(|warning| !self.name_warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.name_warnings = warnings;
        if let Ok(mut directory) = self.directory.write() {
            directory.names = compile::names::by_address(&names);
        }
        self.names = names;
        // What the kernel added since the policy was compiled stays.
        let (_, generation) = self.maps.apply(next, &HashSet::new())?;
        if let Err(e) = self.keeper.keep_names(&self.names, self.kernel.set()) {
            tracing::error!("the names' addresses are not kept for the next daemon: {e}");
        }
        Ok(generation != before)
    }

    /// Labels whoever is in a governed cgroup and has done nothing yet.
    fn enrol_cgroups(&mut self) {
        if let Err(e) = self.enroller.enrol_cgroups(&self.kernel) {
            tracing::error!("{e}: one that is moved before it does anything leaves its skill");
        }
    }

    /// Labels the processes of newly governed cgroups, and reports what they brought along.
    fn inspect_cgroups(&mut self, cgroups: &[(u64, SkillId)]) {
        if cgroups.is_empty() {
            return;
        }
        self.enrol_cgroups();
        for (pid, skill) in processes_in(cgroups) {
            if let Err(e) = self.inspect(pid, skill) {
                tracing::warn!("open files of process {pid}: {e}");
            }
        }
    }

    /// Reports what a process that is in the skill already brought along, and closes the sockets among it.
    pub(super) fn inspect(&mut self, pid: u32, skill: SkillId) -> Result<u32, EnrolError> {
        let files = self.enroller.inspect_files(&self.kernel, pid, skill)?;
        let sockets = self.enroller.inspect_sockets(&self.kernel, pid, skill)?;
        self.close(&sockets, "not allowed in the skill");
        Ok(files + u32::try_from(sockets.len()).unwrap_or(u32::MAX))
    }

    /// Closes the connections that the policy in force does not allow and the one before did, once the programs that decide by
    /// that one are done.
    fn close_withdrawn(&mut self) {
        self.maps.collect();
        match self.enroller.withdrawn_sockets(&self.kernel) {
            Ok(sockets) => self.close(&sockets, "no longer allowed"),
            Err(e) => tracing::error!("connections that are no longer allowed stay open: {e}"),
        }
    }

    /// Closes sockets and tells of each.
    fn close(&self, sockets: &[FoundSocket], reason: &'static str) {
        let names = compile::names::by_address(&self.names);
        for socket in sockets {
            let outcome = sockets::close(socket);
            if let Outcome::Stays(e) = outcome {
                tracing::error!(
                    pid = socket.tgid,
                    fd = socket.fd,
                    "a socket that is {reason} could not be closed: {e}"
                );
            }
            if outcome == Outcome::Ended {
                tracing::warn!(
                    pid = socket.tgid,
                    fd = socket.fd,
                    "a process was ended: a thread of its own has a socket that is {reason}, which this kernel gives to nobody"
                );
            }
            if outcome != Outcome::Gone {
                // The engine never waits for those who listen to it.
                let name = names.get(&socket.address.into()).cloned();
                if self.told.closed.try_send(Closed { socket: *socket, outcome, reason, name }).is_err() {
                    tracing::error!(pid = socket.tgid, fd = socket.fd, "a closed socket could not be told of");
                }
            }
        }
    }

    /// The number of a skill of the policy in force.
    pub(super) fn skill(&self, name: &str) -> Result<SkillId, EnterError> {
        let in_force = self.maps.in_force();
        self.ids.known_skill(name).filter(|id| in_force.skills.contains_key(id)).ok_or_else(|| {
            let known: Vec<&str> = in_force.names.values().map(|s| &*s.name).collect();
            EnterError::NoSkill { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Labels a process, unless it has files open that its skill may not have. It is looked at before, so that one that is
    /// refused stays as it was, and again afterwards, because it may have opened some in between.
    fn enter(&mut self, pid: u32, name: &str) -> Result<u32, EnterError> {
        let skill = self.skill(name)?;
        self.refuse_open_files(pid, skill)?;
        let labelled = self.enroller.enrol(&self.kernel, pid, skill)?;
        self.refuse_open_files(pid, skill)?;
        Ok(labelled)
    }

    fn refuse_open_files(&mut self, pid: u32, skill: SkillId) -> Result<(), EnterError> {
        let files = self.enroller.inspect_files(&self.kernel, pid, skill)?;
        let sockets = self.enroller.inspect_sockets(&self.kernel, pid, skill)?;
        match files + u32::try_from(sockets.len()).unwrap_or(u32::MAX) {
            0 => Ok(()),
            count => Err(EnrolError::OpenFiles { pid, count }.into()),
        }
    }

    fn attach_cgroup(&mut self, cgroup: String, name: String) -> Result<usize, EnterError> {
        let skill = self.skill(&name)?;
        let found = world::cgroups(&cgroup).map_err(EnterError::Cgroup)?;
        if found.is_empty() {
            return Err(EnterError::Cgroup(format!("there is no cgroup {cgroup} below {CGROUP_ROOT}")));
        }
        let mut next = self.maps.in_force().clone();
        next.add_cgroups(skill, &found);
        // What the kernel added since the policy was compiled stays.
        let (new_cgroups, _) = self.maps.apply(next, &HashSet::new())?;
        self.attached.insert(cgroup, name);
        self.keep().map_err(|e| EnterError::Cgroup(format!("it is governed, until this daemon ends: {e}")))?;
        self.inspect_cgroups(&new_cgroups);
        Ok(found.len())
    }

    fn dropped(&self) -> u64 {
        sum(&self.drops, 0)
    }

    fn status(&self) -> Status {
        let ruleset = self.maps.in_force();
        let skills = ruleset.names.iter().map(|(id, text)| SkillStatus {
            name: text.name.to_string(),
            mode: text.mode,
            binaries: ruleset.binaries.keys().filter(|k| k.skill == *id).count(),
            objects: ruleset.objects.keys().filter(|k| k.skill == *id).count(),
            destinations: ruleset.destinations.keys().filter(|k| k.key.skill == *id).count(),
        });
        Status {
            policy: self.file.clone(),
            manifest: self.manifest.text().map(|text| text.to_string()).unwrap_or_default(),
            generation: self.maps.generation().0,
            skills: skills.collect(),
            workloads: self.members.governed().len(),
            written: self.maps.written(),
            cgroups: self.maps.governed_cgroups().len(),
            dropped: self.dropped(),
            measured_by: if self.host.measures().by().is_daemon() { "daemon" } else { "kernel" },
            digests: DigestCounts { measured: sum(&self.measurements, 0), known: sum(&self.measurements, 1) },
            warnings: self
                .warnings
                .iter()
                .chain(&self.name_warnings)
                .map(ToString::to_string)
                .chain(self.members.unasked.lines.iter().cloned())
                .chain(self.host.measures().warning())
                .chain(elder::unix_warning(self.maps.in_force()))
                .collect(),
        }
    }
}

/// A count over all CPUs.
fn sum(counts: &PerCpuArray<MapData, u64>, slot: u32) -> u64 {
    counts.get(&slot, 0).map_or(0, |per_cpu| per_cpu.iter().sum())
}

/// The processes of some cgroups, with their skills. Those that end meanwhile are left out.
fn processes_in(cgroups: &[(u64, SkillId)]) -> Vec<(u32, SkillId)> {
    let mut found = vec![];
    let mut pending = vec![PathBuf::from(CGROUP_ROOT)];
    while let Some(dir) = pending.pop() {
        let Ok(meta) = std::fs::metadata(&dir) else { continue };
        if let Some((_, skill)) = cgroups.iter().find(|(id, _)| *id == meta.ino()) {
            let processes = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            let own = std::process::id();
            let pids = processes.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 1 && *pid != own);
            found.extend(pids.map(|pid| (pid, *skill)));
        }
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        pending.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found
}
