//! The values of the policy maps.
//!
//! A rule is a [`Versioned`] value: it holds what is in force from one generation on, and what was before. A reload writes
//! the changed rules beside the rules in force, then stores the new generation in [`PolicyState`]; that one store is the
//! moment at which the whole policy changes. Rules that stay the same are not written again.

use crate::ids::{Digest, Generation, ObjectId, RuleId, SkillId};

/// A value with the generation from which it holds, twice: the one in force and its neighbour.
///
/// A value whose `present` is 0 says "no such rule from here on", so that a removal is as atomic as an addition.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versioned<V> {
    /// The two versions, in no order.
    pub versions: [Version<V>; 2],
}

/// One half of a [`Versioned`] value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version<V> {
    /// The first generation in which this holds.
    pub from: Generation,
    /// 0 when there is no rule from that generation on.
    pub present: u32,
    /// The rule.
    pub value: V,
}

impl<V> Versioned<V> {
    /// The version that holds in `generation`: the newest that is not from the future.
    #[must_use]
    #[inline(always)]
    pub fn at(&self, generation: Generation) -> Option<&V> {
        let [a, b] = &self.versions;
        let a_known = a.from.0 <= generation.0;
        let b_known = b.from.0 <= generation.0;
        let chosen = if a_known && (!b_known || a.from.0 >= b.from.0) {
            a
        } else if b_known {
            b
        } else {
            return None;
        };
        if chosen.present == 0 { None } else { Some(&chosen.value) }
    }
}

impl<V: Copy + Default> Versioned<V> {
    /// What a map entry must be so that `new` holds from `next` on while a program in generation `current` still sees `old`.
    ///
    /// `next` must be newer than `current`, and no program may still run in a generation before `current`. Whatever an
    /// aborted reload left in the entry is overwritten and cannot come to life.
    #[must_use]
    pub fn change(current: Generation, old: Option<V>, next: Generation, new: Option<V>) -> Self {
        let version = |from, value: Option<V>| Version {
            from,
            present: u32::from(value.is_some()),
            value: value.unwrap_or_default(),
        };
        Self { versions: [version(next, new), version(current, old)] }
    }
}

/// The only element of `POLICY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyState {
    /// The generation in force.
    pub generation: Generation,
    /// [`crate::LAYOUT_VERSION`] of the daemon that wrote it.
    pub layout: u32,
}

/// The settings of a skill, the value of `SKILLS`, within [`Versioned`]; the key is the [`SkillId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkillConf {
    /// Bits of [`skill_flag`].
    pub flags: u32,
    /// Bits of [`action`]: what needs an approval beside being allowed.
    pub require_2fa: u32,
    /// The rule behind [`skill_flag::EXEC_ANY`].
    pub exec_any: RuleId,
    /// The rule behind [`skill_flag::DELETE_ANY`].
    pub delete_any: RuleId,
    /// The rule behind [`skill_flag::WRITE_ANY`]; [`RuleId::NONE`] when writing is not governed.
    pub write_any: RuleId,
    /// The rule behind [`skill_flag::CONNECT_ANY`].
    pub connect_any: RuleId,
    /// The `require_2fa` rule.
    pub require_2fa_rule: RuleId,
    /// The `delete_budget` rule; [`RuleId::NONE`] when there is none.
    pub budget_rule: RuleId,
    /// How many deletes the budget allows within its window; at most [`BUDGET_LIMIT`].
    pub budget: u32,
    /// The `allow_jit` rule; [`RuleId::NONE`] when memory may not become code.
    pub allow_jit: RuleId,
    /// The rule behind [`skill_flag::LISTEN_ANY`].
    pub listen_any: RuleId,
    /// The window of the budget, in nanoseconds, as two halves: the low one first.
    pub budget_window: [u32; 2],
    /// The rule behind [`skill_flag::LIBRARY_ANY`].
    pub library_any: RuleId,
}

