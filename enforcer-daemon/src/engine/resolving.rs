//! The containers that ask resolvers of their own: what their files say, and in which network they are.
//!
//! A process in the container may change both to what it likes: another file, or one mounted over it; a network of its own, with a
//! resolver that says what it wants said. So both are those that the engine arranged before any of its processes ran, which the hook
//! tells. The engine's files are Enforcer's own, whatever they are called by then, as long as the container is there, and are not
//! read again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use enforcer_common::ids::{ObjectId, SkillId};
use serde::{Deserialize, Serialize};

use super::{
    members::{Member, Members},
    owner::Owner,
};
use crate::{
    compile::{ruleset::Ruleset, world::Host},
    hash,
    names::{Container, DNS_PORT, sources::Sources},
    workload::{Kind, Workload},
};

/// Who is asked (`resolv.conf(5)`), and what nobody is asked for (`hosts(5)`).
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// The longest of them that is read, in bytes: a few lines.
const MAX_TEXT: u64 = 16 << 10;

/// How a container asks for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Arranged {
    /// What the [`FILES`] say.
    texts: [String; 2],
    /// The inode, device and generation of each that there is.
    objects: Vec<(String, u64, u32, u32)>,
    /// The resolvers.
    resolvers: BTreeSet<IpAddr>,
    /// The number of its network namespace.
    network: u64,
}

/// The same with what is open of it.
pub(super) struct Arrangement {
    what: Arranged,
    network: Option<Arc<OwnedFd>>,
    /// Whether it was said that its resolvers are not asked.
    told: bool,
}

/// Why containers' own resolvers are not asked, but the host's.
#[derive(Default)]
pub(super) struct Unasked {
    /// What was found when the hook told of them, by the id of their cgroup.
    pub(super) known: HashMap<u64, String>,
    /// For the status: those of the policy in force.
    pub(super) lines: Vec<String>,
}

/// Without the hook.
const UNTOLD: &str =
    "no OCI hook told of it before its first process ran, so that its files may be what its processes made them";

impl Members {
    /// What is kept of the containers' arrangements for the next daemon.
    #[must_use]
    pub fn arranged(&self) -> BTreeMap<u64, Arranged> {
        self.arranged.iter().map(|(id, arrangement)| (*id, arrangement.what.clone())).collect()
    }

    /// Takes over [what an earlier daemon had](Self::arranged).
    pub fn expect_arranged(&mut self, arranged: BTreeMap<u64, Arranged>) {
        let known = |(id, what)| (id, Arrangement { what, network: None, told: false });
        self.arranged = arranged.into_iter().map(known).collect();
    }

    /// The containers' files by which names get their addresses.
    pub fn guarded(&self) -> impl Iterator<Item = (PathBuf, ObjectId)> {
        let objects = self.arranged.values().flat_map(|arrangement| &arrangement.what.objects);
        objects.map(|(name, ino, dev, generation)| {
            (PathBuf::from(name), ObjectId { ino: *ino, dev: *dev, generation: *generation })
        })
    }

    /// The network namespace that a container came with; `None` when it cannot be found any more.
    fn network(&mut self, workload: &Workload) -> Option<Arc<OwnedFd>> {
        let arrangement = self.arranged.get_mut(&workload.id)?;
        if arrangement.network.is_none() {
            // An earlier daemon knew it by its number.
            let is_its = |network: &OwnedFd| number(network).is_ok_and(|number| number == arrangement.what.network);
            let found = workload.processes().into_iter().filter_map(|pid| network_of(pid).ok()).find(is_its);
            arrangement.network = found.map(Arc::new);
        }
        arrangement.network.clone()
    }

