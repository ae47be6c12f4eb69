//! The naive model: path strings, a list of rules, and what the manifest says of them.
//!
//! It knows nothing of objects, of walks and of maps. A rule that was resolved keeps its object, so a rename rewrites
//! the path of the rule as it rewrites every other path.

use enforcer_common::event::{Kind, Reason};

use crate::{
    policy::{List, Policy, Skill},
    world::{Step, Tree, holder},
};

/// "a depth past the walk's bound": how many names, the root's included, are looked at from an object up.
const BOUND: usize = 64;

/// A path rule that is in force.
#[derive(Clone, Debug)]
struct Line {
    skill: usize,
    key: &'static str,
    /// Where its object lies now.
    path: String,
    text: String,
}

/// The model.
#[derive(Clone, Debug)]
pub(crate) struct Naive {
    pub(crate) policy: Policy,
    pub(crate) tree: Tree,
    lines: Vec<Line>,
    deleted: Vec<u32>,
}

/// One thing that a skill wants to do with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Read,
    Write,
    Delete,
}

/// Where the object of a question lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: String,
    /// How many names above the object no longer lead anywhere, counted from the root: 0 when all is well.
    pub(crate) adrift: usize,
}

/// Why something is refused, with the rules of which one is to be named.
pub(crate) type Refusal = (Kind, Reason, Vec<String>);

/// What the rules say of one want: the rules that allow it, none when it is not governed, or why not.
type Saying = Result<Vec<String>, (Reason, Vec<String>)>;

/// How many names stand between the root and the path's end.
fn names_in(path: &str) -> usize {
    path.split('/').filter(|name| !name.is_empty()).count()
}

/// Whether `path` is at or below the path of a rule.
fn covers(rule: &str, path: &str) -> bool {
    rule == "/" || path == rule || path.strip_prefix(rule).is_some_and(|rest| rest.starts_with('/'))
}

/// `path`, if it lies at or below `from`, as it is after `from` became `to`.
fn moved(path: &str, from: &str, to: &str) -> String {
    if covers(from, path) { format!("{to}{}", &path[from.len()..]) } else { path.to_owned() }
}

/// "What leads to a protected path may not be moved": every directory above it, but the root, which nobody can move.
fn ways(skill: usize, path: &str) -> impl Iterator<Item = Line> {
    let mut above = holder(path).filter(|holder| *holder != "/");
    std::iter::from_fn(move || {
        let here = above?;
        above = holder(here).filter(|holder| *holder != "/");
        Some(Line { skill, key: "way", path: here.to_owned(), text: format!("protect: {path}") })
    })
}

impl Naive {
    /// Whether a protected path leads through this for some skill.
    pub(crate) fn is_way(&self, path: &str) -> bool {
        self.lines.iter().any(|line| line.key == "way" && line.path == path)
    }

    /// The policy, resolved on the tree as it is.
    pub(crate) fn new(policy: &Policy, tree: &Tree) -> Self {
        let mut lines = vec![];
        for (index, skill) in policy.iter().enumerate() {
            let Some(skill) = skill else { continue };
            let lists = [
                ("allow_delete", skill.allow_delete.entries()),
                ("allow_write", skill.allow_write.entries()),
                ("protect", skill.protect.as_slice()),
                ("allow_libraries", skill.allow_libraries.entries()),
                ("programs", skill.programs.as_slice()),
            ];
            for (key, paths) in lists {
                // What does not exist has no object to resolve to.
                let there = paths.iter().filter(|path| tree.names.contains(path));
                if key == "protect" {
                    lines.extend(there.clone().flat_map(|path| ways(index, path)));
                }
                lines.extend(there.map(|path| Line {
                    skill: index,
                    key,
                    path: path.clone(),
                    text: format!("{key}: {path}"),
                }));
            }
        }
        Self { policy: policy.clone(), tree: tree.clone(), lines, deleted: vec![0; policy.len()] }
    }

