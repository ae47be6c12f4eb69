//! What becomes code without being executed: files that are mapped, memory that is made executable.
//!
//! A file may be mapped as code by the place where it lies, which takes a walk, or by its content, which takes a
//! measurement. The walk needs the protection of RCU, which a sleepable program does not have (a directory that is
//! renamed away may be freed under it), and measuring takes a sleepable one; so two programs share the hook. The one that
//! was attached last runs first (`kernel/bpf/trampoline.c: bpf_trampoline_link_prog` adds at the head). If another kernel has it the
//! other way round, both notice and what would have to be measured is refused.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_send_signal,
    macros::{fexit, lsm},
    programs::{FExitContext, LsmContext},
};
use enforcer_common::{
    content::uses,
    decide::{self, Decision},
    event::{Kind, Reason, ReasonCode},
    ids::{Digest, SkillId},
    task::{Label, stage},
};

use crate::{
    ascent::Ascent,
    digest,
    kernel::{File, Inode, Task, Vma, is_zero},
    policy::InForce,
    report::{self, Object},
    subject, verdict,
};

/// `PROT_WRITE` and `PROT_EXEC` of `include/uapi/asm-generic/mman-common.h`.
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;
/// `MAP_TYPE` and `MAP_PRIVATE` of `include/uapi/linux/mman.h`; all other types are shared.
const MAP_TYPE: u64 = 0xf;
const MAP_PRIVATE: u64 = 2;

/// `security_mmap_file(file, reqprot, prot, flags)`: `mmap`, `shmat`, `remap_file_pages`, and what the kernel maps for an exec.
/// `prot` is what the mapping will have: `READ_IMPLIES_EXEC` is in it.
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    let (prot, flags): (u64, u64) = (ctx.arg(2), ctx.arg(3));
    if flags & MAP_TYPE != MAP_PRIVATE && passes_unmarked(&ctx) {
        return verdict::refuse();
    }
    if prot & PROT_EXEC == 0 {
        return verdict::pass();
    }
    let Some(skill) = subject::current() else { return verdict::pass() };
    // No room to decide in is no permission.
    let Some(label) = subject::labelled() else { return verdict::refuse() };
    let early = label.stage & stage::EARLY != 0;
    label.stage &= !(stage::EARLY | stage::LOOKED | stage::TO_MEASURE);
    if !early {
        label.stage |= stage::LOOKED;
    }
    let rules = InForce::now();
    // Until 6.18 the verifier takes the file for never null and drops a comparison with null; the number may be anything.
    // SAFETY: the context of a hook is an array of its arguments.
    let anonymous = unsafe { is_zero(ctx.as_ptr()) };
    let file = File::new(ctx.arg(0));
    if anonymous || file.is_null() {
        return verdict::of(refuses_memory(&rules, skill));
    }
    let decision = match place(&rules, skill, label, file, prot, flags) {
        Some(decision) => decision,
        None if early && label.stage & stage::TO_MEASURE != 0 => decide::never(&rules, skill, Reason::NotMeasured),
        None => return verdict::pass(),
    };
    verdict::of(reported(&rules, skill, &decision, file, None))
}

/// Decides and reports memory that becomes code and has no file; true when it is refused.
#[inline(always)]
fn refuses_memory(rules: &InForce, skill: SkillId) -> bool {
    let decision = decide::memory(rules, skill, Reason::MemoryExecutable);
    report::decision(Kind::Map, skill, rules.generation, &decision, &Object::None)
}

/// Reports a decision on a file that is mapped; true when it is refused.
#[inline(always)]
fn reported(rules: &InForce, skill: SkillId, decision: &Decision, file: File, digest: Option<&Digest>) -> bool {
    let object = Object::File { dentry: file.dentry(), digest };
    report::decision(Kind::Map, skill, rules.generation, decision, &object)
}

