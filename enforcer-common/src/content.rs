//! What is known of the content of files: digests that hold for as long as nobody changes the file.

use crate::ids::{Digest, ObjectId};

/// The size in bytes up to which a file is measured. The kernel does nothing else for the task while it reads, and of a sparse
/// file it reads what is not there, too.
pub const MEASURED_UP_TO: i64 = 4 << 30;

/// The value of `CONTENTS`, which lies in the inode's own storage and goes with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Which version of its content the file has; another number at each open for writing, and none twice on this machine. 0
    /// when none was given yet.
    pub version: u64,
    /// Odd while the fields below are written; each publication adds two.
    pub sequence: u64,
    /// Of which version the digest below was measured: of this inode's, or of the inode below an overlay's; as
    /// [`MeasuredBy::mark`] has it.
    pub measured: u64,
    /// The digest.
    pub digest: Digest,
    /// Bits of [`uses`].
    pub uses: u64,
}

/// What governed processes have done with a file. None of the bits is ever cleared: they go with the inode, which stays in memory for
/// as long as anybody has the file open or mapped (a file of an overlay, too: the file below, which is what is mapped, holds the
/// overlay's dentry; `fs/overlayfs/file.c: ovl_open_realfile`, since 6.6 `fs/backing-file.c: backing_file_open`).
pub mod uses {
    /// Mapped so that it could be written. The pages may stay writable after the mapping and the descriptor are gone, for I/O that
    /// holds them.
    pub const WRITABLE: u64 = 1;
    /// Measured and mapped as code: nobody governed may write it.
    pub const CODE: u64 = 2;
}

/// Who measures. Where the kernel's own measuring cannot be had, or may give what was measured of an earlier content, the daemon
/// does, and nothing that it has not measured has a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasuredBy(u32);

impl MeasuredBy {
    /// The kernel, when the digest is needed.
    pub const KERNEL: Self = Self(0);
    /// The daemon, before.
    pub const DAEMON: Self = Self(1);

    /// Of the number in [`crate::host::HostFacts::measured_by`].
    #[must_use]
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        Self(number & 1)
    }

    /// The number of it.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Whether it is the daemon.
    #[must_use]
    #[inline(always)]
    pub const fn is_daemon(self) -> bool {
        self.0 != 0
    }

    /// The number that is kept in [`Content::measured`] for a version, none of which uses the highest bit: what one has measured is
    /// none of what the other has.
    #[must_use]
    #[inline(always)]
    pub const fn mark(self, version: u64) -> u64 {
        version | (self.0 as u64) << 63
    }
}

/// What passes between the daemon and the `inode_getxattr` program about the content of a file: the value of `MEASUREMENT`, whose key
/// is the asking thread's id, as `bpf_get_current_pid_tgid` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measurement {
    /// The version that the file's content has, or had when it was asked for; 0 when none that a digest could be kept with.
    pub version: u64,
    /// The kernel's identity of the file.
    pub object: ObjectId,
    /// The digest of this version, when the daemon tells it.
    pub digest: Digest,
    /// One of the constants of [`answer`].
    pub answer: u64,
}

/// What [`Measurement::answer`] says.
pub mod answer {
    /// Nothing yet: the daemon tells a digest.
    pub const NONE: u64 = 0;
    /// The version has no digest yet, or cannot have one.
    pub const UNKNOWN: u64 = 1;
    /// The digest of the version is kept already, or is now.
    pub const KEPT: u64 = 2;
    /// The content has another version by now, or somebody may be writing it.
    pub const CHANGED: u64 = 3;
}

/// What a task noted of the file that it opened last for execution, for files of an overlay: their content lies in another
/// inode, which is at hand only then. The daemon's threads note each one that they open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The address of the `struct file`; 0 when nothing is noted.
    pub file: u64,
    /// The version of the overlay's own inode when it was opened.
    pub own: u64,
    /// The address of the inode below; 0 when none was seen.
    pub below: u64,
    /// The version of the inode below; 0 when its changes would not be noticed.
    pub version: u64,
    /// The address of the [`Content`] of the inode below; 0 when there was no room for one.
    pub place: u64,
    /// A [`Stage`].
    pub stage: u64,
}

/// How far the opening of a file of an overlay has come.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The next file that the kernel opens for itself is the one below.
    Expecting = 1,
    /// The file below was seen.
    Settled = 2,
}

impl Opened {
    /// Nothing is noted.
    pub const NOTHING: Self = Self { file: 0, own: 0, below: 0, version: 0, place: 0, stage: 0 };
}

/// Whether the content of files on such a filesystem changes only through files that are open for writing on this kernel.
///
/// `magic` is the superblock's, `disk_major` the driver's number of the disk below it, if there is one. Network and user-space
/// filesystems change from elsewhere. So does what lies on a disk that is itself a file or a connection (loop, nbd): whoever
/// writes to the other end is not seen. A filesystem that is not in the list is measured each time.
#[must_use]
#[inline(always)]
pub const fn changes_are_seen(magic: u64, disk_major: Option<u32>) -> bool {
    // `include/uapi/linux/magic.h`, and the filesystems' own headers.
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const F2FS: u64 = 0xf2f5_2010;
    const SQUASHFS: u64 = 0x7371_7368;
    const EROFS: u64 = 0xe0f5_e1e2;
    // `include/uapi/linux/major.h`.
    const LOOP_MAJOR: u32 = 7;
    const NBD_MAJOR: u32 = 43;
    match disk_major {
        None => matches!(magic, TMPFS | RAMFS),
        Some(LOOP_MAJOR | NBD_MAJOR) => false,
        Some(_) => matches!(magic, EXT | XFS | F2FS | SQUASHFS | EROFS),
    }
}

const _: () = assert!(size_of::<Content>() == 64);
const _: () = assert!(size_of::<Opened>() == 48);
const _: () = assert!(size_of::<Measurement>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_measured_is_none_of_the_others() {
        assert_ne!(MeasuredBy::DAEMON.mark(7), MeasuredBy::KERNEL.mark(7));
        assert_eq!(MeasuredBy::KERNEL.mark(7), 7);
        for by in [MeasuredBy::KERNEL, MeasuredBy::DAEMON] {
            assert_eq!(MeasuredBy::of_number(by.number()), by);
        }
    }

    #[test]
    fn only_local_filesystems_are_trusted_to_tell() {
        let cases = [
            (0x0102_1994, None, true),     // tmpfs
            (0x8584_58f6, None, true),     // ramfs
            (0xef53, Some(8), true),       // ext4 on a disk
            (0xef53, Some(7), false),      // ext4 in a file
            (0xef53, Some(43), false),     // ext4 on a network block device
            (0xef53, None, false),         // no disk is known
            (0xe0f5_e1e2, None, false),    // erofs in a file, without a loop device
            (0x6573_5546, None, false),    // FUSE
            (0x6573_5546, Some(8), false), // FUSE on a disk
            (0x6969, None, false),         // NFS
            (0x0102_1997, None, false),    // 9p
            (0x794c_7630, None, false),    // overlayfs: what lies below is asked
            (0, None, false),
        ];
        for (magic, disk, expected) in cases {
            assert_eq!(changes_are_seen(magic, disk), expected, "{magic:#x} {disk:?}");
        }
    }
}