    /// Changes every path that the model knows.
    fn rewrite(&mut self, new: impl Fn(&str) -> String) {
        let paths = self.tree.names.iter_mut().chain(self.lines.iter_mut().map(|line| &mut line.path));
        for path in paths.chain(self.tree.twins.iter_mut().flat_map(|(a, b)| [a, b])) {
            *path = new(path);
        }
    }

    /// Something befalls the tree.
    pub(crate) fn befall(&mut self, step: &Step) {
        match step {
            Step::Rename(from, to) => self.rewrite(|path| moved(path, from, to)),
            Step::Exchange(a, b) => {
                self.rewrite(|path| if covers(a, path) { moved(path, a, b) } else { moved(path, b, a) });
            }
            Step::Replace(name) => {
                // The rule's object is now only where it has another name; without one it is gone.
                let other = self.other_names(name).into_iter().next();
                for line in self.lines.iter_mut().filter(|line| line.path == *name) {
                    line.path = other.clone().unwrap_or_default();
                }
                self.lines.retain(|line| !line.path.is_empty());
                // The names that are left are still names of one file.
                let rest = self.other_names(name);
                self.tree.twins.retain(|(a, b)| a != name && b != name);
                self.tree.twins.extend(rest.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())));
            }
        }
    }

    /// A file gets one more name.
    pub(crate) fn link(&mut self, file: &str, name: &str) {
        self.tree.names.push(name.to_owned());
        self.tree.twins.push((file.to_owned(), name.to_owned()));
    }

    /// The other names of a file.
    fn other_names(&self, path: &str) -> Vec<String> {
        let mut all = vec![path.to_owned()];
        let mut next = 0;
        while next < all.len() {
            for (a, b) in &self.tree.twins {
                for (here, there) in [(a, b), (b, a)] {
                    if *here == all[next] && !all.contains(there) {
                        all.push(there.clone());
                    }
                }
            }
            next += 1;
        }
        all.split_off(1)
    }

    /// What the rules say of one want.
    fn says(&self, index: usize, skill: &Skill, want: Want, place: &Place) -> Saying {
        let (key, list) = match want {
            // Nothing allows reading; but an allowance that is nearer than a protection lifts it.
            Want::Read => ("allow_", &List::Absent),
            Want::Write => ("allow_write", &skill.allow_write),
            Want::Delete => ("allow_delete", &skill.allow_delete),
        };
        let otherwise = match (want, list) {
            (Want::Read, _) | (Want::Write, List::Absent) => Ok(vec![]),
            (_, List::Star) => Ok(vec![format!("{key}: *")]),
            (_, _) => Err((Reason::PathNotListed, vec![])),
        };
        let sealed = want == Want::Write && skill.seals();
        // Without any protection, what everything allows needs no path.
        if skill.protect.is_empty() && !sealed && otherwise.is_ok() {
            return otherwise;
        }
        let counts = |line: &Line| match line.key {
            "protect" => true,
            "allow_libraries" => sealed,
            "programs" | "way" => false,
            list => list.starts_with(key),
        };
        let heard = self.heard(index, place, counts);
        let protected = heard.iter().any(|(away, line)| *away == 0 && line.key == "protect");
        if want == Want::Delete && !protected {
            let ways = self.heard(index, place, |line| line.key == "way");
            let texts: Vec<_> = ways.iter().filter(|(away, _)| *away == 0).map(|(_, line)| line.text.clone()).collect();
            if !texts.is_empty() {
                return Err((Reason::ProtectedWay, texts));
            }
        }
        let Some(nearest) = heard.iter().map(|(away, _)| *away).min() else {
            return if names_in(&place.path) - place.adrift >= BOUND {
                Err((Reason::TooDeep, vec![]))
            } else if place.adrift > 0 {
                Err((Reason::Unreachable, vec![]))
            } else {
                otherwise
            };
        };
        let texts = |of: &[&str]| -> Vec<String> {
            let there = heard.iter().filter(|(away, line)| *away == nearest && of.contains(&line.key));
            there.map(|(_, line)| line.text.clone()).collect()
        };
        let denials = texts(&["protect"]);
        if !denials.is_empty() {
            return Err((Reason::Protected, denials));
        }
        let allowed = texts(&["allow_write", "allow_delete"]);
        if allowed.is_empty() {
            return Err((Reason::LibraryReadOnly, texts(&["allow_libraries"])));
        }
        // Reading is not governed by an allowance, so none is named for it.
        Ok(if want == Want::Read { vec![] } else { allowed })
    }

    /// The rules of a skill that a way up from a place meets, with how far away.
    fn heard(&self, index: usize, place: &Place, counts: impl Fn(&Line) -> bool) -> Vec<(usize, &Line)> {
        let path = &place.path;
        let twins = self.other_names(path);
        let far = names_in(path);
        let distance = |line: &Line| {
            if twins.contains(&line.path) {
                Some(0)
            } else if covers(&line.path, path) {
                Some(far - names_in(&line.path))
            } else {
                None
            }
        };
        let visible = |away: usize| away < BOUND && far - away >= place.adrift;
        let of_skill = self.lines.iter().filter(|line| line.skill == index && counts(line));
        of_skill.filter_map(|line| distance(line).filter(|away| visible(*away)).map(|away| (away, line))).collect()
    }

    /// "Executable mappings come only from here": the rules that allow to map what lies there, or nothing when its place says
    /// nothing.
    pub(crate) fn library(&self, index: usize, place: &Place) -> Option<Vec<String>> {
        let heard = self.heard(index, place, |line| ["allow_libraries", "programs"].contains(&line.key));
        let nearest = heard.iter().map(|(away, _)| *away).min()?;
        let there = heard.iter().filter(|(away, line)| *away == nearest && line.key == "allow_libraries");
        let texts: Vec<_> = there.map(|(_, line)| line.text.clone()).collect();
        (!texts.is_empty()).then_some(texts)
    }

    /// May the skill do all of `wants`, by its lists, its approvals and its budget? The rules that allow the last of them,
    /// or everything that stands against it. A delete that is `charged` counts.
    pub(crate) fn ask(
        &mut self,
        index: usize,
        wants: &[Want],
        charged: bool,
        place: &Place,
    ) -> Result<Vec<String>, Vec<Refusal>> {
        let kind = |want: &Want| match want {
            Want::Read => Kind::Read,
            Want::Write => Kind::Write,
            Want::Delete => Kind::Delete,
        };
        let Some(Some(skill)) = self.policy.get(index) else {
            return Err(wants.iter().map(|want| (kind(want), Reason::NoPolicy, vec![])).collect());
        };
        let (mut allowing, mut refusals) = (vec![], vec![]);
        for want in wants {
            let approval = match want {
                Want::Read => false,
                Want::Write => skill.require_2fa.contains(&"write"),
                Want::Delete => skill.require_2fa.contains(&"delete"),
            };
            match self.says(index, skill, *want, place) {
                Err((reason, rules)) => refusals.push((kind(want), reason, rules)),
                Ok(_) if approval => refusals.push((kind(want), Reason::NeedsApproval, vec!["require_2fa".into()])),
                Ok(rules) => allowing.push(rules),
            }
        }
        if refusals.is_empty() && charged && wants.contains(&Want::Delete) {
            if skill.delete_budget.is_some_and(|limit| self.deleted[index] >= limit) {
                refusals.push((Kind::Delete, Reason::OverBudget, vec!["delete_budget".into()]));
            } else {
                self.deleted[index] += 1;
            }
        }
        if refusals.is_empty() { Ok(allowing.pop().unwrap_or_default()) } else { Err(refusals) }
    }

    /// Whether the lists allow one want; approvals and budgets aside.
    pub(crate) fn lists_allow(&self, index: usize, want: Want, path: &str) -> bool {
        let place = Place { path: path.to_owned(), adrift: 0 };
        let skill = self.policy.get(index).and_then(Option::as_ref);
        skill.is_some_and(|skill| self.says(index, skill, want, &place).is_ok())
    }
}
