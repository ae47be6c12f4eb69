//! Files of Enforcer's own that have no name yet, or another one by now: what the sinks write.
//!
//! A path says what is Enforcer's own once somebody has looked at it. Between the file's birth and that look a governed process
//! could open it for writing and keep the descriptor, so a sink has its next file held here before it gives it a name.

use std::{
    collections::HashSet,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use enforcer_common::ids::ObjectId;

use super::owner::Owner;
use crate::compile;

impl Owner {
    /// Protects the files of the sink at `sink`, beside all that the policy in force protects; later policies do, too, until others
    /// are held for it.
    pub(super) fn hold(&mut self, sink: PathBuf, files: &[(PathBuf, OwnedFd)]) -> Result<(), String> {
        let mut held = vec![];
        for (name, file) in files {
            held.push((name.clone(), self.identity(name, file)?));
        }
        let mut next = self.maps.in_force().clone();
        compile::hold(&mut next, &mut self.ids, &held);
        // As for a policy: the first event must find its rule, also by the next daemon.
        self.keeper.keep_ids(&self.ids, self.kernel.set()).map_err(|e| e.to_string())?;
        if let Ok(mut directory) = self.directory.write() {
            directory.remember(&next);
        }
        // What the kernel added since the policy was compiled stays.
        self.maps.apply(next, &HashSet::new()).map_err(|e| e.to_string())?;
        self.held.insert(sink, held);
        Ok(())
    }

    /// What the kernel calls an open file.
    pub(super) fn identity(&mut self, name: &Path, file: &OwnedFd) -> Result<ObjectId, String> {
        let question = self.resolver.question(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())));
        let answer = self.resolver.asker().ask(name, question);
        answer
            .map_err(|e| e.to_string())
            .and_then(|found| found.map(|found| found.object).map_err(|e| e.to_string()))
            .map_err(|e| format!("{}: {e}", name.display()))
    }
}
