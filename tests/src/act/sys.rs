//! System calls as this attacker wants them: no retries, no emulation, the errno as it is.

use std::ffi::CString;

use super::Failure;

/// A path for the kernel.
pub(crate) fn c(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(Failure::broken)
}

/// The errno of the last call of this thread.
pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The result of a call that matters.
pub(crate) fn check(result: impl Into<i64>) -> Result<i64, Failure> {
    let result = result.into();
    if result < 0 { Err(Failure::Errno(errno())) } else { Ok(result) }
}

/// The result of a call that only prepares.
pub(crate) fn prepare(what: &str, result: impl Into<i64>) -> Result<i64, Failure> {
    let result = result.into();
    if result < 0 { Err(Failure::broken(format!("{what}: {}", std::io::Error::last_os_error()))) } else { Ok(result) }
}

/// A number from a word.
pub(crate) fn number<T: std::str::FromStr>(word: &str) -> Result<T, Failure> {
    word.parse().map_err(|_| Failure::broken(format!("{word} is no number")))
}

/// A descriptor from a call's result.
pub(crate) fn fd(result: i64) -> i32 {
    // The kernel's descriptors are ints.
    i32::try_from(result).unwrap_or(-1)
}

/// Opens a directory, as a place to start from.
pub(crate) fn open_dir(path: &str) -> Result<i32, Failure> {
    let path = c(path)?;
    // SAFETY: the path ends with NUL and lives through the call.
    let result = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    prepare("open", result).map(fd)
}

/// Opens the directory of a file, as `open_by_handle_at` wants it.
pub(crate) fn open_dir_for_reading(path: &str) -> Result<i32, Failure> {
    let dir = c(path.rsplit_once('/').map_or(".", |(dir, _)| dir))?;
    // SAFETY: as above.
    let result = unsafe { libc::open(dir.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    prepare("open", result).map(fd)
}
