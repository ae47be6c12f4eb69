//! The digest of a file's content, measured once for as long as the content stays.
//!
//! Each inode that was executed has a *version* in its storage ([`Content`]). Whoever opens the file for writing changes the
//! version ([`forget`], from `file_open`, and from `inode_setattr` for what sets a size), whether a skill governs him or not. A
//! digest is kept with the version that it was measured of, and is that of the content while the version is still that one.
//!
//! # Why that is right
//!
//! A reader *R* does, in this order: (1) read the version `v`, giving one if there is none; (2) see that nobody has the file open
//! for writing, and that no shared mapping can be written through; (3) measure; (4) keep the digest with `v`. (1) is a full barrier.
//! A writer *W* does: (a) raise `i_writecount`, a full barrier; (b) change the version to a number that was never used, a full
//! barrier; (c) write; (d) lower `i_writecount`, when the file is not open any more: neither as a descriptor, nor for a mapping, nor
//! for a request that is under way. `do_dentry_open` does (a) before it calls `security_file_open` (b), and `do_truncate` is
//! called with (a) done before `notify_change` calls `security_inode_setattr` (b).
//!
//! - If (a) came before R's (2), then R saw it, and kept nothing; or (d) had come, too, and R measured all that W wrote.
//! - If (a) came after R's (2), then (b) came after R's (1), and the version is not `v` from before W's first write on, for ever.
//!
//! So whoever reads version `v` and then a digest that is kept with `v` has the digest of the content at the moment when he
//! read `v`. Nothing rests on the exec holding writers off while that is done, which kernels 6.11 and 6.12.0 do not.
//! Storage that is made between W's look at (b) and R's (1) is the first case: W's (a) came before its look.
//!
//! What changes content otherwise is not cached, see [`changes_are_seen`].
//!
//! # Who measures
//!
//! The kernel, where IMA takes the SHA-256 and has no policy of its own. Where it has one, it keeps digests in the inode and finds out
//! about changes in other ways than this, so that below an overlay it gives an old one; and there are kernels without IMA. There the
//! daemon measures ([`MeasuredBy::DAEMON`]), by the same steps: it opens the file, asks for the version ([`tell_version`]: (1) and
//! (2)), reads the file (3), and has the digest kept with that version ([`take_digest`]: (4)). So what is above holds for it as it is: it does not matter
//! who reads, nor how long it takes. What comes too late, after (b), is kept with a version that nobody will ever have, or not at all. That the
//! descriptor leads to the content of this version is known as in an exec: the inode is the descriptor's own, and of a file of an
//! overlay the daemon's thread [`note`]s the inode below when it opens it.
//!
//! Nothing is measured by an exec or a mapping there: what has no digest is refused, and the daemon, which reads of it in the event, measures it.
//!
//! # Mappings
//!
//! (d) has an exception: pages that I/O holds, such as a buffer that was registered with `io_uring`, can be written when the mapping that they were
//! found by is gone, and the file is closed. And overlayfs gives a mapping the file below, so that the overlay's own inode does
//! not count it. So a file that a governed process has mapped, shared and from a descriptor for writing, is marked
//! ([`mark`], from `mmap_file`, while the descriptor is open), and is not held to be steady as long as its inode
//! is in memory.
//!
//! # Overlays
//!
//! A file of an overlay reads from an inode below, by a file that the kernel opens for itself at the same time. The version of
//! that inode is what counts: the writers of the inode below tell of themselves, also those that write through the overlay or
//! past it. `file_open` sees the inode below, [`note`]s its version in the task's label, and `bprm_check_security` compares it with what
//! it is then. That the overlay reads from the same inode then as when it was opened is known by the overlay's own inode:
//! what makes it read from another one, a copy to the upper layer for a writer, opens it for writing or sets its size first, which changes
//! its version. Copies for a change of attributes take the content along.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ima_file_hash},
};
use enforcer_common::{
    content::{Content, MEASURED_UP_TO, MeasuredBy, Measurement, Opened, Stage, answer, changes_are_seen, uses},
    event::{Reason, ReasonCode},
    ids::{Digest, SkillId},
};

