//! Message queues of POSIX: files that `mq_open` makes and `mq_unlink` removes, without a hook for the path. The filesystem is the
//! one that `/dev/mqueue` shows, and rules that name what lies there hold.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::decide::Act;

use crate::{
    file::refuses,
    kernel::{Dentry, Inode, Task},
    subject, verdict,
};

/// Whether a name lies in the filesystem of message queues.
#[inline(always)]
fn is_queues(dentry: Dentry) -> bool {
    /// `MQUEUE_MAGIC` of `ipc/mqueue.c`.
    const MQUEUE: u64 = 0x1980_0202;
    dentry.superblock().magic() == MQUEUE
}

/// Whether this is a message queue: who may read it takes the messages away.
#[inline(always)]
pub fn is_queue(dentry: Dentry, inode: Inode) -> bool {
    /// `include/uapi/linux/stat.h`.
    const S_IFMT: u16 = 0o170_000;
    const S_IFREG: u16 = 0o100_000;
    is_queues(dentry) && inode.mode() & S_IFMT == S_IFREG
}

/// `security_inode_unlink(dir, dentry)`: for `mq_unlink` alone. What is removed by its path was decided there.
#[lsm(hook = "inode_unlink")]
pub fn inode_unlink(ctx: LsmContext) -> i32 {
    let dentry = Dentry::new(ctx.arg(1));
    if !is_queues(dentry) {
        return verdict::pass();
    }
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(Task::current().call().unlinks_queue() && refuses(skill, Act::DELETE, dentry))
}

/// `security_inode_create(dir, dentry, mode)`: for `mq_open` alone, as above.
#[lsm(hook = "inode_create")]
pub fn inode_create(ctx: LsmContext) -> i32 {
    let dentry = Dentry::new(ctx.arg(1));
    if !is_queues(dentry) {
        return verdict::pass();
    }
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(Task::current().call().opens_queue() && refuses(skill, Act::WRITE, dentry))
}
