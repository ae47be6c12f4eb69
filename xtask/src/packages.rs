//! The distribution's packages: which are missing, and how to get them.
//!
//! What is there is decided by looking for the files that are needed, so that another distribution, or a tool built by
//! hand, is as good as Debian's package. Only Debian's names are known for installing.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    paths::{Paths, which},
    ui,
};

/// Something that must be on the machine, and the Debian package that has it.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    /// Debian's name.
    pub(crate) package: String,
    /// Any of these will do: an absolute path, or a program's name.
    pub(crate) any_of: Vec<String>,
}

impl Need {
    /// A need for one file or program.
    pub(crate) fn new(package: impl Into<String>, one: impl Into<String>) -> Self {
        Self { package: package.into(), any_of: vec![one.into()] }
    }

    fn is_met(&self) -> bool {
        self.any_of.iter().any(
            |file| {
                if file.starts_with('/') { Path::new(file).exists() } else { which(file).is_some() }
            },
        )
    }
}

/// Installs what is missing of `needs`: by itself as root on Debian, else it says what to type and stops.
pub(crate) fn ensure(paths: &Paths, needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs.iter().filter(|need| !need.is_met()).map(|need| need.package.as_str()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if which("apt-get").is_none() {
        bail!(
            "missing on this machine: {names} (Debian's names). Install them with your distribution's package manager \
             and run this again"
        );
    }
    if !is_root() {
        bail!(
            "missing on this machine: {names}. Type:\n  sudo apt-get update && sudo apt-get install \
             --no-install-recommends {names}\nand run this again"
        );
    }
    let what = format!("installing {names}");
    // On a machine as it came there are no lists yet.
    let known = missing.iter().all(|package| is_available(package));
    if !known {
        update(paths)?;
    }
    if let Err(error) = install(paths, &what, &missing) {
        if !known {
            return Err(error);
        }
        ui::note("once more, with new package lists: these may be older than the archive");
        update(paths)?;
        install(paths, &what, &missing)?;
    }
    let still: Vec<&str> = needs.iter().filter(|need| !need.is_met()).map(|need| need.package.as_str()).collect();
    if !still.is_empty() {
        bail!("installed, and yet not usable: {}. Is another package in its place?", still.join(" "));
    }
    Ok(())
}

/// Installs the newest version of `packages` that the archive has, with new lists: those that a machine came with may lack
/// whole suites, such as that of security updates. As root on Debian alone.
pub(crate) fn upgrade(paths: &Paths, packages: &[&str]) -> Result<()> {
    update(paths)?;
    install(paths, &format!("bringing {} up to date", packages.join(" ")), packages)
}

fn update(paths: &Paths) -> Result<()> {
    let limit = Duration::from_mins(5);
    ui::quiet(paths, "updating the package lists", "apt-update", limit, apt_get().arg("update")).map(drop)
}

fn install(paths: &Paths, what: &str, packages: &[&str]) -> Result<()> {
    ui::quiet(
        paths,
        what,
        "apt-install",
        Duration::from_mins(30),
        apt_get().args(["install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]).args(packages),
    )
    .map(drop)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// Whether apt knows a version of `package` that it could install.
pub(crate) fn is_available(package: &str) -> bool {
    which("apt-cache").is_some()
        && ui::capture(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))
            .is_ok_and(|text| has_candidate(&text))
}

/// Whether `apt-cache policy` names a candidate.
fn has_candidate(policy: &str) -> bool {
    policy.lines().filter_map(|line| line.trim().strip_prefix("Candidate:")).any(|version| version.trim() != "(none)")
}

/// Whether this process acts as root.
pub(crate) fn is_root() -> bool {
    // The effective uid is the second number of the line.
    fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_uid(&status) == Some(0))
}

fn effective_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_is_read() {
        assert!(has_candidate("llvm:\n  Installed: (none)\n  Candidate: 1:22\n"));
        assert!(!has_candidate("llvm:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }

    #[test]
    fn effective_uid_is_the_second() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_uid(""), None);
    }
}
