//! Asks the kernel what it calls a file.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{HashMap, MapData};
use enforcer_common::{ids::ObjectId, names};
use rustix::{fs::getxattr, io::Errno, thread::gettid};

use super::{Kernel, LoadError};
use crate::ask::Asker;

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
    pub fn question(&self, path: &Path) -> impl FnOnce() -> Result<ObjectId, ResolveError> + Send + use<> {
        let (answers, path) = (Arc::clone(&self.answers), path.to_owned());
        move || resolve(&answers, &path)
    }
}

/// The identity of what `path` leads to.
fn resolve(answers: &Answers, path: &Path) -> Result<ObjectId, ResolveError> {
    // Never held while a filesystem is waited for.
    let answers = || answers.lock().unwrap_or_else(PoisonError::into_inner);
    let key = u64::from(std::process::id()) << 32 | u64::from(gettid().as_raw_nonzero().get().cast_unsigned());
    // An old answer must not be taken for this one.
    let _ = answers().remove(&key);
    let mut value = [0u8; 1];
    match getxattr(path, names::RESOLVE_XATTR, &mut value[..]) {
        // No file has the attribute; a filesystem without any says EOPNOTSUPP. The hook has run before either.
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => {}
        // A link that leads to itself leads nowhere, until somebody removes it; whoever makes one must not keep a policy out.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(ResolveError::NotFound),
        Err(e) => return Err(ResolveError::Path(e.into())),
    }
    let answer = answers().get(&key, 0).map_err(|_| ResolveError::NoAnswer)?;
    let _ = answers().remove(&key);
    Ok(answer)
}
