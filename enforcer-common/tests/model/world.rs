//! Random trees of paths, policies about them, and what is done to both.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::Index};

use crate::policy::{List, Policy, Skill};

/// Names where one begins with another: a rule for `/a` says nothing of `/ab`.
const NAMES: [&str; 4] = ["a", "ab", "b", "c"];

/// A tree of files as path strings.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// Every name; parents stand before their children, `/` first.
    pub(crate) names: Vec<String>,
    /// Two names of one file: the second is a hard link.
    pub(crate) twins: Vec<(String, String)>,
}

/// The directory that holds a path; none holds `/`.
pub(crate) fn holder(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (holder, _) => Some(holder),
    }
}

/// A name in a directory.
pub(crate) fn join(dir: &str, name: &str) -> String {
    format!("{}/{name}", dir.trim_end_matches('/'))
}

impl Tree {
    /// Whether something lies in it.
    pub(crate) fn is_leaf(&self, path: &str) -> bool {
        !self.names.iter().any(|name| holder(name) == Some(path))
    }

    /// Whether it is a file for sure; every other name can be a directory.
    pub(crate) fn has_twin(&self, path: &str) -> bool {
        self.twins.iter().any(|(a, b)| a == path || b == path)
    }

    /// The names that can be directories.
    pub(crate) fn dirs(&self) -> Vec<&String> {
        self.names.iter().filter(|name| !self.has_twin(name)).collect()
    }
}

/// A tree: `deep` directories in each other, others around and at the end of them, and some hard links.
pub(crate) fn tree() -> impl Strategy<Value = Tree> {
    // Around the bound of the walk, where one more or less matters.
    let deep = prop_oneof![13 => Just(0_usize), 2 => 59_usize..68];
    let links = vec((any::<Index>(), any::<Index>(), 0..NAMES.len()), 0..3);
    (deep, vec((any::<Index>(), 0..NAMES.len()), 1..9), links).prop_map(|(deep, nodes, links)| {
        let mut tree = Tree { names: vec!["/".into()], twins: vec![] };
        for _ in 0..deep {
            let dir = join(&tree.names[tree.names.len() - 1], "x");
            tree.names.push(dir);
        }
        // The middle of the deep chain is of no interest.
        let mut open = vec![0, tree.names.len() - 1];
        for (dir, name) in nodes {
            let path = join(&tree.names[open[dir.index(open.len())]], NAMES[name]);
            if !tree.names.contains(&path) {
                open.push(tree.names.len());
                tree.names.push(path);
            }
        }
        for (file, dir, name) in links {
            let leaves: Vec<_> = tree.names.iter().filter(|n| *n != "/" && tree.is_leaf(n)).cloned().collect();
            if leaves.is_empty() {
                continue;
            }
            let file = leaves[file.index(leaves.len())].clone();
            let dirs = tree.dirs();
            let path = join(dirs[dir.index(dirs.len())], NAMES[name]);
            if holder(&path) != Some(&file) && !tree.names.contains(&path) {
                tree.names.push(path.clone());
                tree.twins.push((file, path));
            }
        }
        tree
    })
}

/// A list of paths that are there, but for a few.
fn paths() -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec((any::<Index>(), 0_u8..12), 0..4)
}

fn named(tree: &Tree, picks: Vec<(Index, u8)>) -> Vec<String> {
    let name = |(at, odd): (Index, u8)| {
        let path = &tree.names[at.index(tree.names.len())];
        if odd == 11 { join(path, "absent") } else { path.clone() }
    };
    // A rule that is written twice is one rule.
    picks.into_iter().map(name).collect::<BTreeSet<_>>().into_iter().collect()
}

fn list(tree: &Tree, form: u8, picks: Vec<(Index, u8)>) -> List<String> {
    match form {
        0 => List::Absent,
        1 => List::Star,
        _ => List::Of(named(tree, picks)),
    }
}

/// What a skill is drawn from; a separate step because its paths are those of a tree.
type Picks = Vec<(Index, u8)>;
type Draft = ((u8, u8, u8), (u8, Picks), (u8, Picks), Picks, Option<u32>, DraftExec, (u8, Picks, Picks));
type DraftExec = (u8, Vec<u8>, Option<u8>, bool, Vec<(u8, u8)>);

