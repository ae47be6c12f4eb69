//! Which kernels lack something that the programs rest on: they get an object of their own, which does without.

use std::{collections::HashSet, fs, path::Path, sync::OnceLock};

use btf_rs::{Btf, Type};
use enforcer_common::ids::RuleId;

use super::{
    offsets::{self, BTF_PATH, OffsetsError},
    release,
};
use crate::compile::ruleset::Ruleset;

/// The kernel's symbols, whose names everybody may read.
pub const SYMBOLS: &str = "/proc/kallsyms";
/// The way into sleepable programs by which none is passed over (`kernel/bpf/trampoline.c`).
pub const ENTRY: &str = "__bpf_prog_enter_sleepable_recur";

/// Whether the running kernel lacks something that the object for the others rests on, which is looked up once.
///
/// - `bpf_skc_to_unix_sock` (5.16), `bpf_loop` (5.17), `bpf_ima_file_hash` (5.18).
/// - Maps that grow in sleepable programs (6.1): the allocator that serves them came with the leave to use them.
/// - Programs that run whatever sleeps: see [`passes_over`].
///
/// # Errors
/// When the types of a kernel before 6.1 cannot be read.
pub fn is_elder_here() -> Result<bool, OffsetsError> {
    static HERE: OnceLock<bool> = OnceLock::new();
    if let Some(is_elder) = HERE.get() {
        return Ok(*is_elder);
    }
    // What came with 6.1 need not be looked for there, which takes a second of a slow machine's.
    let is_new = release::parse(&release::here()).is_some_and(|version| version >= (6, 1));
    let is_elder =
        cfg!(feature = "elder") || passes_over_here() || !(is_new || has_all(&offsets::open(Path::new(BTF_PATH))?));
    Ok(*HERE.get_or_init(|| is_elder))
}

/// Whether a kernel of these types has what came until 6.1, as one has to which it was brought back.
fn has_all(btf: &Btf) -> bool {
    const HELPERS: [&str; 3] = ["BPF_FUNC_skc_to_unix_sock", "BPF_FUNC_loop", "BPF_FUNC_ima_file_hash"];
    const ALLOCATOR: &str = "bpf_mem_alloc";
    let types = btf.resolve_types_by_name("bpf_func_id").unwrap_or_default();
    let helpers: HashSet<String> = types
        .iter()
        .filter_map(|t| if let Type::Enum(helpers) = t { Some(helpers) } else { None })
        .flat_map(|helpers| helpers.members.iter().filter_map(|helper| btf.resolve_name(helper).ok()))
        .collect();
    HELPERS.iter().all(|helper| helpers.contains(*helper))
        && btf.resolve_types_by_name(ALLOCATOR).is_ok_and(|types| !types.is_empty())
}

/// Whether the running kernel [passes programs over](passes_over).
#[must_use]
pub fn passes_over_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| passes_over(&release::here(), || fs::read_to_string(SYMBOLS).unwrap_or_default()))
}

/// Whether a kernel passes a program over while another task is in it on the same CPU: one that sleeps, or any where tasks are put aside
/// in the midst of one. Until 6.2 all did (`kernel/bpf/trampoline.c: __bpf_prog_enter`, `__bpf_prog_enter_sleepable` and `prog->active`);
/// stable kernels of 6.1 got [`ENTRY`], for programs that want it, and the others are passed over no more.
fn passes_over(release: &str, symbols: impl FnOnce() -> String) -> bool {
    release::parse(release).is_some_and(|version| version < (6, 2))
        && !symbols().lines().any(|line| line.split_whitespace().nth(2) == Some(ENTRY))
}

/// Whether the running kernel may put a task aside in the midst of a program. Of `PREEMPT_DYNAMIC` nothing is known.
#[must_use]
pub fn is_preemptible() -> bool {
    let uname = rustix::system::uname();
    uname.version().to_string_lossy().split_whitespace().any(|word| word.starts_with("PREEMPT"))
}

/// What holds of the unix sockets that a policy names, where the running kernel is [elder](is_elder_here).
#[must_use]
pub fn unix_warning(rules: &Ruleset) -> Option<String> {
    let names = !rules.abstract_names.is_empty() || rules.objects.values().any(|rule| rule.connect != RuleId::NONE);
    (names && is_elder_here().is_ok_and(|is_elder| is_elder)).then(|| {
        "on kernels before 6.1 unix sockets are not told apart: those that `network_scope` names are refused, except to skills that may reach \
         all and protect nothing"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_passed_over_before_6_2_where_the_entry_is_missing() {
        let with = format!("0000000000000000 T bpf_prog_load\n0000000000000000 T {ENTRY}\n");
        let without = format!("0000000000000000 T __bpf_prog_enter_sleepable\n0000000000000000 t {ENTRY}_not\n");
        for (release, symbols, expected) in [
            ("5.15.0-47-generic", &without, true),
            ("6.1.0-9-amd64", &without, true),
            ("6.1.0-57-cloud-amd64", &with, false),
            ("6.2.0", &without, false),
            ("6.12.118", &without, false),
        ] {
            assert_eq!(passes_over(release, || symbols.clone()), expected, "{release}");
        }
    }
}
