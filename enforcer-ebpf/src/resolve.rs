//! Tells the daemon what the kernel calls a file.
//!
//! `stat` shows another device number than the kernel's on btrfs and overlayfs, so the daemon asks for an extended attribute
//! that no file has and finds the answer in `RESOLVED` under its thread's id. The hook has no verdict.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid, macros::lsm, programs::LsmContext};
use enforcer_common::{ids::SkillId, names::RESOLVE_XATTR};

use crate::{kernel::Dentry, maps::RESOLVED, subject, verdict};

/// `security_inode_getxattr(dentry, name)`.
#[lsm(hook = "inode_getxattr")]
pub fn inode_getxattr(ctx: LsmContext) -> i32 {
    if subject::label() == Some(SkillId::RESOLVER) && asks_for_identity(ctx.arg(1)) {
        let inode = Dentry::new(ctx.arg(0)).inode();
        if !inode.is_null() {
            // The first answer is the one: overlayfs passes the question on to the layers below, and no walk meets those.
            let _ = RESOLVED.insert(bpf_get_current_pid_tgid(), inode.id(), u64::from(BPF_NOEXIST));
        }
    }
    verdict::pass()
}

/// Whether the attribute's name is [`RESOLVE_XATTR`].
#[inline(always)]
fn asks_for_identity(name: *const u8) -> bool {
    const LEN: usize = RESOLVE_XATTR.len() + 1;
    let mut bytes = [0u8; LEN];
    // SAFETY: the helper writes at most `LEN` bytes into `bytes`.
    let read = unsafe {
        aya_ebpf::helpers::generated::bpf_probe_read_kernel_str(bytes.as_mut_ptr().cast(), LEN as u32, name.cast())
    };
    read == LEN as i64 && bytes[..LEN - 1] == *RESOLVE_XATTR.as_bytes()
}
