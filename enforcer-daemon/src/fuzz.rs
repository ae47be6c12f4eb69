//! What bytes from outside go through, and what must hold of it whatever they are: called by the fuzzers of `fuzz/`, and by a test with
//! the corpus that they left.
//!
//! A target panics when it finds something.

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use enforcer_common::event::Event;

use crate::{
    control::{Answer, MAX_LINE, Request},
    engine::Directory,
    events::{
        Record, decode,
        enrich::Enricher,
        text::{Format, printable},
    },
    manifest::{self, Source as Text},
    names::fuzz as names,
};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// Every target, by its name.
pub const TARGETS: &[(&str, Target)] =
    &[("manifest", manifest), ("event", event), ("control", control), ("dns", dns), ("resolver_files", resolver_files)];

/// How long one input may take: generous, because sanitizers are slow and machines are shared.
const LONGEST: Duration = Duration::from_secs(20);

/// A manifest is read and validated, or refused with words that can be shown.
///
/// # Panics
/// When that does not hold.
pub fn manifest(bytes: &[u8]) {
    let start = Instant::now();
    let read = || {
        let source = Text::from_bytes("fuzzed.yaml", bytes.to_vec())?;
        manifest::parse(&source)?.validate()
    };
    match (read(), read()) {
        (Ok(one), Ok(other)) => {
            assert!(*one == *other, "two readings differ");
        }
        (Err(one), Err(other)) => {
            assert_eq!(one.to_string(), other.to_string(), "two readings differ");
            assert!(!one.to_string().is_empty(), "an error without words");
        }
        (one, other) => panic!("two readings differ: {} and {}", one.is_ok(), other.is_ok()),
    }
    assert!(start.elapsed() < LONGEST, "it took {:?}", start.elapsed());
}

/// An event of any bytes becomes one line that a terminal takes for text, and one of JSON.
///
/// # Panics
/// When that does not hold.
pub fn event(bytes: &[u8]) {
    let mut whole = vec![0; size_of::<Event>()];
    let len = bytes.len().min(whole.len());
    whole[..len].copy_from_slice(&bytes[..len]);
    let event = decode::event(&whole).expect("as long as an event");
    assert!(bytes.len() == whole.len() || decode::event(bytes).is_none(), "another length was taken");
    let _ = (decode::cgroup_news(&event), decode::is_internal(&event));
    let record = Enricher::new(Arc::new(RwLock::new(Directory::default()))).record(&event);
    let line = Format::Plain.line(&record);
    assert_eq!(printable(&line), line, "a control character in {line:?}");
    let json = Format::Json.line(&record);
    assert!(!json.contains('\n'), "{json:?} is not one line");
    serde_json::from_str::<Record>(&json).expect("a record's own JSON");
}

/// A request is understood as it is written, or not at all.
///
/// # Panics
/// When that does not hold.
pub fn control(bytes: &[u8]) {
    let limit = usize::try_from(MAX_LINE).unwrap_or(usize::MAX);
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| line.len() <= limit) {
        if let Ok(request) = serde_json::from_slice::<Request>(line) {
            let text = serde_json::to_string(&request).expect("a request's own JSON");
            assert!(!text.contains('\n'), "{text:?} is not one line");
            assert_eq!(serde_json::from_str::<Request>(&text).expect("its own JSON"), request);
        }
        let _ = serde_json::from_slice::<Answer>(line);
    }
}

/// An answer of a name server opens no more than it says of the name, and no more than fits.
///
/// # Panics
/// When that does not hold.
pub fn dns(bytes: &[u8]) {
    names::answer(bytes);
}

/// A container's `resolv.conf` and `hosts`, which are its engine's: the text before and after the first NUL.
///
/// # Panics
/// When that does not hold.
pub fn resolver_files(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0).map(String::from_utf8_lossy);
    let (resolv_conf, hosts) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    names::files(&resolv_conf, &hosts);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_corpus_is_taken() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let mut count = 0;
            for entry in fs::read_dir(corpus.join(name)).expect(name) {
                let path = entry.expect("an entry").path();
                let bytes = fs::read(&path).expect("a file");
                assert!(std::panic::catch_unwind(|| target(&bytes)).is_ok(), "{}", path.display());
                count += 1;
            }
            assert!(count > 5, "{name} has {count}");
        }
    }
}
