//! Which program hangs on which hook, and what is missing without it.

use aya::programs::{CgroupSockAddr, Iter, Lsm, BtfTracePoint};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// An LSM hook.
    Lsm(&'static str),
    /// A tracepoint with BTF types.
    Tracepoint(&'static str),
    /// The root of the cgroup v2 hierarchy.
    CgroupSockAddr,
    /// Not attached: run by the daemon over all tasks.
    TaskIterator,
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
}

/// All programs, in the order in which they are attached: labels first, so that the first verdict finds its subject.
pub const PROGRAMS: &[Program] = &[
    lsm("task_free", "labels are forgotten when a task is gone"),
    lsm("task_alloc", "children inherit their parent's skill"),
    tracepoint("cgroup_mkdir", "new cgroups below a governed one are governed"),
    tracepoint("cgroup_rmdir", "labels of removed cgroups are forgotten"),
    Program { name: "enrol", hook: Hook::TaskIterator, purpose: "processes can be put into a skill" },
    lsm("inode_getxattr", "path rules are resolved to the kernel's identities"),
    lsm("bprm_check_security", "exec"),
    lsm("path_unlink", "delete by unlink"),
    lsm("path_rmdir", "delete by rmdir"),
    lsm("path_rename", "delete by rename over or away"),
    lsm("socket_create", "sockets of families and types that no rule can name"),
    lsm("socket_connect", "connect, as the acting task is seen"),
    Program { name: "connect4", hook: Hook::CgroupSockAddr, purpose: "connect to IPv4, TCP fast open included" },
    Program { name: "connect6", hook: Hook::CgroupSockAddr, purpose: "connect to IPv6, TCP fast open included" },
    Program { name: "sendmsg4", hook: Hook::CgroupSockAddr, purpose: "datagrams to IPv4 without a connect" },
    Program { name: "sendmsg6", hook: Hook::CgroupSockAddr, purpose: "datagrams to IPv6 without a connect" },
];

/// A program named like its LSM hook.
const fn lsm(name: &'static str, purpose: &'static str) -> Program {
    Program { name, hook: Hook::Lsm(name), purpose }
}

/// A program named like its tracepoint.
const fn tracepoint(name: &'static str, purpose: &'static str) -> Program {
    Program { name, hook: Hook::Tracepoint(name), purpose }
}

/// A program of the loaded object, by the type that its hook asks for.
#[derive(Debug)]
pub enum Loaded<'a> {
    /// For [`Hook::Lsm`].
    Lsm(&'a mut Lsm, &'static str),
    /// For [`Hook::Tracepoint`].
    Tracepoint(&'a mut BtfTracePoint, &'static str),
    /// For [`Hook::CgroupSockAddr`].
    CgroupSockAddr(&'a mut CgroupSockAddr),
    /// For [`Hook::TaskIterator`].
    TaskIterator(&'a mut Iter),
}

impl Program {
    /// Finds this program in the object.
    ///
    /// # Errors
    /// When the object has no such program, or one of another type: a build whose two halves do not fit.
    pub fn find<'a>(&self, ebpf: &'a mut aya::Ebpf) -> Result<Loaded<'a>, String> {
        let program = ebpf.program_mut(self.name).ok_or_else(|| format!("the kernel object has no program `{}`", self.name))?;
        let wrong = |e: aya::programs::ProgramError| format!("program `{}`: {e}", self.name);
        Ok(match self.hook {
            Hook::Lsm(hook) => Loaded::Lsm(program.try_into().map_err(wrong)?, hook),
            Hook::Tracepoint(name) => Loaded::Tracepoint(program.try_into().map_err(wrong)?, name),
            Hook::CgroupSockAddr => Loaded::CgroupSockAddr(program.try_into().map_err(wrong)?),
            Hook::TaskIterator => Loaded::TaskIterator(program.try_into().map_err(wrong)?),
        })
    }
}
