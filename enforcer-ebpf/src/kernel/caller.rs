//! The system call that a task is in, and the namespaces that it is in.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_task_pt_regs;
use enforcer_common::decide::Call;

use super::{OFFSETS, Task, UserNamespace, field, load, probe};

impl UserNamespace {
    /// Whether it is not the host's: what is permitted in it is permitted over what belongs to it alone.
    #[inline(always)]
    pub fn is_made(self) -> bool {
        // SAFETY: `user_namespace.level` is an int.
        !self.is_null() && unsafe { field::<u32>(self.0, offset!(user_namespace_level)) != 0 }
    }
}

impl Task {
    /// The system call that the acting task is in. Of a worker of `io_uring`, the one that its parent was in when it was made.
    #[inline(always)]
    pub fn call(self) -> Call {
        /// `TS_COMPAT` of `arch/x86/include/asm/thread_info.h`: by the entry for 32-bit programs.
        const TS_COMPAT: u32 = 2;
        // SAFETY: the helper takes a task and gives its saved registers, of which `orig_ax` is an unsigned long; `thread_info` is
        // embedded in the task, and its `status` is a u32.
        unsafe {
            let registers = bpf_task_pt_regs(self.as_ptr().cast()) as *const c_void;
            let number: u64 = field(registers, offset!(pt_regs_orig_ax));
            let status: u32 = field(self.0, offset!(task_thread_info) + offset!(thread_info_status));
            Call::new(number, status & TS_COMPAT != 0)
        }
    }

    /// The number of its mount namespace; 0 when it cannot be found out.
    ///
    /// A number and no `Option`: of one LLVM may compare what is not there, which the verifier refuses.
    #[inline(always)]
    pub fn mount_namespace(self) -> u32 {
        self.namespace(offset!(nsproxy_mnt_ns), offset!(mnt_namespace_ns))
    }

    /// The number of its namespace of host names; 0 when it cannot be found out.
    #[inline(always)]
    pub fn name_namespace(self) -> u32 {
        self.namespace(offset!(nsproxy_uts_ns), offset!(uts_namespace_ns))
    }

    /// The number of one of its namespaces, whose pointer is at `which` of its `nsproxy`, and in which what all have in common is at
    /// `common`.
    #[inline(always)]
    fn namespace(self, which: usize, common: usize) -> u32 {
        // SAFETY: `task_struct.nsproxy` is a pointer to an nsproxy, whose members are pointers to namespaces. A bad address reads as
        // 0.
        unsafe {
            let proxy = probe::<u64>(self.0, offset!(task_nsproxy)).unwrap_or(0);
            let namespace = probe::<u64>(proxy as *const c_void, which).unwrap_or(0);
            probe(namespace as *const c_void, common + offset!(ns_common_inum)).unwrap_or(0)
        }
    }

    /// The process id as the task itself has it: in its own pid namespace (`kernel/pid.c: task_tgid_vnr`); 0 when it cannot be found
    /// out.
    #[inline(always)]
    pub fn own_number(self) -> u32 {
        /// `struct upid`: a number and a pointer to its namespace.
        const UPID_SIZE: u64 = 16;
        // SAFETY: `task_struct.thread_pid` is a pointer to a pid, which has as many numbers as its level says and one more. A bad
        // address reads as 0.
        unsafe {
            let pid = probe::<u64>(self.leader().0, offset!(task_thread_pid)).unwrap_or(0);
            let level = probe::<u32>(pid as *const c_void, offset!(pid_level)).unwrap_or(0);
            let number = pid + u64::from(level) * UPID_SIZE;
            probe(number as *const c_void, offset!(pid_numbers) + offset!(upid_nr)).unwrap_or(0)
        }
    }
}
