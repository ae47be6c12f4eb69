//! Acts that change what a file contains, each by another way into it.

use std::{
    fs::{File, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    os::fd::{AsRawFd as _, IntoRawFd as _},
    path::Path,
    process::Command,
    ptr,
    time::{Duration, Instant},
};

use io_uring::{IoUring, opcode, types::Fd};
use libc::{MAP_SHARED, PROT_READ, PROT_WRITE};

use super::{
    Act, Failure, perform as perform_act,
    sys::{self, c, check, prepare},
};

/// The families' entry.
pub(super) fn perform(name: &str, words: &[&str]) -> Option<Act> {
    Some(match (name, words) {
        ("overwrite", [how, path, from]) => {
            std::fs::read(from).map_err(Failure::broken).and_then(|content| overwrite(how, path, from, &content))
        }
        ("hold-mapping", [path, act @ ..]) => hold_mapping(path).and_then(|()| perform_act(act)),
        ("hold-pages", [path, act @ ..]) => hold_pages(path).and_then(|()| perform_act(act)),
        ("exec-often", [count, program]) => sys::number(count).map(|count| exec_often(count, program)),
        ("swap-often", [end, path, good, bad]) => swap_often(end, path, good, bad),
        _ => return None,
    })
}

/// Replaces the content of a file by another of the same length.
fn overwrite(how: &str, path: &str, from: &str, content: &[u8]) -> Act {
    let writable = || OpenOptions::new().write(true).open(path).map_err(errno);
    match how {
        "write" => writable().and_then(|mut file| file.write_all(content).map_err(errno)),
        "truncating-open" => {
            let file = OpenOptions::new().write(true).truncate(true).open(path);
            file.and_then(|mut file| file.write_all(content)).map_err(errno)
        }
        "truncate" => {
            let name = c(path)?;
            // SAFETY: the path ends with NUL and lives through the call.
            check(unsafe { libc::truncate(name.as_ptr(), 0) })?;
            writable().and_then(|mut file| file.write_all(content).map_err(errno))
        }
        "ftruncate" => {
            writable().and_then(|mut file| file.set_len(0).and_then(|()| file.write_all(content)).map_err(errno))
        }
        "punch" => writable().and_then(|file| {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let len = i64::try_from(content.len()).map_err(Failure::broken)?;
            // SAFETY: no pointers.
            check(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, len) }).map(drop)
        }),
        "mapping" => map(path, PROT_READ | PROT_WRITE).and_then(|(map, _file)| map.fill(content)),
        "mapping-without-descriptor" => {
            let (map, file) = map(path, PROT_READ | PROT_WRITE)?;
            drop(file);
            map.fill(content)
        }
        "mapping-made-writable" => {
            let (map, file) = map(path, PROT_READ)?;
            drop(file);
            // SAFETY: the mapping is ours alone.
            check(unsafe { libc::mprotect(map.at, map.len, PROT_READ | PROT_WRITE) })?;
            map.fill(content)
        }
        "uring" => writable().and_then(|file| uring(&file, content)),
        "sendfile" | "splice" | "copy-range" => writable().and_then(|file| transfer(how, &file, from, content.len())),
        "rename" => {
            let beside = format!("{path}.new");
            std::fs::copy(from, &beside).map_err(Failure::broken)?;
            std::fs::rename(&beside, path).map_err(errno)
        }
        "link" => {
            let beside = format!("{path}.link");
            std::fs::hard_link(path, &beside).map_err(Failure::broken)?;
            let outcome = overwrite("write", &beside, from, content);
            std::fs::remove_file(&beside).map_err(Failure::broken)?;
            outcome
        }
        other => Err(Failure::broken(format!("no way to write `{other}`"))),
    }
}

fn errno(error: std::io::Error) -> Failure {
    error.raw_os_error().map_or_else(|| Failure::broken(error), Failure::Errno)
}

/// A shared mapping of a whole file.
struct Map {
    at: *mut libc::c_void,
    len: usize,
}

