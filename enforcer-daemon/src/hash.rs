//! SHA-256 of files: streamed, from regular files only, and only of content that held still.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::manifest::Digest;

/// How much of a file is in memory at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// The largest file that is measured, in bytes. A hole is read like anything else: without a limit, a sparse file of no
/// blocks at all would keep a core busy for as long as its author likes.
pub const MAX_FILE_BYTES: u64 = 4 << 30;

/// Why a file has no digest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// It cannot be opened, or is not a regular file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be read to its end.
    #[error("{}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is larger than [`MAX_FILE_BYTES`].
    #[error("{}: has {size} bytes, and no more than {MAX_FILE_BYTES} are measured", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, in bytes.
        size: u64,
    },
    /// Nothing was read of it for a while: its filesystem does not answer.
    #[error("{}: no answer within {seconds} s; is its filesystem still there?", path.display())]
    Silent {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Its size or its times changed while it was read, so that the digest may be of no content that it ever had.
    #[error("{}: changed while read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// Why a file cannot be opened for reading.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The kernel refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is something else, whose reading might block, or never end.
    #[error("{}: is {kind}, not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is: `a directory`, `a FIFO`, …
        kind: &'static str,
    },
}

/// The SHA-256 of the regular file at `path`, symbolic links followed.
///
/// Memory is bounded; time is proportional to the file's size, which is bounded, too, as long as its filesystem answers. The result is the content at one moment only if nobody
/// who can restore the file's times (root, or a writable mapping on some filesystems) writes to it meanwhile.
///
/// # Errors
///
/// If the file cannot be opened or read, is not a regular file, is too large, or changed while it was read.
pub fn sha256_file(path: &Path) -> Result<Digest, HashError> {
    sha256_file_with(path, &mut |_| {})
}

/// [`sha256_file`] that tells of each piece that was read, by its length.
pub(crate) fn sha256_file_with(path: &Path, piece: &mut dyn FnMut(usize)) -> Result<Digest, HashError> {
    let (file, before) = open_regular(path)?;
    let read = |source| HashError::Read { path: path.to_owned(), source };
    if before.len() > MAX_FILE_BYTES {
        return Err(HashError::TooLarge { path: path.to_owned(), size: before.len() });
    }
    // Who appends faster than we read would never let us end.
    let digest = sha256_with((&file).take(before.len() + 1), piece).map_err(read)?;
    let after = file.metadata().map_err(read)?;
    if state(&before) == state(&after) { Ok(digest) } else { Err(HashError::Changed { path: path.to_owned() }) }
}

/// The SHA-256 of what an open file has from here on, to its end; `piece` as for [`sha256_file`]. Whether it changes meanwhile is the
/// caller's business.
///
/// # Errors
///
/// If it cannot be read, or is too large.
pub(crate) fn sha256_open(path: &Path, file: &File, piece: &mut dyn FnMut(usize)) -> Result<Digest, HashError> {
    let read = |source| HashError::Read { path: path.to_owned(), source };
    let too_large = |size| HashError::TooLarge { path: path.to_owned(), size };
    let size = file.metadata().map_err(read)?.len();
    if size > MAX_FILE_BYTES {
        return Err(too_large(size));
    }
    let mut bytes = 0;
    let mut count = |piece_bytes: usize| {
        bytes += piece_bytes as u64;
        piece(piece_bytes);
    };
    // To the end, whatever the size was: a digest of a part would be one of another content.
    let digest = sha256_with(file.take(MAX_FILE_BYTES + 1), &mut count).map_err(read)?;
    if bytes > MAX_FILE_BYTES { Err(too_large(bytes)) } else { Ok(digest) }
}

/// The SHA-256 of everything that `reader` gives.
///
/// # Errors
///
/// The first error of a read, but for `Interrupted`, after which it goes on.
pub fn sha256(reader: impl Read) -> io::Result<Digest> {
    sha256_with(reader, &mut |_| {})
}

fn sha256_with(mut reader: impl Read, piece: &mut dyn FnMut(usize)) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(Digest::new(hasher.finalize().into())),
            Ok(bytes) => {
                piece(bytes);
                hasher.update(&buffer[..bytes]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens the regular file at `path` for reading, without ever waiting for a peer or touching a device.
///
/// # Errors
///
/// If it cannot be opened or is not a regular file.
pub fn open_regular(path: &Path) -> Result<(File, Metadata), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let regular = |metadata: &Metadata| match kind(metadata.file_type()) {
        None => Ok(()),
        Some(kind) => Err(OpenError::NotRegular { path: path.to_owned(), kind }),
    };
    // Opening a device can act on it, so look before; what lies there may change in between, so look after, too.
    regular(&path.metadata().map_err(io)?)?;
    // std adds O_CLOEXEC. O_NONBLOCK: the open of a FIFO would wait for a writer.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    regular(&metadata)?;
    Ok((file, metadata))
}

/// What a file is that is not a regular one.
fn kind(file: FileType) -> Option<&'static str> {
    if file.is_file() {
        None
    } else if file.is_dir() {
        Some("a directory")
    } else if file.is_fifo() {
        Some("a FIFO")
    } else if file.is_socket() {
        Some("a socket")
    } else if file.is_char_device() {
        Some("a character device")
    } else if file.is_block_device() {
        Some("a block device")
    } else {
        Some("a special file")
    }
}

/// What changes when a file's content does: size, mtime and ctime, in nanoseconds.
fn state(metadata: &Metadata) -> [i128; 3] {
    let nanoseconds = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
    [
        i128::from(metadata.size()),
        nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    ]
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum() {
        let dir = tempfile::tempdir().expect("a directory");
        for (content, digest) in [
            (vec![], "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc".to_vec(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (vec![b'a'; 1_000_000], "sha256:cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ] {
            let path = dir.path().join("file");
            std::fs::write(&path, content).expect("written");
            assert_eq!(sha256_file(&path).expect("hashed").to_string(), digest);
        }
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("a FIFO");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for (path, kind) in [
            (dir.path(), "a directory"),
            (&fifo, "a FIFO"),
            (&socket, "a socket"),
            (Path::new("/dev/zero"), "a character device"),
        ] {
            let error = sha256_file(path).expect_err("refused").to_string();
            assert_eq!(error, format!("{}: is {kind}, not a regular file", path.display()));
        }
        let missing = dir.path().join("missing");
        assert!(matches!(sha256_file(&missing), Err(HashError::Open(OpenError::Io { .. }))));
    }

    #[test]
    fn a_sparse_giant_is_refused_at_once() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(100 << 30).expect("sparse");
        let error = sha256_file(file.path()).expect_err("refused").to_string();
        assert!(error.ends_with("has 107374182400 bytes, and no more than 4294967296 are measured"), "{error}");
    }

    #[test]
    fn a_change_shows_in_the_state() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"one").expect("written");
        let before = file.as_file().metadata().expect("metadata");
        file.write_all(b"two").expect("written");
        let after = file.as_file().metadata().expect("metadata");
        assert_eq!(state(&before), state(&before));
        assert_ne!(state(&before), state(&after));
    }
}