impl SkillConf {
    /// The window of the budget in nanoseconds.
    #[must_use]
    #[inline(always)]
    pub const fn budget_window_ns(&self) -> u64 {
        self.budget_window[0] as u64 | (self.budget_window[1] as u64) << 32
    }
}

/// The kernel's lock for map values (`struct bpf_spin_lock`); it is found by this name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the kernel looks for this name in the map's type information")]
pub struct bpf_spin_lock {
    /// The kernel's own.
    pub val: u32,
}

/// The value of `BUDGETS`: when the skill's last deletes were. The key is the [`SkillId`]. It belongs to no generation: a
/// reload does not give the budget back.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Budget {
    /// Taken while the rest is looked at.
    pub lock: bpf_spin_lock,
    /// How many deletes there were, modulo 2^32.
    pub count: u32,
    /// The time of delete `n` at `n % BUDGET_LIMIT`, in nanoseconds of `CLOCK_BOOTTIME`.
    pub times: [u64; BUDGET_LIMIT as usize],
}

/// The largest `delete_budget`: how many times of deletes are remembered per skill.
pub const BUDGET_LIMIT: u32 = 4096;

/// Bits of [`SkillConf::flags`].
pub mod skill_flag {
    /// `mode: audit`: report what would be denied, and allow it.
    pub const AUDIT: u32 = 1;
    /// `audit_level: strict`: report what is allowed, too.
    pub const REPORT_ALLOWED: u32 = 1 << 1;
    /// `allow_binaries: ["*"]`.
    pub const EXEC_ANY: u32 = 1 << 2;
    /// `allow_delete: ["*"]`.
    pub const DELETE_ANY: u32 = 1 << 3;
    /// `network_scope: ["*"]`.
    pub const CONNECT_ANY: u32 = 1 << 4;
    /// `allow_write: ["*"]`, or no `allow_write`: writing is left to the kernel's own permissions.
    pub const WRITE_ANY: u32 = 1 << 5;
    /// The skill has `protect` rules, so that reading is looked at, too.
    pub const PROTECTS: u32 = 1 << 6;
    /// `allow_libraries: ["*"]`.
    pub const LIBRARY_ANY: u32 = 1 << 9;
    /// There are library directories, and they are read-only where no `allow_write` rule is as near.
    pub const LIBRARIES_SEALED: u32 = 1 << 10;
    /// `allow_libraries` is absent: its default is in force, of which nothing is reported.
    pub const LIBRARIES_DEFAULT: u32 = 1 << 11;
    /// The skill has `parents` rules: no process of it may take over another.
    pub const PARENTS: u32 = 1 << 12;
    /// `listen: ["*"]`.
    pub const LISTEN_ANY: u32 = 1 << 13;
    /// There are objects of Enforcer's own, which no skill may change.
    pub const GUARDS: u32 = 1 << 20;
}

/// Bits for the kinds of action, as `require_2fa` lists them.
pub mod action {
    /// Exec of a program.
    pub const EXEC: u32 = 1;
    /// Delete of a file or directory.
    pub const DELETE: u32 = 1 << 1;
    /// Connect or send to an address.
    pub const CONNECT: u32 = 1 << 2;
    /// Write to a file.
    pub const WRITE: u32 = 1 << 3;
    /// Read a file; no approval can be asked for it.
    pub const READ: u32 = 1 << 4;
    /// All of them.
    pub const ALL: u32 = EXEC | DELETE | CONNECT | WRITE;
}

/// The key of `BINARIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BinaryKey {
    /// The skill that may run it.
    pub skill: SkillId,
    /// The content's digest.
    pub digest: Digest,
}

/// The value of `BINARIES`, within [`Versioned`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BinaryRule {
    /// The rule that allows it.
    pub rule: RuleId,
    /// Bits of [`binary_flag`].
    pub flags: u32,
    /// With [`binary_flag::PARENTS`]: the programs one of which must be in the acting task's lineage, as a set of bits.
    pub parents: u64,
}

