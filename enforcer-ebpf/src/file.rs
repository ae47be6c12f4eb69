//! Files: delete, write, read.
//!
//! The `path_*` hooks see what the system call names, once, whichever filesystem is behind it. The `inode_*` hooks and
//! `file_open` run again for the layers below an overlay, in the kernel's own name: those calls are told apart by their
//! credentials, an open also by its mount, and are none of ours.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    decide::{self, Act, Decision, Device, End},
    event::{Kind, Reason},
    ids::SkillId,
    rules::action,
};

use crate::{
    ascent::Ascent,
    digest,
    kernel::{Dentry, File, Iattr, Inode, Task},
    mapping::is_in_use,
    opaque,
    owner::refuses_owner,
    policy::InForce,
    queue::is_queue,
    report::{self, Object},
    subject,
    tamper::{self, is_kernel_interface, refuses_device, refuses_node},
    verdict,
    wall::refuses_proc_file,
};

/// `FMODE_READ` of `include/linux/fs.h`.
const FMODE_READ: u32 = 1;

/// Decides one act on one object.
#[inline(always)]
fn decided(rules: &InForce, skill: SkillId, act: Act, dentry: Dentry) -> (Decision, Kind) {
    let act = Act { by_name: act.changes() && is_kernel_interface(dentry), ..act };
    match subject::findings() {
        Some(findings) => decide::object(rules, skill, act, &mut Ascent::from(dentry), findings),
        None => (decide::no_room(), decide::kind(act.actions)),
    }
}

/// Decides and reports one act on one object; true when it is refused.
#[inline(always)]
pub fn refuses(skill: SkillId, act: Act, dentry: Dentry) -> bool {
    let rules = InForce::now();
    let (decision, kind) = decided(&rules, skill, act, dentry);
    report::decision(kind, skill, rules.generation, &decision, &Object::File { dentry, digest: None })
}

/// The skill that acts, unless the kernel acts for itself.
#[inline(always)]
fn actor() -> Option<SkillId> {
    subject::current().filter(|_| !Task::current().acts_for_kernel())
}

/// `security_path_unlink(dir, dentry)`.
#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses(skill, Act::DELETE, Dentry::new(ctx.arg(1))))
}

/// `security_path_rmdir(dir, dentry)`.
#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses(skill, Act::DELETE, Dentry::new(ctx.arg(1))))
}

/// `security_path_rename(old_dir, old_dentry, new_dir, new_dentry, flags)`: what is moved goes away from its place and comes to
/// lie elsewhere, and what lies there goes away. With `RENAME_EXCHANGE` each does both, which the same questions cover.
#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let target = Dentry::new(ctx.arg(3));
    // The cost of one delete, whether or not there is a victim.
    let moved = Act { charge: true, ..Act::MOVE };
    let victim = opaque::truth(!target.is_negative());
    let there = Act { actions: Act::WRITE.actions | if victim { Act::MOVE.actions } else { 0 }, ..Act::WRITE };
    verdict::of(refuses(skill, there, target) || refuses(skill, moved, Dentry::new(ctx.arg(1))))
}

/// `security_path_mknod(dir, dentry, mode, dev)`: also the creation of regular files and of unix sockets.
#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let dentry = Dentry::new(ctx.arg(1));
    verdict::of(refuses_node(skill, dentry, ctx.arg(2), ctx.arg(3)) || refuses(skill, Act::WRITE, dentry))
}

/// `security_path_mkdir(dir, dentry, mode)`.
#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses(skill, Act::WRITE, Dentry::new(ctx.arg(1))))
}

/// `security_path_symlink(dir, dentry, old_name)`.
#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses(skill, Act::WRITE, Dentry::new(ctx.arg(1))))
}

/// `security_path_link(old_dentry, new_dir, new_dentry)`.
#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let (source, target) = (Dentry::new(ctx.arg(0)), Dentry::new(ctx.arg(2)));
    let rules = InForce::now();
    let (decision, end) = match subject::findings() {
        Some(findings) => decide::link(&rules, skill, &mut Ascent::from(source), &mut Ascent::from(target), findings),
        None => (decide::no_room(), End::Target),
    };
    let about = if opaque::truth(end == End::Source) { source } else { target };
    let object = Object::File { dentry: about, digest: None };
    verdict::of(report::decision(Kind::Write, skill, rules.generation, &decision, &object))
}

/// `security_file_open(file)`: every open but those with `O_PATH`, exec's included, before anything is cut off.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let file = File::new(ctx.arg(0));
    // Whoever writes, governed or not: what was measured of the file does not hold any more.
    if file.is_writable() {
        digest::forget(file.inode());
    }
    let Some(skill) = subject::label() else { return verdict::pass() };
    digest::note(file, skill);
    if !skill.governs() || file.is_opened_by_kernel() {
        return verdict::pass();
    }
    verdict::of(
        refuses_proc_file(skill, file)
            || refuses_device(skill, file)
            || refuses_file(skill, file)
            || refuses_code(skill, file),
    )
}

