//! Capabilities: what passes no other hook.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    decide::{self, Privilege},
    event::{Kind, Reason, ReasonCode},
};

use crate::{
    kernel::{Task, UserNamespace},
    maps::HOST,
    report::Object,
    subject,
    tamper::refuses,
    verdict,
};

/// `security_capable(cred, ns, cap, opts)`: asked last, of who has the capability. What is permitted in a user namespace that was
/// made is permitted over what belongs to it.
#[lsm(hook = "capable")]
pub fn capable(ctx: LsmContext) -> i32 {
    let capability: u32 = ctx.arg(2);
    if !decide::is_watched(capability) {
        return verdict::pass();
    }
    let Some(skill) = subject::current() else { return verdict::pass() };
    if UserNamespace::new(ctx.arg(1)).is_made() {
        return verdict::pass();
    }
    let task = Task::current();
    let refused = match decide::privilege(capability, task.call()) {
        Privilege::Other => None,
        Privilege::Never(reason) => Some((Kind::Tamper, reason)),
        Privilege::Mounts if has_own_mounts(task) => None,
        Privilege::Mounts => Some((Kind::Mount, ReasonCode::from(Reason::HostMount))),
        Privilege::HostName if has_own_name(task) => None,
        Privilege::HostName => Some((Kind::Tamper, Reason::HostControl.into())),
        Privilege::OthersMemory => Some((Kind::Trace, Reason::OtherSkill.into())),
        Privilege::Session => Some((Kind::Signal, Reason::OtherSkill.into())),
    };
    let Some((kind, reason)) = refused else { return verdict::pass() };
    verdict::of(refuses(skill, kind, reason, &Object::None))
}

/// Whether a task's mount namespace is not the host's. What cannot be found out is the host's. The kernel changes the settings of
/// mounts of the caller's own namespace alone, and of no other that they are shared with (`fs/namespace.c: do_mount_setattr`).
#[inline(always)]
fn has_own_mounts(task: Task) -> bool {
    let own = task.mount_namespace();
    own != 0 && HOST.get(0).is_some_and(|facts| own != facts.mount_namespace)
}

/// Whether a task's namespace of names is not the host's. What cannot be found out is the host's.
#[inline(always)]
fn has_own_name(task: Task) -> bool {
    /// `PROC_UTS_INIT_INO` of `include/linux/proc_ns.h`.
    const HOST_NAMES: u32 = 0xefff_fffe;
    let own = task.name_namespace();
    own != 0 && own != HOST_NAMES
}
