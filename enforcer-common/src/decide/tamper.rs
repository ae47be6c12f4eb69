//! What reaches below the rules: the filesystems by which the kernel is told what to do, and the devices that hold what the
//! rules are about.

/// Whether a filesystem of this type (`super_block.s_magic`) is one by which the kernel is told what to do. Of procfs it is what
/// does not belong to a process; that is for the caller to find out.
///
/// Numbers from `include/uapi/linux/magic.h`, and from the filesystem's own source where it says so.
#[must_use]
#[inline(always)]
pub const fn is_kernel_interface(magic: u64) -> bool {
    /// sysfs.
    const SYSFS: u64 = 0x6265_6572;
    /// cgroup v2, and v1 whose `release_agent` is a program that the kernel runs.
    const CGROUP2: u64 = 0x6367_7270;
    const CGROUP: u64 = 0x0027_e0eb;
    const DEBUGFS: u64 = 0x6462_6720;
    const TRACEFS: u64 = 0x7472_6163;
    const SECURITYFS: u64 = 0x7363_6673;
    const BPF_FS: u64 = 0xcafe_4a11;
    /// `fs/configfs/mount.c`.
    const CONFIGFS: u64 = 0x6265_6570;
    /// Programs that the kernel runs by a file's first bytes.
    const BINFMTFS: u64 = 0x4249_4e4d;
    const EFIVARFS: u64 = 0xde5e_81e4;
    const SELINUX: u64 = 0xf97c_ff8c;
    const SMACK: u64 = 0x4341_5d53;
    /// `AppArmor`'s policy (`security/apparmor/apparmorfs.c`).
    const AAFS: u64 = 0x5a3c_69f0;
    const PSTOREFS: u64 = 0x6165_676c;
    /// Resource control of the processor (`fs/resctrl`).
    const RDTGROUP: u64 = 0x0765_5821;
    const XENFS: u64 = 0xabba_1974;
    matches!(
        magic,
        SYSFS
            | CGROUP2
            | CGROUP
            | DEBUGFS
            | TRACEFS
            | SECURITYFS
            | BPF_FS
            | CONFIGFS
            | BINFMTFS
            | EFIVARFS
            | SELINUX
            | SMACK
            | AAFS
            | PSTOREFS
            | RDTGROUP
            | XENFS
    )
}

/// A device node's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whether it is a block device.
    pub block: bool,
    /// The number as the kernel keeps it: `major << 20 | minor`.
    pub number: u32,
}

impl Device {
    /// The device of a node with this mode; `None` for anything else.
    #[must_use]
    #[inline(always)]
    pub const fn of(mode: u16, number: u32) -> Option<Self> {
        const S_IFMT: u16 = 0o170_000;
        const S_IFCHR: u16 = 0o020_000;
        const S_IFBLK: u16 = 0o060_000;
        match mode & S_IFMT {
            S_IFBLK => Some(Self { block: true, number }),
            S_IFCHR => Some(Self { block: false, number }),
            _ => None,
        }
    }

    /// The number that `mknod(2)` is given, as the kernel keeps it (`include/linux/kdev_t.h: new_decode_dev`).
    #[must_use]
    #[inline(always)]
    pub const fn number_of_mknod(dev: u32) -> u32 {
        ((dev & 0xf_ff00) >> 8) << 20 | (dev & 0xff) | (dev >> 12) & 0xf_ff00
    }

