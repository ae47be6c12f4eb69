//! Kernel structures: the only module that dereferences kernel pointers.
//!
//! A pointer type per structure; a method per field. The offsets are constants to the verifier, because the daemon writes
//! [`OFFSETS`] before it loads the object and freezes the map it lies in. The verifier follows the types of the fields
//! (BTF), and where it does not trust a pointer it makes the load fault-tolerant: a bad pointer reads as 0.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use enforcer_common::{ids::ObjectId, offsets::Offsets};

use crate::atomic;

/// Filled in by the daemon from the running kernel's BTF.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::UNSET;

/// The offset of a field.
macro_rules! offset {
    ($field:ident) => {
        load(&OFFSETS.$field)
    };
}

/// Reads an offset; volatile, because the value in the object is not the one that will be there.
#[inline(always)]
fn load(offset: &'static u32) -> usize {
    // SAFETY: a reference is valid for reads.
    unsafe { ptr::read_volatile(offset) as usize }
}

// Behind the macro that they use.
mod caller;
mod sock;

pub use sock::NetlinkHeader;

/// Declares a pointer to a kernel structure.
macro_rules! kernel_pointer {
    ($($(#[$meta:meta])* $name:ident,)+) => { $(
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name(*const c_void);

        impl $name {
            /// From an argument of a hook.
            #[inline(always)]
            #[allow(dead_code, reason = "some structures are only found behind others")]
            pub const fn new(pointer: *const c_void) -> Self {
                Self(pointer)
            }

            /// Whether there is nothing behind it.
            #[inline(always)]
            #[allow(dead_code, reason = "not every structure is ever absent")]
            pub fn is_null(self) -> bool {
                self.0.is_null()
            }

            /// The pointer itself, for a helper.
            #[inline(always)]
            #[allow(dead_code, reason = "not every structure is handed to a helper")]
            pub const fn as_ptr(self) -> *mut c_void {
                self.0.cast_mut()
            }
        }
    )+ };
}

kernel_pointer! {
    /// `struct linux_binprm`.
    Binprm,
    /// `struct file`.
    File,
    /// `struct dentry`.
    Dentry,
    /// `struct inode`.
    Inode,
    /// `struct task_struct`.
    Task,
    /// `struct socket`.
    Socket,
    /// `struct sock`.
    Sock,
    /// `struct unix_sock`.
    UnixSock,
    /// `struct sk_buff`.
    Skb,
    /// `struct cgroup`.
    Cgroup,
    /// `struct iattr`.
    Iattr,
    /// `struct super_block`.
    SuperBlock,
    /// `struct path`.
    Path,
    /// `struct vfsmount`.
    Mount,
    /// `struct vm_area_struct`.
    Vma,
    /// `struct qstr`.
    Qstr,
    /// `struct user_namespace`.
    UserNamespace,
}

/// Reads a field.
///
/// # Safety
/// `base` must point to a kernel structure that has a `T` at `offset`. The verifier checks the same with BTF.
#[inline(always)]
unsafe fn field<T: Copy>(base: *const c_void, offset: usize) -> T {
    // SAFETY: as the caller promised; the verifier refuses or guards any other load.
    unsafe { *base.byte_add(offset).cast::<T>() }
}

/// Reads a word that lies at an address, which need not be valid any more.
#[inline(always)]
pub fn word_at(address: u64) -> Option<u64> {
    // SAFETY: reads as `None` what is no address of the kernel's.
    unsafe { probe(address as *const c_void, 0) }
}

/// Reads a field through a pointer whose type the verifier does not know.
///
/// # Safety
/// `base` must be a kernel address; a bad one reads as `None`.
#[inline(always)]
unsafe fn probe<T: Copy>(base: *const c_void, offset: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: writes `size_of::<T>()` bytes into `value`; the source may be any address.
    let status = unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, base.byte_add(offset).cast())
    };
    // SAFETY: the helper has written all of it.
    if status == 0 { Some(unsafe { value.assume_init() }) } else { None }
}

/// Whether the first word of a hook's context is 0. The verifier knows nothing of a number that a helper has read.
///
/// # Safety
/// `context` must be the context of a hook.
#[inline(always)]
pub unsafe fn is_zero(context: *const c_void) -> bool {
    // SAFETY: as the caller promised.
    unsafe { probe::<u64>(context, 0) }.unwrap_or(0) == 0
}

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
}

impl File {
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
}

impl File {
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

impl Vma {
    /// The file behind the mapping; null for anonymous memory.
    #[inline(always)]
    pub fn file(self) -> File {
        // SAFETY: `vm_area_struct.vm_file` is a pointer to a file or null.
        File(unsafe { field(self.0, offset!(vma_vm_file)) })
    }

    /// `VM_*`: what may be done with it.
    #[inline(always)]
    pub fn flags(self) -> u64 {
        // SAFETY: `vm_area_struct.vm_flags` is an unsigned long.
        unsafe { field(self.0, offset!(vma_vm_flags)) }
    }

