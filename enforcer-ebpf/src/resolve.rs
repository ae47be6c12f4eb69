//! Tells the daemon what the kernel calls a file, and which version its content has; takes the digest of such a version.
//!
//! `stat` shows another device number than the kernel's on btrfs and overlayfs, so the daemon asks for an extended attribute
//! that no file has and finds the answer in `RESOLVED`, or in `MEASUREMENT`, under its thread's id. The hook has no verdict, and nobody
//! else is answered.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid, macros::lsm, programs::LsmContext};
use enforcer_common::{
    ids::SkillId,
    names::{DIGEST_XATTR, RESOLVE_XATTR, VERSION_XATTR},
};

use crate::{digest, kernel::Dentry, maps::RESOLVED, subject, verdict};

/// `security_inode_getxattr(dentry, name)`.
#[lsm(hook = "inode_getxattr")]
pub fn inode_getxattr(ctx: LsmContext) -> i32 {
    if subject::label() != Some(SkillId::RESOLVER) {
        return verdict::pass();
    }
    let Some(question) = question(ctx.arg(1)) else { return verdict::pass() };
    let inode = Dentry::new(ctx.arg(0)).inode();
    if inode.is_null() {
        return verdict::pass();
    }
    match question {
        Question::Identity => {
            // The first answer is the one: overlayfs passes the question on to the layers below, and no walk meets those.
            let _ = RESOLVED.insert(bpf_get_current_pid_tgid(), inode.id(), u64::from(BPF_NOEXIST));
        }
        Question::Version => digest::tell_version(inode),
        Question::Digest => digest::take_digest(inode),
    }
    verdict::pass()
}

/// What the daemon asks.
enum Question {
    Identity,
    Version,
    Digest,
}

/// What is asked by an attribute of this name.
#[inline(always)]
fn question(name: *const u8) -> Option<Question> {
    const SHORT: usize = RESOLVE_XATTR.len();
    const LONG: usize = VERSION_XATTR.len();
    const _: () = assert!(LONG == SHORT + 2 && DIGEST_XATTR.len() == LONG);
    let mut bytes = [0u8; LONG + 1];
    // SAFETY: the helper writes at most as many bytes into `bytes` as it has.
    let read = unsafe {
        let room = bytes.len() as u32;
        aya_ebpf::helpers::generated::bpf_probe_read_kernel_str(bytes.as_mut_ptr().cast(), room, name.cast())
    };
    if bytes[..SHORT] != *RESOLVE_XATTR.as_bytes() {
        return None;
    }
    // One that is longer than the room is cut to it, with a NUL at the end; what it begins like is asked then.
    if read == SHORT as i64 + 1 {
        Some(Question::Identity)
    } else if read == LONG as i64 + 1 && bytes[LONG - 1] == VERSION_XATTR.as_bytes()[LONG - 1] {
        Some(Question::Version)
    } else if read == LONG as i64 + 1 && bytes[LONG - 1] == DIGEST_XATTR.as_bytes()[LONG - 1] {
        Some(Question::Digest)
    } else {
        None
    }
}
