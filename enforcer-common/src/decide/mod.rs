//! The decision core: the only code that says yes or no.
//!
//! Each function takes a subject, the facts that the kernel found, and the rules, and returns a [`Decision`]. The rules
//! and the way from an object to its filesystem's root are traits: BPF maps and dentries in the kernel, vectors in the
//! tests. Whatever cannot be found is a denial.

mod code;
mod exec;
mod file;
mod judgement;
mod net;
mod privilege;
mod tamper;
mod terms;
mod unix;

pub use code::{content, library, memory, overwrite};
pub use exec::{enter, exec, has_flag, unsteady};
pub use file::{Act, End, Finding, Findings, Quest, Question, judge, kind, link, object};
pub use judgement::Judgement;
pub use net::{Destination, Endpoint, arrival, bind, connect, listen, netlink, option, port_allowed, socket};
pub use privilege::{Call, Privilege, is_watched, owner, privilege};
pub use tamper::{Device, is_kernel_interface};
pub use terms::Terms;
pub use unix::{unix_name, unix_path, unix_unknown};

use crate::{
    event::{Reason, ReasonCode, Verdict},
    ids::{Digest, ObjectId, RuleId, SkillId},
    net::{AbstractKey, Address},
    rules::{BinaryRule, ObjectRule, SkillConf, skill_flag},
};

/// The policy in force, as one generation sees it.
pub trait Rules {
    /// The settings of a skill; `None` when the policy has no such skill.
    fn skill(&self, skill: SkillId) -> Option<SkillConf>;
    /// The rule that allows this content.
    fn binary(&self, skill: SkillId, digest: &Digest) -> Option<BinaryRule>;
    /// The rules that name this very object.
    fn object(&self, skill: SkillId, object: &ObjectId) -> Option<ObjectRule>;
    /// The rule of the longest prefix that covers `address`, if it allows `port` with `protocols`.
    fn destination(&self, skill: SkillId, address: &Address, port: u16, protocols: u16) -> Option<RuleId>;
    /// The rule of the longest prefix of `listen` that covers `address`, if it allows `port` with `protocols`.
    fn listener(&self, skill: SkillId, address: &Address, port: u16, protocols: u16) -> Option<RuleId>;
    /// The rule that allows this abstract name.
    fn abstract_name(&self, key: &AbstractKey) -> Option<RuleId>;
    /// The skill whose entrypoint this content is.
    fn entrypoint(&self, digest: &Digest) -> Option<SkillId>;
    /// The bit of a content that a `parents` rule names; 0 for any other.
    fn parent(&self, digest: &Digest) -> u64;
    /// Counts one delete against the skill's budget; false when it is used up, and then nothing is counted.
    fn spend(&self, skill: SkillId, conf: &SkillConf) -> bool;
    /// Makes ready for a walk, as [`set_out`] does.
    #[inline(always)]
    fn set_out(&self, skill: SkillId, quest: Quest, found: &mut Findings) -> Terms
    where
        Self: Sized,
    {
        set_out(self, skill, quest, found)
    }
    /// Whether any skill's rules may name an object with this number: false for most of those on a walk.
    #[inline(always)]
    fn may_name(&self, _ino: u64) -> bool {
        true
    }
    /// The rules that name this very object on a walk.
    #[inline(always)]
    fn on_walk<W: Waypoint>(&self, skill: SkillId, at: &W) -> Option<ObjectRule> {
        if self.may_name(at.ino()) { self.object(skill, &at.id()) } else { None }
    }
    /// Notes what the rules that name this very object say; true when there is nothing left to look for.
    #[inline(always)]
    fn meet<W: Waypoint>(&self, skill: SkillId, at: &W, found: &mut Findings) -> bool {
        found.meet(self.on_walk(skill, at).as_ref())
    }
    /// Judges what was found on a walk, as [`judge`] does.
    #[inline(always)]
    fn judge(&self, skill: SkillId, terms: Terms, question: Question, found: &mut Findings) -> Judgement
    where
        Self: Sized,
    {
        let (decision, kind) = judge(self, skill, terms, question, found);
        Judgement::new(decision, kind)
    }
    /// The same number. A verifier that follows each value through the rest of the program knows no more which one it is.
    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        number
    }
}

/// The way from an object up to its filesystem's root.
pub trait Ancestry {
    /// Visits the object itself, then the directory that holds it, and so on, at most [`crate::rules::MAX_DEPTH`] of them,
    /// until `step` has seen enough.
    fn climb<S: Step>(&mut self, step: &mut S) -> Climb;
}

/// What is done on the way.
pub trait Step {
    /// Looks at one object; true when it has seen enough.
    fn visit<W: Waypoint>(&mut self, at: &W) -> bool;
}

/// An object on the way, of which no more is read than is asked for.
pub trait Waypoint {
    /// The first part of its identity, which tells most objects apart.
    fn ino(&self) -> u64;
    /// Its identity.
    fn id(&self) -> ObjectId;
}

impl Waypoint for ObjectId {
    fn ino(&self) -> u64 {
        self.ino
    }

    fn id(&self) -> ObjectId {
        *self
    }
}

/// How a climb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Climb {
    /// The step had seen enough.
    Enough,
    /// At the filesystem's root.
    Root,
    /// At an object that no directory holds and that is not its filesystem's root.
    Adrift,
    /// At the depth that is the most.
    TooDeep,
}

