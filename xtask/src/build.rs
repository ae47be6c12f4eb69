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
}

/// Compiles the kernel programs, without and with debug messages.
pub(crate) fn ebpf(paths: &Paths) -> Result<()> {
    let toolchain = toolchain::setup(paths)?;
    let mut shown = String::new();
    for (features, object) in [(&[][..], "enforcer.bpf.o"), (&["--features", "log"][..], "enforcer-log.bpf.o")] {
        let mut cargo = toolchain.cargo(paths);
        cargo.arg("build").args(EBPF).args(features);
        let warnings = compile(paths, &format!("compiling {object} with {}", toolchain.name()), object, &mut cargo)?;
        // Both have the same ones, mostly.
        if warnings != shown {
            eprint!("{warnings}");
            shown = warnings;
        }
        let built = paths.target.join("bpf/bpfel-unknown-none/release/enforcer");
        copy_if_changed(&built, &paths.target.join(object))?;
    }
    Ok(())
}

/// Compiles a daemon of another layout: what upgrades are tested with. It is built apart, so that neither build undoes the other.
pub(crate) fn next(paths: &Paths) -> Result<PathBuf> {
    const FEATURE: [&str; 2] = ["--features", "next-layout"];
    let toolchain = toolchain::setup(paths)?;
    let dir = paths.target.join("next");
    fs::create_dir_all(&dir)?;
    let mut cargo = toolchain.cargo(paths);
    cargo.arg("build").args(EBPF).args(FEATURE).env("CARGO_TARGET_DIR", dir.join("bpf"));
    compile(paths, "compiling the kernel programs of another layout", "enforcer-next.bpf.o", &mut cargo)?;
    let built = dir.join("bpf/bpfel-unknown-none/release/enforcer");
    for object in ["enforcer.bpf.o", "enforcer-log.bpf.o"] {
        copy_if_changed(&built, &dir.join(object))?;
    }
    let host = host_triple()?;
    let mut cargo = paths.cargo();
    cargo
        .args(["build", "--release", "--locked", "--target", &host, "--package", "enforcer-daemon"])
        .args(FEATURE)
        .env("CARGO_TARGET_DIR", dir.join("host"))
        .env("ENFORCER_BPF_DIR", &dir)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    compile(paths, "compiling enforcer of another layout", "enforcer-next", &mut cargo)?;
    Ok(dir.join("host").join(&host).join("release/enforcer"))
}

/// Cargo's arguments for the kernel programs.
pub(crate) const EBPF: [&str; 8] =
    ["--package", "enforcer-ebpf", "--release", "--target", "bpfel-unknown-none", "-Z", "build-std=core", "--locked"];

/// Compiles everything.
pub(crate) fn all(paths: &Paths) -> Result<Binaries> {
    ebpf(paths)?;
    let host = host_triple()?;
    let mut cargo = paths.cargo();
    cargo
        .args(["build", "--release", "--locked", "--target", &host])
        .args(["--package", "enforcer-daemon", "--package", "enforcer-tests"])
        // With an explicit target these flags spare proc macros, which cannot be static.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let warnings = compile(paths, "compiling enforcer and enforcer-tests", "enforcer", &mut cargo)?;
    eprint!("{warnings}");
    let dir = paths.target.join(&host).join("release");
    let binaries = Binaries { enforcer: dir.join("enforcer"), tests: dir.join("enforcer-tests"), next: None };
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
