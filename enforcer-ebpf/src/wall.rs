//! Walls: a governed process reaches no process outside its skill, and no object by a way that rules cannot follow. Within a
//! skill, code is not written past the mappings that were decided on.

use core::ffi::c_void;

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    decide,
    event::{Kind, Reason},
    ids::SkillId,
};

use crate::{
    kernel::{Dentry, File, Qstr, Task},
    policy::InForce,
    report::{self, Object},
    subject,
    tamper::refuses,
    verdict,
};

/// Whether a task is outside `skill`. One that has no label is: a task in the skill's cgroup gets its label at its first
/// act, and until then nobody of the skill reaches it.
#[inline(always)]
fn is_outside(skill: SkillId, target: Task) -> bool {
    subject::of(target).is_none_or(|own| own != skill)
}

/// Refuses to reach a process outside the skill; true when it is refused (audit mode only reports, but for the daemon).
#[inline(always)]
fn refuses_reach(skill: SkillId, kind: Kind, target: Task) -> bool {
    refuses(skill, kind, reason_of(target), &Object::Process(target))
}

/// Why a process outside the skill is out of reach.
#[inline(always)]
fn reason_of(target: Task) -> Reason {
    if subject::of(target) == Some(SkillId::RESOLVER) { Reason::OwnProcess } else { Reason::OtherSkill }
}

/// Refuses to write into the memory of a process of the skill; true when it is refused.
#[inline(always)]
fn refuses_overwriting(skill: SkillId, object: &Object<'_>) -> bool {
    let rules = InForce::now();
    let decision = decide::overwrite(&rules, skill);
    report::decision(Kind::Trace, skill, rules.generation, &decision, object);
    decision.refuses()
}

/// `security_task_kill(p, info, sig, cred)`: signals that a process sends; those of the kernel do not come here.
#[lsm(hook = "task_kill")]
pub fn task_kill(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let target = Task::new(ctx.arg(0));
    verdict::of(is_outside(skill, target) && refuses_reach(skill, Kind::Signal, target))
}

/// `security_file_send_sigiotask(tsk, fown, sig)`: a signal that a file's owner asked for, such as `F_SETSIG`'s.
#[lsm(hook = "file_send_sigiotask")]
pub fn file_send_sigiotask(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let target = Task::new(ctx.arg(0));
    verdict::of(is_outside(skill, target) && refuses_reach(skill, Kind::Signal, target))
}

/// `security_ptrace_access_check(child, mode)`: tracing, `process_vm_*`, `pidfd_getfd`, and `/proc/PID/{mem,environ,fd,maps,…}`.
#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    /// `PTRACE_MODE_ATTACH` of `include/linux/ptrace.h`: more than a look.
    const ATTACH: u32 = 2;
    let Some(skill) = subject::current() else { return verdict::pass() };
    let target = Task::new(ctx.arg(0));
    if is_outside(skill, target) {
        return verdict::of(refuses_reach(skill, Kind::Trace, target));
    }
    let mode: u32 = ctx.arg(1);
    verdict::of(mode & ATTACH != 0 && refuses_overwriting(skill, &Object::Process(target)))
}

/// Whether opening this file reaches into a process outside the skill: what `/proc/PID` shows of its memory and its open files, and
/// whatever is written there, such as `oom_score_adj`.
///
/// The kernel asks `ptrace_access_check` for these files, but since 6.13 not of a process with `CAP_PERFMON` that only
/// reads (`kernel/fork.c: may_access_mm`); and it asks for the entries of `fd` and not for the list.
#[inline(always)]
pub fn refuses_proc_file(skill: SkillId, file: File) -> bool {
    /// `include/uapi/linux/magic.h`.
    const PROC: u64 = 0x9fa0;
    let dentry = file.dentry();
    if dentry.superblock().magic() != PROC {
        return false;
    }
    let inside = inside_file(dentry);
    let writes = file.is_writable();
    if inside.is_none() && !writes {
        return false;
    }
    let Some(target) = dentry.inode().proc_task() else { return false };
    let object = Object::File { dentry, digest: None };
    if is_outside(skill, target) {
        let kind = if inside.is_some() { Kind::Trace } else { Kind::Tamper };
        return refuses(skill, kind, reason_of(target), &object);
    }
    // A process may look at itself; the kernel does not ask `ptrace_access_check` for that, nor for writing.
    writes && inside == Some(MEM) && refuses_overwriting(skill, &object)
}

