//! Replacing a small file as a whole: whoever reads it sees the old text or the new one, and a crash leaves one of them.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, fchown, fsync, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// A file that is to be replaced, in the directory where it lies.
#[derive(Debug)]
pub struct Original {
    path: PathBuf,
    name: std::ffi::OsString,
    dir: OwnedFd,
    file: File,
    meta: Metadata,
}

/// Why a file cannot be replaced, or was not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The kernel refused.
    #[error("{}: cannot {what}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said; in the message already, so that it is no source.
        cause: io::Error,
    },
    /// A symbolic link would be replaced, not what it leads to.
    #[error("{}: is a symbolic link; name the file that it leads to", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A directory, a device, or a file with several names, which would be torn apart.
    #[error("{}: is {what}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Someone else wrote to it meanwhile.
    #[error("{}: was changed meanwhile; nothing was written", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl Original {
    /// Opens the file for replacing, and reads it: at most `limit` bytes and one more.
    ///
    /// # Errors
    /// If it is no regular file with one name, or cannot be read.
    pub fn read(path: &Path, limit: u64) -> Result<(Self, Vec<u8>), ReplaceError> {
        let failed = |what| move |e: Errno| ReplaceError::Io { path: path.to_owned(), what, cause: e.into() };
        let unfit = |what| ReplaceError::Unfit { path: path.to_owned(), what };
        let name = path.file_name().ok_or_else(|| unfit("no file"))?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let dir = openat(CWD, parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open its directory"))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&dir, &name, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(ReplaceError::Link { path: path.to_owned() }),
            file => File::from(file.map_err(failed("open it"))?),
        };
        let read = |cause| ReplaceError::Io { path: path.to_owned(), what: "read it", cause };
        let meta = file.metadata().map_err(read)?;
        if !meta.is_file() {
            return Err(unfit("no regular file"));
        }
        if meta.nlink() != 1 {
            return Err(unfit("one file with several names, and only one of them would change"));
        }
        let mut bytes = Vec::new();
        (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(read)?;
        Ok((Self { path: path.to_owned(), name, dir, file, meta }, bytes))
    }

    /// Puts `text` in its place, with its mode and owner.
    ///
    /// # Errors
    /// If it cannot be written, or the file is another by now; then it is as it was.
    pub fn replace(self, text: &[u8]) -> Result<(), ReplaceError> {
        let temporary = format!(".{}.{}.tmp", self.name.to_string_lossy(), std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // One that is there already is somebody else's.
        let new = openat(&self.dir, &*temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| self.io("make a new file beside it", e.into()))?;
        let outcome = self.put(File::from(new), &temporary, text);
        if outcome.is_err() {
            let _ = unlinkat(&self.dir, &*temporary, AtFlags::empty());
        }
        outcome
    }

    fn put(&self, mut new: File, temporary: &str, text: &[u8]) -> Result<(), ReplaceError> {
        let failed = |what| move |e: Errno| self.io(what, e.into());
        let made = new.metadata().map_err(|e| self.io("look at the new file", e))?;
        if (made.uid(), made.gid()) != (self.meta.uid(), self.meta.gid()) {
            let (user, group) = (Uid::from_raw(self.meta.uid()), Gid::from_raw(self.meta.gid()));
            fchown(&new, Some(user), Some(group)).map_err(failed("keep its owner"))?;
        }
        fchmod(&new, Mode::from_raw_mode(self.meta.mode() & 0o7777)).map_err(failed("keep its mode"))?;
        new.write_all(text).map_err(|e| self.io("write the new file", e))?;
        fsync(&new).map_err(failed("write the new file"))?;
        let now = statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at it again"))?;
        let read = self.file.metadata().map_err(|e| self.io("look at it again", e))?;
        let same = (now.st_dev, now.st_ino) == (self.meta.dev(), self.meta.ino())
            && (read.size(), read.mtime(), read.mtime_nsec())
                == (self.meta.size(), self.meta.mtime(), self.meta.mtime_nsec());
        if !same {
            return Err(ReplaceError::Changed { path: self.path.clone() });
        }
        renameat(&self.dir, temporary, &self.dir, &self.name).map_err(failed("put the new file in its place"))?;
        // The text is in place, come what may; only a crash within seconds could still bring back the old one.
        let _ = fsync(&self.dir);
        Ok(())
    }

    fn io(&self, what: &'static str, cause: io::Error) -> ReplaceError {
        ReplaceError::Io { path: self.path.clone(), what, cause }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_text_changes_and_the_mode_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, "old").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("mode");
        let (original, bytes) = Original::read(&path, 100).expect("read");
        assert_eq!(bytes, b"old");
        original.replace(b"new").expect("replaced");
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
        assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o7777, 0o640);
        assert_eq!(names(dir.path()), ["policy.yaml"]);
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "old").expect("written");
        std::os::unix::fs::symlink("file", at("symlink")).expect("linked");
        assert!(matches!(Original::read(&at("symlink"), 100), Err(ReplaceError::Link { .. })));
        assert!(matches!(Original::read(dir.path(), 100), Err(ReplaceError::Unfit { .. })));
        std::fs::hard_link(at("file"), at("other")).expect("linked");
        assert!(matches!(Original::read(&at("file"), 100), Err(ReplaceError::Unfit { .. })));
        assert!(matches!(Original::read(&at("missing"), 100), Err(ReplaceError::Io { .. })));
    }

    #[test]
    fn a_file_of_that_name_that_is_there_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, "old").expect("written");
        let other = dir.path().join(format!(".policy.yaml.{}.tmp", std::process::id()));
        std::fs::write(&other, "another's").expect("written");
        let (original, _) = Original::read(&path, 100).expect("read");
        let error = original.replace(b"new").expect_err("refused");
        // The cause is told once, however the error is shown.
        let text = format!("{:#}", anyhow::Error::from(error));
        assert_eq!(text.matches("File exists").count(), 1, "{text}");
        assert_eq!(std::fs::read(&other).expect("read"), b"another's");
        assert_eq!(std::fs::read(&path).expect("read"), b"old");
    }

    #[test]
    fn what_changed_meanwhile_is_not_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.yaml");
        for meanwhile in ["in place, longer", "another file"] {
            std::fs::write(&path, "old").expect("written");
            let (original, _) = Original::read(&path, 100).expect("read");
            if meanwhile == "another file" {
                std::fs::write(dir.path().join("new"), meanwhile).expect("written");
                std::fs::rename(dir.path().join("new"), &path).expect("renamed");
            } else {
                std::fs::write(&path, meanwhile).expect("written");
            }
            assert!(matches!(original.replace(b"new"), Err(ReplaceError::Changed { .. })));
            assert_eq!(std::fs::read(&path).expect("read"), meanwhile.as_bytes());
            assert_eq!(names(dir.path()), ["policy.yaml"]);
        }
    }
}