fn draft() -> impl Strategy<Value = Draft> {
    (
        // Mode, level, approvals.
        (0_u8..4, 0_u8..2, prop_oneof![3 => Just(0_u8), 1 => 0_u8..16]),
        (0_u8..8, paths()),
        (0_u8..8, paths()),
        paths(),
        proptest::option::weighted(0.3, 0_u32..4),
        (
            0_u8..6,
            vec(0_u8..5, 0..4),
            proptest::option::weighted(0.5, 0_u8..5),
            any::<bool>(),
            vec((0_u8..5, 0_u8..6), 0..4),
        ),
        (prop_oneof![Just(0_u8), 0_u8..8], paths(), paths()),
    )
}

fn skill(tree: &Tree, draft: Draft) -> Skill {
    let ((mode, level, approvals), (delete, deletes), (write, writes), protects, budget, exec, libraries) = draft;
    let (library, libraries, programs) = libraries;
    let (binaries, digests, entrypoint, network_any, parents) = exec;
    let actions = ["exec", "delete", "connect", "write"].into_iter().enumerate();
    Skill {
        audit: mode == 3,
        strict: level == 1,
        require_2fa: actions.filter(|(bit, _)| approvals >> bit & 1 == 1).map(|(_, word)| word).collect(),
        allow_delete: list(tree, delete, deletes),
        allow_write: list(tree, write, writes),
        protect: named(tree, protects),
        allow_libraries: list(tree, library, libraries),
        programs: if library > 1 { named(tree, programs) } else { vec![] },
        delete_budget: budget,
        allow_binaries: match binaries {
            0 => List::Absent,
            1 => List::Star,
            _ => List::Of(digests.into_iter().collect::<BTreeSet<_>>().into_iter().collect()),
        },
        parents,
        entrypoint,
        network_any,
    }
}

/// A tree, and policies of one or two skills about it. Two skills never have one entrypoint: the validator refuses it.
pub(crate) fn world(
    policies: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = (Tree, Vec<Policy>)> {
    let skills = vec(proptest::option::weighted(0.93, draft()), 1..3);
    (tree(), vec(skills, policies)).prop_map(|(tree, drafts)| {
        let policies = drafts.into_iter().map(|skills| {
            let mut taken = BTreeSet::new();
            let mut distinct = |mut skill: Skill| {
                skill.entrypoint = skill.entrypoint.filter(|digest| taken.insert(*digest));
                skill
            };
            skills.into_iter().map(|d| d.map(|d| distinct(skill(&tree, d)))).collect()
        });
        let policies = policies.collect();
        (tree, policies)
    })
}

/// A tree with one policy.
pub(crate) fn governed() -> impl Strategy<Value = (Tree, Policy)> {
    world(1).prop_map(|(tree, policies)| (tree, policies.into_iter().next().unwrap_or_default()))
}

/// What befalls the tree after the rules were resolved.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A name is moved to where nothing is.
    Rename(Index, Index, usize),
    /// Two names change places.
    Exchange(Index, Index),
    /// Something else comes to lie under a name.
    Replace(Index),
}

/// A few changes.
pub(crate) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        3 => (any::<Index>(), any::<Index>(), 0..NAMES.len()).prop_map(|(a, b, n)| Change::Rename(a, b, n)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Change::Exchange(a, b)),
        1 => any::<Index>().prop_map(Change::Replace),
    ];
    vec(change, 0..4)
}

/// Whether `path` is `above` or lies below it.
fn below(path: &str, above: &str) -> bool {
    path == above || holder(path).is_some_and(|holder| below(holder, above))
}

/// A change of a tree, with the paths that it concerns.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Rename(String, String),
    Exchange(String, String),
    Replace(String),
}

impl Change {
    /// What it means for the tree; `None` where the tree does not allow it.
    pub(crate) fn step(&self, tree: &Tree) -> Option<Step> {
        let at = |index: &Index| tree.names[index.index(tree.names.len())].clone();
        match self {
            Self::Rename(from, dir, name) => {
                let (from, dirs) = (at(from), tree.dirs());
                let dir = dirs[dir.index(dirs.len())];
                let to = join(dir, NAMES[*name]);
                let possible = from != "/" && !below(dir, &from) && !tree.names.contains(&to);
                possible.then_some(Step::Rename(from, to))
            }
            Self::Exchange(a, b) => {
                let (a, b) = (at(a), at(b));
                (!below(&a, &b) && !below(&b, &a)).then_some(Step::Exchange(a, b))
            }
            Self::Replace(name) => {
                let name = at(name);
                (name != "/" && tree.is_leaf(&name)).then_some(Step::Replace(name))
            }
        }
    }
}
