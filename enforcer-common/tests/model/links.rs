//! Hard links and renames: neither lets a skill do with a file what it could not do before.

use enforcer_common::{
    decide::{self, Act, End, Findings},
    event::{Kind, Reason},
};
use proptest::{prelude::*, sample::Index};

use crate::{
    files::compare,
    harness::check,
    naive::{Naive, Place, Want},
    objects::Disk,
    policy::{Numbers, reason, skill_id},
    store::{Store, compile},
    world::{Change, Step, Tree, changes, governed, holder, join},
};

const WANTS: [Want; 3] = [Want::Read, Want::Write, Want::Delete];

/// What the core says of a path: read, write, delete; budgets are not touched.
fn rights(store: &Store, skill: usize, disk: &Disk, path: &str) -> [(bool, Reason); 3] {
    [Act::READ, Act::WRITE, Act { charge: false, ..Act::DELETE }].map(|act| {
        let mut room = Findings::default();
        let (decision, _) = decide::object(&store.now(), skill_id(skill), act, &mut disk.way(path, 0), &mut room);
        (decision.allows(), reason(decision))
    })
}

/// Whether a right was gained; what was refused for its depth alone may come within reach.
fn gains(before: [(bool, Reason); 3], after: [(bool, Reason); 3]) -> bool {
    before.iter().zip(after).any(|(before, after)| after.0 && !before.0 && before.1 != Reason::TooDeep)
}

#[test]
fn a_link_never_widens_and_is_refused_only_where_it_would() {
    let outcomes =
        [Reason::Allowed, Reason::LinkGains, Reason::PathNotListed, Reason::Protected, Reason::NeedsApproval];
    let strategy = (governed(), changes(), any::<[Index; 2]>());
    check("links", 10, &outcomes.map(Reason::as_str), &strategy, |((tree, policy), changes, [file, dir]), tally| {
        let (mut naive, mut disk, mut numbers) = (Naive::new(&policy, &tree), Disk::new(&tree), Numbers::default());
        let store = Store::with(compile(&policy, &disk, &mut numbers));
        for step in changes.iter().filter_map(|change| change.step(&tree)).take(1) {
            naive.befall(&step);
            disk.befall(&step);
        }
        // Only a file can have a second name.
        let is_file = |n: &String| n != "/" && naive.tree.is_leaf(n) && !naive.is_way(n);
        let files: Vec<&String> = naive.tree.names.iter().filter(|n| is_file(n)).collect();
        if files.is_empty() {
            return Ok(());
        }
        let file = files[file.index(files.len())].clone();
        let dirs: Vec<_> = naive.tree.dirs().into_iter().filter(|dir| **dir != file).cloned().collect();
        let name = join(&dirs[dir.index(dirs.len())], "link");
        let (mut here, mut there) = (disk.way(&file, 0), disk.way_to_be(&name));
        let (decision, end) = decide::link(&store.now(), skill_id(0), &mut here, &mut there, &mut Findings::default());
        tally.count(reason(decision).as_str());

        // Making the name is a write where it is to be. Only what may be made there can be refused for the file's sake.
        let expected = naive.ask(0, &[Want::Write], false, &Place { path: name.clone(), adrift: 0 });
        // A library that is named itself is read-only under every name.
        let sealed = !naive.lists_allow(0, Want::Write, &file);
        let hidden = !naive.lists_allow(0, Want::Read, &file);
        let before = rights(&store, 0, &disk, &file);
        disk.link(&file, &name);
        naive.link(&file, &name);
        let after = rights(&store, 0, &disk, &name);
        let gained = WANTS.iter().any(|w| naive.lists_allow(0, *w, &name) && !naive.lists_allow(0, *w, &file));
        if expected.is_err() || decision.allows() {
            compare(&naive, &numbers, 0, (decision, Kind::Write), &expected)?;
        } else if reason(decision) == Reason::LinkGains {
            prop_assert!(gained || sealed, "the link gains nothing");
        } else {
            prop_assert!(hidden, "neither the name nor the file stands against it: {decision:?}");
        }
        // What is refused is named.
        if !decision.allows() {
            prop_assert_eq!(end == End::Target, expected.is_err(), "{:?}", decision);
        }
        if decision.allows() {
            prop_assert!(!gained, "the model: {file} has more rights as {name}");
            prop_assert!(!gains(before, after), "{file} has {before:?}, as {name} {after:?}");
        }
        Ok(())
    });
}

/// What the hook asks for a rename: for the place that it leads to, then for what is moved.
fn may_rename(store: &Store, disk: &Disk, step: &Step) -> bool {
    let allows =
        |act, mut way| decide::object(&store.now(), skill_id(0), act, &mut way, &mut Findings::default()).0.allows();
    let moved = Act { charge: true, ..Act::MOVE };
    match step {
        Step::Rename(from, to) => allows(Act::WRITE, disk.way_to_be(to)) && allows(moved, disk.way(from, 0)),
        Step::Exchange(a, b) => allows(Act::MOVE, disk.way(b, 0)) && allows(moved, disk.way(a, 0)),
        Step::Replace(_) => false,
    }
}

/// Every name at or below `path`, as it is now and as it is after the step.
fn carried(tree: &Tree, path: &str, to: &str) -> Vec<(String, String)> {
    let inside = |name: &str| name == path || (path != "/" && name.starts_with(&format!("{path}/")));
    let names = tree.names.iter().filter(|name| inside(name));
    names.map(|name| (name.clone(), format!("{to}{}", &name[path.len()..]))).collect()
}

#[test]
fn a_rename_never_widens() {
    let rename = prop_oneof![
        3 => (any::<Index>(), any::<Index>(), 0_usize..4).prop_map(|(a, b, n)| Change::Rename(a, b, n)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Change::Exchange(a, b)),
    ];
    check("renames", 8, &["allowed", "refused"], &(governed(), rename), |((tree, policy), change), tally| {
        let Some(step) = change.step(&tree) else { return Ok(()) };
        let (mut disk, mut numbers) = (Disk::new(&tree), Numbers::default());
        let store = Store::with(compile(&policy, &disk, &mut numbers));
        if !may_rename(&store, &disk, &step) {
            tally.count("refused");
            return Ok(());
        }
        tally.count("allowed");
        let names = match &step {
            Step::Rename(from, to) => carried(&tree, from, to),
            Step::Exchange(a, b) => [carried(&tree, a, b), carried(&tree, b, a)].concat(),
            Step::Replace(_) => vec![],
        };
        let before: Vec<_> = names.iter().map(|(old, _)| rights(&store, 0, &disk, old)).collect();
        disk.befall(&step);
        for ((old, new), before) in names.iter().zip(before) {
            let after = rights(&store, 0, &disk, new);
            prop_assert!(!gains(before, after), "{old} had {before:?}, has as {new} {after:?}");
            prop_assert!(holder(new).is_some());
        }
        Ok(())
    });
}
