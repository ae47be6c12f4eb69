//! Which program hangs on which hook, and what is missing without it.

use aya::programs::{BtfTracePoint, CgroupSockAddr, FExit, Iter, Lsm};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// An LSM hook.
    Lsm(&'static str),
    /// A tracepoint with BTF types.
    Tracepoint(&'static str),
    /// The return of a kernel function.
    Function(&'static str),
    /// The root of the cgroup v2 hierarchy.
    CgroupSockAddr,
    /// Not attached: run by the daemon over all tasks, or all their open files.
    Iterator(&'static str),
}

/// A program of the kernel object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its symbol.
    pub name: &'static str,
    /// Its hook.
    pub hook: Hook,
    /// What is not enforced without it.
    pub purpose: &'static str,
    /// On which kernels it is used.
    pub when: When,
}

/// On which kernels a program is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// On all of them: its absence is an error.
    Always,
    /// Where the kernel has the hook; where it has not, another program sees the act.
    HookExists,
    /// Where the hook takes this many arguments.
    Arguments(usize),
}

/// All programs, in the order in which they are attached: labels first, so that the first verdict finds its subject.
pub const PROGRAMS: &[Program] = &[
    lsm("task_free", "labels are forgotten when a task is gone"),
    lsm("task_alloc", "children inherit their parent's skill"),
    tracepoint("sched_process_fork", "who is being made while its parent is labelled is labelled, too"),
    tracepoint("cgroup_mkdir", "new cgroups below a governed one are governed"),
    tracepoint("cgroup_rmdir", "labels of removed cgroups are forgotten"),
    tracepoint("cgroup_attach_task", "moves of governed processes to other cgroups are reported"),
    iterator("enrol", "task", "processes can be put into a skill"),
    iterator("inherit", "task", "labels are carried over into newer programs"),
    iterator("inspect_files", "task_file", "open files that a process brings into its skill"),
    iterator(
        "inspect_sockets",
        "task_file",
        "sockets that a process brings into its skill, or has and may not have any more",
    ),
    lsm("inode_getxattr", "path rules are resolved to the kernel's identities"),
    lsm("bprm_creds_for_exec", "an exec that failed leads to no skill"),
    lsm("bprm_check_security", "exec"),
    lsm("bprm_committed_creds", "entrypoints lead to their skill"),
    tracepoint("sched_process_exec", "what the kernel maps for an exec is told from what the program maps"),
    // The one that is attached last runs first: `mmap_file` looks at the place, `mmap_file_measure` at the content.
    Program { name: "mmap_file_measure", ..lsm("mmap_file", "executable mappings, by content") },
    lsm("mmap_file", "executable mappings, by place, and executable memory"),
    lsm("file_mprotect", "mappings and memory that become executable"),
    function("personality_64", "__x64_sys_personality", "memory that is executable because it is readable"),
    Program {
        when: When::HookExists,
        ..function("personality_32", "__ia32_sys_personality", "memory that is executable because it is readable")
    },
    lsm("path_unlink", "delete by unlink"),
    lsm("path_rmdir", "delete by rmdir"),
    lsm("path_rename", "delete by rename away and over, and write by rename into"),
    lsm("path_mknod", "making files"),
    lsm("path_mkdir", "making directories"),
    lsm("path_symlink", "making symbolic links"),
    lsm("path_link", "making hard links"),
    lsm("file_open", "opening files for writing, and protected ones for reading"),
    lsm("file_receive", "open files that come from other processes"),
    Program { name: "receive_socket", ..lsm("file_receive", "sockets that come from other processes") },
    Program { when: When::Arguments(2), ..lsm("inode_setattr", "truncation, and changes of mode, owner and times") },
    Program {
        name: "inode_setattr_idmap",
        when: When::Arguments(3),
        ..lsm("inode_setattr", "truncation, and changes of mode, owner and times")
    },
    lsm("inode_setxattr", "setting extended attributes"),
    lsm("inode_removexattr", "removing extended attributes"),
    Program { when: When::HookExists, ..lsm("inode_set_acl", "setting access control lists") },
    Program { when: When::HookExists, ..lsm("inode_remove_acl", "removing access control lists") },
    lsm("file_ioctl", "ioctls that change a file, its owner, or a terminal"),
    Program { when: When::HookExists, ..lsm("file_ioctl_compat", "the same ioctls, by the entry for 32-bit programs") },
    Program { when: When::HookExists, ..lsm("inode_file_setattr", "setting the flags of files") },
    lsm("inode_create", "making message queues"),
    lsm("inode_unlink", "removing message queues"),
    lsm("file_fcntl", "files that signal processes outside the skill"),
    lsm("task_kill", "signals to processes outside the skill"),
    lsm("file_send_sigiotask", "signals by way of a file's owner"),
    lsm("ptrace_access_check", "tracing, memory and files of processes outside the skill"),
    lsm("ptrace_traceme", "being traced by a process of a skill"),
    lsm("inode_init_security_anon", "userfaultfd, which fills pages of executable mappings"),
    lsm("sb_kern_mount", "stacked filesystems that would hide protected files"),
    lsm("sb_mount", "mounts that the host sees"),
    lsm("move_mount", "mounts that the host sees, by the new calls"),
    lsm("sb_umount", "unmounting what the host sees"),
    lsm("sb_pivotroot", "another root for the host"),
    lsm("sb_remount", "other settings for a filesystem"),
    lsm("task_setrlimit", "resource limits of processes outside the skill"),
    lsm("task_setnice", "priorities of processes outside the skill"),
    lsm("task_setioprio", "I/O priorities of processes outside the skill"),
    lsm("task_setscheduler", "scheduling of processes outside the skill"),
    lsm("task_movememory", "placement of other processes' memory"),
    lsm("bpf", "bpf(2) by governed processes"),
    lsm("perf_event_open", "performance events by governed processes"),
    lsm("locked_down", "what a locked-down kernel refuses, by governed processes"),
    lsm("kernel_load_data", "modules and kernels from memory"),
    lsm("kernel_read_file", "modules and kernels from files"),
    lsm("capable", "restarting, swapping, mount settings, clocks, and what else passes no hook but a capability's"),
    Program { when: When::HookExists, ..lsm("uring_override_creds", "io_uring requests with other credentials") },
    lsm("socket_create", "sockets of families and types that no rule can name"),
    lsm("socket_post_create", "sockets are known to be the skill's own"),
    lsm("socket_connect", "connect, as the acting task is seen"),
    lsm("socket_bind", "local addresses and ports"),
    lsm("socket_listen", "taking connections"),
    lsm("socket_setsockopt", "source routes and packet filters"),
    lsm("netlink_send", "changes of routes, addresses and links"),
    lsm("unix_stream_connect", "connects to unix sockets"),
    lsm("unix_may_send", "datagrams to unix sockets"),
    cgroup("connect4", "connect to IPv4, TCP fast open included"),
    cgroup("connect6", "connect to IPv6, TCP fast open included"),
    cgroup("sendmsg4", "datagrams to IPv4 without a connect"),
    cgroup("sendmsg6", "datagrams to IPv6 without a connect"),
];

/// A program named like its LSM hook.
const fn lsm(name: &'static str, purpose: &'static str) -> Program {
    Program { name, hook: Hook::Lsm(name), purpose, when: When::Always }
}

/// A program named like its tracepoint.
const fn tracepoint(name: &'static str, purpose: &'static str) -> Program {
    Program { name, hook: Hook::Tracepoint(name), purpose, when: When::Always }
}

/// A program at the return of a kernel function.
const fn function(name: &'static str, function: &'static str, purpose: &'static str) -> Program {
    Program { name, hook: Hook::Function(function), purpose, when: When::Always }
}

/// A program named like its attach type.
const fn cgroup(name: &'static str, purpose: &'static str) -> Program {
    Program { name, hook: Hook::CgroupSockAddr, purpose, when: When::Always }
}

/// A program that is run over kernel objects.
const fn iterator(name: &'static str, over: &'static str, purpose: &'static str) -> Program {
    Program { name, hook: Hook::Iterator(over), purpose, when: When::Always }
}

/// A program of the loaded object, by the type that its hook asks for.
#[derive(Debug)]
pub enum Loaded<'a> {
    /// For [`Hook::Lsm`].
    Lsm(&'a mut Lsm, &'static str),
    /// For [`Hook::Tracepoint`].
    Tracepoint(&'a mut BtfTracePoint, &'static str),
    /// For [`Hook::Function`].
    Function(&'a mut FExit, &'static str),
    /// For [`Hook::CgroupSockAddr`].
    CgroupSockAddr(&'a mut CgroupSockAddr),
    /// For [`Hook::Iterator`].
    Iterator(&'a mut Iter, &'static str),
}

impl Program {
    /// Finds this program in the object.
    ///
    /// # Errors
    /// When the object has no such program, or one of another type: a build whose two halves do not fit.
    pub fn find<'a>(&self, ebpf: &'a mut aya::Ebpf) -> Result<Loaded<'a>, String> {
        let program =
            ebpf.program_mut(self.name).ok_or_else(|| format!("the kernel object has no program `{}`", self.name))?;
        let wrong = |e: aya::programs::ProgramError| format!("program `{}`: {e}", self.name);
        Ok(match self.hook {
            Hook::Lsm(hook) => Loaded::Lsm(program.try_into().map_err(wrong)?, hook),
            Hook::Tracepoint(name) => Loaded::Tracepoint(program.try_into().map_err(wrong)?, name),
            Hook::Function(name) => Loaded::Function(program.try_into().map_err(wrong)?, name),
            Hook::CgroupSockAddr => Loaded::CgroupSockAddr(program.try_into().map_err(wrong)?),
            Hook::Iterator(over) => Loaded::Iterator(program.try_into().map_err(wrong)?, over),
        })
    }
}
