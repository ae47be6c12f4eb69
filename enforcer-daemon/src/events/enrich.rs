//! [`Event`] → [`Record`]: numbers become names.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::IpAddr,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use enforcer_common::{
    event::{Event, Kind, RawPath, Reason, Verdict},
    ids::RuleId,
    net,
};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use super::{
    decode,
    record::{Lost, Object, Record, Word},
};
use crate::{
    compile::{names::DNS_RULE, ruleset::Ruleset},
    engine::{Closed, Directory},
    kernel::{load::CGROUP_ROOT, sockets::Outcome},
    manifest::{self, Digest, HostName},
    mounts::{self, Mount},
};

/// How many cgroup paths are remembered.
const CGROUP_CACHE: usize = 4096;

/// The next record's id: the boot and the daemon's start, which make it unique on the host, and a number that counts up.
fn next_id() -> String {
    static RUN: OnceLock<String> = OnceLock::new();
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let run = RUN.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let start = nanoseconds(ClockId::Boottime) / 1_000_000;
        format!("{}-{start:x}", boot.split('-').next().unwrap_or_default().trim())
    });
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    let mut id = String::with_capacity(run.len() + "-18446744073709551615".len());
    id.push_str(run);
    // Writing to a string cannot fail.
    let _ = write!(id, "-{number}");
    id
}

/// A record of the daemon's own.
#[must_use]
pub fn own(kind: &'static str, reason: impl Into<Word>) -> Record {
    Record {
        time: rfc3339(nanoseconds(ClockId::Realtime)),
        id: next_id(),
        kind: kind.into(),
        reason: reason.into(),
        ..Record::default()
    }
}

/// A record of events that were lost.
#[must_use]
pub fn lost(count: u64, where_: &str) -> Record {
    lost_records(Lost { all: count, own: 0 }, where_)
}

/// The same where some of them may be the daemon's own records.
#[must_use]
pub fn lost_records(lost: Lost, where_: &str) -> Record {
    let Lost { all, own: dropped_own } = lost;
    Record { dropped: Some(all), dropped_own, ..own("drop", format!("{all} events {where_}")) }
}

/// A record of a socket that was taken from its process.
#[must_use]
pub fn closed(closed: &Closed, directory: &RwLock<Directory>) -> Record {
    let found = &closed.socket;
    let reason = match closed.outcome {
        Outcome::Stays(e) => format!("{}, and could not be closed: {e}", closed.reason),
        Outcome::Ended => format!("{}, and its process was ended: the descriptor is a thread's own", closed.reason),
        Outcome::Closed | Outcome::Gone => closed.reason.to_owned(),
    };
    let unix = found.family == net::AF_UNIX;
    let object = Object {
        ino: Some(found.ino),
        address: (!unix).then(|| IpAddr::from(found.address).to_string()),
        name: closed.name.as_ref().map(ToString::to_string),
        port: (!unix).then_some(found.port),
        protocol: (!unix).then(|| protocol(found.protocol)),
        family: Some(family(found.family)),
        ..Object::default()
    };
    let name = directory.read().ok().and_then(|d| d.ruleset.names.get(&found.skill).map(|s| s.name.clone()));
    Record { skill: name, target: Some(found.tgid), object, ..own("close", reason) }
}

/// A family's name, or its number.
fn family(family: u16) -> Word {
    match family {
        net::AF_UNIX => "unix".into(),
        net::AF_INET => "inet".into(),
        net::AF_INET6 => "inet6".into(),
        net::AF_NETLINK => "netlink".into(),
        other => other.to_string().into(),
    }
}

/// A protocol's name, or its number.
fn protocol(protocol: u16) -> Word {
    match protocol {
        net::IPPROTO_TCP => "tcp".into(),
        net::IPPROTO_UDP => "udp".into(),
        other => other.to_string().into(),
    }
}

/// Turns events into records. It looks up what may have gone meanwhile, and says less then.
pub struct Enricher {
    directory: Arc<RwLock<Directory>>,
    cgroups: HashMap<u64, Arc<str>>,
    mounts: MountTables,
    clock: Clock,
    device: Option<(u32, Arc<str>)>,
}

impl Enricher {
    /// With the rules behind the numbers.
    #[must_use]
    pub fn new(directory: Arc<RwLock<Directory>>) -> Self {
        Self {
            directory,
            cgroups: HashMap::new(),
            mounts: MountTables::default(),
            clock: Clock::default(),
            device: None,
        }
    }

