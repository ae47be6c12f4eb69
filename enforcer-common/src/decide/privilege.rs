//! What the kernel asks about a capability alone, and no hook of its own.
//!
//! `mount_setattr`, `adjtimex`, `reboot`, `delete_module` and others pass no LSM hook but `capable`. There the capability and the
//! system call together say what is to be done. Numbers of system calls are those of `arch/x86/entry/syscalls/syscall_64.tbl` and
//! `syscall_32.tbl`, of capabilities those of `include/uapi/linux/capability.h`.

use crate::event::{Reason, ReasonCode};

/// A system call: its number, and by which entry it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(u32);

impl Call {
    /// `__X32_SYSCALL_BIT` of `arch/x86/include/uapi/asm/unistd.h`: programs with short pointers, by the same numbers.
    const X32: u32 = 1 << 30;
    /// Set here for the entry for 32-bit programs, which has numbers of its own.
    const SHORT: u32 = 1 << 31;

    /// From the register that held the number, of which the kernel looks at the lower half (`arch/x86/entry/common.c:
    /// do_syscall_64`).
    #[must_use]
    #[inline(always)]
    pub const fn new(register: u64, short: bool) -> Self {
        let number = register as u32 & !(Self::X32 | Self::SHORT);
        Self(if short { number | Self::SHORT } else { number })
    }

    /// Whether it is the call that has these numbers, the second one by the entry for 32-bit programs.
    #[must_use]
    #[inline(always)]
    pub const fn is(self, long: u32, short: u32) -> bool {
        self.0 == long || self.0 == short | Self::SHORT
    }

    /// `mq_open`.
    #[must_use]
    #[inline(always)]
    pub const fn opens_queue(self) -> bool {
        self.is(240, 277)
    }

    /// `mq_unlink`.
    #[must_use]
    #[inline(always)]
    pub const fn unlinks_queue(self) -> bool {
        self.is(241, 278)
    }
}

const CAP_SYS_MODULE: u32 = 16;
const CAP_SYS_PACCT: u32 = 20;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_BOOT: u32 = 22;
const CAP_SYS_TIME: u32 = 25;
const CAP_SYS_TTY_CONFIG: u32 = 26;
const CAP_PERFMON: u32 = 38;

/// Whether any act that [`privilege`] knows takes this capability: the kernel asks about capabilities often, and of most there is
/// nothing to find out.
#[must_use]
#[inline(always)]
pub const fn is_watched(capability: u32) -> bool {
    const WATCHED: u64 = 1 << CAP_SYS_MODULE
        | 1 << CAP_SYS_PACCT
        | 1 << CAP_SYS_ADMIN
        | 1 << CAP_SYS_BOOT
        | 1 << CAP_SYS_TIME
        | 1 << CAP_SYS_TTY_CONFIG
        | 1 << CAP_PERFMON;
    capability < 64 && WATCHED >> capability & 1 != 0
}

/// What a capability of the host's is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Nothing that is looked at here.
    Other,
    /// What no governed process may, and why.
    Never(ReasonCode),
    /// Other settings for a mount of the process's mount namespace.
    Mounts,
    /// Another name for the host, or for the process's namespace of names.
    HostName,
    /// The memory of a process that it may not look at.
    OthersMemory,
    /// The end of the session at its terminal, whose processes get a signal.
    Session,
}

/// What a capability is asked for in a system call.
#[must_use]
#[inline(always)]
pub fn privilege(capability: u32, call: Call) -> Privilege {
    let never = |reason: Reason| Privilege::Never(reason.into());
    match capability {
        // `adjtimex`, `clock_adjtime`, `clock_settime`, `settimeofday`, and a clock of the hardware.
        CAP_SYS_TIME => never(Reason::Clock),
        // `kexec_load` and `kexec_file_load`; else `reboot`.
        CAP_SYS_BOOT if call.is(246, 283) || call.is(528, 283) || call.is(320, 283) => never(Reason::KernelCode),
        // Of a process's accounting is the host's file of it.
        CAP_SYS_BOOT | CAP_SYS_PACCT => never(Reason::HostControl),
        // `delete_module`. Loading one has a hook; that a device's name is to lead to one is asked of whoever names it.
        CAP_SYS_MODULE if call.is(176, 129) => never(Reason::HostControl),
        // `vhangup`.
        CAP_SYS_TTY_CONFIG if call.is(153, 111) => Privilege::Session,
        // `process_madvise`: who may not look at a process may have its memory put out all the same, with either of these
        // (`kernel/fork.c: may_access_mm`, since 6.13).
        CAP_PERFMON | CAP_SYS_ADMIN if call.is(440, 440) => Privilege::OthersMemory,
        CAP_SYS_ADMIN => administration(call),
        _ => Privilege::Other,
    }
}

