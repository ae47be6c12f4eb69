//! What a manifest compiles to, on a host of our own.

use std::collections::HashMap;

use enforcer_common::{ids::ObjectId, net::protocol};

use super::*;

#[derive(Default)]
struct Fake {
    digests: HashMap<&'static str, u8>,
    objects: HashMap<&'static str, u64>,
    cgroups: HashMap<&'static str, Vec<(u64, u32)>>,
    own: Vec<PathBuf>,
}

impl World for Fake {
    fn expand(&self, path: &ManifestPath) -> String {
        path.below_home().map_or_else(|| path.to_string(), |rest| format!("/root/{rest}"))
    }
    fn own(&self) -> Vec<PathBuf> {
        self.own.clone()
    }
    fn digest(&mut self, path: &Path) -> Result<Digest, String> {
        let text = path.to_string_lossy();
        self.digests.get(text.as_ref()).map(|b| Digest::new([*b; 32])).ok_or_else(|| format!("{text}: not found"))
    }
    fn objects(&mut self, path: &Path, _widens: bool) -> Result<Vec<(ObjectId, u32)>, NoObject> {
        Ok(self.object(path)?.map(|object| (object, 0)).into_iter().collect())
    }
    fn object(&mut self, path: &Path) -> Result<Option<ObjectId>, NoObject> {
        let found = self.objects.get(path.to_string_lossy().as_ref());
        Ok(found.map(|ino| ObjectId { ino: *ino, dev: 1, generation: 0 }))
    }
    fn cgroups(&mut self, path: &str) -> Result<Vec<(u64, u32)>, String> {
        Ok(self.cgroups.get(path).cloned().unwrap_or_default())
    }
}

fn host() -> Fake {
    Fake {
        digests: [("/bin/sh", 1), ("/bin/rm", 2)].into(),
        objects: [("/srv/tmp", 10), ("/srv", 9)].into(),
        cgroups: [("/a", vec![(100, 0), (101, 1), (102, 2)]), ("/a/b", vec![(101, 0), (102, 1)])].into(),
        own: vec![],
    }
}

fn compiled(yaml: &str, ids: &mut Ids) -> Compiled {
    let manifest = {
        let source = crate::manifest::Source::from_bytes("test.yaml", yaml.into()).expect("text");
        crate::manifest::parse(&source).expect("a manifest")
    };
    compile(&manifest, &mut host(), ids).expect("it compiles")
}

#[test]
fn what_is_our_own_is_so_for_every_skill() {
    let mut host = Fake { own: vec!["/srv/tmp".into(), "/nowhere".into()], ..host() };
    let (star, list) = ("{allow_delete: ['*']}", "{allow_write: [/srv]}");
    let source = crate::manifest::Source::from_bytes("t", format!("skills: {{a: {star}, b: {list}}}").into());
    let manifest = crate::manifest::parse(&source.expect("text")).expect("a manifest");
    let out = compile(&manifest, &mut host, &mut Ids::default()).expect("it compiles").ruleset;
    for skill in [SkillId(1), SkillId(2)] {
        let rule = |ino| out.objects[&ObjectKey::new(skill, ObjectId { ino, dev: 1, generation: 0 })];
        assert!(rule(10).own.rule() != RuleId::NONE && !rule(10).own.is_way());
        assert!(rule(9).own.is_way(), "a directory on the way");
        assert_eq!(out.rules[&rule(10).own.rule()].text, "self: /srv/tmp");
        assert_ne!(out.skills[&skill].flags & skill_flag::GUARDS, 0);
    }
    for rule in ["allow_write: [/srv/tmp]", "allow_delete: [/srv/tmp/below]"] {
        let source = crate::manifest::Source::from_bytes("t", format!("skills: {{a: {{{rule}}}}}").into());
        let manifest = crate::manifest::parse(&source.expect("text")).expect("a manifest");
        let error = compile(&manifest, &mut host, &mut Ids::default()).expect_err("it is our own").to_string();
        assert!(error.contains("Enforcer's own"), "{error}");
    }
}

#[test]
fn numbers_stay_over_reloads() {
    let mut ids = Ids::default();
    let one = compiled("skills: {b: {allow_delete: [/srv/tmp]}}", &mut ids).ruleset;
    let two = compiled("skills: {a: {}, b: {allow_delete: [/srv, /srv/tmp]}}", &mut ids).ruleset;
    assert_eq!(ids.known_skill("b"), Some(SkillId(1)));
    let key = ObjectKey::new(SkillId(1), ObjectId { ino: 10, dev: 1, generation: 0 });
    assert_eq!(one.objects[&key], two.objects[&key], "an unchanged rule is not written again");
}

