//! What must hold between two policies, whatever the right verdict is.

use enforcer_common::{
    decide::{self, Decision, Findings, Rules as _},
    event::{Reason, Verdict},
};
use proptest::{prelude::*, sample::Index};

use crate::{
    exec::Run,
    files::{Deed, act, deed},
    harness::check,
    objects::Disk,
    policy::{List, Numbers, Policy, Skill, digest, reason, skill_id},
    store::{Store, compile},
    world::{Tree, governed, join},
};

/// A few questions of every sort about one tree.
#[derive(Clone, Debug)]
struct Questions {
    deeds: Vec<(Deed, Index)>,
    link: [Index; 2],
    run: Run,
}

fn questions() -> impl Strategy<Value = Questions> {
    let deeds = proptest::collection::vec((deed(), any::<Index>()), 1..5);
    (deeds, any::<[Index; 2]>(), crate::exec::run()).prop_map(|(deeds, link, run)| Questions { deeds, link, run })
}

/// The first skill's answers under a policy, and whether each is about a link.
fn answers(tree: &Tree, policy: &Policy, numbers: &mut Numbers, questions: &Questions) -> Vec<(Decision, bool)> {
    let disk = Disk::new(tree);
    let store = Store::with(compile(policy, &disk, numbers));
    let (rules, skill, mut room) = (store.now(), skill_id(0), Findings::default());
    let mut out = vec![];
    for (deed, name) in &questions.deeds {
        let path = &tree.names[name.index(tree.names.len())];
        out.push((decide::object(&rules, skill, act(*deed), &mut disk.way(path, 0), &mut room).0, false));
    }
    let [file, dir] = questions.link.map(|index| &tree.names[index.index(tree.names.len())]);
    let (mut here, mut there) = (disk.way(file, 0), disk.way_to_be(&join(dir, "new")));
    out.push((decide::link(&rules, skill, &mut here, &mut there, &mut room).0, true));
    let content = questions.run.measured.map(digest);
    let lineage = questions.run.lineage.iter().fold(0, |bits, name| bits | rules.parent(&digest(*name)));
    out.push((decide::exec(&rules, skill, content.as_ref().ok_or(Reason::NotMeasured.into()), lineage), false));
    if let Some(Err(refusal)) = content.map(|digest| decide::enter(&rules, skill, &digest, questions.run.traced)) {
        out.push((refusal, false));
    }
    out.push((decide::socket(&rules, skill, 17, 3, 768), false));
    out.push((decide::never(&rules, skill, Reason::OtherSkill), false));
    out
}

/// Where `wider` refuses, `narrower` must refuse, too. Only policies without a budget can be compared: what is refused
/// for another reason is not counted, so that a later delete may be within the budget. True when it allows less.
fn never_more(wider: &[(Decision, bool)], narrower: &[(Decision, bool)]) -> Result<bool, TestCaseError> {
    let mut less = false;
    for ((before, link), (after, _)) in wider.iter().zip(narrower) {
        // A link that gained a right gains it no longer once nobody has the right.
        let unlocked = *link && reason(*before) == Reason::LinkGains;
        prop_assert!(before.allows() || !after.allows() || unlocked, "{before:?} became {after:?}");
        less |= before.allows() && !after.allows();
    }
    Ok(less)
}

fn without_budget(mut policy: Policy) -> Policy {
    policy.iter_mut().flatten().for_each(|skill| skill.delete_budget = None);
    policy
}

#[test]
fn another_protect_rule_never_allows_more() {
    let strategy = (governed(), any::<Index>(), questions());
    check("one more protect", 8, &["less", "same"], &strategy, |((tree, policy), at, questions), tally| {
        let (wider, mut numbers) = (without_budget(policy), Numbers::default());
        let mut narrower = wider.clone();
        let path = tree.names[at.index(tree.names.len())].clone();
        narrower.iter_mut().flatten().for_each(|skill| skill.protect.push(path.clone()));
        let before = answers(&tree, &wider, &mut numbers, &questions);
        let less = never_more(&before, &answers(&tree, &narrower, &mut numbers, &questions))?;
        tally.count(if less { "less" } else { "same" });
        Ok(())
    });
}

/// Removes one entry; a list that had only this one stays, and is empty.
fn remove<T>(list: &mut List<T>, at: Index) {
    match list {
        List::Of(entries) if !entries.is_empty() => drop(entries.remove(at.index(entries.len()))),
        List::Star => *list = List::Of(vec![]),
        _ => {}
    }
}