    /// The skills of which a process may be in a container's network: that of the container, those of others that share it, and, where it
    /// is the host's, all.
    ///
    /// # Errors
    /// When one that shares it may change it, which is named.
    fn neighbours(&self, id: u64, ruleset: &Ruleset) -> Result<BTreeSet<SkillId>, String> {
        let Some(own) = self.arranged.get(&id).map(|arrangement| arrangement.what.network) else {
            return Ok(BTreeSet::new());
        };
        let is_hosts =
            network_of(std::process::id()).and_then(|network| number(&network)).is_ok_and(|host| host == own);
        let unarranged = if is_hosts { vec![] } else { self.unarranged_in(own) };
        // Of a unit nothing is known.
        let changes = |member: &&&Member| member.facts().is_none_or(|facts| facts.net_admin);
        if let Some(member) = unarranged.iter().find(changes) {
            return Err(format!("{} shares its network and may change it (CAP_NET_ADMIN)", member.workload.path));
        }
        let shares = |name: &str| {
            is_hosts
                || unarranged.iter().any(|member| member.skill.as_deref() == Some(name))
                || self.of(name).iter().any(|member| {
                    let other = self.arranged.get(&member.workload.id);
                    other.is_some_and(|other| other.what.network == own)
                })
        };
        Ok(ruleset.names.iter().filter(|(_, text)| shares(&text.name)).map(|(skill, _)| *skill).collect())
    }

    /// The governed ones that have a process in a network, of those that no hook told of: their processes are looked at.
    fn unarranged_in(&self, network: u64) -> Vec<&Member> {
        let is_there = |pid| network_of(pid).and_then(|network| number(&network)).is_ok_and(|number| number == network);
        self.iter()
            .filter(|(id, member)| member.skill.is_some() && !self.arranged.contains_key(id))
            .filter(|(_, member)| member.workload.processes().into_iter().any(is_there))
            .map(|(_, member)| member)
            .collect()
    }
}

fn network_of(pid: u32) -> io::Result<OwnedFd> {
    fs::File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from)
}

fn number(network: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(network)?.st_ino)
}

impl Owner {
    /// Takes note of how a container will ask for names, of which a runtime's hook tells before any of its processes runs; `pid` is
    /// the process that will execute its first program.
    pub(super) fn arrange(&mut self, id: u64, pid: u32) {
        self.members.arranged.remove(&id);
        self.members.unasked.known.remove(&id);
        let why = match self.arrangement(id, pid) {
            Ok(Ok(arrangement)) => {
                self.members.arranged.insert(id, arrangement);
                return;
            }
            Ok(Err(why)) => why.to_owned(),
            Err(e) => {
                let path = self.members.get(id).map(|member| member.workload.path.clone()).unwrap_or_default();
                tracing::warn!("{path}: its own resolvers are not asked: {e}");
                e
            }
        };
        self.members.unasked.known.insert(id, why);
    }

    /// How a container will ask, or why it has no resolvers of its own that can be asked.
    ///
    /// # Errors
    /// When what the engine arranged cannot be used.
    fn arrangement(&mut self, id: u64, pid: u32) -> Result<Result<Arrangement, &'static str>, String> {
        let Some(facts) = self.members.get(id).and_then(|member| member.facts()) else {
            return Ok(Err("nothing is known of what its engine arranged"));
        };
        let net_admin = facts.net_admin;
        let source =
            |file: &str| facts.volumes.iter().find(|(at, _)| at == Path::new(file)).map(|(_, source)| source.clone());
        let sources = FILES.map(source);
        // What lies in the image, the container's processes may have written the last time that it ran.
        if sources[0].is_none() {
            return Ok(Err("its resolv.conf is the image's, which its processes may have written"));
        }
        if net_admin {
            return Err("its processes may change its network (CAP_NET_ADMIN)".into());
        }
        let mut what = Arranged::default();
        for ((name, source), text) in FILES.into_iter().zip(sources).zip(&mut what.texts) {
            let Some(source) = source else { continue };
            let (from, named) = (source.clone(), |e: String| format!("{}: {e}", source.display()));
            let read = self.resolver.asker().ask(&source, move || read(&from)).map_err(|e| named(e.to_string()))?;
            let (file, said) = read.map_err(|e| named(e.to_string()))?;
            let object = self.identity(&source, &file)?;
            what.objects.push((name.to_owned(), object.ino, object.dev, object.generation));
            *text = said;
        }
        let [resolv_conf, hosts] = &what.texts;
        what.resolvers = Sources::inside(&format!("container of process {pid}"), resolv_conf, hosts).resolvers();
        if what.resolvers.is_empty() {
            return Ok(Err("its resolv.conf names no resolver"));
        }
        let network = network_of(pid).map_err(|e| format!("its network: {e}"))?;
        what.network = number(&network).map_err(|e| format!("its network: {e}"))?;
        Ok(Ok(Arrangement { what, network: Some(Arc::new(network)), told: false }))
    }
}

