//! Delete: unlink, rmdir, and rename over or away.
//!
//! The `path_*` hooks see what the system call names, once, whichever filesystem is behind it; the `inode_*` hooks run
//! again for the layers below an overlay, where no rule lies.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{decide, event::Kind, ids::SkillId};

use crate::{
    kernel::Dentry,
    policy::{Ascent, InForce},
    report::{self, Object},
    subject, verdict,
};

/// Decides and reports the removal of one object; true when it is refused.
#[inline(always)]
fn refuses_delete(skill: SkillId, dentry: Dentry) -> bool {
    let rules = InForce::now();
    let decision = decide::delete(&rules, skill, &mut Ascent::from(dentry));
    report::decision(Kind::Delete, skill, rules.generation, &decision, &Object::File { dentry, digest: None });
    decision.refuses()
}

/// `security_path_unlink(dir, dentry)`.
#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses_delete(skill, Dentry::new(ctx.arg(1))))
}

/// `security_path_rmdir(dir, dentry)`.
#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses_delete(skill, Dentry::new(ctx.arg(1))))
}

/// `security_path_rename(old_dir, old_dentry, new_dir, new_dentry, flags)`: the old name goes away, and so does what lies
/// under the new one. With `RENAME_EXCHANGE` each goes away from its place, which is the same two questions.
#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    if refuses_delete(skill, Dentry::new(ctx.arg(1))) {
        return verdict::refuse();
    }
    let victim = Dentry::new(ctx.arg(3));
    verdict::of(!victim.inode().is_null() && refuses_delete(skill, victim))
}
