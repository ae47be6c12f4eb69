//! Text → [`Manifest`]: the schema, key by key.

use std::collections::BTreeMap;

use super::digest::Digest;
use super::error::{ErrorKind, InvalidValue, KeyPath, ManifestError, ManifestErrors, Position, quoted};
use super::limits::{Approval, Grant, parse_duration};
use super::matching::Match;
use super::model::{Action, AuditLevel, Binary, BinaryEntry, Manifest, Mode, Skill, SkillName, TwoFactor};
use super::reader::{Cursor, Fields, Keys, Reader};
use super::source::Source;
use super::spans::Spans;
use super::yaml::{self, Fault, Node, Value};

const MANIFEST: Keys = Keys { of: "the manifest", known: &["version", "mode", "audit_level", "skills"] };
const SKILL: Keys = Keys {
    of: "a skill",
    known: &[
        "mode",
        "match",
        "allow_binaries",
        "allow_libraries",
        "allow_jit",
        "allow_write",
        "allow_delete",
        "protect",
        "delete_budget",
        "network_scope",
        "listen",
        "via",
        "require_2fa",
        "approval",
        "reason",
    ],
};
const MATCH: Keys = Keys { of: "`match`", known: &["cgroup", "unit", "container", "entrypoint"] };
const BINARY: Keys = Keys { of: "an entry of `allow_binaries`", known: &["path", "sha256", "parents"] };
const APPROVAL: Keys = Keys { of: "`approval`", known: &["timeout", "grant"] };

/// Every mapping of the schema.
pub(crate) const SCHEMA: &[Keys] = &[MANIFEST, SKILL, MATCH, BINARY, APPROVAL];

const DIGEST: &str = "`sha256:` and 64 hex digits";
const DIGEST_OR_PATH: &str = "a digest or a path";

/// Reads a manifest.
///
/// Pure, and bounded in time and memory by the size of the text.
///
/// # Errors
///
/// Everything that is found wrong, in the order of the text. A syntax error hides what stands behind it.
pub fn parse(source: &Source) -> Result<Manifest, ManifestErrors> {
    let root = yaml::parse(source.text()).map_err(|fault| fault_error(source, fault))?;
    let mut reader =
        Reader { file: source.file().to_owned(), errors: Vec::new(), spans: Spans::default(), schema: SCHEMA };
    let parts = manifest(&mut reader, &root);
    if let Some(errors) = ManifestErrors::collect(reader.errors) {
        return Err(errors);
    }
    let (version, mode, audit_level, skills) = parts;
    Ok(Manifest { version, mode, audit_level, skills, file: reader.file, spans: reader.spans })
}

fn fault_error(source: &Source, fault: Fault) -> ManifestError {
    let error = |at: Option<Position>, found: String, expected: &str, hint: &str| ManifestError {
        kind: ErrorKind::Syntax,
        file: source.file().to_owned(),
        position: at,
        path: KeyPath::root(),
        found,
        expected: expected.to_owned(),
        hint: Some(hint.to_owned()),
        message: None,
    };
    match fault {
        Fault::Empty => error(
            Some(Position::START),
            "nothing (the manifest is empty)".to_owned(),
            "a manifest",
            "a manifest has at least `skills:` with one skill",
        ),
        Fault::TooLarge { at, limit } => ManifestError {
            kind: ErrorKind::TooLarge,
            ..error(
                at,
                format!("more than {limit}"),
                "a manifest within the limits",
                "what an alias stands for counts each time",
            )
        },
        Fault::Tag { at } => {
            error(at, "a YAML tag".to_owned(), "a plain value", "remove the `!…`, or put the value in quotes")
        }
        Fault::SecondDocument { at } => error(
            at,
            "a second YAML document".to_owned(),
            "one YAML document",
            "remove the `---`, or put each manifest in a file of its own",
        ),
        Fault::Syntax { at, message } => {
            let tab = at.is_some_and(|at| is_indented_with_a_tab(source.text(), at));
            ManifestError {
                hint: tab.then(|| "YAML is indented with spaces, not with tabs".to_owned()),
                message: Some(format!("not YAML: {message}")),
                ..error(at, message, "one YAML document", "")
            }
        }
    }
}

fn is_indented_with_a_tab(text: &str, at: Position) -> bool {
    let line = usize::try_from(at.line).ok().and_then(|n| text.lines().nth(n.checked_sub(1)?));
    line.is_some_and(|line| {
        line.len() > line.trim_start().len() && line[..line.len() - line.trim_start().len()].contains('\t')
    })
}

type Parts = (u32, Mode, AuditLevel, BTreeMap<SkillName, Skill>);

