//! The operations, each timed as a batch of bare system calls. What they leave is cleared away outside of the time.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use super::states::{Ground, drain};

/// How many calls make one batch.
const BATCH: usize = 32;
/// How many batches are timed; the median of them counts, which a timer tick in one does not move.
const BATCHES: usize = 7;
/// Of an operation that makes a process a batch is one call, because the scheduler has a part in it: of several, one would
/// too often wait for the other.
const SINGLE: usize = 25;

/// The times of one operation.
#[derive(Debug)]
pub(crate) struct Timed {
    /// Nanoseconds for all calls.
    pub(crate) total: Duration,
    /// How many calls.
    pub(crate) calls: usize,
    /// How many of them the kernel refused.
    pub(crate) refused: usize,
}

/// An operation.
pub(crate) struct Op {
    /// Its name in results.
    pub(crate) name: &'static str,
    /// How many directories lie between the filesystem's root and the file; 0 when it has none.
    pub(crate) depth: usize,
    /// How many batches are timed.
    pub(crate) batches: usize,
    /// Runs one batch.
    pub(crate) batch: fn(&Ground, usize) -> anyhow::Result<Timed>,
}

const fn op(name: &'static str, depth: usize, batch: fn(&Ground, usize) -> anyhow::Result<Timed>) -> Op {
    Op { name, depth, batches: BATCHES, batch }
}

const fn process(name: &'static str, batch: fn(&Ground, usize) -> anyhow::Result<Timed>) -> Op {
    Op { name, depth: 0, batches: SINGLE, batch }
}

/// All operations.
pub(crate) const OPS: &[Op] = &[
    process("fork", fork),
    process("exec 20 KB, first", |ground, _| first_exec(&ground.small)),
    process("exec 20 KB, cached", |ground, _| exec(&ground.small)),
    process("exec 20 MB, cached", |ground, _| exec(&ground.large)),
    op("create", 3, create),
    op("create", 12, create),
    op("unlink", 3, unlink),
    op("unlink", 12, unlink),
    op("rename", 3, rename),
    op("rename", 12, rename),
    op("open", 3, open),
    op("open", 12, open),
    op("stat", 3, stat),
    op("stat", 12, stat),
    op("read", 3, read),
    op("write", 3, write),
    op("connect", 0, connect),
    op("udp sendto", 0, sendto),
];

/// The machine's clock: in a guest that counts instructions, one of them a nanosecond.
pub(super) fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Times `call` once for each of `inputs`. A call that is refused counts as such; any other error ends the measurement.
fn time<T>(inputs: &[T], mut call: impl FnMut(&T) -> i64) -> anyhow::Result<Timed> {
    let mut refused = 0;
    let start = now();
    for input in inputs {
        if call(input) < 0 {
            let error = io::Error::last_os_error();
            ensure!(error.raw_os_error() == Some(libc::EPERM), "a call failed: {error}");
            refused += 1;
        }
    }
    Ok(Timed { total: now().saturating_sub(start), calls: inputs.len(), refused })
}

fn c(path: &Path) -> anyhow::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).context("a path with NUL")
}

/// Paths of files that the batch is about.
fn paths(ground: &Ground, depth: usize, stem: &str) -> anyhow::Result<Vec<CString>> {
    (0..BATCH).map(|n| c(&ground.dir(depth).join(format!("{stem}-{n}")))).collect()
}

fn fork(_: &Ground, _: usize) -> anyhow::Result<Timed> {
    time(&[()], |()| {
        // SAFETY: the measured process has one thread; the child ends at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(0) };
        }
        reap(child)
    })
}

fn reap(child: i32) -> i64 {
    if child < 0 {
        return -1;
    }
    // SAFETY: a null status is allowed.
    i64::from(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) })
}

/// Starts a program by `vfork`, as shells and runtimes do, and waits for its end.
fn exec(program: &Path) -> anyhow::Result<Timed> {
    let path = c(program)?;
    time(&[()], |()| spawn(&path))
}

/// The same, after the file was opened for writing, so that nothing that was known of it holds.
fn first_exec(program: &Path) -> anyhow::Result<Timed> {
    // Who may not write cannot have changed it either: then it is as cached as before.
    let _ = fs::OpenOptions::new().write(true).open(program);
    exec(program)
}

fn spawn(path: &CString) -> i64 {
    let argv = [path.as_ptr().cast_mut(), std::ptr::null_mut()];
    let environment = [std::ptr::null_mut()];
    let mut child = 0;
    // SAFETY: all pointers are to locals that live through the call; the lists end with null.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut child,
            path.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            argv.as_ptr(),
            environment.as_ptr(),
        )
    };
    if error != 0 {
        // It returns what the others leave in errno.
        // SAFETY: the location is this thread's own.
        unsafe { *libc::__errno_location() = error };
        return -1;
    }
    reap(child)
}

fn open_with(path: &CString, flags: i32) -> i64 {
    // SAFETY: the path ends with NUL and lives through the call.
    i64::from(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o644) })
}

