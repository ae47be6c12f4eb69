//! Field offsets from the running kernel's BTF (`/sys/kernel/btf/vmlinux`).

use std::{collections::HashMap, path::Path};

use btf_rs::{Btf, Struct, Type};
use enforcer_common::offsets::{FIELDS, Offsets};

use super::programs::{Hook, PROGRAMS, Program, When};

/// Where the kernel shows its BTF (since 5.4, with `CONFIG_DEBUG_INFO_BTF`).
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// How deep anonymous structs and unions are looked into.
const ANONYMOUS_DEPTH: u32 = 8;

/// Why the offsets could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OffsetsError {
    /// No BTF, or not readable.
    #[error(
        "cannot read the kernel's type information at {path}: {source}; a kernel with CONFIG_DEBUG_INFO_BTF=y shows it there"
    )]
    Btf {
        /// Where it was looked for.
        path: String,
        /// What the library says.
        source: btf_rs::Error,
    },
    /// The kernel has no such field.
    #[error(
        "this kernel's type information has no field `{field}` in `struct {structure}`: its layout is not known to this build"
    )]
    Missing {
        /// The structure.
        structure: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// What the programs need to know of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the fields are.
    pub offsets: Offsets,
    /// How many arguments each LSM hook and function takes that was asked for; one that the kernel does not have is not in it.
    hooks: HashMap<&'static str, usize>,
}

impl Layout {
    /// A hook that this kernel has with another number of arguments than any of its programs is written for, and that number:
    /// none of them would be loaded, and what they see would not be seen.
    #[must_use]
    pub fn unfit(&self, programs: &[Program]) -> Option<(&'static str, usize)> {
        programs.iter().find_map(|program| {
            let (Hook::Lsm(hook) | Hook::Function(hook)) = program.hook else { return None };
            let count = *self.hooks.get(hook)?;
            let varies = matches!(program.when, When::Arguments(_));
            (varies && !programs.iter().any(|other| other.hook == program.hook && self.wants(other)))
                .then_some((hook, count))
        })
    }

    /// Whether a program is used on this kernel.
    #[must_use]
    pub fn wants(&self, program: &Program) -> bool {
        let (Hook::Lsm(hook) | Hook::Function(hook)) = program.hook else { return true };
        match program.when {
            When::Always => true,
            When::HookExists => self.hooks.contains_key(hook),
            When::Arguments(count) => self.hooks.get(hook) == Some(&count),
        }
    }
}

/// Reads the offsets of all [`FIELDS`] from a BTF file, and the shapes of the hooks of all programs.
///
/// # Errors
/// When the file cannot be read, or a field is missing, which is named.
pub fn read(path: &Path) -> Result<Layout, OffsetsError> {
    let btf = open(path)?;
    let hooks = PROGRAMS.iter().filter_map(|program| match program.hook {
        Hook::Lsm(hook) => Some((hook, arguments(&btf, &format!("bpf_lsm_{hook}"))?)),
        Hook::Function(function) => Some((function, arguments(&btf, function)?)),
        Hook::Tracepoint(_) | Hook::CgroupSockAddr | Hook::Iterator(_) => None,
    });
    Ok(Layout { offsets: read_offsets(&btf)?, hooks: hooks.collect() })
}

pub(super) fn open(path: &Path) -> Result<Btf, OffsetsError> {
    Btf::from_file(path).map_err(|source| OffsetsError::Btf { path: path.display().to_string(), source })
}

/// How many arguments a function of the kernel takes.
fn arguments(btf: &Btf, function: &str) -> Option<usize> {
    let types = btf.resolve_types_by_name(function).ok()?;
    types.iter().find_map(|t| match t {
        Type::Func(function) => match btf.resolve_chained_type(function) {
            Ok(Type::FuncProto(prototype)) => Some(prototype.parameters.len()),
            _ => None,
        },
        _ => None,
    })
}

fn read_offsets(btf: &Btf) -> Result<Offsets, OffsetsError> {
    let mut list = Vec::with_capacity(FIELDS.len());
    for &(structure, field) in FIELDS {
        let offset = structures(btf, structure)
            .iter()
            .find_map(|found| offset_of(btf, found, field, ANONYMOUS_DEPTH))
            .ok_or(OffsetsError::Missing { structure, field })?;
        list.push(offset);
    }
    Offsets::from_list(&list).ok_or(OffsetsError::Missing { structure: "offsets", field: "count" })
}

/// All structures of a name; a name may also be that of a function or a variable.
fn structures(btf: &Btf, name: &str) -> Vec<Struct> {
    let types = btf.resolve_types_by_name(name).unwrap_or_default();
    types.into_iter().filter_map(|t| if let Type::Struct(s) = t { Some(s) } else { None }).collect()
}

/// The byte offset of a member, looking into anonymous members.
fn offset_of(btf: &Btf, structure: &Struct, field: &str, depth: u32) -> Option<u32> {
    for member in &structure.members {
        let name = btf.resolve_name(member).unwrap_or_default();
        if name == field {
            // A bit field has no address; none of ours is one.
            return member.bit_offset().is_multiple_of(8).then(|| member.bit_offset() / 8);
        }
        if name.is_empty() && depth > 0 {
            let Ok(Type::Struct(inner) | Type::Union(inner)) = btf.resolve_chained_type(member) else { continue };
            if let Some(offset) = offset_of(btf, &inner, field, depth - 1) {
                return Some(member.bit_offset() / 8 + offset);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(hooks: &[(&'static str, usize)]) -> Layout {
        let offsets = Offsets::from_list(&vec![0; FIELDS.len()]).expect("as many as there are fields");
        Layout { offsets, hooks: hooks.iter().copied().collect() }
    }

    #[test]
    fn a_hook_of_another_shape_is_found() {
        for (count, unfit) in [(2, false), (3, false), (1, true), (4, true)] {
            let found = layout(&[("inode_setattr", count)]).unfit(PROGRAMS);
            assert_eq!(found, unfit.then_some(("inode_setattr", count)));
        }
        // One that is not there is missed when its program is loaded.
        assert_eq!(layout(&[]).unfit(PROGRAMS), None);
    }

    #[test]
    fn a_hook_with_variants_has_each_shape_once_and_is_never_left_out() {
        for program in PROGRAMS {
            let When::Arguments(count) = program.when else { continue };
            let Hook::Lsm(hook) = program.hook else { panic!("{} is no LSM program", program.name) };
            let layout = layout(&[(hook, count)]);
            let used: Vec<_> =
                PROGRAMS.iter().filter(|p| p.hook == program.hook && layout.wants(p)).map(|p| p.name).collect();
            assert_eq!(used, [program.name]);
        }
    }

    #[test]
    fn a_missing_btf_is_named() {
        let error = read(Path::new("/nonexistent/btf")).expect_err("there is no such file");
        assert!(error.to_string().contains("/nonexistent/btf"), "{error}");
    }

    #[test]
    fn this_hosts_kernel_has_every_field() {
        let path = Path::new(BTF_PATH);
        if !path.exists() {
            // The guests' kernels show theirs; the build host need not.
            return;
        }
        let offsets = read(path).expect("every field is there").offsets;
        assert_ne!(offsets.inode_i_ino, offsets.inode_i_sb);
    }
}