    /// Whether it holds what rules are about, or commands the machine: every block device, the machine's memory and ports, disks
    /// as their own command sets show them, the device mapper, and keyboards that somebody else's programs listen to; what sends
    /// packets that no socket has made.
    ///
    /// Numbers from `Documentation/admin-guide/devices.txt` and `include/linux/miscdevice.h`. `drivers` has a bit for each
    /// major number of the drivers that get theirs when they are loaded.
    #[must_use]
    #[inline(always)]
    pub fn is_raw(self, drivers: impl FnOnce(u32) -> bool) -> bool {
        const MEM: u32 = 1;
        const MISC: u32 = 10;
        const SG: u32 = 21;
        const PPP: u32 = 108;
        const MSR: u32 = 202;
        const NVRAM: u32 = 144;
        const VFIO: u32 = 196;
        const UINPUT: u32 = 223;
        const TUN: u32 = 200;
        const SNAPSHOT: u32 = 231;
        const MAPPER: u32 = 236;
        const VHOST_NET: u32 = 238;
        const UHID: u32 = 239;
        const VHOST_VSOCK: u32 = 241;
        if self.block {
            return true;
        }
        let (major, minor) = (self.number >> 20, self.number & 0xf_ffff);
        match major {
            // `mem`, `kmem`, `port`.
            MEM => matches!(minor, 1 | 2 | 4),
            MISC => matches!(minor, NVRAM | VFIO | TUN | UINPUT | SNAPSHOT | MAPPER | VHOST_NET | UHID | VHOST_VSOCK),
            SG | PPP | MSR => true,
            other => drivers(other),
        }
    }

    /// Whether anybody may have one: reading and writing it changes nothing. `null`, `zero`, `full`, `random`, `urandom`
    /// (`drivers/char/mem.c`), and the process's own terminal and a new one (`drivers/tty/tty_io.c`). No shell starts without
    /// them.
    #[must_use]
    #[inline(always)]
    pub const fn is_bottomless(self) -> bool {
        const MEM: u32 = 1 << 20;
        const TTY: u32 = 5 << 20;
        !self.block && (matches!(self.number ^ MEM, 3 | 5 | 7..=9) || matches!(self.number ^ TTY, 0 | 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn character(major: u32, minor: u32) -> Device {
        Device { block: false, number: major << 20 | minor }
    }

    #[test]
    fn memory_disks_and_packets_are_raw_and_null_is_not() {
        let none = |_| false;
        for (major, minor) in
            [(1, 1), (1, 2), (1, 4), (10, 236), (10, 223), (21, 7), (202, 0), (10, 200), (10, 238), (10, 241), (108, 0)]
        {
            assert!(character(major, minor).is_raw(none), "{major}:{minor}");
            assert!(!character(major, minor).is_bottomless(), "{major}:{minor}");
        }
        for (major, minor) in [
            (1, 3),
            (1, 5),
            (1, 8),
            (1, 9),
            (5, 0),
            (5, 2),
            (10, 199),
            (10, 201),
            (10, 229),
            (10, 237),
            (107, 0),
            (109, 0),
            (136, 1),
            (226, 0),
        ] {
            assert!(!character(major, minor).is_raw(none), "{major}:{minor}");
        }
        assert!(Device { block: true, number: 0 }.is_raw(none));
        assert!(character(1, 3).is_bottomless() && character(5, 0).is_bottomless());
        assert!(!character(5, 1).is_bottomless() && !Device { block: true, number: 0x10_0003 }.is_bottomless());
        assert!(character(240, 3).is_raw(|major| major == 240));
    }

    #[test]
    fn the_number_of_mknod_is_decoded() {
        // `makedev(0x103, 0x12c)` of the C library: the low byte of the minor, the major, the rest of the minor.
        let dev = 0x2c | 0x103 << 8 | 0x100 << 12;
        assert_eq!(Device::number_of_mknod(dev), 0x103 << 20 | 0x12c);
        assert_eq!(Device::number_of_mknod(0x801), 8 << 20 | 1);
    }

    #[test]
    fn a_mode_tells_what_is_a_device() {
        assert_eq!(Device::of(0o100_644, 5), None);
        assert_eq!(Device::of(0o040_755, 5), None);
        assert_eq!(Device::of(0o060_660, 5), Some(Device { block: true, number: 5 }));
        assert_eq!(Device::of(0o020_666, 5), Some(Device { block: false, number: 5 }));
    }

    #[test]
    fn sysfs_and_cgroups_tell_the_kernel_and_tmpfs_does_not() {
        for magic in [0x6265_6572, 0x6367_7270, 0xcafe_4a11, 0x6462_6720] {
            assert!(is_kernel_interface(magic), "{magic:x}");
        }
        for magic in [0x0102_1994, 0xef53, 0x9fa0, 0x1cd1, 0x794c_7630, 0] {
            assert!(!is_kernel_interface(magic), "{magic:x}");
        }
    }
}