use crate::{
    atomic,
    kernel::{File, Inode, Task, word_at},
    label,
    maps::{CONTENTS, HOST, LAST_VERSION, MEASUREMENT, MEASUREMENTS},
    opaque,
};

/// `HASH_ALGO_SHA256` of `include/uapi/linux/hash_info.h`.
const HASH_ALGO_SHA256: i64 = 4;
/// `OVERLAYFS_SUPER_MAGIC` and `TMPFS_MAGIC` of `include/uapi/linux/magic.h`.
const OVERLAYFS: u64 = 0x794c_7630;
const TMPFS: u64 = 0x0102_1994;

/// Slots of `MEASUREMENTS`.
const MEASURED: u32 = 0;
const KNOWN: u32 = 1;

/// What a file contains.
pub struct Identity {
    digest: Digest,
    measured: bool,
    /// Why there is no digest, where there is none.
    absent: ReasonCode,
    /// Why the content may not stay what it was measured to be.
    pub flaw: ReasonCode,
}

impl Identity {
    const NOTHING: Self = Self {
        digest: Digest([0; 32]),
        measured: false,
        absent: ReasonCode(Reason::NotMeasured as u8),
        flaw: ReasonCode::NONE,
    };

    /// The SHA-256.
    ///
    /// # Errors
    /// When there is none: it could not be measured, or was not yet.
    #[inline(always)]
    pub fn digest(&self) -> Result<&Digest, ReasonCode> {
        if self.measured { Ok(&self.digest) } else { Err(self.absent) }
    }
}

/// Who measures on this host.
#[inline(always)]
fn measured_by() -> MeasuredBy {
    // Elder kernels cannot: the helper came with 5.18, and what calls it must be able to sleep.
    if cfg!(feature = "elder") {
        return MeasuredBy::DAEMON;
    }
    HOST.get(0).map_or(MeasuredBy::DAEMON, |host| MeasuredBy::of_number(host.measured_by))
}

/// Finds out what a file contains. For sleepable programs, where the kernel measures.
///
/// The digest is filled in where it lies, because moving an absent one would read what was never written.
#[inline(always)]
pub fn of(file: File) -> Identity {
    let mut identity = Identity::NOTHING;
    let inode = file.inode();
    if inode.is_null() {
        return identity;
    }
    let superblock = inode.superblock();
    let mut version = 0;
    if superblock.is_internal() {
        if superblock.magic() != TMPFS || !is_sealed(inode) {
            identity.flaw = Reason::MemoryFileNotSealed.into();
        }
    } else if superblock.magic() == OVERLAYFS {
        match version_below(file, inode) {
            Ok(below) => version = below,
            Err(flaw) => identity.flaw = flaw,
        }
    } else if may_be_kept(inode)
        && let Some(content) = content_of(inode)
        && let Some(own) = unwritten(inode, content)
    {
        version = own;
    }
    // After nobody was seen to write: who maps has it open meanwhile.
    if identity.flaw.is_none() && is_marked(inode, uses::WRITABLE) {
        identity.flaw = Reason::ContentMapped.into();
    }
    let by = measured_by();
    identity.measured = known_or_measured(file, inode, version, by, &mut identity.digest);
    if !identity.measured {
        identity.absent = absence(inode, version, by);
    }
    identity
}

/// Why content of this version has no digest. Where there is no version to keep one with, the daemon cannot help either.
#[inline(always)]
fn absence(inode: Inode, version: u64, by: MeasuredBy) -> ReasonCode {
    let waits = by.is_daemon() && version != 0 && inode.size() <= MEASURED_UP_TO;
    let reason = if waits { Reason::NotMeasuredYet } else { Reason::NotMeasured };
    ReasonCode(opaque::number(u64::from(reason as u8)) as u8)
}

/// Changes the version of a file that somebody is about to write, if it has one.
#[inline(always)]
pub fn forget(inode: Inode) {
    if inode.is_null() {
        return;
    }
    // SAFETY: the inode is that of a file that is being opened, or of a dentry that is being changed.
    let content = unsafe { CONTENTS.get_ptr_mut(inode.as_ptr().cast()) };
    if !content.is_null() {
        // SAFETY: the storage is there for as long as the inode.
        unsafe { atomic::swap(&raw mut (*content).version, next_version()) };
    }
}

