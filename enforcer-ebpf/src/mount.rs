//! Mounts: a governed process arranges its own mount namespace as it likes, and no mount that others see. So it hides nothing
//! from the daemon and unmounts nothing that holds a pin. Where it mounts, rules go on: they are about objects.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::event::{Kind, Reason};

use crate::{
    kernel::{Mount, Path, SuperBlock},
    maps::HOST,
    report::Object,
    subject,
    tamper::refuses,
    verdict,
};

/// Whether others see what happens upon this mount: it is in the host's namespace, or shared with mounts that may be. What
/// cannot be found out is.
#[inline(always)]
fn is_seen(mount: Mount) -> bool {
    let Some(facts) = HOST.get(0) else { return true };
    mount.is_shared() || mount.namespace().is_none_or(|namespace| namespace == facts.mount_namespace)
}

/// The verdict on a change that is seen.
#[inline(always)]
fn of_seen(seen: impl FnOnce() -> bool) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(seen() && refuses(skill, Kind::Mount, Reason::HostMount, &Object::None))
}

/// `security_sb_mount(dev_name, path, type, flags, data)`: every `mount(2)`. To make the mounts of a new namespace its own
/// (`MS_PRIVATE`, `MS_SLAVE`) is how a process begins; beside these the kernel looks at `MS_REMOUNT` and `MS_BIND` first, and does
/// what they say (`fs/namespace.c: path_mount`).
#[lsm(hook = "sb_mount")]
pub fn sb_mount(ctx: LsmContext) -> i32 {
    /// `include/uapi/linux/mount.h`.
    const MS_REMOUNT: u64 = 1 << 5;
    const MS_BIND: u64 = 1 << 12;
    const MS_UNBINDABLE: u64 = 1 << 17;
    const MS_PRIVATE: u64 = 1 << 18;
    const MS_SLAVE: u64 = 1 << 19;
    of_seen(|| {
        let mount = Path::new(ctx.arg(1)).mount();
        let flags: u64 = ctx.arg(3);
        let secludes = flags & (MS_UNBINDABLE | MS_PRIVATE | MS_SLAVE) != 0 && flags & (MS_REMOUNT | MS_BIND) == 0;
        is_seen(mount) && !(secludes && is_elsewhere(mount))
    })
}

/// Whether a mount is in another namespace than the host's, be it shared or not.
#[inline(always)]
fn is_elsewhere(mount: Mount) -> bool {
    HOST.get(0).is_some_and(|facts| mount.namespace().is_some_and(|namespace| namespace != facts.mount_namespace))
}

/// `security_move_mount(from, to)`: a mount that was made by `fsmount` or `open_tree` gets its place, or one is moved away.
#[lsm(hook = "move_mount")]
pub fn move_mount(ctx: LsmContext) -> i32 {
    of_seen(|| is_seen(Path::new(ctx.arg(1)).mount()) || !is_elsewhere(Path::new(ctx.arg(0)).mount()))
}

/// `security_sb_umount(mnt, flags)`: it is seen where the mount lies.
#[lsm(hook = "sb_umount")]
pub fn sb_umount(ctx: LsmContext) -> i32 {
    of_seen(|| {
        let mount = Mount::new(ctx.arg(0));
        !is_elsewhere(mount) || mount.parent().is_none_or(Mount::is_shared)
    })
}

/// `security_sb_pivotroot(old_path, new_path)`: the root of the namespace that `new_path` is in.
#[lsm(hook = "sb_pivotroot")]
pub fn sb_pivotroot(ctx: LsmContext) -> i32 {
    of_seen(|| !is_elsewhere(Path::new(ctx.arg(1)).mount()))
}

/// `security_sb_remount(sb, mnt_opts)`: the filesystem's own settings, which hold wherever it is mounted.
#[lsm(hook = "sb_remount")]
pub fn sb_remount(_ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses(skill, Kind::Mount, Reason::Remount, &Object::None))
}

/// `security_sb_kern_mount(sb)`: a new filesystem, by `mount` or by `fsconfig`, of whatever type. A stacked one would show what lies
/// below under identities of its own, past every `protect` rule; pins are made in a bpffs; and of one whose content comes from a
/// server the agent could be the server, which shows one content to be measured and another to be run.
#[lsm(hook = "sb_kern_mount")]
pub fn sb_kern_mount(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let Some(reason) = refuses_type(SuperBlock::new(ctx.arg(0))) else { return verdict::pass() };
    verdict::of(refuses(skill, Kind::Mount, reason, &Object::None))
}

/// Why no governed process may mount such a filesystem, if there is a reason.
#[inline(always)]
fn refuses_type(superblock: SuperBlock) -> Option<Reason> {
    // `include/uapi/linux/magic.h`, and the filesystems' own headers.
    const OVERLAYFS: u64 = 0x794c_7630;
    const ECRYPTFS: u64 = 0xf15f;
    const BPF_FS: u64 = 0xcafe_4a11;
    const FUSE: u64 = 0x6573_5546;
    const V9FS: u64 = 0x0102_1997;
    const NFS: u64 = 0x6969;
    const CIFS: u64 = 0xff53_4d42;
    const SMB2: u64 = 0xfe53_4d42;
    const CEPH: u64 = 0x00c3_6400;
    const CODA: u64 = 0x7375_7245;
    const AFS: u64 = 0x6b41_4653;
    const ORANGEFS: u64 = 0x2003_0528;
    const EROFS: u64 = 0xe0f5_e1e2;
    match superblock.magic() {
        OVERLAYFS | ECRYPTFS => Some(Reason::StackedMount),
        BPF_FS => Some(Reason::BpfMount),
        FUSE | V9FS | NFS | CIFS | SMB2 | CEPH | CODA | AFS | ORANGEFS => Some(Reason::ServedMount),
        // In a file, from 6.12 on, which stays writable.
        EROFS if superblock.disk_major().is_none() => Some(Reason::ServedMount),
        _ => None,
    }
}
