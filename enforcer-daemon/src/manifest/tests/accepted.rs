//! What is accepted, and what it means.

use std::time::Duration;

use super::*;

fn only<T: Clone>(list: Option<&Listed<T>>) -> Vec<T> {
    match list {
        Some(Listed::Only(entries)) => entries.clone(),
        Some(Listed::Everything) => panic!("everything"),
        None => panic!("absent"),
    }
}

fn path(text: &str) -> ManifestPath {
    text.parse().expect("a path")
}

#[test]
fn the_community_example() {
    let valid = validated(COMMUNITY).expect("valid");
    let manifest = valid.manifest();
    assert_eq!((manifest.version, manifest.mode, manifest.audit_level), (1, Mode::Enforce, AuditLevel::Strict));
    let skill = &manifest.skills["file_manager"];
    assert_eq!(skill.matching, Match::default());
    let digest: Digest = DIGEST.parse().expect("a digest");
    let entry = BinaryEntry { binary: Binary::Content(vec![digest]), parents: vec![] };
    assert_eq!(only(skill.allow_binaries.as_ref()), [entry]);
    assert_eq!(only(skill.network_scope.as_ref()), ["api.github.com".parse().expect("a name")]);
    assert_eq!(skill.require_2fa, TwoFactor::ALL);
    assert_eq!((&skill.allow_delete, &skill.allow_write, skill.delete_budget), (&None, &None, None));
    let warnings: Vec<_> = valid.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "claw.policy.yaml:3:3: skills.file_manager: warning: allow_delete is absent: no delete is allowed",
            "claw.policy.yaml:3:3: skills.file_manager: warning: allow_write is absent: writing is not governed",
            "claw.policy.yaml:6:5: skills.file_manager.require_2fa: warning: nobody can approve in this build, so it \
             denies: exec, delete, connect, write",
        ]
    );
}

#[test]
fn the_full_form() {
    let manifest = parsed(&full()).expect("parsed");
    let digest: Digest = DIGEST.parse().expect("a digest");
    let skill = &manifest.skills["file_manager"];
    assert_eq!(skill.mode, Some(Mode::Audit));
    assert_eq!(
        skill.matching,
        Match {
            cgroup: Some("/agents.slice/file_manager.scope".parse().expect("a cgroup")),
            unit: Some("openclaw@*.service".parse().expect("a unit")),
            container: Some(ContainerSelector::NameOrId("openclaw".to_owned())),
            entrypoint: Some(digest),
        }
    );
    let git = BinaryEntry {
        binary: Binary::Path { path: path("/usr/bin/git"), sha256: vec![digest] },
        parents: vec![ParentRef::Path(path("/usr/bin/bash")), ParentRef::Digest(digest)],
    };
    let content = BinaryEntry { binary: Binary::Content(vec![digest]), parents: vec![] };
    assert_eq!(only(skill.allow_binaries.as_ref()), [content, git]);
    let libraries = [LibraryEntry::Path(path("/usr")), LibraryEntry::Path(path("/lib")), LibraryEntry::Digest(digest)];
    assert_eq!(only(skill.allow_libraries.as_ref()), libraries);
    assert!(!skill.allow_jit);
    assert_eq!(only(skill.allow_write.as_ref()), [path("/srv/agent")]);
    assert_eq!(only(skill.allow_delete.as_ref()), [path("/srv/agent/tmp"), path("/srv/agent/build")]);
    assert_eq!(skill.protect, [path("/srv/agent/.git"), path("~/.openclaw/credentials")]);
    let budget = skill.delete_budget.expect("a budget");
    assert_eq!((budget.limit(), budget.window_ns()), (50, 60_000_000_000));
    let scope: Vec<_> = only(skill.network_scope.as_ref()).iter().map(ToString::to_string).collect();
    assert_eq!(
        scope,
        [
            "api.github.com",
            "*.githubusercontent.com:443/tcp",
            "10.0.0.0/8:5432",
            "[2001:db8::/32]:443",
            "unix:/run/agent/control.sock"
        ]
    );
    assert_eq!(only(skill.listen.as_ref()), ["127.0.0.1:8080".parse().expect("an address")]);
    assert_eq!(skill.via, Some("127.0.0.1:3128".parse().expect("an address")));
    assert_eq!(skill.require_2fa.iter().count(), 4);
    assert_eq!(skill.approval, Approval { timeout: Duration::from_mins(5), grant: Grant::Once });
    assert_eq!(skill.reason.as_deref(), Some("deletes outside /srv/agent/tmp need a human; ask in #ops"));
}

#[test]
fn every_key_of_the_schema_is_in_the_full_form_and_in_the_json_schema() {
    let schema = serde_json::to_value(json_schema()).expect("JSON");
    let keys_of = |value: &serde_json::Value| -> Vec<String> {
        let mut keys: Vec<_> = value["properties"].as_object().expect("keys").keys().cloned().collect();
        keys.sort();
        keys
    };
    let defs = &schema["$defs"];
    let object = &defs["BinaryEntry"]["anyOf"][2];
    let full = full();
    for (known, object) in
        decode::SCHEMA.iter().zip([&schema, &defs["Skill"], &defs["Match"], object, &defs["Approval"]])
    {
        let mut expected: Vec<_> = known.known.to_vec();
        for key in &expected {
            assert!(full.contains(&format!("{key}:")), "{key} is not in the full form");
        }
        expected.sort_unstable();
        assert_eq!(keys_of(object), expected, "{}", known.of);
        assert_eq!(object["additionalProperties"], false, "{}", known.of);
    }
    assert_eq!(schema["required"], serde_json::json!(["skills"]));
    for name in ["Skill", "Match", "Approval"] {
        assert!(defs[name].get("required").is_none(), "{name}");
    }
    assert_eq!(defs["Digest"]["pattern"], "^sha256:[0-9A-Fa-f]{64}$");
    let text = schema.to_string();
    assert!(!text.contains("null"), "an optional key is absent, not null");
    for reference in text.split("\"$ref\":\"#/$defs/").skip(1) {
        let name = reference.split('"').next().unwrap_or_default();
        assert!(defs.get(name).is_some(), "{name}");
    }
}

