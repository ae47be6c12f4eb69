//! The kernel object of this build, which the program carries compressed: whoever takes over what is in force needs none of it, and
//! what was unpacked goes when it is loaded, while pages of the program's file stay.

use std::env;

use miniz_oxide::inflate::{TINFLStatus, decompress_slice_iter_to_slice};

use super::load::LOG_VARIABLE;
use crate::manifest::Digest;

/// The kernel object of this build.
static OBJECT: Packed = include!(concat!(env!("OUT_DIR"), "/enforcer.bpf.o.rs"));
/// The same with debug messages, loaded when `ENFORCER_BPF_LOG` is set.
static OBJECT_WITH_LOG: Packed = include!(concat!(env!("OUT_DIR"), "/enforcer-log.bpf.o.rs"));
/// The same for elder kernels (see [`super::elder::is_elder_here`]), without messages.
static OBJECT_ELDER: Packed = include!(concat!(env!("OUT_DIR"), "/enforcer-elder.bpf.o.rs"));

/// What an ELF file is aligned to, for its reader.
const ALIGNMENT: usize = 8;

/// A compressed file, as `build.rs` writes it.
pub(super) struct Packed {
    /// Its length in bytes, when it is unpacked.
    len: usize,
    /// The SHA-256 of all that.
    digest: [u8; 32],
    zlib: &'static [u8],
}

/// A file that was unpacked.
pub(super) struct Unpacked {
    buffer: Vec<u8>,
    /// Where it begins: at a multiple of [`ALIGNMENT`].
    start: usize,
}

/// The one that this daemon loads on such a kernel.
pub(super) fn wanted(is_elder: bool) -> &'static Packed {
    if is_elder {
        &OBJECT_ELDER
    } else if env::var_os(LOG_VARIABLE).is_some() {
        &OBJECT_WITH_LOG
    } else {
        &OBJECT
    }
}

impl Packed {
    /// The digest of the file.
    pub(super) fn digest(&self) -> Digest {
        Digest::new(self.digest)
    }

    /// The file.
    ///
    /// # Errors
    /// When it is not what was packed: the program's file is damaged.
    pub(super) fn unpack(&self) -> Result<Unpacked, TINFLStatus> {
        let mut buffer = vec![0; self.len + ALIGNMENT - 1];
        // At most `ALIGNMENT - 1` for a byte's pointer, where it can be told.
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT - 1);
        let file = &mut buffer[start..start + self.len];
        // With the checksum of the format.
        match decompress_slice_iter_to_slice(file, [self.zlib].into_iter(), true, false)? {
            len if len == self.len => Ok(Unpacked { buffer, start }),
            _ => Err(TINFLStatus::Failed),
        }
    }
}

impl Unpacked {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..][..self.buffer.len() - (ALIGNMENT - 1)]
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn what_is_unpacked_is_what_was_packed_and_aligned() {
        for packed in [&OBJECT, &OBJECT_WITH_LOG, &OBJECT_ELDER] {
            let unpacked = packed.unpack().expect("whole");
            assert_eq!(unpacked.bytes().len(), packed.len);
            assert_eq!(<[u8; 32]>::from(Sha256::digest(unpacked.bytes())), packed.digest);
            assert!(unpacked.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert!(unpacked.bytes().starts_with(b"\x7fELF"));
        }
    }

    #[test]
    fn a_damaged_one_is_not_loaded() {
        let mut zlib = OBJECT.zlib.to_vec();
        // A byte of the checksum.
        *zlib.last_mut().expect("not empty") ^= 1;
        for zlib in [&zlib[..], &OBJECT.zlib[..OBJECT.zlib.len() / 2]] {
            let packed = Packed { zlib: zlib.to_vec().leak(), ..OBJECT };
            assert!(packed.unpack().is_err());
        }
        assert!(Packed { len: OBJECT.len - 1, ..OBJECT }.unpack().is_err());
        assert!(Packed { len: OBJECT.len + 1, ..OBJECT }.unpack().is_err());
    }
}