    /// The record of an event.
    #[must_use]
    pub fn record(&mut self, event: &Event) -> Record {
        let mut record = Record {
            time: self.clock.rfc3339(wall_clock(event.time_ns)),
            id: next_id(),
            kind: word(Kind::from_raw(event.kind).map(Kind::as_str), event.kind),
            verdict: Some(word(Verdict::from_raw(event.verdict).map(Verdict::as_str), event.verdict)),
            reason: word(Reason::from_raw(event.reason).map(Reason::as_str), event.reason),
            pid: event.pid,
            tid: event.tid,
            ppid: event.ppid,
            uid: Some(event.uid),
            comm: Some(decode::text(&event.comm)),
            exe: self.mounts.absolute(&event.exe, event.pid),
            cgroup: Some(self.cgroup(event)),
            generation: event.generation.0,
            object: self.object(event),
            target: other_process(event),
            ..Record::default()
        };
        if let Ok(directory) = self.directory.read() {
            let skill = directory.ruleset.names.get(&event.skill);
            record.skill = Some(skill.map_or_else(|| format!("#{}", event.skill.0).into(), |s| Arc::clone(&s.name)));
            if event.verdict != Verdict::Allow as u8 {
                record.advice = skill.and_then(|s| s.reason.clone());
            }
            if let Some(reason) = changed(&directory.ruleset, event, record.object.path.as_deref()) {
                record.reason = reason.as_str().into();
                record.hint = Some(CHANGED_HINT.into());
            }
            if event.rule != RuleId::NONE {
                record.rule = directory.ruleset.rules.get(&event.rule).map(|r| r.text.clone());
            }
            if event.kind == Kind::Connect as u8 || event.kind == Kind::Receive as u8 {
                record.object.name = host_name(record.rule.as_deref(), &event.address.into(), &directory.names);
            }
        }
        record
    }

    /// What was acted upon.
    fn object(&mut self, event: &Event) -> Object {
        let id = event.object;
        let mut object = Object { path: self.mounts.absolute(&event.path, event.pid), ..Object::default() };
        let kind = Kind::from_raw(event.kind);
        if matches!(kind, Some(Kind::Move | Kind::Enter)) && id.ino != 0 {
            // Where a process was moved to: the cgroup's id is the inode number of its directory.
            object.ino = Some(id.ino);
        }
        if id.dev != 0 {
            object.dev = Some(self.device(id.dev));
            object.ino = Some(id.ino);
        }
        if event.has_digest != 0 {
            object.sha256 = Some(Digest::new(event.digest.0).to_string());
        }
        let network = matches!(kind, Some(Kind::Connect | Kind::Bind | Kind::Listen | Kind::Receive));
        if network && event.family == net::AF_UNIX {
            // The kernel has an abstract name in the place of a path that lies on no filesystem.
            if event.path.dev == 0 {
                let name = event.path.bytes.get(..event.path.len as usize).unwrap_or_default();
                object.path = None;
                object.address = Some(format!("@{}", String::from_utf8_lossy(name).escape_default()));
            }
        } else if network {
            object.address = Some(IpAddr::from(event.address).to_string());
            object.port = Some(event.port);
        }
        if network || kind == Some(Kind::Socket) {
            object.family = Some(family(event.family));
            let unix = event.family == net::AF_UNIX && kind != Some(Kind::Socket);
            object.protocol = (!unix).then(|| protocol(event.protocol));
        }
        object
    }

    /// The cgroup's path below the mount, as far as it is known.
    fn cgroup(&mut self, event: &Event) -> Arc<str> {
        if let Some(known) = self.cgroups.get(&event.cgroup) {
            return Arc::clone(known);
        }
        let Some(path) = cgroup_of(event.pid, event.cgroup) else { return event.cgroup.to_string().into() };
        if self.cgroups.len() >= CGROUP_CACHE {
            self.cgroups.clear();
        }
        let path: Arc<str> = path.into();
        self.cgroups.insert(event.cgroup, Arc::clone(&path));
        path
    }

    /// A device number as `MAJOR:MINOR`. Most events are of the device of the one before.
    fn device(&mut self, dev: u32) -> Arc<str> {
        match &self.device {
            Some((known, text)) if *known == dev => Arc::clone(text),
            _ => {
                let text: Arc<str> = format!("{}:{}", dev >> 20, dev & 0xf_ffff).into();
                self.device = Some((dev, Arc::clone(&text)));
                text
            }
        }
    }
}

