//! The journal, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): every key of a record is a field,
//! `ENFORCER_VERDICT=deny` or `ENFORCER_OBJECT_PATH=/srv/x`.

use std::{io, os::unix::net::UnixDatagram, path::PathBuf, time::Duration};

use serde_json::Value;

use super::{Sink, syslog::severity};
use crate::events::{Record, text::Format};

/// How long the journal may take for one entry.
const SEND_TIME: Duration = Duration::from_secs(2);

/// The socket, which is addressed anew with each entry: a restarted journal listens at the same path.
pub(super) struct Journal {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Journal {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIME))?;
        Ok(Self { path, socket })
    }
}

/// A record as an entry. It is well below the size at which a datagram would have to become a file.
fn entry(record: &Record) -> io::Result<Vec<u8>> {
    let mut out = vec![];
    field(&mut out, "MESSAGE", &Format::Plain.line(record));
    field(&mut out, "PRIORITY", &severity(record).to_string());
    field(&mut out, "SYSLOG_IDENTIFIER", "enforcer");
    fields(&mut out, "ENFORCER", &serde_json::to_value(record)?);
    Ok(out)
}

/// The fields of a JSON value, objects within it by longer names.
fn fields(out: &mut Vec<u8>, name: &str, value: &Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                fields(out, &format!("{name}_{}", key.to_uppercase()), value);
            }
        }
        Value::String(text) => field(out, name, text),
        other => field(out, name, &other.to_string()),
    }
}

/// A field with its length in front, so that whatever an agent put into a name stays within it.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

impl Sink for Journal {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.socket.send_to(&entry(record)?, &self.path).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::record::Object;

    #[test]
    fn every_key_is_a_field_and_no_value_makes_another() {
        let record = Record {
            kind: "delete".into(),
            verdict: Some("deny".into()),
            comm: Some("x\nPRIORITY=0".into()),
            object: Object { path: Some("/srv/x".into()), ..Object::default() },
            ..Record::default()
        };
        let entry = entry(&record).expect("a record has a JSON form");
        let (mut rest, mut found) = (&entry[..], vec![]);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let name = String::from_utf8(rest[..end].to_vec()).expect("ASCII");
            let len = u64::from_le_bytes(rest[end + 1..end + 9].try_into().expect("eight bytes"));
            let value = &rest[end + 9..end + 9 + usize::try_from(len).expect("short")];
            found.push((name, String::from_utf8(value.to_vec()).expect("UTF-8")));
            rest = &rest[end + 9 + value.len() + 1..];
        }
        let of = |name: &str| found.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
        assert_eq!(of("PRIORITY"), ["4"]);
        assert_eq!(of("ENFORCER_VERDICT"), ["deny"]);
        assert_eq!(of("ENFORCER_OBJECT_PATH"), ["/srv/x"]);
        assert_eq!(of("ENFORCER_COMM"), ["x\nPRIORITY=0"]);
    }
}
