//! Containers and systemd units, as the cgroup hierarchy shows them: which cgroups a manifest's selectors mean.
//!
//! A cgroup is known by its path alone; what its container is called is read from what the engine keeps on disk.

pub mod container;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use enforcer_common::unit;

use crate::{
    kernel::load::CGROUP_ROOT,
    manifest::{ContainerSelector, UnitPattern},
};

/// What a cgroup is, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container, by its id.
    Container(String),
    /// A unit, by its name.
    Unit(String),
}

/// What a cgroup at `path` is; `None` for one that is neither, and for those below.
#[must_use]
pub fn kind(path: &str) -> Option<Kind> {
    match container::id_of(path) {
        Some(id) => Some(Kind::Container(id.to_owned())),
        None => unit::name_of(path).map(|name| Kind::Unit(name.to_owned())),
    }
}

/// What is to be governed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `match.container`, `--container`.
    Container(ContainerSelector),
    /// `match.unit`, `--unit`.
    Unit(UnitPattern),
}

impl Selector {
    /// Whether it means this.
    #[must_use]
    pub fn selects(&self, kind: &Kind, facts: Option<&container::Facts>) -> bool {
        match (self, kind) {
            (Self::Unit(pattern), Kind::Unit(name)) => unit::matches(pattern.as_str(), name),
            (Self::Container(selector), Kind::Container(_)) => facts.is_some_and(|facts| facts.are_meant(selector)),
            _ => false,
        }
    }
}

/// A cgroup that is a container or a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The path below the mount of cgroup v2.
    pub path: String,
    /// The cgroup's id.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
}

impl Workload {
    /// The one at a path; `None` when there is none.
    #[must_use]
    pub fn at(path: &str) -> Option<Self> {
        let kind = kind(path)?;
        Some(Self { path: path.to_owned(), id: Self::at_id(path)?, kind })
    }

    /// The id of the cgroup at a path, whatever it is.
    #[must_use]
    pub fn at_id(path: &str) -> Option<u64> {
        fs::symlink_metadata(directory(path)).ok().filter(fs::Metadata::is_dir).map(|meta| meta.ino())
    }

    /// Whether root made it: the directory that it lies in is root's. In one that was delegated to a user, its name is whatever that
    /// user likes.
    #[must_use]
    pub fn is_roots(&self) -> bool {
        let parent = directory(&self.path).parent().map(fs::symlink_metadata);
        parent.is_some_and(|meta| meta.is_ok_and(|meta| meta.is_dir() && meta.uid() == 0))
    }

    /// The processes in it and below, but for the first process of the host and this one, which are in no skill. Those that end meanwhile are left out.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let mut found = vec![];
        let mut pending = vec![directory(&self.path)];
        while let Some(dir) = pending.pop() {
            let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            let governable = |pid: &u32| *pid > 1 && *pid != std::process::id();
            found.extend(list.lines().filter_map(|pid| pid.parse::<u32>().ok()).filter(governable));
            pending.extend(below(&dir));
        }
        found
    }
}

/// Every container and unit that there is. A container's own cgroups, such as a systemd inside it, are part of it.
///
/// # Errors
/// When the hierarchy cannot be read.
pub fn scan() -> io::Result<Vec<Workload>> {
    let root = Path::new(CGROUP_ROOT);
    fs::read_dir(root)?;
    let mut found = vec![];
    let mut pending = below(root);
    while let Some(dir) = pending.pop() {
        let path = dir.strip_prefix(root).map(|path| format!("/{}", path.display())).unwrap_or_default();
        let workload = Workload::at(&path);
        let whole = matches!(&workload, Some(Workload { kind: Kind::Container(_), .. }));
        found.extend(workload);
        if !whole {
            pending.extend(below(&dir));
        }
    }
    Ok(found)
}

/// The container or unit whose cgroup a process is in or below, the outermost container first.
#[must_use]
pub fn of_process(pid: u32) -> Option<Workload> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    let paths: Vec<&str> = ends.map(|end| &path[..end]).collect();
    let container = paths.iter().find(|path| container::id_of(path).is_some());
    let unit = || paths.iter().rev().find(|path| unit::name_of(path).is_some());
    Workload::at(container.or_else(unit)?)
}

/// The cgroup of a container of which its runtime tells: the one that bears its id, else the one that its first process is in.
///
/// # Errors
/// When the process is not there, or is in no cgroup of its own.
pub fn of_container(id: &str, pid: u32) -> Result<Workload, String> {
    if let Some(workload) = of_process(pid).filter(|w| matches!(&w.kind, Kind::Container(own) if own == id)) {
        return Ok(workload);
    }
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|e| format!("process {pid}: {e}"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    // Whatever else is in the cgroup of the runtime's caller is not the container's.
    let last = path.rsplit('/').next().unwrap_or_default();
    if kind(path).is_some_and(|kind| matches!(kind, Kind::Unit(_))) && !is_named(last, id) {
        return Err(format!("container {id} has no cgroup of its own: it is in {path}"));
    }
    match Workload::at_id(path).filter(|_| path != "/") {
        Some(cgroup) => Ok(Workload { path: path.to_owned(), id: cgroup, kind: Kind::Container(id.to_owned()) }),
        None => Err(format!("container {id} has no cgroup of its own")),
    }
}

/// Whether the last component of a cgroup's path is that of a container: its id, with what engines write around it.
fn is_named(last: &str, id: &str) -> bool {
    let name = last.strip_suffix(".scope").or_else(|| last.strip_suffix(".service")).unwrap_or(last);
    !id.is_empty() && name.strip_suffix(id).is_some_and(|engine| engine.is_empty() || engine.ends_with('-'))
}

/// The directory of a cgroup.
fn directory(path: &str) -> PathBuf {
    Path::new(CGROUP_ROOT).join(path.trim_start_matches('/'))
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_named_like_its_container_as_a_whole() {
        for last in ["box", "box.scope", "crun-box.scope", "agent-box.service"] {
            assert!(is_named(last, "box"), "{last}");
        }
        for last in ["sandbox.service", "box2.scope", "mailbox", "boxes.service", "", "user@1000.service"] {
            assert!(!is_named(last, "box"), "{last}");
        }
        assert!(!is_named("user-.scope", ""));
    }
}
