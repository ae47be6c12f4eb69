//! What is Enforcer's own: no skill changes it, in whatever mode and by whatever rules, and nothing else is touched by that.

use enforcer_common::{
    decide::{self, Findings},
    event::{Reason, Verdict},
    rules::{MAX_DEPTH, action},
};
use proptest::{prelude::*, sample::Index};

use crate::{
    files::{act, deed},
    harness::check,
    objects::Disk,
    policy::{List, Numbers, reason, skill_id},
    store::{Store, compile},
    world::{governed, join},
};

/// Whether `path` is `dir` or lies below it.
fn covers(dir: &str, path: &str) -> bool {
    dir == "/" || path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// The compiler refuses a rule that allows something of Enforcer's own.
fn strip(list: &mut List<String>, own: &str) {
    if let List::Of(entries) = list {
        entries.retain(|path| !covers(own, path));
    }
}

/// Where something lies: among a few, or anywhere.
fn place() -> impl Strategy<Value = (bool, Index)> {
    any::<(bool, Index)>()
}

#[test]
fn no_rule_and_no_mode_lets_a_skill_change_it() {
    let strategy = (governed(), place(), deed(), place(), any::<bool>());
    let outcomes = ["own", "way", "beside", "read", "link", "audit", "deep"];
    check("own", 8, &outcomes, &strategy, |((tree, mut policy), own, deed, name, fresh), tally| {
        // In a deep tree, the one near the root and the other out of reach of it.
        let ((first, own), (last, name)) = (own, name);
        let among = |few: bool| if few { tree.names.len().min(4) } else { tree.names.len() };
        let own = tree.names[own.index(among(first))].clone();
        let path = tree.names[tree.names.len() - 1 - name.index(among(last))].clone();
        // Of a file with two names, the rules know only the object; that they meet is the files' property.
        if own == "/" || !tree.twins.is_empty() || policy[0].is_none() {
            return Ok(());
        }
        for skill in policy.iter_mut().flatten() {
            strip(&mut skill.allow_write, &own);
            strip(&mut skill.allow_delete, &own);
        }
        let audited = policy[0].as_ref().is_some_and(|skill| skill.audit);
        let (disk, mut numbers) = (Disk::new(&tree), Numbers::default());
        let bare = compile(&policy, &disk, &mut numbers);
        let mut guarded = bare.clone();
        guarded.own(&own, &disk);
        let (bare, guarded) = (Store::with(bare), Store::with(guarded));
        let (skill, mut room) = (skill_id(0), Findings::default());
        let act = act(deed);
        let way = || if fresh { disk.way_to_be(&join(&path, "new")) } else { disk.way(&path, 0) };
        let after = decide::object(&guarded.now(), skill, act, &mut way(), &mut room).0;
        let deletes = act.actions & action::DELETE != 0;
        // Where the walk does not reach the root, nobody knows whether it is.
        let too_deep =
            |decision| reason(decision) == Reason::TooDeep && path.matches('/').count() + 1 >= MAX_DEPTH as usize;
        // A name that is to be made is written; what lies there is not moved.
        let on_the_way = !fresh && deletes && path != "/" && covers(&path, &own);
        if act.changes() && (covers(&own, &path) || on_the_way) {
            prop_assert!(after.refuses(), "{after:?}");
            // What is nearer and refuses by itself, where it does, may be told instead.
            let nearer = [Reason::Protected, Reason::ProtectedWay, Reason::LibraryReadOnly].contains(&reason(after));
            let told = reason(after) == Reason::OwnFile || too_deep(after) || (!audited && nearer);
            prop_assert!(after.verdict == Verdict::Deny && told, "{after:?}");
            tally.count(if on_the_way { "way" } else { "own" });
            if audited {
                tally.count("audit");
            }
        } else {
            let before = decide::object(&bare.now(), skill, act, &mut way(), &mut room).0;
            if before == after {
                tally.count(if act.changes() { "beside" } else { "read" });
            } else {
                prop_assert!(
                    act.changes() && after.verdict == Verdict::Deny && too_deep(after),
                    "{before:?} {after:?}"
                );
            }
        }
        if act.changes() && too_deep(after) {
            tally.count("deep");
        }
        // Nor does it get another name by which it could be changed.
        let place = tree.names[name.index(tree.names.len())].clone();
        let (mut source, mut target) = (disk.way(&own, 0), disk.way_to_be(&join(&place, "name")));
        let (linked, _) = decide::link(&guarded.now(), skill, &mut source, &mut target, &mut room);
        prop_assert!(linked.verdict == Verdict::Deny, "{linked:?}");
        tally.count("link");
        Ok(())
    });
}
