//! Ways to do an act: by another task, in other namespaces, from another place.

use std::io::Write as _;

use libc::{CLONE_VFORK, CLONE_VM};

use super::{
    Act, Failure, file, perform as perform_act,
    sys::{self, c, prepare},
    worker::wait,
};

/// The families' entry: everything here takes an act as its last words.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("fork", act) => fork(|| super::status(act)),
        ("double-fork", act) => orphan(act),
        ("vfork", act) => vfork(act),
        ("thread", act) => in_thread(act),
        ("setsid", act) => fork(|| {
            // SAFETY: no pointers.
            match prepare("setsid", unsafe { libc::setsid() }) {
                Ok(_) => super::status(act),
                Err(_) => super::BROKEN,
            }
        }),
        ("own-files", act) => {
            // SAFETY: no pointers.
            prepare("unshare", unsafe { libc::unshare(libc::CLONE_FILES) }).and_then(|_| super::perform(act))
        }
        ("unshare", [namespaces, act @ ..]) => unshare(namespaces, act),
        ("chroot", [dir, act @ ..]) => chroot(dir).and_then(|()| perform_act(act)),
        ("cd", [dir, act @ ..]) => file::chdir(dir).and_then(|()| perform_act(act)),
        ("bind", [from, to, act @ ..]) => bind(from, to).and_then(|()| perform_act(act)),
        ("thread-then-into-cgroup", [dir, act @ ..]) => moved_under_a_thread(dir, act),
        ("thread-then-through-cgroup", [dir, to, act @ ..]) => moved_through_under_a_thread(dir, to, act),
        ("into-cgroup", [dir, act @ ..]) => into_cgroup(dir, act),
        ("born-in-cgroup", [dir, act @ ..]) => born_in_cgroup(dir, act),
        ("user", [uid, act @ ..]) => sys::number(uid).and_then(|uid| {
            // SAFETY: no pointers.
            prepare("setresuid", unsafe { libc::setresuid(uid, uid, uid) })?;
            perform_act(act)
        }),
        ("crowd", [count]) => sys::number(count).and_then(crowd),
        ("repeat", [times, act @ ..]) => sys::number(times).and_then(|times: u32| {
            for _ in 0..times {
                perform_act(act)?;
            }
            Ok(())
        }),
        _ => return None,
    })
}

/// The result behind a child's exit status.
fn of_status(status: i32) -> Act {
    match status {
        0 => Ok(()),
        status if status == i32::from(super::BROKEN) => Err(Failure::broken("in a child")),
        errno => Err(Failure::Errno(errno)),
    }
}

fn fork(body: impl FnOnce() -> u8) -> Act {
    // SAFETY: an act runs in a process with one thread.
    match prepare("fork", unsafe { libc::fork() })? {
        0 => {
            let status = body();
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(i32::from(status)) }
        }
        child => of_status(wait(sys::fd(child))),
    }
}

/// Does one thing in a child while the parent does the other; both must succeed, and the child's failure is told first.
pub(super) fn fork_and(in_child: impl FnOnce() -> Act, here: impl FnOnce() -> Act) -> Act {
    // SAFETY: an act runs in a process with one thread.
    match prepare("fork", unsafe { libc::fork() })? {
        0 => {
            let status = of_act(&in_child());
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        child => {
            let child = sys::fd(child);
            // A child that fails has nobody to talk to here: it is waited for first, with what it said still there.
            of_status(wait(child))?;
            here()
        }
    }
}

/// Does one thing here while a child does another, which is waited for last.
pub(super) fn fork_and_then(in_child: impl FnOnce() -> Act, here: impl FnOnce() -> Act) -> Act {
    // SAFETY: an act runs in a process with one thread.
    match prepare("fork", unsafe { libc::fork() })? {
        0 => {
            let status = of_act(&in_child());
            let _ = std::io::Write::flush(&mut std::io::stdout());
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        child => here().and(of_status(wait(sys::fd(child)))),
    }
}

/// An act's result as an exit status.
fn of_act(act: &Act) -> i32 {
    match act {
        Ok(()) => 0,
        Err(Failure::Errno(errno)) => *errno,
        Err(Failure::Broken(_)) => i32::from(super::BROKEN),
    }
}

/// A grandchild that init adopts before it acts; it tells its result by a pipe.
fn orphan(act: &[&str]) -> Act {
    let mut pipe = [0; 2];
    // SAFETY: the array takes the descriptors.
    prepare("pipe", unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) })?;
    fork(|| {
        // SAFETY: as in `fork`.
        if unsafe { libc::fork() } == 0 {
            // SAFETY: no pointers; until the parent has ended and init has taken its place.
            while unsafe { libc::getppid() } != 1 {
                std::thread::yield_now();
            }
            let status = [super::status(act)];
            // SAFETY: the buffer lives through the call.
            unsafe {
                libc::write(pipe[1], status.as_ptr().cast(), 1);
                libc::_exit(0)
            }
        }
        0
    })?;
    // A program that is executed closes the pipe and leaves this 0.
    let mut status = [0_u8];
    // SAFETY: as above; without the closing, the read would wait for ourselves.
    unsafe {
        libc::close(pipe[1]);
        libc::read(pipe[0], status.as_mut_ptr().cast(), 1);
    }
    of_status(status[0].into())
}

