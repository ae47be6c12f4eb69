//! Files: the nearest rule on the way from the object up to its filesystem's root decides; at one object a `protect` rule
//! comes before an allowance. What leads to a protected path stays where it is, whatever allows to move it.

use super::{
    Ancestry, Climb, Decision, Rules, Ruling, Step, Terms, Waypoint, no_policy, opaque_action, refusal, settle,
    settle_known,
};
use crate::{
    event::{Kind, Reason, ReasonCode, Verdict},
    ids::{RuleId, SkillId},
    rules::{LibrarySlot, ObjectRule, SkillConf, action, skill_flag},
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
    /// [`ITSELF`], [`THOROUGH`], [`UNSEEN`], [`SEALED`] and [`BY_NAME`].
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
/// In [`Findings::open`]: [`Act::by_name`].
const BY_NAME: u32 = 1 << 27;
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
    fn never(&self, actions: u32) -> Option<Decision> {
        if self.own.0 != 0 {
            return Some(self_protection(Reason::OwnFile, self.own));
        }
        if self.open & UNSEEN != 0 {
            return Some(self_protection(Reason::TooDeep, RuleId::NONE));
        }
        let unnamed = |finding: Finding| finding.reason == Reason::KernelInterface as u32;
        let write = actions & action::WRITE != 0 && unnamed(self.write);
        let delete = actions & action::DELETE != 0 && unnamed(self.delete);
        let unlisted = self.open & BY_NAME != 0 && (write || delete);
        if unlisted { Some(self_protection(Reason::KernelInterface, RuleId::NONE)) } else { None }
    }
}

/// A refusal in every mode.
#[inline(always)]
fn self_protection(reason: Reason, rule: RuleId) -> Decision {
    Decision { verdict: Verdict::Deny, reason: reason.into(), rule, report: true }
}

/// What a walk looks for, in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quest(u32);

impl Quest {
    /// Actions are below it.
    const BY_NAME: u32 = 1 << 8;

    /// `itself` is [`ITSELF`] where the walk begins at the object that the act is done to, else 0.
    #[inline(always)]
    const fn new(act: Act, itself: u32) -> Self {
        Self(act.actions & ACTIONS | if act.by_name { Self::BY_NAME } else { 0 } | itself)
    }

    /// The number.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The same of its number.
    #[must_use]
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        Self(number)
    }
}

impl Findings {
    /// Makes ready for a walk: what holds where it meets no rule, and what there is to look for; if that is nothing, it need not
    /// be made.
    #[inline(always)]
    pub(super) fn set_out(&mut self, conf: &SkillConf, quest: Quest) {
        let has = |flag: u32| conf.flags & flag != 0;
        let by_name = quest.0 & Quest::BY_NAME != 0;
        let otherwise = |any: u32, rule: RuleId| {
            if by_name {
                Finding::new(Reason::KernelInterface, RuleId::NONE)
            } else if has(any) {
                Finding::new(Reason::Allowed, rule)
            } else {
                Finding::new(Reason::PathNotListed, RuleId::NONE)
            }
        };
        self.delete = otherwise(skill_flag::DELETE_ANY, conf.delete_any);
        self.write = otherwise(skill_flag::WRITE_ANY, conf.write_any);
        self.read = Finding::new(Reason::Allowed, RuleId::NONE);
        self.own = RuleId::NONE;
        // What only a rule by name allows is refused wherever it lies.
        let sealed = has(skill_flag::LIBRARIES_SEALED) && !by_name;
        // Where everything is allowed and nothing protected or sealed there is nothing to look for, but what is Enforcer's own.
        let mut settled = 0;
        if !has(skill_flag::PROTECTS) {
            settled |= action::READ;
            if has(skill_flag::DELETE_ANY) && !by_name {
                settled |= action::DELETE;
            }
            if has(skill_flag::WRITE_ANY) && !by_name && !sealed {
                settled |= action::WRITE;
            }
        }
        let guarded = if has(skill_flag::GUARDS) { settled & (action::DELETE | action::WRITE) } else { 0 };
        let actions = quest.0 & ACTIONS;
        let mut open = actions & (!settled | guarded);
        if open != 0 {
            let thorough = if has(skill_flag::AUDIT) && has(skill_flag::GUARDS) { THOROUGH } else { 0 };
            let named = if by_name { BY_NAME } else { 0 };
            open |= actions << ASKED | quest.0 & ITSELF | thorough | named | if sealed { SEALED } else { 0 };
        }
        self.open = open;
    }

