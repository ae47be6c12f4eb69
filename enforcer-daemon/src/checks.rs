//! What this host can enforce. Each check looks at one thing; the last one loads the programs, which settles it.

use std::{fs, path::Path};

use serde::Serialize;

use crate::{
    ima::{self, Choice},
    kernel::{
        elder,
        load::{self, CGROUP_ROOT},
        offsets::{self, BTF_PATH},
        release,
    },
};

/// The oldest kernel that is not refused outright.
const OLDEST: (u32, u32) = (5, 15);
/// The oldest kernel that can do all that the programs ask for; for what older ones lack see `kernel::offsets::is_elder_here`.
const FULL_FROM: (u32, u32) = (6, 1);
/// The inode number of the initial pid namespace (`include/linux/proc_ns.h: PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// The magic number of cgroup v2 (`include/uapi/linux/magic.h: CGROUP2_SUPER_MAGIC`).
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// The capabilities that loading takes, with their bits (`include/uapi/linux/capability.h`).
const CAPABILITIES: [(&str, u32); 4] = [("net_admin", 12), ("sys_admin", 21), ("perfmon", 38), ("bpf", 39)];

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is missing.
    Ok,
    /// Something is not enforced.
    Partial,
    /// Nothing can be enforced.
    Missing,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// The line to type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What is not enforced.
#[derive(Clone, Debug, Serialize)]
pub struct Missing {
    /// The check.
    pub what: &'static str,
    /// What was found.
    pub why: String,
    /// The line to type; empty when there is none.
    pub fix: String,
}

/// What is enforced here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All that this build knows.
    Full,
    /// Part of it.
    Partial,
    /// Nothing.
    None,
}

/// All checks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The result.
    pub verdict: Verdict,
    /// The running kernel.
    pub kernel: String,
    /// What is missing for more.
    pub missing: Vec<Missing>,
    /// Every check.
    pub checks: Vec<Check>,
}

/// What settles whether the programs can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// They are loaded for that, and let go.
    Load,
    /// What follows will load them, or they are in force.
    Leave,
}

/// Looks at everything.
#[must_use]
pub fn run(programs: Programs) -> Report {
    let kernel = release::here();
    let mut checks = vec![
        version(&kernel),
        passed_over(elder::passes_over_here(), elder::is_preemptible()),
        btf(),
        lsm(),
        ima(),
        cgroup(),
        lockdown(),
        capabilities(),
        namespace(),
    ];
    if programs == Programs::Load {
        let first = checks.iter().find(|check| check.state == State::Missing).map(|check| check.name);
        checks.push(load(first));
    }
    let missing: Vec<Missing> = checks
        .iter()
        .filter(|c| c.state != State::Ok)
        .map(|c| Missing { what: c.name, why: c.found.clone(), fix: c.fix.clone().unwrap_or_default() })
        .collect();
    let verdict = if checks.iter().any(|c| c.state == State::Missing) {
        Verdict::None
    } else if missing.is_empty() {
        Verdict::Full
    } else {
        Verdict::Partial
    };
    Report { verdict, kernel, missing, checks }
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, state: State::Ok, found: found.into(), fix: None }
}

fn missing(name: &'static str, found: impl Into<String>, fix: &str) -> Check {
    let fix = (!fix.is_empty()).then(|| fix.to_owned());
    Check { name, state: State::Missing, found: found.into(), fix }
}

