//! Files: the nearest rule on the way from the object up to its filesystem's root decides; at one object a `protect` rule
//! comes before an allowance. What leads to a protected path stays where it is, whatever allows to move it.

use super::{Ancestry, Climb, Decision, Rules, Ruling, Step, no_policy, refusal, settle};
use crate::{
    event::{Kind, Reason, ReasonCode, Verdict},
    ids::{ObjectId, RuleId, SkillId},
    rules::{LibrarySlot, SkillConf, action, skill_flag},
};

/// What is done to an object: bits of [`action`], and whether it costs a delete of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// `DELETE`, `WRITE`, `READ`, or several of them, all of which must be allowed.
    pub actions: u32,
    /// Whether an allowed delete counts against the budget. A rename over a victim is two deletes and counts as one.
    pub charge: bool,
    /// Whether only a rule that names the object, or a directory above it, allows it: the kernel is told what to do by it.
    pub by_name: bool,
}

impl Act {
    /// Whether it changes anything.
    #[must_use]
    #[inline(always)]
    pub const fn changes(self) -> bool {
        self.actions & (action::WRITE | action::DELETE) != 0
    }

    /// An unlink or rmdir.
    pub const DELETE: Self = Self { actions: action::DELETE, charge: true, by_name: false };
    /// Making, changing, or opening for writing.
    pub const WRITE: Self = Self { actions: action::WRITE, charge: false, by_name: false };
    /// Opening for reading.
    pub const READ: Self = Self { actions: action::READ, charge: false, by_name: false };
    /// What a rename does to an object that it takes away from its place: the object may be written where it comes to lie,
    /// so it must be writable where it lies.
    pub const MOVE: Self = Self { actions: action::DELETE | action::WRITE, charge: false, by_name: false };
    /// Cutting a file's content off: it is gone as if it were deleted.
    pub const TRUNCATE: Self = Self { actions: action::DELETE | action::WRITE, charge: true, by_name: false };
}

/// What the rules say of an object about one action.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    rule: RuleId,
    /// A [`Reason`].
    reason: u32,
}

impl Finding {
    #[inline(always)]
    const fn new(reason: Reason, rule: RuleId) -> Self {
        Self { rule, reason: reason as u32 }
    }

    #[inline(always)]
    fn allows(self) -> bool {
        self.reason == Reason::Allowed as u32
    }

    #[inline(always)]
    fn ruling(self) -> Ruling {
        if self.allows() { Ok(self.rule) } else { Err((ReasonCode(self.reason as u8), self.rule)) }
    }
}

/// What was found on the way up, what is still to be found, and what was asked.
///
/// In the kernel it lies in the acting task's label: to the verifier, what is in a map is unknown, where it would follow each
/// combination of values on the stack through the rest of the program, and trace each constant back to where it came from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Actions for which no rule was met yet: bits of [`action`]; those that were asked for, shifted by [`ASKED`]; and
    /// [`ITSELF`], [`THOROUGH`], [`UNSEEN`] and [`SEALED`].
    open: u32,
    delete: Finding,
    write: Finding,
    read: Finding,
    /// The rule by which it is Enforcer's own.
    own: RuleId,
    /// The nearest word of `allow_libraries`; not among the above, because a mapping asks for nothing else.
    pub(super) library: LibrarySlot,
}

/// In [`Findings::open`]: the next object that is visited is the one that is acted upon.
const ITSELF: u32 = 1 << 31;
/// In [`Findings::open`]: the walk goes on when everything is decided, because a denial that audit mode lets pass may hide that
/// the object is Enforcer's own. No allowance can, as none lies below what is Enforcer's own.
const THOROUGH: u32 = 1 << 30;
/// In [`Findings::open`]: the walk ended before it could be seen whether the object is Enforcer's own.
const UNSEEN: u32 = 1 << 29;
/// In [`Findings::open`]: library directories are read-only.
const SEALED: u32 = 1 << 28;
/// In [`Findings::open`]: where the actions begin that were asked for.
const ASKED: u32 = 16;
/// The actions among [`Findings::open`].
const ACTIONS: u32 = action::ALL | action::READ;

impl Findings {
    /// Nothing found.
    pub const EMPTY: Self = {
        let nothing = Finding { rule: RuleId::NONE, reason: 0 };
        Self { open: 0, delete: nothing, write: nothing, read: nothing, own: RuleId::NONE, library: LibrarySlot::NONE }
    };

