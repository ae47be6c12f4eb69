//! Asks for one name.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use hickory_resolver::{
    Resolver,
    net::{DnsError, NetError},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RData, Record, RecordType},
    },
};
use tokio::time::timeout;

use super::{
    Source,
    sources::Sources,
    table::{Answer, Outcome},
    within::Network,
};
use crate::manifest::HostName;

/// The longest that all queries for one name may take: two types, each name of a search list, every resolver.
const LIMIT: Duration = Duration::from_secs(20);
/// How many aliases lead from a name to its addresses at the most.
const MAX_ALIASES: usize = 16;
/// For how long the hosts file's word is taken. It is read again when it changes.
const HOSTS_TTL: Duration = Duration::from_hours(24);
/// The same of a container's, of which that is not known.
const INSIDE_TTL: Duration = Duration::from_mins(1);
/// Both kinds of address.
const TYPES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

/// Asks the host's files, then its resolvers.
pub struct Lookup {
    resolver: Resolver<Network>,
    sources: Sources,
}

impl Lookup {
    /// With these sources, in this network.
    ///
    /// # Errors
    /// When the resolvers cannot be asked as the options say.
    pub fn new(sources: Sources, network: Network) -> Result<Self, String> {
        let builder = Resolver::builder_with_config(sources.config.clone(), network);
        let mut resolver =
            builder.with_options(sources.options.clone()).build().map_err(|e| format!("the resolvers: {e}"))?;
        // The hosts file is looked at here, so that it is known whose word an address is.
        resolver.set_hosts(std::sync::Arc::default());
        Ok(Self { resolver, sources })
    }

    /// Who is asked.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Asks for the addresses of a name.
    pub async fn ask(&self, name: &HostName) -> Outcome {
        let asked = async {
            let mut outcome = Outcome::default();
            for candidate in self.candidates(name)? {
                outcome = self.ask_absolute(&candidate).await;
                if !outcome.answers.is_empty() {
                    break;
                }
            }
            Ok(outcome)
        };
        let late = || Err(format!("no answer within {} s", LIMIT.as_secs()));
        let outcome: Result<Outcome, String> = timeout(LIMIT, asked).await.unwrap_or_else(|_| late());
        outcome.unwrap_or_else(|error| Outcome { error: Some(error), ..Outcome::default() })
    }

    /// What a name may stand for: itself, and for a name without a dot itself below the domains of resolv.conf, which come
    /// first, as for libc.
    fn candidates(&self, name: &HostName) -> Result<Vec<Name>, String> {
        let mut absolute = Name::from_ascii(name.as_str()).map_err(|e| e.to_string())?;
        absolute.set_fqdn(true);
        let mut candidates = vec![];
        if absolute.num_labels() == 1 && !absolute.is_localhost() {
            let config = &self.sources.config;
            for domain in config.search().iter().chain(config.domain()) {
                candidates.extend(absolute.clone().append_domain(domain));
            }
        }
        candidates.push(absolute);
        Ok(candidates)
    }

    async fn ask_absolute(&self, name: &Name) -> Outcome {
        let hosts: Vec<Answer> = TYPES.iter().flat_map(|kind| self.in_hosts(name, *kind)).collect();
        if !hosts.is_empty() {
            return Outcome { answers: hosts, error: None };
        }
        let [v4, v6] = TYPES.map(|kind| self.resolver.lookup(name.clone(), kind));
        let (v4, v6) = tokio::join!(v4, v6);
        let mut outcome = Outcome::default();
        let mut empty = None;
        for (kind, result) in TYPES.into_iter().zip([v4, v6]) {
            match result {
                Ok(lookup) => match follow(name, kind, lookup.answers()) {
                    found if found.is_empty() => empty = Some("its name server says that it has no address"),
                    found => outcome.answers.extend(found),
                },
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                    empty = Some(match none.response_code {
                        ResponseCode::NXDomain => "there is no such name",
                        _ => "it has no address",
                    });
                }
                Err(e) => outcome.error = Some(format!("{kind}: {e}")),
            }
        }
        if outcome.answers.is_empty() && outcome.error.is_none() {
            outcome.error = empty.map(ToOwned::to_owned);
        }
        outcome
    }

    /// What the hosts file says, and that `localhost` is this host (RFC 6761, 6.3): no name server is asked for either.
    fn in_hosts(&self, name: &Name, kind: RecordType) -> Vec<Answer> {
        let found = self.sources.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let mut addresses: Vec<IpAddr> = found
            .iter()
            .flat_map(hickory_resolver::lookup::Lookup::answers)
            .filter_map(|record| record.data.ip_addr())
            .collect();
        let mut source = self.sources.hosts_word;
        if addresses.is_empty() && name.is_localhost() {
            let loopback = |address: IpAddr| address.is_ipv4() == (kind == RecordType::A);
            addresses = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])].into();
            addresses.retain(|address| loopback(*address));
            source = Source::Host;
        }
        let ttl = if source == Source::Host { HOSTS_TTL } else { INSIDE_TTL };
        addresses.into_iter().map(|address| Answer { address, ttl, source }).collect()
    }
}

/// The addresses in an answer to which the name leads, over aliases if need be. Records of other names say nothing.
pub(super) fn follow(name: &Name, kind: RecordType, records: &[Record]) -> Vec<Answer> {
    let mut aliases: HashMap<&Name, (&Name, u32)> = HashMap::new();
    for record in records {
        if let RData::CNAME(target) = &record.data {
            aliases.entry(&record.name).or_insert((&target.0, record.ttl));
        }
    }
    // Names are compared without regard to case (RFC 4343), which `Name` does.
    let mut owner = name;
    let mut ttl = u32::MAX;
    for _ in 0..MAX_ALIASES {
        let Some((target, of_alias)) = aliases.get(owner) else { break };
        owner = target;
        ttl = ttl.min(*of_alias);
    }
    let of_owner = records.iter().filter(|record| record.record_type() == kind && record.name == *owner);
    let answer = |record: &Record| {
        let ttl = Duration::from_secs(u64::from(record.ttl.min(ttl)));
        Some(Answer { address: record.data.ip_addr()?, ttl, source: Source::Dns })
    };
    of_owner.filter_map(answer).collect()
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
