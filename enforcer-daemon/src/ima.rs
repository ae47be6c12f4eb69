//! Whether the kernel's own measuring (IMA) can be relied on, or the daemon has to measure in its place.
//!
//! `bpf_ima_file_hash` reads the file each time, unless IMA has a policy: then IMA keeps what it has collected of an inode
//! (`security/integrity/ima/ima_main.c: __ima_inode_hash`), and finds out about changes in ways of its own, which below an overlay
//! it did not. Nobody can take a policy away before the next boot, but one can be loaded at any time.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use enforcer_common::content::MeasuredBy;
use inotify::WatchMask;
use tokio::time::sleep;

use crate::{engine::Engine, kernel::elder, watch::Watches};

/// Where IMA tells of itself (`security/integrity/ima/ima_fs.c`).
const DIR: &str = "/sys/kernel/security/ima";

/// Its policy, which is written by lines, and in force when whoever wrote it has closed it (`ima_release_policy`).
const POLICY: &str = "/sys/kernel/security/ima/policy";
/// How long after that is looked who measures. Where the policy cannot be read, a file must have been measured by then.
const LOOKS: [Duration; 3] = [Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(10)];

/// Has looked who measures each time that somebody has written IMA's policy, until the engine ends. Nothing is polled.
///
/// # Errors
/// When the kernel gives no watches.
pub async fn watch(engine: Engine) -> io::Result<()> {
    let mut watches = Watches::new(WatchMask::CLOSE_WRITE)?;
    let paths = [PathBuf::from(POLICY)].into();
    loop {
        watches.set(&paths);
        watches.ready().await?;
        if !watches.drain()? {
            continue;
        }
        for wait in LOOKS {
            sleep(wait).await;
            if engine.look_who_measures().await.is_none() {
                return Ok(());
            }
        }
    }
}

/// The environment variable that lets the daemon measure wherever it runs, with the value `daemon`: to see what that is like. There is none that
/// makes it rely on the kernel.
pub const VARIABLE: &str = "ENFORCER_MEASURED_BY";

/// What is not as it is where the kernel measures.
pub const PARTIAL: &str = "what nobody has executed before, or was changed, is refused until it has measured it, and \
    without a daemon it stays refused";

/// What is known of IMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether programs can have files measured at all.
    pub serves_programs: bool,
    /// Whether there is any.
    pub is_there: bool,
    /// What the kernel was booted with.
    pub command_line: String,
    /// The algorithm of the first measurement, that of the boot, which is the default one.
    pub algorithm: Option<String>,
    /// How many measurements were made; without a policy, that of the boot alone.
    pub measurements: Option<u64>,
    /// The policy.
    pub policy: Policy,
}

/// What is known of IMA's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Its rules: `CONFIG_IMA_READ_POLICY`.
    Rules(String),
    /// It can be written, and says nothing.
    Unreadable,
    /// The file has gone: one was loaded after the boot.
    Gone,
}

/// Who measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The kernel.
    Kernel,
    /// The daemon.
    Daemon {
        /// Why.
        why: String,
        /// What would let the kernel do it.
        fix: Option<&'static str>,
    },
}

impl Choice {
    /// What is best on this host now.
    #[must_use]
    pub fn here() -> Self {
        if std::env::var_os(VARIABLE).is_some_and(|by| by == "daemon") {
            return Self::Daemon { why: format!("{VARIABLE} asks for it"), fix: None };
        }
        Self::of(&Facts::look())
    }

    /// What is best where this is so.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let daemon = |why: &str, fix| Self::Daemon { why: why.to_owned(), fix };
        if !facts.serves_programs {
            return daemon(
                "this kernel cannot measure files for programs, or passes over those that wait for it",
                Some("boot a kernel from 6.2 on, or the newest of 6.1: apt-get install linux-image-amd64"),
            );
        }
        if !facts.is_there {
            return daemon(
                "the kernel has no IMA, or securityfs is not mounted",
                Some("boot a kernel with CONFIG_IMA=y; or: mount -t securityfs securityfs /sys/kernel/security"),
            );
        }
        let reboot = Some("remove IMA's options from the kernel's command line and reboot");
        let is_policy = |word: &str| {
            ["ima_policy=", "ima_appraise="].iter().any(|option| word.starts_with(option))
                || ["ima_tcb", "ima_appraise_tcb"].contains(&word)
        };
        if let Some(word) = facts.command_line.split_whitespace().find(|word| is_policy(word)) {
            return daemon(&format!("an IMA policy is loaded ({word} on the kernel's command line)"), reboot);
        }
        if let Some(algorithm) = facts.algorithm.as_deref().filter(|algorithm| *algorithm != "sha256") {
            return daemon(
                &format!("IMA takes {algorithm} of files, not the SHA-256"),
                Some("add `ima_hash=sha256` to the kernel's command line and reboot"),
            );
        }
        let loaded = "an IMA policy was loaded";
        let by = Some("have nobody load a policy (systemd loads /etc/ima/ima-policy), and reboot");
        match &facts.policy {
            Policy::Rules(rules) => match rules.lines().find(|rule| collects(rule)) {
                Some(rule) => daemon(&format!("{loaded} ({})", rule.trim()), by),
                None => Self::Kernel,
            },
            Policy::Gone => daemon(loaded, by),
            Policy::Unreadable if facts.measurements.is_some_and(|count| count > 1) => {
                daemon(&format!("{loaded}: files were measured by it"), by)
            }
            Policy::Unreadable => Self::Kernel,
        }
    }

    /// What who runs the daemon should know of it.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Kernel => None,
            Self::Daemon { why, .. } => Some(format!("files are measured by the daemon: {why}; {PARTIAL}")),
        }
    }

    /// Who it is.
    #[must_use]
    pub fn by(&self) -> MeasuredBy {
        match self {
            Self::Kernel => MeasuredBy::KERNEL,
            Self::Daemon { .. } => MeasuredBy::DAEMON,
        }
    }
}

