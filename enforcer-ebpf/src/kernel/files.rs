//! Open files, names, inodes and filesystems.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use enforcer_common::{decide::Waypoint, ids::ObjectId};

use super::{Binprm, Dentry, File, Iattr, Inode, Mount, OFFSETS, Qstr, SuperBlock, Task, field, load, probe};

impl Binprm {
    /// The file that this pass of the exec is about: the script first, then its interpreter.
    #[inline(always)]
    pub fn file(self) -> File {
        // SAFETY: `linux_binprm.file` is a pointer to a file.
        File(unsafe { field(self.0, offset!(linux_binprm_file)) })
    }
}

impl File {
    /// The dentry by which the file was opened.
    #[inline(always)]
    pub fn dentry(self) -> Dentry {
        // SAFETY: `file.f_path` is an embedded path, which has a pointer to a dentry.
        Dentry(unsafe { field(self.0, offset!(file_f_path) + offset!(path_dentry)) })
    }

    /// `FMODE_*`: how the file was opened.
    #[inline(always)]
    pub fn mode(self) -> u32 {
        // SAFETY: `file.f_mode` is an unsigned int.
        unsafe { field(self.0, offset!(file_f_mode)) }
    }

    /// Whether the file was opened to be executed. User space cannot ask for that by a flag (`fs/open.c: build_open_flags`).
    #[inline(always)]
    pub fn is_for_execution(self) -> bool {
        /// `__FMODE_EXEC` of `include/linux/fs.h`, which lies among the `O_*` flags.
        const FMODE_EXEC: u32 = 1 << 5;
        // SAFETY: `file.f_flags` is an unsigned int.
        unsafe { field::<u32>(self.0, offset!(file_f_flags)) & FMODE_EXEC != 0 }
    }

    /// The inode. Of an open file alone may its storage be asked on every kernel.
    #[inline(always)]
    pub fn inode(self) -> Inode {
        // SAFETY: `file.f_inode` is a pointer to an inode.
        Inode(unsafe { field(self.0, offset!(file_f_inode)) })
    }

    /// The address, for comparison.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Whether the kernel opens the file for itself within the task's system call, as overlayfs does with the layers below, on
    /// which no rule lies: with other credentials than the task's, and by a way that no task has.
    #[inline(always)]
    pub fn is_opened_by_kernel(self) -> bool {
        Task::current().acts_for_kernel() && self.is_out_of_reach()
    }

    /// Whether no task could open the file as it is open. It lies in a mount that the kernel made for itself alone, or, until 6.6,
    /// its path is the overlay's and its inode that of the layer (`fs/open.c: open_with_fake_path`), where every other open takes
    /// the inode from the path.
    #[inline(always)]
    fn is_out_of_reach(self) -> bool {
        // SAFETY: `file.f_path` is an embedded path, which has a pointer to a vfsmount.
        let mount = Mount(unsafe { field(self.0, offset!(file_f_path) + offset!(path_mnt)) });
        // SAFETY: `dentry.d_inode` is a pointer; only its value is looked at.
        let named = unsafe { probe::<u64>(self.dentry().0, offset!(dentry_d_inode)) };
        mount.is_kernels_own() || named.is_some_and(|inode| inode != self.inode().address())
    }

    /// Whether it was opened for writing.
    #[inline(always)]
    pub fn is_writable(self) -> bool {
        /// `include/linux/fs.h`.
        const FMODE_WRITE: u32 = 2;
        self.mode() & FMODE_WRITE != 0
    }
}

impl Dentry {
    /// The filesystem.
    #[inline(always)]
    pub fn superblock(self) -> SuperBlock {
        // SAFETY: `dentry.d_sb` is a pointer to a super_block.
        SuperBlock(unsafe { field(self.0, offset!(dentry_d_sb)) })
    }

    /// Whether this is the root that paths of its filesystem begin at. A dentry without a parent is not, when it was found by
    /// a file handle and never connected, or belongs to a file without a name.
    #[inline(always)]
    pub fn is_root_of_filesystem(self) -> bool {
        let superblock = self.superblock();
        // SAFETY: `super_block.s_root` is a pointer to a dentry.
        !superblock.is_null() && Self(unsafe { field(superblock.0, offset!(super_block_s_root)) }) == self
    }

    /// The directory that holds this name; a root is its own.
    #[inline(always)]
    pub fn parent(self) -> Self {
        // SAFETY: `dentry.d_parent` is a pointer to a dentry.
        Self(unsafe { field(self.0, offset!(dentry_d_parent)) })
    }

