//! Decisions in one number.

use super::Decision;
use crate::{
    event::{Kind, ReasonCode, Verdict},
    ids::RuleId,
};

/// A decision about a file, and what it is about, in one number: a function of the object can return nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement(u64);

const REASON: u32 = 8;
const REPORT: u32 = 16;
const KIND: u32 = 24;
const RULE: u32 = 32;
const FIRST: u8 = Verdict::Allow as u8;

/// The number of a decision.
#[inline(always)]
pub(super) const fn number(decision: Decision) -> u64 {
    (decision.verdict as u8 - FIRST) as u64
        | (decision.reason.0 as u64) << REASON
        | (decision.report as u64) << REPORT
        | (decision.rule.0 as u64) << RULE
}

/// The decision of a number.
#[inline(always)]
pub(super) const fn decision(number: u64) -> Decision {
    Decision {
        // In the order of their numbers, so that this is no question to the processor.
        verdict: match number & 3 {
            0 => Verdict::Allow,
            1 => Verdict::Deny,
            2 => Verdict::Audit,
            _ => Verdict::Hold,
        },
        reason: ReasonCode((number >> REASON) as u8),
        report: number >> REPORT & 1 != 0,
        rule: RuleId((number >> RULE) as u32),
    }
}

impl Judgement {
    /// `kind` is one of those of files.
    #[must_use]
    #[inline(always)]
    pub const fn new(decision: Decision, kind: Kind) -> Self {
        Self(number(decision) | (kind as u64) << KIND)
    }

    /// The decision and what it is about.
    #[inline(always)]
    pub(super) const fn parts(self) -> (Decision, Kind) {
        const DELETE: u8 = Kind::Delete as u8;
        const WRITE: u8 = Kind::Write as u8;
        let kind = match (self.0 >> KIND) as u8 {
            DELETE => Kind::Delete,
            WRITE => Kind::Write,
            _ => Kind::Read,
        };
        (decision(self.0), kind)
    }

    /// The number.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The same of its number.
    #[must_use]
    #[inline(always)]
    pub const fn of_number(number: u64) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judgement_is_the_decision_and_the_kind() {
        for verdict in [Verdict::Allow, Verdict::Deny, Verdict::Audit, Verdict::Hold] {
            for kind in [Kind::Delete, Kind::Write, Kind::Read] {
                for report in [false, true] {
                    let decision = Decision { verdict, reason: ReasonCode(u8::MAX), rule: RuleId(u32::MAX), report };
                    let number = Judgement::new(decision, kind).number();
                    assert_eq!(Judgement::of_number(number).parts(), (decision, kind));
                }
            }
        }
    }
}
