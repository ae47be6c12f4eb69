//! Walls: a governed process reaches no process outside its skill, and no object by a way that rules cannot follow.

use core::ffi::c_void;

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    event::{Kind, Reason},
    ids::SkillId,
};

use crate::{
    kernel::{Dentry, File, Task},
    report::Object,
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
    let Some(skill) = subject::current() else { return verdict::pass() };
    let target = Task::new(ctx.arg(0));
    verdict::of(is_outside(skill, target) && refuses_reach(skill, Kind::Trace, target))
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
    let kind = if shows_inside(dentry) {
        Kind::Trace
    } else if file.is_writable() {
        Kind::Tamper
    } else {
        return false;
    };
    let Some(target) = dentry.inode().proc_task() else { return false };
    is_outside(skill, target) && refuses(skill, kind, reason_of(target), &Object::File { dentry, digest: None })
}

/// Whether a file of `/proc/PID` shows or holds the process's memory (`fs/proc/base.c`, the callers of `proc_mem_open` and
/// `mm_access`), or lists its open files.
#[inline(always)]
fn shows_inside(dentry: Dentry) -> bool {
    const LEN: usize = 8;
    const NAMES: [&[u8; LEN]; 12] = [
        b"environ\0",
        b"auxv\0\0\0\0",
        b"maps\0\0\0\0",
        b"mem\0\0\0\0\0",
        b"smaps\0\0\0",
        b"smaps_r\0",
        b"numa_ma\0",
        b"pagemap\0",
        b"clear_r\0",
        b"map_fil\0",
        b"fd\0\0\0\0\0\0",
        b"fdinfo\0\0",
    ];
    let mut name = [0u8; LEN];
    // SAFETY: the helper writes at most `LEN` bytes, with a NUL at the end.
    if unsafe { dentry.read_name(name.as_mut_ptr(), LEN as u32) } <= 0 {
        return false;
    }
    let name = u64::from_ne_bytes(name);
    NAMES.iter().any(|known| u64::from_ne_bytes(**known) == name)
}

/// `security_ptrace_traceme(parent)`: a process that asks its parent to trace it. A parent outside every skill is the host's
/// and may; one of another skill may not.
#[lsm(hook = "ptrace_traceme")]
pub fn ptrace_traceme(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let parent = Task::new(ctx.arg(0));
    let governed = subject::of(parent).is_some_and(SkillId::governs);
    verdict::of(governed && is_outside(skill, parent) && refuses_reach(skill, Kind::Trace, parent))
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