#[test]
fn a_path_is_pinned_to_its_content() {
    let mut ids = Ids::default();
    let out = compiled("skills: {s: {allow_binaries: [/bin/sh, {path: /nowhere}]}}", &mut ids);
    assert_eq!(out.ruleset.binaries.len(), 1);
    assert_eq!(out.ruleset.binaries.keys().next().map(|k| k.digest.0), Some([1; 32]));
    assert_eq!(out.warnings.len(), 1, "{:?}", out.warnings);
    assert!(out.warnings[0].to_string().starts_with("test.yaml:1:"), "{}", out.warnings[0]);
}

#[test]
fn a_path_whose_content_is_another_allows_only_the_named_one() {
    let other = Digest::new([9; 32]);
    let yaml = format!("skills: {{s: {{allow_binaries: [{{path: /bin/sh, sha256: \"{other}\"}}]}}}}");
    let out = compiled(&yaml, &mut Ids::default());
    assert_eq!(out.ruleset.binaries.keys().map(|k| k.digest.0).collect::<Vec<_>>(), [[9; 32]]);
    assert_eq!(out.warnings.len(), 1);
}

#[test]
fn the_narrower_cgroup_wins_whatever_the_order_of_names() {
    for (outer, inner) in [("x", "y"), ("y", "x")] {
        let mut ids = Ids::default();
        let yaml = format!("skills: {{{outer}: {{match: {{cgroup: /a}}}}, {inner}: {{match: {{cgroup: /a/b}}}}}}");
        let cgroups = compiled(&yaml, &mut ids).ruleset.cgroups;
        let skill = |name: &str| ids.known_skill(name).expect("known");
        assert_eq!(cgroups[&100].skill, skill(outer));
        assert_eq!(cgroups[&101].skill, skill(inner));
        assert_eq!(cgroups[&102].skill, skill(inner));
    }
}

#[test]
fn absent_lists_allow_nothing_and_a_star_everything() {
    let out = compiled(
        "skills: {s: {}, t: {allow_binaries: ['*'], allow_delete: ['*'], network_scope: ['*']}}",
        &mut Ids::default(),
    );
    let flags: Vec<u32> = [SkillId(1), SkillId(2)].map(|id| out.ruleset.skills[&id].flags).into();
    // Writing is not governed where it is not mentioned.
    let writes = skill_flag::WRITE_ANY;
    let any = skill_flag::EXEC_ANY | skill_flag::DELETE_ANY | skill_flag::CONNECT_ANY | writes;
    assert_eq!(flags, [writes, any]);
    assert!(out.ruleset.is_empty());
}

#[test]
fn ports_and_protocols_are_kept() {
    let out = compiled("skills: {s: {network_scope: ['10.0.0.0/8:53/udp']}}", &mut Ids::default());
    let set = out.ruleset.destinations.values().next().expect("one prefix");
    assert!(set.find(53, protocol::UDP).is_some());
    assert!(set.find(53, protocol::TCP).is_none());
    assert!(set.find(54, protocol::UDP).is_none());
}

/// A daemon that comes after this one gives out the same numbers.
#[test]
fn numbers_outlive_the_daemon() {
    let yaml = "skills: {a: {allow_binaries: [/bin/sh]}, b: {allow_delete: [/srv/tmp]}}";
    let mut ids = Ids::default();
    compiled("skills: {z: {allow_delete: [/srv/tmp]}}", &mut ids);
    let before = compiled(yaml, &mut ids).ruleset;
    let written = serde_json::to_string(&ids).expect("numbers can be written down");
    let mut read: Ids = serde_json::from_str(&written).expect("and read");
    assert_eq!(read, ids);
    assert_eq!(read.texts().rules[&before.binaries.values().next().expect("one").rule].skill, "a");
    let after = compiled(yaml, &mut read).ruleset;
    assert!(after.same_rules(&before));
    assert_eq!(after.rules, before.rules);
    // A new name gets a number that nobody had.
    compiled("skills: {new: {}}", &mut read);
    assert!(read.texts().names.len() == 4 && read.known_skill("new") > read.known_skill("b"));
}
