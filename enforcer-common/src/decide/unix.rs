//! Unix sockets: one that lies in the filesystem by the nearest rule on the way up from its inode, one with an abstract name by
//! that name. What the skill made itself, and what has no name at all, needs no rule: the caller lets it pass.

use super::{Ancestry, Climb, Decision, Rules, Ruling, Step, Waypoint, no_policy, settle};
use crate::{
    event::{Reason, ReasonCode},
    ids::{RuleId, SkillId},
    net::AbstractKey,
    rules::{SkillConf, action, skill_flag},
};

/// Looks for the nearest rule that says something of connecting.
struct Nearest<'a, R> {
    rules: &'a R,
    skill: SkillId,
    protect: RuleId,
    connect: RuleId,
}

impl<R: Rules> Step for Nearest<'_, R> {
    #[inline(always)]
    fn visit<W: Waypoint>(&mut self, at: &W) -> bool {
        let Some(rule) = self.rules.on_walk(self.skill, at) else { return false };
        self.protect = rule.protect;
        self.connect = rule.connect;
        rule.protect.0 != 0 || rule.connect.0 != 0
    }
}

/// What holds where no rule names the socket.
#[inline(always)]
fn otherwise(conf: &SkillConf) -> Ruling {
    if conf.flags & skill_flag::CONNECT_ANY != 0 {
        Ok(conf.connect_any)
    } else {
        Err((Reason::SocketNotListed.into(), RuleId::NONE))
    }
}

/// May the skill reach the socket that lies here?
#[inline(always)]
pub fn unix_path<R: Rules, A: Ancestry>(rules: &R, skill: SkillId, ancestry: &mut A) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let mut ruling = otherwise(&conf);
    // Where everything is allowed and nothing protected there is nothing to look for.
    if conf.flags & (skill_flag::CONNECT_ANY | skill_flag::PROTECTS) != skill_flag::CONNECT_ANY {
        let mut nearest = Nearest { rules, skill, protect: RuleId::NONE, connect: RuleId::NONE };
        ruling = match ancestry.climb(&mut nearest) {
            Climb::Enough if nearest.protect.0 != 0 => Err((ReasonCode(Reason::Protected as u8), nearest.protect)),
            Climb::Enough => Ok(nearest.connect),
            Climb::Root => ruling,
            Climb::Adrift => Err((Reason::Unreachable.into(), RuleId::NONE)),
            Climb::TooDeep => Err((Reason::TooDeep.into(), RuleId::NONE)),
        };
    }
    settle(rules, &conf, action::CONNECT, ruling)
}

/// May the skill reach a socket of which nothing can be found out? Where everything may be reached and nothing is protected.
#[inline(always)]
pub fn unix_unknown<R: Rules>(rules: &R, skill: SkillId) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let ruling = if conf.flags & skill_flag::PROTECTS == 0 {
        otherwise(&conf)
    } else {
        Err((Reason::SocketNotListed.into(), RuleId::NONE))
    };
    settle(rules, &conf, action::CONNECT, ruling)
}

/// May the skill reach the socket of this abstract name?
#[inline(always)]
pub fn unix_name<R: Rules>(rules: &R, key: &AbstractKey) -> Decision {
    let Some(conf) = rules.skill(key.skill) else { return no_policy() };
    let ruling = match rules.abstract_name(key) {
        Some(rule) => Ok(rule),
        None => otherwise(&conf),
    };
    settle(rules, &conf, action::CONNECT, ruling)
}