#[test]
fn one_allow_rule_less_never_allows_more() {
    let strategy = (governed(), 0_u8..3, any::<Index>(), questions());
    check("one allowance less", 8, &["less", "same"], &strategy, |((tree, policy), which, at, questions), tally| {
        let (wider, mut numbers) = (without_budget(policy), Numbers::default());
        let mut narrower = wider.clone();
        for skill in narrower.iter_mut().flatten() {
            match which {
                0 => remove(&mut skill.allow_delete, at),
                1 => remove(&mut skill.allow_write, at),
                _ => remove(&mut skill.allow_binaries, at),
            }
        }
        let before = answers(&tree, &wider, &mut numbers, &questions);
        let less = never_more(&before, &answers(&tree, &narrower, &mut numbers, &questions))?;
        tally.count(if less { "less" } else { "same" });
        Ok(())
    });
}

#[test]
fn the_order_of_rules_never_matters() {
    let strategy = (governed(), any::<[u8; 3]>(), questions());
    check("order", 6, &["allow", "deny"], &strategy, |((tree, policy), turn, questions), tally| {
        fn shuffle<T>(list: &mut [T], turn: u8) {
            if !list.is_empty() {
                let by = usize::from(turn >> 1) % list.len();
                list.rotate_left(by);
                if turn & 1 == 1 {
                    list.reverse();
                }
            }
        }
        let mut other = policy.clone();
        for skill in other.iter_mut().flatten() {
            shuffle(&mut skill.protect, turn[0]);
            if let List::Of(paths) = &mut skill.allow_delete {
                shuffle(paths, turn[1]);
            }
            if let List::Of(paths) = &mut skill.allow_write {
                shuffle(paths, turn[2]);
            }
            if let List::Of(digests) = &mut skill.allow_binaries {
                shuffle(digests, turn[0]);
            }
        }
        let mut numbers = Numbers::default();
        let one = answers(&tree, &policy, &mut numbers, &questions);
        let two = answers(&tree, &other, &mut numbers, &questions);
        for ((one, _), (two, _)) in one.iter().zip(&two) {
            // Of two rules that name one object, through two names of it, either may stand in the event.
            prop_assert_eq!((one.verdict, one.reason, one.report), (two.verdict, two.reason, two.report));
            tally.count(one.verdict.as_str());
        }
        Ok(())
    });
}

#[test]
fn audit_refuses_nothing_for_the_same_reasons() {
    let strategy = (governed(), questions());
    check("audit", 8, &["audit", "allow"], &strategy, |((tree, policy), questions), tally| {
        let mut numbers = Numbers::default();
        let mut in_mode = |audit: bool| {
            let mut policy = policy.clone();
            policy.iter_mut().flatten().for_each(|skill| skill.audit = audit);
            answers(&tree, &policy, &mut numbers, &questions)
        };
        let (enforced, audited) = (in_mode(false), in_mode(true));
        prop_assert_eq!(enforced.len(), audited.len());
        for ((enforced, _), (audited, _)) in enforced.iter().zip(&audited) {
            let verdict = match enforced.verdict {
                // A policy without the skill has no mode for it.
                Verdict::Deny if reason(*enforced) != Reason::NoPolicy => Verdict::Audit,
                same => same,
            };
            prop_assert_eq!(audited, &Decision { verdict, ..*enforced });
            prop_assert!(!audited.refuses() || reason(*audited) == Reason::NoPolicy);
            tally.count(audited.verdict.as_str());
        }
        Ok(())
    });
}

/// The shrunk case of a bug: in audit mode a link that was refused where it was to be named what it would gain instead.
#[test]
fn an_audited_link_names_the_refusal_that_comes_first() {
    let tree = Tree { names: vec!["/".into(), "/a".into()], twins: vec![] };
    let skill = Skill { audit: true, allow_write: List::Of(vec![]), ..Skill::default() };
    let disk = Disk::new(&tree);
    let store = Store::with(compile(&vec![Some(skill)], &disk, &mut Numbers::default()));
    let (mut here, mut there) = (disk.way("/a", 0), disk.way_to_be("/b"));
    let (decision, _) = decide::link(&store.now(), skill_id(0), &mut here, &mut there, &mut Findings::default());
    assert_eq!((decision.verdict, reason(decision)), (Verdict::Audit, Reason::PathNotListed));
}
