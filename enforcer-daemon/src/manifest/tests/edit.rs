//! Pins are written into the text, and nothing else is.

use super::super::edit::{EditError, Pin, pin};
use super::super::model::Listed;
use super::*;

/// Pins every path of `allow_binaries` to the digest of `n` bytes of that value.
fn pinned(text: &str, n: u8) -> Result<String, EditError> {
    let source = Source::from_bytes("m", text.as_bytes().to_vec()).expect("text");
    let manifest = parse(&source).expect("a manifest");
    let mut pins = Vec::new();
    for (skill, rules) in &manifest.skills {
        for (entry, binary) in rules.allow_binaries.iter().flat_map(Listed::entries).enumerate() {
            if matches!(binary.binary, Binary::Path { .. }) {
                pins.push(Pin { skill: skill.clone(), entry, digest: Digest::new([n; 32]) });
            }
        }
    }
    pin(&source, &manifest, &pins)
}

fn digest(n: u8) -> String {
    Digest::new([n; 32]).to_string()
}

#[test]
fn every_common_form_is_pinned_with_its_comments() {
    let d = digest(7);
    for (before, after) in [
        ("- /bin/a\n- /bin/b\n", format!("- path: /bin/a\n  sha256: \"{d}\"\n- path: /bin/b\n  sha256: \"{d}\"\n")),
        (
            "- /bin/a # why\n# more\n- \"sha256:D\"\n",
            format!("- path: /bin/a # why\n  sha256: \"{d}\"\n# more\n- \"sha256:D\"\n"),
        ),
        ("-   '/bin/it''s'\n", format!("-   path: '/bin/it''s'\n    sha256: \"{d}\"\n")),
        ("- path: \"/bin/a\\\"b\"  # why\n", format!("- path: \"/bin/a\\\"b\"  # why\n  sha256: \"{d}\"\n")),
        ("- parents: [/bin/p]\n  path: /bin/a\n", format!("- parents: [/bin/p]\n  path: /bin/a\n  sha256: \"{d}\"\n")),
        ("- path: /bin/a\n  sha256: sha256:D # old\n", format!("- path: /bin/a\n  sha256: \"{d}\" # old\n")),
        ("- {path: /bin/a}\n", format!("- {{path: /bin/a, sha256: \"{d}\"}}\n")),
        ("- {path: /bin/a, sha256: \"sha256:D\"}\n", format!("- {{path: /bin/a, sha256: \"{d}\"}}\n")),
        ("- {sha256: 'sha256:D', path: '/bin/a b'}\n", format!("- {{sha256: \"{d}\", path: '/bin/a b'}}\n")),
        (
            "- /bin/a,b\r\n- /bin/ü # ä\r\n",
            format!("- path: /bin/a,b\r\n  sha256: \"{d}\"\r\n- path: /bin/ü # ä\r\n  sha256: \"{d}\"\r\n"),
        ),
    ] {
        let old = digest(1);
        let text = |list: &str| {
            let list = list.replace("sha256:D", &old);
            let body = list.trim_end_matches('\n').replace('\n', "\n      ");
            format!("# top\nskills:\n  a:\n    allow_binaries:\n      {body}\n    reason: why not\n")
        };
        assert_eq!(pinned(&text(before), 7).as_deref(), Ok(&*text(&after)), "{before}");
    }
}

#[test]
fn flow_lists_stay_flow_lists() {
    let d = digest(7);
    for (before, after) in [
        ("[/bin/a, \"/bin/b\"]", format!("[{{path: /bin/a, sha256: \"{d}\"}}, {{path: \"/bin/b\", sha256: \"{d}\"}}]")),
        (
            "[\n  /bin/a, # one\n  /bin/b\n  ]",
            format!("[\n  {{path: /bin/a, sha256: \"{d}\"}}, # one\n  {{path: /bin/b, sha256: \"{d}\"}}\n  ]"),
        ),
        (
            "[{path: /bin/a},{parents: [/p], path: /bin/b}]",
            format!("[{{path: /bin/a, sha256: \"{d}\"}},{{parents: [/p], path: /bin/b, sha256: \"{d}\"}}]"),
        ),
    ] {
        let text = |list: &str| format!("skills: {{a: {{allow_binaries: {list}, mode: audit}}}}");
        assert_eq!(pinned(&text(before), 7).as_deref(), Ok(&*text(&after)), "{before}");
    }
}

#[test]
fn pinning_twice_changes_nothing_and_pinning_anew_only_the_digests() {
    let text = "skills:\n  a:\n    allow_binaries:\n      - /bin/a\n      - path: /bin/b # b\n";
    let once = pinned(text, 7).expect("pinned");
    assert_eq!(pinned(&once, 7).as_ref(), Ok(&once));
    assert_eq!(pinned(&once, 8).as_ref(), Ok(&once.replace(&digest(7), &digest(8))));
}

#[test]
fn an_alias_is_pinned_where_it_points() {
    let text = "skills:\n  a:\n    allow_binaries: &common\n      - /bin/a\n  b: {allow_binaries: *common}\n";
    let out = pinned(text, 7).expect("pinned");
    assert_eq!(out.matches("sha256:").count(), 2, "{out}");
    assert_eq!(out.matches(&digest(7)).count(), 1, "{out}");
}

#[test]
fn unusual_forms_are_refused_and_never_misunderstood() {
    for (list, is_edited) in [
        ("- >-\n        /bin/a\n", false),
        ("- &x /bin/a\n      - path: *x\n", false),
        ("- path:\n          /bin/a\n", false),
        ("- path: /bin/a\n        sha256: [\"sha256:D\"]\n", false),
        ("- ? path\n        : /bin/a\n", false),
        ("- \"/bin/\\\n          a\"\n", true),
        ("-\n        path: /bin/a\n", true),
    ] {
        let text = format!("skills:\n  a:\n    allow_binaries:\n      {}", list.replace("sha256:D", &digest(1)));
        let edited = pinned(&text, 7);
        assert_eq!(edited.is_ok(), is_edited, "{list}: {edited:?}");
    }
}
