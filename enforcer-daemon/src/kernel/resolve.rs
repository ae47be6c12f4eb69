//! Asks the kernel what it calls a file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{HashMap, MapData};
use enforcer_common::{ids::ObjectId, names};
use rustix::{
    fs::{getxattr, lgetxattr, major, minor, stat, statfs},
    io::Errno,
    thread::gettid,
};

use super::{Kernel, LoadError};
use crate::ask::Asker;

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What the kernel calls it.
    pub object: ObjectId,
    /// Another file of its filesystem may be called the same: a file of an overlay whose layers lie on several filesystems has the
    /// number of its inode below (`fs/overlayfs/inode.c: ovl_map_ino`), unless `xino` adds the layer's.
    pub may_be_anothers: bool,
}

/// Why a path has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Nothing is there now.
    #[error("does not exist")]
    NotFound,
    /// The file system or the path refused.
    #[error("{0}")]
    Path(#[source] io::Error),
    /// The question was asked and the program did not answer.
    #[error("the kernel program gave no answer: is this thread labelled as the daemon's?")]
    NoAnswer,
}

/// Finds the kernel's identity of a path. The programs must be attached, and the first to ask must carry the daemon's label.
pub struct Resolver {
    answers: Answers,
    asker: Asker,
}

type Answers = Arc<Mutex<HashMap<MapData, u64, ObjectId>>>;

impl Resolver {
    /// Takes the map of answers.
    ///
    /// # Errors
    /// When the object has no such map.
    pub fn new(kernel: &Kernel) -> Result<Self, LoadError> {
        let answers = kernel.map(names::map::RESOLVED)?;
        Ok(Self { answers: Arc::new(Mutex::new(answers)), asker: Asker::default() })
    }

    /// Whom to ask about paths.
    pub fn asker(&mut self) -> &mut Asker {
        &mut self.asker
    }

    /// The question what `path` leads to now, symlinks followed, for the asker.
    pub fn question(&self, path: &Path) -> impl FnOnce() -> Result<Identity, ResolveError> + Send + use<> {
        let (answers, path) = (Arc::clone(&self.answers), path.to_owned());
        move || {
            let object = resolve(&answers, &path)?;
            let may_be_anothers = may_be_anothers(&path, object).map_err(|e| ResolveError::Path(e.into()))?;
            Ok(Identity { object, may_be_anothers })
        }
    }

    /// The question through which directories and symbolic links `path` leads now, for the asker: neither the root nor what lies
    /// there.
    pub fn way(&self, path: &Path) -> impl FnOnce() -> Result<Vec<ObjectId>, ResolveError> + Send + use<> {
        let (answers, path) = (Arc::clone(&self.answers), path.to_owned());
        move || {
            let found = steps(&path).into_iter().map(|step| match resolve_itself(&answers, &step) {
                Err(ResolveError::NotFound) => Ok(None),
                found => found.map(Some),
            });
            found.filter_map(Result::transpose).collect()
        }
    }
}

/// The names that the kernel looks up on the way to `path`, each in the directory where it lies; the last one only where it is a
/// symbolic link.
fn steps(path: &Path) -> Vec<PathBuf> {
    /// As many links as the kernel follows (`include/linux/namei.h: MAXSYMLINKS`).
    const LINKS: u32 = 40;
    let mut ahead: Vec<PathBuf> = path.components().rev().map(|name| PathBuf::from(name.as_os_str())).collect();
    let (mut here, mut found, mut links) = (PathBuf::from("/"), vec![], 0);
    while let Some(name) = ahead.pop() {
        // `join` begins anew at a root.
        let next = here.join(&name);
        if name == Path::new("..") {
            here.pop();
        } else if let Ok(target) = fs::read_link(&next) {
            links += 1;
            if links > LINKS {
                break;
            }
            ahead.extend(target.components().rev().map(|name| PathBuf::from(name.as_os_str())));
            found.push(next);
        } else {
            if !ahead.is_empty() && next != Path::new("/") {
                found.push(next.clone());
            }
            here = next;
        }
    }
    found
}