impl BinaryRule {
    /// Whether a task of this lineage may run it.
    #[must_use]
    #[inline(always)]
    pub const fn accepts(&self, lineage: u64) -> bool {
        self.flags & binary_flag::PARENTS == 0 || self.parents & lineage != 0
    }
}

/// Bits of [`BinaryRule::flags`].
pub mod binary_flag {
    /// `allow_binaries`: it may be executed, and mapped as the program that a loader is asked to run.
    pub const PROGRAM: u32 = 1;
    /// `allow_libraries`: it may be mapped.
    pub const LIBRARY: u32 = 1 << 1;
    /// It is a dynamic loader: what it is asked to run must be a program of the skill, too.
    pub const LOADER: u32 = 1 << 2;
    /// As a program, it may be run by those that [`super::BinaryRule::parents`] names alone.
    pub const PARENTS: u32 = 1 << 3;
}

/// How many programs `parents` rules can name over the daemon's life: a bit for each in [`crate::task::Label::lineage`].
pub const PARENT_LIMIT: u32 = 64;

/// The value of `ENTRYPOINTS`, within [`Versioned`]; the key is a [`Digest`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntrypointRule {
    /// The skill that an exec of this content leads to.
    pub skill: SkillId,
}

/// The key of `OBJECTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// The object that the rule names.
    pub object: ObjectId,
    /// The skill that the rule is for.
    pub skill: SkillId,
    /// Not used; keeps the key free of padding.
    pub reserved: u32,
}

impl ObjectKey {
    /// The key of a skill's rule for an object.
    #[must_use]
    #[inline(always)]
    pub const fn new(skill: SkillId, object: ObjectId) -> Self {
        Self { object, skill, reserved: 0 }
    }
}

/// The value of `OBJECTS`, within [`Versioned`]: which rules name this object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectRule {
    /// The `allow_delete` rule, or [`RuleId::NONE`].
    pub allow_delete: RuleId,
    /// The `allow_write` rule, or [`RuleId::NONE`].
    pub allow_write: RuleId,
    /// The `protect` rule, or [`RuleId::NONE`].
    pub protect: RuleId,
    /// What makes it Enforcer's own.
    pub own: Own,
    /// The `unix:` rule of `network_scope`, or [`RuleId::NONE`].
    pub connect: RuleId,
    /// What `allow_libraries` says.
    pub library: LibrarySlot,
    /// The `protect` rule whose path leads through this directory or symbolic link, or [`RuleId::NONE`]: it may not be moved or
    /// removed.
    pub way: RuleId,
}

/// Whether an object is Enforcer's own: it and what lies below may be read, and neither written nor deleted, whatever other
/// rules say. A directory on the way to such an object may not be moved away.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own(u32);

impl Own {
    const WAY: u32 = 1 << 31;

    /// Enforcer's own, with all that lies below.
    #[must_use]
    pub const fn all(rule: RuleId) -> Self {
        Self(rule.0 & !Self::WAY)
    }

    /// On the way to something of Enforcer's own.
    #[must_use]
    pub const fn way(rule: RuleId) -> Self {
        Self(rule.0 | Self::WAY)
    }

    /// The rule by which the object itself, or else what lies below it, may not be changed; whether it may only not be moved.
    #[must_use]
    #[inline(always)]
    pub const fn rule(self) -> RuleId {
        RuleId(self.0 & !Self::WAY)
    }

    /// Whether it is but a directory on the way.
    #[must_use]
    #[inline(always)]
    pub const fn is_way(self) -> bool {
        self.0 & Self::WAY != 0
    }
}

/// What `allow_libraries` says of an object and what lies below it: nothing, that it may be mapped as code, or that it may
/// not although a directory above it may.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LibrarySlot(u32);

impl LibrarySlot {
    /// Nothing is said.
    pub const NONE: Self = Self(0);
    /// It may not be mapped.
    pub const DENIED: Self = Self(u32::MAX);

