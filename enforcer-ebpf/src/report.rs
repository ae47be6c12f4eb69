//! Events: one record per decision that is to be reported.
//!
//! The verdict never waits for the event: a full ring counts the loss and the program goes on.

use core::arch::asm;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_ktime_get_boot_ns, bpf_probe_read_kernel,
        bpf_probe_read_kernel_str,
    },
};
use aya_ebpf::maps::ring_buf::RingBufEntry;
use enforcer_common::{
    decide::{Decision, Destination},
    event::{Event, Kind, PATH_CAPACITY, RawPath, Verdict},
    ids::{Digest, Generation, RuleId, SkillId},
    net::{AF_UNIX, AbstractKey},
};

use crate::{
    ascent::write_path,
    clear::clear,
    kernel::{Dentry, Task},
    maps::{DROPS, EVENTS},
    opaque,
};

/// What was acted upon.
pub enum Object<'a> {
    /// A file or directory, with its content's digest if that was measured.
    File { dentry: Dentry, digest: Option<&'a Digest> },
    /// A destination.
    Destination { destination: &'a Destination, family: u16 },
    /// A socket.
    Socket { family: u16, socket_type: u16, protocol: u16 },
    /// A unix socket that lies in the filesystem.
    UnixPath(Dentry),
    /// A unix socket with an abstract name.
    UnixName(&'a AbstractKey),
    /// Another process.
    Process(Task),
    /// A cgroup that a process was moved to, by its id.
    Cgroup(u64),
    /// Nothing that has a name.
    None,
}

/// A decision in one word.
#[derive(Clone, Copy)]
struct Told(u64);

impl Told {
    const VERDICT: u32 = 8;
    const REASON: u32 = 16;
    const REPORT: u32 = 24;
    const REFUSES: u32 = 25;
    const RULE: u32 = 32;

    #[inline(always)]
    fn of(kind: Kind, decision: Decision) -> Self {
        Self(
            kind as u64
                | (decision.verdict as u64) << Self::VERDICT
                | u64::from(decision.reason.0) << Self::REASON
                | u64::from(decision.report) << Self::REPORT
                | u64::from(decision.refuses()) << Self::REFUSES
                | u64::from(decision.rule.0) << Self::RULE,
        )
    }

    /// The same word, of which the verifier knows nothing: it would follow each decision through the writing of the event, and to the
    /// end of the program.
    #[inline(always)]
    fn unknown(self) -> Self {
        Self(opaque::number(self.0))
    }

    #[inline(always)]
    fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }

    #[inline(always)]
    fn allows(self) -> bool {
        (self.0 >> Self::VERDICT) as u8 == Verdict::Allow as u8
    }
}

/// Writes the event of a decision, if it is to be reported. Returns whether the act is refused.
#[inline(always)]
pub fn decision(kind: Kind, skill: SkillId, generation: Generation, decision: &Decision, object: &Object<'_>) -> bool {
    debug(kind, skill, decision);
    write(Told::of(kind, *decision).unknown(), skill, generation, object)
}

#[inline(always)]
fn write(told: Told, skill: SkillId, generation: Generation, object: &Object<'_>) -> bool {
    if told.has(Told::REPORT)
        && let Some(mut entry) = reserve()
    {
        // SAFETY: the pointer is to a reserved record of the ring, which is as large as an `Event`; every field is written
        // through raw pointers before the record is submitted, but for the path bytes behind `len`, which nobody reads.
        unsafe { fill(entry.as_mut_ptr(), told, skill, generation, object) };
        entry.submit(0);
    }
    told.has(Told::REFUSES)
}

/// A debug message for every decision, in the object that `ENFORCER_BPF_LOG` loads.
#[cfg(feature = "log")]
#[inline(always)]
fn debug(kind: Kind, skill: SkillId, decision: &Decision) {
    struct Anywhere;
    impl aya_ebpf::EbpfContext for Anywhere {
        fn as_ptr(&self) -> *mut core::ffi::c_void {
            core::ptr::null_mut()
        }
    }
    let (kind, verdict, reason) = (kind as u8, decision.verdict as u8, decision.reason.0);
    aya_log_ebpf::debug!(
        &Anywhere,
        "kind {} skill {} verdict {} reason {} rule {}",
        kind,
        skill.0,
        verdict,
        reason,
        decision.rule.0
    );
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn debug(_kind: Kind, _skill: SkillId, _decision: &Decision) {}

/// Writes the event of a process that somebody moved to another cgroup.
#[inline(always)]
pub fn moved(kind: Kind, skill: SkillId, generation: Generation, what: &Decision, task: Task, to: u64) {
    // The acting process is the one that moved it; the event is about the one that was moved.
    write_about(Told::of(kind, *what), skill, generation, task, &Object::Cgroup(to));
}

/// Writes an event about a process: of an open file that it has and may not have, where the daemon asks; or that it entered a
/// skill, so that the daemon will ask. That process is the target.
#[inline(always)]
pub fn about_task(
    kind: Kind,
    skill: SkillId,
    generation: Generation,
    what: &Decision,
    task: Task,
    object: &Object<'_>,
) {
    write_about(Told::of(kind, *what).unknown(), skill, generation, task, object);
}

/// The same of what a process has and may not have, if it is to be told. Returns whether that is refused.
#[inline(always)]
pub fn found(
    kind: Kind,
    skill: SkillId,
    generation: Generation,
    what: &Decision,
    task: Task,
    object: &Object<'_>,
    tells: bool,
) -> bool {
    let told = Told::of(kind, *what).unknown();
    if tells && !told.allows() {
        write_about(told, skill, generation, task, object);
    }
    told.has(Told::REFUSES)
}

#[inline(always)]
fn write_about(told: Told, skill: SkillId, generation: Generation, task: Task, object: &Object<'_>) {
    let Some(mut entry) = reserve() else { return };
    let event = entry.as_mut_ptr();
    // SAFETY: as in `decision`.
    unsafe {
        fill(event, told, skill, generation, object);
        (*event).target = task.tgid();
    }
    entry.submit(0);
}

/// Writes the event of a cgroup that was made or removed; its path is as the kernel's tracepoint has it, from the root of the
/// hierarchy.
#[inline(always)]
pub fn cgroup(kind: Kind, id: u64, path: *const u8) {
    let Some(mut entry) = reserve() else { return };
    let event = entry.as_mut_ptr();
    // SAFETY: as in `decision`; the helper writes at most the room of the path.
    unsafe {
        fill(event, Told::of(kind, Decision::silent()), SkillId(0), Generation(0), &Object::Cgroup(id));
        let to = (&raw mut (*event).path.bytes).cast();
        let read = bpf_probe_read_kernel_str(to, PATH_CAPACITY as u32, path.cast());
        (*event).path.len = if read > 0 { read as u32 } else { 0 };
    }
    entry.submit(0);
}

/// Room for an event, or one more drop.
#[inline(always)]
fn reserve() -> Option<RingBufEntry<Event>> {
    let entry = EVENTS.reserve(0);
    if entry.is_none()
        && let Some(drops) = DROPS.get_ptr_mut(0)
    {
        // Atomic, although the slot is this CPU's: another task's program may preempt this one.
        // SAFETY: the pointer is a map value's; `core` has no atomics for this target.
        unsafe { asm!("lock *(u64 *)({slot} + 0) += {one}", slot = in(reg) drops, one = in(reg) 1u64) };
    }
    entry
}

/// Fills a record.
///
/// # Safety
/// `event` must point to writable memory of an `Event`'s size.
#[inline(always)]
unsafe fn fill(event: *mut Event, told: Told, skill: SkillId, generation: Generation, object: &Object<'_>) {
    let task = Task::current();
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: the caller promised the memory; the helpers have no precondition.
    unsafe {
        (*event).time_ns = bpf_ktime_get_boot_ns();
        (*event).cgroup = bpf_get_current_cgroup_id();
        clear(&raw mut (*event).object);
        (*event).pid = (pid_tgid >> 32) as u32;
        (*event).tid = pid_tgid as u32;
        (*event).ppid = task.parent().tgid();
        (*event).uid = bpf_get_current_uid_gid() as u32;
        (*event).skill = skill;
        (*event).rule = RuleId((told.0 >> Told::RULE) as u32);
        (*event).generation = generation;
        (*event).kind = told.0 as u8;
        (*event).verdict = (told.0 >> Told::VERDICT) as u8;
        (*event).reason = (told.0 >> Told::REASON) as u8;
        (*event).has_digest = 0;
        // Of neighbouring zeros LLVM would make a loop over bytes; on an error the helper clears what it is given.
        bpf_get_current_comm((&raw mut (*event).comm).cast(), size_of_val(&(*event).comm) as u32);
        clear(&raw mut (*event).digest);
        clear(&raw mut (*event).address);
        (*event).port = 0;
        (*event).family = 0;
        (*event).protocol = 0;
        (*event).socket_type = 0;
        clear(&raw mut (*event).target);
        clear(&raw mut (*event).reserved);
        forget(&raw mut (*event).path);
        forget(&raw mut (*event).exe);
        match *object {
            Object::File { dentry, digest } => {
                (*event).object = dentry.id();
                if let Some(digest) = digest {
                    (*event).digest = *digest;
                    (*event).has_digest = 1;
                }
                write_path(&raw mut (*event).path, dentry);
            }
            Object::Destination { destination, family } => {
                (*event).address = destination.address;
                (*event).port = destination.port;
                (*event).family = family;
                (*event).protocol = destination.protocol;
            }
            Object::Socket { family, socket_type, protocol } => {
                (*event).family = family;
                (*event).protocol = protocol;
                (*event).socket_type = socket_type;
            }
            Object::UnixPath(dentry) => {
                (*event).object = dentry.id();
                (*event).family = AF_UNIX;
                write_path(&raw mut (*event).path, dentry);
            }
            Object::UnixName(key) => {
                (*event).family = AF_UNIX;
                (*event).path.len = key.len;
                let (to, from) = (&raw mut (*event).path.bytes, &raw const key.name);
                // As above: of a copy LLVM makes a loop over bytes.
                bpf_probe_read_kernel(to.cast(), size_of_val(&key.name) as u32, from.cast());
            }
            Object::Process(target) => (*event).target = target.tgid(),
            Object::Cgroup(id) => (*event).object.ino = id,
            Object::None => {}
        }
        let exe = task.exe();
        if !exe.is_null() {
            write_path(&raw mut (*event).exe, exe.dentry());
        }
    }
}

/// Marks a path as empty: all but its bytes is cleared.
///
/// # Safety
/// `path` must point to writable memory.
#[inline(always)]
unsafe fn forget<const N: usize>(path: *mut RawPath<N>) {
    // SAFETY: as the caller promised.
    unsafe {
        clear(&raw mut (*path).len);
        clear(&raw mut (*path).dev);
        clear(&raw mut (*path).truncated);
        clear(&raw mut (*path).reserved);
    }
}