    /// Whether a page of a private mapping was ever written.
    #[inline(always)]
    pub fn has_own_pages(self) -> bool {
        // SAFETY: `vm_area_struct.anon_vma` is a pointer; only its value is looked at. What cannot be read was written.
        unsafe { probe::<u64>(self.0, offset!(vma_anon_vma)) }.unwrap_or(1) != 0
    }
}

impl Path {
    /// The mount.
    #[inline(always)]
    pub fn mount(self) -> Mount {
        // SAFETY: `path.mnt` is a pointer to a vfsmount.
        Mount(unsafe { field(self.0, offset!(path_mnt)) })
    }
}

impl Mount {
    /// A field of the `struct mount` around it.
    #[inline(always)]
    fn outer<T: Copy + Default>(self, offset: usize) -> Option<T> {
        // SAFETY: every vfsmount is embedded in a mount; a bad address reads as `None`.
        unsafe { probe(self.0.byte_sub(offset!(mount_mnt)), offset) }
    }

    /// The mount that it is mounted upon; of a namespace's root, itself.
    #[inline(always)]
    pub fn parent(self) -> Option<Self> {
        let parent: u64 = self.outer(offset!(mount_mnt_parent))?;
        Some(Self((parent + offset!(mount_mnt) as u64) as *const c_void))
    }

    /// Whether what happens upon it happens elsewhere, too. A mount has a group of its peers exactly as long as it is shared
    /// (`fs/pnode.c: change_mnt_propagation`).
    #[inline(always)]
    pub fn is_shared(self) -> bool {
        self.outer::<u32>(offset!(mount_mnt_group_id)).is_none_or(|group| group != 0)
    }

    /// Whether the kernel made it for itself alone (`MNT_NS_INTERNAL`), as overlayfs does with each layer
    /// (`fs/namespace.c: clone_private_mount`). One that was unmounted lazily is in no namespace either, and may be in use by
    /// whoever has a directory of it open.
    #[inline(always)]
    pub fn is_kernels_own(self) -> bool {
        /// `MAX_ERRNO` of `include/linux/err.h`: higher addresses are error pointers.
        const MAX_ERRNO: u64 = 4095;
        self.outer::<u64>(offset!(mount_mnt_ns)).is_some_and(|namespace| namespace >= MAX_ERRNO.wrapping_neg())
    }

    /// The number of the namespace that it belongs to; 0 when it hangs in none.
    #[inline(always)]
    pub fn namespace(self) -> Option<u32> {
        let namespace: u64 = self.outer(offset!(mount_mnt_ns))?;
        if namespace == 0 {
            return Some(0);
        }
        // SAFETY: `mount.mnt_ns` points to a mnt_namespace, in which the common part is embedded. A bad address reads as `None`,
        // also the error pointer of a mount of the kernel's own.
        unsafe { probe(namespace as *const c_void, offset!(mnt_namespace_ns) + offset!(ns_common_inum)) }
    }
}

impl Task {
    /// The acting task.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper has no precondition and never returns null.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// The task that has an id.
    ///
    /// # Safety
    /// `pid` must be the address of a `struct pid` or 0; a bad one reads as `None`.
    #[inline(always)]
    unsafe fn of_pid(pid: u64) -> Option<Self> {
        if pid == 0 {
            return None;
        }
        // SAFETY: the first of a pid's lists begins with the `pid_links` of the task that has the id.
        let link: u64 = unsafe { probe(pid as *const c_void, offset!(pid_tasks))? };
        if link == 0 { None } else { Some(Self((link - offset!(task_pid_links) as u64) as *const c_void)) }
    }

    /// The key of the task in `TASKS`: its address, as a number.
    ///
    /// The verifier does not let a pointer be multiplied.
    #[inline(always)]
    pub fn key(self) -> u64 {
        let mut key = 0;
        // SAFETY: the word is on the stack.
        unsafe {
            atomic::store(&raw mut key, self.0 as u64);
            (&raw const key).read_volatile()
        }
    }

    /// The process id in the initial pid namespace.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        // SAFETY: `task_struct.tgid` is an int.
        unsafe { field(self.0, offset!(task_tgid)) }
    }

    /// The thread id in the initial pid namespace.
    #[inline(always)]
    pub fn pid(self) -> u32 {
        // SAFETY: `task_struct.pid` is an int.
        unsafe { field(self.0, offset!(task_pid)) }
    }

    /// Whether it is traced.
    #[inline(always)]
    pub fn is_traced(self) -> bool {
        // SAFETY: `task_struct.ptrace` is an unsigned int.
        unsafe { field::<u32>(self.0, offset!(task_ptrace)) != 0 }
    }

