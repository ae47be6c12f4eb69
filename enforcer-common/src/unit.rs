//! systemd's units by the paths of their cgroups: a unit's cgroup bears its name, below slices alone (`systemd.slice(5)`).
//!
//! The kernel compares the path of a new cgroup with the manifest's patterns, so that a unit is governed before anything is in its
//! cgroup, whether or not the daemon runs; the daemon does the same for units that are there. Each comparison is a sequence of
//! small steps, which the kernel makes by `bpf_loop`.

use crate::{ids::SkillId, task::CGROUP_PATH_CAPACITY};

/// The bytes of a path or a pattern, zeroes behind them.
pub type Text = [u8; CGROUP_PATH_CAPACITY];

/// How many patterns a policy may have.
pub const PATTERN_LIMIT: u32 = 64;

/// The skill of no rule: skills count from 1.
pub const NO_SKILL: SkillId = SkillId(0);

/// An element of `UNIT_PATTERNS`; all zero when there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitRule {
    /// The skill of units whose name fits.
    pub skill: SkillId,
    /// Not used.
    pub reserved: u32,
    /// The pattern: `*` is any run of characters, `?` any one.
    pub pattern: Text,
}

impl UnitRule {
    /// No rule.
    pub const NONE: Self = Self { skill: NO_SKILL, reserved: 0, pattern: [0; CGROUP_PATH_CAPACITY] };

    /// A rule; `None` when the pattern is too long.
    #[must_use]
    pub fn new(skill: SkillId, pattern: &str) -> Option<Self> {
        Some(Self { skill, reserved: 0, pattern: text(pattern)? })
    }
}

/// A text with zeroes behind it; `None` when it is too long.
#[must_use]
pub fn text(text: &str) -> Option<Text> {
    crate::task::CgroupName::new(text.as_bytes()).map(|name| name.0)
}

/// How many steps a comparison takes at most: the last `*` may begin at each byte of a name, and compare what is left of the pattern.
const MAX_STEPS: u32 = (CGROUP_PATH_CAPACITY * CGROUP_PATH_CAPACITY) as u32;

/// How many steps a search takes at most.
pub const SEARCH_STEPS: u32 = CGROUP_PATH_CAPACITY as u32;

/// How many steps a choice takes at most; `bpf_loop` takes no more than 2^23 (`BPF_MAX_LOOPS`).
pub const CHOICE_STEPS: u32 = PATTERN_LIMIT * MAX_STEPS;

const _: () = assert!(CHOICE_STEPS <= 1 << 23);

/// A byte of a text; 0 behind its end.
#[inline(always)]
fn at(text: &Text, index: u32) -> u8 {
    // The mask is for the verifier; no index is larger, because the last byte is 0.
    text[index as usize & (CGROUP_PATH_CAPACITY - 1)]
}

const _: () = assert!(CGROUP_PATH_CAPACITY.is_power_of_two());

/// Looks for the name of a unit in a cgroup's path.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Search {
    at: u32,
    /// Where the last component begins.
    pub name: u32,
    /// 1 when a component above the last is no slice.
    foreign: u32,
}

impl Search {
    /// Looks at one byte; false when the path has ended.
    #[inline(always)]
    pub fn step(&mut self, path: &Text) -> bool {
        let byte = at(path, self.at);
        if byte == 0 {
            return false;
        }
        if byte == b'/' {
            // Of the component that ends here; the root has none.
            if self.at != 0 && !ends_with_slice(path, self.at) {
                self.foreign = 1;
            }
            self.name = self.at + 1;
        }
        self.at += 1;
        true
    }

    /// Whether the last component may be a unit's name.
    #[must_use]
    #[inline(always)]
    pub const fn found(&self) -> bool {
        self.foreign == 0 && self.name != 0
    }
}

/// Whether `.slice` stands before `end`.
#[inline(always)]
fn ends_with_slice(path: &Text, end: u32) -> bool {
    const SUFFIX: [u8; 6] = *b".slice";
    if end < 6 {
        return false;
    }
    let mut n = 0;
    while n < 6 {
        if at(path, end - 6 + n) != SUFFIX[n as usize] {
            return false;
        }
        n += 1;
    }
    true
}

/// Compares a pattern with the rest of a path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Comparison {
    pattern: u32,
    name: u32,
    /// Where the last `*` stands, plus 1; 0: none.
    star: u32,
    /// How far the name had got there.
    from: u32,
    /// 1 when it fits.
    fits: u32,
}

impl Comparison {
    /// Begins at `name`.
    #[inline(always)]
    const fn from(name: u32) -> Self {
        Self { pattern: 0, name, star: 0, from: 0, fits: 0 }
    }

    /// Goes on by one byte; false when it is decided.
    #[inline(always)]
    fn step(&mut self, pattern: &Text, path: &Text) -> bool {
        let (wanted, found) = (at(pattern, self.pattern), at(path, self.name));
        if wanted == b'*' {
            self.star = self.pattern + 1;
            self.from = self.name;
            self.pattern += 1;
            return true;
        }
        if found == 0 {
            self.fits = u32::from(wanted == 0);
            return false;
        }
        if wanted == b'?' || wanted == found {
            self.pattern += 1;
            self.name += 1;
            return true;
        }
        // The last `*` takes one more.
        self.from += 1;
        self.name = self.from;
        self.pattern = self.star;
        self.star != 0
    }
}

