//! Syslog by RFC 5424, as datagrams to the local daemon's socket: one message a record, the record as JSON in its text.

use std::{fmt::Write as _, io, os::unix::net::UnixDatagram, path::PathBuf, time::Duration};

use super::Sink;
use crate::events::{Record, text::Format};

/// How long the daemon may take for one message.
const SEND_TIME: Duration = Duration::from_secs(2);
/// `authpriv` of RFC 5424, 6.2.1: only for those who may see it.
const FACILITY: u8 = 10;

/// How much a record matters, by the numbers of RFC 5424, 6.2.1.
pub(super) fn severity(record: &Record) -> u8 {
    match (&*record.kind, record.verdict.as_deref()) {
        ("drop", _) => 3,
        (_, Some("deny" | "hold")) => 4,
        (_, Some("audit")) => 5,
        _ => 6,
    }
}

/// The connection; it is made again after an error, when the daemon may have been restarted.
pub(super) struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    host: String,
}

impl Syslog {
    pub(super) fn new(path: PathBuf) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { path, socket: None, host: if host.is_empty() { "-".into() } else { host } }
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIME))?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

/// `<PRI>1 TIME HOST APP PROCID MSGID [SD] MSG`.
fn message(record: &Record, host: &str) -> String {
    let priority = FACILITY * 8 + severity(record);
    // The RFC has at most six digits of a second.
    let time = match (record.time.split_once('.'), record.time.ends_with('Z')) {
        (Some((whole, part)), true) => format!("{whole}.{}Z", part.get(..6).unwrap_or("0")),
        _ => "-".to_owned(),
    };
    let process = std::process::id();
    let mut data = String::new();
    let fields = [
        ("id", Some(record.id.as_str())),
        ("verdict", record.verdict.as_deref()),
        ("skill", record.skill.as_deref()),
        ("path", record.object.path.as_deref()),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = write!(data, " {name}=\"{}\"", escaped(value));
        }
    }
    // The number is the one that RFC 5612 keeps for documentation: the project has none of its own.
    let kind = &record.kind;
    format!(
        "<{priority}>1 {time} {host} enforcer {process} {kind} [enforcer@32473{data}] {}",
        Format::Json.line(record)
    )
}

/// A value of structured data (RFC 5424, 6.3.3); control characters have no business in it.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' | '\\' | ']' => out.extend(['\\', c]),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

impl Sink for Syslog {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.connect()?,
        };
        let text = message(record, &self.host);
        // Once more with a new connection: a daemon that was restarted listens on another socket.
        let socket = match socket.send(text.as_bytes()) {
            Ok(_) => socket,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Err(e),
            Err(_) => {
                let again = self.connect()?;
                again.send(text.as_bytes())?;
                again
            }
        };
        self.socket = Some(socket);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_rfc_5424() {
        let record = Record {
            time: "2026-11-25T10:00:00.123456789Z".into(),
            id: "b-1-2".into(),
            kind: "delete".into(),
            verdict: Some("deny".into()),
            skill: Some("a\"]\\b\n".into()),
            ..Record::default()
        };
        let text = message(&record, "host");
        let process = std::process::id();
        let head =
            format!("<84>1 2026-11-25T10:00:00.123456Z host enforcer {process} delete [enforcer@32473 id=\"b-1-2\" ");
        assert!(text.starts_with(&head), "{text}");
        assert!(text.contains(r#"skill="a\"\]\\b?"] {"#), "{text}");
        assert!(text.ends_with('}') && !text.contains('\n'), "{text}");
    }

    #[test]
    fn losses_matter_most() {
        let of = |kind: &'static str, verdict: Option<&'static str>| {
            severity(&Record { kind: kind.into(), verdict: verdict.map(Into::into), ..Record::default() })
        };
        assert_eq!(
            [of("drop", None), of("exec", Some("deny")), of("exec", Some("audit")), of("start", None)],
            [3, 4, 5, 6]
        );
    }
}