    /// Refuses the actions that no nearer rule has decided.
    #[inline(always)]
    fn refuse(&mut self, reason: Reason, rule: RuleId) {
        let finding = Finding::new(reason, rule);
        if self.open & action::DELETE != 0 {
            self.delete = finding;
        }
        if self.open & action::WRITE != 0 {
            self.write = finding;
        }
        if self.open & action::READ != 0 {
            self.read = finding;
        }
        self.open &= !ACTIONS;
    }

    /// Whether there is nothing left to look for.
    #[inline(always)]
    fn is_complete(&self) -> bool {
        self.open & (ACTIONS | THOROUGH) == 0
    }

    /// Whether these changes, each of which was decided, are allowed.
    #[inline(always)]
    fn allow(&self, changes: u32) -> bool {
        (changes & action::DELETE == 0 || self.delete.allows()) && (changes & action::WRITE == 0 || self.write.allows())
    }

    /// What stands against a change whatever the skill's mode: it is asked before anything that audit mode lets pass.
    #[inline(always)]
    fn never(&self, act: Act) -> Option<Decision> {
        if self.own.0 != 0 {
            return Some(self_protection(Reason::OwnFile, self.own));
        }
        if self.open & UNSEEN != 0 {
            return Some(self_protection(Reason::TooDeep, RuleId::NONE));
        }
        let unnamed = |finding: Finding| finding.reason == Reason::KernelInterface as u32;
        let write = act.actions & action::WRITE != 0 && unnamed(self.write);
        let delete = act.actions & action::DELETE != 0 && unnamed(self.delete);
        let unlisted = act.by_name && (write || delete);
        if unlisted { Some(self_protection(Reason::KernelInterface, RuleId::NONE)) } else { None }
    }
}

/// A refusal in every mode.
#[inline(always)]
fn self_protection(reason: Reason, rule: RuleId) -> Decision {
    Decision { verdict: Verdict::Deny, reason: reason.into(), rule, report: true }
}

/// Looks for the nearest rules.
struct Survey<'a, R> {
    rules: &'a R,
    skill: SkillId,
    found: &'a mut Findings,
}

impl<R: Rules> Step for Survey<'_, R> {
    #[inline(always)]
    fn visit(&mut self, object: &ObjectId) -> bool {
        let found = &mut *self.found;
        let itself = found.open & ITSELF != 0;
        found.open &= !ITSELF;
        let Some(rule) = self.rules.object(self.skill, object) else { return false };
        let own = rule.own.rule();
        let asked = found.open >> ASKED;
        let moved = itself && asked & action::DELETE != 0;
        let changed = asked & (action::WRITE | action::DELETE) != 0;
        if own.0 != 0 && (if rule.own.is_way() { moved } else { changed }) {
            found.own = own;
            return true;
        }
        if rule.protect.0 != 0 {
            found.refuse(Reason::Protected, rule.protect);
            return found.is_complete();
        }
        if rule.way.0 != 0 && itself && found.open & action::DELETE != 0 {
            found.delete = Finding::new(Reason::ProtectedWay, rule.way);
            found.open &= !action::DELETE;
        }
        if rule.allow_write.0 != 0 {
            if found.open & action::WRITE != 0 {
                found.write = Finding::new(Reason::Allowed, rule.allow_write);
            }
            found.open &= !(action::WRITE | action::READ);
        }
        if rule.allow_delete.0 != 0 {
            if found.open & action::DELETE != 0 {
                found.delete = Finding::new(Reason::Allowed, rule.allow_delete);
            }
            found.open &= !(action::DELETE | action::READ);
        }
        if found.open & SEALED != 0
            && found.open & action::WRITE != 0
            && let Some(library) = rule.library.rule()
        {
            found.write = Finding::new(Reason::LibraryReadOnly, library);
            found.open &= !action::WRITE;
        }
        found.is_complete()
    }
}