/// Marks a file that a governed process maps; false when there is no room for the mark. A full barrier.
///
/// `as_what` is one of the bits of [`uses`].
#[inline(always)]
pub fn mark(inode: Inode, as_what: u64) -> bool {
    let Some(content) = content_of(inode) else { return false };
    // SAFETY: the storage is there for as long as the inode.
    unsafe { atomic::fetch_or(&raw mut (*content).uses, as_what) };
    true
}

/// Whether a file has such a [mark].
#[inline(always)]
pub fn is_marked(inode: Inode, as_what: u64) -> bool {
    // SAFETY: the inode is that of a file that is open, is being opened, or is being changed.
    let content = unsafe { CONTENTS.get_ptr_mut(inode.as_ptr().cast()) };
    // SAFETY: the storage is there for as long as the inode; the word is read whole.
    !content.is_null() && unsafe { (&raw const (*content).uses).read_volatile() } & as_what != 0
}

/// Notes what a governed task opens for execution, or one of the daemon's at all, and the file below it, if it is one of an overlay.
#[inline(always)]
pub fn note(file: File, skill: SkillId) {
    let Some(label) = label::known(Task::current()) else { return };
    let inode = file.inode();
    if inode.is_null() {
        return;
    }
    // SAFETY: the label is the current task's own; nobody else uses this part of it.
    let opened = unsafe { &mut (*label).opened };
    if file.is_opened_by_kernel() {
        // Of overlays on overlays only the first layer is looked at, which is not one that tells of changes.
        if opened.stage == Stage::Expecting as u64 {
            opened.stage = Stage::Settled as u64;
            opened.below = inode.address();
            if let Some(content) = content_of(inode) {
                opened.place = content as u64;
                if may_be_kept(inode)
                    && let Some(version) = unwritten(inode, content)
                {
                    opened.version = version;
                }
            }
        }
    } else if (!skill.governs() || file.is_for_execution()) && inode.superblock().magic() == OVERLAYFS {
        let own = content_of(inode).map_or(0, current_version);
        *opened = Opened { file: file.address(), own, stage: Stage::Expecting as u64, ..Opened::NOTHING };
    } else {
        opened.stage = Stage::Settled as u64;
    }
}

/// The version of the content below a file of an overlay, 0 when its changes would not be noticed.
///
/// # Errors
/// When somebody opened the file for writing since it was opened for execution, so that what it reads from may be another file now
/// than what will be mapped; when the file below is open for writing, or mapped so that it can be written (the kernel does
/// not run a plain file then, `fs/exec.c: do_open_execat`, and keeps others from opening it through the overlay); and when a
/// governed process has mapped it past the overlay.
#[inline(always)]
fn version_below(file: File, inode: Inode) -> Result<u64, ReasonCode> {
    let Some(label) = label::of(Task::current()) else { return Err(Reason::NoRoom.into()) };
    // SAFETY: the label is the current task's own.
    let opened = unsafe { &(*label).opened };
    if opened.file == file.address() { version_of_opened(opened, inode) } else { Ok(0) }
}

/// The same of the file of an overlay that the acting task noted last, whose inode this must be.
#[inline(always)]
fn version_of_opened(opened: &Opened, inode: Inode) -> Result<u64, ReasonCode> {
    if opened.own == 0 || opened.below == 0 {
        return Ok(0);
    }
    // No other inode has that version.
    let Some(content) = content_of(inode) else { return Ok(0) };
    if current_version(content) != opened.own {
        return Err(Reason::ChangedWhileOpened.into());
    }
    // The file that is open keeps the inode below, which keeps its storage.
    if Inode::at(opened.below).has_writers() {
        return Err(Reason::OpenForWriting.into());
    }
    if opened.place == 0 {
        return Err(Reason::NoRoom.into());
    }
    if word_at(opened.place + offset_of!(Content, uses) as u64).is_none_or(|word| word & uses::WRITABLE != 0) {
        return Err(Reason::ContentMapped.into());
    }
    if opened.version != 0 && word_at(opened.place + offset_of!(Content, version) as u64) == Some(opened.version) {
        Ok(opened.version)
    } else {
        Ok(0)
    }
}