/// Closes what a batch opened.
fn close_all(fds: &[i64]) {
    for fd in fds.iter().filter_map(|fd| i32::try_from(*fd).ok()).filter(|fd| *fd >= 0) {
        // SAFETY: this batch opened it, and nobody else has it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

fn create(ground: &Ground, depth: usize) -> anyhow::Result<Timed> {
    let paths = paths(ground, depth, "created")?;
    let mut fds = Vec::with_capacity(BATCH);
    let timed = time(&paths, |path| {
        let fd = open_with(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
        fds.push(fd);
        fd
    });
    close_all(&fds);
    remove(&paths);
    timed
}

fn remove(paths: &[CString]) {
    for path in paths {
        // SAFETY: the path ends with NUL and lives through the call. What is not there need not go.
        unsafe { libc::unlink(path.as_ptr()) };
    }
}

/// Files that the ground's owner made before, as many as a batch.
fn standing(ground: &Ground, depth: usize) -> anyhow::Result<Vec<CString>> {
    paths(ground, depth, "standing")
}

fn unlink(ground: &Ground, depth: usize) -> anyhow::Result<Timed> {
    let paths = standing(ground, depth)?;
    // SAFETY: the path ends with NUL and lives through the call.
    let timed = time(&paths, |path| i64::from(unsafe { libc::unlink(path.as_ptr()) }))?;
    if timed.refused == 0 {
        ground.make_standing(depth)?;
    }
    Ok(timed)
}

fn rename(ground: &Ground, depth: usize) -> anyhow::Result<Timed> {
    let pairs: Vec<(CString, CString)> =
        standing(ground, depth)?.into_iter().zip(paths(ground, depth, "renamed")?).collect();
    // SAFETY: both paths end with NUL and live through the call.
    let call = |from: &CString, to: &CString| i64::from(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) });
    let timed = time(&pairs, |(from, to)| call(from, to))?;
    for (from, to) in &pairs {
        call(to, from);
    }
    Ok(timed)
}

fn open(ground: &Ground, depth: usize) -> anyhow::Result<Timed> {
    let mut fds = Vec::with_capacity(BATCH);
    let timed = time(&standing(ground, depth)?, |path| {
        let fd = open_with(path, libc::O_RDONLY);
        fds.push(fd);
        fd
    });
    close_all(&fds);
    timed
}

fn stat(ground: &Ground, depth: usize) -> anyhow::Result<Timed> {
    // SAFETY: all zeroes is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with NUL and lives through the call, and so does the buffer.
    time(&standing(ground, depth)?, |path| i64::from(unsafe { libc::stat(path.as_ptr(), &raw mut stat) }))
}

fn read(ground: &Ground, _: usize) -> anyhow::Result<Timed> {
    let file = fs::File::open(&ground.data)?;
    let mut buffer = [0u8; 64];
    time(&[(); BATCH], |()| {
        // SAFETY: the buffer lives through the call.
        (unsafe { libc::pread(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) }) as i64
    })
}

fn write(ground: &Ground, _: usize) -> anyhow::Result<Timed> {
    let file = match fs::OpenOptions::new().write(true).open(&ground.data) {
        Ok(file) => file,
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            return Ok(Timed { total: Duration::ZERO, calls: 0, refused: 1 });
        }
        Err(e) => return Err(e.into()),
    };
    let buffer = [7u8; 64];
    time(&[(); BATCH], |()| {
        // SAFETY: the buffer lives through the call.
        (unsafe { libc::pwrite(file.as_raw_fd(), buffer.as_ptr().cast(), buffer.len(), 0) }) as i64
    })
}

/// Tries so often to delete a file.
///
/// # Errors
/// When one of them is not refused.
pub(super) fn refused_deletes(ground: &Ground, count: u64) -> anyhow::Result<()> {
    let path = c(&ground.dir(3).join("standing-0"))?;
    for _ in 0..count {
        // SAFETY: the path ends with NUL and lives through the call.
        ensure!(unsafe { libc::unlink(path.as_ptr()) } != 0, "it was deleted");
        let error = io::Error::last_os_error();
        ensure!(error.raw_os_error() == Some(libc::EPERM), "a call failed: {error}");
    }
    Ok(())
}

/// A socket address of loopback.
fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}

const SOCKADDR_LEN: u32 = 16;

fn socket(kind: i32) -> anyhow::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is new and nobody else's.
    unsafe {
        let fd = libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            bail!("socket: {}", io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn connect(ground: &Ground, _: usize) -> anyhow::Result<Timed> {
    let target = loopback(ground.tcp);
    let sockets: Vec<OwnedFd> = (0..BATCH).map(|_| socket(libc::SOCK_STREAM)).collect::<anyhow::Result<_>>()?;
    let timed = time(&sockets, |socket| {
        // SAFETY: the address lives through the call.
        i64::from(unsafe { libc::connect(socket.as_raw_fd(), (&raw const target).cast(), SOCKADDR_LEN) })
    });
    drain()?;
    timed
}

fn sendto(ground: &Ground, _: usize) -> anyhow::Result<Timed> {
    let target = loopback(ground.udp);
    let sender = socket(libc::SOCK_DGRAM)?;
    let text = *b"x";
    let timed = time(&[(); BATCH], |()| {
        // SAFETY: the buffer and the address live through the call.
        (unsafe {
            libc::sendto(
                sender.as_raw_fd(),
                text.as_ptr().cast(),
                text.len(),
                0,
                (&raw const target).cast(),
                SOCKADDR_LEN,
            )
        }) as i64
    });
    drain()?;
    timed
}
