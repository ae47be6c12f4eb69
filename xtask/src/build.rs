//! Compiling: the kernel programs for BPF, then the static binaries that carry them.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use object::{elf, read::elf::ElfFile64, read::elf::ProgramHeader as _};

use crate::{paths::Paths, toolchain, ui};

/// No build of this workspace takes this long; a wedged one should not take the night.
const LIMIT: Duration = Duration::from_hours(1);

/// The static binaries.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    /// The daemon and command line, `enforcer`.
    pub(crate) enforcer: PathBuf,
    /// The guest suite, `enforcer-tests`.
    pub(crate) tests: PathBuf,
    /// A daemon of another layout, where one was built: [`next`].
    pub(crate) next: Option<PathBuf>,
    /// One for elder kernels, likewise: [`elder`].
    pub(crate) elder: Option<PathBuf>,
}

/// Compiles the kernel programs, without and with debug messages.
pub(crate) fn ebpf(paths: &Paths) -> Result<()> {
    let toolchain = toolchain::setup(paths)?;
    let mut shown = String::new();
    for (features, object) in [
        (&[][..], "enforcer.bpf.o"),
        (&["--features", "log"][..], "enforcer-log.bpf.o"),
        (&["--features", "elder"][..], "enforcer-elder.bpf.o"),
    ] {
        let mut cargo = toolchain.cargo(paths);
        cargo.arg("build").args(EBPF).args(features);
        let warnings = compile(paths, &format!("compiling {object} with {}", toolchain.name()), object, &mut cargo)?;
        // Both have the same ones, mostly.
        if warnings != shown {
            eprint!("{warnings}");
            shown = warnings;
        }
        copy_if_changed(&ebpf_binary(paths), &paths.target.join(object))?;
    }
    Ok(())
}

/// Compiles a daemon of another layout: what upgrades are tested with.
pub(crate) fn next(paths: &Paths) -> Result<PathBuf> {
    const FEATURE: [&str; 2] = ["--features", "next-layout"];
    let toolchain = toolchain::setup(paths)?;
    let dir = variant_dir(paths, "next")?;
    let mut cargo = toolchain.cargo(paths);
    cargo.arg("build").args(EBPF).args(FEATURE);
    compile(paths, "compiling the kernel programs of another layout", "enforcer-next.bpf.o", &mut cargo)?;
    for object in ["enforcer.bpf.o", "enforcer-log.bpf.o", "enforcer-elder.bpf.o"] {
        copy_if_changed(&ebpf_binary(paths), &dir.join(object))?;
    }
    variant(paths, "enforcer of another layout", FEATURE, &dir, &dir)
}

/// Compiles a daemon that does everywhere what it does on kernels before 6.1, of which there is none to test it on.
pub(crate) fn elder(paths: &Paths) -> Result<PathBuf> {
    let dir = variant_dir(paths, "elder")?;
    variant(paths, "enforcer for elder kernels", ["--features", "elder"], &dir, &paths.target)
}