/// Compares one rule after another with the rest of a path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    name: u32,
    /// The rule that is to be compared.
    pub rule: u32,
    /// The skill of the first that fits.
    pub skill: SkillId,
    comparison: Comparison,
}

impl Choice {
    /// Begins with the first rule, and the name at `name`.
    #[must_use]
    #[inline(always)]
    pub const fn from(name: u32) -> Self {
        Self { name, rule: 0, skill: NO_SKILL, comparison: Comparison::from(name) }
    }

    /// Goes on by one byte of the rule that is to be compared; false when it is decided.
    #[inline(always)]
    pub fn step(&mut self, rule: &UnitRule, path: &Text) -> bool {
        if rule.skill == NO_SKILL {
            return false;
        }
        if self.comparison.step(&rule.pattern, path) {
            return true;
        }
        if self.comparison.fits != 0 {
            self.skill = rule.skill;
            return false;
        }
        self.rule += 1;
        self.comparison = Comparison::from(self.name);
        true
    }
}

/// Where the kernel is with a new cgroup. It lies in a map: what is on the stack the verifier follows through every step.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// First the unit's name is looked for.
    pub search: Search,
    /// Then its rule.
    pub choice: Choice,
}

/// The unit whose cgroup this is; what users' managers run is below a service, and is no unit of the system's.
#[must_use]
pub fn name_of(path: &str) -> Option<&str> {
    let bytes = text(path)?;
    let mut search = Search::default();
    while search.step(&bytes) {}
    search.found().then(|| &path[search.name as usize..]).filter(|name| name.contains('.'))
}

/// Whether a unit's name fits a pattern.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (Some(pattern), Some(name)) = (text(pattern), text(name)) else { return false };
    let mut comparison = Comparison::from(0);
    while comparison.step(&pattern, &name) {}
    comparison.fits != 0
}

const _: () = assert!(size_of::<UnitRule>() == 8 + CGROUP_PATH_CAPACITY);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_below_slices() {
        for (path, name) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-claw.slice/claw@1.service", Some("claw@1.service")),
            ("/agents.slice", Some("agents.slice")),
            ("/init.scope", Some("init.scope")),
            ("/user.slice/user-0.slice/user@0.service/app.slice/claw@1.service", None),
            ("/system.slice/docker.service/claw.service", None),
            ("/agents/claw.service", None),
            ("/system.slice/nginx.service/worker", None),
            ("/slice/claw.service", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(name_of(path), name, "{path}");
        }
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, fits) in [
            ("claw@*.service", "claw@1.service", true),
            ("claw@*.service", "claw@.service", true),
            ("claw@?.service", "claw@.service", false),
            ("claw@?.service", "claw@12.service", false),
            ("*", "anything.scope", true),
            ("*.service", "a.service.scope", false),
            ("*.service", "a.service.service", true),
            ("*a*b*.scope", "xxayyabzz.scope", true),
            ("claw.service", "claw.service", true),
            ("claw.service", "claw.services", false),
            ("claw.services", "claw.service", false),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
    fn choose(rules: &[UnitRule], path: &str) -> (SkillId, u32) {
        let path = text(path).expect("short");
        let mut search = Search::default();
        let mut steps = 0;
        while search.step(&path) {
            steps += 1;
        }
        assert!(steps <= SEARCH_STEPS);
        let mut choice = Choice::from(search.name);
        let mut steps = 0;
        while rules.get(choice.rule as usize).is_some_and(|rule| choice.step(rule, &path)) {
            steps += 1;
        }
        (choice.skill, steps)
    }

    #[test]
    fn the_first_rule_that_fits_is_chosen() {
        let rule = |skill, pattern| UnitRule::new(SkillId(skill), pattern).expect("short");
        let rules = [rule(3, "web@*.service"), rule(4, "claw@*.service"), rule(5, "claw@1.*"), UnitRule::NONE];
        for (path, skill) in [
            ("/system.slice/claw@1.service", 4),
            ("/system.slice/web@1.service", 3),
            ("/claw@1.scope", 5),
            ("/system.slice/other.service", 0),
        ] {
            assert_eq!(choose(&rules, path).0, SkillId(skill), "{path}");
        }
        assert_eq!(choose(&[], "/claw@1.scope").0, NO_SKILL);
    }

    /// The worst that can be written ends within the steps that the kernel makes.
    #[test]
    fn a_choice_ends_in_time() {
        let mut pattern = [0; CGROUP_PATH_CAPACITY];
        pattern[..126].fill(b'a');
        (pattern[0], pattern[126]) = (b'*', b'b');
        let mut path = [b'a'; CGROUP_PATH_CAPACITY - 1];
        path[0] = b'/';
        let rules = [UnitRule { skill: SkillId(1), reserved: 0, pattern }];
        let (skill, steps) = choose(&rules, core::str::from_utf8(&path).expect("ASCII"));
        assert_eq!(skill, NO_SKILL);
        assert!(steps > 4096 && steps * PATTERN_LIMIT < CHOICE_STEPS, "{steps}");
    }
}