/// The text of a short file, and the file.
fn read(path: &Path) -> io::Result<(OwnedFd, String)> {
    let (file, _) = hash::open_regular(path).map_err(io::Error::other)?;
    let mut text = vec![];
    if (&file).take(MAX_TEXT + 1).read_to_end(&mut text)? as u64 > MAX_TEXT {
        return Err(io::Error::other("it is too long"));
    }
    Ok((file.into(), String::from_utf8_lossy(&text).into_owned()))
}

/// The containers that ask for themselves: those of skills that list names. Of the others it is noted why.
pub(super) fn asking(host: &mut Host<'_>, ruleset: &Ruleset) -> BTreeMap<u64, Container> {
    let (mut asking, mut unasked) = (BTreeMap::new(), vec![]);
    for (id, scope) in ruleset.scopes.iter().filter(|(_, scope)| !scope.names.is_empty()) {
        let Some(skill) = ruleset.names.get(id).map(|text| text.name.to_string()) else { continue };
        let names: BTreeSet<_> = scope.names.iter().map(|rule| rule.name.clone()).collect();
        let containers: Vec<Workload> = host.members.of(&skill).iter().map(|member| member.workload.clone()).collect();
        for workload in containers {
            let (what, network) = match own_resolvers(host.members, ruleset, &workload) {
                Ok(found) => found,
                // A unit has the host's.
                Err(_) if !matches!(workload.kind, Kind::Container(_)) => continue,
                Err(why) => {
                    unasked.push(format!("{}: the host's resolvers are asked, not its own: {why}", workload.path));
                    continue;
                }
            };
            let [resolv_conf, hosts] = what.texts;
            let (path, skill, names) = (workload.path, skill.clone(), names.clone());
            asking.insert(workload.id, Container { path, skill, names, resolv_conf, hosts, network });
        }
    }
    host.members.unasked.lines = unasked;
    asking
}

/// How a container asks, and in which network.
///
/// # Errors
/// Why it is not asked there.
fn own_resolvers(
    members: &mut Members,
    ruleset: &Ruleset,
    workload: &Workload,
) -> Result<(Arranged, Arc<OwnedFd>), String> {
    let Some(arrangement) = members.arranged.get(&workload.id) else {
        return Err(members.unasked.known.get(&workload.id).cloned().unwrap_or_else(|| UNTOLD.to_owned()));
    };
    let what = arrangement.what.clone();
    may_be_asked(members, ruleset, workload)?;
    let network = members.network(workload).ok_or("its network cannot be found any more")?;
    Ok((what, network))
}

/// Whether no governed process could answer in the place of a container's resolvers.
///
/// # Errors
/// When one could.
fn may_be_asked(members: &mut Members, ruleset: &Ruleset, workload: &Workload) -> Result<(), String> {
    let outcome = no_other_answers(members, ruleset, workload);
    if let Err(why) = &outcome
        && let Some(arrangement) = members.arranged.get_mut(&workload.id)
        && !std::mem::replace(&mut arrangement.told, true)
    {
        tracing::warn!("{}: its own resolvers are not asked: {why}", workload.path);
    }
    outcome
}

fn no_other_answers(members: &Members, ruleset: &Ruleset, workload: &Workload) -> Result<(), String> {
    let neighbours = members.neighbours(workload.id, ruleset)?;
    let arrangement = members.arranged.get(&workload.id).ok_or(UNTOLD)?;
    let places = arrangement.what.resolvers.iter().flat_map(|resolver| {
        // The unspecified address is this host.
        let here: &[IpAddr] = if resolver.is_unspecified() {
            &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        } else {
            &[]
        };
        std::iter::once(*resolver).chain(here.iter().copied())
    });
    let taken = places.into_iter().find(|at| neighbours.iter().any(|skill| ruleset.may_listen(*skill, *at, DNS_PORT)));
    match taken {
        None => Ok(()),
        Some(resolver) => Err(format!("its resolver {resolver}: `listen` lets a skill in its network answer there")),
    }
}