/// The first bytes of a file's name.
type Name = [u8; 8];

/// The file that writes as well, whatever the mappings' protection.
const MEM: Name = *b"mem\0\0\0\0\0";

/// The name of a file of `/proc/PID` that shows or holds the process's memory (`fs/proc/base.c`, the callers of
/// `proc_mem_open` and `mm_access`), or lists its open files; of others none.
#[inline(always)]
fn inside_file(dentry: Dentry) -> Option<Name> {
    const NAMES: [&Name; 12] = [
        &MEM,
        b"environ\0",
        b"auxv\0\0\0\0",
        b"maps\0\0\0\0",
        b"smaps\0\0\0",
        b"smaps_r\0",
        b"numa_ma\0",
        b"pagemap\0",
        b"clear_r\0",
        b"map_fil\0",
        b"fd\0\0\0\0\0\0",
        b"fdinfo\0\0",
    ];
    let mut name: Name = [0; 8];
    // SAFETY: the helper writes at most as many bytes as the name has, with a NUL at the end.
    if unsafe { dentry.read_name(name.as_mut_ptr(), name.len() as u32) } <= 0 {
        return None;
    }
    let known = |known: &&Name| u64::from_ne_bytes(**known) == u64::from_ne_bytes(name);
    NAMES.iter().any(known).then_some(name)
}

/// `security_ptrace_traceme(parent)`: a process that asks its parent to trace it. A parent outside every skill is the host's
/// and may; one of another skill may not, and one of the same only as far as memory may be written.
#[lsm(hook = "ptrace_traceme")]
pub fn ptrace_traceme(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let parent = Task::new(ctx.arg(0));
    if !subject::of(parent).is_some_and(SkillId::governs) {
        return verdict::pass();
    }
    if is_outside(skill, parent) {
        return verdict::of(refuses_reach(skill, Kind::Trace, parent));
    }
    verdict::of(refuses_overwriting(skill, &Object::Process(parent)))
}

/// `security_inode_init_security_anon(inode, name, context_inode)`: a userfaultfd, by system call or by `/dev/userfaultfd`. It would
/// fill the pages of an executable mapping of a file on tmpfs with what the program likes
/// (`mm/userfaultfd.c: vma_can_userfault`).
#[lsm(hook = "inode_init_security_anon")]
pub fn inode_init_security_anon(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(Qstr::new(ctx.arg(1)).begins_with(b"[userfa") && refuses_overwriting(skill, &Object::None))
}

/// The verdict on a change of how a process outside is scheduled, bounded or placed in memory.
#[inline(always)]
fn of_settings(target: *const c_void) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let target = Task::new(target);
    verdict::of(is_outside(skill, target) && refuses_reach(skill, Kind::Tamper, target))
}

/// `security_task_setrlimit(p, resource, new_rlim)`.
#[lsm(hook = "task_setrlimit")]
pub fn task_setrlimit(ctx: LsmContext) -> i32 {
    of_settings(ctx.arg(0))
}

/// `security_task_setnice(p, nice)`.
#[lsm(hook = "task_setnice")]
pub fn task_setnice(ctx: LsmContext) -> i32 {
    of_settings(ctx.arg(0))
}

/// `security_task_setioprio(p, ioprio)`.
#[lsm(hook = "task_setioprio")]
pub fn task_setioprio(ctx: LsmContext) -> i32 {
    of_settings(ctx.arg(0))
}

/// `security_task_setscheduler(p)`: policy and priority, and the processors it may use.
#[lsm(hook = "task_setscheduler")]
pub fn task_setscheduler(ctx: LsmContext) -> i32 {
    of_settings(ctx.arg(0))
}

/// `security_task_movememory(p)`: `move_pages` and `migrate_pages`.
#[lsm(hook = "task_movememory")]
pub fn task_movememory(ctx: LsmContext) -> i32 {
    of_settings(ctx.arg(0))
}

/// `security_uring_override_creds(new)`: a request with a registered personality acts with other credentials than the task's,
/// like the kernel when it acts for itself; the two must not be mixed up.
#[lsm(hook = "uring_override_creds")]
pub fn uring_override_creds(_ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses(skill, Kind::Write, Reason::Personality, &Object::None))
}
