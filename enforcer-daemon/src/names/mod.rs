//! Names in `network_scope`: the daemon resolves them, and their addresses go into the policy in force.
//!
//! resolv.conf and hosts ([`sources`]) → a query for each name ([`lookup`]) → the [`table`], which keeps each answer for
//! its TTL and a grace → [`Addresses`] → the compiler ([`crate::compile`]), which gives them the name's ports. A name that does
//! not resolve is closed; one that did stays open as long as its last answers hold. [`service`] keeps all of it going and
//! asks again before an answer ends. [`special`] says which addresses a name server may not hand out.

#[cfg(test)]
mod fake;
pub mod lookup;
pub mod service;
pub mod sources;
pub mod special;
pub mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
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

/// What the policy knows of names at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The addresses of each name that has any.
    pub names: BTreeMap<HostName, BTreeMap<IpAddr, Source>>,
    /// The configured resolvers.
    pub resolvers: BTreeSet<IpAddr>,
}

/// The names of the policy in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Counts up with every policy that was put in force.
    pub serial: u64,
    /// The names, each with the first place of the manifest that has it.
    pub names: Arc<BTreeMap<HostName, String>>,
    /// Whether changes of their addresses become events.
    pub report: bool,
}
