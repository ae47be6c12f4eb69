//! From [`Manifest`] to [`ValidManifest`]: what this build refuses, conflicts, warnings.

use super::support::{Feature, check, check_with};
use super::*;

#[test]
fn keys_that_are_not_built_are_refused_by_name_and_place() {
    let manifest = parsed(&full()).expect("parsed");
    let found: Vec<_> = check_with(&manifest, |_| false)
        .into_iter()
        .map(|unsupported| {
            let error = unsupported.into_error(&manifest);
            let at = error.position.expect("a place");
            assert_eq!(error.kind, ErrorKind::Unsupported);
            format!("{at} {}", error.message())
        })
        .collect();
    assert_eq!(
        found,
        [
            "9:7 `match.unit` is not supported by this build",
            "10:7 `match.container` is not supported by this build",
            "11:7 `match.entrypoint` is not supported by this build",
            "17:5 `allow_libraries` is not supported by this build",
            "19:5 `allow_write` is not supported by this build",
            "21:5 `protect` is not supported by this build",
            "22:5 `delete_budget` is not supported by this build",
            "29:5 `listen` is not supported by this build",
            "30:5 `via` is not supported by this build",
            "32:5 `approval` is not supported by this build",
            "16:9 `parents` is not supported by this build",
            "24:9 a name in `network_scope` is not supported by this build",
            "25:9 a wildcard name in `network_scope` is not supported by this build",
            "28:9 a unix socket in `network_scope` is not supported by this build",
        ]
    );
    assert_eq!(check_with(&manifest, |_| true), []);
}

#[test]
fn what_is_no_key_of_its_own_is_refused_where_it_is_written() {
    for (body, feature, path) in [
        ("allow_jit: true", Feature::AllowJit, "skills.a.allow_jit"),
        ("require_2fa: [exec, write]", Feature::ApproveWrite, "skills.a.require_2fa"),
        ("network_scope: ['unix:@a']", Feature::UnixSockets, "skills.a.network_scope[0]"),
    ] {
        let manifest = parsed(&skill(body)).expect(body);
        let found = check_with(&manifest, |_| false);
        assert_eq!(found.len(), 1, "{body}");
        assert_eq!((found[0].feature, found[0].path.as_str()), (feature, path));
    }
    let wildcard = check(&parsed(&skill("network_scope: ['*.a.b']")).expect("a wildcard"));
    assert_eq!(wildcard.iter().map(|unsupported| unsupported.feature).collect::<Vec<_>>(), [Feature::WildcardNames]);
    let error = wildcard[0].clone().into_error(&parsed(&skill("network_scope: ['*.a.b']")).expect("a wildcard"));
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("resolver in the path, not built yet")), "{error}");
    for body in ["allow_jit: false", "require_2fa: true", "network_scope: [a.b, 10.0.0.0/8, '::1']"] {
        assert_eq!(check(&parsed(&skill(body)).expect(body)), [], "{body}");
    }
}

#[test]
fn validation_reports_in_the_order_of_the_file() {
    let manifest = parsed(&full()).expect("parsed");
    let unsupported = check(&manifest).len();
    match manifest.validate() {
        Ok(_) => assert_eq!(unsupported, 0),
        Err(errors) => {
            assert_eq!(errors.iter().count(), unsupported);
            assert!(errors.iter().is_sorted_by_key(|error| error.position));
        }
    }
}

#[test]
fn two_skills_of_one_cgroup() {
    let text = "skills:\n  b:\n    match: {cgroup: /x/y}\n  a:\n    match: {cgroup: /x//y/}\n";
    let errors = validated(text).expect_err("refused");
    assert_eq!(
        faults(&errors),
        ["5:13 skills.a.match.cgroup found the same cgroup as skill \"b\", expected processes of its own"]
    );
}

fn warned(text: &str) -> Vec<String> {
    let manifest = parsed(text).expect(text);
    let warnings = validate::warnings(&manifest, |_| false);
    let ignored = |message: &str| message.contains(" is absent: ");
    let place = |warning: &Warning| warning.position.map_or("-".to_owned(), |at| at.to_string());
    warnings
        .iter()
        .filter(|warning| !ignored(&warning.message))
        .map(|warning| format!("{} {} {}", place(warning), warning.path, warning.message))
        .collect()
}

#[test]
fn warnings() {
    let nested = "skills:\n  a: {match: {cgroup: /x}}\n  b: {match: {cgroup: /x/y/z}}\n  c: {match: {cgroup: /xy}}\n";
    assert_eq!(
        warned(nested),
        ["3:15 skills.b.match.cgroup inside \"/x\" of skill \"a\": the narrower one, this, wins"]
    );
    for (body, expected) in [
        ("require_2fa: [delete]", "3:5 skills.a.require_2fa nobody can approve in this build, so it denies: delete"),
        ("approval: {grant: once}", "3:5 skills.a.approval without require_2fa, nothing asks for approval"),
        ("delete_budget: 1/s", "3:5 skills.a.delete_budget without allow_delete, no delete is allowed anyway"),
        (
            "allow_write: [/srv, /usr/local]",
            "3:25 skills.a.allow_write[1] \"/usr/local\" overlaps \"/usr\" of allow_libraries: what the agent writes there can run as native code",
        ),
        (
            "allow_write: [/]",
            "3:19 skills.a.allow_write[0] \"/\" overlaps \"/usr\" of allow_libraries: what the agent writes there can run as native code",
        ),
        (
            "allow_write: [/a]\nallow_libraries: [/a/lib]",
            "3:19 skills.a.allow_write[0] \"/a\" overlaps \"/a/lib\" of allow_libraries: what the agent writes there can run as native code",
        ),
        (
            "allow_write: ['*']",
            "3:5 skills.a.allow_write everything may be written, so what the agent writes in a directory of allow_libraries can run as native code",
        ),
        (
            "allow_delete: [/a, /b, /a/, /b]",
            "3:28 skills.a.allow_delete[2] the entry is written twice, and so are 1 more",
        ),
    ] {
        assert_eq!(warned(&skill(body)), [expected], "{body}");
    }
    for body in [
        "allow_write: [/srv]",
        "allow_write: [/usrx]",
        "allow_write: [/usr]\nallow_libraries: []",
        "require_2fa: false",
    ] {
        assert_eq!(warned(&skill(body)), [""; 0], "{body}");
    }
}

#[test]
fn what_there_is_no_room_for_is_refused_before_it_is_loaded() {
    let refused = |text: &str| parsed(text).expect("it is read").validate().expect_err("refused").to_string();
    let budget = refused(&skill("delete_budget: 4097/s"));
    assert!(budget.contains("found \"4097/s\", expected at most 4096 deletes per window"), "{budget}");
    assert!(parsed(&skill("delete_budget: 4096/s")).expect("it is read").validate().is_ok());
    let units = |count: u32| -> String {
        let skill = |n: u32| format!("  s{n}: {{match: {{unit: a{n}.service}}}}\n");
        format!("skills:\n{}", (0..count).map(skill).collect::<String>())
    };
    let one_more = refused(&units(65));
    assert!(one_more.contains("expected at most 64 skills with one"), "{one_more}");
    assert!(parsed(&units(64)).expect("it is read").validate().is_ok());
}
