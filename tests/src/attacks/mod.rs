//! The catalogue of attacks: what is tried, which program sees it, and the test that tries it.
//!
//! The tests do the acts with raw system calls from within a skill, beside the same act on something allowed, and look at the
//! object, the bytes or the token for what really happened. Lines are those of the project's list of what must not work; each has
//! its variants. `docs/attacks.md` is made from this and from a run.

mod escape;
mod exec;
mod files;
mod network;

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// One attack.
#[derive(Debug)]
pub(crate) struct Attack {
    /// The line of the list.
    line: u32,
    /// Its place among the variants of that line, from 1.
    variant: u32,
    /// The test that tries it.
    pub(crate) test: &'static str,
    /// The programs that must stop it.
    hooks: &'static [&'static str],
    /// What is tried.
    tries: &'static str,
}

/// Sections, in the order of the list.
const SECTIONS: &[(&str, &[Attack])] = &[
    ("Exec", exec::ATTACKS),
    ("Delete and write", files::ATTACKS),
    ("Network", network::ATTACKS),
    ("Escape and tampering", escape::ATTACKS),
];

/// Programs without an attack of their own, and why.
#[cfg(test)]
const WITHOUT: &[(&str, &str)] = &[
    ("task_free", "forgets: without it a stale label would govern more, and the map fill up"),
    ("cgroup_rmdir", "forgets, too"),
    (
        "sched_process_fork",
        "only a fork that goes on while its parent is labelled needs it: the tests of upgrades meet it by chance",
    ),
    (
        "socket_post_create",
        "notes which sockets a skill made itself; without it they are judged as received ones are, by the same rules",
    ),
    ("inherit", "runs while newer programs take over, which the tests of upgrades do"),
    ("inode_getxattr", "resolves the rules; without it no policy comes into force"),
];

impl Attack {
    /// Its number: the line of the list and the variant.
    pub(crate) fn number(&self) -> String {
        format!("{}.{}", self.line, self.variant)
    }

    /// What the catalogue says of it.
    pub(crate) fn describe(&self) -> Value {
        let of = |attacks: &[Self]| attacks.iter().any(|attack| std::ptr::eq(attack, self));
        let section = SECTIONS.iter().find(|(_, attacks)| of(attacks)).map_or("", |(name, _)| *name);
        json!({
            "section": section,
            "number": self.number(),
            "tries": self.tries,
            "hooks": self.hooks,
            "test": self.test,
        })
    }
}

/// All of them, in their order.
pub(crate) fn all() -> impl Iterator<Item = &'static Attack> {
    SECTIONS.iter().flat_map(|(_, attacks)| *attacks)
}

/// Whether a test is one of the catalogue's.
pub(crate) fn includes(test: &str) -> bool {
    all().any(|attack| attack.test == test)
}

/// The programs that have attacks.
pub(crate) fn programs() -> BTreeSet<&'static str> {
    all().flat_map(|attack| attack.hooks).copied().collect()
}

/// Whether a test is an attack that this program must stop.
pub(crate) fn is_on(program: &str, test: &str) -> bool {
    all().any(|attack| attack.test == test && attack.hooks.contains(&program))
}

/// Prints the catalogue, a JSON object to a line.
pub(crate) fn print() {
    for attack in all() {
        println!("{}", attack.describe());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{harness::runner::Place, suites};

    #[test]
    fn every_test_is_there() {
        let places = [Place::Plain, Place::Loads, Place::Ima, Place::Agents, Place::Systemd];
        let known: BTreeSet<String> = places
            .into_iter()
            .flat_map(suites::of)
            .flat_map(|suite| suite.tests.iter().map(|(test, _)| format!("{}::{test}", suite.name)))
            .collect();
        let lost: Vec<_> = all().filter(|attack| !known.contains(attack.test)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }

    #[test]
    fn every_program_is_there() {
        let programs = include_str!("../../../enforcer-daemon/src/kernel/programs.rs");
        for attack in all() {
            assert!(!attack.hooks.is_empty(), "{attack:?}");
            for hook in attack.hooks {
                assert!(programs.contains(&format!("\"{hook}")), "{hook} of {attack:?}");
            }
        }
    }

    #[test]
    fn every_program_has_an_attack() {
        let table = include_str!("../../../enforcer-daemon/src/kernel/programs.rs");
        let (_, table) = table.split_once("pub const PROGRAMS").expect("the table of programs");
        let (table, _) = table.split_once("];").expect("its end");
        let mut names = BTreeSet::new();
        for part in table.split(&['(', ':'][..]).skip(1) {
            if let Some((name, _)) = part.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"')) {
                names.insert(name.trim_end_matches("_idmap"));
            }
        }
        assert!(names.len() > 50, "{names:?}");
        let tested = programs();
        names.retain(|name| !tested.contains(name) && WITHOUT.iter().all(|(without, _)| without != name));
        assert!(names.is_empty(), "{names:?}");
    }

    #[test]
    fn numbers_follow_one_another() {
        let (mut line, mut variant) = (0, 0);
        for attack in all() {
            let follows = if attack.line == line { attack.variant == variant + 1 } else { attack.variant == 1 };
            assert!(follows && attack.line >= line, "{attack:?}");
            (line, variant) = (attack.line, attack.variant);
        }
    }

    #[test]
    fn there_is_an_attack_for_every_line() {
        let lines: BTreeSet<u32> = all().map(|attack| attack.line).collect();
        let missing: Vec<u32> = (1..=34).filter(|line| !lines.contains(line)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(all().count() >= 120);
    }
}
