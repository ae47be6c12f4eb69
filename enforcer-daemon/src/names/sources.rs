//! Who is asked for names: resolv.conf and the hosts file, read again when they change.
//!
//! Which files these are is a parameter: a container has its own.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_resolver::{
    Hosts,
    config::{NameServerConfig, ResolverConfig, ResolverOpts, ServerOrderingStrategy},
    system_conf::parse_resolv_conf,
};
use inotify::WatchMask;
use tokio::time::sleep;

use super::Source;
use crate::watch::Watches;

/// The longest file that is read, in bytes; both are a few lines, and a hosts file that blocks advertisers a few megabytes.
const MAX_FILE: u64 = 16 << 20;
/// The longest that one query may take, whatever resolv.conf says.
const MAX_TIMEOUT: Duration = Duration::from_secs(5);
/// How long changes are gathered: editors and DHCP clients write in several steps.
const GATHER: Duration = Duration::from_millis(20);

/// The files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The resolvers and how they are asked (`resolv.conf(5)`).
    pub resolv_conf: PathBuf,
    /// Addresses of names that nobody is asked for (`hosts(5)`).
    pub hosts: PathBuf,
}

impl Files {
    /// The host's own.
    #[must_use]
    pub fn of_the_host() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }

    /// Reads them. Without a resolv.conf, or with none that can be understood, the resolver is 127.0.0.1, as for libc.
    #[must_use]
    pub fn read(&self) -> Sources {
        let path = |path: &Path| path.display().to_string();
        let resolv_conf = (path(&self.resolv_conf), read(&self.resolv_conf));
        Sources::of_texts(&resolv_conf, &(path(&self.hosts), read(&self.hosts)), Source::Host)
    }
}

/// The bytes of a file as far as they can be read; one that is not there is empty.
fn read(path: &Path) -> Vec<u8> {
    let mut text = vec![];
    match File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => tracing::warn!("{}: {e}", path.display()),
    }
    text
}

/// Who is asked.
#[derive(Debug)]
pub struct Sources {
    /// The resolvers.
    pub config: ResolverConfig,
    /// How they are asked.
    pub options: ResolverOpts,
    /// What nobody is asked for.
    pub hosts: Hosts,
    /// Whose word that is.
    pub hosts_word: Source,
}

impl Sources {
    /// These, asked so that every answer comes from a resolver and is looked at as it came.
    #[must_use]
    pub fn new(config: ResolverConfig, mut options: ResolverOpts, hosts: Hosts, hosts_word: Source) -> Self {
        // The table is the cache.
        options.cache_size = 0;
        options.preserve_intermediates = true;
        options.try_tcp_on_error = true;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        Self { config, options, hosts, hosts_word }
    }

    /// Those of a resolv.conf and a hosts file, each with its name.
    #[must_use]
    pub fn of_texts(
        (resolv_conf, resolv_text): &(String, Vec<u8>),
        (hosts_path, hosts_text): &(String, Vec<u8>),
        hosts_word: Source,
    ) -> Self {
        let is_host = hosts_word == Source::Host;
        let parsed = parse_resolv_conf(resolv_text).inspect_err(|e| {
            tracing::info!("{resolv_conf}: {e}{}", if is_host { "; the resolver is 127.0.0.1" } else { "" });
        });
        let (mut config, mut options) = parsed.unwrap_or_default();
        if is_host && config.name_servers().is_empty() {
            let this_host = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
            config = ResolverConfig::from_parts(None, config.search().to_vec(), vec![this_host]);
        }
        options.timeout = options.timeout.min(MAX_TIMEOUT);
        let mut hosts = Hosts::default();
        if let Err(e) = hosts.read_hosts_conf(hosts_text.as_slice()) {
            tracing::warn!("{hosts_path}: {e}; names in it are asked for");
        }
        Self::new(config, options, hosts, hosts_word)
    }

    /// A container's, whose place is for messages. Its hosts file is its engine's, and no more to be trusted than a name server. Where its
    /// resolv.conf names no resolver there is none: at 127.0.0.1 a process of the container might answer.
    #[must_use]
    pub fn inside(place: &str, resolv_conf: &str, hosts: &str) -> Self {
        let named = |file: &str, text: &str| (format!("{file} of {place}"), text.as_bytes().to_vec());
        Self::of_texts(&named("/etc/resolv.conf", resolv_conf), &named("/etc/hosts", hosts), Source::Dns)
    }

    /// The resolvers' addresses.
    #[must_use]
    pub fn resolvers(&self) -> BTreeSet<IpAddr> {
        self.config.name_servers().iter().map(|server| server.ip).collect()
    }
}

/// Tells of changes of the files.
pub struct Changes {
    watches: Watches,
    paths: BTreeSet<PathBuf>,
    /// Whether something has happened that was not looked at yet.
    pending: bool,
}

impl Changes {
    /// Watches the files, and what leads to them: resolv.conf is a symbolic link on many hosts.
    ///
    /// # Errors
    /// When the kernel gives no watches.
    pub fn of(files: &Files) -> io::Result<Self> {
        let mut watches = Watches::new(WatchMask::CLOSE_WRITE)?;
        let paths = [files.resolv_conf.clone(), files.hosts.clone()].into();
        watches.set(&paths);
        Ok(Self { watches, paths, pending: false })
    }

    /// Waits for a change. One that is not waited for to the end is told the next time.
    ///
    /// # Errors
    /// When the watches cannot be read.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            if !self.pending {
                self.watches.ready().await?;
                self.pending = true;
            }
            sleep(GATHER).await;
            self.pending = false;
            if self.watches.drain()? {
                // A link may lead elsewhere now.
                self.watches.set(&self.paths);
                return Ok(());
            }
        }
    }
}
