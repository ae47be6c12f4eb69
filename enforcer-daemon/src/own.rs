//! What is Enforcer's own on this host: no governed process changes it, mounts over it, or moves a directory on the way to it.

use std::path::{Path, PathBuf};

/// Configuration, state, pins, and the service, wherever a package or an administrator may put it; and the files by which names
/// get their addresses ([`crate::names::sources`]): who writes them opens the network.
const FIXED: &[&str] = &[
    "/etc/enforcer",
    "/etc/default/enforcer",
    "/var/lib/enforcer",
    "/var/log/enforcer",
    "/run/enforcer",
    "/sys/fs/bpf/enforcer",
    "/etc/systemd/system/enforcer.service",
    "/etc/systemd/system/enforcer.service.d",
    "/usr/lib/systemd/system/enforcer.service",
    "/usr/lib/systemd/system/enforcer-check@.service",
    // What `doctor --attack` runs as root.
    "/usr/lib/enforcer",
    "/etc/hosts",
    "/etc/resolv.conf",
];

/// All of it but the manifest, which may change while the daemon runs: this program, the runtime directory, what is fixed, and
/// the files that events go to.
#[must_use]
pub fn paths(runtime: &Path, files: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let program = std::env::current_exe().ok();
    let mut all: Vec<PathBuf> = FIXED.iter().map(PathBuf::from).collect();
    all.extend(program);
    all.push(absolute(runtime));
    all.extend(files.into_iter().map(|file| absolute(&file)));
    all
}
