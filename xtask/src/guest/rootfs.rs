//! Guests whose root is a disk: a minimal Debian with the packages that some tests are about.
//!
//! The initramfs has this machine's own programs and no more; agents' runtimes, servers and systemd come from Debian, by
//! mmdebstrap and the mirror that this machine's apt uses. One suite serves all kernels. A root is packed once as ext4
//! and kept under its recipe and package list; a guest writes to a copy that is thrown away.

use std::{
    fmt,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use sha2::{Digest as _, Sha256};

use super::archive::Archive;
use crate::{
    kernels,
    packages::{self, Need},
    paths::Paths,
    ui,
};

/// The release of Debian, for all roots and kernels.
const SUITE: &str = "trixie";
/// mmdebstrap takes less than a minute where the mirror is near.
const BUILD_LIMIT: Duration = Duration::from_mins(15);
/// The disk's size; what is not used takes no space.
const DISK: &str = "6G";
/// Where the initramfs has what this run adds to the disk.
pub(super) const PAYLOAD: &str = "/.root";

/// Changes when this file does: then roots are packed anew.
const RECIPE: &str = include_str!("rootfs.rs");
const INIT: &str = include_str!("init.sh");
const SESSION_UNIT: &str = include_str!("session.service");

/// What both roots have, beside Debian's required packages.
const COMMON: [&str; 12] = [
    "bash",
    "busybox-static",
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "kmod",
    "libcap2-bin",
    "openssl",
    "procps",
    "python3",
    "util-linux",
];

/// A root that a guest can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Root {
    /// Agents' runtimes and the servers that they talk to; the first process is the plain guest's.
    Agents,
    /// Systemd as the first process, and a container engine.
    Systemd,
}

impl Root {
    pub(crate) const ALL: [Self; 2] = [Self::Agents, Self::Systemd];

    fn packages(self) -> impl Iterator<Item = &'static str> {
        let own: &[&str] = match self {
            Self::Agents => &["dnsmasq-base", "nginx-light", "nodejs", "python3-requests"],
            Self::Systemd => &["crun", "dbus", "libpam-systemd", "podman", "systemd", "systemd-sysv", "uidmap"],
        };
        COMMON.iter().chain(own).copied()
    }

    /// What is done to the unpacked root, whose path is `$1`, before it is packed.
    fn customize(self) -> Vec<String> {
        let mut hooks = vec![
            "chroot \"$1\" useradd --create-home --uid 1000 --shell /bin/bash agent".to_owned(),
            "echo guest >\"$1/etc/hostname\"; : >\"$1/etc/resolv.conf\"".to_owned(),
            "printf '127.0.0.1 localhost guest\\n::1 localhost ip6-localhost\\n' >\"$1/etc/hosts\"".to_owned(),
        ];
        if self == Self::Systemd {
            // No first boot's questions, no prompt on the console that nobody reads, and /tmp as the run filled it.
            hooks.push("echo 656e666f726365722d746573742d6775 >\"$1/etc/machine-id\"".to_owned());
            hooks.push(
                "for unit in tmp.mount getty.target systemd-firstboot.service apt-daily.timer apt-daily-upgrade.timer \
                 dpkg-db-backup.timer fstrim.timer e2scrub_all.timer; do \
                 ln -sf /dev/null \"$1/etc/systemd/system/$unit\"; done"
                    .to_owned(),
            );
        }
        hooks
    }

    /// Puts the files that make a guest of the disk into this run's archive.
    pub(super) fn add_session<W: std::io::Write>(self, archive: &mut Archive<W>) -> Result<()> {
        let at = |path: &str| format!("{PAYLOAD}{path}");
        archive.file(&at("/.vm/session"), 0o644, 0, super::image::SESSION.as_bytes())?;
        archive.file(&at("/.vm/command"), 0o644, 0, super::image::COMMAND.as_bytes())?;
        match self {
            Self::Agents => archive.file(&at("/.vm/init"), 0o755, 0, INIT.as_bytes()),
            Self::Systemd => {
                let unit = "/etc/systemd/system/enforcer-session.service";
                archive.symlink(&at("/.vm/init"), "/usr/lib/systemd/systemd")?;
                archive.file(&at(unit), 0o644, 0, SESSION_UNIT.as_bytes())?;
                archive.symlink(&at("/etc/systemd/system/multi-user.target.wants/enforcer-session.service"), unit)
            }
        }
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agents => "agents",
            Self::Systemd => "systemd",
        })
    }
}