/// The parts of the manifest; what is wrong with them has been noted, and stands at its default.
fn manifest(r: &mut Reader, root: &Node) -> Parts {
    let key_at = root.at.unwrap_or(Position::START);
    let cursor = Cursor { node: root, path: KeyPath::root(), key_at };
    let Some(mut f) = r.fields(&cursor, MANIFEST) else {
        return Parts::default();
    };
    let version = f.take("version").and_then(|c| version(r, &c)).unwrap_or(1);
    let mode = f.take("mode").and_then(|c| r.word(&c, Mode::WORDS)).unwrap_or_default();
    let level = f.take("audit_level").and_then(|c| r.word(&c, AuditLevel::WORDS)).unwrap_or_default();
    let skills = if let Some(cursor) = f.take("skills") {
        skills(r, &cursor).unwrap_or_default()
    } else {
        let hint = "write `skills:` and below it the name of a skill".to_owned();
        let (found, expected) = ("no key `skills`", "at least one skill");
        r.error(ErrorKind::Value, key_at, &KeyPath::root(), found, expected, Some(hint));
        BTreeMap::new()
    };
    (version, mode, level, skills)
}

fn version(r: &mut Reader, cursor: &Cursor<'_>) -> Option<u32> {
    match &cursor.node.value {
        Value::Number(text) if text == "1" => Some(1),
        value => {
            let found = match value {
                Value::Number(text) | Value::Text(text) => quoted(text),
                _ => "something else".to_owned(),
            };
            let at = cursor.node.at.unwrap_or(cursor.key_at);
            let hint = Some("this build reads version 1 of the schema; write `version: 1` or leave it out".to_owned());
            r.error(ErrorKind::Value, at, &cursor.path, found, "the number 1", hint);
            None
        }
    }
}

fn skills(r: &mut Reader, cursor: &Cursor<'_>) -> Option<BTreeMap<SkillName, Skill>> {
    let entries = r.entries(cursor, "skills by their names")?;
    if entries.is_empty() {
        r.error(ErrorKind::Value, cursor.key_at, &cursor.path, "no skill", "at least one skill", None);
        return None;
    }
    let mut skills = BTreeMap::new();
    for (key, cursor) in entries {
        let name = key.name.parse::<SkillName>();
        let value = skill(r, &cursor);
        match name {
            Ok(name) => {
                skills.insert(name, value.unwrap_or_default());
            }
            Err(wrong) => r.error(ErrorKind::Value, key.at, &cursor.path, wrong.found, wrong.expected, wrong.hint),
        }
    }
    Some(skills)
}

/// The skill; what is wrong with it has been noted, and stands at its default.
fn skill(r: &mut Reader, cursor: &Cursor<'_>) -> Option<Skill> {
    let f = &mut r.fields(cursor, SKILL)?;
    Some(Skill {
        mode: f.take("mode").and_then(|c| r.word(&c, Mode::WORDS)),
        matching: f.take("match").and_then(|c| matching(r, &c)).unwrap_or_default(),
        allow_binaries: f.take("allow_binaries").and_then(|c| r.listed(&c, "digests, paths or mappings", binary)),
        allow_libraries: f
            .take("allow_libraries")
            .and_then(|c| r.listed(&c, "directories, files or digests", |r, c| r.parse(c, DIGEST_OR_PATH))),
        allow_jit: f.take("allow_jit").and_then(|c| r.flag(&c)).unwrap_or_default(),
        allow_write: f.take("allow_write").and_then(|c| r.listed(&c, "paths", |r, c| r.parse(c, "a path"))),
        allow_delete: f.take("allow_delete").and_then(|c| r.listed(&c, "paths", |r, c| r.parse(c, "a path"))),
        protect: f.take("protect").and_then(|c| protect(r, &c)).unwrap_or_default(),
        delete_budget: f.take("delete_budget").and_then(|c| r.parse(&c, "NUMBER/WINDOW, such as 50/min")),
        network_scope: f
            .take("network_scope")
            .and_then(|c| r.listed(&c, "destinations", |r, c| r.parse(c, "an address, a prefix, a name or unix:PATH"))),
        listen: f.take("listen").and_then(|c| r.listed(&c, "addresses", |r, c| r.parse(c, "a local address"))),
        via: f.take("via").and_then(|c| r.parse_with(&c, "ADDRESS:PORT", gateway)),
        require_2fa: f.take("require_2fa").and_then(|c| two_factor(r, &c)).unwrap_or_default(),
        approval: f.take("approval").and_then(|c| approval(r, &c)).unwrap_or_default(),
        reason: f.take("reason").and_then(|c| r.parse_with(&c, "a text", reason)),
    })
}

fn matching(r: &mut Reader, cursor: &Cursor<'_>) -> Option<Match> {
    let f = &mut r.fields(cursor, MATCH)?;
    Some(Match {
        cgroup: f.take("cgroup").and_then(|c| r.parse(&c, "a cgroup v2 path")),
        unit: f.take("unit").and_then(|c| r.parse(&c, "a systemd unit")),
        container: f.take("container").and_then(|c| r.parse(&c, "a container")),
        entrypoint: f.take("entrypoint").and_then(|c| r.parse(&c, DIGEST)),
    })
}

