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
    fn is_script(&mut self, path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "sh")
    }
    fn objects(&mut self, path: &Path, _widens: bool) -> Result<Vec<(ObjectId, u32)>, NoObject> {
        Ok(self.object(path)?.map(|object| (object, 0)).into_iter().collect())
    }
    fn object(&mut self, path: &Path) -> Result<Option<ObjectId>, NoObject> {
        let found = self.objects.get(path.to_string_lossy().as_ref());
        Ok(found.map(|ino| ObjectId { ino: *ino, dev: 1, generation: 0 }))
    }
    fn way(&mut self, path: &Path) -> Result<Vec<ObjectId>, NoObject> {
        path.ancestors().skip(1).filter_map(|step| self.object(step).transpose()).collect()
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
    compiled_on(&mut host(), yaml, ids)
}

fn compiled_on(host: &mut Fake, yaml: &str, ids: &mut Ids) -> Compiled {
    let manifest = {
        let source = crate::manifest::Source::from_bytes("test.yaml", yaml.into()).expect("text");
        crate::manifest::parse(&source).expect("a manifest")
    };
    compile(&manifest, host, ids).expect("it compiles")
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
        assert_eq!(&*out.rules[&rule(10).own.rule()].text, "self: /srv/tmp");
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
fn what_leads_to_a_protected_path_is_marked() {
    let out =
        compiled("skills: {a: {protect: [/srv/tmp]}, b: {allow_delete: [/srv/tmp]}}", &mut Ids::default()).ruleset;
    let rule = |skill, ino| out.objects.get(&ObjectKey::new(SkillId(skill), ObjectId { ino, dev: 1, generation: 0 }));
    let (way, itself) = (rule(1, 9).expect("the directory above"), rule(1, 10).expect("itself"));
    assert_eq!((way.protect, way.way), (RuleId::NONE, itself.protect));
    assert_eq!((&*out.rules[&way.way].text, itself.way), ("protect: /srv/tmp", RuleId::NONE));
    assert!(rule(2, 9).is_none(), "an allowance needs no way");
    let absent = compiled("skills: {a: {protect: [/srv/absent]}}", &mut Ids::default()).ruleset;
    assert!(absent.objects.is_empty(), "what does not exist has no way");
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
    // Writing is not governed where it is not mentioned, but for the libraries that are there by default.
    let absent = skill_flag::WRITE_ANY | skill_flag::LIBRARIES_DEFAULT | skill_flag::LIBRARIES_SEALED;
    let any = skill_flag::EXEC_ANY | skill_flag::DELETE_ANY | skill_flag::CONNECT_ANY | absent;
    assert_eq!(flags, [absent, any]);
    assert!(out.ruleset.is_empty());
}

/// A host with libraries, programs beside them, and a loader.
fn with_libraries() -> Fake {
    let objects = [("/usr", 20), ("/usr/bin", 21), ("/usr/local/bin", 22), ("/opt", 23), ("/srv/lib", 24)];
    Fake { digests: [("/lib64/ld-linux-x86-64.so.2", 7)].into(), objects: objects.into(), ..Fake::default() }
}

/// What is said of each object of skill 1: whether it may be mapped.
fn words(ruleset: &Ruleset) -> Vec<(u64, bool)> {
    let mut words: Vec<_> = ruleset.objects.iter().filter(|(key, _)| key.skill == SkillId(1)).collect();
    words.sort_unstable_by_key(|(key, _)| key.object.ino);
    words.into_iter().map(|(key, rule)| (key.object.ino, rule.library.rule().is_some())).collect()
}

#[test]
fn directories_of_libraries_leave_out_their_programs() {
    use enforcer_common::rules::skill_flag::{LIBRARIES_DEFAULT, LIBRARIES_SEALED, LIBRARY_ANY};
    let libraries = |flags: u32| flags & (LIBRARIES_DEFAULT | LIBRARIES_SEALED | LIBRARY_ANY);
    for (body, expected, flags) in [
        ("", &[(20, true), (21, false), (22, false), (23, true)][..], LIBRARIES_DEFAULT | LIBRARIES_SEALED),
        ("allow_libraries: [/srv/lib]", &[(24, true)], LIBRARIES_SEALED),
        ("allow_libraries: [/usr, /usr/bin]", &[(20, true), (21, true), (22, false)], LIBRARIES_SEALED),
        ("allow_libraries: [/usr], allow_write: ['*']", &[(20, true), (21, false), (22, false)], 0),
        ("allow_libraries: []", &[], 0),
        ("allow_libraries: ['*']", &[], LIBRARY_ANY),
    ] {
        let out = compiled_on(&mut with_libraries(), &format!("skills: {{s: {{{body}}}}}"), &mut Ids::default());
        assert_eq!(words(&out.ruleset), expected, "{body}");
        assert_eq!(libraries(out.ruleset.skills[&SkillId(1)].flags), flags, "{body}");
    }
}

#[test]
fn contents_are_programs_libraries_and_loaders() {
    use enforcer_common::rules::binary_flag::{LIBRARY, LOADER, PROGRAM};
    let (loader, both) = (Digest::new([7; 32]), Digest::new([9; 32]));
    let yaml = format!("skills: {{s: {{allow_binaries: ['{loader}', '{both}'], allow_libraries: ['{both}']}}}}");
    let out = compiled_on(&mut with_libraries(), &yaml, &mut Ids::default());
    let mut flags: Vec<_> = out.ruleset.binaries.iter().map(|(key, rule)| (key.digest.0[0], rule.flags)).collect();
    flags.sort_unstable();
    assert_eq!(flags, [(7, PROGRAM | LOADER), (9, PROGRAM | LIBRARY)]);
}

#[test]
fn a_script_is_no_entrypoint() {
    let mut host = Fake { digests: [("/bin/sh", 1), ("/srv/door.sh", 3)].into(), ..Fake::default() };
    let manifest = |digest: u8, path: &str| {
        let digest = Digest::new([digest; 32]);
        let yaml = format!(
            "skills: {{a: {{allow_binaries: ['{path}', '{digest}']}}, b: {{match: {{entrypoint: '{digest}'}}}}}}"
        );
        let source = crate::manifest::Source::from_bytes("test.yaml", yaml.into()).expect("text");
        crate::manifest::parse(&source).expect("a manifest")
    };
    let refused = compile(&manifest(3, "/srv/door.sh"), &mut host, &mut Ids::default()).expect_err("a script");
    let text = refused.to_string();
    assert!(text.contains("/srv/door.sh is a script and cannot be the entrypoint of b"), "{text}");
    // A binary is one, and a script that is none may be listed.
    compile(&manifest(1, "/bin/sh"), &mut host, &mut Ids::default()).expect("a binary");
    compile(&manifest(1, "/srv/door.sh"), &mut host, &mut Ids::default()).expect("another skill's script");
}

#[test]
fn parents_are_bits_that_stay() {
    use enforcer_common::rules::binary_flag::{PARENTS, PROGRAM};
    let mut ids = Ids::default();
    let rules = |yaml: &str, ids: &mut Ids| {
        let out = compiled(&format!("skills: {{s: {{allow_binaries: [{yaml}]}}}}"), ids);
        let mut rules: Vec<_> = out.ruleset.binaries.iter().map(|(k, r)| (k.digest.0[0], r.flags, r.parents)).collect();
        rules.sort_unstable();
        rules
    };
    let one = rules("{path: /bin/rm, parents: [/bin/sh]}", &mut ids);
    assert_eq!(one, [(2, PROGRAM | PARENTS, 1)]);
    let digest = Digest::new([5; 32]);
    let two = rules(&format!("{{path: /bin/rm, parents: ['{digest}', /bin/sh]}}, /bin/sh"), &mut ids);
    assert_eq!(two, [(1, PROGRAM, 0), (2, PROGRAM | PARENTS, 3)]);
    // Of two entries for one content each allows what it says, in either order.
    for yaml in ["/bin/rm, {path: /bin/rm, parents: [/bin/sh]}", "{path: /bin/rm, parents: [/bin/sh]}, /bin/rm"] {
        assert_eq!(rules(yaml, &mut ids), [(2, PROGRAM, 0)]);
    }
    // A parent that is not there allows nothing.
    assert_eq!(rules("{path: /bin/rm, parents: [/nowhere]}", &mut ids), [(2, PROGRAM | PARENTS, 0)]);
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
    assert_eq!(&*read.texts().rules[&before.binaries.values().next().expect("one").rule].skill, "a");
    let after = compiled(yaml, &mut read).ruleset;
    assert!(after.same_rules(&before));
    assert_eq!(after.rules, before.rules);
    // A new name gets a number that nobody had.
    compiled("skills: {new: {}}", &mut read);
    assert!(read.texts().names.len() == 4 && read.known_skill("new") > read.known_skill("b"));
}

#[test]
fn numbers_of_forgotten_rules_are_not_given_again() {
    let mut ids = Ids::default();
    let policy = |path: &str| format!("version: 1\nskills:\n  a:\n    allow_delete: [{path}]\n");
    let first = compiled(&policy("/srv/tmp"), &mut ids).ruleset.rules;
    let second = compiled(&policy("/srv"), &mut ids).ruleset.rules;
    ids.forget_rules(|rule| second.contains_key(&rule));
    assert_eq!(ids.rules(), second.len());
    // They are kept over the daemon's end, and so is what was given last.
    let written = serde_json::to_string(&ids).expect("they can be written");
    let mut ids: Ids = serde_json::from_str(&written).expect("they can be read");
    assert_eq!(compiled(&policy("/srv"), &mut ids).ruleset.rules, second);
    let third = compiled(&policy("/srv/tmp"), &mut ids).ruleset.rules;
    let of = |rules: &HashMap<RuleId, RuleText>| {
        rules.iter().find(|(_, rule)| *rule.text == *"allow_delete: /srv/tmp").map(|(id, _)| *id)
    };
    let (then, now) = (of(&first).expect("a rule"), of(&third).expect("a rule"));
    assert!(now > then && !second.contains_key(&now), "{then:?} {now:?} {second:?}");
}
