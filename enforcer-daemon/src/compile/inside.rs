//! Paths within containers: what they mean was looked up when the policy was loaded or the container came.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use enforcer_common::ids::ObjectId;

use super::world::{Host, NoObject, roots_below};
use crate::{manifest::Digest, measure};

/// Where this process has an open file.
fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// What a path in a container is called: no two containers' are the same filesystem, and when one does not answer, others may.
fn name(container: u64, path: &Path) -> PathBuf {
    PathBuf::from(format!("container {container}")).join(path.strip_prefix("/").unwrap_or(path))
}

impl Host<'_> {
    /// Opens a path within a container.
    fn open_inside(&mut self, container: u64, path: &Path) -> Result<Option<OwnedFd>, NoObject> {
        let refused = |e| NoObject::Refused(format!("{} in the container: {e}", path.display()));
        let root = self.members.root(container).map_err(refused)?;
        let within = path.to_owned();
        self.ask(&name(container, path), move || root.find(&within))?.map_err(refused)
    }

    /// The containers' files that were measured for the policy, those that can be opened. The descriptors are good for a path alone.
    pub fn measured_inside(&mut self) -> Vec<OwnedFd> {
        let found = self.members.found.iter().flat_map(|(container, found)| {
            found.pins.iter().filter(|(_, digest)| digest.is_ok()).map(|(path, _)| (*container, path.clone()))
        });
        let found: Vec<_> = found.collect();
        found.into_iter().filter_map(|(container, path)| self.open_inside(container, &path).ok()?).collect()
    }

    /// [`super::World::objects`] within a container.
    pub(super) fn objects_inside(
        &mut self,
        container: u64,
        path: &Path,
        widens: bool,
    ) -> Result<Vec<(ObjectId, u32)>, NoObject> {
        if let Some(found) = self.members.found.get(&container).and_then(|found| found.objects.get(path)) {
            return Ok(found.clone());
        }
        let Some(fd) = self.open_inside(container, path)? else { return Ok(vec![]) };
        let top = self.resolve(&name(container, path), &by_descriptor(&fd), widens)?;
        let mut found: Vec<(ObjectId, u32)> = top.into_iter().map(|top| (top, 0)).collect();
        let root = self.members.root(container).map_err(|e| NoObject::of(path, e))?;
        for (mount, below) in roots_below(&root.mounts, path, widens) {
            if let Some(fd) = self.open_inside(container, &mount.mount_point)?
                && let Some(root) = self.resolve(&name(container, &mount.mount_point), &by_descriptor(&fd), widens)?
                && root.dev == mount.dev
            {
                found.push((root, below));
            }
        }
        self.members.found.entry(container).or_default().objects.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// [`super::World::digest`] within a container.
    pub(super) fn digest_inside(&mut self, container: u64, path: &Path) -> Result<Digest, String> {
        if let Some(known) = self.members.found.get(&container).and_then(|found| found.pins.get(path)) {
            return known.clone();
        }
        // Started again, it is held to what it was.
        let measured = match self.members.first_digest(container, path) {
            Some(first) => Ok(first),
            None => self.measure_inside(container, path),
        };
        if let Ok(digest) = measured {
            self.members.measured(container, path, digest);
        }
        self.members.found.entry(container).or_default().pins.insert(path.to_owned(), measured.clone());
        measured
    }

    fn measure_inside(&mut self, container: u64, path: &Path) -> Result<Digest, String> {
        match self.open_inside(container, path) {
            Ok(Some(fd)) => {
                let file = by_descriptor(&fd);
                let outcome = measure::files(std::slice::from_ref(&file), |_| {}).remove(&file);
                let silent = || format!("{} in the container was not measured", path.display());
                let failed = |e| format!("{} in the container: {e}", path.display());
                outcome.map_or_else(|| Err(silent()), |measured| measured.map_err(failed))
            }
            Ok(None) => Err(format!("there is no {} in the container", path.display())),
            Err(e) => Err(e.to_string()),
        }
    }
}