/// Whether a digest of this inode's content may be kept.
#[inline(always)]
fn may_be_kept(inode: Inode) -> bool {
    let superblock = inode.superblock();
    !superblock.is_null() && changes_are_seen(superblock.magic(), superblock.disk_major())
}

/// The version of an inode's content, unless somebody may be writing it.
#[inline(always)]
fn unwritten(inode: Inode, content: *mut Content) -> Option<u64> {
    let version = current_version(content);
    // After the version was read: see above.
    if inode.has_writers() { None } else { Some(version) }
}

/// The storage of an inode, made if there is none. `None` when there is no memory.
#[inline(always)]
fn content_of(inode: Inode) -> Option<*mut Content> {
    // SAFETY: the inode is that of a file that is open or being opened.
    let content = unsafe { CONTENTS.get_or_insert_ptr_mut(inode.as_ptr().cast(), None) };
    if content.is_null() { None } else { Some(content) }
}

/// The version in an inode's storage; gives it one if it has none. A full barrier.
#[inline(always)]
fn current_version(content: *mut Content) -> u64 {
    // SAFETY: the storage is there for as long as the inode.
    unsafe {
        let version = atomic::read(&raw mut (*content).version);
        if version != 0 {
            return version;
        }
        atomic::compare_swap(&raw mut (*content).version, 0, next_version());
        atomic::read(&raw mut (*content).version)
    }
}

/// A number that no version has had. 0 is none.
#[inline(always)]
fn next_version() -> u64 {
    match LAST_VERSION.get_ptr_mut(0) {
        // SAFETY: the element is there for as long as the map.
        Some(last) => unsafe { atomic::fetch_add(last, 1) + 1 },
        None => 0,
    }
}

/// Finds the digest that is kept of a version, else measures it and keeps it; false when it cannot be measured. Version 0 is
/// measured each time.
#[inline(always)]
fn known_or_measured(file: File, inode: Inode, version: u64, by: MeasuredBy, digest: &mut Digest) -> bool {
    if version == 0 {
        return measure(file, by, digest);
    }
    let Some(content) = content_of(inode) else { return measure(file, by, digest) };
    if kept(content, by.mark(version), digest) {
        count(KNOWN);
        return true;
    }
    let measured = measure(file, by, digest);
    if measured {
        keep(content, by.mark(version), digest);
    }
    measured
}

/// Finds the digest that is kept of a version, which is [marked](MeasuredBy::mark).
#[inline(always)]
fn kept(content: *mut Content, version: u64, digest: &mut Digest) -> bool {
    // SAFETY: the storage is there for as long as the inode; the sequence tells whether what was read is whole.
    unsafe {
        let before = atomic::read(&raw mut (*content).sequence);
        let measured = (&raw const (*content).measured).read_volatile();
        *digest = (&raw const (*content).digest).read_volatile();
        let after = atomic::read(&raw mut (*content).sequence);
        before == after && before & 1 == 0 && measured == version
    }
}

/// Keeps the digest of a version, which is [marked](MeasuredBy::mark), unless another task is just keeping one; false then.
#[inline(always)]
fn keep(content: *mut Content, version: u64, digest: &Digest) -> bool {
    // SAFETY: as above; the odd number keeps other tasks from writing.
    unsafe {
        let sequence = atomic::read(&raw mut (*content).sequence);
        let taken =
            sequence & 1 == 0 && atomic::compare_swap(&raw mut (*content).sequence, sequence, sequence + 1) == sequence;
        if taken {
            (&raw mut (*content).measured).write_volatile(version);
            (&raw mut (*content).digest).write_volatile(*digest);
            atomic::swap(&raw mut (*content).sequence, sequence + 2);
        }
        taken
    }
}

/// Whether a memory file can be neither written nor cut any more. Sealing fails while a mapping could write
/// (`mm/memfd.c: memfd_add_seals`), and waits for pages that are in use by I/O.
#[inline(always)]
fn is_sealed(inode: Inode) -> bool {
    /// `F_SEAL_SHRINK` and `F_SEAL_WRITE` of `include/uapi/linux/fcntl.h`.
    const STEADY: u32 = 0x2 | 0x8;
    inode.seals() & STEADY == STEADY
}

