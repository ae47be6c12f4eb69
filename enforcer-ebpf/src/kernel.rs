//! Kernel structures: the only module that dereferences kernel pointers.
//!
//! A pointer type per structure; a method per field. The offsets are constants to the verifier, because the daemon writes
//! [`OFFSETS`] before it loads the object and freezes the map it lies in. The verifier follows the types of the fields
//! (BTF), and where it does not trust a pointer it makes the load fault-tolerant: a bad pointer reads as 0.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use enforcer_common::offsets::Offsets;

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
mod files;
mod mounts;
mod sock;
mod tasks;

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