/// What to do about a binary that is another than the one that was pinned.
const CHANGED_HINT: &str = "if it was meant to change: `enforcer policy pin --update FILE`, then `enforcer reload`";

/// A binary that is not listed although its path is: it is another than when the policy was loaded, as after an upgrade.
fn changed(ruleset: &Ruleset, event: &Event, path: Option<&str>) -> Option<Reason> {
    let is_pinned = |path: &str| ruleset.pinned.get(&event.skill).is_some_and(|paths| paths.contains(Path::new(path)));
    let is_unlisted = event.kind == Kind::Exec as u8 && event.reason == Reason::BinaryNotListed as u8;
    (is_unlisted && path.is_some_and(is_pinned)).then_some(Reason::BinaryChanged)
}

/// The name that the deciding rule has; where a rule of another kind or none decided, the name that has the address now. A
/// query to a resolver goes to no name.
fn host_name(rule: Option<&str>, address: &IpAddr, names: &HashMap<IpAddr, HostName>) -> Option<String> {
    if rule == Some(DNS_RULE) {
        return None;
    }
    match rule.and_then(|text| text.strip_prefix("network_scope: ")).map(str::parse) {
        Some(Ok(manifest::Destination::Name { name, .. })) => Some(name.to_string()),
        _ => names.get(address).map(ToString::to_string),
    }
}

/// The process's cgroup, if it is still the one with this id.
fn cgroup_of(pid: u32, id: u64) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let meta = fs::metadata(Path::new(CGROUP_ROOT).join(path.trim_start_matches('/'))).ok()?;
    (meta.ino() == id).then(|| path.to_owned())
}

/// The mount tables of processes that acted lately.
#[derive(Default)]
struct MountTables(HashMap<u32, (Instant, Arc<Vec<Mount>>)>);

impl MountTables {
    /// How many tables are remembered.
    const CAPACITY: usize = 256;
    /// How long a table is taken for the present one: a process that makes many events is asked once in a while.
    const FRESH: Duration = Duration::from_millis(500);

    /// The mounts that process `pid` sees; the daemon's own when it has ended.
    fn of(&mut self, pid: u32) -> Arc<Vec<Mount>> {
        if let Some((read, table)) = self.0.get(&pid)
            && read.elapsed() < Self::FRESH
        {
            return Arc::clone(table);
        }
        let files = [format!("/proc/{pid}/mountinfo"), "/proc/self/mountinfo".into()];
        let table = files.iter().find_map(|file| mounts::read(Path::new(file)).ok().filter(|t| !t.is_empty()));
        let table = Arc::new(table.unwrap_or_default());
        if self.0.len() >= Self::CAPACITY {
            self.0.clear();
        }
        self.0.insert(pid, (Instant::now(), Arc::clone(&table)));
        table
    }

    /// A path of the event as the acting process's mount namespace shows it, else from the filesystem's root.
    fn absolute<const N: usize>(&mut self, raw: &RawPath<N>, pid: u32) -> Option<String> {
        let (path, truncated) = decode::path(raw)?;
        let mounted = if truncated { None } else { below_mount(&self.of(pid), raw.dev, &path) };
        Some(lossy(mounted.unwrap_or(path)))
    }
}

/// Text, without a copy where it is.
fn lossy(path: PathBuf) -> String {
    let bytes = path.into_os_string().into_vec();
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// The path below the mount of its filesystem that shows most of it; the last mount of equals lies on top.
fn below_mount(mounts: &[Mount], dev: u32, path: &Path) -> Option<PathBuf> {
    let candidates = mounts.iter().filter(|m| m.dev == dev);
    let (mount, rest) = candidates
        .filter_map(|mount| Some((mount, below(path, &mount.root)?)))
        .min_by_key(|(mount, _)| (depth(&mount.root), depth(&mount.mount_point)))?;
    let at = mount.mount_point.as_os_str().as_bytes();
    let mut whole = Vec::with_capacity(at.len() + rest.len());
    // The root's own slash is that of what follows.
    whole.extend_from_slice(if at == b"/" && !rest.is_empty() { &[] } else { at });
    whole.extend_from_slice(rest);
    Some(OsString::from_vec(whole).into())
}

/// What follows a directory in a path: nothing, or from the slash on. Both have no `.`, no `..` and no slash too many: the kernel made
/// them.
fn below<'a>(path: &'a Path, dir: &Path) -> Option<&'a [u8]> {
    let (path, dir) = (path.as_os_str().as_bytes(), dir.as_os_str().as_bytes());
    let rest = path.strip_prefix(if dir == b"/" { &[][..] } else { dir })?;
    match rest {
        b"/" => Some(b""),
        [] | [b'/', ..] => Some(rest),
        _ => None,
    }
}