/// Whether a rule has digests of files kept that somebody may execute or map.
fn collects(rule: &str) -> bool {
    /// Of these, nobody executes what they are about.
    const ELSEWHERE: [&str; 9] = [
        "KEXEC_KERNEL_CHECK",
        "KEXEC_INITRAMFS_CHECK",
        "KEXEC_CMDLINE",
        "MODULE_CHECK",
        "FIRMWARE_CHECK",
        "POLICY_CHECK",
        "KEY_CHECK",
        "CRITICAL_DATA",
        "SETXATTR_CHECK",
    ];
    let mut words = rule.split_whitespace();
    let acts = words.next().is_some_and(|action| !action.starts_with('#') && !action.starts_with("dont_"));
    acts && !words.any(|word| word.strip_prefix("func=").is_some_and(|about| ELSEWHERE.contains(&about)))
}

impl Facts {
    /// Looks at this host.
    #[must_use]
    pub fn look() -> Self {
        let at = |name: &str| Path::new(DIR).join(name);
        let text = |name: &str| fs::read_to_string(at(name));
        Self {
            serves_programs: elder::is_elder_here().is_ok_and(|is_elder| !is_elder),
            is_there: Path::new(DIR).exists(),
            command_line: fs::read_to_string("/proc/cmdline").unwrap_or_default(),
            algorithm: first_line(&at("ascii_runtime_measurements")).and_then(|line| algorithm(&line)),
            measurements: text("runtime_measurements_count").ok().and_then(|count| count.trim().parse().ok()),
            policy: match text("policy") {
                Ok(rules) => Policy::Rules(rules),
                Err(e) if e.kind() == ErrorKind::NotFound => Policy::Gone,
                Err(_) => Policy::Unreadable,
            },
        }
    }
}

fn first_line(path: &Path) -> Option<String> {
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?).read_line(&mut line).ok()?;
    Some(line)
}

/// The algorithm of the boot's measurement, such as `10 HASH ima-ng sha256:DIGEST boot_aggregate`.
fn algorithm(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip(3);
    let (algorithm, _) = words.next()?.split_once(':')?;
    words.next().filter(|name| name.starts_with("boot_aggregate")).map(|_| algorithm.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Facts {
        Facts {
            serves_programs: true,
            is_there: true,
            command_line: "quiet lsm=landlock,bpf".into(),
            algorithm: Some("sha256".into()),
            measurements: Some(1),
            policy: Policy::Unreadable,
        }
    }

    #[test]
    fn the_kernel_measures_where_ima_keeps_nothing() {
        let rules = |text: &str| Facts { policy: Policy::Rules(text.into()), ..plain() };
        let booted = |line: &str| Facts { command_line: line.into(), ..plain() };
        let secure_boot = "appraise func=KEXEC_KERNEL_CHECK appraise_type=imasig\nmeasure func=MODULE_CHECK\n";
        let cases = [
            (plain(), true),
            (Facts { algorithm: None, measurements: None, ..plain() }, true),
            (rules(""), true),
            (rules(secure_boot), true),
            (rules("# a remark\ndont_measure fsmagic=0x9fa0\n"), true),
            (Facts { measurements: Some(7), ..rules(secure_boot) }, true),
            (Facts { is_there: false, ..plain() }, false),
            (Facts { serves_programs: false, ..plain() }, false),
            (booted("quiet ima_policy=tcb"), false),
            (booted("ima_policy=\"appraise_tcb|secure_boot\""), false),
            (booted("ima_appraise=enforce"), false),
            (booted("ima_tcb"), false),
            (booted("xima_tcb ima_template=ima-ng"), true),
            (Facts { algorithm: Some("sha1".into()), ..plain() }, false),
            (Facts { measurements: Some(2), ..plain() }, false),
            (Facts { policy: Policy::Gone, ..plain() }, false),
            (rules("dont_measure fsmagic=0x9fa0\nmeasure func=BPRM_CHECK mask=MAY_EXEC\n"), false),
            (rules("audit func=MMAP_CHECK mask=MAY_EXEC\n"), false),
            (rules("appraise fowner=0\n"), false),
        ];
        for (facts, kernel) in cases {
            let choice = Choice::of(&facts);
            assert_eq!(choice == Choice::Kernel, kernel, "{facts:?}: {choice:?}");
            assert_eq!(choice.by().is_daemon(), !kernel);
        }
    }

    #[test]
    fn the_default_algorithm_is_that_of_the_boots_measurement() {
        let line = |digest: &str, name: &str| algorithm(&format!("10 0f00 ima-ng {digest} {name}"));
        assert_eq!(line("sha256:00ff", "boot_aggregate").as_deref(), Some("sha256"));
        assert_eq!(line("sha1:00ff", "boot_aggregate\n").as_deref(), Some("sha1"));
        assert_eq!(line("sha1:00ff", "/usr/bin/id"), None);
        assert_eq!(algorithm("10 0f00 ima 00ff boot_aggregate"), None);
        assert_eq!(algorithm(""), None);
    }
}