    /// Notes what the rules say of the next object on the way, if there are any; true when there is nothing left to look for.
    #[inline(always)]
    pub fn meet(&mut self, rule: Option<&ObjectRule>) -> bool {
        let itself = self.open & ITSELF != 0;
        self.open &= !ITSELF;
        let Some(rule) = rule else { return false };
        let own = rule.own.rule();
        let asked = self.open >> ASKED;
        let moved = itself && asked & action::DELETE != 0;
        let changed = asked & (action::WRITE | action::DELETE) != 0;
        if own.0 != 0 && (if rule.own.is_way() { moved } else { changed }) {
            self.own = own;
            return true;
        }
        if rule.protect.0 != 0 {
            self.refuse(Reason::Protected, rule.protect);
            return self.is_complete();
        }
        if rule.way.0 != 0 && itself && self.open & action::DELETE != 0 {
            self.delete = Finding::new(Reason::ProtectedWay, rule.way);
            self.open &= !action::DELETE;
        }
        if rule.allow_write.0 != 0 {
            if self.open & action::WRITE != 0 {
                self.write = Finding::new(Reason::Allowed, rule.allow_write);
            }
            self.open &= !(action::WRITE | action::READ);
        }
        if rule.allow_delete.0 != 0 {
            if self.open & action::DELETE != 0 {
                self.delete = Finding::new(Reason::Allowed, rule.allow_delete);
            }
            self.open &= !(action::DELETE | action::READ);
        }
        if self.open & SEALED != 0
            && self.open & action::WRITE != 0
            && let Some(library) = rule.library.rule()
        {
            self.write = Finding::new(Reason::LibraryReadOnly, library);
            self.open &= !action::WRITE;
        }
        self.is_complete()
    }
}

/// Looks for the nearest rules.
struct Survey<'a, R> {
    rules: &'a R,
    skill: SkillId,
    found: &'a mut Findings,
}

impl<R: Rules> Step for Survey<'_, R> {
    #[inline(always)]
    fn visit<W: Waypoint>(&mut self, at: &W) -> bool {
        self.rules.meet(self.skill, at, self.found)
    }
}

/// What a walk was for and how it ended, in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question(u32);

impl Question {
    /// Actions are below these. The last two do not come together.
    const CHARGE: u32 = 1 << 8;
    const ADRIFT: u32 = 1 << 9;
    const TOO_DEEP: u32 = 1 << 10;

    #[inline(always)]
    const fn new(act: Act, end: Climb) -> Self {
        let end = match end {
            Climb::Enough | Climb::Root => 0,
            Climb::Adrift => Self::ADRIFT,
            Climb::TooDeep => Self::TOO_DEEP,
        };
        Self(act.actions & ACTIONS | if act.charge { Self::CHARGE } else { 0 } | end)
    }

    /// The number.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The same of its number.
    #[must_use]
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        Self(number)
    }
}

impl Findings {
    /// Refuses what a walk that ended early has left open.
    #[inline(always)]
    fn end(&mut self, terms: Terms, question: Question) {
        if question.0 & Question::ADRIFT != 0 {
            self.refuse(Reason::Unreachable, RuleId::NONE);
        }
        if question.0 & Question::TOO_DEEP != 0 {
            self.refuse(Reason::TooDeep, RuleId::NONE);
            // What a rule allows is not below what is Enforcer's own; anything else may be.
            let guards = terms.conf().flags & skill_flag::GUARDS != 0;
            if guards && !self.allow(question.0 & (action::DELETE | action::WRITE)) {
                self.open |= UNSEEN;
            }
        }
    }
}

