//! Files that are no manifest, and texts that are made to cost time or memory.

#![expect(clippy::format_push_string, clippy::format_collect, reason = "texts are built once, and read best this way")]

use std::io::Write as _;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::*;

/// Far beyond what is measured in a debug build, far below what an unbounded parse takes.
const BOUND: Duration = Duration::from_secs(30);

/// What this thread has worked so far: what else the machine does is not the parser's fault.
fn worked() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a clock that runs")
}

fn refused(text: &str) -> ManifestError {
    let start = worked();
    let errors = parsed(text).map(|_| ()).expect_err("refused");
    let took = worked().saturating_sub(start);
    assert!(took < BOUND, "{took:?}");
    let message = errors.to_string();
    let first = errors.iter().next().expect("an error").clone();
    assert!(first.to_string().len() < 1000, "{}", first.to_string().len());
    assert!(message.len() < 100_000);
    first
}

#[test]
fn alias_bombs() {
    // Each level holds the one before ten times.
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..12 {
        let entries = vec![format!("*a{}", n - 1); 10].join(",");
        bomb += &format!("a{n}: &a{n} [{entries}]\n");
    }
    assert_eq!(refused(&bomb).kind, ErrorKind::TooLarge);

    // In a typed list, entries that are strings: one long text many times, and many short ones.
    let long =
        format!("skills:\n  a:\n    allow_write:\n      - &p /{}\n{}", "x".repeat(4000), "      - *p\n".repeat(20_000));
    assert_eq!(refused(&long).kind, ErrorKind::TooLarge);
    let list =
        format!("x: &l [{}]\nskills: {{a: {{network_scope: [{}]}}}}\n", "a,".repeat(50_000), "*l,".repeat(50_000));
    assert_eq!(refused(&list).kind, ErrorKind::TooLarge);

    let recursive = "skills: &s {a: *s}\n";
    assert_eq!(refused(recursive).kind, ErrorKind::TooLarge);
    assert_eq!(refused("skills: &s [*s, *s, *s]\n").kind, ErrorKind::TooLarge);
}

#[test]
fn deep_nesting() {
    for text in [
        "[".repeat(200),
        "[".repeat(1 << 20),
        "{a: ".repeat(1 << 18),
        "- ".repeat(500_000),
        "? ".repeat(500_000),
        format!("{}x{}", "[".repeat(130), "]".repeat(130)),
        "[\"]\",".repeat(200_000),
        (0..3000).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
    ] {
        let kind = refused(&text).kind;
        assert!(matches!(kind, ErrorKind::TooLarge | ErrorKind::Syntax), "{kind:?}");
    }
    assert_eq!(refused(&format!("{}---\nx", "%TAG !a! b:\n".repeat(100_000))).kind, ErrorKind::TooLarge);
}

#[test]
fn long_values_are_refused_and_not_repeated() {
    let long = "x".repeat(10_000_000);
    for text in [
        skill(&format!("reason: \"{long}\"")),
        skill(&format!("allow_binaries: [\"sha256:{long}\"]")),
        skill(&format!("network_scope: [{long}]")),
        skill(&format!("approval: {{timeout: \"{}\"}}", "9".repeat(10_000_000))),
        skill(&format!("delete_budget: {}/s", "9".repeat(10_000_000))),
        skill(&format!("{long}: 1")),
        format!("skills: {{{long}: {{}}}}"),
        format!("version: {}\nskills: {{a: {{}}}}", "9".repeat(10_000_000)),
        long.clone(),
    ] {
        refused(&text);
    }
    refused(&skill(&format!("reason: \"{}\"", "x".repeat(513))));
    assert!(parsed(&skill(&format!("reason: \"{}\"", "x".repeat(512)))).is_ok());
}

#[test]
fn control_characters_are_escaped() {
    let error = refused(&skill("reason: \"\\e[31m\\u202e\""));
    assert!(!error.to_string().contains(['\u{1b}', '\u{202e}']), "{error}");
    let error = refused(&skill("\"\\e[31m\": 1"));
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
}

#[test]
fn a_hundred_thousand_rules() {
    let mut text = String::from("skills:\n  a:\n    network_scope:\n");
    for n in 0..50_000_u32 {
        text += &format!("      - {}.{}.{}.0/24:443/tcp\n", 1 + n / 65536, n / 256 % 256, n % 256);
    }
    text += "    allow_binaries:\n";
    for n in 0..50_000 {
        text += &format!("      - \"sha256:{n:064x}\"\n");
    }
    let start = worked();
    let valid = validated(&text).expect("valid");
    let elapsed = worked().saturating_sub(start);
    let skill = &valid.manifest().skills["a"];
    assert_eq!(skill.network_scope.as_ref().map(|list| list.entries().len()), Some(50_000));
    let last = KeyPath::skill("a").key("allow_binaries").index(49_999);
    assert_eq!(valid.position(&last), Some(Position { line: 100_004, column: 9 }));
    let bound = if cfg!(debug_assertions) { BOUND } else { Duration::from_secs(1) };
    assert!(elapsed < bound, "{elapsed:?}");
}

#[test]
fn files_that_are_no_manifest() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("a FIFO");
    let large = dir.path().join("large");
    let file = std::fs::File::create(&large).expect("created");
    file.set_len(100 << 20).expect("sparse");
    for (path, fault) in [
        (dir.path().join("missing"), "-  cannot open: No such file or directory (os error 2)"),
        (dir.path().to_owned(), "-  found a directory, expected a regular file"),
        (fifo, "-  found a FIFO, expected a regular file"),
        ("/dev/zero".into(), "-  found a character device, expected a regular file"),
        (large, "-  found 104857600 bytes, expected a manifest of at most 16777216 bytes"),
        (write("empty", b""), "1:1  found nothing (the manifest is empty), expected a manifest"),
        (
            write("latin1", b"skills:\n  \xc3\xbc: {}\n  caf\xe9: {}\n"),
            "3:6  found the byte 0xe9 at offset 22, expected UTF-8 text",
        ),
        (write("utf16", &[0xff, 0xfe, b's', 0]), "1:1  found the byte 0xff at offset 0, expected UTF-8 text"),
        (write("nul", b"skills:\n  a\0: {}\n"), "2:4  found the control character '\\0' at offset 11, expected text"),
    ] {
        let errors = load(&path).map(|_| ()).expect_err("refused");
        assert_eq!(faults(&errors), [fault], "{}", path.display());
        assert!(errors.to_string().starts_with(&path.display().to_string()));
    }
    // Says that it is empty, and is not.
    let errors = load("/proc/self/maps".as_ref()).map(|_| ()).expect_err("no manifest");
    assert!(errors.iter().next().is_some());
}

#[test]
fn a_file_that_grows_is_bounded() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let chunk = vec![b'#'; 1 << 20];
    for _ in 0..16 {
        file.write_all(&chunk).expect("written");
    }
    assert!(Source::read(file.path()).is_ok());
    file.write_all(b"#").expect("written");
    let errors = Source::read(file.path()).map(|_| ()).expect_err("too large");
    assert_eq!(errors.iter().next().map(|error| error.kind), Some(ErrorKind::TooLarge));
    let bytes = vec![b'#'; (16 << 20) + 1];
    assert!(Source::from_bytes("m", bytes).is_err());
}
