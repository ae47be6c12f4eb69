//! Acts that make code out of something else than an executed program. Code that runs says so.

use std::{fs, os::fd::AsRawFd as _, path::Path, ptr, time::Duration};

use libc::{
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE, c_int, c_ulong, c_void,
};

use super::{
    Act, Failure, file,
    sys::{self, check, prepare},
    tty,
};
use crate::harness::eventually;

/// What code that was made prints.
pub(crate) const RAN: &str = "the code ran";

const PAGE: usize = 4096;

/// A function that returns [`ANSWER`].
#[cfg(target_arch = "x86_64")]
const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];
#[cfg(target_arch = "aarch64")]
const CODE: [u8; 8] = [0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6];
const ANSWER: i32 = 42;

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("map-code", [path]) => map_file(path, PROT_READ | PROT_EXEC, MAP_PRIVATE).map(drop),
        ("map-code-shared", [path]) => map_file(path, PROT_READ | PROT_EXEC, MAP_SHARED).map(drop),
        ("hold-code", [path, held, until]) => hold_code(path, held, until),
        ("map-writable-code", [path]) => map_file(path, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE).map(drop),
        ("map-code-while-writing", [path]) => {
            file::open(path, libc::O_WRONLY).and_then(|_| map_file(path, PROT_READ | PROT_EXEC, MAP_PRIVATE).map(drop))
        }
        ("map-then-protect", [path]) => {
            prepared(map_file(path, PROT_READ, MAP_PRIVATE)).and_then(|page| protect(page, PROT_READ | PROT_EXEC))
        }
        ("map-then-protect-shared", [path]) => {
            prepared(map_file(path, PROT_READ, MAP_SHARED)).and_then(|page| protect(page, PROT_READ | PROT_EXEC))
        }
        ("map-then-write-then-protect", [path]) => {
            prepared(map_file(path, PROT_READ | PROT_WRITE, MAP_PRIVATE)).and_then(write_and_protect)
        }
        ("anonymous", []) => {
            map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1).and_then(write_and_run)
        }
        ("anonymous-shared", []) => {
            map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1).and_then(write_and_run)
        }
        ("anonymous-then-protect", []) => {
            prepared(map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)).and_then(write_and_protect)
        }
        ("anonymous-then-pkey", []) => {
            prepared(map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)).and_then(|page| {
                write_code(page);
                // SAFETY: the page is ours; no key.
                check(unsafe { libc::syscall(libc::SYS_pkey_mprotect, page, PAGE, PROT_READ | PROT_EXEC, -1) })?;
                run(page)
            })
        }
        ("executed-then-written", []) => executed_then_written(),
        ("heap", []) => grown_heap().and_then(write_and_protect),
        ("stack", []) => stack(),
        ("zero-device", []) => file::open("/dev/zero", libc::O_RDWR)
            .and_then(|fd| map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, fd))
            .and_then(write_and_run),
        ("memfd-map", []) => memfd().and_then(|fd| map(PROT_READ | PROT_EXEC, MAP_PRIVATE, fd)).and_then(run),
        ("memfd-twice", []) => memfd().and_then(|fd| {
            prepared(map(PROT_READ | PROT_WRITE, MAP_SHARED, fd)).map(write_code)?;
            map(PROT_READ | PROT_EXEC, MAP_SHARED, fd).and_then(run)
        }),
        ("shared-memory", []) => shared_memory(),
        ("readable-is-executable", []) => readable_is_executable(false),
        ("readable-is-executable-32", []) => readable_is_executable(true),
        ("write-own-memory", []) => write_own_memory(),
        ("trace-child", []) => trace_child(),
        ("traced-by-parent", []) => traced_by_parent(),
        ("write-memory-of-child", []) => write_memory_of_child(),
        ("userfaultfd", []) => {
            const UFFD_USER_MODE_ONLY: c_int = 1;
            // SAFETY: no pointers.
            check(unsafe { libc::syscall(libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY) }).map(drop)
        }
        _ => return None,
    })
}

/// What fails here was not the act.
fn prepared<T>(step: Result<T, Failure>) -> Result<T, Failure> {
    step.map_err(|e| match e {
        Failure::Errno(errno) => Failure::broken(format!("errno {errno} before the act")),
        broken @ Failure::Broken(_) => broken,
    })
}

