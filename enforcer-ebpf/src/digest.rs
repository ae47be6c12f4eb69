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
//! # Mappings
//!
//! (d) has an exception: pages that I/O holds, such as a buffer that was registered with `io_uring`, can be written when the mapping that they were
//! found by is gone, and the file is closed. And overlayfs gives a mapping the file below, so that the overlay's own inode does
//! not count it. So a file that a governed process has mapped, shared and from a descriptor for writing, is marked
//! ([`mark_mapped`], from `mmap_file`, while the descriptor is open), and is not held to be steady as long as its inode
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

use aya_ebpf::helpers::generated::bpf_ima_file_hash;
use enforcer_common::{
    content::{Content, MEASURED_UP_TO, Opened, Stage, changes_are_seen},
    event::{Reason, ReasonCode},
    ids::Digest,
};

use crate::{
    atomic,
    kernel::{File, Inode, Task, word_at},
    label,
    maps::{CONTENTS, LAST_VERSION, MEASUREMENTS},
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
    /// Why the content may not stay what it was measured to be.
    pub flaw: ReasonCode,
}

impl Identity {
    /// The SHA-256; `None` when it could not be measured.
    #[inline(always)]
    pub fn digest(&self) -> Option<&Digest> {
        if self.measured { Some(&self.digest) } else { None }
    }
}

/// Finds out what a file contains. For sleepable programs.
///
/// The digest is filled in where it lies, because moving an absent one would read what was never written.
#[inline(always)]
pub fn of(file: File) -> Identity {
    let mut identity = Identity { digest: Digest([0; 32]), measured: false, flaw: ReasonCode::NONE };
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
    if identity.flaw.is_none() && is_mapped(inode) {
        identity.flaw = Reason::ContentMapped.into();
    }
    identity.measured = known_or_measured(file, inode, version, &mut identity.digest);
    identity
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

/// Marks a file that a governed process maps so that it can be written; false when there is no room for the mark.
#[inline(always)]
pub fn mark_mapped(inode: Inode) -> bool {
    let Some(content) = content_of(inode) else { return false };
    // SAFETY: the storage is there for as long as the inode.
    unsafe { atomic::store(&raw mut (*content).mapped, 1) };
    true
}

/// Whether a governed process has mapped the file so that it could be written.
#[inline(always)]
pub fn is_mapped(inode: Inode) -> bool {
    // SAFETY: the inode is that of a file that is open.
    let content = unsafe { CONTENTS.get_ptr_mut(inode.as_ptr().cast()) };
    // SAFETY: the storage is there for as long as the inode; the word is read whole.
    !content.is_null() && unsafe { (&raw const (*content).mapped).read_volatile() } != 0
}

/// Notes what a governed task opens for execution, and the file below it, if it is one of an overlay.
#[inline(always)]
pub fn note(file: File) {
    let Some(label) = label::of(Task::current()) else { return };
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
    } else if file.is_for_execution() && inode.superblock().magic() == OVERLAYFS {
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
    if opened.file != file.address() || opened.own == 0 || opened.below == 0 {
        return Ok(0);
    }
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
    if word_at(opened.place + offset_of!(Content, mapped) as u64) != Some(0) {
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
fn known_or_measured(file: File, inode: Inode, version: u64, digest: &mut Digest) -> bool {
    if version == 0 {
        return measure(file, digest);
    }
    let Some(content) = content_of(inode) else { return measure(file, digest) };
    if kept(content, version, digest) {
        count(KNOWN);
        return true;
    }
    let measured = measure(file, digest);
    if measured {
        keep(content, version, digest);
    }
    measured
}

/// Finds the digest that is kept of a version.
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

/// Keeps the digest of a version, unless another task is just keeping one.
#[inline(always)]
fn keep(content: *mut Content, version: u64, digest: &Digest) {
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
/// is another, or the file cannot be read or is too large.
#[inline(always)]
fn measure(file: File, digest: &mut Digest) -> bool {
    if file.inode().size() > MEASURED_UP_TO {
        return false;
    }
    // SAFETY: the helper writes at most 32 bytes into `digest` and takes a file that the caller's hook holds.
    let algorithm = unsafe { bpf_ima_file_hash(file.as_ptr().cast(), digest.0.as_mut_ptr().cast(), 32) };
    count(MEASURED);
    algorithm == HASH_ALGO_SHA256
}

/// What a file contains now, measured; for a mapping, which holds nobody off.
#[inline(always)]
pub fn now(file: File) -> Option<Digest> {
    let mut digest = Digest([0; 32]);
    if measure(file, &mut digest) { Some(digest) } else { None }
}

/// Counts for `enforcer status`.
#[inline(always)]
fn count(slot: u32) {
    if let Some(count) = MEASUREMENTS.get_ptr_mut(slot) {
        // SAFETY: the element is there for as long as the map.
        unsafe { atomic::fetch_add(count, 1) };
    }
}
