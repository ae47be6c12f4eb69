//! The decision core: the only code that says yes or no.
//!
//! Each function takes a subject, the facts that the kernel found, and the rules, and returns a [`Decision`]. The rules
//! and the way from an object to its filesystem's root are traits: BPF maps and dentries in the kernel, vectors in the
//! tests. Whatever cannot be found is a denial.

use crate::{
    event::{Reason, Verdict},
    ids::{Digest, ObjectId, RuleId, SkillId},
    net::{self, Address, PortSet},
    rules::{BinaryRule, MAX_DEPTH, ObjectRule, SkillConf, action, skill_flag},
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
}

/// The way from an object up to its filesystem's root.
pub trait Ancestry {
    /// The object itself, then the directory that holds it, and so on; `None` after the root.
    fn next(&mut self) -> Option<ObjectId>;
}

/// A verdict with what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allow, deny, or audit.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
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
}

/// What the rules say, before the skill's mode is applied.
type Ruling = Result<RuleId, (Reason, RuleId)>;

/// Applies `require_2fa`, `mode` and `audit_level` to what the rules say.
#[inline(always)]
fn settle(conf: &SkillConf, action: u32, ruling: Ruling) -> Decision {
    // An approval never widens: only what the rules allow can need one.
    let ruling = match ruling {
        Ok(_) if conf.require_2fa & action != 0 => Err((Reason::NeedsApproval, conf.require_2fa_rule)),
        ruling => ruling,
    };
    match ruling {
        Ok(rule) => Decision {
            verdict: Verdict::Allow,
            reason: Reason::Allowed,
            rule,
            report: conf.flags & skill_flag::REPORT_ALLOWED != 0,
        },
        Err((reason, rule)) => {
            let verdict = if conf.flags & skill_flag::AUDIT != 0 { Verdict::Audit } else { Verdict::Deny };
            Decision { verdict, reason, rule, report: true }
        }
    }
}

/// The verdict on a task whose skill the policy does not have: a skill that was removed while processes were in it.
#[inline(always)]
fn no_policy() -> Decision {
    Decision { verdict: Verdict::Deny, reason: Reason::NoPolicy, rule: RuleId::NONE, report: true }
}

/// May the skill execute this content? `digest` is `None` when the content could not be measured.
#[inline(always)]
pub fn exec<R: Rules>(rules: &R, skill: SkillId, digest: Option<&Digest>) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let ruling = if conf.flags & skill_flag::EXEC_ANY != 0 {
        Ok(conf.exec_any)
    } else {
        match digest {
            None => Err((Reason::NotMeasured, RuleId::NONE)),
            Some(digest) => match rules.binary(skill, digest) {
                Some(binary) => Ok(binary.rule),
                None => Err((Reason::BinaryNotListed, RuleId::NONE)),
            },
        }
    };
    settle(&conf, action::EXEC, ruling)
}

/// May the skill remove this object? The nearest rule on the way up decides.
#[inline(always)]
pub fn delete<R: Rules, A: Ancestry>(rules: &R, skill: SkillId, ancestry: &mut A) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let ruling = if conf.flags & skill_flag::DELETE_ANY != 0 { Ok(conf.delete_any) } else { nearest(rules, skill, ancestry) };
    settle(&conf, action::DELETE, ruling)
}

/// The nearest `allow_delete` rule from the object upwards.
#[inline(always)]
fn nearest<R: Rules, A: Ancestry>(rules: &R, skill: SkillId, ancestry: &mut A) -> Ruling {
    let mut depth = 0;
    while depth < MAX_DEPTH {
        let Some(object) = ancestry.next() else { return Err((Reason::PathNotListed, RuleId::NONE)) };
        if let Some(rule) = rules.object(skill, &object)
            && rule.allow_delete != RuleId::NONE
        {
            return Ok(rule.allow_delete);
        }
        depth += 1;
    }
    Err((Reason::TooDeep, RuleId::NONE))
}

/// Where a connection or datagram is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address.
    pub address: Address,
    /// The port in host order.
    pub port: u16,
    /// The IP protocol of the socket.
    pub protocol: u16,
}

/// May the skill send to this destination?
#[inline(always)]
pub fn connect<R: Rules>(rules: &R, skill: SkillId, destination: &Destination) -> Decision {
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let protocols = match destination.protocol {
        net::IPPROTO_TCP => net::protocol::TCP,
        net::IPPROTO_UDP => net::protocol::UDP,
        _ => 0,
    };
    let ruling = if conf.flags & skill_flag::CONNECT_ANY != 0 {
        Ok(conf.connect_any)
    } else if protocols == 0 {
        Err((Reason::ProtocolNotListed, RuleId::NONE))
    } else {
        match rules.destination(skill, &destination.address, destination.port, protocols) {
            Some(rule) => Ok(rule),
            None => Err((Reason::DestinationNotListed, RuleId::NONE)),
        }
    };
    settle(&conf, action::CONNECT, ruling)
}

/// Looks a destination up in the set of ports of its longest prefix.
#[inline(always)]
pub fn port_allowed(ports: Option<&PortSet>, port: u16, protocols: u16) -> Option<RuleId> {
    ports.and_then(|ports| ports.find(port, protocols))
}

/// May the skill make such a socket? Unix and TCP and UDP sockets are decided when they connect; netlink is what programs
/// read routes and addresses with. Everything else sends past the network rules, so nothing allows it but `["*"]`.
#[inline(always)]
pub fn socket<R: Rules>(rules: &R, skill: SkillId, family: u16, socket_type: u16, protocol: u16) -> Decision {
    const SOCK_STREAM: u16 = 1;
    const SOCK_DGRAM: u16 = 2;
    const NETLINK_ROUTE: u16 = 0;
    let Some(conf) = rules.skill(skill) else { return no_policy() };
    let inet = matches!(
        (socket_type, protocol),
        (SOCK_STREAM, 0 | net::IPPROTO_TCP) | (SOCK_DGRAM, 0 | net::IPPROTO_UDP)
    );
    let decided_later = match family {
        net::AF_UNIX => true,
        net::AF_INET | net::AF_INET6 => inet,
        net::AF_NETLINK => protocol == NETLINK_ROUTE,
        _ => false,
    };
    if decided_later {
        // No event and no approval: the socket itself reaches nobody.
        return Decision { verdict: Verdict::Allow, reason: Reason::Allowed, rule: RuleId::NONE, report: false };
    }
    let ruling = if conf.flags & skill_flag::CONNECT_ANY != 0 {
        Ok(conf.connect_any)
    } else {
        Err((Reason::ProtocolNotListed, RuleId::NONE))
    };
    settle(&conf, action::CONNECT, ruling)
}
