//! Files: the nearest rule on the way from the object up to its filesystem's root decides; at one object a `protect` rule
//! comes before an allowance.

use super::{Ancestry, Decision, Rules, Ruling, no_policy, refusal, settle};
use crate::{
    event::{Kind, Reason},
    ids::{RuleId, SkillId},
    rules::{MAX_DEPTH, SkillConf, action, skill_flag},
};

/// What is done to an object: bits of [`action`], and whether it costs a delete of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// `DELETE`, `WRITE`, `READ`, or several of them, all of which must be allowed.
    pub actions: u32,
    /// Whether an allowed delete counts against the budget. A rename over a victim is two deletes and counts as one.
    pub charge: bool,
}

impl Act {
    /// An unlink or rmdir.
    pub const DELETE: Self = Self { actions: action::DELETE, charge: true };
    /// Making, changing, or opening for writing.
    pub const WRITE: Self = Self { actions: action::WRITE, charge: false };
    /// Opening for reading.
    pub const READ: Self = Self { actions: action::READ, charge: false };
    /// What a rename does to an object that it takes away from its place: the object may be written where it comes to lie,
    /// so it must be writable where it lies.
    pub const MOVE: Self = Self { actions: action::DELETE | action::WRITE, charge: false };
    /// Cutting a file's content off: it is gone as if it were deleted.
    pub const TRUNCATE: Self = Self { actions: action::DELETE | action::WRITE, charge: true };
}

/// What the rules say of an object, for each action that was asked for.
struct Survey {
    delete: Ruling,
    write: Ruling,
    read: Ruling,
}

/// Walks up once and finds the nearest rule for each of `wanted`.
#[inline(always)]
fn survey<R: Rules, A: Ancestry>(rules: &R, skill: SkillId, conf: &SkillConf, wanted: u32, ancestry: &mut A) -> Survey {
    let has = |flag: u32| conf.flags & flag != 0;
    let unlisted = Err((Reason::PathNotListed, RuleId::NONE));
    let mut found = Survey {
        delete: if has(skill_flag::DELETE_ANY) { Ok(conf.delete_any) } else { unlisted },
        write: if has(skill_flag::WRITE_ANY) { Ok(conf.write_any) } else { unlisted },
        read: Ok(RuleId::NONE),
    };
    // Where everything is allowed and nothing protected there is nothing to look for.
    let mut open = wanted;
    if !has(skill_flag::PROTECTS) {
        open &= !action::READ;
        if has(skill_flag::DELETE_ANY) {
            open &= !action::DELETE;
        }
        if has(skill_flag::WRITE_ANY) {
            open &= !action::WRITE;
        }
    }
    let mut depth = 0;
    while open != 0 {
        if depth == MAX_DEPTH {
            return found.refuse(open, Reason::TooDeep, RuleId::NONE);
        }
        let Some(object) = ancestry.next() else {
            return if ancestry.ended_at_root() { found } else { found.refuse(open, Reason::Unreachable, RuleId::NONE) };
        };
        depth += 1;
        let Some(rule) = rules.object(skill, &object) else { continue };
        if rule.protect.0 != 0 {
            return found.refuse(open, Reason::Protected, rule.protect);
        }
        if rule.allow_write.0 != 0 {
            if open & action::WRITE != 0 {
                found.write = Ok(rule.allow_write);
            }
            open &= !(action::WRITE | action::READ);
        }
        if rule.allow_delete.0 != 0 {
            if open & action::DELETE != 0 {
                found.delete = Ok(rule.allow_delete);
            }
            open &= !(action::DELETE | action::READ);
        }
    }
    found
}

impl Survey {
    /// Refuses the actions that no nearer rule has decided.
    #[inline(always)]
    fn refuse(mut self, open: u32, reason: Reason, rule: RuleId) -> Self {
        if open & action::DELETE != 0 {
            self.delete = Err((reason, rule));
        }
        if open & action::WRITE != 0 {
            self.write = Err((reason, rule));
        }
        if open & action::READ != 0 {
            self.read = Err((reason, rule));
        }
        self
    }
}

/// May the skill do this to the object? Returns the decision and what it is about.
#[inline(always)]
pub fn object<R: Rules, A: Ancestry>(rules: &R, skill: SkillId, act: Act, ancestry: &mut A) -> (Decision, Kind) {
    let kind = kind(act.actions);
    let Some(conf) = rules.skill(skill) else { return (no_policy(), kind) };
    let found = survey(rules, skill, &conf, act.actions, ancestry);
    let mut decision = Decision::silent();
    if act.actions & action::READ != 0 {
        decision = settle(&conf, action::READ, found.read);
        if !decision.allows() {
            return (decision, Kind::Read);
        }
    }
    if act.actions & action::WRITE != 0 {
        decision = settle(&conf, action::WRITE, found.write);
        if !decision.allows() {
            return (decision, Kind::Write);
        }
    }
    if act.actions & action::DELETE != 0 {
        decision = settle(&conf, action::DELETE, found.delete);
        if !decision.allows() {
            return (decision, Kind::Delete);
        }
        if act.charge && found.delete.is_ok() && conf.budget_rule.0 != 0 && !rules.spend(skill, &conf) {
            return (refusal(&conf, Reason::OverBudget, conf.budget_rule), Kind::Delete);
        }
    }
    (decision, kind)
}

/// The kind under which a set of actions is reported when it is allowed.
#[inline(always)]
const fn kind(actions: u32) -> Kind {
    if actions & action::DELETE != 0 {
        Kind::Delete
    } else if actions & action::WRITE != 0 {
        Kind::Write
    } else {
        Kind::Read
    }
}

/// May the skill make a second name `target` for the file `source`? Making the name is a write where it is to be. The file
/// must be readable and writable where it lies, and may not become deletable by it: a link never widens what the skill may
/// do with a file.
#[inline(always)]
pub fn link<R: Rules, A: Ancestry>(rules: &R, skill: SkillId, source: &mut A, target: &mut A) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let there = survey(rules, skill, &conf, action::WRITE | action::DELETE, target);
    let decision = settle(&conf, action::WRITE, there.write);
    if decision.refuses() {
        return decision;
    }
    let here = survey(rules, skill, &conf, action::READ | action::WRITE | action::DELETE, source);
    if let Err((Reason::Protected, rule)) = here.read {
        return refusal(&conf, Reason::Protected, rule);
    }
    if here.read.is_err() || here.write.is_err() || (there.delete.is_ok() && here.delete.is_err()) {
        return refusal(&conf, Reason::LinkGains, RuleId::NONE);
    }
    decision
}
