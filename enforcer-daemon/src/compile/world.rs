//! The facts that the compiler asks of the host.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use enforcer_common::ids::ObjectId;

use crate::{
    hash,
    kernel::{
        load::CGROUP_ROOT,
        resolve::{ResolveError, Resolver},
    },
    manifest::{Digest, ManifestPath},
};

/// What is on the host. The tests have one of their own.
pub trait World {
    /// A manifest path with `~` replaced by the home directory.
    fn expand(&self, path: &ManifestPath) -> String;
    /// The SHA-256 of a file.
    ///
    /// # Errors
    /// Why it has none, in a sentence that names the path.
    fn digest(&mut self, path: &Path) -> Result<Digest, String>;
    /// The kernel's identities of what `path` leads to and of the roots of what is mounted below it; none when it does not
    /// exist.
    ///
    /// # Errors
    /// Why it cannot be known, in a sentence that names the path.
    fn objects(&mut self, path: &Path) -> Result<Vec<ObjectId>, String>;
    /// The ids of a cgroup and of its descendants, with how far below they lie; none when it does not exist.
    ///
    /// # Errors
    /// Why it cannot be governed.
    fn cgroups(&mut self, path: &str) -> Result<Vec<(u64, u32)>, String>;
}

/// The host that the daemon runs on.
pub struct Host<'a> {
    resolver: &'a mut Resolver,
    home: PathBuf,
    pins: &'a mut Pins,
    mount_points: Option<Vec<PathBuf>>,
}

/// What was found at the paths of binaries when the policy was last loaded: until it is loaded again they stay pinned to that.
pub type Pins = HashMap<PathBuf, Result<Digest, String>>;

impl<'a> Host<'a> {
    /// A host whose objects are resolved by the attached programs; `home` is what `~` means, and what `pins` knows is not
    /// measured again.
    pub fn new(resolver: &'a mut Resolver, home: PathBuf, pins: &'a mut Pins) -> Self {
        Self { resolver, home, pins, mount_points: None }
    }
}

impl World for Host<'_> {
    fn expand(&self, path: &ManifestPath) -> String {
        match path.below_home() {
            Some(rest) => self.home.join(rest.trim_start_matches('/')).to_string_lossy().into_owned(),
            None => path.as_str().to_owned(),
        }
    }

    fn digest(&mut self, path: &Path) -> Result<Digest, String> {
        let measure = || hash::sha256_file(path).map_err(|e| e.to_string());
        self.pins.entry(path.to_owned()).or_insert_with(measure).clone()
    }

    fn objects(&mut self, path: &Path) -> Result<Vec<ObjectId>, String> {
        let top = match self.resolver.resolve(path) {
            Ok(top) => top,
            Err(ResolveError::NotFound) => return Ok(vec![]),
            Err(e) => return Err(format!("{}: {e}", path.display())),
        };
        let mut objects = vec![top];
        // A walk ends at its filesystem's root, so the root of whatever is mounted below carries the rule, too.
        let canonical = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
        let mount_points = match &self.mount_points {
            Some(known) => known,
            None => self.mount_points.insert(mount_points().map_err(|e| format!("/proc/self/mountinfo: {e}"))?),
        };
        for mount in mount_points {
            if *mount != canonical
                && mount.starts_with(&canonical)
                && let Ok(root) = self.resolver.resolve(mount)
                && !objects.contains(&root)
            {
                objects.push(root);
            }
        }
        Ok(objects)
    }

    fn cgroups(&mut self, path: &str) -> Result<Vec<(u64, u32)>, String> {
        if path.trim_matches('/').is_empty() {
            return Err("the root cgroup holds every process of the host; name one below it".into());
        }
        let top = Path::new(CGROUP_ROOT).join(path.trim_start_matches('/'));
        let mut found = vec![];
        let mut pending = vec![(top, 0)];
        while let Some((dir, depth)) = pending.pop() {
            // A cgroup's id is the inode number of its directory. Cgroups come and go while this looks.
            match fs::symlink_metadata(&dir) {
                Ok(meta) if meta.is_dir() => found.push((meta.ino(), depth)),
                Ok(_) => return Err(format!("{} is not a cgroup", dir.display())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(format!("{}: {e}", dir.display())),
            }
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            let below = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            pending.extend(below.map(|e| (e.path(), depth + 1)));
        }
        Ok(found)
    }
}

/// Where filesystems are mounted in the daemon's mount namespace.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(crate::mounts::read(Path::new("/proc/self/mountinfo"))?.into_iter().map(|m| m.mount_point).collect())
}
