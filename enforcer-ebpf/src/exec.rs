//! Exec: what a program is, is what it contains.
//!
//! `bprm_check_security` runs once for the file that is executed and again for every interpreter that it names, before
//! anything of the old program is given up; each pass must be allowed.

use aya_ebpf::{helpers::generated::bpf_ima_file_hash, macros::lsm, programs::LsmContext};
use enforcer_common::{decide, event::Kind, ids::Digest};

use crate::{
    kernel::{Binprm, File},
    policy::InForce,
    report::{self, Object},
    subject, verdict,
};

/// `HASH_ALGO_SHA256` of `include/uapi/linux/hash_info.h`.
const HASH_ALGO_SHA256: i64 = 4;

#[lsm(hook = "bprm_check_security", sleepable)]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let file = Binprm::new(ctx.arg(0)).file();
    let digest = measure(file);
    let rules = InForce::now();
    let decision = decide::exec(&rules, skill, digest.as_ref());
    report::decision(
        Kind::Exec,
        skill,
        rules.generation,
        &decision,
        &Object::File { dentry: file.dentry(), digest: digest.as_ref() },
    );
    verdict::of(decision.refuses())
}

/// The SHA-256 of the file's content, read by the kernel now. `None` when the kernel has no IMA, its default algorithm is
/// another, or the file cannot be read.
#[inline(always)]
fn measure(file: File) -> Option<Digest> {
    let mut digest = [0u8; 32];
    // SAFETY: the helper writes at most 32 bytes into `digest` and takes a file that the exec holds.
    let algorithm = unsafe { bpf_ima_file_hash(file.as_ptr().cast(), digest.as_mut_ptr().cast(), 32) };
    if algorithm == HASH_ALGO_SHA256 { Some(Digest(digest)) } else { None }
}
