//! What is refused, with the exact place and message.

use super::*;

/// What stands wrong with a skill of these keys.
fn skill_faults(body: &str) -> Vec<String> {
    let errors = parsed(&skill(body)).map(|_| ()).expect_err(body);
    faults(&errors).into_iter().map(|fault| fault.replace("skills.a.", "")).collect()
}

#[test]
fn the_message_as_it_is_displayed() {
    let text =
        "version: 1\nskills:\n  file_manager:\n    allow_binaries:\n      - \"sha256:9f86\"\n    netwrk_scope: []\n";
    assert_eq!(
        parsed(text).expect_err("refused").to_string(),
        "claw.policy.yaml:5:9: skills.file_manager.allow_binaries[0]: found \"sha256:9f86\" (4 hex digits), \
         expected 64 hex digits after `sha256:`\n  \
         hint: `enforcer hash FILE` prints the line to paste\n\
         claw.policy.yaml:6:5: skills.file_manager.netwrk_scope: found the unknown key \"netwrk_scope\", \
         expected a key of a skill\n  \
         hint: did you mean `network_scope`?"
    );
}

#[test]
fn documents() {
    for (text, fault) in [
        ("", "1:1  found nothing (the manifest is empty), expected a manifest"),
        ("# only\n# comments\n", "1:1  found nothing (the manifest is empty), expected a manifest"),
        ("---\n", "1:1  found nothing (the manifest is empty), expected a manifest"),
        ("~\n", "1:1  found nothing (the manifest is empty), expected a manifest"),
        ("skills", "1:1  found the text \"skills\", expected a mapping: the manifest"),
        ("- a\n", "1:3  found a list, expected a mapping: the manifest"),
        ("{}", "1:1  found no key `skills`, expected at least one skill"),
        ("\n\nmode: audit\n", "3:1  found no key `skills`, expected at least one skill"),
        ("mode: audit\nskills: {}\n", "2:1 skills found no skill, expected at least one skill"),
        ("skills:\n", "1:1 skills found nothing, expected a mapping: skills by their names"),
        ("skills: {a: }\n", "1:10 skills.a found nothing, expected a mapping: a skill"),
        ("skills: {a: {}}\n---\nskills: {b: {}}\n", "3:1  found a second YAML document, expected one YAML document"),
        ("skills: {a: {}}\n---\n", "3:1  found a second YAML document, expected one YAML document"),
        ("skills: !x {a: {}}\n", "1:9  found a YAML tag, expected a plain value"),
        ("skills: {a: {}, b: {}, a: {}}\n", "1:24 skills.a found the key \"a\" a second time, expected each key once"),
        (
            "skills: {a: {}}\nskills: {b: {}}\n",
            "2:1 skills found the key \"skills\" a second time, expected each key once",
        ),
        ("skills: {a: {}}\n1: x\n", "2:1 1 found the unknown key \"1\", expected a key of the manifest"),
        ("version: 2\nskills: {a: {}}\n", "1:10 version found \"2\", expected the number 1"),
        ("version: '1'\nskills: {a: {}}\n", "1:10 version found \"1\", expected the number 1"),
        ("version:\nskills: {a: {}}\n", "1:9 version found something else, expected the number 1"),
        ("mode: off\nskills: {a: {}}\n", "1:7 mode found \"off\", expected enforce | audit"),
        ("mode: 1\nskills: {a: {}}\n", "1:7 mode found the number 1, expected enforce | audit"),
        (
            "audit_level: [strict]\nskills: {a: {}}\n",
            "1:1 audit_level found a list, expected basic | standard | strict",
        ),
        (
            "skills: {a b: {}}\n",
            "1:10 skills.\"a b\" found \"a b\" (it has ' '), expected a skill name: 1 to 64 of A-Z a-z 0-9 _ . -",
        ),
        ("skills: {'': {}}\n", "1:10 skills.\"\" found \"\", expected a skill name: 1 to 64 of A-Z a-z 0-9 _ . -"),
    ] {
        let errors = parsed(text).map(|_| ()).expect_err(text);
        assert_eq!(faults(&errors), [fault], "{text:?}");
    }
}