/// Walks up once and finds the nearest rule for each action of `act`. `itself` is [`ITSELF`] where the walk begins at the object
/// that the act is done to, else 0. `None` when the policy has no such skill.
#[inline(always)]
fn survey<R: Rules, A: Ancestry>(
    rules: &R,
    skill: SkillId,
    act: Act,
    itself: u32,
    ancestry: &mut A,
    found: &mut Findings,
) -> Option<(Terms, Question)> {
    let terms = rules.set_out(skill, Quest::new(act, itself), found);
    if !terms.exist() {
        return None;
    }
    let end =
        if found.open == 0 { Climb::Enough } else { ancestry.climb(&mut Survey { rules, skill, found: &mut *found }) };
    Some((terms, Question::new(act, end)))
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
    match survey(rules, skill, act, ITSELF, ancestry, found) {
        Some((terms, question)) => rules.judge(skill, terms, question, found).parts(),
        None => (no_policy(), kind(act.actions)),
    }
}

/// What follows from what a walk has found.
#[inline(always)]
pub fn judge<R: Rules>(
    rules: &R,
    skill: SkillId,
    terms: Terms,
    question: Question,
    found: &mut Findings,
) -> (Decision, Kind) {
    let asks = |actions: u32| question.0 & actions != 0;
    let (asked, conf) = (kind(question.0), terms.conf());
    found.end(terms, question);
    if let Some(refusal) = found.never(question.0) {
        return (refusal, asked);
    }
    if !asks(ACTIONS) {
        return (Decision::silent(), asked);
    }
    // The first action that is refused or needs an approval decides; where none is, the last.
    let stops = |action: u32, finding: Finding| asks(action) && (!finding.allows() || conf.require_2fa & action != 0);
    let (action, finding) = if stops(action::READ, found.read) {
        (action::READ, found.read)
    } else if stops(action::WRITE, found.write) || (asks(action::WRITE) && !asks(action::DELETE)) {
        (action::WRITE, found.write)
    } else if asks(action::DELETE) {
        (action::DELETE, found.delete)
    } else {
        (action::READ, found.read)
    };
    let (action, ruling) = opaque_action(rules, action, finding.ruling());
    let decision = settle_known(rules, &conf, action, ruling);
    if !decision.allows() {
        return (decision, kind(action));
    }
    if asks(action::DELETE) && asks(Question::CHARGE) && terms.have_budget() {
        let Some(conf) = rules.skill(skill) else { return (no_policy(), Kind::Delete) };
        if !rules.spend(skill, &conf) {
            return (refusal(&conf, Reason::OverBudget.into(), conf.budget_rule), Kind::Delete);
        }
    }
    (decision, asked)
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

/// Which of the two that a link brings together a decision is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The file that is to have a second name.
    Source,
    /// The name.
    Target,
}

/// May the skill make a second name `target` for the file `source`? Making the name is a write where it is to be. The file
/// must be readable and writable where it lies, and may not become deletable by it: a link never widens what the skill may
/// do with a file. What is refused is one of the two.
#[inline(always)]
pub fn link<R: Rules, A: Ancestry>(
    rules: &R,
    skill: SkillId,
    source: &mut A,
    target: &mut A,
    found: &mut Findings,
) -> (Decision, End) {
    let Some((terms, question)) = survey(rules, skill, Act::MOVE, 0, target, found) else {
        return (no_policy(), End::Target);
    };
    let conf = terms.conf();
    found.end(terms, question);
    if let Some(refusal) = found.never(question.0) {
        return (refusal, End::Target);
    }
    let (written, deletable) = (found.write.ruling(), found.delete.allows());
    let decision = settle(rules, &conf, action::WRITE, written);
    if decision.refuses() {
        return (decision, End::Target);
    }
    let all = Act { actions: action::READ | action::WRITE | action::DELETE, ..Act::MOVE };
    let Some((terms, question)) = survey(rules, skill, all, 0, source, found) else {
        return (no_policy(), End::Source);
    };
    found.end(terms, question);
    if let Some(refusal) = found.never(question.0) {
        return (refusal, End::Source);
    }
    if !decision.allows() {
        return (decision, End::Target);
    }
    if !found.read.allows() {
        return (refusal(&conf, ReasonCode(found.read.reason as u8), found.read.rule), End::Source);
    }
    if !found.write.allows() || (deletable && !found.delete.allows()) {
        return (refusal(&conf, Reason::LinkGains.into(), RuleId::NONE), End::Source);
    }
    (decision, End::Target)
}
