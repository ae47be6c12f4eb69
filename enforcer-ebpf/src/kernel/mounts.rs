//! Mounts and the namespaces that they hang in.

use core::ffi::c_void;

use super::{Mount, OFFSETS, Path, field, load, probe};

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