#[test]
fn syntax() {
    for (text, place, part) in [
        ("skills: [\n", "2:1", "did not find expected node content"),
        ("skills:\n\ta: {}\n", "2:1", "cannot start any token"),
        ("skills: {a: *b}\n", "1:13", "unknown anchor"),
        ("skills: \"a\n", "2:1", "unexpected end of stream"),
        ("skills:\n a: {}\n  b: {}\n", "3:3", "did not find expected key"),
        ("? [a]\n: b\n", "1:3", "expected a plain key"),
        ("skills: a\u{feff}\u{1}\n", "1:10", "control character"),
    ] {
        let errors = parsed(text).map(|_| ()).expect_err(text);
        let error = errors.iter().next().expect("an error");
        assert_eq!(error.kind, ErrorKind::Syntax);
        assert_eq!(error.position.map(|at| at.to_string()).as_deref(), Some(place), "{text:?}: {error}");
        assert!(error.message().contains(part), "{text:?}: {error}");
    }
    let tab = parsed("skills:\n\ta: {}\n").expect_err("a tab");
    assert!(tab.to_string().ends_with("hint: YAML is indented with spaces, not with tabs"), "{tab}");
}

#[test]
fn values_of_a_skill() {
    for (body, fault) in [
        ("mode: Enforce", "3:11 mode found \"Enforce\", expected enforce | audit"),
        ("mode: audit\nmode: audit", "4:5 mode found the key \"mode\" a second time, expected each key once"),
        ("allow_binary: []", "3:5 allow_binary found the unknown key \"allow_binary\", expected a key of a skill"),
        ("<<: {}", "3:5 \"<<\" found the unknown key \"<<\", expected a key of a skill"),
        ("allow_write: /srv", "3:18 allow_write found the text \"/srv\", expected a list of paths"),
        ("allow_write: {a: b}", "3:5 allow_write found a mapping, expected a list of paths"),
        ("allow_write:", "3:5 allow_write found nothing, expected a list of paths"),
        (
            "allow_write: [srv]",
            "3:19 allow_write[0] found \"srv\", expected an absolute path, or one that starts with `~/`",
        ),
        ("allow_write: [~]", "3:19 allow_write[0] found nothing, expected a path"),
        ("allow_write: [/a/../b]", "3:19 allow_write[0] found \"/a/../b\", expected a path without `..`"),
        ("allow_write: [/a/*]", "3:19 allow_write[0] found \"/a/*\" (globs are not supported), expected a plain path"),
        (
            "allow_write: ['/a/[bc]']",
            "3:19 allow_write[0] found \"/a/[bc]\" (globs are not supported), expected a plain path",
        ),
        (
            "allow_write: ['/a/{b,c}']",
            "3:19 allow_write[0] found \"/a/{b,c}\" (globs are not supported), expected a plain path",
        ),
        (
            "allow_write: [$HOME/a]",
            "3:19 allow_write[0] found \"$HOME/a\" (variables are not expanded), expected an absolute path, or one that starts with `~/`",
        ),
        (
            "allow_write: [/home/$USER]",
            "3:19 allow_write[0] found \"/home/$USER\" (variables are not expanded), expected a plain path",
        ),
        (
            "allow_write: [~bob/a]",
            "3:19 allow_write[0] found \"~bob/a\" (homes of other users are not supported), expected an absolute path, or one that starts with `~/`",
        ),
        (
            "allow_write: [\"/a\\0b\"]",
            "3:19 allow_write[0] found \"/a\\0b\" (it has '\\0'), expected a path without control characters",
        ),
        ("allow_delete: [/a, '*']", "3:24 allow_delete[1] found \"*\" beside other entries, expected \"*\" alone"),
        ("protect: ['*']", "3:15 protect[0] found \"*\", expected a path"),
        ("allow_jit: 'true'", "3:16 allow_jit found the text \"true\", expected true or false"),
        ("delete_budget: 50", "3:20 delete_budget found the number 50, expected NUMBER/WINDOW, such as 50/min"),
        (
            "delete_budget: 50/day",
            "3:20 delete_budget found \"50/day\" (window: \"day\"), expected NUMBER/WINDOW, with a window of s, min, h, or from 1s to 24h",
        ),
        (
            "delete_budget: -1/s",
            "3:20 delete_budget found \"-1/s\" (no whole number before the `/`), expected NUMBER/WINDOW, such as 50/min or 10/30s",
        ),
        (
            "delete_budget: 4294967296/s",
            "3:20 delete_budget found \"4294967296/s\" (more than 4294967295), expected NUMBER/WINDOW, such as 50/min or 10/30s",
        ),
        (
            "delete_budget: 1/25h",
            "3:20 delete_budget found \"1/25h\" (window: \"25h\" (longer than 24h)), expected NUMBER/WINDOW, with a window of s, min, h, or from 1s to 24h",
        ),
        (
            "via: proxy:3128",
            "3:10 via found \"proxy:3128\", expected ADDRESS:PORT, such as 127.0.0.1:3128 or [::1]:3128",
        ),
        (
            "via: 127.0.0.1:0",
            "3:10 via found \"127.0.0.1:0\" (port 0), expected ADDRESS:PORT, such as 127.0.0.1:3128 or [::1]:3128",
        ),
        ("require_2fa: 'true'", "3:18 require_2fa found \"true\", expected true, false, or a list of actions"),
        (
            "require_2fa: exec",
            "3:18 require_2fa found the text \"exec\", expected a list of exec | delete | connect | write, or true or false",
        ),
        ("require_2fa: [exec, read]", "3:25 require_2fa[1] found \"read\", expected exec | delete | connect | write"),
        ("approval: {timeout: 5}", "3:25 approval.timeout found the number 5, expected a duration"),
        (
            "approval: {timeout: '5'}",
            "3:25 approval.timeout found \"5\" (no unit), expected a duration such as 30s, 5m or 1h",
        ),
        (
            "approval: {grant: 99999999999999999999h}",
            "3:23 approval.grant found \"99999999999999999999h\" (longer than 24h), expected once, session, or a duration such as 10m",
        ),
        (
            "approval: {grant: 0s}",
            "3:23 approval.grant found \"0s\" (shorter than 1s), expected once, session, or a duration such as 10m",
        ),
        ("reason: ''", "3:13 reason found \"\", expected one line of 1 to 512 bytes"),
        ("reason: \"a\\nb\"", "3:13 reason found \"a\\nb\" (it has '\\n'), expected one line of 1 to 512 bytes"),
        ("reason: [a]", "3:5 reason found a list, expected a text"),
        ("match: /a", "3:12 match found the text \"/a\", expected a mapping: `match`"),
        (
            "match: {cgroup: a}",
            "3:21 match.cgroup found \"a\" (it does not start with `/`), expected a cgroup v2 path below the cgroup mount, such as /agents.slice/a.scope",
        ),
        (
            "match: {cgroup: /}",
            "3:21 match.cgroup found \"/\" (the root holds every process of the host), expected a cgroup v2 path below the cgroup mount, such as /agents.slice/a.scope",
        ),
        ("match: {cgroup: /a/..}", "3:21 match.cgroup found \"/a/..\", expected a path without `..`"),
        (
            "match: {cgroup: /sys/fs/cgroup/a}",
            "3:21 match.cgroup found \"/sys/fs/cgroup/a\", expected a cgroup v2 path below the cgroup mount, such as /agents.slice/a.scope",
        ),
        ("match: {unit: a}", "3:19 match.unit found \"a\", expected a systemd unit, such as openclaw@*.service"),
        (
            "match: {unit: '**'}",
            "3:19 match.unit found \"**\" (it means every unit of the host), expected a systemd unit, such as openclaw@*.service",
        ),
        (
            "match: {unit: 'a[bc].service'}",
            "3:19 match.unit found \"a[bc].service\" (it has '['), expected a systemd unit, such as openclaw@*.service",
        ),
        (
            "match: {container: 'image=a*'}",
            "3:24 match.container found \"image=a*\" (it has '*', and there are no wildcards), expected a container's name, id prefix, image=… or label=KEY=VALUE",
        ),
        (
            "match: {container: label=a}",
            "3:24 match.container found \"label=a\", expected a container's name, id prefix, image=… or label=KEY=VALUE",
        ),
        (
            "match: {entrypoint: /bin/sh}",
            "3:25 match.entrypoint found \"/bin/sh\" (no `sha256:`), expected 64 hex digits after `sha256:`",
        ),
    ] {
        assert_eq!(skill_faults(body), [fault], "{body:?}");
    }
}

