//! A file of JSON lines that is rotated by size and by age.
//!
//! What is written is handed to the kernel at once, and to the disk when nothing is waiting, at most once a second, and before the
//! file is rotated or closed (`fdatasync`). A line that does not fit on the disk is taken back as a whole.

use std::{
    fs::{self, File as Handle, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    time::{Duration, Instant},
};

use super::{FileSpec, Sink};
use crate::events::{Record, text::Format};

/// How often the disk is waited for, at most.
const SYNC_EVERY: Duration = Duration::from_secs(1);

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
}

impl File {
    /// Opens it for appending, and makes it if it is not there: root's alone.
    pub(super) fn open(spec: FileSpec) -> io::Result<Self> {
        let handle = OpenOptions::new().append(true).create(true).mode(0o600).open(&spec.path)?;
        let meta = handle.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is not a regular file"));
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
        })
    }

    fn is_due(&self, more: u64) -> bool {
        let too_old = self.spec.max_age.is_some_and(|limit| self.before + self.begun.elapsed() >= limit);
        self.size > 0 && (self.size + more > self.spec.max_size || too_old)
    }

    /// Renames the files, oldest first, and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync();
        let absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        if self.spec.keep == 0 {
            fs::remove_file(&self.spec.path).or_else(|e| if absent(&e) { Ok(()) } else { Err(e) })?;
        }
        for n in (1..=self.spec.keep).rev() {
            let from = if n == 1 { self.spec.path.clone() } else { self.spec.rotated(n - 1) };
            match fs::rename(from, self.spec.rotated(n)) {
                Err(e) if !absent(&e) => return Err(e),
                _ => {}
            }
        }
        *self = Self::open(self.spec.clone())?;
        Ok(())
    }

    fn sync(&mut self) {
        if self.dirty {
            // What the disk does not keep cannot be kept by asking again.
            let _ = self.handle.sync_data();
            self.dirty = false;
            self.synced = Instant::now();
        }
    }
}

impl Sink for File {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        let line = format!("{}\n", Format::Json.line(record));
        let len = line.len() as u64;
        if self.is_due(len) {
            self.rotate()?;
        }
        if let Err(e) = self.handle.write_all(line.as_bytes()) {
            self.handle.set_len(self.size)?;
            return Err(e);
        }
        self.size += len;
        self.dirty = true;
        Ok(())
    }

    fn rest(&mut self) {
        if self.synced.elapsed() >= SYNC_EVERY {
            self.sync();
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.sync();
    }
}
