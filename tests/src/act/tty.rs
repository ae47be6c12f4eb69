//! Terminals: characters that arrive as if somebody had typed them. And the entry to the kernel for 32-bit programs, which
//! every program can use.

use super::{
    Act, Failure,
    sys::{c, check, fd, prepare},
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("type", []) => type_into(|terminal, letter| {
            // SAFETY: the letter lives through the call.
            check(unsafe { libc::ioctl(terminal, libc::TIOCSTI, std::ptr::from_ref(letter)) })
        }),
        ("type-32", []) => type_into(|terminal, letter| ioctl_32(terminal, TIOCSTI, Low::holding(&[*letter])?.0)),
        ("paste", []) => paste(),
        ("hang-up-terminal", []) => terminal().and_then(|terminal| {
            // SAFETY: no argument is read.
            check(unsafe { libc::ioctl(terminal, TIOCVHANGUP, 0) }).map(drop)
        }),
        ("chattr-32", [path]) => chattr_32(path),
        ("call-32", []) => getpid_32(),
        _ => return None,
    })
}

/// `include/uapi/asm-generic/ioctls.h`.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: libc::c_ulong = 0x541c;
const TIOCVHANGUP: libc::c_ulong = 0x5437;

/// The end of a new terminal that programs have.
pub(super) fn terminal() -> Result<i32, Failure> {
    // SAFETY: no pointers but to the name's buffer, whose size is given, and to a local.
    unsafe {
        let master = prepare("posix_openpt", libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY))?;
        let master = fd(master);
        prepare("grantpt", libc::grantpt(master))?;
        prepare("unlockpt", libc::unlockpt(master))?;
        let mut name = [0; 64];
        if libc::ptsname_r(master, name.as_mut_ptr(), name.len()) != 0 {
            return Err(Failure::broken("ptsname"));
        }
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
        let terminal = fd(prepare("open", libc::open(name.as_ptr(), flags))?);
        // What is typed is to be read at once.
        let mut settings: libc::termios = std::mem::zeroed();
        prepare("tcgetattr", libc::tcgetattr(terminal, &raw mut settings))?;
        libc::cfmakeraw(&raw mut settings);
        prepare("tcsetattr", libc::tcsetattr(terminal, libc::TCSANOW, &raw const settings))?;
        Ok(terminal)
    }
}

/// Types a letter and reads it.
fn type_into(call: impl FnOnce(i32, &u8) -> Result<i64, Failure>) -> Act {
    const LETTER: u8 = b'x';
    let terminal = terminal()?;
    call(terminal, &LETTER)?;
    let mut read = 0_u8;
    // SAFETY: a byte of this stack.
    let count = unsafe { libc::read(terminal, (&raw mut read).cast(), 1) };
    if (count, read) == (1, LETTER) {
        println!("arrived");
        return Ok(());
    }
    Err(Failure::broken(format!("{count} bytes arrived")))
}

/// Asks for the paste of what is selected, of a terminal that has no selection.
fn paste() -> Act {
    let paste: u8 = 3;
    let terminal = terminal()?;
    // SAFETY: the byte lives through the call.
    check(unsafe { libc::ioctl(terminal, TIOCLINUX, &raw const paste) }).map(drop)
}

/// Sets a flag of a file through a descriptor that is open for reading.
fn chattr_32(path: &str) -> Act {
    const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
    const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
    const NOATIME: u32 = 0x80;
    let path = c(path)?;
    let mut flags: libc::c_long = 0;
    // SAFETY: the path ends with NUL; the flags live through the call.
    let file = unsafe {
        let file = fd(prepare("open", libc::open(path.as_ptr(), libc::O_RDONLY))?);
        prepare("FS_IOC_GETFLAGS", libc::ioctl(file, FS_IOC_GETFLAGS, &raw mut flags))?;
        file
    };
    let flags = u32::try_from(flags).map_err(Failure::broken)? | NOATIME;
    ioctl_32(file, FS_IOC32_SETFLAGS, Low::holding(&flags.to_le_bytes())?.0).map(drop)
}

/// A page below 4 GiB, which is where a 32-bit argument can point.
pub(super) struct Low(pub(super) u32);

impl Low {
    /// One that holds these bytes.
    pub(super) fn holding(bytes: &[u8]) -> Result<Self, Failure> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | low_flag()?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, larger than what is written.
        unsafe {
            let page = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
            if page == libc::MAP_FAILED {
                return Err(Failure::broken("no page below 4 GiB"));
            }
            for (at, byte) in bytes.iter().enumerate() {
                page.cast::<u8>().add(at).write_volatile(*byte);
            }
            u32::try_from(page as usize).map(Self).map_err(Failure::broken)
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::unnecessary_wraps, reason = "other machines have no such flag")]
fn low_flag() -> Result<i32, Failure> {
    Ok(libc::MAP_32BIT)
}

#[cfg(not(target_arch = "x86_64"))]
fn low_flag() -> Result<i32, Failure> {
    Err(Failure::broken("no entry for 32-bit programs"))
}

fn ioctl_32(file: i32, command: u32, argument: u32) -> Result<i64, Failure> {
    /// Of `arch/x86/entry/syscalls/syscall_32.tbl`.
    const IOCTL: u32 = 54;
    call_32(IOCTL, [file.cast_unsigned(), command, argument])
}

/// Asks for its own number; a kernel without the entry ends the process.
fn getpid_32() -> Act {
    const GETPID: u32 = 20;
    let pid = call_32(GETPID, [0; 3])?;
    if u32::try_from(pid) == Ok(std::process::id()) { Ok(()) } else { Err(Failure::broken(pid)) }
}

/// A call by the entry for 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub(super) fn call_32(number: u32, arguments: [u32; 3]) -> Result<i64, Failure> {
    let mut result = u64::from(number);
    // SAFETY: pointers among the arguments are to memory that the caller has. The compiler keeps `rbx` for itself, so that it is
    // given back; what the kernel does not keep is named.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) u64::from(arguments[0]) => _,
            inout("rax") result,
            in("rcx") u64::from(arguments[1]),
            in("rdx") u64::from(arguments[2]),
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    // A 32-bit result: minus the errno when it failed.
    match u32::try_from(result & 0xffff_ffff).unwrap_or(0).cast_signed() {
        failed if (-4095..0).contains(&failed) => Err(Failure::Errno(-failed)),
        done => Ok(done.into()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn call_32(_number: u32, _arguments: [u32; 3]) -> Result<i64, Failure> {
    Err(Failure::broken("no entry for 32-bit programs"))
}

/// How a process ends that uses the entry on a kernel that has none.
pub(crate) const NO_ENTRY: i32 = 128 + libc::SIGSEGV;
