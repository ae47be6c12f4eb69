//! Network namespaces that the tests make, outside every skill.

use std::{fs::File, os::fd::AsRawFd as _, thread};

use anyhow::{Context as _, bail, ensure};

use super::{command, succeed};

/// A network namespace with a name, whose loopback device is up; it is deleted when this is dropped.
pub(crate) struct Network(&'static str);

impl Network {
    /// Makes one.
    pub(crate) fn make(name: &'static str) -> anyhow::Result<Self> {
        // It may be there from a test that was ended.
        command(&["ip", "netns", "delete", name])?;
        succeed(&["ip", "netns", "add", name])?;
        let network = Self(name);
        succeed(&["ip", "-netns", name, "link", "set", "lo", "up"])?;
        Ok(network)
    }

    /// A pair of devices between the host and it, with these addresses at either end.
    pub(crate) fn link(&self, device: &str, here: &[&str], there: &[&str]) -> anyhow::Result<()> {
        let peer = format!("{device}p");
        // What a namespace had goes with it, but not before it returns.
        command(&["ip", "link", "delete", device])?;
        succeed(&["ip", "link", "add", device, "type", "veth", "peer", "name", &peer, "netns", self.0])?;
        for address in here {
            succeed(&[&["ip", "address", "add", address, "dev", device][..], fixed(address)].concat())?;
        }
        for address in there {
            let add = ["ip", "-netns", self.0, "address", "add", address, "dev", &peer];
            succeed(&[&add[..], fixed(address)].concat())?;
        }
        succeed(&["ip", "link", "set", device, "up"])?;
        succeed(&["ip", "-netns", self.0, "link", "set", &peer, "up"]).map(drop)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Whoever is in it keeps it.
        let _ = command(&["ip", "netns", "delete", self.0]);
    }
}

/// An address of IPv6 is there at once when nobody is asked whether he has it.
fn fixed(address: &str) -> &'static [&'static str] {
    if address.contains(':') { &["nodad"] } else { &[] }
}

/// Does something in the network namespace that lies there; what it opens or starts stays in it.
pub(crate) fn within<T: Send>(path: &str, body: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let moved = || {
        let namespace = File::open(path).with_context(|| path.to_owned())?;
        // SAFETY: no pointers; only this thread moves.
        let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
        ensure!(result == 0, "setns {path}: {}", std::io::Error::last_os_error());
        body()
    };
    match thread::scope(|scope| scope.spawn(moved).join()) {
        Ok(outcome) => outcome,
        Err(_) => bail!("what was to be done in {path} panicked"),
    }
}