    /// Whether whatever it may read it may execute (`personality(READ_IMPLIES_EXEC)`).
    #[inline(always)]
    pub fn makes_data_executable(self) -> bool {
        /// `include/uapi/linux/personality.h`.
        const READ_IMPLIES_EXEC: u32 = 0x0040_0000;
        // SAFETY: `task_struct.personality` is an unsigned int.
        unsafe { field::<u32>(self.0, offset!(task_personality)) & READ_IMPLIES_EXEC != 0 }
    }

    /// Whether the task acts with credentials other than its own, as overlayfs has it do for the layers below. A task's own are
    /// both pointers (`kernel/cred.c: commit_creds`), and `io_uring`'s personalities are refused. Two ways are left in which
    /// other credentials are not the kernel's:
    ///
    /// - a worker or polling thread of `io_uring` acts with those of a request or a ring; it is not taken for the kernel;
    /// - a request that follows one that went to a worker keeps the credentials of its submission. If the task has new ones
    ///   when its turn comes, it is carried out with the old ones within the task (`io_uring/io_uring.c: io_prep_async_link,
    ///   io_issue_sqe`). Opens can come that way, which [`File::is_opened_by_kernel`] looks at. What sets attributes or a size, or
    ///   creates or cuts while opening, always goes to a worker (`REQ_F_FORCE_ASYNC`, or `EAGAIN` while it must not block).
    #[inline(always)]
    pub fn acts_for_kernel(self) -> bool {
        /// `PF_IO_WORKER` of `include/linux/sched.h`.
        const PF_IO_WORKER: u32 = 0x10;
        // SAFETY: `task_struct.cred` and `real_cred` are pointers, `flags` is an unsigned int.
        unsafe {
            let acting: *const c_void = field(self.0, offset!(task_cred));
            let own: *const c_void = field(self.0, offset!(task_real_cred));
            acting != own && field::<u32>(self.0, offset!(task_flags)) & PF_IO_WORKER == 0
        }
    }

    /// The parent.
    #[inline(always)]
    pub fn parent(self) -> Self {
        // SAFETY: `task_struct.real_parent` is a pointer to a task.
        Self(unsafe { field(self.0, offset!(task_real_parent)) })
    }

    /// The first thread of its process.
    #[inline(always)]
    pub fn leader(self) -> Self {
        // SAFETY: `task_struct.group_leader` is a pointer to a task.
        Self(unsafe { field(self.0, offset!(task_group_leader)) })
    }

    /// The cgroup of version 2 that the task is in.
    #[inline(always)]
    pub fn cgroup(self) -> Option<Cgroup> {
        // SAFETY: `task_struct.cgroups` is a pointer to a css_set, whose `dfl_cgrp` is a pointer to a cgroup.
        unsafe {
            let set: u64 = probe(self.0, offset!(task_cgroups))?;
            probe::<u64>(set as *const c_void, offset!(css_set_dfl_cgrp)).map(|cgroup| Cgroup(cgroup as *const c_void))
        }
    }

    /// The file of the program that the process runs; null for a kernel thread.
    #[inline(always)]
    pub fn exe(self) -> File {
        // SAFETY: `task_struct.mm` is a pointer to an mm_struct or null, whose `exe_file` is a pointer to a file.
        unsafe {
            let mm: *const c_void = field(self.0, offset!(task_mm));
            if mm.is_null() { File(ptr::null()) } else { File(field(mm, offset!(mm_exe_file))) }
        }
    }
}

impl Cgroup {
    /// The cgroup's kernfs id, which is its inode number in cgroupfs.
    #[inline(always)]
    pub fn id(self) -> Option<u64> {
        // SAFETY: `cgroup.kn` is a pointer to a kernfs_node, whose `id` is a u64.
        unsafe {
            let node: u64 = probe(self.0, offset!(cgroup_kn))?;
            probe(node as *const c_void, offset!(kernfs_node_id))
        }
    }

    /// Whether it is of version 2. Those of other hierarchies have ids of their own, which may be the same.
    #[inline(always)]
    pub fn is_unified(self) -> bool {
        // SAFETY: `cgroup.root` is a pointer to a cgroup_root, whose `hierarchy_id` is an int.
        let number = unsafe {
            probe::<u64>(self.0, offset!(cgroup_root))
                .and_then(|root| probe::<u32>(root as *const c_void, offset!(cgroup_root_hierarchy_id)))
        };
        number == Some(0)
    }

    /// The cgroup above it, `None` for the root.
    #[inline(always)]
    pub fn parent(self) -> Option<Self> {
        // SAFETY: `cgroup.self` is an embedded cgroup_subsys_state, whose `parent` points to the state that is embedded in
        // the parent cgroup at the same offset.
        let state: u64 = unsafe { probe(self.0, offset!(cgroup_self) + offset!(css_parent))? };
        if state == 0 { None } else { Some(Self((state - offset!(cgroup_self) as u64) as *const c_void)) }
    }
}
