//! What the daemon knows of the host and the programs cannot find out.

/// The only element of `HOST`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The number of the mount namespace of process 1, as `/proc/1/ns/mnt` shows it.
    pub mount_namespace: u32,
    /// Who measures the content of files: a number of [`crate::content::MeasuredBy`].
    pub measured_by: u32,
    /// A bit for each major number of a character device whose driver gives raw access to disks, and whose number the kernel
    /// chose when it was loaded.
    pub raw_majors: [u64; RAW_MAJOR_WORDS],
}

/// Majors of character devices are below 512 (`include/linux/fs.h: CHRDEV_MAJOR_MAX`).
pub const RAW_MAJOR_WORDS: usize = 8;

impl HostFacts {
    /// The word and the bit of a major number.
    #[must_use]
    #[inline(always)]
    pub const fn raw_major_slot(major: u32) -> (usize, u64) {
        ((major as usize >> 6) & (RAW_MAJOR_WORDS - 1), 1 << (major & 63))
    }
}

const _: () = assert!(size_of::<HostFacts>() == 72);
const _: () = assert!(RAW_MAJOR_WORDS.is_power_of_two());