/// [`Identity::may_be_anothers`]: then `stat` shows a device of the layer instead of the overlay's own
/// (`fs/overlayfs/inode.c: ovl_map_dev_ino`).
fn may_be_anothers(path: &Path, object: ObjectId) -> Result<bool, Errno> {
    /// `OVERLAYFS_SUPER_MAGIC` of `include/uapi/linux/magic.h`.
    const OVERLAYFS: u64 = 0x794c_7630;
    let (found, filesystem) = match stat(path).and_then(|found| Ok((found, statfs(path)?))) {
        Ok(found) => found,
        // What has gone meanwhile is resolved again.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        Err(e) => return Err(e),
    };
    let shown = major(found.st_dev) << 20 | minor(found.st_dev);
    Ok(filesystem.f_type.cast_unsigned() == OVERLAYFS && shown != object.dev)
}

/// The identity of what `path` leads to.
fn resolve(answers: &Answers, path: &Path) -> Result<ObjectId, ResolveError> {
    ask(answers, |value| getxattr(path, names::RESOLVE_XATTR, value))
}

/// The identity of what lies at `path`, be it a symbolic link.
fn resolve_itself(answers: &Answers, path: &Path) -> Result<ObjectId, ResolveError> {
    ask(answers, |value| lgetxattr(path, names::RESOLVE_XATTR, value))
}

fn ask(answers: &Answers, get: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<ObjectId, ResolveError> {
    // Never held while a filesystem is waited for.
    let answers = || answers.lock().unwrap_or_else(PoisonError::into_inner);
    let key = thread_key();
    // An old answer must not be taken for this one.
    let _ = answers().remove(&key);
    asked(get(&mut [0u8; 1]))?;
    let answer = answers().get(&key, 0).map_err(|_| ResolveError::NoAnswer)?;
    let _ = answers().remove(&key);
    Ok(answer)
}

/// Under which key the programs answer this thread.
pub(super) fn thread_key() -> u64 {
    u64::from(std::process::id()) << 32 | u64::from(gettid().as_raw_nonzero().get().cast_unsigned())
}

/// Whether a question reached the hook, by what became of the attribute that was asked for.
pub(super) fn asked(outcome: Result<usize, Errno>) -> Result<(), ResolveError> {
    match outcome {
        // No file has the attribute; a filesystem without any says EOPNOTSUPP. The hook has run before either.
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(()),
        // A link that leads to itself leads nowhere, until somebody removes it; whoever makes one must not keep a policy out.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(ResolveError::NotFound),
        Err(e) => Err(ResolveError::Path(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_has_its_links_and_what_they_lead_through() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().canonicalize().expect("it is there");
        let at = |name: &str| base.join(name);
        fs::create_dir_all(at("real/deep")).expect("made");
        std::os::unix::fs::symlink("real", at("link")).expect("made");
        std::os::unix::fs::symlink(at("link/deep"), at("far")).expect("made");
        let above: Vec<PathBuf> = {
            let mut above: Vec<_> = base.ancestors().map(Path::to_owned).filter(|a| a != Path::new("/")).collect();
            above.reverse();
            above
        };
        let way = |name: &str| steps(&at(name)).into_iter().filter(|step| !above.contains(step)).collect::<Vec<_>>();
        assert_eq!(way("real/deep"), [at("real")]);
        assert_eq!(way("real/deep/file"), [at("real"), at("real/deep")]);
        assert_eq!(way("link/deep"), [at("link"), at("real")]);
        assert_eq!(way("far"), [at("far"), at("link"), at("real")]);
        assert_eq!(way("far/../file"), [at("far"), at("link"), at("real"), at("real/deep")]);
        std::os::unix::fs::symlink("self", at("self")).expect("made");
        assert_eq!(way("self/file")[0], at("self"), "it ends");
    }
}