#[test]
fn binaries() {
    let hex = &DIGEST["sha256:".len()..];
    for (entry, fault) in [
        (format!("\"sha256:{}\"", &hex[1..]), format!("3:22 allow_binaries[0] found \"sha256:{}\" (63 hex digits), expected 64 hex digits after `sha256:`", &hex[1..])),
        (format!("sha256:{hex}0"), format!("3:22 allow_binaries[0] found \"sha256:{hex}0\" (65 hex digits), expected 64 hex digits after `sha256:`")),
        (format!("sha256:g{}", &hex[1..]), format!("3:22 allow_binaries[0] found \"sha256:g{}\" ('g' is no hex digit), expected 64 hex digits after `sha256:`", &hex[1..])),
        (format!("'{hex}'"), format!("3:22 allow_binaries[0] found \"{hex}\" (without `sha256:`), expected 64 hex digits after `sha256:`")),
        (format!("SHA256:{hex}"), format!("3:22 allow_binaries[0] found \"SHA256:{hex}\" (no `sha256:`), expected 64 hex digits after `sha256:`")),
        ("git".to_owned(), "3:22 allow_binaries[0] found \"git\", expected `sha256:` and 64 hex digits, or an absolute path".to_owned()),
        ("17".to_owned(), "3:22 allow_binaries[0] found the number 17, expected a digest, a path, or a mapping with `path` or `sha256`".to_owned()),
        ("[a]".to_owned(), "3:23 allow_binaries[0] found a list, expected a digest, a path, or a mapping with `path` or `sha256`".to_owned()),
        ("{parents: [/a]}".to_owned(), "3:23 allow_binaries[0] found neither `path` nor `sha256`, expected what may be executed".to_owned()),
        ("{path: /a, sha256: []}".to_owned(), "3:33 allow_binaries[0].sha256 found an empty list, expected a list of digests".to_owned()),
        ("{path: /a, parents: []}".to_owned(), "3:33 allow_binaries[0].parents found an empty list, expected a list of digests or paths".to_owned()),
        ("{path: /a, parents: /b}".to_owned(), "3:42 allow_binaries[0].parents found the text \"/b\", expected a list of digests or paths".to_owned()),
        ("{path: /a, parent: [/b]}".to_owned(), "3:33 allow_binaries[0].parent found the unknown key \"parent\", expected a key of an entry of `allow_binaries`".to_owned()),
        ("{path: a}".to_owned(), "3:29 allow_binaries[0].path found \"a\", expected an absolute path, or one that starts with `~/`".to_owned()),
    ] {
        assert_eq!(skill_faults(&format!("allow_binaries: [{entry}]")), [fault], "{entry}");
    }
}

