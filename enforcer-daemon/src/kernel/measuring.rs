//! Measures files in the kernel's place: asks which version a file's content has, and has the digest kept with it.
//!
//! Why that is right stands in the kernel object's `digest` module. Whoever opens a file and asks about it must do so on one thread,
//! which carries the daemon's label, and open no other file of an overlay in between: the kernel notes what lies below the last one.

use std::{
    fs::File,
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{HashMap, MapData};
use enforcer_common::{
    content::{Measurement, answer},
    ids, names,
};
use rustix::fs::fgetxattr;

use super::{
    Kernel, LoadError,
    resolve::{ResolveError, asked, thread_key},
};
use crate::manifest::Digest;

/// What the programs are asked and told.
#[derive(Clone)]
pub struct Channel(Arc<Mutex<HashMap<MapData, u64, Measurement>>>);

impl Channel {
    /// Takes the map.
    ///
    /// # Errors
    /// When the object has no such map.
    pub fn new(kernel: &Kernel) -> Result<Self, LoadError> {
        Ok(Self(Arc::new(Mutex::new(kernel.map(names::map::MEASUREMENT)?))))
    }

    /// Which version the content of an open file has; its `answer` says whether its digest is known.
    ///
    /// # Errors
    /// When the program does not answer.
    pub fn ask(&self, file: &File) -> Result<Measurement, ResolveError> {
        let key = thread_key();
        self.forget(key);
        asked(fgetxattr(file, names::VERSION_XATTR, &mut [0u8; 1]))?;
        self.take(key)
    }

    /// Tells the digest of a version of the content of an open file, which was asked for before the file was read; false when that is
    /// not its version any more.
    ///
    /// # Errors
    /// When the program does not answer.
    pub fn tell(&self, file: &File, version: u64, digest: Digest) -> Result<bool, ResolveError> {
        let key = thread_key();
        let told = Measurement { version, digest: ids::Digest(*digest.as_bytes()), ..Measurement::default() };
        self.map(|map| map.insert(key, told, 0)).map_err(|_| ResolveError::NoAnswer)?;
        let outcome = asked(fgetxattr(file, names::DIGEST_XATTR, &mut [0u8; 1]));
        let told = self.take(key);
        outcome?;
        Ok(told?.answer == answer::KEPT)
    }

    /// The answer to this thread, which is taken away.
    fn take(&self, key: u64) -> Result<Measurement, ResolveError> {
        let found = self.map(|map| map.get(&key, 0)).map_err(|_| ResolveError::NoAnswer);
        self.forget(key);
        found
    }

    fn forget(&self, key: u64) {
        // There may be none.
        let _ = self.map(|map| map.remove(&key));
    }

    /// Never held while a filesystem is waited for.
    fn map<T>(&self, work: impl FnOnce(&mut HashMap<MapData, u64, Measurement>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
