//! What the binaries of containers were when they were first measured. A container that is stopped and started again, by its engine
//! or because its processes ended, has the files that they wrote: measured anew, whatever they left would be allowed.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::manifest::Digest;

/// How many containers are remembered; of more, those that were measured last.
const CONTAINERS: usize = 1024;

/// Digests by container and path, until the policy is loaded again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FirstDigests(Vec<(String, BTreeMap<String, Digest>)>);

impl FirstDigests {
    /// The digest that a binary had first.
    #[must_use]
    pub fn get(&self, container: &str, path: &Path) -> Option<Digest> {
        self.0.iter().find(|(id, _)| id == container)?.1.get(path.to_str()?).copied()
    }

    /// Keeps a digest, unless there is one already.
    pub fn keep(&mut self, container: &str, path: &Path, digest: Digest) {
        let Some(path) = path.to_str() else { return };
        let at = self.0.iter().position(|(id, _)| id == container).unwrap_or_else(|| {
            if self.0.len() == CONTAINERS {
                self.0.remove(0);
            }
            self.0.push((container.to_owned(), BTreeMap::new()));
            self.0.len() - 1
        });
        if let Some((_, digests)) = self.0.get_mut(at) {
            digests.entry(path.to_owned()).or_insert(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::new([byte; 32])
    }

    #[test]
    fn the_first_one_stays() {
        let mut first = FirstDigests::default();
        let path = Path::new("/bin/agent");
        first.keep("one", path, digest(1));
        first.keep("one", path, digest(2));
        first.keep("two", path, digest(3));
        assert_eq!(first.get("one", path), Some(digest(1)));
        assert_eq!(first.get("two", path), Some(digest(3)));
        assert_eq!((first.get("one", Path::new("/bin/other")), first.get("three", path)), (None, None));
        let text = serde_json::to_string(&first).expect("written");
        assert_eq!(serde_json::from_str::<FirstDigests>(&text).expect("read"), first);
    }

    #[test]
    fn it_is_bounded() {
        let mut first = FirstDigests::default();
        for n in 0..=CONTAINERS {
            first.keep(&n.to_string(), Path::new("/bin/agent"), digest(1));
        }
        assert_eq!(first.0.len(), CONTAINERS);
        assert_eq!(first.get("0", Path::new("/bin/agent")), None);
        assert!(first.get(&CONTAINERS.to_string(), Path::new("/bin/agent")).is_some());
    }
}
