//! Acts upon the host that pass no hook but a capability's, each in a form that changes nothing where it succeeds; and message
//! queues.

use super::{
    Act, Failure,
    sys::{c, check, fd, prepare},
    tty::{Low, call_32},
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("reboot", []) => reboot(),
        ("delete-module", []) => delete_module(),
        ("adjust-clock", [call]) => adjust_clock(call),
        ("swapoff", []) => swapoff(),
        ("swapoff-32", []) => swapoff_32(),
        ("same-name", [which]) => same_name(which),
        ("set-quota", [dir]) => set_quota(dir),
        ("watch-opens", []) => {
            /// Whoever opens what is watched waits for an answer.
            const FAN_CLASS_CONTENT: libc::c_uint = 4;
            // SAFETY: no pointers.
            check(unsafe { libc::fanotify_init(FAN_CLASS_CONTENT, 0) }).map(drop)
        }
        // SAFETY: no pointers.
        ("hang-up", []) => check(unsafe { libc::syscall(libc::SYS_vhangup) }).map(drop),
        ("mount-read-only", [at]) => set_mount(at),
        ("tree-read-only", [at]) => set_tree(at),
        ("mq-create", [queue]) => open_queue(queue, libc::O_RDONLY | libc::O_CREAT | libc::O_EXCL),
        ("mq-read", [queue]) => open_queue(queue, libc::O_RDONLY),
        ("mq-write", [queue]) => open_queue(queue, libc::O_WRONLY),
        ("mq-unlink", [queue]) => c(queue).and_then(|queue| {
            // SAFETY: the name ends with NUL and lives through the call.
            check(unsafe { libc::syscall(libc::SYS_mq_unlink, queue.as_ptr()) }).map(drop)
        }),
        _ => return None,
    })
}

/// Lets the keys restart the machine, as they do anyway.
fn reboot() -> Act {
    // SAFETY: no pointers.
    check(unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_CAD_ON) }).map(drop)
}

fn delete_module() -> Act {
    // SAFETY: the name ends with NUL and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_delete_module, c"no_such_module".as_ptr(), libc::O_NONBLOCK) }).map(drop)
}

/// Shifts the clock by nothing.
fn adjust_clock(call: &str) -> Act {
    // SAFETY: all zeroes is a valid adjustment, and lives through the call.
    unsafe {
        let mut adjustment: libc::timex = std::mem::zeroed();
        adjustment.modes = libc::ADJ_OFFSET_SINGLESHOT;
        let adjusted = if call == "adjtimex" {
            libc::adjtimex(&raw mut adjustment)
        } else {
            libc::clock_adjtime(libc::CLOCK_REALTIME, &raw mut adjustment)
        };
        check(adjusted).map(drop)
    }
}

fn swapoff() -> Act {
    // SAFETY: the path ends with NUL and lives through the call.
    check(unsafe { libc::swapoff(c"/no/such/swap".as_ptr()) }).map(drop)
}

/// The same by the entry for 32-bit programs, where it has another number.
fn swapoff_32() -> Act {
    /// Of `arch/x86/entry/syscalls/syscall_32.tbl`.
    const SWAPOFF: u32 = 115;
    let path = Low::holding(c"/no/such/swap".to_bytes_with_nul())?;
    call_32(SWAPOFF, [path.0, 0, 0]).map(drop)
}

/// Gives the host, or its domain, the name that it has.
fn same_name(which: &str) -> Act {
    // SAFETY: all zeroes is a valid name; it lives through the calls.
    unsafe {
        let mut names: libc::utsname = std::mem::zeroed();
        prepare("uname", libc::uname(&raw mut names))?;
        let (name, set): (_, unsafe extern "C" fn(_, _) -> _) = if which == "host" {
            (&names.nodename, libc::sethostname)
        } else {
            (&names.domainname, libc::setdomainname)
        };
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(0);
        check(set(name.as_ptr(), length)).map(drop)
    }
}

/// Sets the quota of a user on a filesystem that counts none.
fn set_quota(dir: &str) -> Act {
    const QUOTACTL_FD: libc::c_long = 443;
    /// `Q_SETQUOTA`, of users.
    const SET_USER: u32 = 0x0080_0008 << 8;
    let dir = c(dir)?;
    let quota = [0_u64; 16];
    // SAFETY: the path ends with NUL; the quota is as large as `struct if_dqblk` and more, and lives through the call.
    unsafe {
        let dir = fd(prepare("open", libc::open(dir.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY))?);
        check(libc::syscall(QUOTACTL_FD, dir, SET_USER, 1000, quota.as_ptr())).map(drop)
    }
}

/// `struct mount_attr`: to set, to clear, propagation, user namespace.
const READ_ONLY: [u64; 4] = [1, 0, 0, 0];

/// Makes a mount read-only by `mount_setattr`.
fn set_mount(at: &str) -> Act {
    let at = c(at)?;
    let attributes = READ_ONLY;
    // SAFETY: path and attributes live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            at.as_ptr(),
            0,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

/// The same by `open_tree_attr`, since 6.15.
fn set_tree(at: &str) -> Act {
    const OPEN_TREE_ATTR: libc::c_long = 467;
    let at = c(at)?;
    let attributes = READ_ONLY;
    // SAFETY: as above.
    check(unsafe {
        libc::syscall(OPEN_TREE_ATTR, libc::AT_FDCWD, at.as_ptr(), 0, attributes.as_ptr(), size_of_val(&attributes))
    })
    .map(drop)
}

/// Opens a message queue; its name is without the slash that the library takes away.
fn open_queue(queue: &str, flags: i32) -> Result<(), Failure> {
    let queue = c(queue)?;
    // SAFETY: the name ends with NUL and lives through the call; without attributes the kernel takes its own.
    check(unsafe { libc::syscall(libc::SYS_mq_open, queue.as_ptr(), flags, 0o600, 0) }).map(drop)
}