/// Whether a file is to be written that was measured and mapped as code.
#[inline(always)]
fn refuses_code(skill: SkillId, file: File) -> bool {
    file.is_writable() && is_code(skill, file.inode(), file.dentry())
}

/// Refuses to change what was measured and mapped as code; true when it is refused. The inode is the file's own or that of the dentry which
/// a hook was given: of a file's dentry it is none that storage is given for.
#[inline(always)]
fn is_code(skill: SkillId, inode: Inode, dentry: Dentry) -> bool {
    is_in_use(inode)
        && tamper::refuses(skill, Kind::Write, Reason::ContentInUse, &Object::File { dentry, digest: None })
}

/// `security_file_receive(file)`: a file that comes over a unix socket, by `pidfd_getfd`, or by a seccomp notification.
#[lsm(hook = "file_receive")]
pub fn file_receive(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let rules = InForce::now();
    let Some((decision, kind, object)) = opened_elsewhere(&rules, skill, File::new(ctx.arg(0))) else {
        return verdict::pass();
    };
    verdict::of(report::decision(kind, skill, rules.generation, &decision, &object))
}

/// The verdict on a file that was opened elsewhere, however it comes into the skill, and what it is about; none where nobody has
/// a say.
#[inline(always)]
pub fn opened_elsewhere<'a>(rules: &InForce, skill: SkillId, file: File) -> Option<(Decision, Kind, Object<'a>)> {
    let dentry = file.dentry();
    let forbidden = tamper::forbids(file);
    let (decision, kind) = if forbidden.is_none() {
        match actions_of(file) {
            0 => return None,
            actions => decided(rules, skill, Act { actions, charge: false, by_name: false }, dentry),
        }
    } else {
        (decide::never(rules, skill, forbidden), Kind::Tamper)
    };
    Some((decision, kind, Object::File { dentry, digest: None }))
}

/// Decides and reports a file as it is open; true when it is refused.
#[inline(always)]
fn refuses_file(skill: SkillId, file: File) -> bool {
    match actions_of(file) {
        0 => false,
        actions => refuses(skill, Act { actions, charge: false, by_name: false }, file.dentry()),
    }
}

/// What may be done through an open file that rules have a say in.
#[inline(always)]
fn actions_of(file: File) -> u32 {
    let dentry = file.dentry();
    // Pipes, sockets and memfds have no path that a rule could name.
    if dentry.superblock().is_internal() {
        return 0;
    }
    if is_queue(dentry, dentry.inode()) {
        return action::READ | action::WRITE;
    }
    let mode = file.mode();
    let mut actions = 0;
    if mode & FMODE_READ != 0 {
        actions |= action::READ;
    }
    if file.is_writable() && !is_bottomless(dentry.inode()) {
        actions |= action::WRITE;
    }
    actions
}

/// Whether anybody may write this file, because it is a device that keeps nothing.
#[inline(always)]
fn is_bottomless(inode: Inode) -> bool {
    Device::of(inode.mode(), inode.rdev()).is_some_and(Device::is_bottomless)
}

/// Decides a change of attributes: mode, owner, times, size. A size of 0 deletes what was there.
#[inline(always)]
fn refuses_setattr(dentry: Dentry, attributes: Iattr) -> bool {
    if attributes.size().is_some() {
        digest::forget(dentry.inode());
    }
    let Some(skill) = actor() else { return false };
    if dentry.superblock().is_internal() {
        return false;
    }
    let inode = dentry.inode();
    let emptied = attributes.size() == Some(0) && inode.size() > 0;
    let act = if emptied { Act::TRUNCATE } else { Act::WRITE };
    ((emptied || !is_bottomless(inode)) && refuses(skill, act, dentry))
        || (attributes.size().is_some() && is_code(skill, inode, dentry))
}

/// `security_inode_setattr(dentry, attr)`, before 6.3.
#[lsm(hook = "inode_setattr")]
pub fn inode_setattr(ctx: LsmContext) -> i32 {
    verdict::of(refuses_setattr(Dentry::new(ctx.arg(0)), Iattr::new(ctx.arg(1))))
}

/// `security_inode_setattr(idmap, dentry, attr)`, from 6.3 on.
#[lsm(hook = "inode_setattr")]
pub fn inode_setattr_idmap(ctx: LsmContext) -> i32 {
    verdict::of(refuses_setattr(Dentry::new(ctx.arg(1)), Iattr::new(ctx.arg(2))))
}

/// Decides a change of extended attributes.
#[inline(always)]
fn refuses_xattr(dentry: Dentry) -> bool {
    let Some(skill) = actor() else { return false };
    !dentry.superblock().is_internal() && refuses(skill, Act::WRITE, dentry)
}

/// `security_inode_setxattr(idmap, dentry, name, value, size, flags)`.
#[lsm(hook = "inode_setxattr")]
pub fn inode_setxattr(ctx: LsmContext) -> i32 {
    verdict::of(refuses_xattr(Dentry::new(ctx.arg(1))))
}