/// `"sha256:…"`, `"/path"`, or a mapping of `path`, `sha256` and `parents`.
fn binary(r: &mut Reader, cursor: &Cursor<'_>) -> Option<BinaryEntry> {
    if !matches!(cursor.node.value, Value::Map(_)) {
        return r.parse(cursor, "a digest, a path, or a mapping with `path` or `sha256`");
    }
    let f = &mut r.fields(cursor, BINARY)?;
    let errors = r.errors.len();
    let (path, sha256, parents) = (f.take("path"), f.take("sha256"), f.take("parents"));
    if path.is_none() && sha256.is_none() {
        let hint = Some("write one of the two, or both".to_owned());
        r.error(
            ErrorKind::Value,
            cursor.key_at,
            &cursor.path,
            "neither `path` nor `sha256`",
            "what may be executed",
            hint,
        );
    }
    let path = path.and_then(|c| r.parse(&c, "a path"));
    let sha256 = sha256.and_then(|c| digests(r, &c)).unwrap_or_default();
    let parents = parents
        .and_then(|c| r.some(&c, "digests or paths", "leave `parents` out to allow every parent"))
        .unwrap_or_default();
    let binary = match path {
        Some(path) => Binary::Path { path, sha256 },
        None => Binary::Content(sha256),
    };
    (r.errors.len() == errors).then_some(BinaryEntry { binary, parents })
}

/// One digest, or a list of them.
fn digests(r: &mut Reader, cursor: &Cursor<'_>) -> Option<Vec<Digest>> {
    match cursor.node.value {
        Value::List(_) => r.some(cursor, "digests", "leave `sha256` out to pin what lies at `path`"),
        _ => r.parse(cursor, DIGEST).map(|digest| vec![digest]),
    }
}

fn protect<T: std::str::FromStr<Err = InvalidValue>>(r: &mut Reader, cursor: &Cursor<'_>) -> Option<Vec<T>> {
    let entries = r.list(cursor, "paths")?;
    if let Some(star) = entries.iter().find(|entry| matches!(&entry.node.value, Value::Text(text) if text == "*")) {
        let wrong = InvalidValue::new("*", "a path").hint("protect: [/] protects everything");
        r.invalid(star, wrong);
        return None;
    }
    r.all(&entries, "a path")
}

fn gateway(text: &str) -> Result<std::net::SocketAddr, InvalidValue> {
    let error = || InvalidValue::new(text, "ADDRESS:PORT, such as 127.0.0.1:3128 or [::1]:3128");
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(error().because("port 0")),
        Ok(address) => Ok(address),
        Err(_) => Err(error()),
    }
}

/// `true`, `false`, or a list of actions.
fn two_factor(r: &mut Reader, cursor: &Cursor<'_>) -> Option<TwoFactor> {
    match &cursor.node.value {
        Value::Bool(true) => Some(TwoFactor::ALL),
        Value::Bool(false) => Some(TwoFactor::NONE),
        Value::Text(text) if matches!(&**text, "true" | "false") => {
            let wrong = InvalidValue::new(text, "true, false, or a list of actions");
            r.invalid(cursor, wrong.hint(format!("remove the quotes: {text}")));
            None
        }
        _ => {
            let entries = r.list(cursor, "exec | delete | connect | write, or true or false")?;
            let actions: Vec<_> = entries.iter().map(|entry| r.word(entry, Action::WORDS)).collect();
            actions.into_iter().collect()
        }
    }
}

fn approval(r: &mut Reader, cursor: &Cursor<'_>) -> Option<Approval> {
    let f: &mut Fields<'_> = &mut r.fields(cursor, APPROVAL)?;
    let default = Approval::default();
    let timeout = f.take("timeout").map_or(Some(default.timeout), |c| r.parse_with(&c, "a duration", parse_duration));
    let grant = f.take("grant").map_or(Some(default.grant), |c| r.parse::<Grant>(&c, "once, session or a duration"));
    Some(Approval { timeout: timeout?, grant: grant? })
}

/// One line; what `|` and `>` leave at the end is removed.
fn reason(text: &str) -> Result<String, InvalidValue> {
    let line = text.trim();
    let error = || InvalidValue::new(text, "one line of 1 to 512 bytes");
    if let Some(control) = line.chars().find(|c| c.is_control()) {
        let error = error().because(format!("it has {control:?}"));
        return Err(if control == '\n' { error.hint("`reason: >` folds several lines into one") } else { error });
    }
    match line.len() {
        0 => Err(error().hint("leave `reason` out if there is none")),
        1..=Skill::MAX_REASON_BYTES => Ok(line.to_owned()),
        bytes => Err(error().because(format!("{bytes} bytes"))),
    }
}
