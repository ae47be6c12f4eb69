//! Reloads: at every moment of one, and after one that was given up, a whole policy is in force and no other.

use enforcer_common::decide;
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    exec::{self, Run, run},
    files::{self, Deed, act, deed, wants},
    harness::{Outcome, check},
    naive::{Naive, Place},
    objects::Disk,
    policy::{Numbers, Policy, skill_id},
    store::{Store, View, compile},
    world::{Tree, world},
};

/// What is asked at a moment.
type Question = (usize, Deed, Index, Run);

/// The answers of a view are those of the policy.
fn agrees(
    rules: &View<'_>,
    (tree, disk): (&Tree, &Disk),
    policy: &Policy,
    numbers: &Numbers,
    (skill, deed, name, run): &Question,
) -> Outcome {
    // Budgets are counted over reloads; how is no question of generations.
    let deed = deed & 7;
    let path = tree.names[name.index(tree.names.len())].clone();
    let mut naive = Naive::new(policy, tree);
    let decided = decide::object(rules, skill_id(*skill), act(deed), &mut disk.way(&path, 0));
    let expected = naive.ask(*skill, &wants(deed), false, &Place { path, adrift: 0 });
    files::compare(&naive, numbers, *skill, decided, &expected)?;
    exec::compare(rules, policy, numbers, *skill, run)?;
    Ok(())
}

/// How a reload goes: how much is written before somebody looks, and whether it is given up then.
fn reload() -> impl Strategy<Value = (usize, bool)> {
    (prop_oneof![4 => 0_usize..12, 1 => Just(usize::MAX)], proptest::bool::weighted(0.3))
}

#[test]
fn one_whole_policy_is_in_force_at_every_moment() {
    let question = (0_usize..2, deed(), any::<Index>(), run());
    let strategy = (world(2..5), vec(reload(), 4), vec(question, 1..3));
    let seen = ["given up", "half written"];
    check("generations", 10, &seen, &strategy, |((tree, policies), reloads, questions), tally| {
        let (disk, mut numbers) = (Disk::new(&tree), Numbers::default());
        let mut store = Store::empty();
        let mut in_force: Policy = vec![];
        for (policy, (written, given_up)) in policies.iter().zip(reloads) {
            let place = (&tree, &disk);
            store.begin(compile(policy, &disk, &mut numbers));
            store.stage(written);
            tally.count("half written");
            for question in &questions {
                agrees(&store.now(), place, &in_force, &numbers, question)?;
            }
            if given_up {
                store.abort();
                tally.count("given up");
            } else {
                store.stage(usize::MAX);
                let before = store.generation;
                for question in &questions {
                    agrees(&store.now(), place, &in_force, &numbers, question)?;
                }
                store.flip();
                for question in &questions {
                    // A program that looked at the generation before the flip goes on by the old policy.
                    agrees(&store.at(before), place, &in_force, &numbers, question)?;
                    agrees(&store.now(), place, policy, &numbers, question)?;
                }
                store.collect();
                in_force.clone_from(policy);
            }
            for question in &questions {
                agrees(&store.now(), place, &in_force, &numbers, question)?;
            }
        }
        Ok(())
    });
}