impl Map {
    fn fill(&self, content: &[u8]) -> Act {
        if content.len() > self.len {
            return Err(Failure::broken("the new content is longer"));
        }
        // SAFETY: the mapping is as long, writable and backed by the file.
        unsafe { ptr::copy_nonoverlapping(content.as_ptr(), self.at.cast(), content.len()) };
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

fn map(path: &str, prot: i32) -> Result<(Map, File), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(errno)?;
    let len = usize::try_from(file.metadata().map_err(Failure::broken)?.len()).map_err(Failure::broken)?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(ptr::null_mut(), len, prot, MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED { Err(Failure::Errno(sys::errno())) } else { Ok((Map { at, len }, file)) }
}

/// Keeps a shared writable mapping of a file, and no descriptor, until this process ends.
fn hold_mapping(path: &str) -> Act {
    let (map, file) = map(path, PROT_READ | PROT_WRITE)?;
    drop(file);
    std::mem::forget(map);
    Ok(())
}

/// Keeps the pages of a file in a buffer of a ring, and neither a mapping nor a descriptor, until this process ends.
fn hold_pages(path: &str) -> Act {
    let (map, file) = map(path, PROT_READ | PROT_WRITE)?;
    let ring = IoUring::new(4).map_err(|e| Failure::broken(format!("io_uring_setup: {e}")))?;
    let buffer = libc::iovec { iov_base: map.at, iov_len: map.len };
    // SAFETY: the kernel keeps the pages; this process never uses the buffer.
    unsafe { ring.submitter().register_buffers(&[buffer]) }.map_err(Failure::broken)?;
    drop((map, file));
    std::mem::forget(ring);
    Ok(())
}

fn uring(file: &File, content: &[u8]) -> Act {
    let mut ring = IoUring::new(4).map_err(|e| Failure::broken(format!("io_uring_setup: {e}")))?;
    let mut done = 0;
    while done < content.len() {
        let rest = &content[done..];
        let len = u32::try_from(rest.len()).map_err(Failure::broken)?;
        let offset = u64::try_from(done).map_err(Failure::broken)?;
        let entry = opcode::Write::new(Fd(file.as_raw_fd()), rest.as_ptr(), len).offset(offset).build();
        // SAFETY: the content outlives the request, which is waited for.
        unsafe { ring.submission().push(&entry) }.map_err(Failure::broken)?;
        ring.submit_and_wait(1).map_err(|e| Failure::broken(format!("io_uring_enter: {e}")))?;
        let result = ring.completion().next().ok_or_else(|| Failure::broken("no completion"))?.result();
        if result <= 0 {
            return Err(Failure::Errno(-result));
        }
        done += usize::try_from(result).map_err(Failure::broken)?;
    }
    Ok(())
}

/// Has the kernel copy from one file to the other.
fn transfer(how: &str, to: &File, from: &str, len: usize) -> Act {
    let source = File::open(from).map_err(Failure::broken)?;
    let (input, output) = (source.as_raw_fd(), to.as_raw_fd());
    let mut pipe = [0; 2];
    // SAFETY: the array takes the descriptors.
    prepare("pipe", unsafe { libc::pipe(pipe.as_mut_ptr()) })?;
    let mut done = 0;
    while done < len {
        // SAFETY: no pointers but null ones: the files' own offsets are used.
        let moved = unsafe {
            match how {
                "sendfile" => libc::sendfile(output, input, ptr::null_mut(), len - done),
                "splice" => {
                    let taken = libc::splice(input, ptr::null_mut(), pipe[1], ptr::null_mut(), 65_536, 0);
                    prepare("splice", taken as i64)?;
                    libc::splice(pipe[0], ptr::null_mut(), output, ptr::null_mut(), taken.cast_unsigned(), 0)
                }
                _ => libc::copy_file_range(input, ptr::null_mut(), output, ptr::null_mut(), len - done, 0),
            }
        };
        let moved = check(moved as i64)?;
        if moved == 0 {
            return Err(Failure::broken("nothing more came"));
        }
        done += usize::try_from(moved).map_err(Failure::broken)?;
    }
    Ok(())
}

/// How long a race may last.
const RACE_LIMIT: Duration = Duration::from_mins(4);

/// Executes a program that ends with 0 over and over, until it has run or was refused `count` times, each at least a tenth. Prints
/// how often it ran, was refused, was busy, did not begin for another reason, and how often something else ran.
fn exec_often(count: u64, program: &str) {
    let deadline = Instant::now() + RACE_LIMIT;
    let (mut ran, mut refused, mut busy, mut broken, mut foreign) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    while (ran + refused < count || ran.min(refused) < count / 10) && Instant::now() < deadline {
        // A child that shares this process's memory until it executes, which is the least work.
        match Command::new(program).status() {
            Ok(status) if status.success() => ran += 1,
            Ok(_) => foreign += 1,
            Err(error) => match error.raw_os_error() {
                Some(libc::EPERM) => refused += 1,
                Some(libc::ETXTBSY) => busy += 1,
                _ => broken += 1,
            },
        }
    }
    println!("{ran} {refused} {busy} {broken} {foreign}");
}

/// Puts one and the other content into a file over and over, from several threads and by several ways, until `end` exists.
fn swap_often(end: &str, path: &str, good: &str, bad: &str) -> Act {
    // None cuts the file short under another thread's mapping.
    const WAYS: [&str; 3] = ["write", "mapping-without-descriptor", "rename-in"];
    let deadline = Instant::now() + RACE_LIMIT;
    let contents = [std::fs::read(good).map_err(Failure::broken)?, std::fs::read(bad).map_err(Failure::broken)?];
    let swap = |thread: usize| {
        let mut round = thread;
        while !Path::new(end).exists() && Instant::now() < deadline {
            round += 1;
            let (way, which) = (WAYS[(round / 2) % WAYS.len()], round % 2);
            // What fails because the program runs just now is tried again.
            let _ = if way == "rename-in" {
                replace(path, thread, &contents[which])
            } else {
                overwrite(way, path, [good, bad][which], &contents[which])
            };
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..2 {
            scope.spawn(move || swap(thread));
        }
    });
    Ok(())
}

fn replace(path: &str, thread: usize, content: &[u8]) -> Act {
    use std::os::unix::fs::OpenOptionsExt as _;
    let beside = format!("{path}.{thread}");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&beside);
    let mut file = file.map_err(errno)?;
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(content)).map_err(errno)?;
    drop(file);
    std::fs::rename(&beside, path).map_err(errno)
}

/// A memory file with a program's content, sealed as asked; its descriptor lives as long as this process.
pub(super) fn memory_file(program: &str, seals: i32) -> Result<i32, Failure> {
    use std::os::fd::FromRawFd as _;
    let content = std::fs::read(program).map_err(Failure::broken)?;
    // SAFETY: the name ends with NUL; the new descriptor is nobody else's.
    let mut file = unsafe {
        let fd = prepare("memfd_create", libc::memfd_create(c"copy".as_ptr(), libc::MFD_ALLOW_SEALING))?;
        File::from_raw_fd(sys::fd(fd))
    };
    file.write_all(&content).map_err(Failure::broken)?;
    let fd = file.into_raw_fd();
    if seals & libc::F_SEAL_FUTURE_WRITE != 0 {
        // A mapping that was there before may still write.
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(ptr::null_mut(), content.len(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(Failure::broken("mmap"));
        }
    }
    if seals != 0 {
        // SAFETY: no pointers.
        prepare("F_ADD_SEALS", unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) })?;
    }
    Ok(fd)
}