/// A verdict with what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allow, deny, or audit.
    pub verdict: Verdict,
    /// Why.
    pub reason: ReasonCode,
    /// The rule that decided.
    pub rule: RuleId,
    /// Whether an event is to be made of it.
    pub report: bool,
}

impl Decision {
    /// Whether the system call must fail.
    #[must_use]
    #[inline(always)]
    pub fn refuses(&self) -> bool {
        matches!(self.verdict, Verdict::Deny | Verdict::Hold)
    }

    /// Whether nothing stands against it; audit mode lets a refusal pass, but it is one.
    #[must_use]
    #[inline(always)]
    pub fn allows(&self) -> bool {
        matches!(self.verdict, Verdict::Allow)
    }

    /// An allowance of which there is nothing to tell.
    #[must_use]
    #[inline(always)]
    pub const fn silent() -> Self {
        Self { verdict: Verdict::Allow, reason: ReasonCode(Reason::Allowed as u8), rule: RuleId::NONE, report: false }
    }
}

/// Makes ready for a walk for the nearest rules, and says by which terms it will end.
#[inline(always)]
pub fn set_out<R: Rules>(rules: &R, skill: SkillId, quest: Quest, found: &mut Findings) -> Terms {
    let Some(conf) = rules.skill(skill) else { return Terms::NONE };
    found.set_out(&conf, quest);
    Terms::of(&conf)
}

/// What the rules say, before the skill's mode is applied.
type Ruling = Result<RuleId, (ReasonCode, RuleId)>;

/// The same ruling, of which a verifier does not know any more by which way it was come to.
#[inline(always)]
fn opaque<R: Rules>(rules: &R, ruling: Ruling) -> Ruling {
    opaque_action(rules, 0, ruling).1
}

/// The same with the action that it is about.
#[inline(always)]
fn opaque_action<R: Rules>(rules: &R, action: u32, ruling: Ruling) -> (u32, Ruling) {
    const ACTION: u32 = 8;
    const RULE: u32 = 32;
    let (reason, rule) = match ruling {
        Ok(rule) => (Reason::Allowed.into(), rule),
        Err(refused) => refused,
    };
    let word = rules.opaque(u64::from(reason.0) | u64::from(action) << ACTION | u64::from(rule.0) << RULE);
    let (reason, rule) = (ReasonCode(word as u8), RuleId((word >> RULE) as u32));
    let ruling = if reason.0 == Reason::Allowed as u8 { Ok(rule) } else { Err((reason, rule)) };
    (word as u32 >> ACTION, ruling)
}

/// The same of a decision.
#[inline(always)]
fn opaque_decision<R: Rules>(rules: &R, decision: Decision) -> Decision {
    judgement::decision(rules.opaque(judgement::number(decision)))
}

/// Applies `require_2fa`, `mode` and `audit_level` to what the rules say.
#[inline(always)]
fn settle<R: Rules>(rules: &R, conf: &SkillConf, action: u32, ruling: Ruling) -> Decision {
    settle_known(rules, conf, action, opaque(rules, ruling))
}

/// The same of a ruling that is opaque already.
#[inline(always)]
fn settle_known<R: Rules>(rules: &R, conf: &SkillConf, action: u32, ruling: Ruling) -> Decision {
    // An approval never widens: only what the rules allow can need one.
    let ruling = match ruling {
        Ok(_) if conf.require_2fa & action != 0 => Err((Reason::NeedsApproval.into(), conf.require_2fa_rule)),
        ruling => ruling,
    };
    let decision = match ruling {
        Ok(rule) => Decision {
            verdict: Verdict::Allow,
            reason: ReasonCode(Reason::Allowed as u8),
            rule,
            // What no rule governs is no decision: there is nothing to report.
            report: conf.flags & skill_flag::REPORT_ALLOWED != 0 && rule.0 != RuleId::NONE.0,
        },
        Err((reason, rule)) => refusal(conf, reason, rule),
    };
    opaque_decision(rules, decision)
}

/// A refusal, as the skill's mode has it.
#[inline(always)]
fn refusal(conf: &SkillConf, reason: ReasonCode, rule: RuleId) -> Decision {
    let audit = conf.flags & skill_flag::AUDIT != 0 && !reason.is_self_protection();
    let verdict = if audit { Verdict::Audit } else { Verdict::Deny };
    Decision { verdict, reason, rule, report: true }
}

/// The verdict on a task whose skill the policy does not have: a skill that was removed while processes were in it.
#[inline(always)]
fn no_policy() -> Decision {
    Decision { verdict: Verdict::Deny, reason: ReasonCode(Reason::NoPolicy as u8), rule: RuleId::NONE, report: true }
}

/// The verdict on an act for which there is no room to decide in: the task's label found none.
#[must_use]
#[inline(always)]
pub const fn no_room() -> Decision {
    Decision { verdict: Verdict::Deny, reason: ReasonCode(Reason::NoRoom as u8), rule: RuleId::NONE, report: true }
}

/// A refusal that no rule can lift, such as reaching into another skill; audit mode only reports it, but for self-protection.
#[inline(always)]
pub fn never<R: Rules>(rules: &R, skill: SkillId, reason: impl Into<ReasonCode>) -> Decision {
    match rules.skill(skill) {
        Some(conf) => refusal(&conf, reason.into(), RuleId::NONE),
        None => no_policy(),
    }
}
