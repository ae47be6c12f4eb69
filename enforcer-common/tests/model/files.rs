//! Deleting, writing and reading: the core's verdict is the model's.

use enforcer_common::{
    decide::{self, Act, Decision, Findings},
    event::{Kind, Reason, Verdict},
    rules::action,
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    harness::{Outcome, check},
    naive::{Naive, Place, Refusal, Want},
    objects::Disk,
    policy::{List, Numbers, reason, skill_id},
    store::{Store, compile},
    world::{changes, governed, join},
};

/// Some of what can be done to an object, as bits: 1 reads, 2 writes, 4 deletes; 8 counts the delete.
pub(crate) type Deed = u8;

/// What a hook would ask for a deed.
pub(crate) fn act(deed: Deed) -> Act {
    match deed {
        1 => Act::READ,
        2 => Act::WRITE,
        6 => Act::MOVE,
        12 => Act::DELETE,
        14 => Act::TRUNCATE,
        _ => {
            let bits = [(1, action::READ), (2, action::WRITE), (4, action::DELETE)];
            let actions = bits.iter().filter(|(bit, _)| deed & bit != 0).fold(0, |all, (_, action)| all | action);
            Act { actions, charge: deed & 8 != 0, by_name: false }
        }
    }
}

/// What the model is asked for a deed.
pub(crate) fn wants(deed: Deed) -> Vec<Want> {
    let wants = [(1, Want::Read), (2, Want::Write), (4, Want::Delete)];
    wants.iter().filter(|(bit, _)| deed & bit != 0).map(|(_, want)| *want).collect()
}

/// A deed that does something, most often one of those that the hooks know.
pub(crate) fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => prop::sample::select(vec![1, 2, 3, 6, 12, 14]),
        1 => (1_u8..16).prop_filter("at least one action", |deed| deed & 7 != 0),
    ]
}

/// Compares the core's answer with the model's.
pub(crate) fn compare(
    naive: &Naive,
    numbers: &Numbers,
    skill: usize,
    (decision, kind): (Decision, Kind),
    expected: &Result<Vec<String>, Vec<Refusal>>,
) -> Outcome {
    let conf = naive.policy.get(skill).and_then(Option::as_ref);
    match expected {
        Ok(rules) => {
            prop_assert_eq!(decision.verdict, Verdict::Allow, "the model allows by {:?}: {:?}", rules, decision);
            prop_assert_eq!(reason(decision), Reason::Allowed);
            prop_assert!(numbers.is_one_of(decision.rule, skill, rules), "{decision:?} names none of {rules:?}");
            // "strict: + every allowed decision"; where no rule governs there is no decision.
            let report = conf.is_some_and(|conf| conf.strict) && !rules.is_empty();
            prop_assert_eq!(decision.report, report);
        }
        Err(refusals) => {
            let audited = conf.is_some_and(|conf| conf.audit);
            let verdict = if audited { Verdict::Audit } else { Verdict::Deny };
            prop_assert_eq!(decision.verdict, verdict, "the model refuses by {:?}: {:?}", refusals, decision);
            // Of several refusals one is told.
            let told = |(k, why, rules): &Refusal| {
                (*k == kind || *why == Reason::NoPolicy)
                    && *why == reason(decision)
                    && numbers.is_one_of(decision.rule, skill, rules)
            };
            prop_assert!(refusals.iter().any(told), "{decision:?} of {kind:?} is none of {refusals:?}");
            prop_assert!(decision.report);
        }
    }
    Ok(())
}

