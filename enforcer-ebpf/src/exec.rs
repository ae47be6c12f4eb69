//! Exec: what a program is, is what it contains.
//!
//! `bprm_check_security` runs once for the file that is executed and again for every interpreter that it names, before
//! anything of the old program is given up; each pass must be allowed.

use aya_ebpf::{
    macros::{btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext},
};
use enforcer_common::{
    decide::{self, Decision, Rules as _},
    event::{Kind, Reason, Verdict},
    ids::{RuleId, SkillId},
    rules::binary_flag,
    task::{Origin, stage},
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
/// the skill begins; that it has begun is told when the exec has happened, and what it leaves open is all that is open.
#[lsm(hook = "bprm_creds_for_exec")]
pub fn bprm_creds_for_exec(ctx: LsmContext) -> i32 {
    let file = Binprm::new(ctx.arg(0)).file();
    if let Some(skill) = subject::entered_by_exec(file) {
        if label::give_untold(Task::current(), skill, Origin::Cgroup) {
            return verdict::pass();
        }
        let generation = InForce::now().generation;
        return verdict::of(report::decision(Kind::Enter, skill, generation, &decide::no_room(), &Object::None));
    }
    if subject::current().is_some()
        && let Some(label) = subject::labelled()
    {
        label.pending = SkillId(0);
        label.heir = 0;
        label.stage &= !(stage::TO_LOADER | stage::NAMED);
    }
    verdict::pass()
}

/// `security_bprm_check(bprm)`: once per file.
#[cfg_attr(not(feature = "elder"), lsm(hook = "bprm_check_security", sleepable))]
#[cfg_attr(feature = "elder", lsm(hook = "bprm_check_security"))]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    // No room to note in what is executed is no permission.
    let Some(label) = subject::labelled() else { return verdict::refuse() };
    let file = Binprm::new(ctx.arg(0)).file();
    let content = digest::of(file);
    let rules = InForce::now();
    let mut decision = decide::exec(&rules, skill, content.digest(), label.lineage);
    if decision.allows()
        && let Some(refusal) = decide::unsteady(&rules, skill, content.flaw)
    {
        decision = refusal;
    }
    // The last file decides, which is what runs: whatever a script contains is opened again by its interpreter, which reads what
    // else it is told to.
    label.pending = SkillId(0);
    if decision.allows()
        && let Ok(digest) = content.digest()
    {
        match decide::enter(&rules, skill, digest, Task::current().is_traced()) {
            Ok(target) => label.pending = target.unwrap_or(SkillId(0)),
            Err(refusal) => decision = refusal,
        }
    }
    if label.stage & stage::NAMED == 0 {
        label.stage |= stage::NAMED;
        label.heir = content.digest().map_or(0, |digest| rules.parent(digest));
    }
    label.program = file.inode().id();
    label.stage &= !stage::TO_LOADER;
    if let Ok(digest) = content.digest()
        && decide::has_flag(&rules, skill, digest, binary_flag::LOADER)
    {
        label.stage |= stage::TO_LOADER;
    }
    let object = Object::File { dentry: file.dentry(), digest: content.digest().ok() };
    verdict::of(report::decision(Kind::Exec, skill, rules.generation, &decision, &object))
}

/// `security_bprm_committed_creds(bprm)`: the exec has happened, the old program is gone. Only now does an entrypoint lead to
/// its skill. The daemon is told of who has come into a skill, and looks at what it brought along.
#[lsm(hook = "bprm_committed_creds")]
pub fn bprm_committed_creds(_ctx: LsmContext) -> i32 {
    let Some(label) = subject::own_label() else { return verdict::pass() };
    let mut enters = label.stage & stage::UNTOLD != 0;
    label.stage = stage::EXECUTING | (label.stage & stage::TO_LOADER);
    label.lineage |= label.heir;
    let target = label.pending;
    if target.0 != 0 {
        label.skill = target;
        label.origin = Origin::Entrypoint as u32;
        label.pending = SkillId(0);
        enters = true;
    }
    if enters {
        let decision =
            Decision { verdict: Verdict::Allow, reason: Reason::Entered.into(), rule: RuleId::NONE, report: true };
        let generation = InForce::now().generation;
        report::about_task(Kind::Enter, label.skill, generation, &decision, Task::current(), &Object::None);
    }
    verdict::pass()
}

/// `sched_process_exec(p, old_pid, bprm)`: the program is mapped; what is mapped from now on, the process itself maps.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    if let Some(label) = subject::own_label() {
        label.stage = if label.stage & stage::TO_LOADER != 0 { stage::LOADER } else { 0 };
    }
    0
}
