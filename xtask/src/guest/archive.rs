//! Initramfs archives: cpio files in the kernel's `newc` format, with every parent directory in place.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use cpio::newc::{self, Builder};
use walkdir::WalkDir;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// The uid and gid of the guest's ordinary user.
const AGENT: u32 = 1000;

/// Directories that are not simply root's with mode 755.
const SPECIAL: [(&str, u32, u32); 5] =
    [("tmp", 0o1777, 0), ("var/tmp", 0o1777, 0), ("root", 0o700, 0), ("home/agent", 0o750, AGENT), (".vm", 0o711, 0)];

/// An archive being written.
pub(crate) struct Archive<W> {
    out: W,
    inode: u32,
    seen: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 0, seen: BTreeSet::new() }
    }

    /// A directory, and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        let inside = path.strip_prefix(super::rootfs::PAYLOAD.trim_start_matches('/')).unwrap_or(path);
        let (mode, owner) = SPECIAL
            .iter()
            .find(|(special, _, _)| *special == inside.trim_start_matches('/'))
            .map_or((0o755, 0), |(_, mode, owner)| (*mode, *owner));
        let header = self.header(path, DIRECTORY | mode).uid(owner).gid(owner);
        self.write(header, &[])
    }

    /// A regular file of root's.
    pub(crate) fn file(&mut self, path: &str, mode: u32, mtime: u32, content: &[u8]) -> Result<()> {
        if let Some(path) = self.enter(path)? {
            let header = self.header(&path, REGULAR | mode).mtime(mtime);
            self.write(header, content)?;
        }
        Ok(())
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        if let Some(path) = self.enter(path)? {
            let header = self.header(&path, SYMLINK | 0o777);
            self.write(header, target.as_bytes())?;
        }
        Ok(())
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        if let Some(path) = self.enter(path)? {
            let header = self.header(&path, CHARACTER | mode).rdev_major(major).rdev_minor(minor);
            self.write(header, &[])?;
        }
        Ok(())
    }

    /// A file of the host, or a directory with all that it holds, with its modes and times.
    pub(crate) fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        for entry in WalkDir::new(from).follow_root_links(true).sort_by_file_name() {
            let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
            let below = entry.path().strip_prefix(from)?;
            let to = if below.as_os_str().is_empty() {
                to.to_owned()
            } else {
                format!("{}/{}", to.trim_end_matches('/'), below.display())
            };
            let kind = entry.file_type();
            if kind.is_dir() {
                self.directory(&to)?;
            } else if kind.is_symlink() && entry.depth() > 0 {
                let target = fs::read_link(entry.path())?;
                self.symlink(&to, &target.to_string_lossy())?;
            } else if entry.path().is_file() {
                let meta = fs::metadata(entry.path())?;
                let content =
                    fs::read(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
                let mtime = u32::try_from(meta.mtime()).unwrap_or_default();
                self.file(&to, meta.permissions().mode() & 0o7777, mtime, &content)?;
            }
        }
        Ok(())
    }

    /// Ends the archive, at a boundary where another one may follow.
    pub(crate) fn finish(self) -> Result<W> {
        let mut out = newc::trailer(self.out)?;
        // The kernel skips zeros between archives; each must begin at a multiple of four, and cpio's own pad is one.
        out.write_all(&[0; 512])?;
        out.flush()?;
        Ok(out)
    }

    /// Makes way for a new entry: `None` if the path is taken.
    fn enter(&mut self, path: &str) -> Result<Option<String>> {
        let path = path.trim_matches('/').to_owned();
        ensure!(!path.is_empty(), "a file needs a name");
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        Ok(self.seen.insert(path.clone()).then_some(path))
    }

    fn header(&mut self, path: &str, mode: u32) -> Builder {
        self.inode += 1;
        Builder::new(path).ino(self.inode).mode(mode).nlink(1)
    }

    fn write(&mut self, header: Builder, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("a file of 4 GiB does not fit")?;
        let mut entry = header.write(&mut self.out, size);
        io::copy(&mut &*content, &mut entry)?;
        entry.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cpio::NewcReader;

    use super::*;

    fn entries(bytes: &[u8]) -> Result<Vec<(String, u32, Vec<u8>)>> {
        let mut rest = bytes;
        let mut found = Vec::new();
        loop {
            let mut reader = NewcReader::new(rest)?;
            if reader.entry().is_trailer() {
                return Ok(found);
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            io::copy(&mut reader, &mut content)?;
            found.push((name, mode, content));
            rest = reader.finish()?;
        }
    }

    #[test]
    fn parents_come_first_and_once() -> Result<()> {
        let mut archive = Archive::new(Vec::new());
        archive.file("/usr/bin/a", 0o755, 0, b"abc")?;
        archive.symlink("/usr/bin/b", "a")?;
        archive.file("/tmp/x", 0o644, 0, b"")?;
        archive.file("/tmp/x", 0o644, 0, b"a second time")?;
        let bytes = archive.finish()?;
        assert_eq!(bytes.len() % 4, 0);
        let found = entries(&bytes)?;
        let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["usr", "usr/bin", "usr/bin/a", "usr/bin/b", "tmp", "tmp/x"]);
        assert_eq!(found[2].1, 0o100_755);
        assert_eq!(found[2].2, b"abc");
        assert_eq!(found[3].2, b"a");
        assert_eq!(found[4].1, 0o041_777);
        assert_eq!(found[5].2, b"");
        Ok(())
    }

    #[test]
    fn trees_are_copied_with_modes() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("sub"))?;
        let script = dir.path().join("sub/run");
        fs::write(&script, "#!")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o750))?;
        std::os::unix::fs::symlink("sub/run", dir.path().join("link"))?;
        let mut archive = Archive::new(Vec::new());
        archive.copy(dir.path(), "/opt/t")?;
        archive.copy(&dir.path().join("link"), "/opt/direct")?;
        let found = entries(&archive.finish()?)?;
        let names: Vec<_> = found.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
        assert_eq!(
            names,
            [
                ("opt", 0o040_755),
                ("opt/t", 0o040_755),
                ("opt/t/link", 0o120_777),
                ("opt/t/sub", 0o040_755),
                ("opt/t/sub/run", 0o100_750),
                ("opt/direct", 0o100_750),
            ]
        );
        Ok(())
    }
}
