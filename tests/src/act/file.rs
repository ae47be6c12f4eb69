//! Acts on files and directories.

use libc::{AT_FDCWD, AT_REMOVEDIR};

use super::{
    Act, Failure,
    sys::{self, c, check},
};

/// The families' entry: `None` for an act of another family.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("nothing", []) => Ok(()),
        ("unlink", [path]) => on_path(libc::SYS_unlink, path),
        ("rmdir", [path]) => on_path(libc::SYS_rmdir, path),
        ("unlinkat", [dir, name]) => sys::open_dir(dir).and_then(|dir| unlinkat(dir, name, 0)),
        ("unlinkat-fd", [fd, name]) => sys::number(fd).and_then(|fd| unlinkat(fd, name, 0)),
        ("rmdirat", [dir, name]) => sys::open_dir(dir).and_then(|dir| unlinkat(dir, name, AT_REMOVEDIR)),
        ("rename", [from, to]) => rename(from, to, 0),
        ("rename-noreplace", [from, to]) => rename(from, to, libc::RENAME_NOREPLACE),
        ("rename-exchange", [a, b]) => rename(a, b, libc::RENAME_EXCHANGE),
        ("rename-whiteout", [from, to]) => rename(from, to, libc::RENAME_WHITEOUT),
        ("link", [from, to]) => link(from, to),
        ("create", [path]) => open(path, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY).map(drop),
        ("read", [path]) => open(path, libc::O_RDONLY).map(drop),
        ("open-write", [path]) => open(path, libc::O_WRONLY).map(drop),
        ("open-truncate", [path]) => open(path, libc::O_WRONLY | libc::O_TRUNC).map(drop),
        ("truncate", [path]) => truncate(path, 0),
        ("shorten", [path]) => truncate(path, 1),
        ("ftruncate", [path]) => ftruncate(path),
        ("chmod", [path]) => change(path, |p| {
            // SAFETY: the path ends with NUL and lives through the call.
            unsafe { libc::chmod(p, 0o600) }
        }),
        ("setxattr", [path]) => change(path, |p| {
            // SAFETY: as above, and the value's buffer, too.
            unsafe { libc::setxattr(p, c"user.tests".as_ptr(), c"x".as_ptr().cast(), 1, 0) }
        }),
        ("ask-content", [path]) => ask_content(path),
        ("symlink", [to, path]) => symlink(to, path),
        ("mknod", [path]) => change(path, |p| {
            // SAFETY: as above.
            unsafe { libc::mknod(p, libc::S_IFIFO | 0o600, 0) }
        }),
        ("append", [path, text]) => append(path, text),
        ("write-fd", [fd, text]) => sys::number(fd).and_then(|fd| write(fd, text)),
        ("map-shared", [path]) => map_shared(path),
        ("unlink-each", [dir, threads]) => sys::number(threads).and_then(|threads| unlink_each(dir, threads)),
        ("mkdir", [path]) => mkdir(path),
        ("put", [path, text]) => put(path, text),
        ("deep", [path, depth]) => sys::number(depth).and_then(|depth| deep(path, depth)),
        ("unlink-deep", [path, depth]) => sys::number(depth).and_then(|depth| unlink_deep(path, depth)),
        ("unlink-many", [dir, threads, each]) => {
            sys::number(threads).and_then(|threads| unlink_many(dir, threads, sys::number(each)?))
        }
        _ => return None,
    })
}

fn on_path(call: i64, path: &str) -> Act {
    let path = c(path)?;
    // SAFETY: the path ends with NUL and lives through the call.
    check(unsafe { libc::syscall(call, path.as_ptr()) }).map(drop)
}

/// Asks what the daemon asks about the content of a file; no file has such an attribute, and nobody is answered.
fn ask_content(path: &str) -> Act {
    let path = c(path)?;
    for name in [c"security.enforcer", c"security.enforcer.v", c"security.enforcer.d"] {
        // SAFETY: path and name end with NUL and live through the call, which asks for a length alone.
        let got = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
        let error = std::io::Error::last_os_error().raw_os_error();
        if got >= 0 || !matches!(error, Some(libc::ENODATA | libc::EOPNOTSUPP)) {
            return Err(Failure::broken(format!("{} has {name:?}: {got}, {error:?}", path.to_string_lossy())));
        }
    }
    Ok(())
}

fn unlinkat(dir: i32, name: &str, flags: i32) -> Act {
    let name = c(name)?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_unlinkat, dir, name.as_ptr(), flags) }).map(drop)
}

fn rename(from: &str, to: &str, flags: u32) -> Act {
    let (from, to) = (c(from)?, c(to)?);
    // SAFETY: as above, both paths.
    check(unsafe { libc::syscall(libc::SYS_renameat2, AT_FDCWD, from.as_ptr(), AT_FDCWD, to.as_ptr(), flags) })
        .map(drop)
}

