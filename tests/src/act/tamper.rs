//! Acts on the kernel, the machine and the daemon.

use std::{fs::File, os::fd::FromRawFd as _};

use super::{
    Act, Failure, file,
    sys::{self, c, check, prepare},
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("bpf", [command]) => sys::number(command).and_then(bpf),
        ("perf-open", []) => perf_event().map(drop),
        ("init-module", []) => init_module(),
        ("finit-module", [path]) => file_into_kernel(libc::SYS_finit_module, path),
        ("kexec-file", [path]) => file_into_kernel(libc::SYS_kexec_file_load, path),
        ("kexec", []) => kexec(),
        ("ioperm", []) => ioperm(),
        ("mknod-device", [path, kind, major, minor]) => mknod(path, kind, major, minor),
        ("set-clock", []) => set_clock(),
        ("mount", [kind, at]) => mount(kind, kind, at, 0),
        ("bind-mount", [from, at]) => mount(from, "none", at, libc::MS_BIND),
        ("bind-private", [from, at]) => mount(from, "none", at, libc::MS_BIND | libc::MS_PRIVATE),
        ("bind-slave", [from, at]) => mount(from, "none", at, libc::MS_BIND | libc::MS_REC | libc::MS_SLAVE),
        ("make-private", [at]) => mount("none", "none", at, libc::MS_PRIVATE),
        ("move-mount", [from, at]) => mount(from, "none", at, libc::MS_MOVE),
        ("remount", [at]) => mount("none", "none", at, libc::MS_REMOUNT | libc::MS_RDONLY),
        ("umount", [at]) => umount(at),
        ("new-mount", [kind, at]) => new_mount(kind, at),
        ("serve-fuse", [at]) => serve(at),
        ("pivot", [root]) => pivot(root),
        ("limit", [pid]) => sys::number(pid).and_then(limit),
        ("nice", [pid]) => sys::number(pid).and_then(|pid: u32| {
            // SAFETY: no pointers.
            check(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid, 19) }).map(drop)
        }),
        ("ionice", [pid]) => sys::number(pid).and_then(|pid: i32| {
            // SAFETY: no pointers; the class "idle" of one process.
            check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, pid, 3 << 13) }).map(drop)
        }),
        ("idle", [pid]) => sys::number(pid).and_then(schedule_idle),
        ("move-memory", [pid]) => sys::number(pid).and_then(move_memory),
        ("pin-to-cpu", [pid]) => sys::number(pid).and_then(pin_to_cpu),
        ("mounted", [kind, at, act @ ..]) => mount(kind, kind, at, 0).and_then(|()| super::perform(act)),
        ("unshare-shared", act) => unshare_shared(act),
        _ => return None,
    })
}

/// A command of `bpf(2)` with a zeroed argument: without self-protection whatever else but EPERM.
fn bpf(command: i64) -> Act {
    let mut attr = [0_u64; 16];
    // SAFETY: the argument is writable memory of the size that is given.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) }).map(drop)
}

/// A map of one word.
pub(crate) fn new_map() -> Result<File, Failure> {
    // Type "array", sizes of key and value, one element.
    let mut attr = [0_u32; 32];
    attr[..4].copy_from_slice(&[2, 4, 4, 1]);
    // SAFETY: the argument is writable memory of the size that is given; the call makes a descriptor that nobody else has.
    unsafe {
        let map = check(libc::syscall(libc::SYS_bpf, 0, attr.as_mut_ptr(), size_of_val(&attr)))?;
        Ok(File::from_raw_fd(sys::fd(map)))
    }
}

/// A software event of the first processor. One of a process's own would switch a branch in the scheduler
/// (`kernel/events/core.c: perf_sched_events`), and patching that under emulation has killed a guest.
pub(super) fn perf_event() -> Result<File, Failure> {
    // `PERF_TYPE_SOFTWARE` in the type's place, the size behind it.
    let mut attr = [0_u32; 32];
    attr[..2].copy_from_slice(&[1, 128]);
    // SAFETY: the attributes are memory of the size that is given; the call makes a descriptor that nobody else has.
    unsafe {
        let event = check(libc::syscall(libc::SYS_perf_event_open, attr.as_mut_ptr(), -1, 0, -1, 0))?;
        Ok(File::from_raw_fd(sys::fd(event)))
    }
}

/// A module that is none: ENOEXEC where modules may be loaded.
fn init_module() -> Act {
    let image = [0_u8; 4096];
    // SAFETY: image and parameters live through the call.
    check(unsafe { libc::syscall(libc::SYS_init_module, image.as_ptr(), image.len(), c"".as_ptr()) }).map(drop)
}

/// A file that is neither module nor kernel: ENOEXEC where it may be loaded.
fn file_into_kernel(call: i64, path: &str) -> Act {
    let path = c(path)?;
    // SAFETY: the path ends with NUL and lives through the call.
    let file = prepare("open", unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) })?;
    // SAFETY: both calls take descriptor, and then numbers and strings that live through the call; there is no initrd.
    let result = unsafe {
        if call == libc::SYS_finit_module {
            libc::syscall(call, file, c"".as_ptr(), 0)
        } else {
            const NO_INITRAMFS: u64 = 4;
            libc::syscall(call, file, -1, 1, c"".as_ptr(), NO_INITRAMFS)
        }
    };
    check(result).map(drop)
}