/// Marks the file of a shared mapping that can be written, or become so; true when there is no room for that, and the mapping is
/// refused. Memory files are not marked: what holds their pages keeps them from being sealed.
#[inline(always)]
fn passes_unmarked(ctx: &LsmContext) -> bool {
    // SAFETY: the context of a hook is an array of its arguments.
    let anonymous = unsafe { is_zero(ctx.as_ptr()) };
    let file = File::new(ctx.arg(0));
    if anonymous || file.is_null() || !file.is_writable() {
        return false;
    }
    let Some(skill) = subject::current() else { return false };
    let dentry = file.dentry();
    if dentry.superblock().is_internal() || digest::mark(file.inode(), uses::WRITABLE) {
        return false;
    }
    let rules = InForce::now();
    let decision = decide::never(&rules, skill, Reason::NoRoom);
    reported(&rules, skill, &decision, file, None)
}

/// What is known of a mapping without its content. `None` when there is nothing to say, or it has to be measured.
#[inline(always)]
fn place(rules: &InForce, skill: SkillId, label: &mut Label, file: File, prot: u64, flags: u64) -> Option<Decision> {
    let dentry = file.dentry();
    let executing = label.stage & stage::EXECUTING != 0 && dentry.inode().id() == label.program;
    // Memory that only looks like a file: memfds, SysV and anonymous shared memory.
    if dentry.superblock().is_internal() && !executing {
        return Some(decide::memory(rules, skill, Reason::MemoryExecutable));
    }
    let shared = flags & MAP_TYPE != MAP_PRIVATE;
    if prot & PROT_WRITE != 0 || (shared && file.is_writable()) {
        let decision = decide::memory(rules, skill, Reason::MappingWritten);
        if !decision.allows() {
            return Some(decision);
        }
    }
    // The exec has decided on this one.
    if executing {
        return None;
    }
    if label.stage & stage::LOADER == 0
        && let Some(decision) = decide::library(rules, skill, &mut Ascent::from(dentry), &mut label.findings)
    {
        return Some(decision);
    }
    label.stage |= stage::TO_MEASURE;
    None
}

/// The second program on the hook: measures what its place does not vouch for.
#[cfg_attr(not(feature = "elder"), lsm(hook = "mmap_file", sleepable))]
#[cfg_attr(feature = "elder", lsm(hook = "mmap_file"))]
pub fn mmap_file_measure(ctx: LsmContext) -> i32 {
    let prot: u64 = ctx.arg(2);
    if prot & PROT_EXEC == 0 {
        return verdict::pass();
    }
    let Some(skill) = subject::current() else { return verdict::pass() };
    let Some(label) = subject::labelled() else { return verdict::refuse() };
    let before = label.stage;
    label.stage &= !(stage::LOOKED | stage::TO_MEASURE);
    if before & stage::LOOKED == 0 {
        label.stage |= stage::EARLY;
    }
    if before & stage::TO_MEASURE == 0 {
        return verdict::pass();
    }
    let file = File::new(ctx.arg(0));
    // The first program has seen that there is a file.
    if file.is_null() {
        return verdict::refuse();
    }
    let as_program = before & stage::LOADER != 0;
    let rules = InForce::now();
    let mut content = digest::now(file);
    let mut decision = decide::content(&rules, skill, content.digest(), as_program, label.lineage);
    if decision.allows() {
        let flaw = hold(file);
        if flaw.is_none() {
            // Measured again now that nobody governed can write it.
            content = digest::now(file);
            decision = decide::content(&rules, skill, content.digest(), as_program, label.lineage);
        } else {
            decision = decide::never(&rules, skill, flaw);
        }
    }
    if decision.allows() {
        label.stage &= !stage::LOADER;
    }
    verdict::of(reported(&rules, skill, &decision, file, content.digest().ok()))
}

