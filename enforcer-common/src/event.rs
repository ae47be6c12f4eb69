//! The event record: what a program writes into the ring buffer and the daemon reads.
//!
//! The layout is fixed and only ever grows at its end. Enumerations cross as numbers and are checked when they are read
//! (`from_raw`), never transmuted.

use crate::{
    ids::{Digest, Generation, ObjectId, RuleId, SkillId},
    net::Address,
};

/// A number that names a variant, checked on the way in.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }

        impl $name {
            /// All variants.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The variant of a number, or `None` when this build knows none.
            #[must_use]
            pub const fn from_raw(raw: u8) -> Option<Self> {
                match raw { $($value => Some(Self::$variant),)+ _ => None }
            }

            /// The name in events; it does not change between versions.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

wire_enum! {
    /// What was attempted.
    Kind {
        /// A program was to be executed.
        Exec = 1 => "exec",
        /// A file or directory was to be removed, by whatever system call.
        Delete = 2 => "delete",
        /// A file was to be written or made.
        Write = 3 => "write",
        /// A connection or datagram was to leave.
        Connect = 4 => "connect",
        /// A socket of a family or type that no rule can name was to be made.
        Socket = 5 => "socket",
        /// A process was to be made.
        Fork = 6 => "fork",
        /// A file was to be read.
        Read = 7 => "read",
        /// Another process was to be signalled.
        Signal = 8 => "signal",
        /// Another process's memory or files were to be reached.
        Trace = 9 => "trace",
        /// A filesystem was to be mounted.
        Mount = 10 => "mount",
        /// A governed process was moved to another cgroup.
        Move = 11 => "move",
        /// A process entered a skill.
        Enter = 12 => "enter",
        /// Memory was to become executable, from a file or without one.
        Map = 13 => "map",
        /// A socket was to get a local address and port.
        Bind = 16 => "bind",
        /// A socket was to take connections.
        Listen = 17 => "listen",
        /// A socket that was made elsewhere came, or was brought along.
        Receive = 18 => "receive",
        /// Enforcement, the kernel, or the machine below it was to be reached.
        Tamper = 20 => "tamper",
        /// A cgroup was made that is not governed. For the daemon alone, which may know a container or a unit by its path.
        CgroupMade = 21 => "cgroup made",
        /// A cgroup was removed that was named. For the daemon alone.
        CgroupGone = 22 => "cgroup gone",
    }
}

wire_enum! {
    /// What became of it.
    Verdict {
        /// It was allowed.
        Allow = 1 => "allow",
        /// It was refused with EPERM.
        Deny = 2 => "deny",
        /// It would have been refused, but the skill is in audit mode.
        Audit = 3 => "audit",
        /// It waits for a human.
        Hold = 4 => "hold",
    }
}

wire_enum! {
    /// Why.
    Reason {
        /// A rule allows it.
        Allowed = 1 => "allowed",
        /// No rule of the skill names this digest.
        BinaryNotListed = 2 => "binary not listed",
        /// The kernel could not measure the content.
        NotMeasured = 3 => "content could not be measured",
        /// The daemon measures on this host, and has not come to this content yet.
        NotMeasuredYet = 28 => "content was not measured yet",
        /// No rule names the object or a directory above it.
        PathNotListed = 4 => "path not listed",
        /// The object lies deeper than [`crate::rules::MAX_DEPTH`].
        TooDeep = 5 => "path is too deep to decide",
        /// No prefix of the skill covers the destination.
        DestinationNotListed = 6 => "destination not listed",
        /// The socket's protocol is neither TCP nor UDP.
        ProtocolNotListed = 7 => "protocol not allowed",
        /// The skill may do it once it is approved, and nobody can approve.
        NeedsApproval = 8 => "requires approval and no approver is there",
        /// The task's skill is not in the policy in force.
        NoPolicy = 9 => "skill is not in the policy in force",
        /// A map was full, so that the child could not have been governed.
        NoRoom = 10 => "label map is full",
        /// A `protect` rule is the nearest.
        Protected = 11 => "protected",
        /// The object hangs on no root that a rule could name, as after `open_by_handle_at`.
        Unreachable = 12 => "no path leads to the object",
        /// As many objects as the budget allows were deleted within its window.
        OverBudget = 13 => "delete budget is used up",
        /// The link would reach the object where the skill may do more with it.
        LinkGains = 14 => "link would widen what the skill may do with the file",
        /// The target is not in the same skill.
        OtherSkill = 15 => "target is outside the skill",
        /// A stacked filesystem would show objects under other identities.
        StackedMount = 16 => "stacked filesystems hide what lies below",
        /// The content of such a filesystem is what its server says, from one read to the next, and the agent could be that.
        ServedMount = 21 => "what is measured of such a filesystem is what its server says then",
        /// A request with other credentials could not be told from the kernel's own.
        Personality = 17 => "io_uring personalities are not allowed",
        /// The label stays whatever cgroup the process is in.
        LabelStays = 18 => "moved to another cgroup, the skill stays",
        /// The process got its label.
        Entered = 19 => "entered the skill",
        /// A tracer would carry over what it holds into the other skill.
        Traced = 20 => "a traced process may not change its skill",
        /// A directory or symbolic link on the way to what a `protect` rule names: moved away, it would take the path along.
        ProtectedWay = 23 => "a protected path leads through it",
        /// Userspace alone says it, instead of [`Reason::BinaryNotListed`]: the path is listed, and this is not its content.
        BinaryChanged = 27 => "binary changed: it is not what its path is pinned to",
        /// No rule names the unix socket.
        SocketNotListed = 45 => "unix socket not listed",
        /// No rule of `listen` covers the local address and port.
        ListenNotListed = 46 => "listening is not listed",
        /// A signal that the kernel sends later, or in another's name, would be past every verdict.
        FileOwner = 49 => "a file's owner may be the process itself alone",
        /// The message would change routes, addresses or links.
        NetworkChange = 47 => "changing the network is not allowed",
        /// The option would send packets by way of other addresses.
        SourceRoute = 48 => "source routes are not allowed",
        /// The content of a memory file that can still be written is not held against changes.
        MemoryFileNotSealed = 30 => "memory file is not sealed",
        /// Somebody opened the file for writing while it was being opened for execution.
        ChangedWhileOpened = 31 => "file was opened for writing while it was opened for execution",
        /// The kernel would not run a file that is open for writing, but does not look below an overlay.
        OpenForWriting = 32 => "file below the overlay is open for writing",
        /// What was mapped so may be written when neither a descriptor nor a mapping is left.
        ContentMapped = 33 => "a governed process has mapped it to write it",
        /// Neither where the file lies nor its content is in `allow_libraries`, and its content is no allowed binary's.
        LibraryNotListed = 37 => "library not listed",
        /// What may be mapped as code may not be written.
        LibraryReadOnly = 38 => "library directories are read-only",
        /// No file vouches for what the memory holds.
        MemoryExecutable = 39 => "memory may not become executable",
        /// The mapping of a file can be, or was, written by the process.
        MappingWritten = 40 => "a written mapping may not become executable",
        /// The acting program is none of `parents`, and neither is one that it descends from.
        ParentNotListed = 41 => "parent not listed",
        /// Somebody may write what was to be measured.
        ContentOpen = 42 => "content is open for writing",
        /// The file was measured and mapped as code.
        ContentInUse = 43 => "content is in use as code",
        /// Code could be written past every mapping.
        MemoryWritten = 44 => "process memory may not be written",
        /// One of the manifest, the daemon's binary, unit, state and pins, or a directory on the way to one.
        OwnFile = 65 => "it is Enforcer's own",
        /// The daemon's process.
        OwnProcess = 66 => "it is Enforcer's own process",
        /// `bpf(2)`, or what it gave another process.
        BpfCall = 67 => "governed processes have no use of bpf",
        /// A module, a kernel to be started, or another text for the kernel.
        KernelCode = 68 => "it loads code into the kernel",
        /// What a locked-down kernel refuses: memory, ports, registers, tracing.
        LockedDown = 69 => "it reaches into the kernel or the hardware",
        /// `perf_event_open(2)`, or what it gave another process.
        PerfEvent = 70 => "performance events reach other processes",
        /// A disk, memory or another device below everything that rules name.
        RawDevice = 71 => "the device lies below everything that rules name",
        /// A file by which the kernel is told what to do, or a cgroup, that no rule names.
        KernelInterface = 72 => "it tells the kernel what to do, and no rule names it",
        /// A mount that is not the process's alone.
        HostMount = 73 => "processes outside would see the mount",
        /// A filesystem's settings.
        Remount = 74 => "the filesystem's settings are not this process's",
        /// A bpffs.
        BpfMount = 75 => "pins are made in a bpffs",
        /// The clock that dates events.
        Clock = 76 => "the clock dates events",
        /// Characters that whoever reads the terminal takes for typed, such as the shell that started the agent.
        TerminalInput = 77 => "it would type into a terminal",
        /// An `io_uring` that was made elsewhere: what is submitted to it may be done by a thread that is in no skill.
        OutsideRing = 78 => "an io_uring from elsewhere acts without the skill",
        /// Restarting the machine, taking a module out, swapping, accounting, and their like.
        HostControl = 79 => "it acts upon the host as a whole",
    }
}

/// A [`Reason`] as it crosses the boundary.
///
/// The decision core works with these bytes: a byte in memory is an unknown to the verifier, where an enumeration's variants
/// are constants that it would follow one by one through the rest of the program.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonCode(pub u8);

impl ReasonCode {
    /// The reason, or `None` when this build knows none of that number.
    #[must_use]
    pub const fn known(self) -> Option<Reason> {
        Reason::from_raw(self.0)
    }

    /// No reason.
    pub const NONE: Self = Self(0);

    /// Whether it is no reason.
    #[must_use]
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether it is one of those that hold in audit mode, too: to watch a skill is no licence for it to end the watching.
    #[must_use]
    #[inline(always)]
    pub const fn is_self_protection(self) -> bool {
        self.0 >= Reason::OwnFile as u8 && self.0 < Self::AFTER_SELF_PROTECTION
    }

    /// The numbers from [`Reason::OwnFile`] to this one are kept for self-protection.
    const AFTER_SELF_PROTECTION: u8 = 80;

    /// Whether it is this reason.
    #[must_use]
    #[inline(always)]
    pub const fn is(self, reason: Reason) -> bool {
        self.0 == reason as u8
    }
}

impl From<Reason> for ReasonCode {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self(reason as u8)
    }
}