    /// Whether this is a name that does not exist.
    ///
    /// From 6.3 on the verifier takes `d_inode` of a trusted dentry for trusted, thus never null (`kernel/bpf/verifier.c:
    /// BTF_TYPE_SAFE_TRUSTED(struct dentry)`), and removes a comparison with null as dead code. A number that was read by a
    /// helper may be anything.
    #[inline(always)]
    pub fn is_negative(self) -> bool {
        // SAFETY: `dentry.d_inode` is a pointer; only its value is looked at.
        unsafe { probe::<u64>(self.0, offset!(dentry_d_inode)) }.unwrap_or(0) == 0
    }

    /// The inode of a name that exists. Of one that does not, nothing may be read: see [`Self::is_negative`].
    #[inline(always)]
    pub fn inode(self) -> Inode {
        // SAFETY: `dentry.d_inode` is a pointer to an inode.
        Inode(unsafe { field(self.0, offset!(dentry_d_inode)) })
    }

    /// The kernel's identity of what the name leads to; of a name that does not exist, one that no object has.
    #[inline(always)]
    pub fn id(self) -> ObjectId {
        if self.is_negative() { ObjectId { ino: 0, dev: 0, generation: 0 } } else { self.inode().id() }
    }

    /// Copies the name with its NUL to `to`, at most `capacity` bytes; returns how many, or a negative error.
    ///
    /// # Safety
    /// `capacity` bytes at `to` must be writable.
    #[inline(always)]
    pub unsafe fn read_name(self, to: *mut u8, capacity: u32) -> i64 {
        // SAFETY: `dentry.d_name` is an embedded qstr, which has a pointer to characters.
        let name: *const c_void = unsafe { field(self.0, offset!(dentry_d_name) + offset!(qstr_name)) };
        // SAFETY: the caller promised the room; the helper stops at the NUL or at the capacity.
        unsafe { bpf_probe_read_kernel_str(to.cast(), capacity, name.cast()) }
    }
}

impl SuperBlock {
    /// The device number.
    #[inline(always)]
    pub fn dev(self) -> u32 {
        // SAFETY: `super_block.s_dev` is a u32.
        if self.is_null() { 0 } else { unsafe { field(self.0, offset!(super_block_s_dev)) } }
    }

    /// Whether the filesystem is mounted nowhere that a path could lead to: pipes, sockets, memfds.
    #[inline(always)]
    pub fn is_internal(self) -> bool {
        /// `SB_NOUSER` of `include/linux/fs.h`.
        const SB_NOUSER: u64 = 1 << 31;
        // SAFETY: `super_block.s_flags` is an unsigned long.
        !self.is_null() && unsafe { field::<u64>(self.0, offset!(super_block_s_flags)) } & SB_NOUSER != 0
    }

    /// Which driver the disk below is of, if there is a disk.
    #[inline(always)]
    pub fn disk_major(self) -> Option<u32> {
        // SAFETY: `super_block.s_bdev` is a pointer to a block_device or null, whose `bd_disk` is a pointer to a gendisk, whose
        // `major` is an int.
        unsafe {
            let device: *const c_void = field(self.0, offset!(super_block_s_bdev));
            if device.is_null() {
                return None;
            }
            let disk: *const c_void = field(device, offset!(block_device_bd_disk));
            if disk.is_null() { None } else { Some(field(disk, offset!(gendisk_major))) }
        }
    }

    /// The number that tells the type of filesystem.
    #[inline(always)]
    pub fn magic(self) -> u64 {
        // SAFETY: `super_block.s_magic` is an unsigned long.
        if self.is_null() { 0 } else { unsafe { field(self.0, offset!(super_block_s_magic)) } }
    }
}

impl Iattr {
    /// The size that a file is to be cut or grown to, if its size is to be set.
    #[inline(always)]
    pub fn size(self) -> Option<i64> {
        /// `ATTR_SIZE` of `include/linux/fs.h`.
        const ATTR_SIZE: u32 = 1 << 3;
        // SAFETY: `iattr.ia_valid` is an unsigned int, `ia_size` a long long.
        unsafe {
            let valid: u32 = field(self.0, offset!(iattr_ia_valid));
            if valid & ATTR_SIZE == 0 { None } else { Some(field(self.0, offset!(iattr_ia_size))) }
        }
    }
}

impl Inode {
    /// An inode that was seen before; only what says so may be asked of it.
    #[inline(always)]
    pub fn at(address: u64) -> Self {
        Self(address as *const c_void)
    }

    /// The address, to find it again.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Type and permissions.
    #[inline(always)]
    pub fn mode(self) -> u16 {
        // SAFETY: `inode.i_mode` is an unsigned short.
        if self.is_null() { 0 } else { unsafe { field(self.0, offset!(inode_i_mode)) } }
    }

    /// The task that a file of procfs below `/proc/PID` is about. Only for an inode of procfs.
    #[inline(always)]
    pub fn proc_task(self) -> Option<Task> {
        // SAFETY: an inode of procfs is embedded in a `proc_inode`, whose `pid` is a pointer to a `struct pid` or null.
        unsafe { Task::of_pid(probe(self.0.byte_sub(offset!(proc_inode_vfs_inode)), offset!(proc_inode_pid))?) }
    }

