//! Kernel structures: the only module that dereferences kernel pointers.
//!
//! A pointer type per structure; a method per field. The offsets are constants to the verifier, because the daemon writes
//! [`OFFSETS`] before it loads the object and freezes the map it lies in. The verifier follows the types of the fields
//! (BTF), and where it does not trust a pointer it makes the load fault-tolerant: a bad pointer reads as 0.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use enforcer_common::{ids::ObjectId, offsets::Offsets};

/// Filled in by the daemon from the running kernel's BTF.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    linux_binprm_file: 0,
    file_f_path: 0,
    path_dentry: 0,
    dentry_d_parent: 0,
    dentry_d_inode: 0,
    dentry_d_name: 0,
    qstr_name: 0,
    inode_i_ino: 0,
    inode_i_sb: 0,
    inode_i_generation: 0,
    super_block_s_dev: 0,
    task_tgid: 0,
    task_real_parent: 0,
    task_mm: 0,
    mm_exe_file: 0,
    socket_sk: 0,
    sock_sk_protocol: 0,
    cgroup_kn: 0,
    cgroup_self: 0,
    css_parent: 0,
    kernfs_node_id: 0,
};

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
    /// `struct cgroup`.
    Cgroup,
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

/// Reads a field through a pointer whose type the verifier does not know.
///
/// # Safety
/// `base` must be a kernel address; a bad one reads as `None`.
#[inline(always)]
unsafe fn probe<T: Copy + Default>(base: *const c_void, offset: usize) -> Option<T> {
    let mut value = T::default();
    // SAFETY: writes `size_of::<T>()` bytes into `value`; the source may be any address.
    let status = unsafe {
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, base.byte_add(offset).cast())
    };
    if status == 0 { Some(value) } else { None }
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

impl Dentry {
    /// The directory that holds this name; a root is its own.
    #[inline(always)]
    pub fn parent(self) -> Self {
        // SAFETY: `dentry.d_parent` is a pointer to a dentry.
        Self(unsafe { field(self.0, offset!(dentry_d_parent)) })
    }

    /// The inode, null for a name that does not exist.
    #[inline(always)]
    pub fn inode(self) -> Inode {
        // SAFETY: `dentry.d_inode` is a pointer to an inode.
        Inode(unsafe { field(self.0, offset!(dentry_d_inode)) })
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

impl Inode {
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

impl Task {
    /// The acting task.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper has no precondition and never returns null.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// The key of the task in `TASKS`.
    #[inline(always)]
    pub fn key(self) -> u64 {
        self.0 as u64
    }

    /// The process id in the initial pid namespace.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        // SAFETY: `task_struct.tgid` is an int.
        unsafe { field(self.0, offset!(task_tgid)) }
    }

    /// The parent.
    #[inline(always)]
    pub fn parent(self) -> Self {
        // SAFETY: `task_struct.real_parent` is a pointer to a task.
        Self(unsafe { field(self.0, offset!(task_real_parent)) })
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

impl Socket {
    /// The IP protocol, 0 when the socket has no network half.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        // SAFETY: `socket.sk` is a pointer to a sock or null, whose `sk_protocol` is a u16.
        unsafe {
            let sk: *const c_void = field(self.0, offset!(socket_sk));
            if sk.is_null() { 0 } else { field(sk, offset!(sock_sk_protocol)) }
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

    /// The cgroup above it, null for the root.
    #[inline(always)]
    pub fn parent(self) -> Option<Self> {
        // SAFETY: `cgroup.self` is an embedded cgroup_subsys_state, whose `parent` points to the state that is embedded in
        // the parent cgroup at the same offset.
        let state: u64 = unsafe { probe(self.0, offset!(cgroup_self) + offset!(css_parent))? };
        if state == 0 { None } else { Some(Self((state - offset!(cgroup_self) as u64) as *const c_void)) }
    }
}