/// Walks up once and finds the nearest rule for each action of `act`. `itself` is [`ITSELF`] where the walk begins at the object
/// that the act is done to, else 0.
#[inline(always)]
fn survey<R: Rules, A: Ancestry>(
    rules: &R,
    skill: SkillId,
    conf: &SkillConf,
    act: Act,
    itself: u32,
    ancestry: &mut A,
    found: &mut Findings,
) {
    let has = |flag: u32| conf.flags & flag != 0;
    let otherwise = |any: u32, rule: RuleId| {
        if act.by_name {
            Finding::new(Reason::KernelInterface, RuleId::NONE)
        } else if has(any) {
            Finding::new(Reason::Allowed, rule)
        } else {
            Finding::new(Reason::PathNotListed, RuleId::NONE)
        }
    };
    found.delete = otherwise(skill_flag::DELETE_ANY, conf.delete_any);
    found.write = otherwise(skill_flag::WRITE_ANY, conf.write_any);
    found.read = Finding::new(Reason::Allowed, RuleId::NONE);
    found.own = RuleId::NONE;
    // What only a rule by name allows is refused wherever it lies.
    let sealed = has(skill_flag::LIBRARIES_SEALED) && !act.by_name;
    // Where everything is allowed and nothing protected or sealed there is nothing to look for, but what is Enforcer's own.
    let mut settled = 0;
    if !has(skill_flag::PROTECTS) {
        settled |= action::READ;
        if has(skill_flag::DELETE_ANY) && !act.by_name {
            settled |= action::DELETE;
        }
        if has(skill_flag::WRITE_ANY) && !act.by_name && !sealed {
            settled |= action::WRITE;
        }
    }
    let guarded = if has(skill_flag::GUARDS) { settled & (action::DELETE | action::WRITE) } else { 0 };
    found.open = act.actions & (!settled | guarded);
    if found.open != 0 {
        let thorough = if has(skill_flag::AUDIT) && has(skill_flag::GUARDS) { THOROUGH } else { 0 };
        found.open |= (act.actions & ACTIONS) << ASKED | itself | thorough | if sealed { SEALED } else { 0 };
        let end = ancestry.climb(&mut Survey { rules, skill, found: &mut *found });
        match end {
            Climb::Enough | Climb::Root => {}
            Climb::Adrift => found.refuse(Reason::Unreachable, RuleId::NONE),
            Climb::TooDeep => {
                found.refuse(Reason::TooDeep, RuleId::NONE);
                // What a rule allows is not below what is Enforcer's own; anything else may be.
                if has(skill_flag::GUARDS) && !found.allow(act.actions & (action::DELETE | action::WRITE)) {
                    found.open |= UNSEEN;
                }
            }
        }
    }
}

/// May the skill do this to the object? Returns the decision and what it is about; `found` is room to work in.
#[inline(always)]
pub fn object<R: Rules, A: Ancestry>(
    rules: &R,
    skill: SkillId,
    act: Act,
    ancestry: &mut A,
    found: &mut Findings,
) -> (Decision, Kind) {
    let kind = kind(act.actions);
    let Some(conf) = rules.skill(skill) else { return (no_policy(), kind) };
    survey(rules, skill, &conf, act, ITSELF, ancestry, found);
    if let Some(refusal) = found.never(act) {
        return (refusal, kind);
    }
    let mut decision = Decision::silent();
    if act.actions & action::READ != 0 {
        decision = settle(rules, &conf, action::READ, found.read.ruling());
        if !decision.allows() {
            return (decision, Kind::Read);
        }
    }
    if act.actions & action::WRITE != 0 {
        decision = settle(rules, &conf, action::WRITE, found.write.ruling());
        if !decision.allows() {
            return (decision, Kind::Write);
        }
    }
    if act.actions & action::DELETE != 0 {
        decision = settle(rules, &conf, action::DELETE, found.delete.ruling());
        if !decision.allows() {
            return (decision, Kind::Delete);
        }
        if act.charge && conf.budget_rule.0 != 0 && !rules.spend(skill, &conf) {
            return (refusal(&conf, Reason::OverBudget.into(), conf.budget_rule), Kind::Delete);
        }
    }
    (decision, kind)
}

/// The kind under which a set of actions is reported when it is allowed.
#[must_use]
#[inline(always)]
pub const fn kind(actions: u32) -> Kind {
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
pub fn link<R: Rules, A: Ancestry>(
    rules: &R,
    skill: SkillId,
    source: &mut A,
    target: &mut A,
    found: &mut Findings,
) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    survey(rules, skill, &conf, Act::MOVE, 0, target, found);
    if let Some(refusal) = found.never(Act::MOVE) {
        return refusal;
    }
    let (written, deletable) = (found.write.ruling(), found.delete.allows());
    let decision = settle(rules, &conf, action::WRITE, written);
    if decision.refuses() {
        return decision;
    }
    let all = Act { actions: action::READ | action::WRITE | action::DELETE, ..Act::MOVE };
    survey(rules, skill, &conf, all, 0, source, found);
    if let Some(refusal) = found.never(all) {
        return refusal;
    }
    if !decision.allows() {
        return decision;
    }
    if !found.read.allows() {
        return refusal(&conf, ReasonCode(found.read.reason as u8), found.read.rule);
    }
    if !found.write.allows() || (deletable && !found.delete.allows()) {
        return refusal(&conf, Reason::LinkGains.into(), RuleId::NONE);
    }
    decision
}