#[test]
fn hints() {
    for (body, hint) in [
        ("allow_write: /srv", "write a list: [\"/srv\"]"),
        ("allow_write: [~]", "a lone ~ is YAML for nothing; write \"~/\""),
        ("allow_write:", "write [] for an empty list"),
        ("allow_binary: []", "did you mean `allow_binaries`?"),
        ("cgroup: /a", "`cgroup` is a key of `match`"),
        ("audit_level: strict", "`audit_level` is a key of the manifest"),
        ("match: {group: /a}", "did you mean `cgroup`?"),
        ("match: {zzz: /a}", "the keys are cgroup, unit, container, entrypoint"),
        ("<<: {}", "merge keys are not supported; an alias can stand for a whole value"),
        ("mode: Audit", "did you mean `audit`?"),
        ("match: {unit: 'a[bc].service'}", "the wildcards are `*` and `?`"),
        ("match: {unit: '*'}", "name the units that the skill governs"),
        ("match: {container: 'web*'}", "image=IMAGE, or a label that several containers bear, means several"),
        ("network_scope: [/run/agent.sock]", "write \"unix:/run/agent.sock\" for a unix socket"),
        ("listen: ['unix:/run/agent.sock']", "leave it out: a unix socket is made where allow_write allows a file"),
        ("listen: ['localhost:8080']", "write 127.0.0.1, and [::1] for IPv6"),
        (
            "listen: ['*:8080/tcp']",
            "write \"127.0.0.1:8080\", or \"0.0.0.0:8080\" and \"[::]:8080\" for all addresses at once",
        ),
        (
            "listen: [':8080']",
            "write \"127.0.0.1:8080\", or \"0.0.0.0:8080\" and \"[::]:8080\" for all addresses at once",
        ),
        ("allow_jit: yes", "write true"),
        ("delete_budget: 50", "a text that looks like a number needs quotes: \"50\""),
        ("approval: {timeout: '90'}", "write 90s for seconds"),
        ("match: {cgroup: /sys/fs/cgroup/a.slice}", "leave out the mount: \"/a.slice\""),
    ] {
        let errors = parsed(&skill(body)).map(|_| ()).expect_err(body);
        let found: Vec<_> = errors.iter().map(|error| error.hint.as_deref()).collect();
        assert_eq!(found, [Some(hint)], "{body}");
    }
}

#[test]
fn errors_come_in_the_order_of_the_file_and_are_counted() {
    let body = "reason: ''\nmode: x\nallow_write: [a, b, /c, d]\nzzz: 1";
    let places: Vec<_> = skill_faults(body).iter().map(|fault| fault.split(' ').next().map(str::to_owned)).collect();
    let expected = ["3:13", "4:11", "5:19", "5:22", "5:29", "6:5"].map(|place| Some(place.to_owned()));
    assert_eq!(places, expected);
    let many = skill(&format!("allow_write: [{}]", "a,".repeat(250)));
    let errors = parsed(&many).expect_err("refused");
    assert_eq!((errors.iter().count(), errors.more()), (ManifestErrors::MAX, 150));
    assert!(errors.to_string().ends_with("\nand 150 more"));
}