#[test]
fn places_of_keys_and_entries() {
    let manifest = parsed(&full()).expect("parsed");
    let skill = KeyPath::skill("file_manager");
    for (path, place) in [
        (KeyPath::root(), Some("1:1")),
        (KeyPath::root().key("audit_level"), Some("3:1")),
        (skill.clone(), Some("5:3")),
        (skill.key("match").key("unit"), Some("9:7")),
        (skill.key("allow_binaries").index(0), Some("13:9")),
        (skill.key("allow_binaries").index(1), Some("14:9")),
        (skill.key("allow_binaries").index(1).key("parents"), Some("16:9")),
        (skill.key("allow_binaries").index(1).key("parents").index(1), Some("16:34")),
        (skill.key("network_scope").index(3), Some("27:9")),
        (skill.key("approval").key("grant"), Some("32:29")),
        (skill.key("network_scope").index(5), None),
        (skill.key("nothing"), None),
    ] {
        assert_eq!(manifest.position(&path).map(|at| at.to_string()).as_deref(), place, "{path}");
    }
}

#[test]
fn aliases_anchors_json_crlf_and_a_byte_order_mark() {
    let shared = format!("skills:\n  a: {{allow_binaries: &tools [\"{DIGEST}\"]}}\n  b: {{allow_binaries: *tools}}\n");
    let manifest = parsed(&shared).expect("aliases");
    assert_eq!(manifest.skills["a"], manifest.skills["b"]);
    let json = format!("{{\"skills\":{{\"a\":{{\"allow_binaries\":[\"{DIGEST}\"],\"require_2fa\":[]}}}}}}");
    assert_eq!(parsed(&json).expect("JSON").skills["a"], manifest.skills["a"]);
    assert_eq!(parsed(&COMMUNITY.replace('\n', "\r\n")), parsed(COMMUNITY));
    assert_eq!(parsed(&format!("\u{feff}{COMMUNITY}")), parsed(COMMUNITY));
    assert_eq!(parsed(&format!("%YAML 1.2\n---\n{COMMUNITY}...\n")), parsed(COMMUNITY));
}

#[test]
fn forms_of_values() {
    let text = skill(
        "allow_binaries:\n\
         - {sha256: [D, D]}\n\
         - {path: /bin//sh/, sha256: [D]}\n\
         - /usr/bin/[\n\
         allow_delete: ['*']\n\
         network_scope: []\n\
         require_2fa: [delete, exec]\n\
         approval: {grant: 10m}\n\
         allow_jit: true\n\
         delete_budget: 0/90s\n\
         reason: >\n\
         \x20 two\n\
         \x20 lines",
    )
    .replace('D', DIGEST);
    let manifest = parsed(&text).expect("parsed");
    let skill = &manifest.skills["a"];
    let digest: Digest = DIGEST.parse().expect("a digest");
    let binaries: Vec<_> = only(skill.allow_binaries.as_ref()).into_iter().map(|entry| entry.binary).collect();
    assert_eq!(
        binaries,
        [
            Binary::Content(vec![digest, digest]),
            Binary::Path { path: path("/bin/sh"), sha256: vec![digest] },
            Binary::Path { path: path("/usr/bin/["), sha256: vec![] },
        ]
    );
    assert_eq!(skill.allow_delete, Some(Listed::Everything));
    assert_eq!(skill.network_scope, Some(Listed::Only(vec![])));
    assert_eq!(skill.require_2fa.iter().collect::<Vec<_>>(), [Action::Exec, Action::Delete]);
    let approval = Approval { timeout: Duration::from_mins(5), grant: Grant::For(Duration::from_mins(10)) };
    assert_eq!(skill.approval, approval);
    assert!(skill.allow_jit);
    assert_eq!(skill.delete_budget.map(|budget| (budget.limit(), budget.window_ns())), Some((0, 90_000_000_000)));
    assert_eq!(skill.reason.as_deref(), Some("two lines"));
}

#[test]
fn paths_and_homes() {
    for (text, normal) in [
        ("/", "/"),
        ("//a/./b//", "/a/b"),
        ("~/", "~/"),
        ("~/.ssh", "~/.ssh"),
        ("/a b/ü", "/a b/ü"),
        ("/Foo$Bar.class", "/Foo$Bar.class"),
    ] {
        assert_eq!(path(text).as_str(), normal);
    }
    assert_eq!(path("~/.ssh").below_home(), Some(".ssh"));
    assert_eq!(path("~/").below_home(), Some(""));
    assert_eq!(path("/a").below_home(), None);
    assert!(path("/").covers(&path("/a")) && path("/a").covers(&path("/a")) && path("/a").covers(&path("/a/b")));
    assert!(!path("/a").covers(&path("/ab")) && !path("/a/b").covers(&path("/a")));
}
