//! An event as users see it. Keys are only ever added.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

/// A word that is nearly always one of this build's own.
pub type Word = Cow<'static, str>;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was decided: RFC 3339, nanoseconds, UTC.
    pub time: String,
    /// Unique on this host: the boot and a number that counts up.
    pub id: String,
    /// `exec`, `delete`, `write`, `connect`, `socket`, `fork`; `drop`, `names`, `policy`, `start`, `stop` are the daemon's own.
    pub kind: Word,
    /// `allow`, `deny`, `audit` or `hold`; absent for the daemon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Word>,
    /// The skill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skill: Option<Arc<str>>,
    /// The rule that decided, as the manifest has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
    /// Why.
    pub reason: Word,
    /// The manifest's own words for denials of this skill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<Arc<str>>,
    /// What the operator may want to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Word>,
    /// Process, in the initial pid namespace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pid: u32,
    /// Thread.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tid: u32,
    /// Parent process.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ppid: u32,
    /// User.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The thread's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// The program that the process runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// The cgroup, as a path below the mount where it is known, else its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Arc<str>>,
    /// The policy generation in which it was decided.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u32,
    /// What was acted upon.
    #[serde(default, skip_serializing_if = "Object::is_empty")]
    pub object: Object,
    /// The other process: the one that was to be signalled or traced, was moved, or has the file open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
    /// How many events were lost, for `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
    /// How many of them are records of the daemon's own; for the daemon alone.
    #[serde(skip)]
    pub dropped_own: u64,
}

impl Record {
    /// How many records are lost with it, and how many of them are the daemon's own: one that tells of lost ones stands for all of them.
    #[must_use]
    pub fn stands_for(&self) -> Lost {
        match self.dropped {
            Some(all) => Lost { all, own: self.dropped_own },
            None => Lost { all: 1, own: self.verdict.is_none().into() },
        }
    }

    /// Whether it tells of a denial, be it in audit mode.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self.verdict.as_deref(), Some("deny" | "audit"))
    }
}

/// Records that somebody did not get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// How many.
    pub all: u64,
    /// How many of them tell of no event in the kernel, but are the daemon's own.
    pub own: u64,
}

impl std::ops::AddAssign for Lost {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.own += other.own;
    }
}

/// What was acted upon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The path, as the daemon's mount namespace sees it where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The digest of its content, `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The filesystem's device number, `MAJOR:MINOR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    /// The inode number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    /// The host name of the policy that led to the address, or has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `tcp`, `udp` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Word>,
    /// `inet`, `inet6`, or another family's name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Word>,
}

impl Object {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
