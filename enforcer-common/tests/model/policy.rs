//! Policies as their authors write them: what both sides of the comparison read.

use std::collections::HashMap;

use enforcer_common::{
    decide::Decision,
    event::Reason,
    ids::{Digest, RuleId, SkillId},
};

/// The skills of a policy, the first with the id 1; `None` where there was one before and is none now.
pub(crate) type Policy = Vec<Option<Skill>>;

/// A list of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum List<T> {
    /// The key is not there.
    Absent,
    /// `["*"]`.
    Star,
    /// These.
    Of(Vec<T>),
}

impl<T> List<T> {
    /// The entries that are written down.
    pub(crate) fn entries(&self) -> &[T] {
        match self {
            Self::Absent | Self::Star => &[],
            Self::Of(entries) => entries,
        }
    }
}

/// One skill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skill {
    pub(crate) audit: bool,
    pub(crate) strict: bool,
    pub(crate) require_2fa: Vec<&'static str>,
    pub(crate) allow_delete: List<String>,
    pub(crate) allow_write: List<String>,
    pub(crate) protect: Vec<String>,
    pub(crate) allow_libraries: List<String>,
    /// Directories of programs, which are no libraries although they lie below some.
    pub(crate) programs: Vec<String>,
    pub(crate) delete_budget: Option<u32>,
    pub(crate) allow_binaries: List<u8>,
    /// Binaries, each with one of the programs that may run it; what is in no pair may be run by all.
    pub(crate) parents: Vec<(u8, u8)>,
    pub(crate) entrypoint: Option<u8>,
    pub(crate) network_any: bool,
}

impl Default for Skill {
    fn default() -> Self {
        Self {
            audit: false,
            strict: false,
            require_2fa: vec![],
            allow_delete: List::Absent,
            allow_write: List::Absent,
            protect: vec![],
            allow_libraries: List::Absent,
            programs: vec![],
            delete_budget: None,
            allow_binaries: List::Absent,
            parents: vec![],
            entrypoint: None,
            network_any: false,
        }
    }
}

impl Skill {
    /// "A directory in `allow_libraries` is read-only for the skill unless `allow_write` names it too", as `["*"]` does.
    pub(crate) fn seals(&self) -> bool {
        !self.allow_libraries.entries().is_empty() && self.allow_write != List::Star
    }
}

/// The id of the skill at an index of a [`Policy`].
pub(crate) fn skill_id(index: usize) -> SkillId {
    SkillId(u32::try_from(index).expect("few skills") + 1)
}

/// A content's digest, named by one byte.
pub(crate) fn digest(name: u8) -> Digest {
    let mut bytes = [name; 32];
    // Digests that differ only in their last byte are different, too.
    bytes[..31].fill(7);
    Digest(bytes)
}

/// The reason of a decision.
pub(crate) fn reason(decision: Decision) -> Reason {
    decision.reason.known().expect("the core gives no other reasons than those that it has names for")
}

/// Numbers for rules by their texts, as an event would name them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers(HashMap<(usize, String), RuleId>);

impl Numbers {
    /// The number of a rule, a new one for a new text.
    pub(crate) fn give(&mut self, skill: usize, text: &str) -> RuleId {
        let next = RuleId(u32::try_from(self.0.len()).expect("few rules") + 1);
        *self.0.entry((skill, text.to_owned())).or_insert(next)
    }

    /// Whether `rule` is the number of one of `texts`; without any text, whether it is none.
    pub(crate) fn is_one_of(&self, rule: RuleId, skill: usize, texts: &[String]) -> bool {
        if texts.is_empty() {
            return rule == RuleId::NONE;
        }
        texts.iter().any(|text| self.0.get(&(skill, text.clone())) == Some(&rule))
    }
}
