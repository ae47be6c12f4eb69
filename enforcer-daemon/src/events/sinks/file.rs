//! A file of JSON lines that is rotated by size and by age.
//!
//! What is written is handed to the kernel at once, and to the disk (`fdatasync`) once a second while there is something new, and
//! before the file is rotated or closed. A line that does not fit on the disk is taken back as a whole.

use std::{
    fs::{self, File as Handle, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

use super::{FileSpec, Sink};
use crate::events::{Record, text::Format};

/// How often the disk is waited for, at most.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The file as it is open.
pub(super) struct File {
    spec: FileSpec,
    handle: Handle,
    size: u64,
    /// When it was begun, by the clock that never jumps.
    begun: Instant,
    /// How old it was when it was opened.
    before: Duration,
    synced: Instant,
    dirty: bool,
    /// It could not be rotated when it was due.
    stuck: bool,
}

impl File {
    /// Opens it for appending, and makes it if it is not there: root's alone.
    pub(super) fn open(spec: FileSpec) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // A named pipe that nobody reads is an error and no place to wait; it means nothing to a regular file.
        options.append(true).create(true).mode(0o600).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let handle = options.open(&spec.path)?;
        Self::begin(spec, handle)
    }

    /// Begins the next one: whatever lies or is linked there by now is somebody else's.
    fn open_new(spec: FileSpec) -> io::Result<Self> {
        let handle = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&spec.path)?;
        Self::begin(spec, handle)
    }

    fn begin(spec: FileSpec, handle: Handle) -> io::Result<Self> {
        let meta = handle.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(io::Error::other("it is another user's, or others may write it: move it away"));
        }
        // A file from the future, of a clock that was set back since, is as good as new.
        let before = meta.created().or_else(|_| meta.modified()).ok().and_then(|at| at.elapsed().ok());
        let now = Instant::now();
        Ok(Self {
            spec,
            handle,
            size: meta.len(),
            begun: now,
            before: before.filter(|_| meta.len() > 0).unwrap_or_default(),
            synced: now,
            dirty: false,
            stuck: false,
        })
    }

    fn is_due(&self, more: u64) -> bool {
        let too_old = self.spec.max_age.is_some_and(|limit| self.before + self.begun.elapsed() >= limit);
        self.size > 0 && (self.size + more > self.spec.max_size || too_old)
    }

    /// Renames the files, oldest first, and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        // When a new one could not be begun the last time, for want of room, the others have moved already.
        if self.spec.path.try_exists()? {
            self.make_way()?;
        }
        *self = Self::open_new(self.spec.clone())?;
        Ok(())
    }

    fn make_way(&self) -> io::Result<()> {
        if self.spec.keep == 0 {
            return fs::remove_file(&self.spec.path);
        }
        for n in (1..=self.spec.keep).rev() {
            let from = if n == 1 { self.spec.path.clone() } else { self.spec.rotated(n - 1) };
            match fs::rename(from, self.spec.rotated(n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            // What the disk did not keep cannot be kept by asking again.
            self.dirty = false;
            self.synced = Instant::now();
            self.handle.sync_data()?;
        }
        Ok(())
    }
}

impl Sink for File {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        let line = format!("{}\n", Format::Json.line(record));
        let len = line.len() as u64;
        if self.is_due(len)
            && let Err(e) = self.rotate()
        {
            // Nothing is lost for it: the file that there is grows on.
            if !self.stuck {
                tracing::warn!("{}: it cannot be rotated: {e}", self.spec.path.display());
            }
            self.stuck = true;
        }
        if let Err(e) = self.handle.write_all(line.as_bytes()) {
            self.handle.set_len(self.size)?;
            return Err(e);
        }
        self.size += len;
        self.dirty = true;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<Option<Duration>> {
        if !self.dirty {
            return Ok(None);
        }
        match SYNC_EVERY.checked_sub(self.synced.elapsed()) {
            Some(wait) if !wait.is_zero() => Ok(Some(wait)),
            _ => self.sync().map(|()| None),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Err(e) = self.sync() {
            tracing::warn!("{}: what was written last may be lost: {e}", self.spec.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::enrich;

    fn file(options: &str) -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().expect("a directory");
        let spec = format!("file:{}{options}", dir.path().join("log").display());
        let Ok(super::super::Spec::File(spec)) = spec.parse() else { panic!("a file") };
        (dir, File::open(spec).expect("it opens"))
    }

    fn record() -> Record {
        enrich::own("delete", "test".into())
    }

    #[test]
    fn what_is_written_is_on_the_disk_within_a_second() {
        let (_dir, mut file) = file("");
        assert_eq!(file.settle().expect("no disk is asked"), None);
        file.write(&record()).expect("there is room");
        let wait = file.settle().expect("no disk is asked").expect("it is to be asked again");
        assert!(file.dirty && wait <= SYNC_EVERY);
        std::thread::sleep(wait);
        assert_eq!(file.settle().expect("the disk has it"), None);
        assert!(!file.dirty);
    }

    #[test]
    fn what_lies_in_the_way_costs_no_event() {
        let (dir, mut file) = file(",max_size=1,keep=1");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("log.1")).expect("a directory");
        for _ in 0..3 {
            file.write(&record()).expect("there is room");
        }
        assert_eq!(fs::read_to_string(at("log")).expect("text").lines().count(), 3);
        fs::remove_dir(at("log.1")).expect("it is there");
        file.write(&record()).expect("there is room");
        assert_eq!(fs::read_to_string(at("log.1")).expect("text").lines().count(), 3);
        // Nor is what somebody else put in its place followed or written.
        fs::rename(at("log"), at("moved")).expect("it is there");
        fs::write(at("other"), "").expect("a file");
        std::os::unix::fs::symlink(at("other"), at("log")).expect("a link");
        assert!(File::open_new(file.spec.clone()).is_err());
        assert_eq!(fs::metadata(at("other")).expect("it is there").len(), 0);
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let (dir, file) = file("");
        let mode =
            |mode| fs::set_permissions(dir.path().join("log"), std::os::unix::fs::PermissionsExt::from_mode(mode));
        mode(0o620).expect("it is ours");
        assert!(File::open(file.spec.clone()).is_err());
        mode(0o640).expect("it is ours");
        assert!(File::open(file.spec.clone()).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_begun_anew_costs_no_older_one() {
        let (dir, mut file) = file(",max_size=1,keep=2");
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        for _ in 0..3 {
            file.write(&record()).expect("there is room");
        }
        fs::remove_file(dir.path().join("log")).expect("it is there");
        let before = [text("log.1"), text("log.2")];
        assert!(before.iter().all(Option::is_some));
        file.rotate().expect("there is room");
        assert_eq!([text("log.1"), text("log.2")], before);
        file.write(&record()).expect("there is room");
        assert!(text("log").is_some_and(|text| text.lines().count() == 1));
    }
}
