//! The rules of the policy in force, read from the maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use enforcer_common::{
    decide::{self, Rules},
    ids::{Digest, Generation, ObjectId, RuleId, SkillId},
    net::{AbstractKey, Address, NetKey, SKILL_BITS},
    rules::{BinaryKey, BinaryRule, ObjectKey, ObjectRule, SkillConf, object_filter_slot},
};

use crate::{
    budget,
    maps::{
        ABSTRACT, BINARIES, BUDGETS, DESTINATIONS, ENTRYPOINTS, LISTENERS, OBJECT_FILTER, OBJECTS, PARENTS, POLICY,
        PortTrie, SKILLS,
    },
    opaque,
};

/// The maps as one generation sees them. A program takes this once, so that it decides by one policy as a whole.
pub struct InForce {
    /// The generation.
    pub generation: Generation,
}

impl InForce {
    /// The policy in force now.
    #[inline(always)]
    pub fn now() -> Self {
        Self { generation: POLICY.get(0).map_or(Generation(0), |state| state.generation) }
    }
}

impl Rules for InForce {
    #[inline(always)]
    fn skill(&self, skill: SkillId) -> Option<SkillConf> {
        // SAFETY: an update replaces the element; the reference is used before the program ends.
        unsafe { SKILLS.get(skill) }?.at(self.generation).copied()
    }

    #[inline(always)]
    fn binary(&self, skill: SkillId, digest: &Digest) -> Option<BinaryRule> {
        let key = BinaryKey { skill, digest: *digest };
        // SAFETY: an update replaces the element; the reference is used before the program ends.
        unsafe { BINARIES.get(key) }?.at(self.generation).copied()
    }

    #[inline(always)]
    fn object(&self, skill: SkillId, object: &ObjectId) -> Option<ObjectRule> {
        let (word, bit) = object_filter_slot(object.ino);
        if OBJECT_FILTER.get(word)? & bit == 0 {
            return None;
        }
        // SAFETY: as above.
        unsafe { OBJECTS.get(ObjectKey::new(skill, *object)) }?.at(self.generation).copied()
    }

    #[inline(always)]
    fn destination(&self, skill: SkillId, address: &Address, port: u16, protocols: u16) -> Option<RuleId> {
        let rule = longest_match(&DESTINATIONS, skill, address, wanted(port, protocols), self.generation);
        if rule.0 == 0 { None } else { Some(rule) }
    }

    #[inline(always)]
    fn listener(&self, skill: SkillId, address: &Address, port: u16, protocols: u16) -> Option<RuleId> {
        let rule = longest_match(&LISTENERS, skill, address, wanted(port, protocols), self.generation);
        if rule.0 == 0 { None } else { Some(rule) }
    }

    #[inline(always)]
    fn abstract_name(&self, key: &AbstractKey) -> Option<RuleId> {
        // SAFETY: as above.
        unsafe { ABSTRACT.get(key) }?.at(self.generation).map(|rule| rule.rule)
    }

    #[inline(always)]
    fn entrypoint(&self, digest: &Digest) -> Option<SkillId> {
        // SAFETY: as above.
        unsafe { ENTRYPOINTS.get(digest) }?.at(self.generation).map(|rule| rule.skill)
    }

    #[inline(always)]
    fn parent(&self, digest: &Digest) -> u64 {
        // SAFETY: as above.
        unsafe { PARENTS.get(digest) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn spend(&self, skill: SkillId, conf: &SkillConf) -> bool {
        // Without an element there is no counting, so there is nothing left to spend.
        BUDGETS.get_ptr_mut(skill).is_some_and(|budget| budget::spend(budget, conf))
    }

    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        opaque::number(number)
    }
}

/// The rule of the longest prefix that covers `address`, if it allows a port (the upper half of `wanted`) with a protocol (the
/// lower half); else [`RuleId::NONE`].
///
/// A function of its own in the object: the verifier follows each way through the set of ports, and here they end in one
/// number, where inlined they would multiply with those of the next lookup. Such a function takes five arguments at the most.
#[inline(never)]
fn longest_match(trie: &PortTrie, skill: SkillId, address: &Address, wanted: u32, generation: Generation) -> RuleId {
    let key = Key::new(SKILL_BITS + 128, NetKey { skill, address: *address });
    let ports = trie.get(&key).and_then(|ports| ports.at(generation));
    decide::port_allowed(ports, (wanted >> 16) as u16, wanted as u16).unwrap_or(RuleId::NONE)
}

/// Port and protocols in one number.
#[inline(always)]
fn wanted(port: u16, protocols: u16) -> u32 {
    u32::from(port) << 16 | u32::from(protocols)
}
