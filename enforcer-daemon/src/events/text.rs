//! A record for people: one line, coloured on a terminal.

use std::fmt::Write as _;

use super::Record;

const RED: &str = "\x1b[31;1m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people, without colour.
    Plain,
    /// For people, on a terminal.
    Coloured,
}

impl Format {
    /// What fits standard output: JSON unless it is a terminal; colours unless `NO_COLOR` is set.
    #[must_use]
    pub fn of_stdout() -> Self {
        Self::of(rustix::termios::isatty(std::io::stdout()))
    }

    /// What fits a stream; `CLICOLOR_FORCE` makes anything a coloured terminal.
    #[must_use]
    pub fn of(terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
        match (terminal || set("CLICOLOR_FORCE"), set("NO_COLOR")) {
            (false, _) => Self::Json,
            (true, true) => Self::Plain,
            (true, false) => Self::Coloured,
        }
    }

    /// The line for a record, without the newline.
    #[must_use]
    pub fn line(self, record: &Record) -> String {
        match self {
            // A record is strings and numbers: it always has a JSON form.
            Self::Json => serde_json::to_string(record).unwrap_or_default(),
            Self::Plain => strip(&people(record)),
            Self::Coloured => people(record),
        }
    }
}

/// What an event was about, in a few words: a path, or an address with its port.
#[must_use]
pub fn subject(record: &Record) -> String {
    let object = &record.object;
    match (&object.path, &object.address) {
        (Some(path), _) => printable(path),
        (None, Some(address)) if object.port.is_none() => printable(address),
        (None, Some(address)) => {
            let port = object.port.unwrap_or_default();
            let protocol = object.protocol.as_deref().unwrap_or_default();
            let name = object.name.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
            if address.contains(':') {
                format!("[{address}]:{port}/{protocol}{name}")
            } else {
                format!("{address}:{port}/{protocol}{name}")
            }
        }
        (None, None) => match (&object.family, &object.protocol) {
            (Some(family), Some(protocol)) => format!("family {family} protocol {protocol}"),
            _ => String::new(),
        },
    }
}

fn people(record: &Record) -> String {
    let time = record.time.get(11..23).unwrap_or(&record.time);
    let (colour, verdict) = match record.verdict.as_deref() {
        Some("deny") => (RED, "DENY "),
        Some("audit") => (YELLOW, "AUDIT"),
        Some("hold") => (YELLOW, "HOLD "),
        Some("allow") => (GREEN, "allow"),
        _ => (DIM, "     "),
    };
    let mut line = format!("{DIM}{time}{RESET} {colour}{verdict}{RESET} {:<7} {}", record.kind, subject(record));
    let _ = write!(line, "  {DIM}{}", record.reason);
    if let Some(rule) = &record.rule {
        let _ = write!(line, " ({})", printable(rule));
    }
    if let Some(skill) = &record.skill {
        let _ = write!(line, "  skill={skill} pid={}", record.pid);
    }
    if let Some(comm) = &record.comm {
        let _ = write!(line, " comm={}", printable(comm));
    }
    if let Some(advice) = &record.advice {
        let _ = write!(line, "  “{}”", printable(advice));
    }
    if let Some(hint) = &record.hint {
        let _ = write!(line, "  ({hint})");
    }
    line.push_str(RESET);
    line
}

/// Names come from the agent: nothing of them may reach the terminal as a control sequence, break the line, or turn its order round.
#[must_use]
pub fn printable(text: &str) -> String {
    // Line and paragraph separators, and what sets the direction of text (UAX #9, 2).
    let misleads =
        |c| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}');
    text.chars()
        .flat_map(|c| if c.is_control() || misleads(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

fn strip(line: &str) -> String {
    [RED, GREEN, YELLOW, DIM, RESET].iter().fold(line.to_owned(), |text, code| text.replace(code, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::record::Object;

    fn denied(path: &str) -> Record {
        Record {
            time: "2026-11-22T05:00:00.123456789Z".into(),
            kind: "delete".into(),
            verdict: Some("deny".into()),
            reason: "no allow_delete rule covers it".into(),
            object: Object { path: Some(path.into()), ..Object::default() },
            ..Record::default()
        }
    }

    #[test]
    fn a_line_for_people_has_no_control_sequence_of_the_agents() {
        let line = Format::Plain.line(&denied("/tmp/\x1b[2Jx\n"));
        assert!(!line.contains('\x1b') && !line.contains('\n'), "{line:?}");
        assert!(line.contains("DENY  delete  /tmp/"), "{line}");
        assert!(line.starts_with("05:00:00.123"), "{line}");
    }

    #[test]
    fn json_round_trips() {
        let record = denied("/tmp/x");
        let line = Format::Json.line(&record);
        assert_eq!(serde_json::from_str::<Record>(&line).expect("JSON"), record);
        assert!(!line.contains("null"), "absent keys are left out: {line}");
    }
}