/// The disk of a root, packed if it is not there; the last one that was, when the mirror is away.
pub(super) fn disk(paths: &Paths, root: Root) -> Result<PathBuf> {
    let dir = paths.cache.join("roots");
    fs::create_dir_all(&dir)?;
    // Guests for two kernels may want the same one.
    let lock = File::create(dir.join(format!("{root}.lock")))?;
    lock.lock().context("cannot lock the cache of roots")?;
    let disk = dir.join(format!("{root}-{}.ext4", key(root)?));
    if disk.is_file() {
        return Ok(disk);
    }
    let others = others(&dir, root)?;
    match pack(paths, &dir, root, &disk) {
        Ok(()) => {
            for old in others {
                fs::remove_file(old)?;
            }
            Ok(disk)
        }
        Err(error) => match others.into_iter().next() {
            Some(old) => {
                ui::note(&format!("root {root}: using an older one, {} ({error:#})", old.display()));
                Ok(old)
            }
            None => Err(error.context(format!("cannot make the root {root}"))),
        },
    }
}

/// The disks of a root that are there.
fn others(dir: &Path, root: Root) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if stem.starts_with(&format!("{root}-")) && path.extension().is_some_and(|extension| extension == "ext4") {
            found.push(path);
        }
    }
    Ok(found)
}

fn key(root: Root) -> Result<String> {
    let mut hash = Sha256::new();
    for part in [RECIPE, SUITE].into_iter().chain(root.packages()) {
        hash.update(part);
        hash.update([0]);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let (start, _) = digest.split_first_chunk().context("a digest has 32 bytes")?;
    Ok(format!("{:016x}", u64::from_be_bytes(*start)))
}

fn pack(paths: &Paths, dir: &Path, root: Root, disk: &Path) -> Result<()> {
    packages::ensure(paths, &[Need::new("mmdebstrap", "mmdebstrap"), Need::new("e2fsprogs", "mke2fs")])?;
    ensure!(packages::is_root(), "a root is unpacked with its owners and device files: run this once as root");
    let work = tempfile::Builder::new().prefix("root-").tempdir_in(dir)?;
    // Anyone may enter it: mmdebstrap refuses a root below a directory that apt's own user cannot pass.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))?;
    let (tree, sources, image) =
        (work.path().join("tree"), work.path().join("debian.sources"), work.path().join("image"));
    fs::write(&sources, kernels::debian_sources(SUITE, Some(&format!("{SUITE}-security")))?)?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", "--architectures=amd64"]);
    command.arg(format!("--include={}", root.packages().collect::<Vec<_>>().join(",")));
    command.args(apt_options()?.iter().map(|option| format!("--aptopt={option}")));
    // Translations and documents take time and space that no test wants.
    command.arg("--dpkgopt=path-exclude=/usr/share/man/*").arg("--dpkgopt=path-exclude=/usr/share/locale/*");
    command.arg("--dpkgopt=path-exclude=/usr/share/doc/*");
    command.args(root.customize().iter().map(|hook| format!("--customize-hook={hook}")));
    command.arg(SUITE).arg(&tree).arg(&sources).env("LC_ALL", "C").current_dir("/");
    ui::quiet(
        paths,
        &format!("making the root {root} of Debian {SUITE}"),
        &format!("root-{root}"),
        BUILD_LIMIT,
        &mut command,
    )?;
    let mut command = Command::new("mke2fs");
    command
        .args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-L", "enforcer-root", "-d"])
        .arg(&tree)
        .arg(&image)
        .arg(DISK);
    ui::quiet(paths, &format!("packing the root {root}"), &format!("root-{root}-disk"), BUILD_LIMIT, &mut command)?;
    fs::rename(&image, disk).with_context(|| format!("cannot keep {}", disk.display()))
}

/// What this machine's apt needs to reach its mirror and to trust it: mmdebstrap's own starts from nothing.
fn apt_options() -> Result<Vec<String>> {
    Ok(parse_apt_options(&ui::capture(Command::new("apt-config").arg("dump").env("LC_ALL", "C"))?))
}

fn parse_apt_options(dump: &str) -> Vec<String> {
    dump.lines()
        .filter(|line| {
            ["Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until"]
                .iter()
                .any(|name| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
        })
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_have_names_and_keys_of_their_own() -> Result<()> {
        for root in Root::ALL {
            assert_eq!(Root::from_str(&root.to_string(), false), Ok(root));
        }
        assert_ne!(key(Root::Agents)?, key(Root::Systemd)?);
        Ok(())
    }

    #[test]
    fn apt_is_asked_for_what_matters() {
        let dump = "APT \"\";\nAcquire::http::Proxy \"http://p.example/\";\nAcquire::http::Proxy::h.example \"DIRECT\";\n\
                    Acquire::Check-Valid-Until \"false\";\nAcquire::Retries \"3\";\n";
        let expected = ["Acquire::http::Proxy \"http://p.example/\"", "Acquire::Check-Valid-Until \"false\""];
        assert_eq!(parse_apt_options(dump), expected);
    }

    #[test]
    fn a_disk_of_another_recipe_is_found() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for name in ["agents-0.ext4", "systemd-0.ext4", "agents.lock"] {
            fs::write(dir.path().join(name), "")?;
        }
        assert_eq!(others(dir.path(), Root::Agents)?, [dir.path().join("agents-0.ext4")]);
        Ok(())
    }
}
