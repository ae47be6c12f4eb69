//! A file of JSON lines that is rotated by size and by age.
//!
//! What is written is handed to the kernel at once, and to the disk (`fdatasync`) once a second while there is something new, and
//! before the file is rotated or closed. A line that does not fit on the disk is taken back as a whole.
//!
//! The next file is made without a name and gets one when it is Enforcer's own: at no instant could a governed process open it for
//! writing.

use std::{
    fs::{self, File as Handle, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, link, linkat, open},
    io::Errno,
};

use super::{FileSpec, Guard, Sink};
use crate::events::{Record, text::Format};

/// How often the disk is waited for, at most.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// How long a write waits for the next file, once for each. Then the file that there is grows on.
const GUARD_WAIT: Duration = Duration::from_secs(1);
/// How long after the next file could not be made Enforcer's own it is tried again.
const GUARD_AGAIN: Duration = Duration::from_secs(10);

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
    guard: Option<Guard>,
    next: Option<Next>,
    /// Not before is the next file tried again.
    again: Option<Instant>,
}

/// The next file, which has no name yet.
struct Next {
    handle: Handle,
    /// Says when it is Enforcer's own; gone when it is.
    answer: Option<Receiver<Result<(), String>>>,
    waited: bool,
}

impl Next {
    /// Makes it in a directory. `None` when the filesystem has no files without names.
    fn make(dir: &Path) -> io::Result<Option<Handle>> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        match open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(Some(fd.into())),
            // The last two are what kernels and filesystems say that do not know the flag (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether it is Enforcer's own by now.
    fn is_own(&mut self) -> io::Result<bool> {
        let Some(answer) = &self.answer else { return Ok(true) };
        let wait = if self.waited { Duration::ZERO } else { GUARD_WAIT };
        self.waited = true;
        match answer.recv_timeout(wait) {
            Ok(Ok(())) => {
                self.answer = None;
                Ok(true)
            }
            Ok(Err(e)) => Err(io::Error::other(e)),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the engine has ended")),
        }
    }

    /// Gives it a name. What lies there is nobody's: this name is only ever this file's for a moment.
    fn name(&self, path: &Path) -> io::Result<()> {
        let itself = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
        let link = || linkat(CWD, &itself, CWD, path, AtFlags::SYMLINK_FOLLOW);
        match link() {
            // From an attempt before; without its name it would be gone for good.
            Err(Errno::EXIST) if is_at(&self.handle, path)? => Ok(()),
            Err(Errno::EXIST) => {
                fs::remove_file(path)?;
                Ok(link()?)
            }
            outcome => Ok(outcome?),
        }
    }
}

