//! Newtypes for the numbers that cross the boundary.

/// A skill's number: the daemon gives it out per skill name, and it stays the same over reloads of the policy.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SkillId(pub u32);

impl SkillId {
    /// Not a skill: the label of the daemon's own threads. They are not governed, and the `inode_getxattr` program tells
    /// them what the kernel calls an object.
    pub const RESOLVER: Self = Self(u32::MAX);

    /// A skill that no policy has: what is in it is refused everything that is governed.
    pub const NOBODY: Self = Self(Self::LIMIT);

    /// How many skills a policy can have; the `SKILLS` map is of this size.
    pub const LIMIT: u32 = 4096;

    /// Whether this label governs its task.
    #[must_use]
    #[inline(always)]
    pub const fn governs(self) -> bool {
        self.0 != Self::RESOLVER.0
    }
}

/// A policy generation. 0 means that no policy was ever applied; each successful apply adds one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

/// The number of a manifest rule, unique in one run of the daemon, so that an event can name what decided.
/// 0 means that no rule did.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule matched.
    pub const NONE: Self = Self(0);
}

/// A SHA-256 digest. Aligned, so that the kernel programs copy and compare words: BPF has no unaligned ones.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The kernel's identity of a file or directory.
///
/// `dev` is `super_block.s_dev` (`major << 20 | minor`), which on btrfs and overlayfs is not what `stat` says;
/// `generation` is `inode.i_generation`, which tells a reused inode number from the one that a rule was made for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// `inode.i_ino`.
    pub ino: u64,
    /// `inode.i_sb.s_dev`.
    pub dev: u32,
    /// `inode.i_generation`.
    pub generation: u32,
}

const _: () = assert!(size_of::<ObjectId>() == 16);
