//! Names in `network_scope`: the daemon resolves them, and their addresses go into the policy in force.
//!
//! resolv.conf and hosts ([`sources`]) → a query for each name ([`lookup`]) → the [`table`], which keeps each answer for
//! its TTL and a grace → [`Addresses`] → the compiler ([`crate::compile`]), which gives them the name's ports. A name that does
//! not resolve is closed; one that did stays open as long as its last answers hold. [`service`] keeps all of it going and
//! asks again before an answer ends. [`special`] says which addresses a name server may not hand out.
//!
//! A container asks the resolvers of its own resolv.conf, in its own network ([`within`]). What these say opens addresses for its
//! skill alone.

#[cfg(test)]
mod fake;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod lookup;
pub mod service;
pub mod sources;
pub mod special;
pub mod table;
pub mod within;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::manifest::HostName;

/// The port on which the configured resolvers are asked, over UDP and TCP.
pub const DNS_PORT: u16 = 53;

/// Who says that a name has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// The host itself, in its hosts file: as trustworthy as the manifest.
    Host,
    /// A name server, on behalf of whoever owns the name.
    Dns,
}

/// Who asks for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The host.
    Host,
    /// A container, by the id of its cgroup.
    Container(u64),
}

/// A name, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// Who asks.
    pub place: Place,
    /// The name.
    pub name: HostName,
}

impl table::Key for Question {
    fn pool(&self) -> usize {
        usize::from(self.place != Place::Host)
    }
}

/// The addresses of each name that has any.
pub type Known = BTreeMap<HostName, BTreeMap<IpAddr, Source>>;

/// What the policy knows of names at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// What the host's resolvers say.
    pub names: Known,
    /// The host's resolvers.
    pub resolvers: BTreeSet<IpAddr>,
    /// What each container's own resolvers say, by the id of its cgroup.
    #[serde(default)]
    pub containers: BTreeMap<u64, Inside>,
}

/// What a container's own resolvers say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// Its skill.
    pub skill: String,
    /// The addresses.
    pub names: Known,
    /// The resolvers.
    pub resolvers: BTreeSet<IpAddr>,
}

/// A container whose skill lists names.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its cgroup, for messages.
    pub path: String,
    /// Its skill.
    pub skill: String,
    /// The names that this lists.
    pub names: BTreeSet<HostName>,
    /// The text of its resolv.conf.
    pub resolv_conf: String,
    /// The text of its hosts file.
    pub hosts: String,
    /// Its network namespace.
    pub network: Arc<OwnedFd>,
}

impl PartialEq for Container {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.skill == other.skill && self.names == other.names && self.asks_as(other)
    }
}

impl Eq for Container {}

impl Container {
    /// Whether the same servers are asked, in the same way.
    #[must_use]
    pub fn asks_as(&self, other: &Self) -> bool {
        self.resolv_conf == other.resolv_conf
            && self.hosts == other.hosts
            && self.network.as_raw_fd() == other.network.as_raw_fd()
    }
}

/// The names of the policy in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Counts up with every policy that was put in force.
    pub serial: u64,
    /// The names, each with the first place of the manifest that has it.
    pub names: Arc<BTreeMap<HostName, String>>,
    /// The containers that ask for themselves, by the id of their cgroup.
    pub containers: Arc<BTreeMap<u64, Container>>,
    /// Whether changes of their addresses become events.
    pub report: bool,
}

impl Wanted {
    /// All that is to be asked, with the place of each name in the manifest.
    #[must_use]
    pub fn questions(&self) -> BTreeMap<Question, String> {
        let of_host =
            self.names.iter().map(|(name, at)| (Question { place: Place::Host, name: name.clone() }, at.clone()));
        let inside = self.containers.iter().flat_map(|(id, container)| {
            container.names.iter().map(|name| {
                let at = self.names.get(name).cloned().unwrap_or_default();
                (Question { place: Place::Container(*id), name: name.clone() }, at)
            })
        });
        of_host.chain(inside).collect()
    }
}