/// How many directories deep a path is.
fn depth(path: &Path) -> usize {
    match path.as_os_str().as_bytes() {
        b"/" => 0,
        path => path.split(|byte| *byte == b'/').count() - 1,
    }
}

/// The process that an event is about beside the acting one. Who enters a skill by an exec of its own is nobody else.
fn other_process(event: &Event) -> Option<u32> {
    let enters = event.kind == Kind::Enter as u8 && event.target == event.pid;
    (event.target != 0 && !enters).then_some(event.target)
}

/// Nanoseconds of a clock.
fn nanoseconds(clock: ClockId) -> i128 {
    let now = clock_gettime(clock);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// The wall clock's time of an instant of the boot clock.
fn wall_clock(boot_ns: u64) -> i128 {
    let ago = nanoseconds(ClockId::Boottime) - i128::from(boot_ns);
    nanoseconds(ClockId::Realtime) - ago
}

/// RFC 3339 in UTC with nanoseconds.
fn rfc3339(ns: i128) -> String {
    Timestamp::from_nanosecond(ns).map_or_else(|_| ns.to_string(), |t| format!("{t:.9}"))
}

/// The same, for many times of one second.
#[derive(Default)]
struct Clock {
    second: i128,
    /// The second as text up to the point; empty before the first time.
    text: String,
}

impl Clock {
    fn rfc3339(&mut self, ns: i128) -> String {
        const SECOND: i128 = 1_000_000_000;
        let second = ns.div_euclid(SECOND);
        if self.text.is_empty() || second != self.second {
            let whole = rfc3339(second * SECOND);
            let Some(text) = whole.strip_suffix(".000000000Z") else { return rfc3339(ns) };
            (self.second, self.text) = (second, text.to_owned());
        }
        let mut time = String::with_capacity(self.text.len() + ".000000000Z".len());
        time.push_str(&self.text);
        // Writing to a string cannot fail.
        let _ = write!(time, ".{:09}Z", ns.rem_euclid(SECOND));
        time
    }
}

/// A word of this build's, or the number that it does not know.
fn word(known: Option<&'static str>, number: u8) -> Word {
    known.map_or_else(|| number.to_string().into(), Word::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(dev: u32, root: &str, at: &str) -> Mount {
        Mount { id: 0, dev, root: root.into(), mount_point: at.into() }
    }

    #[test]
    fn a_path_is_shown_below_the_mount_of_its_filesystem() {
        let mounts = [mount(1, "/", "/"), mount(2, "/", "/tmp"), mount(1, "/srv", "/mnt/bind")];
        assert_eq!(below_mount(&mounts, 2, Path::new("/x/y")), Some("/tmp/x/y".into()));
        assert_eq!(below_mount(&mounts, 1, Path::new("/srv/a")), Some("/srv/a".into()));
        assert_eq!(below_mount(&mounts, 2, Path::new("/")), Some("/tmp".into()));
        assert_eq!(below_mount(&mounts, 3, Path::new("/x")), None);
    }

    #[test]
    fn the_name_is_the_rules_or_else_the_addresses() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let names = HashMap::from([(address, "b.example".parse().expect("a name"))]);
        let name = |rule: Option<&str>| host_name(rule, &address, &names);
        assert_eq!(name(Some("network_scope: a.example:443/tcp")).as_deref(), Some("a.example"));
        for rule in [Some("network_scope: 10.0.0.0/8"), Some("network_scope: *"), None] {
            assert_eq!(name(rule).as_deref(), Some("b.example"), "{rule:?}");
        }
        assert_eq!(name(Some(DNS_RULE)), None);
        assert_eq!(host_name(None, &IpAddr::from([10, 0, 0, 2]), &names), None);
    }

    #[test]
    fn times_are_rfc_3339_with_nanoseconds() {
        assert_eq!(rfc3339(1_700_000_000_000_000_001), "2023-11-14T22:13:20.000000001Z");
        let mut clock = Clock::default();
        for ns in [1_700_000_000_000_000_001, 1_700_000_000_999_999_999, 1_700_000_001_000_000_000, 5, -1, i128::MAX, 7]
        {
            assert_eq!(clock.rfc3339(ns), rfc3339(ns), "{ns}");
        }
    }
}
