//! Exec: by content, and where it leads.

use enforcer_common::{
    decide::{self, Rules as _},
    event::{Reason, Verdict},
    ids::Digest,
};
use proptest::{collection::vec, prelude::*};

use crate::{
    harness::{Outcome, check},
    objects::Disk,
    policy::{List, Numbers, Policy, digest, reason, skill_id},
    store::{Store, View, compile},
    world::governed,
};

/// An attempt to execute something.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The content; `None` when it could not be measured.
    pub(crate) measured: Option<u8>,
    pub(crate) traced: bool,
    /// What the acting process runs, has run, or descends from.
    pub(crate) lineage: Vec<u8>,
}

/// An attempt; the content 5 is in no policy.
pub(crate) fn run() -> impl Strategy<Value = Run> {
    (proptest::option::weighted(0.9, 0_u8..6), any::<bool>(), vec(0_u8..6, 0..3))
        .prop_map(|(measured, traced, lineage)| Run { measured, traced, lineage })
}

/// What the manifest says of an exec: where it leads to, or why it may not be; always with the rule's text.
fn says(policy: &Policy, index: usize, run: &Run) -> Result<(String, usize), (Reason, Option<String>)> {
    let Some(Some(skill)) = policy.get(index) else { return Err((Reason::NoPolicy, None)) };
    let listed = match (&skill.allow_binaries, run.measured) {
        (List::Star, _) => "allow_binaries: *".to_owned(),
        (_, None) => return Err((Reason::NotMeasured, None)),
        (List::Of(names), Some(name)) if names.contains(&name) => {
            // "Only when executed by a process that runs one of these, or descends from one that did"
            let rule = format!("allow_binaries: {name}");
            let mut parents = skill.parents.iter().filter(|(child, _)| *child == name).peekable();
            if parents.peek().is_some() && !parents.any(|(_, parent)| run.lineage.contains(parent)) {
                return Err((Reason::ParentNotListed, Some(rule)));
            }
            rule
        }
        _ => return Err((Reason::BinaryNotListed, None)),
    };
    if skill.require_2fa.contains(&"exec") {
        return Err((Reason::NeedsApproval, Some("require_2fa".to_owned())));
    }
    // "exec of this binary by a governed process moves it into this skill"
    let entered = |other: &Option<crate::policy::Skill>| {
        other.as_ref().and_then(|other| other.entrypoint).is_some_and(|name| run.measured == Some(name))
    };
    let target = policy.iter().position(entered).unwrap_or(index);
    if target != index && run.traced { Err((Reason::Traced, None)) } else { Ok((listed, target)) }
}

/// Compares the core with the manifest, asking as the exec hook does.
pub(crate) fn compare(
    rules: &View<'_>,
    policy: &Policy,
    numbers: &Numbers,
    index: usize,
    run: &Run,
) -> Result<Reason, TestCaseError> {
    let content: Option<Digest> = run.measured.map(digest);
    let lineage = run.lineage.iter().fold(0, |bits, name| bits | rules.parent(&digest(*name)));
    let mut decision =
        decide::exec(rules, skill_id(index), content.as_ref().ok_or(Reason::NotMeasured.into()), lineage);
    let mut leads = index;
    if let (true, Some(content)) = (decision.allows(), content) {
        match decide::enter(rules, skill_id(index), &content, run.traced) {
            Ok(None) => {}
            Ok(Some(target)) => leads = target.0 as usize - 1,
            Err(refusal) => decision = refusal,
        }
    }
    let skill = policy.get(index).and_then(Option::as_ref);
    match says(policy, index, run) {
        Ok((rule, target)) => {
            prop_assert_eq!((decision.verdict, reason(decision)), (Verdict::Allow, Reason::Allowed));
            prop_assert_eq!(leads, target);
            prop_assert!(numbers.is_one_of(decision.rule, index, &[rule]));
            prop_assert_eq!(decision.report, skill.is_some_and(|skill| skill.strict));
            if leads != index {
                prop_assert!(policy[leads].is_some(), "led to a skill that is not there");
                return Ok(Reason::Entered);
            }
        }
        Err((why, rule)) => {
            let audited = skill.is_some_and(|skill| skill.audit);
            let verdict = if audited { Verdict::Audit } else { Verdict::Deny };
            prop_assert_eq!((decision.verdict, reason(decision)), (verdict, why));
            prop_assert!(decision.report);
            let named = rule.into_iter().collect::<Vec<_>>();
            prop_assert!(numbers.is_one_of(decision.rule, index, &named));
            prop_assert_eq!(leads, index);
        }
    }
    Ok(reason(decision))
}

#[test]
fn what_runs_is_what_is_listed() {
    let reasons = [
        Reason::Allowed,
        Reason::BinaryNotListed,
        Reason::NotMeasured,
        Reason::ParentNotListed,
        Reason::NeedsApproval,
        Reason::NoPolicy,
        Reason::Traced,
        Reason::Entered,
    ];
    let strategy = (governed(), 0_usize..2, run());
    check("exec", 6, &reasons.map(Reason::as_str), &strategy, |((tree, policy), index, run), tally| -> Outcome {
        let mut numbers = Numbers::default();
        let store = Store::with(compile(&policy, &Disk::new(&tree), &mut numbers));
        tally.count(compare(&store.now(), &policy, &numbers, index, &run)?.as_str());
        Ok(())
    });
}