/// `security_inode_removexattr(idmap, dentry, name)`.
#[lsm(hook = "inode_removexattr")]
pub fn inode_removexattr(ctx: LsmContext) -> i32 {
    verdict::of(refuses_xattr(Dentry::new(ctx.arg(1))))
}

/// `security_inode_set_acl(idmap, dentry, acl_name, kacl)`, from 6.2 on; before, an ACL is an extended attribute.
#[lsm(hook = "inode_set_acl")]
pub fn inode_set_acl(ctx: LsmContext) -> i32 {
    verdict::of(refuses_xattr(Dentry::new(ctx.arg(1))))
}

/// `security_inode_remove_acl(idmap, dentry, acl_name)`, from 6.2 on.
#[lsm(hook = "inode_remove_acl")]
pub fn inode_remove_acl(ctx: LsmContext) -> i32 {
    verdict::of(refuses_xattr(Dentry::new(ctx.arg(1))))
}

/// Decides an ioctl: those that change a file through a descriptor that may be open for reading alone, those that type into a
/// terminal or hang it up, those that freeze a filesystem, and those that make somebody the owner of a file.
#[inline(always)]
fn of_ioctl(file: File, command: u32) -> i32 {
    // `include/uapi/linux/fs.h`, `fsverity.h` and `btrfs.h`: flags, the end of a filesystem, content for ever, the deletion of a subvolume.
    const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
    const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
    const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
    const FS_IOC_SHUTDOWN: u32 = 0x8004_587d;
    const FS_IOC_ENABLE_VERITY: u32 = 0x4080_6685;
    // A filesystem stands still, for whoever writes on it, until somebody lets it go on.
    const FIFREEZE: u32 = 0xc004_5877;
    const FITHAW: u32 = 0xc004_5878;
    const BTRFS_IOC_SNAP_DESTROY: u32 = 0x5000_940f;
    const BTRFS_IOC_SNAP_DESTROY_V2: u32 = 0x5000_943f;
    // `include/uapi/asm-generic/ioctls.h`: a character as if it were typed; on a console also the paste of what is selected.
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541c;
    // The end of a session at a terminal, whose processes get a signal.
    const TIOCVHANGUP: u32 = 0x5437;
    // `include/uapi/asm-generic/ioctls.h` and `sockios.h`: the owner.
    const FIOASYNC: u32 = 0x5452;
    const FIOSETOWN: u32 = 0x8901;
    const SIOCSPGRP: u32 = 0x8902;
    let Some(skill) = subject::current() else { return verdict::pass() };
    let dentry = file.dentry();
    let act = match command {
        FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS | FS_IOC_FSSETXATTR | FS_IOC_SHUTDOWN | FS_IOC_ENABLE_VERITY => Act::WRITE,
        FIFREEZE | FITHAW => {
            let object = Object::File { dentry, digest: None };
            return verdict::of(tamper::refuses(skill, Kind::Tamper, Reason::HostControl, &object));
        }
        BTRFS_IOC_SNAP_DESTROY | BTRFS_IOC_SNAP_DESTROY_V2 => Act::DELETE,
        TIOCSTI | TIOCLINUX => {
            let object = Object::File { dentry, digest: None };
            return verdict::of(tamper::refuses(skill, Kind::Tamper, Reason::TerminalInput, &object));
        }
        TIOCVHANGUP => {
            let object = Object::File { dentry, digest: None };
            return verdict::of(tamper::refuses(skill, Kind::Signal, Reason::OtherSkill, &object));
        }
        FIOASYNC if !file.names_owner() => return verdict::pass(),
        FIOASYNC | FIOSETOWN | SIOCSPGRP => return verdict::of(refuses_owner(skill)),
        _ => return verdict::pass(),
    };
    verdict::of(!dentry.superblock().is_internal() && refuses(skill, act, dentry))
}

/// `security_file_ioctl(file, cmd, arg)`.
#[lsm(hook = "file_ioctl")]
pub fn file_ioctl(ctx: LsmContext) -> i32 {
    of_ioctl(File::new(ctx.arg(0)), ctx.arg(1))
}

/// `security_file_ioctl_compat(file, cmd, arg)`, from 6.8 on and in the stable kernels of that time: ioctls by the entry for 32-bit
/// programs, which any program can use. Kernels without it ask `security_file_ioctl` (`fs/ioctl.c`).
#[lsm(hook = "file_ioctl_compat")]
pub fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    of_ioctl(File::new(ctx.arg(0)), ctx.arg(1))
}

/// `security_inode_file_setattr(dentry, fa)`, from 6.17 on: a file's flags, by `file_setattr` too, which is no ioctl.
#[lsm(hook = "inode_file_setattr")]
pub fn inode_file_setattr(ctx: LsmContext) -> i32 {
    let Some(skill) = actor() else { return verdict::pass() };
    verdict::of(refuses(skill, Act::WRITE, Dentry::new(ctx.arg(0))))
}