/// A child that shares memory, while this thread waits.
fn vfork(act: &[&str]) -> Act {
    const STACK: usize = 256 << 10;
    extern "C" fn child(act: *mut libc::c_void) -> i32 {
        // SAFETY: the parent waits in clone until the child is done, so what it lent is alive.
        let act = unsafe { *act.cast::<&[&str]>() };
        i32::from(super::status(act))
    }
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let mut act = act;
    let flags = CLONE_VM | CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack and the act outlive the child, which runs while this thread stands still.
    let child = unsafe { libc::clone(child, stack.as_mut_ptr_range().end.cast(), flags, (&raw mut act).cast()) };
    of_status(wait(sys::fd(prepare("clone", child)?)))
}

fn in_thread(act: &[&str]) -> Act {
    std::thread::scope(|scope| scope.spawn(|| perform_act(act)).join())
        .unwrap_or_else(|_| Err(Failure::broken("the thread panicked")))
}

/// New namespaces, and in them a child, which a new pid namespace takes to begin.
fn unshare(namespaces: &str, act: &[&str]) -> Act {
    let mut flags = 0;
    for name in namespaces.split(',') {
        flags |= match name {
            "user" | "root" => libc::CLONE_NEWUSER,
            "pid" => libc::CLONE_NEWPID,
            "mount" => libc::CLONE_NEWNS,
            "cgroup" => libc::CLONE_NEWCGROUP,
            "uts" => libc::CLONE_NEWUTS,
            "ipc" => libc::CLONE_NEWIPC,
            other => return Err(Failure::broken(format!("no namespace {other}"))),
        };
    }
    // SAFETY: no pointers.
    prepare("unshare", unsafe { libc::unshare(flags) })?;
    if namespaces.split(',').any(|name| name == "root") {
        // Root here is root there.
        for (file, map) in [("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")] {
            std::fs::write(format!("/proc/self/{file}"), map).map_err(|e| Failure::broken(format!("{file}: {e}")))?;
        }
    }
    if flags & libc::CLONE_NEWNS != 0 {
        // Our mounts must not reach the host.
        mount(None, "/", libc::MS_REC | libc::MS_PRIVATE)?;
    }
    fork(|| super::status(act))
}

fn chroot(dir: &str) -> Act {
    let dir = c(dir)?;
    // SAFETY: the path ends with NUL and lives through the call.
    prepare("chroot", unsafe { libc::chroot(dir.as_ptr()) })?;
    file::chdir("/")
}

fn bind(from: &str, to: &str) -> Act {
    mount(Some(from), to, libc::MS_BIND)
}

fn mount(from: Option<&str>, to: &str, flags: libc::c_ulong) -> Act {
    let (from, to) = (c(from.unwrap_or("none"))?, c(to)?);
    // SAFETY: as above; neither type nor data for these flags.
    let result = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    prepare("mount", result).map(drop)
}

/// Moves this process into a cgroup, then acts.
fn into_cgroup(dir: &str, act: &[&str]) -> Act {
    std::fs::write(format!("{dir}/cgroup.procs"), "0").map_err(Failure::broken)?;
    perform_act(act)
}

/// A thread that is there before the whole process moves, and acts afterwards.
fn moved_under_a_thread(dir: &str, act: &[&str]) -> Act {
    after_a_thread(
        || std::fs::write(format!("{dir}/cgroup.procs"), std::process::id().to_string()).map_err(Failure::broken),
        act,
    )
}

/// The same, where the process has moved on to another cgroup before the thread acts.
fn moved_through_under_a_thread(dir: &str, to: &str, act: &[&str]) -> Act {
    let open =
        |dir: &str| std::fs::File::options().write(true).open(format!("{dir}/cgroup.procs")).map_err(Failure::broken);
    // Both before either: who is in the first may not open the second.
    let lists = [open(dir)?, open(to)?];
    let pid = std::process::id().to_string();
    let moves = || lists.iter().try_for_each(|mut list| list.write_all(pid.as_bytes()).map_err(Failure::broken));
    after_a_thread(moves, act)
}

/// Does something while a thread waits, which acts afterwards.
fn after_a_thread(first: impl FnOnce() -> Act, act: &[&str]) -> Act {
    let (go, gone) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || match gone.recv() {
            Ok(()) => perform_act(act),
            Err(_) => Err(Failure::broken("the move failed")),
        });
        if first().is_ok() {
            let _ = go.send(());
        }
        drop(go);
        thread.join().unwrap_or_else(|_| Err(Failure::broken("the thread panicked")))
    })
}

/// A child that is in the cgroup from its first instruction.
fn born_in_cgroup(dir: &str, act: &[&str]) -> Act {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let dir = sys::open_dir(dir)?;
    // SAFETY: all zeroes is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = u64::try_from(dir).map_err(Failure::broken)?;
    // SAFETY: a plain fork in a process with one thread; the arguments live through the call.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match prepare("clone3", child)? {
        0 => {
            let status = super::status(act);
            // SAFETY: as in `fork`.
            unsafe { libc::_exit(i32::from(status)) }
        }
        child => of_status(wait(sys::fd(child))),
    }
}

/// Children that live as long as this process, which forks until it cannot; the first goes on trying, so that there is no
/// room for anybody else. The errno of the first fork that failed.
fn crowd(count: u32) -> Act {
    // SAFETY: no pointers.
    let parent = unsafe { libc::getpid() };
    for n in 0..count {
        // SAFETY: an act runs in a process with one thread.
        if sys::check(unsafe { libc::fork() })? != 0 {
            continue;
        }
        // SAFETY: no pointers; nothing is to be cleaned up, and a child of this one waits like it.
        unsafe {
            libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
            let mut tries = n == 0;
            while libc::kill(parent, 0) == 0 {
                if tries && libc::fork() == 0 {
                    tries = false;
                }
                libc::usleep(20_000);
            }
            libc::_exit(0)
        }
    }
    Ok(())
}
