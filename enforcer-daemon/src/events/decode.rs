//! Bytes of the ring buffer → [`Event`].

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf};

use enforcer_common::event::{Event, Kind, RawPath, Verdict};

use crate::engine::CgroupNews;

/// Reads an event. `None` when the record is not one of this build's.
#[must_use]
pub fn event(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: the slice is as long; `Event` is plain integers without padding, for which every bit pattern is valid;
    // the read does not ask for alignment.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

/// What an event tells the engine of cgroups.
#[must_use]
pub fn cgroup_news(event: &Event) -> Option<CgroupNews> {
    match Kind::from_raw(event.kind)? {
        Kind::CgroupMade => Some(CgroupNews::Made { path: text(&event.path.bytes) }),
        Kind::CgroupGone => Some(CgroupNews::Gone { id: event.object.ino }),
        // A move names the cgroup that it leads to.
        Kind::Enter if event.object.ino == 0 && event.verdict == Verdict::Allow as u8 => {
            Some(CgroupNews::Begun { cgroup: event.cgroup })
        }
        _ => None,
    }
}

/// Whether an event is for the daemon alone.
#[must_use]
pub fn is_internal(event: &Event) -> bool {
    matches!(Kind::from_raw(event.kind), Some(Kind::CgroupMade | Kind::CgroupGone))
}

/// The path from the filesystem's root, and whether components nearer to the root are missing. `None` when there is none.
#[must_use]
pub fn path<const N: usize>(raw: &RawPath<N>) -> Option<(PathBuf, bool)> {
    if raw.dev == 0 && raw.len == 0 {
        return None;
    }
    let used = raw.bytes.get(..raw.len as usize)?;
    let truncated = raw.truncated != 0;
    let mut path = Vec::with_capacity("…/".len() + used.len());
    path.extend_from_slice(if truncated { "…" } else { "" }.as_bytes());
    for component in used.rsplit(|b| *b == 0).filter(|c| !c.is_empty()) {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Some((OsString::from_vec(path).into(), truncated))
}

/// The text before the first NUL.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &[u8], truncated: u32) -> RawPath<64> {
        let mut bytes = [0; 64];
        bytes[..text.len()].copy_from_slice(text);
        RawPath { len: u32::try_from(text.len()).expect("short"), dev: 1, truncated, reserved: 0, bytes }
    }

    #[test]
    fn components_are_turned_round() {
        assert_eq!(path(&raw(b"git\0bin\0usr\0", 0)), Some(("/usr/bin/git".into(), false)));
        assert_eq!(path(&raw(b"", 0)), Some(("/".into(), false)));
        assert_eq!(path(&raw(b"x\0deep\0", 1)), Some(("…/deep/x".into(), true)));
    }

    #[test]
    fn what_the_kernel_would_never_write_is_no_path() {
        let mut bad = raw(b"x\0", 0);
        bad.len = 1000;
        assert_eq!(path(&bad), None);
        assert!(event(&[0; 16]).is_none());
    }
}
