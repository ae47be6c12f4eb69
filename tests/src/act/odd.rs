//! Calls that few programs make and that change files all the same.

use libc::AT_FDCWD;

use super::{
    Act, Failure, file,
    sys::{self, c, check, fd, prepare},
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("set-acl", [path]) => set_acl(path),
        ("remove-acl", [path]) => c(path).and_then(|path| {
            // SAFETY: the strings end with NUL and live through the call.
            check(unsafe { libc::removexattr(path.as_ptr(), c"system.posix_acl_access".as_ptr()) }).map(drop)
        }),
        ("tmpfile-link", [dir, path]) => tmpfile_link(dir, path),
        ("append-by-handle", [path, text]) => open_by_handle(path).and_then(|fd| file::write(fd, text)),
        ("chattr", [path]) => chattr(path),
        ("has-noatime", [path]) => flags(path)
            .and_then(|(_, flags)| if flags & NOATIME == 0 { Err(Failure::Errno(libc::ENODATA)) } else { Ok(()) }),
        ("acct", [path]) => c(path).and_then(|path| {
            // SAFETY: the path ends with NUL and lives through the call.
            check(unsafe { libc::acct(path.as_ptr()) }).map(drop)
        }),
        ("swapon", [path]) => c(path).and_then(|path| {
            // SAFETY: as above.
            check(unsafe { libc::swapon(path.as_ptr(), 0) }).map(drop)
        }),
        ("clone-range", [from, to]) => copy(from, to),
        ("freeze", [path]) => of_filesystem(path, FIFREEZE),
        ("thaw", [path]) => of_filesystem(path, FITHAW),
        _ => return None,
    })
}

/// Gives user 1000 read access by an access control list.
fn set_acl(path: &str) -> Act {
    // `struct posix_acl_xattr_header` and its entries: tag, permissions, id.
    const VERSION: u32 = 2;
    const ANYBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, ANYBODY), (2, 4, 1000), (4, 4, ANYBODY), (16, 4, ANYBODY), (32, 4, ANYBODY)];
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let path = c(path)?;
    let name = c"system.posix_acl_access";
    // SAFETY: the strings end with NUL; everything lives through the call.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), list.as_ptr().cast(), list.len(), 0) }).map(drop)
}

/// Makes a file without a name in `dir` and gives it one.
fn tmpfile_link(dir: &str, path: &str) -> Act {
    let (dir, path) = (c(dir)?, c(path)?);
    // SAFETY: the path ends with NUL and lives through the call.
    let file = check(unsafe { libc::open(dir.as_ptr(), libc::O_TMPFILE | libc::O_WRONLY, 0o644) }).map(fd)?;
    let own = c(&format!("/proc/self/fd/{file}"))?;
    // SAFETY: as above, both paths.
    check(unsafe { libc::linkat(AT_FDCWD, own.as_ptr(), AT_FDCWD, path.as_ptr(), libc::AT_SYMLINK_FOLLOW) }).map(drop)
}

/// Opens a file for appending without its path.
fn open_by_handle(path: &str) -> Result<i32, Failure> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0_i32;
    let (name, root) = (c(path)?, sys::open_dir_for_reading(path)?);
    // SAFETY: the handle has the room that it says it has; everything lives through the calls.
    unsafe {
        let handle = &raw mut handle;
        let named = libc::syscall(libc::SYS_name_to_handle_at, AT_FDCWD, name.as_ptr(), handle, &raw mut mount, 0);
        prepare("name_to_handle_at", named)?;
        check(libc::syscall(libc::SYS_open_by_handle_at, root, handle, libc::O_WRONLY | libc::O_APPEND)).map(fd)
    }
}

/// `FS_NOATIME_FL`.
const NOATIME: libc::c_long = 0x80;
/// `include/uapi/linux/fs.h`.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
const FITHAW: libc::c_ulong = 0xc004_5878;

/// An ioctl that acts upon a whole filesystem.
fn of_filesystem(path: &str, command: libc::c_ulong) -> Act {
    let root = sys::open_dir_for_reading(&format!("{path}/."))?;
    // SAFETY: the argument is not read.
    check(unsafe { libc::ioctl(root, command, 0) }).map(drop)
}

/// Opens a file for reading and reads its flags.
fn flags(path: &str) -> Result<(i32, libc::c_long), Failure> {
    const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
    let path = c(path)?;
    let mut flags = 0;
    // SAFETY: the path ends with NUL; the flags live through the call.
    unsafe {
        let file = fd(prepare("open", libc::open(path.as_ptr(), libc::O_RDONLY))?);
        prepare("FS_IOC_GETFLAGS", libc::ioctl(file, FS_IOC_GETFLAGS, &raw mut flags))?;
        Ok((file, flags))
    }
}

/// Sets a flag through a descriptor that is open for reading.
fn chattr(path: &str) -> Act {
    const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;
    let (file, flags) = flags(path)?;
    let flags = flags | NOATIME;
    // SAFETY: the flags live through the call.
    check(unsafe { libc::ioctl(file, FS_IOC_SETFLAGS, &raw const flags) }).map(drop)
}

/// Copies a file over the beginning of another within the kernel.
fn copy(from: &str, to: &str) -> Act {
    let (from, to) = (c(from)?, c(to)?);
    // SAFETY: the paths end with NUL and live through the calls.
    unsafe {
        let from = fd(prepare("open", libc::open(from.as_ptr(), libc::O_RDONLY))?);
        let to = fd(check(libc::open(to.as_ptr(), libc::O_WRONLY))?);
        let null = std::ptr::null_mut();
        check(libc::copy_file_range(from, null, to, null, 64, 0) as i64).map(drop)
    }
}
