//! Exec: what a program is, is what it contains.
//!
//! `bprm_check_security` runs once for the file that is executed and again for every interpreter that it names, before
//! anything of the old program is given up; each pass must be allowed.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    decide::{self, Decision},
    event::{Kind, Reason, Verdict},
    ids::{RuleId, SkillId},
    task::{Label, Origin},
};

use crate::{
    digest,
    kernel::{Binprm, Task},
    label,
    policy::InForce,
    report::{self, Object},
    subject, verdict,
};

/// `security_bprm_creds_for_exec(bprm)`: once per exec, before the first pass. In a container or a unit, the first exec is where
/// the skill begins.
#[lsm(hook = "bprm_creds_for_exec")]
pub fn bprm_creds_for_exec(ctx: LsmContext) -> i32 {
    let file = Binprm::new(ctx.arg(0)).file();
    if let Some(skill) = subject::entered_by_exec(file) {
        let entered =
            Decision { verdict: Verdict::Allow, reason: Reason::Entered.into(), rule: RuleId::NONE, report: true };
        let room = label::give(Task::current(), &Label::new(skill, Origin::Cgroup));
        let decision = if room { entered } else { decide::no_room() };
        return verdict::of(report::decision(Kind::Enter, skill, InForce::now().generation, &decision, &Object::None));
    }
    if subject::current().is_some() {
        set_pending(SkillId(0));
    }
    verdict::pass()
}

/// `security_bprm_check(bprm)`: once per file.
#[lsm(hook = "bprm_check_security", sleepable)]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let file = Binprm::new(ctx.arg(0)).file();
    let content = digest::of(file);
    let rules = InForce::now();
    let mut decision = decide::exec(&rules, skill, content.digest());
    if decision.allows()
        && let Some(refusal) = decide::unsteady(&rules, skill, content.flaw)
    {
        decision = refusal;
    }
    if decision.allows()
        && let Some(digest) = content.digest()
    {
        match decide::enter(&rules, skill, digest, Task::current().is_traced()) {
            Ok(None) => {}
            Ok(Some(target)) => set_pending(target),
            Err(refusal) => decision = refusal,
        }
    }
    let object = Object::File { dentry: file.dentry(), digest: content.digest() };
    verdict::of(report::decision(Kind::Exec, skill, rules.generation, &decision, &object))
}

/// `security_bprm_committed_creds(bprm)`: the exec has happened, the old program is gone. Only now does an entrypoint lead to
/// its skill.
#[lsm(hook = "bprm_committed_creds")]
pub fn bprm_committed_creds(_ctx: LsmContext) -> i32 {
    let Some(label) = label::of(Task::current()) else { return verdict::pass() };
    // SAFETY: the label is the current task's own; nobody else writes it while the task is in exec.
    let target = unsafe { (*label).pending };
    if target.0 != 0 {
        let entered = Label::new(target, Origin::Entrypoint);
        // SAFETY: as above.
        unsafe { *label = entered };
        let generation = InForce::now().generation;
        let decision =
            Decision { verdict: Verdict::Allow, reason: Reason::Entered.into(), rule: RuleId::NONE, report: true };
        report::decision(Kind::Enter, target, generation, &decision, &Object::None);
    }
    verdict::pass()
}

/// Notes the skill that the exec under way leads to.
#[inline(always)]
fn set_pending(skill: SkillId) {
    if let Some(label) = label::of(Task::current()) {
        // SAFETY: the label is the current task's own.
        unsafe { (*label).pending = skill };
    }
}