/// What the capability to administer is asked for, which is the one for everything else.
#[inline(always)]
fn administration(call: Call) -> Privilege {
    // `mount_setattr`, `open_tree_attr`.
    if call.is(442, 442) || call.is(467, 467) {
        return Privilege::Mounts;
    }
    // `sethostname`, `setdomainname`.
    if call.is(170, 74) || call.is(171, 121) {
        return Privilege::HostName;
    }
    // `swapon`, whose file gets what others have in memory; `swapoff`; `quotactl`, `quotactl_fd`; `fanotify_init`, with which
    // every open of the host can be watched, and kept waiting.
    let host = call.is(167, 87) || call.is(168, 115) || call.is(179, 131) || call.is(443, 443) || call.is(300, 338);
    if host { Privilege::Never(Reason::HostControl.into()) } else { Privilege::Other }
}

/// Whether `F_SETOWN` names the process itself, whose number in its own pid namespace is `own`, or nobody (`fs/fcntl.c: f_setown`),
/// whose number is 0, like one that is not known.
/// A group has a negative number: who is in it when the signal is sent, nobody knows before.
#[must_use]
#[inline(always)]
pub const fn owner(argument: u64, own: u32) -> bool {
    // The kernel takes it for an int.
    let named = argument as u32;
    named == 0 || named == own
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Privilege = Privilege::Never(ReasonCode(Reason::HostControl as u8));

    /// Each act by both entries: capability, numbers, and what it is.
    const ACTS: &[(u32, u32, u32, Privilege)] = &[
        (CAP_SYS_MODULE, 176, 129, HOST),
        (CAP_SYS_BOOT, 169, 88, HOST),
        (CAP_SYS_BOOT, 246, 283, Privilege::Never(ReasonCode(Reason::KernelCode as u8))),
        (CAP_SYS_PACCT, 163, 51, HOST),
        (CAP_SYS_TIME, 159, 124, Privilege::Never(ReasonCode(Reason::Clock as u8))),
        (CAP_SYS_TIME, 305, 343, Privilege::Never(ReasonCode(Reason::Clock as u8))),
        (CAP_SYS_TTY_CONFIG, 153, 111, Privilege::Session),
        (CAP_SYS_ADMIN, 442, 442, Privilege::Mounts),
        (CAP_SYS_ADMIN, 467, 467, Privilege::Mounts),
        (CAP_SYS_ADMIN, 170, 74, Privilege::HostName),
        (CAP_SYS_ADMIN, 171, 121, Privilege::HostName),
        (CAP_SYS_ADMIN, 167, 87, HOST),
        (CAP_SYS_ADMIN, 168, 115, HOST),
        (CAP_SYS_ADMIN, 179, 131, HOST),
        (CAP_SYS_ADMIN, 443, 443, HOST),
        (CAP_SYS_ADMIN, 300, 338, HOST),
        (CAP_SYS_ADMIN, 440, 440, Privilege::OthersMemory),
        (CAP_PERFMON, 440, 440, Privilege::OthersMemory),
    ];

    #[test]
    fn acts_are_known_by_either_entry() {
        for &(capability, long, short, act) in ACTS {
            assert!(is_watched(capability), "{capability}");
            assert_eq!(privilege(capability, Call::new(long.into(), false)), act, "{capability} {long}");
            assert_eq!(privilege(capability, Call::new(short.into(), true)), act, "{capability} {short}");
            // By short pointers, and with a register whose upper half the kernel does not look at.
            let odd = u64::from(long) | 1 << 30 | 0xdead << 32;
            assert_eq!(privilege(capability, Call::new(odd, false)), act, "{capability} {long}");
        }
    }

    #[test]
    fn a_number_is_that_of_its_entry_alone() {
        // 87 is `unlink` by the other entry, in which an overlay asks about the capability to administer for itself; 88 `symlink`.
        for (number, short) in [(87, false), (74, false), (115, false), (167, true), (168, true), (170, true)] {
            assert_eq!(privilege(CAP_SYS_ADMIN, Call::new(number, short)), Privilege::Other, "{number}");
        }
        assert!(Call::new(241, false).unlinks_queue() && !Call::new(241, true).unlinks_queue());
        assert!(Call::new(277, true).opens_queue() && !Call::new(277, false).opens_queue());
    }

    #[test]
    fn everything_else_is_nobodys_business() {
        for capability in 0..=64 {
            // `mount`, which has a hook; `openat`.
            for call in [Call::new(165, false), Call::new(257, false)] {
                let always = [CAP_SYS_TIME, CAP_SYS_BOOT, CAP_SYS_PACCT].contains(&capability);
                assert_eq!(privilege(capability, call) == Privilege::Other, !always, "{capability}");
            }
        }
        assert!(!is_watched(0) && !is_watched(24) && !is_watched(64) && !is_watched(u32::MAX));
    }

    #[test]
    fn an_owner_is_the_process_itself() {
        assert!(owner(0, 7) && owner(7, 7) && owner(0, 0));
        for named in [1, 8, u64::from(u32::MAX - 6), 7_u64.wrapping_neg()] {
            assert!(!owner(named, 7) && !owner(named, 0), "{named}");
        }
        // The kernel does not look at the upper half, and neither may this.
        assert!(owner(7 | 1 << 32, 7) && owner(1 << 32, 7) && !owner(8 | 1 << 32, 7));
    }
}