/// The third number of a release: 0 where there is none.
fn parse_patch(release: &str) -> u32 {
    let main = release.split(['-', '+']).next().unwrap_or_default();
    main.split('.').nth(2).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Whether exec does not keep others from writing the file that it runs: from commit 2a010c412853 ("fs: don't block
/// `i_writecount` during exec", 6.11) until 3b832035387f took it back (6.13, 6.12.2, 6.11.11). A distribution can have taken it back
/// sooner.
fn leaves_running_files_writable(release: &str) -> bool {
    match release::parse(release) {
        Some((6, 11)) => parse_patch(release) < 11,
        Some((6, 12)) => parse_patch(release) < 2,
        Some(_) | None => false,
    }
}

fn version(release: &str) -> Check {
    const NAME: &str = "kernel";
    let newer = "boot a kernel from 6.1 on: apt-get install linux-image-amd64; on Ubuntu 22.04: apt-get install linux-generic-hwe-22.04";
    match release::parse(release) {
        Some(v) if v < OLDEST => missing(
            NAME,
            format!("{release}: kernels before 5.15 lack hooks and helpers that enforcement rests on"),
            newer,
        ),
        Some(v) if v < FULL_FROM => Check {
            name: NAME,
            state: State::Partial,
            found: format!(
                "{release}: before 6.1 the daemon measures, and unix sockets are not told apart: those that a rule names are refused"
            ),
            fix: Some(newer.into()),
        },
        Some(_) if leaves_running_files_writable(release) => Check {
            name: NAME,
            state: State::Partial,
            found: format!(
                "{release}: from 6.11.0 to 6.11.10 and from 6.12.0 to 6.12.1 a program can be written while it is executed, \
                 after it was measured; a distribution's kernel of that number may have this mended (3b832035387f)"
            ),
            fix: Some("boot 6.12.2 or later: apt-get install linux-image-amd64".into()),
        },
        Some(_) => ok(NAME, release),
        None => missing(NAME, format!("{release}: a release this build does not understand"), newer),
    }
}

/// Whether every act meets the programs. Where one can be passed over none is loaded that sleeps, so that a task leaves one in the
/// midst only where it can be put aside anywhere.
fn passed_over(passes_over: bool, is_preemptible: bool) -> Check {
    const NAME: &str = "programs passed over";
    let entry = format!("{} has no {}", elder::SYMBOLS, elder::ENTRY);
    match (passes_over, is_preemptible) {
        (false, _) => ok(NAME, "none is while another task is in it"),
        (true, false) => ok(NAME, format!("{entry}, but no program sleeps here, and no task is put aside within one")),
        (true, true) => missing(
            NAME,
            format!(
                "{entry}, and `uname -v` says PREEMPT: this kernel puts tasks aside within a program, and passes the program over for the \
                 next task"
            ),
            "install the distribution's latest kernel, one from 6.2 on, or one that is not preemptible, and boot it: apt-get update, \
             apt-get upgrade",
        ),
    }
}

fn btf() -> Check {
    const NAME: &str = "types (BTF)";
    match offsets::read(Path::new(BTF_PATH)) {
        Ok(_) => ok(NAME, BTF_PATH),
        Err(e) => {
            missing(NAME, e.to_string(), "boot a distribution's kernel, or build one with CONFIG_DEBUG_INFO_BTF=y")
        }
    }
}

fn lsm() -> Check {
    const NAME: &str = "BPF LSM";
    const LIST: &str = "/sys/kernel/security/lsm";
    match fs::read_to_string(LIST) {
        Ok(list) if list.trim().split(',').any(|l| l == "bpf") => ok(NAME, list.trim()),
        Ok(list) => missing(
            NAME,
            format!("`bpf` is not among the active LSMs: {}", list.trim()),
            &format!(
                "add `lsm={},bpf` to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and reboot",
                list.trim()
            ),
        ),
        Err(e) => missing(NAME, format!("{LIST}: {e}"), "mount -t securityfs securityfs /sys/kernel/security"),
    }
}

fn ima() -> Check {
    const NAME: &str = "IMA";
    match Choice::here() {
        Choice::Kernel => ok(NAME, "digests are measured by the kernel"),
        Choice::Daemon { why, fix } => Check {
            name: NAME,
            state: State::Partial,
            found: format!("digests are measured by the daemon: {why}; {}", ima::PARTIAL),
            fix: fix.map(Into::into),
        },
    }
}

fn cgroup() -> Check {
    const NAME: &str = "cgroup v2";
    match rustix::fs::statfs(CGROUP_ROOT) {
        Ok(stat) if stat.f_type == CGROUP2_MAGIC => ok(NAME, CGROUP_ROOT),
        Ok(_) => missing(
            NAME,
            format!("{CGROUP_ROOT} is not cgroup v2"),
            "add `systemd.unified_cgroup_hierarchy=1` to the kernel's command line, or: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
        Err(e) => missing(NAME, format!("{CGROUP_ROOT}: {e}"), "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
    }
}

fn lockdown() -> Check {
    const NAME: &str = "lockdown";
    let mode = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if mode.contains("[confidentiality]") {
        return missing(
            NAME,
            "confidentiality: programs may not read kernel memory",
            "boot with lockdown=integrity or without lockdown",
        );
    }
    ok(NAME, if mode.is_empty() { "not built in" } else { mode.trim() })
}

/// The capabilities that this process lacks of those that enforcement needs, without the `cap_`.
#[must_use]
pub fn lacking_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name).collect()
}

fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    let lacking = lacking_capabilities();
    if lacking.is_empty() {
        ok(NAME, "net_admin, sys_admin, perfmon, bpf")
    } else {
        missing(NAME, format!("this process lacks cap_{}", lacking.join(", cap_")), "sudo enforcer doctor")
    }
}

fn namespace() -> Check {
    const NAME: &str = "pid namespace";
    match fs::read_link("/proc/self/ns/pid") {
        Ok(link) if link.as_os_str() == INITIAL_PID_NAMESPACE => ok(NAME, "initial"),
        Ok(_) => missing(
            NAME,
            "not the host's: the daemon would not know its own processes",
            "run it on the host, or with --pid=host",
        ),
        Err(e) => missing(NAME, format!("/proc/self/ns/pid: {e}"), "mount -t proc proc /proc"),
    }
}

/// Loads the programs, which takes a while, where nothing else stands against it.
fn load(missing_first: Option<&str>) -> Check {
    const NAME: &str = "programs";
    if let Some(missing_first) = missing_first {
        return missing(NAME, format!("not tried: {missing_first} comes first"), "");
    }
    match load::check() {
        Ok(()) => ok(NAME, "every program was accepted by the kernel"),
        Err(e) => missing(NAME, e.to_string(), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_let_a_running_program_be_written_are_partial() {
        let states = [
            ("6.10.14", State::Ok),
            ("6.11.0-29-generic", State::Partial),
            ("6.11.10+bpo-amd64", State::Partial),
            ("6.11.11", State::Ok),
            ("6.12.0-1-amd64", State::Partial),
            ("6.12-amd64", State::Partial),
            ("6.12.1", State::Partial),
            ("6.12.2", State::Ok),
            ("6.12.48+deb13-cloud-amd64", State::Ok),
            ("6.13.0", State::Ok),
            ("7.2.1", State::Ok),
        ];
        for (release, state) in states {
            let check = version(release);
            assert_eq!(check.state, state, "{check:?}");
            assert_eq!(check.found.contains("6.12.1 a program can be written"), state == State::Partial, "{check:?}");
        }
    }

    #[test]
    fn a_kernel_that_passes_over_programs_enforces_only_where_it_puts_no_task_aside() {
        assert_eq!(passed_over(false, true).state, State::Ok);
        assert_eq!(passed_over(true, false).state, State::Ok);
        assert_eq!(passed_over(true, true).state, State::Missing);
    }

    #[test]
    fn old_kernels_are_refused_with_the_reason() {
        assert_eq!(version("5.10.223").state, State::Missing);
        assert!(version("5.10.223").found.contains("5.15"));
        assert_eq!(version("5.15.0").state, State::Partial);
        assert_eq!(version("6.0.19").state, State::Partial);
        // As Ubuntu 22.04 has it.
        let check = version("5.15.0-47-generic");
        assert!(check.fix.is_some_and(|fix| fix.contains("linux-generic-hwe-22.04")));
        assert_eq!(version("6.1.0").state, State::Ok);
    }
}
