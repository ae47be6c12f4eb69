//! The rules of the policy in force, read from the maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use enforcer_common::{
    decide::{self, Findings, Judgement, Quest, Question, Rules, Terms, Waypoint},
    event::Kind,
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
        self.rules_of(skill, object).copied()
    }

    #[inline(always)]
    fn destination(&self, skill: SkillId, address: &Address, port: u16, protocols: u16) -> Option<RuleId> {
        rule(destination_rule, skill, address, port, protocols, self.generation)
    }

    #[inline(always)]
    fn listener(&self, skill: SkillId, address: &Address, port: u16, protocols: u16) -> Option<RuleId> {
        rule(listener_rule, skill, address, port, protocols, self.generation)
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
    fn set_out(&self, skill: SkillId, quest: Quest, found: &mut Findings) -> Terms {
        Terms::of_number(terms_of_walk(skill.0, self.generation.0, quest.number(), found))
    }

    #[inline(always)]
    fn may_name(&self, ino: u64) -> bool {
        let (word, bit) = object_filter_slot(ino);
        OBJECT_FILTER.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn meet<W: Waypoint>(&self, skill: SkillId, at: &W, found: &mut Findings) -> bool {
        // Here, because most objects on the way are in no rule.
        if !self.may_name(at.ino()) {
            return found.meet(None);
        }
        let object = at.id();
        let rest = u64::from(object.dev) | u64::from(object.generation) << 32;
        object_on_walk(skill.0, self.generation.0, object.ino, rest, found) != 0
    }

    #[inline(always)]
    fn judge(&self, skill: SkillId, terms: Terms, question: Question, found: &mut Findings) -> Judgement {
        let number = judgement_of_walk(skill.0, self.generation.0, terms.number(), question.number(), found);
        Judgement::of_number(number)
    }

    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        opaque::number(number)
    }
}

impl InForce {
    /// The rules that name this object, which the filter does not exclude.
    #[inline(always)]
    fn rules_of<'a>(&self, skill: SkillId, object: &ObjectId) -> Option<&'a ObjectRule> {
        // SAFETY: an update replaces the element; the reference is used before the program ends.
        unsafe { OBJECTS.get(ObjectKey::new(skill, *object)) }?.at(self.generation)
    }
}

/// [`decide::set_out`]. A global function of the object, like [`destination_rule`]; what it writes to is in a map, of which the verifier
/// knows nothing anyway.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn terms_of_walk(skill: u32, generation: u32, quest: u32, found: *mut Findings) -> u64 {
    // SAFETY: null, or the room in a label that the caller has for itself; the verifier wants the question.
    let Some(found) = (unsafe { found.as_mut() }) else { return Terms::NONE.number() };
    let rules = InForce { generation: Generation(generation) };
    decide::set_out(&rules, SkillId(skill), Quest::of_number(quest), found).number()
}

/// [`Findings::meet`] of an object that may be in a rule: `rest` is its device and, in the upper half, its generation. As above; inlined,
/// the body of a walk would be looked at in full for each state in which a program comes to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn object_on_walk(skill: u32, generation: u32, ino: u64, rest: u64, found: *mut Findings) -> u32 {
    // SAFETY: as above.
    let Some(found) = (unsafe { found.as_mut() }) else { return 1 };
    let object = ObjectId { ino, dev: rest as u32, generation: (rest >> 32) as u32 };
    let rules = InForce { generation: Generation(generation) };
    u32::from(found.meet(rules.rules_of(SkillId(skill), &object)))
}

/// [`decide::judge`]. As above: a program that may do one thing or another asks once for both.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judgement_of_walk(
    skill: u32,
    generation: u32,
    terms: u64,
    question: u32,
    found: *mut Findings,
) -> u64 {
    let rules = InForce { generation: Generation(generation) };
    // SAFETY: as above.
    let (decision, kind) = match unsafe { found.as_mut() } {
        Some(found) => {
            decide::judge(&rules, SkillId(skill), Terms::of_number(terms), Question::of_number(question), found)
        }
        None => (decide::no_room(), Kind::Delete),
    };
    Judgement::new(decision, kind).number()
}

/// Asks a trie for the rule of the longest prefix that covers `address`.
type Ask = extern "C" fn(u32, u64, u64, u32, u32) -> u32;

/// The rule of the longest prefix that covers `address`, if it allows the port with the protocol.
#[inline(always)]
fn rule(
    ask: Ask,
    skill: SkillId,
    address: &Address,
    port: u16,
    protocols: u16,
    in_force: Generation,
) -> Option<RuleId> {
    let (low, high) = address.halves();
    let wanted = u32::from(port) << 16 | u32::from(protocols);
    match ask(skill.0, low, high, wanted, in_force.0) {
        0 => None,
        rule => Some(RuleId(rule)),
    }
}

/// [`longest_match`] in `DESTINATIONS`.
///
/// A global function of the object, which takes numbers alone: the verifier looks at it once, and where it is called knows nothing of
/// what it returns (`kernel/bpf/verifier.c: do_check_subprogs`, since 5.6). Inlined, each way through the set of ports would be
/// followed through the rest of the program, and through the next lookup.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn destination_rule(skill: u32, low: u64, high: u64, wanted: u32, generation: u32) -> u32 {
    longest_match(&DESTINATIONS, skill, [low, high], wanted, generation)
}

/// [`longest_match`] in `LISTENERS`; as above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn listener_rule(skill: u32, low: u64, high: u64, wanted: u32, generation: u32) -> u32 {
    longest_match(&LISTENERS, skill, [low, high], wanted, generation)
}

/// The rule of the longest prefix that covers an address, if it allows a port (the upper half of `wanted`) with a protocol (the
/// lower half); else [`RuleId::NONE`].
#[inline(always)]
fn longest_match(trie: &PortTrie, skill: u32, address: [u64; 2], wanted: u32, generation: u32) -> u32 {
    let key = Key::new(SKILL_BITS + 128, NetKey { skill: SkillId(skill), address: Address::of_halves(address) });
    let ports = trie.get(&key).and_then(|ports| ports.at(Generation(generation)));
    decide::port_allowed(ports, (wanted >> 16) as u16, wanted as u16).unwrap_or(RuleId::NONE).0
}