    /// Whether a file of procfs belongs to no process: the kernel's own settings. Only for an inode of procfs.
    #[inline(always)]
    pub fn is_proc_of_nobody(self) -> bool {
        // Since 7.x the verifier wants the check before any arithmetic.
        if self.0.is_null() {
            return true;
        }
        // SAFETY: as in `proc_task`. What cannot be read belongs to nobody.
        unsafe { probe::<u64>(self.0.byte_sub(offset!(proc_inode_vfs_inode)), offset!(proc_inode_pid)) }
            .is_none_or(|pid| pid == 0)
    }

    /// Whether anybody has the file open for writing, or a mapping through which it can be written. Also of an inode that is known by
    /// its address; true when it cannot be found out.
    #[inline(always)]
    pub fn has_writers(self) -> bool {
        // SAFETY: `inode.i_writecount` is an atomic_t, which is an int; `i_mapping` is a pointer to an address_space, whose
        // `i_mmap_writable` is an atomic_t. A bad address reads as `None`.
        let counts = unsafe {
            let files: Option<i32> = probe(self.0, offset!(inode_i_writecount));
            let mappings = probe::<u64>(self.0, offset!(inode_i_mapping))
                .and_then(|pages| probe::<i32>(pages as *const c_void, offset!(address_space_i_mmap_writable)));
            (files, mappings)
        };
        !matches!(counts, (Some(..=0), Some(..=0)))
    }

    /// `F_SEAL_*`: what may not be done to the file any more. Only for an inode of tmpfs.
    #[inline(always)]
    pub fn seals(self) -> u32 {
        // SAFETY: an inode of tmpfs is embedded in a `shmem_inode_info`, whose `seals` is an unsigned int. A bad address reads as
        // no seals.
        unsafe {
            let info = self.0.byte_sub(offset!(shmem_inode_info_vfs_inode));
            probe(info, offset!(shmem_inode_info_seals)).unwrap_or(0)
        }
    }

    /// The filesystem.
    #[inline(always)]
    pub fn superblock(self) -> SuperBlock {
        // SAFETY: `inode.i_sb` is a pointer to a super_block.
        SuperBlock(unsafe { field(self.0, offset!(inode_i_sb)) })
    }

    /// The size in bytes.
    #[inline(always)]
    pub fn size(self) -> i64 {
        // SAFETY: `inode.i_size` is a long long.
        if self.is_null() { 0 } else { unsafe { field(self.0, offset!(inode_i_size)) } }
    }

    /// The device that a device node stands for: `major << 20 | minor`.
    #[inline(always)]
    pub fn rdev(self) -> u32 {
        // SAFETY: `inode.i_rdev` is a u32.
        if self.is_null() { 0 } else { unsafe { field(self.0, offset!(inode_i_rdev)) } }
    }

    /// Its number; of none, one that no object has.
    #[inline(always)]
    pub fn ino(self) -> u64 {
        // As below.
        if self.0.is_null() {
            return 0;
        }
        // SAFETY: `inode.i_ino` is an unsigned long.
        unsafe { field(self.0, offset!(inode_i_ino)) }
    }

    /// The kernel's identity of this inode; of none, one that no object has.
    #[inline(always)]
    pub fn id(self) -> ObjectId {
        // Since 7.x the verifier wants the check before any arithmetic.
        if self.0.is_null() {
            return ObjectId { ino: 0, dev: 0, generation: 0 };
        }
        // SAFETY: `inode.i_ino` is an unsigned long, `i_generation` a u32, `i_sb` a pointer to a super_block, whose
        // `s_dev` is a u32.
        unsafe {
            let superblock: *const c_void = field(self.0, offset!(inode_i_sb));
            ObjectId {
                ino: field(self.0, offset!(inode_i_ino)),
                dev: field(superblock, offset!(super_block_s_dev)),
                generation: field(self.0, offset!(inode_i_generation)),
            }
        }
    }
}

impl Waypoint for Inode {
    #[inline(always)]
    fn ino(&self) -> u64 {
        Self::ino(*self)
    }

    #[inline(always)]
    fn id(&self) -> ObjectId {
        Self::id(*self)
    }
}

impl Qstr {
    /// Whether the text begins so.
    #[inline(always)]
    pub fn begins_with(self, start: &[u8; 7]) -> bool {
        let mut read = [0u8; 8];
        // SAFETY: `qstr.name` is a pointer to characters; the helper writes at most 8 bytes, the last one a NUL.
        unsafe {
            let name: *const c_void = field(self.0, offset!(qstr_name));
            bpf_probe_read_kernel_str(read.as_mut_ptr().cast(), 8, name.cast()) == 8 && read[..7] == *start
        }
    }
}