/// Keeps governed processes from writing a file from now on, for as long as its inode is in memory: with the last mapping and descriptor
/// it may go. Says why not: somebody has it open for writing or has mapped it so, or there is no room.
///
/// Whoever opens a file for writing first counts himself in `i_writecount` and then asks [`is_in_use`]
/// (`fs/open.c: do_dentry_open`); here the mark comes first and the count is read after it. One of the two sees the other. Whoever
/// maps it has it open meanwhile, and leaves his mark before he closes it, which is looked for last.
#[inline(always)]
fn hold(file: File) -> ReasonCode {
    let inode = file.inode();
    if inode.has_writers() {
        return Reason::ContentOpen.into();
    }
    // The mark is a full barrier: it is to be seen before the count is read.
    if !digest::mark(inode, uses::CODE) {
        return Reason::NoRoom.into();
    }
    if inode.has_writers() {
        return Reason::ContentOpen.into();
    }
    if digest::is_marked(inode, uses::WRITABLE) { Reason::ContentMapped.into() } else { ReasonCode::NONE }
}

/// Whether a file was measured and mapped as code.
#[inline(always)]
pub fn is_in_use(inode: Inode) -> bool {
    !inode.is_null() && digest::is_marked(inode, uses::CODE)
}

/// `security_file_mprotect(vma, reqprot, prot)`: `mprotect` and `pkey_mprotect`, once per mapping.
#[lsm(hook = "file_mprotect")]
pub fn file_mprotect(ctx: LsmContext) -> i32 {
    let prot: u64 = ctx.arg(2);
    if prot & PROT_EXEC == 0 {
        return verdict::pass();
    }
    let Some(skill) = subject::current() else { return verdict::pass() };
    let Some(label) = subject::labelled() else { return verdict::refuse() };
    let rules = InForce::now();
    let vma = Vma::new(ctx.arg(0));
    let file = vma.file();
    if file.is_null() {
        return verdict::of(refuses_memory(&rules, skill));
    }
    let Some(decision) = change(&rules, skill, label, vma, file, prot) else { return verdict::pass() };
    verdict::of(reported(&rules, skill, &decision, file, None))
}

/// `personality()` has no LSM hook, and with `READ_IMPLIES_EXEC` the heap grows executable without one being asked
/// (`mm/mmap.c: do_brk_flags`): a process that asks for it ends here, before it is back in its own code.
#[fexit(function = "__x64_sys_personality")]
pub fn personality_64(_ctx: FExitContext) -> i32 {
    end_if_data_is_code();
    0
}

/// The same for 32-bit system calls.
#[fexit(function = "__ia32_sys_personality")]
pub fn personality_32(_ctx: FExitContext) -> i32 {
    end_if_data_is_code();
    0
}

#[inline(always)]
fn end_if_data_is_code() {
    const SIGKILL: u32 = 9;
    if !Task::current().makes_data_executable() {
        return;
    }
    let Some(skill) = subject::current() else { return };
    let rules = InForce::now();
    if refuses_memory(&rules, skill) {
        // SAFETY: no precondition; the signal is the acting process's.
        unsafe { bpf_send_signal(SIGKILL) };
    }
}

/// What is to be said of a file's mapping that becomes, or stays, executable; `None` when nothing changes.
#[inline(always)]
fn change(rules: &InForce, skill: SkillId, label: &mut Label, vma: Vma, file: File, prot: u64) -> Option<Decision> {
    /// Of `include/linux/mm.h`.
    const VM_EXEC: u64 = 4;
    const VM_SHARED: u64 = 8;
    const VM_MAYWRITE: u64 = 0x20;
    let dentry = file.dentry();
    if dentry.superblock().is_internal() {
        return Some(decide::memory(rules, skill, Reason::MemoryExecutable));
    }
    let flags = vma.flags();
    let executable = flags & VM_EXEC != 0;
    let both = VM_SHARED | VM_MAYWRITE;
    if prot & PROT_WRITE != 0 || flags & both == both || (!executable && vma.has_own_pages()) {
        let decision = decide::memory(rules, skill, Reason::MappingWritten);
        if !decision.allows() {
            return Some(decision);
        }
    }
    if executable {
        return None;
    }
    // Nothing can be measured here: the place alone decides. A loader maps its program as code at once.
    let library = decide::library(rules, skill, &mut Ascent::from(dentry), &mut label.findings);
    Some(library.unwrap_or_else(|| decide::never(rules, skill, Reason::LibraryNotListed)))
}
