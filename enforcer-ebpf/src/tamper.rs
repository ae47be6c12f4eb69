//! Self-protection: a governed process has no way to what enforces, to the kernel, or to what lies below the rules, whatever
//! its user and capabilities. Nothing allows these acts, and audit mode refuses them, too.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    decide::{self, Device},
    event::{Kind, Reason, ReasonCode},
    host::HostFacts,
    ids::SkillId,
};

use crate::{
    kernel::{Dentry, File},
    maps::HOST,
    policy::InForce,
    report::{self, Object},
    subject, verdict,
};

/// Refuses and reports; true unless the core says otherwise.
#[inline(always)]
pub fn refuses(skill: SkillId, kind: Kind, reason: impl Into<ReasonCode>, object: &Object<'_>) -> bool {
    let rules = InForce::now();
    let decision = decide::never(&rules, skill, reason);
    report::decision(kind, skill, rules.generation, &decision, object)
}

/// The verdict on an act that no governed process may do.
#[inline(always)]
fn never(reason: Reason) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses(skill, Kind::Tamper, reason, &Object::None))
}

/// `security_bpf(cmd, attr, size)`: every command of `bpf(2)`.
#[lsm(hook = "bpf")]
pub fn bpf(_ctx: LsmContext) -> i32 {
    never(Reason::BpfCall)
}

/// `security_perf_event_open(…)`: before anything else about the event is looked at.
#[lsm(hook = "perf_event_open")]
pub fn perf_event_open(_ctx: LsmContext) -> i32 {
    never(Reason::PerfEvent)
}

/// `security_locked_down(what)`: what a locked-down kernel refuses everybody (`include/linux/security.h: enum
/// lockdown_reason`): `/dev/mem`, `/dev/port`, `/proc/kcore`, `ioperm`, `iopl`, registers, PCI, ACPI tables, kexec, hibernation,
/// unsigned modules, debugfs, tracefs, kprobes.
#[lsm(hook = "locked_down")]
pub fn locked_down(_ctx: LsmContext) -> i32 {
    never(Reason::LockedDown)
}

/// What the kernel takes in the name of a process although the process only used a device: firmware. The first in both lists
/// of `include/linux/kernel_read_file.h` and `include/linux/security.h`.
const FIRMWARE: u32 = 1;

/// `security_kernel_load_data(id, contents)`: `init_module` and `kexec_load`.
#[lsm(hook = "kernel_load_data")]
pub fn kernel_load_data(ctx: LsmContext) -> i32 {
    let what: u32 = ctx.arg(0);
    if what == FIRMWARE { verdict::pass() } else { never(Reason::KernelCode) }
}

/// `security_kernel_read_file(file, id, contents)`: `finit_module`, `kexec_file_load`, and policies that are loaded by a path.
#[lsm(hook = "kernel_read_file")]
pub fn kernel_read_file(ctx: LsmContext) -> i32 {
    let what: u32 = ctx.arg(1);
    if what == FIRMWARE { verdict::pass() } else { never(Reason::KernelCode) }
}

/// Whether writing to this object tells the kernel what to do.
#[inline(always)]
pub fn is_kernel_interface(dentry: Dentry) -> bool {
    /// `include/uapi/linux/magic.h`.
    const PROC: u64 = 0x9fa0;
    let magic = dentry.superblock().magic();
    decide::is_kernel_interface(magic) || (magic == PROC && !dentry.is_negative() && dentry.inode().is_proc_of_nobody())
}

/// Whether a driver with this major number gives raw access.
#[inline(always)]
fn is_raw_driver(major: u32) -> bool {
    let Some(facts) = HOST.get(0) else { return false };
    let (word, bit) = HostFacts::raw_major_slot(major);
    facts.raw_majors[word] & bit != 0
}

/// Whether this file is a device that lies below everything that rules name.
#[inline(always)]
fn is_raw(file: File) -> bool {
    let inode = file.dentry().inode();
    Device::of(inode.mode(), inode.rdev()).is_some_and(|device| device.is_raw(is_raw_driver))
}

/// Refuses such a device; true when it is refused.
#[inline(always)]
pub fn refuses_device(skill: SkillId, file: File) -> bool {
    is_raw(file)
        && refuses(skill, Kind::Tamper, Reason::RawDevice, &Object::File { dentry: file.dentry(), digest: None })
}

/// Whether a node for such a device is to be made; one for a device that keeps nothing may be, and the whiteout of a stacked
/// filesystem.
#[inline(always)]
pub fn refuses_node(skill: SkillId, dentry: Dentry, mode: u16, dev: u32) -> bool {
    let number = Device::number_of_mknod(dev);
    Device::of(mode, number).is_some_and(|device| !device.is_bottomless() && (device.block || number != 0))
        && refuses(skill, Kind::Tamper, Reason::RawDevice, &Object::File { dentry, digest: None })
}

/// Why no governed process may have a file that was opened elsewhere, whatever the rules say; [`ReasonCode::NONE`] where they are
/// to be asked.
#[inline(always)]
pub fn forbids(file: File) -> ReasonCode {
    let handle = kernel_handle(file.dentry());
    if handle.is_none() && is_raw(file) { Reason::RawDevice.into() } else { handle }
}

/// Why this file of the kernel's own is for no governed process: one of `bpf(2)`'s or `perf_event_open(2)`'s, or a ring whose
/// polling thread may be somebody's who is in no skill. They are files without a filesystem whose names tell what they are
/// (`kernel/bpf/syscall.c`, `kernel/events/core.c`, `io_uring/io_uring.c`: `anon_inode_getfd`, `anon_inode_create_getfile`).
#[inline(always)]
fn kernel_handle(dentry: Dentry) -> ReasonCode {
    const LEN: usize = 8;
    if !dentry.superblock().is_internal() {
        return ReasonCode::NONE;
    }
    let mut name = [0u8; LEN];
    // SAFETY: the helper writes at most `LEN` bytes, with a NUL at the end.
    if unsafe { dentry.read_name(name.as_mut_ptr(), LEN as u32) } <= 0 {
        return ReasonCode::NONE;
    }
    // `bpf-map`, `bpf-prog`, `bpf_link`, `bpf_iter`, `bpf-token`; `[perf_event]`; `[io_uring]`.
    if name[..3] == *b"bpf" {
        Reason::BpfCall.into()
    } else if name[..6] == *b"[perf_" {
        Reason::PerfEvent.into()
    } else if name[..6] == *b"[io_ur" {
        Reason::OutsideRing.into()
    } else {
        ReasonCode::NONE
    }
}
