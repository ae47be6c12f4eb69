//! The containers that ask resolvers of their own: what their files say, and in which network they are.
//!
//! A process in the container may change both to what it likes: another file, or one mounted over it; a network of its own, with a
//! resolver that says what it wants said. So both are those that the container came with. The files are Enforcer's own from then
//! on, and are read again when the policy is loaded if they still are what was protected.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
};

use enforcer_common::ids::{ObjectId, SkillId};
use serde::{Deserialize, Serialize};

use super::{members::Members, owner::Owner};
use crate::{
    compile::{ruleset::Ruleset, world::Host},
    names::{Container, DNS_PORT, sources::Sources},
    workload::Workload,
};

/// How many containers are remembered; of more, those that came last.
const CONTAINERS: usize = 256;

/// Who is asked (`resolv.conf(5)`), and what nobody is asked for (`hosts(5)`).
pub const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// A file as the container came with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstFile {
    /// Inode, device and generation; `None` when it was not there.
    object: Option<(u64, u32, u32)>,
    text: String,
}

impl FirstFile {
    /// A file.
    #[must_use]
    pub fn new(object: ObjectId, text: String) -> Self {
        Self { object: Some((object.ino, object.dev, object.generation)), text }
    }

    /// What it is by now: what it was, unless the very file that was protected says something else.
    fn now(&self, found: Self) -> Self {
        if self.object.is_some() && self.object == found.object { found } else { self.clone() }
    }
}

/// The [`FILES`] of containers, by the container's id: one that is started again has what its processes left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FirstFiles(Vec<(String, [FirstFile; 2])>);

impl FirstFiles {
    /// Takes in what was found, and returns what counts.
    fn look(&mut self, container: &str, found: [FirstFile; 2]) -> [FirstFile; 2] {
        if let Some((_, known)) = self.0.iter_mut().find(|(id, _)| id == container) {
            for (known, found) in known.iter_mut().zip(found) {
                *known = known.now(found);
            }
            return known.clone();
        }
        if self.0.len() == CONTAINERS {
            self.0.remove(0);
        }
        self.0.push((container.to_owned(), found.clone()));
        found
    }

    fn get(&self, container: &str) -> Option<&[FirstFile; 2]> {
        self.0.iter().find(|(id, _)| id == container).map(|(_, files)| files)
    }
}

impl Members {
    /// The network namespace that a container came with; `None` while it has no process.
    fn network(&mut self, workload: &Workload) -> Option<Arc<OwnedFd>> {
        if let Some(network) = self.networks.get(&workload.id).and_then(|(_, network)| network.clone()) {
            return Some(network);
        }
        let expected = self.networks.get(&workload.id).map(|(number, _)| *number);
        for pid in workload.processes() {
            let Ok(network) = fs::File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from) else { continue };
            let Ok(stat) = rustix::fs::fstat(&network) else { continue };
            // Of one that an earlier daemon knew, only that.
            if expected.is_none_or(|expected| expected == stat.st_ino) {
                let network = Arc::new(network);
                self.networks.insert(workload.id, (stat.st_ino, Some(Arc::clone(&network))));
                return Some(network);
            }
        }
        None
    }

    /// The numbers of the containers' network namespaces, for the next daemon.
    #[must_use]
    pub fn network_numbers(&self) -> BTreeMap<u64, u64> {
        self.networks.iter().map(|(id, (number, _))| (*id, *number)).collect()
    }

    /// Takes over [what an earlier daemon had](Self::network_numbers).
    pub fn expect_networks(&mut self, numbers: BTreeMap<u64, u64>) {
        self.networks = numbers.into_iter().map(|(id, number)| (id, (number, None))).collect();
    }
}

impl Owner {
    /// The containers whose skills list names.
    pub(super) fn asking(host: &mut Host<'_>, ruleset: &Ruleset) -> BTreeMap<u64, Container> {
        let mut asking = BTreeMap::new();
        for (id, scope) in ruleset.scopes.iter().filter(|(_, scope)| !scope.names.is_empty()) {
            let id = *id;
            let Some(skill) = ruleset.names.get(&id).map(|text| text.name.clone()) else { continue };
            let names: BTreeSet<_> = scope.names.iter().map(|rule| rule.name.clone()).collect();
            let members = host.members.of(&skill);
            let containers: Vec<(Workload, String)> = members
                .iter()
                .filter_map(|member| Some((member.workload.clone(), member.container()?.to_owned())))
                .collect();
            for (workload, container) in containers {
                let files = resolver_files(host, workload.id, &container);
                let Some((files, network)) = files.zip(host.members.network(&workload)) else { continue };
                let [resolv_conf, hosts] = files.map(|file| file.text);
                let (path, skill, names) = (workload.path.clone(), skill.clone(), names.clone());
                let container = Container { path, skill, names, resolv_conf, hosts, network };
                if may_be_asked(ruleset, id, &container) {
                    asking.insert(workload.id, container);
                }
            }
        }
        asking
    }
}

/// Whether a container has resolvers, in whose place its own processes could not answer.
fn may_be_asked(ruleset: &Ruleset, skill: SkillId, container: &Container) -> bool {
    let resolvers = Sources::of_container(container).resolvers();
    let taken = resolvers.iter().find(|resolver| ruleset.may_listen(skill, **resolver, DNS_PORT));
    if let Some(resolver) = taken {
        tracing::warn!(
            "{}: its resolver {resolver} is not asked, because `listen` lets its skill {} answer there",
            container.path,
            container.skill
        );
    }
    !resolvers.is_empty() && taken.is_none()
}

/// What a container's files say. `None` while they cannot be reached.
fn resolver_files(host: &mut Host<'_>, id: u64, container: &str) -> Option<[FirstFile; 2]> {
    if host.members.found.get(&id).is_some_and(|found| found.resolving) {
        return host.members.first_files.get(container).cloned();
    }
    let mut read = |path: &str| {
        host.read_inside(id, Path::new(path))
            .inspect_err(|e| tracing::warn!("{e}; it counts as absent"))
            .unwrap_or_default()
    };
    let found = FILES.map(&mut read);
    host.members.root(id).ok()?;
    let files = host.members.first_files.look(container, found);
    host.members.found.entry(id).or_default().resolving = true;
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(ino: u64, text: &str) -> FirstFile {
        FirstFile::new(ObjectId { ino, dev: 1, generation: 1 }, text.into())
    }

    fn look(files: &mut FirstFiles, container: &str, found: FirstFile) -> String {
        let [resolv_conf, _] = files.look(container, [found, FirstFile::default()]);
        resolv_conf.text
    }

    #[test]
    fn the_file_that_is_protected_may_say_something_else_and_no_other_may() {
        let mut files = FirstFiles::default();
        assert_eq!(look(&mut files, "a", file(7, "first")), "first");
        assert_eq!(look(&mut files, "a", file(7, "its engine's")), "its engine's");
        assert_eq!(look(&mut files, "a", file(8, "another")), "its engine's");
        assert_eq!(look(&mut files, "a", FirstFile::default()), "its engine's");
        assert_eq!(look(&mut files, "b", FirstFile::default()), "");
        assert_eq!(look(&mut files, "b", file(9, "made by an agent")), "");
    }

    #[test]
    fn not_more_are_remembered_than_there_may_be() {
        let mut files = FirstFiles::default();
        for n in 0..CONTAINERS + 10 {
            look(&mut files, &n.to_string(), file(7, "text"));
        }
        assert_eq!(files.0.len(), CONTAINERS);
        assert!(files.get("9").is_none() && files.get("10").is_some());
    }
}