fn map(prot: c_int, flags: c_int, fd: c_int) -> Result<*mut u8, Failure> {
    // SAFETY: a new mapping of one page at an address of the kernel's choice.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, prot, flags, fd, 0) };
    if page == MAP_FAILED { Err(Failure::Errno(sys::errno())) } else { Ok(page.cast()) }
}

fn map_file(path: &str, prot: c_int, flags: c_int) -> Result<*mut u8, Failure> {
    let fd = prepared(file::open(path, libc::O_RDONLY))?;
    map(prot, flags, fd)
}

/// Keeps a mapping of a file as code, and no descriptor: makes the file `held` then, and waits for the file `until`.
fn hold_code(path: &str, held: &str, until: &str) -> Act {
    let file = fs::File::open(path).map_err(Failure::broken)?;
    map(PROT_READ | PROT_EXEC, MAP_PRIVATE, file.as_raw_fd())?;
    drop(file);
    fs::write(held, "").map_err(Failure::broken)?;
    if eventually(Duration::from_mins(1), || Path::new(until).exists()) {
        Ok(())
    } else {
        Err(Failure::broken("nobody has ended it"))
    }
}

fn protect(page: *mut u8, prot: c_int) -> Act {
    // SAFETY: the page is a mapping of ours that nothing else uses.
    check(unsafe { libc::mprotect(page.cast(), PAGE, prot) }).map(drop)
}

fn write_code(page: *mut u8) {
    // SAFETY: every caller hands over a writable page of its own.
    unsafe { ptr::copy_nonoverlapping(CODE.as_ptr(), page, CODE.len()) };
}

/// Runs the code at `page`.
fn run(page: *mut u8) -> Act {
    // SAFETY: `CODE` was written there: a function without arguments that returns an int and touches nothing.
    let code: extern "C" fn() -> i32 = unsafe { std::mem::transmute(page) };
    if code() == ANSWER {
        println!("{RAN}");
        Ok(())
    } else {
        Err(Failure::broken("something else ran"))
    }
}

fn write_and_run(page: *mut u8) -> Act {
    write_code(page);
    run(page)
}

fn write_and_protect(page: *mut u8) -> Act {
    write_code(page);
    protect(page, PROT_READ | PROT_EXEC)?;
    run(page)
}

/// Memory that is executable from the start and becomes writable later.
fn executed_then_written() -> Act {
    let page = map(PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1)?;
    prepared(protect(page, PROT_READ | PROT_WRITE))?;
    write_and_protect(page)
}

/// A page at the end of the heap, which `brk` has made.
fn grown_heap() -> Result<*mut u8, Failure> {
    // SAFETY: nothing in this process uses the break but the allocator, which only ever asks for more.
    let at = unsafe { libc::sbrk(2 * PAGE.cast_signed()) };
    if at == MAP_FAILED {
        return Err(Failure::broken("sbrk"));
    }
    Ok(at.cast::<u8>().map_addr(|a| a.next_multiple_of(PAGE)))
}

/// A page of the stack.
fn stack() -> Act {
    let mut room = [0u8; 3 * PAGE];
    let page = room.as_mut_ptr().map_addr(|a| a.next_multiple_of(PAGE));
    write_code(page);
    // The stack stays writable: this function goes on with it.
    protect(page, PROT_READ | PROT_WRITE | PROT_EXEC)?;
    run(page)
}

/// A memfd with the code.
fn memfd() -> Result<c_int, Failure> {
    // SAFETY: the name ends with NUL.
    let fd = sys::fd(prepare("memfd_create", unsafe { libc::memfd_create(c"code".as_ptr(), 0) })?);
    // SAFETY: the buffer lives through the call.
    prepare("write", unsafe { libc::write(fd, CODE.as_ptr().cast(), CODE.len()) } as i64)?;
    Ok(fd)
}

