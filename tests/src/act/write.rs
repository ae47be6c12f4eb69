//! Acts that change a file, its attributes or a directory by the less usual calls, by descriptors that are open for reading
//! alone, and from a directory's descriptor.

use libc::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW};

use super::{
    Act, Failure, file,
    sys::{self, c, check, fd, prepare},
};

/// An attribute that every filesystem of the tests keeps, on every kernel.
pub(crate) const ATTRIBUTE: &std::ffi::CStr = c"trusted.tests";
/// Who owns a file after `chown` and its like.
const NEW_OWNER: u32 = 1000;

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("set-attribute", [path]) => c(path).and_then(|path| {
            // SAFETY: the strings end with NUL; everything lives through the call.
            check(unsafe { libc::setxattr(path.as_ptr(), ATTRIBUTE.as_ptr(), c"x".as_ptr().cast(), 1, 0) }).map(drop)
        }),
        ("fset-attribute", [path]) => opened(path).and_then(|file| {
            // SAFETY: as above.
            check(unsafe { libc::fsetxattr(file, ATTRIBUTE.as_ptr(), c"x".as_ptr().cast(), 1, 0) }).map(drop)
        }),
        ("remove-attribute", [path]) => c(path).and_then(|path| {
            // SAFETY: as above.
            check(unsafe { libc::removexattr(path.as_ptr(), ATTRIBUTE.as_ptr()) }).map(drop)
        }),
        ("lremove-attribute", [path]) => c(path).and_then(|path| {
            // SAFETY: as above.
            check(unsafe { libc::lremovexattr(path.as_ptr(), ATTRIBUTE.as_ptr()) }).map(drop)
        }),
        ("fremove-attribute", [path]) => opened(path).and_then(|file| {
            // SAFETY: as above.
            check(unsafe { libc::fremovexattr(file, ATTRIBUTE.as_ptr()) }).map(drop)
        }),
        ("chown", [path]) => c(path).and_then(|path| {
            // SAFETY: as above.
            check(unsafe { libc::chown(path.as_ptr(), NEW_OWNER, NEW_OWNER) }).map(drop)
        }),
        ("lchown", [path]) => c(path).and_then(|path| {
            // SAFETY: as above.
            check(unsafe { libc::lchown(path.as_ptr(), NEW_OWNER, NEW_OWNER) }).map(drop)
        }),
        ("fchown", [path]) => opened(path).and_then(|file| {
            // SAFETY: no pointers.
            check(unsafe { libc::fchown(file, NEW_OWNER, NEW_OWNER) }).map(drop)
        }),
        ("fchownat", [path]) => by_directory(path, |dir, name| {
            // SAFETY: the name ends with NUL and lives through the call.
            unsafe { libc::fchownat(dir, name, NEW_OWNER, NEW_OWNER, AT_SYMLINK_NOFOLLOW) }
        }),
        ("fchownat-empty", [path]) => passed(path).and_then(|file| {
            // SAFETY: as above.
            check(unsafe { libc::fchownat(file, c"".as_ptr(), NEW_OWNER, NEW_OWNER, AT_EMPTY_PATH) }).map(drop)
        }),
        ("fchmod", [path]) => opened(path).and_then(|file| {
            // SAFETY: no pointers.
            check(unsafe { libc::fchmod(file, 0o600) }).map(drop)
        }),
        ("fchmodat", [path]) => by_directory(path, |dir, name| {
            // SAFETY: as above.
            unsafe { libc::fchmodat(dir, name, 0o600, 0) }
        }),
        ("utimensat", [path]) => c(path).and_then(|path| {
            // SAFETY: the times live through the call.
            check(unsafe { libc::utimensat(AT_FDCWD, path.as_ptr(), OLD.as_ptr(), AT_SYMLINK_NOFOLLOW) }).map(drop)
        }),
        ("futimens", [path]) => opened(path).and_then(|file| {
            // SAFETY: as above.
            check(unsafe { libc::futimens(file, OLD.as_ptr()) }).map(drop)
        }),
        ("touch", [path]) => c(path).and_then(|path| {
            // SAFETY: without times it is now.
            check(unsafe { libc::utimensat(AT_FDCWD, path.as_ptr(), std::ptr::null(), 0) }).map(drop)
        }),
        ("mkfifoat", [path]) => node(path, libc::S_IFIFO),
        ("mknod-socket", [path]) => node(path, libc::S_IFSOCK),
        ("mknod-file", [path]) => node(path, libc::S_IFREG),
        ("mkdirat", [path]) => by_directory(path, |dir, name| {
            // SAFETY: as above.
            unsafe { libc::mkdirat(dir, name, 0o755) }
        }),
        ("symlinkat", [to, path]) => c(to).and_then(|to| {
            by_directory(path, |dir, name| {
                // SAFETY: as above, both strings.
                unsafe { libc::symlinkat(to.as_ptr(), dir, name) }
            })
        }),
        ("link-of-descriptor", [from, path]) => passed(from).and_then(|from| {
            by_directory(path, |dir, name| {
                // SAFETY: as above.
                unsafe { libc::linkat(from, c"".as_ptr(), dir, name, AT_EMPTY_PATH) }
            })
        }),
        ("link-of-proc-fd", [from, path]) => passed(from).and_then(|from| {
            let from = c(&format!("/proc/self/fd/{from}"))?;
            by_directory(path, |dir, name| {
                // SAFETY: as above.
                unsafe { libc::linkat(AT_FDCWD, from.as_ptr(), dir, name, AT_SYMLINK_FOLLOW) }
            })
        }),
        ("create-through-link", [link]) => file::open(link, libc::O_CREAT | libc::O_WRONLY).map(drop),
        ("reopen-append", [path, text]) => {
            opened(path).and_then(|own| append(AT_FDCWD, &format!("/proc/self/fd/{own}"), text))
        }
        ("reopen-path-append", [path, text]) => {
            passed(path).and_then(|own| append(AT_FDCWD, &format!("/proc/self/fd/{own}"), text))
        }
        ("append-at", [dir, name, text]) => sys::open_dir(dir).and_then(|dir| append(dir, name, text)),
        ("append-from", [dir, name, text]) => sys::number(dir).and_then(|dir| append(dir, name, text)),
        ("read-from", [dir, name]) => sys::number(dir).and_then(|dir| open_at(dir, name, libc::O_RDONLY)).map(drop),
        ("read-at", [dir, name]) => sys::open_dir(dir).and_then(|dir| open_at(dir, name, libc::O_RDONLY)).map(drop),
        _ => return None,
    })
}