/// Takes back a kernel that was never loaded.
fn kexec() -> Act {
    // SAFETY: no segments are given.
    check(unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, std::ptr::null::<u8>(), 0) }).map(drop)
}

fn ioperm() -> Act {
    // SAFETY: no pointers; a port that is used for delays alone.
    check(unsafe { libc::syscall(libc::SYS_ioperm, 0x80, 1, 1) }).map(drop)
}

fn mknod(path: &str, kind: &str, major: &str, minor: &str) -> Act {
    let path = c(path)?;
    let kind = if kind == "b" { libc::S_IFBLK } else { libc::S_IFCHR };
    let device = libc::makedev(sys::number(major)?, sys::number(minor)?);
    // SAFETY: the path ends with NUL and lives through the call.
    check(unsafe { libc::mknod(path.as_ptr(), kind | 0o600, device) }).map(drop)
}

/// Sets the clock to what it shows.
fn set_clock() -> Act {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time lives through both calls.
    unsafe {
        prepare("clock_gettime", libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now))?;
        check(libc::clock_settime(libc::CLOCK_REALTIME, &raw const now)).map(drop)
    }
}

fn mount(from: &str, kind: &str, at: &str, flags: libc::c_ulong) -> Act {
    let (from, kind, at) = (c(from)?, c(kind)?, c(at)?);
    // SAFETY: the strings live through the call, and there is no data.
    check(unsafe { libc::mount(from.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) }).map(drop)
}

/// Mounts a filesystem whose server this process is. It never answers.
fn serve(at: &str) -> Act {
    let server = file::open("/dev/fuse", libc::O_RDWR).map_err(|_| Failure::broken("/dev/fuse"))?;
    let options = c(&format!("fd={server},rootmode=40000,user_id=0,group_id=0"))?;
    let at = c(at)?;
    let (kind, flags) = (c"fuse", libc::MS_NOSUID | libc::MS_NODEV);
    // SAFETY: the strings live through the call.
    check(unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) }).map(drop)
}

fn umount(at: &str) -> Act {
    let at = c(at)?;
    // SAFETY: the path lives through the call.
    check(unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Mounts by `fsopen`, `fsmount` and `move_mount`; the first that is refused counts.
fn new_mount(kind: &str, at: &str) -> Act {
    const CMD_CREATE: u32 = 6;
    const FROM_EMPTY_PATH: u32 = 4;
    let (kind, at) = (c(kind)?, c(at)?);
    // SAFETY: the strings live through the calls; the null pointers stand for keys and values that the command has none of.
    unsafe {
        let context = prepare("fsopen", libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 0))?;
        let none = std::ptr::null::<u8>();
        check(libc::syscall(libc::SYS_fsconfig, context, CMD_CREATE, none, none, 0))?;
        let made = check(libc::syscall(libc::SYS_fsmount, context, 0, 0))?;
        check(libc::syscall(libc::SYS_move_mount, made, c"".as_ptr(), libc::AT_FDCWD, at.as_ptr(), FROM_EMPTY_PATH))
            .map(drop)
    }
}

/// Makes a mount point the root and what was the root go away, as containers begin.
fn pivot(root: &str) -> Act {
    file::chdir(root)?;
    // SAFETY: the paths live through the calls.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH)).map(drop)
    }
}

/// Bounds the open files of another process.
fn limit(pid: i32) -> Act {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives through both calls.
    unsafe {
        prepare("getrlimit", libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut now))?;
        check(libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const now, std::ptr::null_mut())).map(drop)
    }
}

fn schedule_idle(pid: i32) -> Act {
    // SAFETY: all zeroes is a valid parameter.
    let parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the parameter lives through the call.
    check(unsafe { libc::sched_setscheduler(pid, libc::SCHED_IDLE, &raw const parameter) }).map(drop)
}

/// Moves the pages of a process from the first node of memory to itself.
fn move_memory(pid: i32) -> Act {
    const NODES: libc::c_ulong = 64;
    let first: libc::c_ulong = 1;
    // SAFETY: both masks have as many bits as is said, and live through the call.
    let moved = unsafe { libc::syscall(libc::SYS_migrate_pages, pid, NODES, &raw const first, &raw const first) };
    check(moved).map(drop)
}

fn pin_to_cpu(pid: i32) -> Act {
    // SAFETY: all zeroes is an empty set, and the set lives through the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        check(libc::sched_setaffinity(pid, size_of_val(&set), &raw const set)).map(drop)
    }
}

/// A mount namespace that still shares the host's shared mounts.
fn unshare_shared(act: &[&str]) -> Act {
    // SAFETY: no pointers.
    prepare("unshare", unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    super::perform(act)
}