/// Has the kernel read the file and take the SHA-256 of its content now. False when the kernel has no IMA, its default algorithm
/// is another, or the file cannot be read or is too large; or the daemon measures.
#[inline(always)]
fn measure(file: File, by: MeasuredBy, digest: &mut Digest) -> bool {
    if by.is_daemon() || file.inode().size() > MEASURED_UP_TO {
        return false;
    }
    // SAFETY: the helper writes at most 32 bytes into `digest` and takes a file that the caller's hook holds.
    let algorithm = unsafe { bpf_ima_file_hash(file.as_ptr().cast(), digest.0.as_mut_ptr().cast(), 32) };
    count(MEASURED);
    algorithm == HASH_ALGO_SHA256
}

/// What a file contains now; for a mapping, which holds nobody off. It is measured; where the daemon measures, the digest of the
/// version that it has now counts. Files of overlays have none there: what lies below is known of those alone that are executed.
#[inline(always)]
pub fn now(file: File) -> Identity {
    let mut identity = Identity::NOTHING;
    let by = measured_by();
    if !by.is_daemon() {
        identity.measured = measure(file, by, &mut identity.digest);
        return identity;
    }
    let inode = file.inode();
    if !inode.is_null() && may_be_kept(inode) {
        identity.absent = Reason::NotMeasuredYet.into();
        if let Some(content) = content_of(inode)
            && let Some(version) = unwritten(inode, content)
        {
            identity.measured = kept(content, by.mark(version), &mut identity.digest);
        }
    }
    identity
}

/// The version of the content of a file that the daemon has open; 0 when no digest could be kept with it, or somebody may be writing
/// it.
#[inline(always)]
fn version_for_daemon(inode: Inode) -> u64 {
    let superblock = inode.superblock();
    if superblock.is_internal() {
        0
    } else if superblock.magic() == OVERLAYFS {
        let Some(label) = label::of(Task::current()) else { return 0 };
        // SAFETY: the label is the current task's own.
        version_of_opened(unsafe { &(*label).opened }, inode).unwrap_or(0)
    } else if may_be_kept(inode)
        && let Some(content) = content_of(inode)
    {
        unwritten(inode, content).unwrap_or(0)
    } else {
        0
    }
}

/// Answers the daemon which version the content of a file has that it has open, and whether its digest is kept.
#[inline(always)]
pub fn tell_version(inode: Inode) {
    let mut told = Measurement {
        version: version_for_daemon(inode),
        object: inode.id(),
        digest: Digest([0; 32]),
        answer: answer::UNKNOWN,
    };
    if told.version != 0
        && let Some(content) = content_of(inode)
        && kept(content, MeasuredBy::DAEMON.mark(told.version), &mut told.digest)
    {
        told.answer = answer::KEPT;
    }
    // The first answer is the one: overlayfs passes the question on to the layers below.
    let _ = MEASUREMENT.insert(bpf_get_current_pid_tgid(), told, u64::from(BPF_NOEXIST));
}

/// Keeps the digest that the daemon tells of a version of the content of a file that it has open.
#[inline(always)]
pub fn take_digest(inode: Inode) {
    let Some(told) = MEASUREMENT.get_ptr_mut(bpf_get_current_pid_tgid()) else { return };
    // SAFETY: the element is the current thread's, which removes it when this call has returned.
    let told = unsafe { &mut *told };
    // An overlay has passed the digest on to a layer below.
    if told.answer != answer::NONE {
        return;
    }
    told.answer = answer::CHANGED;
    let version = version_for_daemon(inode);
    if version != 0
        && version == told.version
        && let Some(content) = content_of(inode)
        && keep(content, MeasuredBy::DAEMON.mark(version), &told.digest)
    {
        count(MEASURED);
        told.answer = answer::KEPT;
    }
}

/// Counts for `enforcer status`.
#[inline(always)]
fn count(slot: u32) {
    if let Some(count) = MEASUREMENTS.get_ptr_mut(slot) {
        // SAFETY: the element is there for as long as the map.
        unsafe { atomic::fetch_add(count, 1) };
    }
}