/// Long ago.
const OLD: [libc::timespec; 2] = [libc::timespec { tv_sec: 1, tv_nsec: 0 }, libc::timespec { tv_sec: 1, tv_nsec: 0 }];

/// Opens a file for reading, which is not what matters.
fn opened(path: &str) -> Result<i32, Failure> {
    let path = c(path)?;
    // SAFETY: the path ends with NUL and lives through the call.
    prepare("open", unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }).map(fd)
}

/// Opens a file for nothing, which nobody asks about.
fn passed(path: &str) -> Result<i32, Failure> {
    let path = c(path)?;
    // SAFETY: as above.
    prepare("open", unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }).map(fd)
}

/// A call that takes a directory's descriptor and a name in it.
fn by_directory(path: &str, call: impl FnOnce(i32, *const libc::c_char) -> i32) -> Act {
    let (dir, name) = path.rsplit_once('/').ok_or_else(|| Failure::broken("no directory"))?;
    let (dir, name) = (sys::open_dir(dir)?, c(name)?);
    check(call(dir, name.as_ptr())).map(drop)
}

fn node(path: &str, kind: libc::mode_t) -> Act {
    by_directory(path, |dir, name| {
        // SAFETY: the name ends with NUL and lives through the call.
        unsafe { libc::mknodat(dir, name, kind | 0o600, 0) }
    })
}

fn open_at(dir: i32, name: &str, flags: i32) -> Result<i32, Failure> {
    let name = c(name)?;
    // SAFETY: as above.
    check(unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC) }).map(fd)
}

fn append(dir: i32, name: &str, text: &str) -> Act {
    open_at(dir, name, libc::O_WRONLY | libc::O_APPEND).and_then(|file| file::write(file, text))
}