fn shared_memory() -> Act {
    const SHM_EXEC: c_int = 0o100_000;
    // SAFETY: no pointers; the segment goes with its last user.
    unsafe {
        let id = sys::fd(prepare("shmget", libc::shmget(libc::IPC_PRIVATE, PAGE, 0o700))?);
        let at = libc::shmat(id, ptr::null(), SHM_EXEC);
        let errno = sys::errno();
        libc::shmctl(id, libc::IPC_RMID, ptr::null_mut());
        if at == MAP_FAILED { Err(Failure::Errno(errno)) } else { write_and_run(at.cast()) }
    }
}

/// The heap grows executable once whatever is readable is.
fn readable_is_executable(by_entry_32: bool) -> Act {
    const READ_IMPLIES_EXEC: u32 = 0x0040_0000;
    /// Of `arch/x86/entry/syscalls/syscall_32.tbl`.
    const PERSONALITY: u32 = 136;
    if by_entry_32 {
        tty::call_32(PERSONALITY, [READ_IMPLIES_EXEC, 0, 0])?;
    } else {
        // SAFETY: no pointers.
        prepare("personality", unsafe { libc::personality(c_ulong::from(READ_IMPLIES_EXEC)) })?;
    }
    grown_heap().and_then(write_and_run)
}

/// A function of this program.
#[inline(never)]
extern "C" fn victim() -> i32 {
    std::hint::black_box(7)
}

/// Writes a page through `/proc/self/mem`. Opening the file is what is decided: through it the kernel writes whatever the
/// mapping's protection, unless it was built not to (`CONFIG_PROC_MEM_NO_FORCE` and its kin, since 6.12).
fn write_own_memory() -> Act {
    let memory = file::open("/proc/self/mem", libc::O_RDWR)?;
    let page = prepared(map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1))?;
    let at = libc::off_t::try_from(page as usize).map_err(Failure::broken)?;
    // SAFETY: the buffer lives through the call.
    check(unsafe { libc::pwrite(memory, CODE.as_ptr().cast(), CODE.len(), at) } as i64)?;
    // SAFETY: the page is ours and readable.
    let found = unsafe { std::slice::from_raw_parts(page, CODE.len()) };
    if found == CODE { Ok(()) } else { Err(Failure::broken("the memory is as it was")) }
}

/// A child that waits to be ended.
fn waiting_child() -> Result<c_int, Failure> {
    // SAFETY: an act runs in a process with one thread; the child only waits.
    match prepare("fork", unsafe { libc::fork() })? {
        0 => loop {
            // SAFETY: no pointers.
            unsafe { libc::pause() };
        },
        child => Ok(sys::fd(child)),
    }
}

fn end(child: c_int) {
    // SAFETY: the child is ours.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, ptr::null_mut(), libc::__WALL);
    }
}

/// Changes a function of a child by tracing it.
fn trace_child() -> Act {
    let child = waiting_child()?;
    // SAFETY: the child is ours and stopped before its memory is written; the address is that of a function in both.
    let result = unsafe {
        check(libc::ptrace(libc::PTRACE_ATTACH, child, 0, 0)).and_then(|_| {
            libc::waitpid(child, ptr::null_mut(), libc::__WALL);
            let at = victim as extern "C" fn() -> i32 as *mut c_void;
            check(libc::ptrace(libc::PTRACE_POKETEXT, child, at, 0))
        })
    };
    end(child);
    result.map(drop)
}

/// A child that asks to be traced.
fn traced_by_parent() -> Act {
    // SAFETY: as in `waiting_child`; the child tells the errno by its status.
    match prepare("fork", unsafe { libc::fork() })? {
        0 => {
            // SAFETY: no pointers.
            let result = check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) });
            let status = match result {
                Ok(_) => 0,
                Err(Failure::Errno(errno)) => errno,
                Err(Failure::Broken(_)) => 250,
            };
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        child => match super::worker::wait(sys::fd(child)) {
            0 => Ok(()),
            errno => Err(Failure::Errno(errno)),
        },
    }
}

fn write_memory_of_child() -> Act {
    let child = waiting_child()?;
    let mut word = [0u8; 8];
    let local = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: word.len() };
    let remote = local;
    // SAFETY: both buffers are at the same address, in the child a copy of ours.
    let written = check(unsafe { libc::process_vm_writev(child, &raw const local, 1, &raw const remote, 1, 0) } as i64);
    end(child);
    written.map(drop)
}
