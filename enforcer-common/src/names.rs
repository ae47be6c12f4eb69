//! The names of maps and programs, written once. The kernel object declares its symbols under these names, and the
//! daemon finds them by these constants; a test of the daemon compares both with the object.

/// The names of maps.
pub mod map {
    /// Labels: which skill a task is in, by the address of its `task_struct`.
    pub const TASKS: &str = "TASKS";
    /// The [`TASKS`] of the programs that these replace, while both are attached.
    pub const TASKS_BEFORE: &str = "TASKS_BEFORE";
    /// How many labels there are of tasks with such an address.
    pub const TASK_FILTER: &str = "TASK_FILTER";
    /// Which skill a cgroup belongs to, by its kernfs id.
    pub const CGROUPS: &str = "CGROUPS";
    /// Whether any cgroup with such an id may be in [`CGROUPS`].
    pub const CGROUP_FILTER: &str = "CGROUP_FILTER";
    /// Whether a governed cgroup with such an id found no room in [`CGROUPS`].
    pub const CGROUP_OVERFLOW: &str = "CGROUP_OVERFLOW";
    /// Labels of named cgroups that found no room in [`CGROUPS`].
    pub const CGROUP_SPARE: &str = "CGROUP_SPARE";
    /// The skills of cgroups that the manifest names, by path, for when they appear.
    pub const CGROUP_NAMES: &str = "CGROUP_NAMES";
    /// The patterns of units that the manifest names.
    pub const UNIT_PATTERNS: &str = "UNIT_PATTERNS";
    /// How far the search for its rule is.
    pub const UNIT_PROGRESS: &str = "UNIT_PROGRESS";
    /// The path of the cgroup that is being made.
    pub const CGROUP_PATH: &str = "CGROUP_PATH";
    /// Programs that service managers execute before the one that is to be governed, by identity.
    pub const LAUNCHERS: &str = "LAUNCHERS";
    /// The policy generation in force.
    pub const POLICY: &str = "POLICY";
    /// The settings of each skill.
    pub const SKILLS: &str = "SKILLS";
    /// Allowed binaries by digest.
    pub const BINARIES: &str = "BINARIES";
    /// Path rules by the kernel's identity of the object.
    pub const OBJECTS: &str = "OBJECTS";
    /// Whether any inode with such a number may be in [`OBJECTS`].
    pub const OBJECT_FILTER: &str = "OBJECT_FILTER";
    /// Skills by the digest of their entrypoint.
    pub const ENTRYPOINTS: &str = "ENTRYPOINTS";
    /// The programs that `parents` rules name, by digest.
    pub const PARENTS: &str = "PARENTS";
    /// The times of each skill's last deletes.
    pub const BUDGETS: &str = "BUDGETS";
    /// Network rules by address prefix.
    pub const DESTINATIONS: &str = "DESTINATIONS";
    /// Rules of `listen` by address prefix.
    pub const LISTENERS: &str = "LISTENERS";
    /// Unix sockets that may be reached by an abstract name.
    pub const ABSTRACT: &str = "ABSTRACT";
    /// Which skill a socket was made in.
    pub const SOCKETS: &str = "SOCKETS";
    /// The event ring.
    pub const EVENTS: &str = "EVENTS";
    /// Events that found the ring full, per CPU.
    pub const DROPS: &str = "DROPS";
    /// Which tasks the enrolment iterator shall label.
    pub const ENROL: &str = "ENROL";
    /// What the daemon knows of the host.
    pub const HOST: &str = "HOST";
    /// What is known of the content of files that were executed, by inode.
    pub const CONTENTS: &str = "CONTENTS";
    /// The number that was given out last to a version of a file's content.
    pub const LAST_VERSION: &str = "LAST_VERSION";
    /// How often a digest was measured, and how often it was known, per CPU.
    pub const MEASUREMENTS: &str = "MEASUREMENTS";
    /// What the daemon's threads and the `inode_getxattr` program tell each other about the content of files.
    pub const MEASUREMENT: &str = "MEASUREMENT";
    /// Answers of the `inode_getxattr` program to the daemon's threads.
    pub const RESOLVED: &str = "RESOLVED";
}

/// The name of the global that holds [`crate::offsets::Offsets`].
pub const OFFSETS: &str = "OFFSETS";

/// The extended attribute that the daemon asks for to learn an object's [`crate::ids::ObjectId`]. It exists on no file;
/// names in the `security` namespace reach the LSM hook on every type of file and on read-only filesystems
/// (`fs/xattr.c: xattr_permission`).
pub const RESOLVE_XATTR: &str = "security.enforcer";

/// The extended attribute that the daemon asks for to learn which version a file's content has: a
/// [`crate::content::Measurement`]. It begins like [`RESOLVE_XATTR`], and is as long as [`DIGEST_XATTR`].
pub const VERSION_XATTR: &str = "security.enforcer.v";

/// The extended attribute that the daemon asks for to tell the digest of such a version.
pub const DIGEST_XATTR: &str = "security.enforcer.d";