#[test]
fn the_core_and_the_model_agree() {
    let reasons: Vec<&str> = [
        Reason::Allowed,
        Reason::PathNotListed,
        Reason::TooDeep,
        Reason::NeedsApproval,
        Reason::NoPolicy,
        Reason::Protected,
        Reason::ProtectedWay,
        Reason::Unreachable,
        Reason::OverBudget,
        Reason::LibraryReadOnly,
    ]
    .map(Reason::as_str)
    .into();
    // The skill that acts, what it does, to which name, and whether to the name itself, to one that no longer hangs
    // together with the root, or to one that is to be made in it.
    let question = (0_usize..2, deed(), any::<Index>(), 0_u8..12, any::<Index>());
    let strategy = (governed(), changes(), vec(question, 1..6));
    check("files", 30, &reasons, &strategy, |((tree, policy), changes, questions), tally| {
        let (mut naive, mut disk, mut numbers) = (Naive::new(&policy, &tree), Disk::new(&tree), Numbers::default());
        let store = Store::with(compile(&policy, &disk, &mut numbers));
        for change in &changes {
            if let Some(step) = change.step(&naive.tree) {
                naive.befall(&step);
                disk.befall(&step);
                tally.count("changed");
            }
        }
        // Never emptied, as in the kernel: what an earlier decision left there must not matter.
        let mut room = Findings::default();
        for (skill, deed, name, fate, cut) in questions {
            let mut path = naive.tree.names[name.index(naive.tree.names.len())].clone();
            let depth = path.split('/').filter(|name| !name.is_empty()).count();
            let adrift = if fate == 0 && depth > 0 { 1 + cut.index(depth) } else { 0 };
            let mut way = if fate == 1 && !naive.tree.has_twin(&path) {
                path = join(&path, "new");
                disk.way_to_be(&path)
            } else {
                disk.way(&path, adrift)
            };
            let decided = decide::object(&store.now(), skill_id(skill), act(deed), &mut way, &mut room);
            let expected = naive.ask(skill, &wants(deed), deed & 8 != 0, &Place { path, adrift });
            compare(&naive, &numbers, skill, decided, &expected)?;
            tally.count(reason(decided.0).as_str());
        }
        Ok(())
    });
}

#[test]
fn a_library_lies_where_the_nearest_word_says() {
    let question = (0_usize..2, any::<Index>(), 0_u8..12, any::<Index>());
    let strategy = (governed(), changes(), vec(question, 1..6));
    let outcomes = ["allowed", "not by its place", "everything"];
    check("libraries", 5, &outcomes, &strategy, |((tree, policy), changes, questions), tally| {
        let (mut naive, mut disk, mut numbers) = (Naive::new(&policy, &tree), Disk::new(&tree), Numbers::default());
        let store = Store::with(compile(&policy, &disk, &mut numbers));
        for step in changes.iter().filter_map(|change| change.step(&tree)).take(1) {
            naive.befall(&step);
            disk.befall(&step);
        }
        let mut room = Findings::default();
        for (index, name, fate, cut) in questions {
            let path = naive.tree.names[name.index(naive.tree.names.len())].clone();
            let depth = path.split('/').filter(|name| !name.is_empty()).count();
            let adrift = if fate == 0 && depth > 0 { 1 + cut.index(depth) } else { 0 };
            let decided = decide::library(&store.now(), skill_id(index), &mut disk.way(&path, adrift), &mut room);
            let Some(Some(skill)) = policy.get(index) else {
                prop_assert_eq!(decided.map(reason), Some(Reason::NoPolicy));
                continue;
            };
            let expected = if skill.allow_libraries == List::Star {
                tally.count("everything");
                Some(vec!["allow_libraries: *".to_owned()])
            } else {
                naive.library(index, &Place { path, adrift })
            };
            tally.count(if expected.is_some() { "allowed" } else { "not by its place" });
            match (decided, &expected) {
                (None, None) => {}
                (Some(decision), Some(rules)) => {
                    prop_assert_eq!((decision.verdict, reason(decision)), (Verdict::Allow, Reason::Allowed));
                    prop_assert!(numbers.is_one_of(decision.rule, index, rules), "{decision:?} is none of {rules:?}");
                    prop_assert_eq!(decision.report, skill.strict);
                }
                _ => prop_assert!(false, "{decided:?} instead of {expected:?}"),
            }
        }
        Ok(())
    });
}
