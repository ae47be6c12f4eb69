//! Acts that run a program. When it runs, its exit status is the act's and its output is returned.

use std::{ffi::CString, ptr};

use super::{
    Act, Failure, content,
    sys::{self, c, check, prepare},
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("exec", [program, args @ ..]) => exec(program, args),
        ("execveat", [dir, program, args @ ..]) => sys::open_dir(dir).and_then(|dir| execveat(dir, program, args, 0)),
        ("fexecve", [program, args @ ..]) => open(program).and_then(|fd| execveat(fd, "", args, libc::AT_EMPTY_PATH)),
        ("proc-fd-exec", [program, args @ ..]) => {
            open(program).and_then(|fd| exec(&format!("/proc/self/fd/{fd}"), args))
        }
        ("memfd-exec", [seals, program, args @ ..]) => {
            let seals = match *seals {
                "unsealed" => 0,
                "sealed" => libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW,
                "half-sealed" => libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW,
                "shrinkable" => libc::F_SEAL_WRITE,
                _ => return None,
            };
            content::memory_file(program, seals).and_then(|fd| execveat(fd, "", args, libc::AT_EMPTY_PATH))
        }
        ("deleted-exec", [program, args @ ..]) => open(program).and_then(|fd| {
            std::fs::remove_file(program).map_err(Failure::broken)?;
            execveat(fd, "", args, libc::AT_EMPTY_PATH)
        }),
        ("kill-self", [signal]) => sys::number(signal).and_then(|signal| {
            // SAFETY: no pointers.
            check(unsafe { libc::raise(signal) }).map(drop)
        }),
        _ => return None,
    })
}

/// The arguments with the program's name before them, and the pointers that the kernel wants.
struct Argv {
    _words: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Argv {
    fn new(program: &str, args: &[&str]) -> Result<Self, Failure> {
        let words = [program].iter().chain(args).map(|word| c(word)).collect::<Result<Vec<_>, _>>()?;
        let pointers = words.iter().map(|w| w.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { _words: words, pointers })
    }
}

const ENVIRONMENT: [*const libc::c_char; 2] = [c"PATH=/usr/bin:/usr/sbin".as_ptr(), ptr::null()];

fn exec(program: &str, args: &[&str]) -> Act {
    let list = Argv::new(program, args)?;
    let program = c(program)?;
    // SAFETY: NUL-terminated strings and null-terminated lists that live through the call.
    check(unsafe { libc::execve(program.as_ptr(), list.pointers.as_ptr(), ENVIRONMENT.as_ptr()) }).map(drop)
}

fn execveat(dir: i32, program: &str, args: &[&str], flags: i32) -> Act {
    let list = Argv::new("program", args)?;
    let program = c(program)?;
    // SAFETY: as above.
    check(unsafe {
        libc::syscall(libc::SYS_execveat, dir, program.as_ptr(), list.pointers.as_ptr(), ENVIRONMENT.as_ptr(), flags)
    })
    .map(drop)
}

/// Opens a program; not close-on-exec, so that a script could be read by its interpreter.
fn open(path: &str) -> Result<i32, Failure> {
    let path = c(path)?;
    // SAFETY: as above.
    prepare("open", unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }).map(sys::fd)
}
