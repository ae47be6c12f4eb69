//! Tasks, their memory and their cgroups.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use super::{Cgroup, File, OFFSETS, Task, Vma, field, load, probe};
use crate::atomic;

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
    pub(super) unsafe fn of_pid(pid: u64) -> Option<Self> {
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
