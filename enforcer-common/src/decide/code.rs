//! What becomes code without being executed: files that are mapped, and memory.

use super::{Ancestry, Climb, Decision, Findings, Rules, Step, Waypoint, no_policy, settle};
use crate::{
    event::{Reason, ReasonCode},
    ids::{Digest, RuleId, SkillId},
    rules::{LibrarySlot, binary_flag, skill_flag},
};

/// No `require_2fa` covers a mapping: the exec that leads to it can need one.
const NO_APPROVAL: u32 = 0;

/// May memory become executable, or code be changed, although no file vouches for what it holds? What is allowed is not
/// reported: a compiler of this kind does it all the time.
#[inline(always)]
pub fn memory<R: Rules>(rules: &R, skill: SkillId, reason: Reason) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    if conf.allow_jit.0 == RuleId::NONE.0 {
        return settle(rules, &conf, NO_APPROVAL, Err((reason.into(), RuleId::NONE)));
    }
    Decision { rule: conf.allow_jit, ..Decision::silent() }
}

/// May the skill write into the memory of its processes past their mappings' protection, as tracers do? Where it counts who
/// executes what, nobody may: a process would act as another.
#[inline(always)]
pub fn overwrite<R: Rules>(rules: &R, skill: SkillId) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    if conf.flags & skill_flag::PARENTS != 0 {
        return settle(rules, &conf, NO_APPROVAL, Err((Reason::MemoryWritten.into(), RuleId::NONE)));
    }
    memory(rules, skill, Reason::MemoryWritten)
}

/// Looks for the nearest word about libraries.
struct Search<'a, R> {
    rules: &'a R,
    skill: SkillId,
    found: &'a mut LibrarySlot,
}

impl<R: Rules> Step for Search<'_, R> {
    #[inline(always)]
    fn visit<W: Waypoint>(&mut self, at: &W) -> bool {
        let Some(rule) = self.rules.on_walk(self.skill, at) else { return false };
        *self.found = rule.library;
        rule.library.is_some()
    }
}

/// May the skill map this file as code, by the place where it lies? `None` when the place does not say so: then its content
/// decides, see [`content`].
#[inline(always)]
pub fn library<R: Rules, A: Ancestry>(
    rules: &R,
    skill: SkillId,
    ancestry: &mut A,
    found: &mut Findings,
) -> Option<Decision> {
    let Some(conf) = rules.skill(skill) else { return Some(no_policy()) };
    if conf.flags & skill_flag::LIBRARY_ANY != 0 {
        return Some(settle(rules, &conf, NO_APPROVAL, Ok(conf.library_any)));
    }
    found.library = LibrarySlot::NONE;
    match ancestry.climb(&mut Search { rules, skill, found: &mut found.library }) {
        Climb::Enough => {}
        // Nothing vouches for a file that hangs on no root or lies too deep.
        Climb::Root | Climb::Adrift | Climb::TooDeep => return None,
    }
    let mut decision = settle(rules, &conf, NO_APPROVAL, Ok(found.library.rule()?));
    decision.report &= conf.flags & skill_flag::LIBRARIES_DEFAULT == 0;
    Some(decision)
}

/// May the skill map a file with this content as code? `digest` says why, when the content was not measured. As the
/// program that a loader is asked to run (`as_program`) it must be one of the skill's programs.
#[inline(always)]
pub fn content<R: Rules>(
    rules: &R,
    skill: SkillId,
    digest: Result<&Digest, ReasonCode>,
    as_program: bool,
    lineage: u64,
) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let ruling = if as_program && conf.flags & skill_flag::EXEC_ANY != 0 {
        Ok(conf.exec_any)
    } else {
        let refused = if as_program { Reason::BinaryNotListed } else { Reason::LibraryNotListed };
        match digest {
            Err(reason) => Err((reason, RuleId::NONE)),
            Ok(digest) => match rules.binary(skill, digest) {
                Some(binary) if !as_program && binary.flags & binary_flag::LIBRARY != 0 => Ok(binary.rule),
                Some(binary) if binary.flags & binary_flag::PROGRAM != 0 => {
                    if binary.accepts(lineage) {
                        Ok(binary.rule)
                    } else {
                        Err((Reason::ParentNotListed.into(), binary.rule))
                    }
                }
                Some(_) | None => Err((refused.into(), RuleId::NONE)),
            },
        }
    };
    settle(rules, &conf, NO_APPROVAL, ruling)
}