fn variant_dir(paths: &Paths, name: &str) -> Result<PathBuf> {
    let dir = paths.target.join(name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Compiles a daemon with a feature and leaves it in `dir`; `objects` has the kernel programs. It shares what it depends on with the one
/// that is tested.
fn variant(paths: &Paths, what: &str, feature: [&str; 2], dir: &Path, objects: &Path) -> Result<PathBuf> {
    let triple = host_triple()?;
    let mut cargo = host_build(paths, &triple);
    cargo.args(["--package", "enforcer-daemon"]).args(feature).env("ENFORCER_BPF_DIR", objects);
    let log = what.replace(' ', "-");
    compile(paths, &format!("compiling {what}"), &log, &mut cargo)?;
    let binary = dir.join("enforcer");
    fs::copy(paths.target.join(&triple).join("release/enforcer"), &binary)
        .with_context(|| format!("cannot copy {what} to {}", binary.display()))?;
    // Nothing is compiled: cargo puts the daemon that is tested back into its place.
    host(paths, &triple)?;
    Ok(binary)
}

/// Where cargo leaves the kernel programs.
fn ebpf_binary(paths: &Paths) -> PathBuf {
    paths.target.join("bpf/bpfel-unknown-none/release/enforcer")
}

/// Compiles the daemon and the guest suite, and returns the warnings.
fn host(paths: &Paths, host: &str) -> Result<String> {
    let mut cargo = host_build(paths, host);
    cargo.args(["--package", "enforcer-daemon", "--package", "enforcer-tests"]);
    compile(paths, "compiling enforcer and enforcer-tests", "enforcer", &mut cargo)
}

/// A build of static binaries.
fn host_build(paths: &Paths, host: &str) -> Command {
    let mut cargo = host_cargo(paths, host, "build");
    cargo.arg("--release");
    cargo
}

/// Cargo with what static binaries are compiled with, which need not be compiled again for it.
pub(crate) fn host_cargo(paths: &Paths, host: &str, command: &str) -> Command {
    let mut cargo = paths.cargo();
    cargo
        .args([command, "--locked", "--target", host])
        // With an explicit target these flags spare proc macros, which cannot be static.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cargo
}

/// Cargo's arguments for the kernel programs.
pub(crate) const EBPF: [&str; 8] =
    ["--package", "enforcer-ebpf", "--release", "--target", "bpfel-unknown-none", "-Z", "build-std=core", "--locked"];

/// Compiles everything.
pub(crate) fn all(paths: &Paths) -> Result<Binaries> {
    ebpf(paths)?;
    let triple = host_triple()?;
    let warnings = host(paths, &triple)?;
    eprint!("{warnings}");
    let dir = paths.target.join(&triple).join("release");
    let binaries =
        Binaries { enforcer: dir.join("enforcer"), tests: dir.join("enforcer-tests"), next: None, elder: None };
    for file in [&binaries.enforcer, &binaries.tests] {
        if !is_static(file)? {
            bail!("{} asks for a dynamic linker: it is not static", file.display());
        }
    }
    Ok(binaries)
}

/// Runs a cargo build, quietly while nothing is wrong, and returns its warnings.
fn compile(paths: &Paths, what: &str, log: &str, cargo: &mut Command) -> Result<String> {
    cargo.arg("--quiet");
    if io::stderr().is_terminal() {
        cargo.args(["--color", "always"]);
    }
    ui::quiet(paths, what, log, LIMIT, cargo)
}

/// The triple of the machine that we run on.
pub(crate) fn host_triple() -> Result<String> {
    let text = ui::capture(Command::new("rustc").arg("-vV"))?;
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).context("rustc -vV names no host")
}

/// Leaves the destination's time alone when nothing changed: the daemon embeds it and would be built anew.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}

/// Whether an ELF file runs without a dynamic linker.
pub(crate) fn is_static(file: &Path) -> Result<bool> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    has_interpreter(&bytes).map(|dynamic| !dynamic).with_context(|| format!("{} is no 64-bit ELF file", file.display()))
}

fn has_interpreter(bytes: &[u8]) -> Result<bool> {
    let file = ElfFile64::<object::Endianness>::parse(bytes)?;
    Ok(file.elf_program_headers().iter().any(|header| header.p_type(file.endian()) == elf::PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_left_alone_when_nothing_changed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "a")?;
        copy_if_changed(&from, &to)?;
        let before = fs::metadata(&to)?.modified()?;
        copy_if_changed(&from, &to)?;
        assert_eq!(fs::metadata(&to)?.modified()?, before);
        fs::write(&from, "b")?;
        copy_if_changed(&from, &to)?;
        assert_eq!(fs::read(&to)?, b"b");
        Ok(())
    }

    #[test]
    fn this_test_binary_is_an_elf_file() -> Result<()> {
        has_interpreter(&fs::read(std::env::current_exe()?)?)?;
        assert!(has_interpreter(b"#!/bin/sh\n").is_err());
        Ok(())
    }
}
