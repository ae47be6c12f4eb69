//! `/proc/PID/mountinfo`: which filesystem is mounted where. Its device numbers are the kernel's (`s_dev`), which `stat`'s are
//! not on every filesystem (`fs/proc_namespace.c: show_mountinfo`).

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The mount's id, as `statx` gives it.
    pub id: u64,
    /// The filesystem's `s_dev` as the kernel keeps it: `major << 20 | minor`.
    pub dev: u32,
    /// Which directory of the filesystem is mounted.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
}

/// Reads a mountinfo file. Lines that are not understood are left out.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(path)?))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNT_POINT …`
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
    let dev = major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?;
    Some(Mount { id, dev, root: unescape(fields.next()?), mount_point: unescape(fields.next()?) })
}

/// Space, tab, newline and backslash are written as three octal digits behind a backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] = rest {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood() {
        let text = b"36 35 98:3 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw\nnonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts, [Mount { id: 36, dev: 98 << 20 | 3, root: "/mnt1".into(), mount_point: "/mnt two".into() }]);
    }
}
