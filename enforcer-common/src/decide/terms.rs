//! The terms by which a walk ends: what the verdict on a file needs of the skill's settings.

use crate::{
    ids::RuleId,
    rules::{SkillConf, action, skill_flag},
};

/// A few of the settings in one number, which is all that is kept of them on a walk: the settings themselves would lie on the stack
/// meanwhile, and a function of the object can return a number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms(u64);

impl Terms {
    /// The policy has no such skill.
    pub const NONE: Self = Self(0);

    /// Where the actions begin that need an approval.
    const APPROVAL: u32 = 8;
    const ACTIONS: u32 = action::ALL | action::READ;
    /// Where the rule is by which they do.
    const RULE: u32 = 32;
    const FLAGS: u32 = skill_flag::AUDIT | skill_flag::REPORT_ALLOWED | skill_flag::GUARDS;
    const BUDGET: u32 = 1 << 30;
    const EXIST: u32 = 1 << 31;

    /// Those of a skill.
    #[must_use]
    #[inline(always)]
    pub const fn of(conf: &SkillConf) -> Self {
        let budget = if conf.budget_rule.0 != 0 { Self::BUDGET } else { 0 };
        let approval = (conf.require_2fa & Self::ACTIONS) << Self::APPROVAL;
        let low = conf.flags & Self::FLAGS | approval | budget | Self::EXIST;
        Self(low as u64 | (conf.require_2fa_rule.0 as u64) << Self::RULE)
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

    /// Whether the policy has the skill.
    #[must_use]
    #[inline(always)]
    pub const fn exist(self) -> bool {
        self.0 as u32 & Self::EXIST != 0
    }

    /// Whether deletes are counted.
    #[must_use]
    #[inline(always)]
    pub const fn have_budget(self) -> bool {
        self.0 as u32 & Self::BUDGET != 0
    }

    /// Settings that are the skill's as far as the terms go, and else say nothing.
    #[must_use]
    #[inline(always)]
    pub fn conf(self) -> SkillConf {
        let low = self.0 as u32;
        SkillConf {
            flags: low & Self::FLAGS,
            require_2fa: low >> Self::APPROVAL & Self::ACTIONS,
            require_2fa_rule: RuleId((self.0 >> Self::RULE) as u32),
            ..SkillConf::default()
        }
    }
}

const _: () = assert!(Terms::FLAGS & Terms::ACTIONS << Terms::APPROVAL == 0);
const _: () = assert!((Terms::FLAGS | Terms::ACTIONS << Terms::APPROVAL) & (Terms::BUDGET | Terms::EXIST) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_the_settings_that_a_verdict_needs() {
        let conf = SkillConf {
            flags: Terms::FLAGS | skill_flag::PROTECTS,
            require_2fa: action::DELETE | action::WRITE,
            require_2fa_rule: RuleId(u32::MAX),
            budget_rule: RuleId(9),
            ..SkillConf::default()
        };
        let terms = Terms::of_number(Terms::of(&conf).number());
        assert!(terms.exist() && terms.have_budget());
        let SkillConf { flags, require_2fa, require_2fa_rule, .. } = terms.conf();
        assert_eq!((flags, require_2fa, require_2fa_rule), (Terms::FLAGS, conf.require_2fa, conf.require_2fa_rule));
    }

    #[test]
    fn a_skill_without_settings_has_terms() {
        let terms = Terms::of(&SkillConf::default());
        assert!(terms.exist() && !terms.have_budget());
        assert_eq!(terms.conf(), SkillConf::default());
        assert!(!Terms::NONE.exist());
    }
}