    /// It may be mapped, by this rule.
    #[must_use]
    #[inline(always)]
    pub const fn allowed(rule: RuleId) -> Self {
        Self(rule.0)
    }

    /// Whether anything is said.
    #[must_use]
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != Self::NONE.0
    }

    /// The rule that allows it.
    #[must_use]
    #[inline(always)]
    pub const fn rule(self) -> Option<RuleId> {
        if self.0 == Self::NONE.0 || self.0 == Self::DENIED.0 { None } else { Some(RuleId(self.0)) }
    }
}

/// How many words of 64 bits `OBJECT_FILTER` has; a power of two.
pub const OBJECT_FILTER_WORDS: u32 = 1 << 14;

/// The word and the bit of an inode number in `OBJECT_FILTER`. The filter keeps the walk to the root cheap: a directory
/// whose bit is clear is in no rule of any skill, which saves the hash lookup.
#[must_use]
#[inline(always)]
pub const fn object_filter_slot(ino: u64) -> (u32, u64) {
    // Fibonacci hashing: inode numbers come in runs, and on some filesystems in strides of a power of two.
    let mixed = ino.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
    (((mixed >> 6) as u32) & (OBJECT_FILTER_WORDS - 1), 1 << (mixed & 63))
}

/// How many objects a verdict looks at, from the one that is acted upon up to its filesystem's root. Where no rule lies among
/// them and the root does not either, it is denied with [`crate::event::Reason::TooDeep`].
pub const MAX_DEPTH: u32 = 64;

const _: () = assert!(size_of::<SkillConf>() == 56);
const _: () = assert!(size_of::<BinaryKey>() == 36);
const _: () = assert!(size_of::<Budget>() == 8 + 8 * BUDGET_LIMIT as usize);
const _: () = assert!(BUDGET_LIMIT.is_power_of_two());
const _: () = assert!(size_of::<ObjectKey>() == 24);
const _: () = assert!(size_of::<Versioned<BinaryRule>>() == 48);
const _: () = assert!(size_of::<Versioned<ObjectRule>>() == 72);
const _: () = assert!(size_of::<Versioned<SkillConf>>() == 128);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(v: &Versioned<BinaryRule>, generation: u32) -> Option<u32> {
        v.at(Generation(generation)).map(|r| r.rule.0)
    }

    fn rule(n: u32) -> BinaryRule {
        BinaryRule { rule: RuleId(n), flags: binary_flag::PROGRAM, parents: 0 }
    }

    #[test]
    fn a_new_rule_is_not_there_before_its_generation() {
        let v = Versioned::change(Generation(2), None, Generation(3), Some(rule(7)));
        assert_eq!(at(&v, 2), None);
        assert_eq!(at(&v, 3), Some(7));
        assert_eq!(at(&v, 9), Some(7));
    }

    #[test]
    fn a_change_is_seen_only_after_the_flip() {
        let v = Versioned::change(Generation(1), Some(rule(7)), Generation(2), Some(rule(8)));
        assert_eq!(at(&v, 1), Some(7));
        assert_eq!(at(&v, 2), Some(8));
    }

    #[test]
    fn a_removal_is_seen_only_after_the_flip() {
        let v = Versioned::change(Generation(1), Some(rule(7)), Generation(2), None);
        assert_eq!(at(&v, 1), Some(7));
        assert_eq!(at(&v, 2), None);
    }

    #[test]
    fn a_zeroed_element_holds_no_rule() {
        let v = Versioned::<BinaryRule>::default();
        assert_eq!(at(&v, 0), None);
        assert_eq!(at(&v, 5), None);
    }

    #[test]
    fn the_object_filter_stays_in_its_bounds() {
        for ino in [0, 1, 2, 255, 1 << 20, u64::from(u32::MAX), u64::MAX] {
            let (word, bit) = object_filter_slot(ino);
            assert!(word < OBJECT_FILTER_WORDS);
            assert_eq!(bit.count_ones(), 1);
        }
    }
}