fn link(from: &str, to: &str) -> Act {
    let (from, to) = (c(from)?, c(to)?);
    // SAFETY: as above, both paths.
    check(unsafe { libc::syscall(libc::SYS_linkat, AT_FDCWD, from.as_ptr(), AT_FDCWD, to.as_ptr(), 0) }).map(drop)
}

/// Opens; the descriptor lives as long as this process.
pub(super) fn open(path: &str, flags: i32) -> Result<i32, Failure> {
    let path = c(path)?;
    // SAFETY: as above.
    check(unsafe { libc::openat(AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0o644) }).map(sys::fd)
}

fn truncate(path: &str, size: i64) -> Act {
    let path = c(path)?;
    // SAFETY: as above.
    check(unsafe { libc::truncate(path.as_ptr(), size) }).map(drop)
}

fn ftruncate(path: &str) -> Act {
    let file = open(path, libc::O_WRONLY)?;
    // SAFETY: no pointers.
    check(unsafe { libc::ftruncate(file, 0) }).map(drop)
}

fn change(path: &str, call: impl FnOnce(*const libc::c_char) -> i32) -> Act {
    let path = c(path)?;
    check(call(path.as_ptr())).map(drop)
}

fn symlink(to: &str, path: &str) -> Act {
    let to = c(to)?;
    change(path, |path| {
        // SAFETY: as above, both paths.
        unsafe { libc::symlink(to.as_ptr(), path) }
    })
}

fn append(path: &str, text: &str) -> Act {
    write(open(path, libc::O_WRONLY | libc::O_APPEND)?, text)
}

/// Writes into a descriptor.
pub(super) fn write(fd: i32, text: &str) -> Act {
    // SAFETY: the buffer lives through the call.
    check(unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) } as i64).map(drop)
}

/// Writes a byte through a shared mapping.
fn map_shared(path: &str) -> Act {
    let file = open(path, libc::O_RDWR)?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of one page at an address of the kernel's choice.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_SHARED, file, 0) };
    if page == libc::MAP_FAILED {
        return Err(Failure::Errno(sys::errno()));
    }
    // SAFETY: the file has a byte, so the first page has backing.
    unsafe { page.cast::<u8>().write_volatile(b'!') };
    Ok(())
}

/// Removes every file of a directory, several threads at once, and prints how many went.
fn unlink_each(dir: &str, threads: usize) -> Act {
    let entries = std::fs::read_dir(dir).map_err(Failure::broken)?;
    let paths: Vec<String> = entries.flatten().map(|e| e.path().to_string_lossy().into_owned()).collect();
    let gone: usize = std::thread::scope(|scope| {
        let share = |paths: &[String]| paths.iter().filter(|p| on_path(libc::SYS_unlink, p).is_ok()).count();
        let running: Vec<_> =
            paths.chunks(paths.len().div_ceil(threads).max(1)).map(|part| scope.spawn(move || share(part))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    println!("{gone}");
    Ok(())
}

fn mkdir(path: &str) -> Act {
    let path = c(path)?;
    // SAFETY: as above.
    check(unsafe { libc::mkdir(path.as_ptr(), 0o755) }).map(drop)
}

/// Writes a text into a pseudo file such as `cgroup.procs`.
pub(super) fn put(path: &str, text: &str) -> Act {
    write(open(path, libc::O_WRONLY)?, text)
}

/// Makes `depth` directories, each in the one before, and a file in the last: longer than a path may be.
fn deep(path: &str, depth: u32) -> Act {
    chdir(path)?;
    for _ in 0..depth {
        mkdir("d")?;
        chdir("d")?;
    }
    open("leaf", libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY).map(drop)
}

/// Removes the file at the end of what `deep` made.
fn unlink_deep(path: &str, depth: u32) -> Act {
    chdir(path)?;
    for _ in 0..depth {
        chdir("d")?;
    }
    on_path(libc::SYS_unlink, "leaf")
}

/// Changes into a directory.
pub(super) fn chdir(path: &str) -> Act {
    let path = c(path)?;
    // SAFETY: as above.
    sys::prepare("chdir", unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

/// Tries to remove `victim` over and over from several threads; EPERM when that was every answer.
fn unlink_many(victim: &str, threads: u32, each: u32) -> Act {
    let victim = c(victim)?;
    let refused: u32 = std::thread::scope(|scope| {
        let attack = || {
            let refused = |_: &u32| {
                // SAFETY: as above.
                let result = unsafe { libc::syscall(libc::SYS_unlink, victim.as_ptr()) };
                result < 0 && sys::errno() == libc::EPERM
            };
            u32::try_from((0..each).filter(refused).count()).unwrap_or(u32::MAX)
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(attack)).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    if refused == threads * each {
        Err(Failure::Errno(libc::EPERM))
    } else {
        Err(Failure::broken(format!("{refused} of {} were refused", threads * each)))
    }
}
