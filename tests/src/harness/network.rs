//! Network namespaces that the tests make, outside every skill, and the devices in them.

use std::{
    fs::File,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
};

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

/// The number of a device in this process's network namespace: what sysfs shows may be another one's.
pub(crate) fn index(device: &str) -> anyhow::Result<u32> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: the name ends with NUL and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "{device}: {}", std::io::Error::last_os_error());
    Ok(index)
}

/// The longest packet of a device here.
pub(crate) fn mtu(device: &str) -> anyhow::Result<i32> {
    let request = about(device, libc::SIOCGIFMTU, |_| ())?;
    // SAFETY: the request was filled in with a number, and every bit pattern is one.
    Ok(unsafe { request.ifr_ifru.ifru_mtu })
}

/// Brings a device here up.
pub(crate) fn bring_up(device: &str) -> anyhow::Result<()> {
    let up = libc::c_short::try_from(libc::IFF_UP)?;
    about(device, libc::SIOCSIFFLAGS, |request| request.ifr_ifru.ifru_flags = up).map(drop)
}

/// Asks the kernel something about a device, or tells it.
fn about(device: &str, what: libc::Ioctl, fill: impl FnOnce(&mut libc::ifreq)) -> anyhow::Result<libc::ifreq> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    ensure!(socket >= 0, std::io::Error::last_os_error());
    // SAFETY: the descriptor is this function's alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: zeroes are a valid ifreq: an empty name and a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(device.len() < request.ifr_name.len(), "{device} is too long");
    for (at, byte) in device.bytes().enumerate() {
        request.ifr_name[at] = byte.cast_signed();
    }
    fill(&mut request);
    // SAFETY: the request is a whole ifreq that lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) };
    ensure!(result == 0, "{device}: {}", std::io::Error::last_os_error());
    Ok(request)
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