impl PartialEq<Reason> for ReasonCode {
    fn eq(&self, other: &Reason) -> bool {
        self.is(*other)
    }
}

/// How many bytes of an object's path an event carries.
pub const PATH_CAPACITY: usize = 1024;
/// How many bytes of the acting program's path an event carries.
pub const EXE_CAPACITY: usize = 512;
/// The longest path component (`NAME_MAX`), with its NUL.
pub const NAME_CAPACITY: usize = 256;

/// A path as the kernel finds it: the components from the leaf towards the filesystem's root, each with a NUL behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawPath<const N: usize> {
    /// How many bytes are in use; at most `N`.
    pub len: u32,
    /// The filesystem's `s_dev`, by which the daemon finds the mount; 0 when there is no path.
    pub dev: u32,
    /// 1 when components nearer to the root were left out for want of room.
    pub truncated: u32,
    /// Not used.
    pub reserved: u32,
    /// The components.
    pub bytes: [u8; N],
}

/// One event. Times are nanoseconds of `CLOCK_BOOTTIME`; ids are those of the initial namespaces.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// `bpf_ktime_get_boot_ns`.
    pub time_ns: u64,
    /// The acting task's cgroup v2 id.
    pub cgroup: u64,
    /// The object of an exec, a delete, or a connect to a unix socket.
    pub object: ObjectId,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Process of the parent.
    pub ppid: u32,
    /// User.
    pub uid: u32,
    /// The skill that the task is in.
    pub skill: SkillId,
    /// The rule that decided.
    pub rule: RuleId,
    /// The generation in which it was decided.
    pub generation: Generation,
    /// A [`Kind`].
    pub kind: u8,
    /// A [`Verdict`].
    pub verdict: u8,
    /// A [`Reason`].
    pub reason: u8,
    /// 1 when `digest` was measured.
    pub has_digest: u8,
    /// `task_struct.comm`.
    pub comm: [u8; 16],
    /// The content's digest, for an exec.
    pub digest: Digest,
    /// The destination's address, for a connect.
    pub address: Address,
    /// The destination's port in host order, for a connect.
    pub port: u16,
    /// The address family, for a connect or a socket.
    pub family: u16,
    /// The IP protocol, for a connect or a socket.
    pub protocol: u16,
    /// The socket type, for a socket.
    pub socket_type: u16,
    /// The process that was to be reached, for a signal or a trace.
    pub target: u32,
    /// Not used.
    pub reserved: u32,
    /// The object's path.
    pub path: RawPath<PATH_CAPACITY>,
    /// The path of the program that the acting process runs.
    pub exe: RawPath<EXE_CAPACITY>,
}

const _: () = assert!(size_of::<RawPath<PATH_CAPACITY>>() == 16 + PATH_CAPACITY);
const _: () = assert!(size_of::<Event>() == 144 + 16 + PATH_CAPACITY + 16 + EXE_CAPACITY);
const _: () = assert!(PATH_CAPACITY > NAME_CAPACITY && EXE_CAPACITY > NAME_CAPACITY);
