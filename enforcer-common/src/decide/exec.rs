//! Exec: by the digest of the content.

use super::{Decision, Rules, no_policy, refusal, settle};
use crate::{
    event::{Reason, ReasonCode},
    ids::{Digest, RuleId, SkillId},
    rules::{action, binary_flag, skill_flag},
};

/// May a task of the skill with this lineage execute this content? `digest` says why, when the content was not measured.
#[inline(always)]
pub fn exec<R: Rules>(rules: &R, skill: SkillId, digest: Result<&Digest, ReasonCode>, lineage: u64) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let ruling = if conf.flags & skill_flag::EXEC_ANY != 0 {
        Ok(conf.exec_any)
    } else {
        match digest {
            Err(reason) => Err((reason, RuleId::NONE)),
            Ok(digest) => match rules.binary(skill, digest) {
                Some(binary) if binary.flags & binary_flag::PROGRAM != 0 => {
                    if binary.accepts(lineage) {
                        Ok(binary.rule)
                    } else {
                        Err((Reason::ParentNotListed.into(), binary.rule))
                    }
                }
                Some(_) | None => Err((Reason::BinaryNotListed.into(), RuleId::NONE)),
            },
        }
    };
    settle(rules, &conf, action::EXEC, ruling)
}

/// Whether a rule of the skill has this flag for the content.
#[inline(always)]
pub fn has_flag<R: Rules>(rules: &R, skill: SkillId, digest: &Digest, flag: u32) -> bool {
    rules.binary(skill, digest).is_some_and(|binary| binary.flags & flag != 0)
}

/// Which skill an allowed exec leads to: that whose entrypoint the content is, else none. A traced process may not go: its
/// tracer would keep its hands on a process of another skill.
///
/// # Errors
/// The refusal of the exec.
#[inline(always)]
pub fn enter<R: Rules>(rules: &R, skill: SkillId, digest: &Digest, traced: bool) -> Result<Option<SkillId>, Decision> {
    match rules.entrypoint(digest) {
        None => Ok(None),
        Some(target) if target.0 == skill.0 => Ok(None),
        Some(target) if !traced => Ok(Some(target)),
        Some(_) => Err(match rules.skill(skill) {
            Some(conf) => refusal(&conf, Reason::Traced.into(), RuleId::NONE),
            None => no_policy(),
        }),
    }
}

/// Refuses an allowed exec of content that is not held as it was measured, and says why; `flaw` is 0 when it is held. A skill that
/// may execute anything may execute this, too.
#[inline(always)]
pub fn unsteady<R: Rules>(rules: &R, skill: SkillId, flaw: ReasonCode) -> Option<Decision> {
    if flaw.is_none() {
        return None;
    }
    match rules.skill(skill) {
        Some(conf) if conf.flags & skill_flag::EXEC_ANY != 0 => None,
        Some(conf) => Some(refusal(&conf, flaw, RuleId::NONE)),
        None => Some(no_policy()),
    }
}
