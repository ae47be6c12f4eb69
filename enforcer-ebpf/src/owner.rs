//! Who owns a file: whom the kernel signals when there is something to read.
//!
//! The signal is sent when it is due, often in the name of whoever happens to run, and then nobody is left to judge. So it is
//! judged when the owner is named: only the process itself may be, or nobody. An owner that is named in memory
//! (`F_SETOWN_EX`, `FIOSETOWN`, `SIOCSPGRP`) could be another one when the kernel reads it, and is refused whoever it is.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    decide,
    event::{Kind, Reason},
    ids::SkillId,
};

use crate::{
    kernel::{File, Task},
    report::Object,
    subject,
    tamper::refuses,
    verdict,
};

/// `O_ASYNC`, which the kernel calls `FASYNC` (`include/uapi/asm-generic/fcntl.h`).
const O_ASYNC: u64 = 0o20000;

/// `security_file_fcntl(file, cmd, arg)`: by either entry.
#[lsm(hook = "file_fcntl")]
pub fn file_fcntl(ctx: LsmContext) -> i32 {
    // `include/uapi/asm-generic/fcntl.h`.
    const F_SETFL: u32 = 4;
    const F_SETOWN: u32 = 8;
    const F_SETOWN_EX: u32 = 15;
    let command: u32 = ctx.arg(1);
    if command != F_SETOWN && command != F_SETOWN_EX && command != F_SETFL {
        return verdict::pass();
    }
    let argument: u64 = ctx.arg(2);
    let file = File::new(ctx.arg(0));
    if command == F_SETFL && !(argument & O_ASYNC != 0 && file.names_owner()) {
        return verdict::pass();
    }
    let Some(skill) = subject::current() else { return verdict::pass() };
    if command == F_SETOWN && decide::owner(argument, Task::current().own_number()) {
        return verdict::pass();
    }
    verdict::of(refuses_owner(skill))
}

/// Refuses an owner; true when it is refused.
#[inline(always)]
pub fn refuses_owner(skill: SkillId) -> bool {
    refuses(skill, Kind::Signal, Reason::FileOwner, &Object::None)
}

impl File {
    /// Whether asking for signals makes somebody its owner who has not been named: a terminal's are the processes in its foreground
    /// (`drivers/tty/tty_io.c: __tty_fasync`). Any device of characters may be one.
    #[inline(always)]
    pub fn names_owner(self) -> bool {
        /// `include/uapi/linux/stat.h`.
        const S_IFMT: u16 = 0o170_000;
        const S_IFCHR: u16 = 0o020_000;
        self.inode().mode() & S_IFMT == S_IFCHR
    }
}