/// Whether a file is what lies at a path.
fn is_at(file: &Handle, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
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

    /// The next one: whatever lies or is linked there by now is somebody else's.
    fn make_named(spec: &FileSpec) -> io::Result<Handle> {
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(&spec.path)
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
            guard: None,
            next: None,
            again: None,
        })
    }

    fn is_due(&self, more: u64) -> bool {
        if self.again.is_some_and(|again| Instant::now() < again) {
            return false;
        }
        let too_old = self.spec.max_age.is_some_and(|limit| self.before + self.begun.elapsed() >= limit);
        self.size > 0 && (self.size + more > self.spec.max_size || too_old)
    }

    /// Renames the files, oldest first, and goes on in the next one. `false` when that one is not there yet.
    fn rotate(&mut self) -> io::Result<bool> {
        let unnamed = self.prepare().inspect_err(|_| self.put_off())?;
        let is_own = self.next.as_mut().map(Next::is_own).transpose();
        if is_own.inspect_err(|_| self.put_off())? == Some(false) {
            return Ok(false);
        }
        self.sync()?;
        let next = match &self.next {
            Some(next) if unnamed => Some(Self::begin(self.spec.clone(), next.handle.try_clone()?)?),
            _ => None,
        };
        let mut file = if let (Some(file), Some(next)) = (next, &self.next) {
            let ready = self.spec.next();
            if let Err(e) = next.name(&ready) {
                // Its name was taken away, and it cannot get another one.
                self.next = None;
                return Err(e);
            }
            self.make_way()?;
            // In one step: there is always a file of this name, and what somebody else put there goes.
            fs::rename(ready, &self.spec.path)?;
            file
        } else {
            self.make_way()?;
            if is_at(&self.handle, &self.spec.path)? {
                fs::remove_file(&self.spec.path)?;
            }
            Self::begin(self.spec.clone(), Self::make_named(&self.spec)?)?
        };
        file.guard = self.guard.take();
        *self = file;
        Ok(true)
    }

    /// Renames the files before it, oldest first, and gives this one its second name. It does so once: where this one's name is not
    /// its own any more, the others have moved already, or are not moved for what somebody else put there.
    fn make_way(&self) -> io::Result<()> {
        if self.spec.keep == 0 || !is_at(&self.handle, &self.spec.path)? {
            return Ok(());
        }
        let first = self.spec.rotated(1);
        if is_at(&self.handle, &first)? {
            return Ok(());
        }
        for n in (2..=self.spec.keep).rev() {
            match fs::rename(self.spec.rotated(n - 1), self.spec.rotated(n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        match link(&self.spec.path, &first) {
            // Made since.
            Err(Errno::EXIST) => {
                fs::remove_file(&first)?;
                Ok(link(&self.spec.path, &first)?)
            }
            // Filesystems without second names say either (link(2)).
            Err(Errno::PERM | Errno::OPNOTSUPP) => fs::rename(&self.spec.path, &first),
            outcome => Ok(outcome?),
        }
    }

    /// Makes the next file, and asks for it and for those before it to be Enforcer's own, which their names say only once
    /// somebody has looked. `false` when it can only be made with a name.
    fn prepare(&mut self) -> io::Result<bool> {
        if self.next.is_some() {
            return Ok(true);
        }
        let dir = self.spec.path.parent().unwrap_or(Path::new("/"));
        let Some(handle) = Next::make(dir)? else { return Ok(false) };
        let answer = match &self.guard {
            None => None,
            Some(guard) => {
                let mut files = vec![(self.spec.path.clone(), OwnedFd::from(handle.try_clone()?))];
                let before = (1..self.spec.keep).map(|n| self.spec.rotated(n));
                for name in std::iter::once(self.spec.path.clone()).chain(before) {
                    match open(&name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                        Ok(fd) => files.push((name, fd)),
                        Err(Errno::NOENT) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                Some(guard(self.spec.path.clone(), files))
            }
        };
        self.next = Some(Next { handle, answer, waited: false });
        Ok(true)
    }

    fn put_off(&mut self) {
        self.next = None;
        self.again = Some(Instant::now() + GUARD_AGAIN);
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
    fn guarded_by(&mut self, guard: Guard) {
        self.guard = Some(guard);
    }

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
    use std::sync::mpsc;

    use super::*;
    use crate::events::enrich;

    fn file(options: &str) -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().expect("a directory");
        let spec = format!("file:{}{options}", dir.path().join("log").display());
        let Ok(super::super::Spec::File(spec)) = spec.parse() else { panic!("a file") };
        (dir, File::open(spec).expect("it opens"))
    }

    fn record() -> Record {
        enrich::own("delete", "test")
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
        assert!(File::make_named(&file.spec).is_err());
        file.write(&record()).expect("there is room");
        assert_eq!(fs::metadata(at("other")).expect("it is there").len(), 0);
        assert_eq!(fs::read_to_string(at("log")).expect("text").lines().count(), 1);
        assert!(fs::symlink_metadata(at("log")).expect("it is there").is_file());
        assert_eq!(fs::read_to_string(at("log.1")).expect("text").lines().count(), 3);
        // Nor does one that somebody takes away for the moment keep it from going on.
        fs::remove_file(at("log.1")).and_then(|()| fs::create_dir(at("log.1"))).expect("they are there");
        file.write(&record()).expect("there is room");
        fs::remove_file(at("log.next")).and_then(|()| fs::remove_dir(at("log.1"))).expect("they are there");
        for _ in 0..2 {
            file.write(&record()).expect("there is room");
        }
        assert_eq!(fs::read_to_string(at("log")).expect("text").lines().count(), 1);
        assert_eq!(fs::read_to_string(at("log.1")).expect("text").lines().count(), 3);
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
        assert!(file.rotate().expect("there is room"));
        assert_eq!([text("log.1"), text("log.2")], before);
        file.write(&record()).expect("there is room");
        assert!(text("log").is_some_and(|text| text.lines().count() == 1));
    }

    #[test]
    fn the_next_one_has_no_name_before_it_is_guarded() {
        let (dir, mut file) = file(",max_size=1,keep=2");
        let (say, hear) = mpsc::channel();
        let (asked, questions) = mpsc::channel();
        let hear = std::sync::Mutex::new(Some(hear));
        file.guarded_by(Box::new(move |sink, files| {
            let names: Vec<_> = files.iter().map(|(name, _)| name.clone()).collect();
            asked.send((sink, names)).expect("it is heard");
            hear.lock().expect("whole").take().unwrap_or_else(|| mpsc::channel().1)
        }));
        let lines = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default().lines().count();
        for _ in 0..3 {
            file.write(&record()).expect("there is room");
        }
        assert_eq!((lines("log"), lines("log.1")), (3, 0), "nobody has answered");
        let log = dir.path().join("log");
        assert_eq!(questions.try_iter().collect::<Vec<_>>(), [(log.clone(), vec![log.clone(), log])]);
        say.send(Ok(())).expect("it waits");
        file.write(&record()).expect("there is room");
        assert_eq!((lines("log"), lines("log.1")), (1, 3));
        // A guard that has gone away costs no event.
        for _ in 0..3 {
            file.write(&record()).expect("there is room");
        }
        assert_eq!((lines("log"), lines("log.1"), lines("log.2")), (4, 3, 0));
        assert!(questions.try_iter().count() == 1, "it is not asked again and again");
    }
}
