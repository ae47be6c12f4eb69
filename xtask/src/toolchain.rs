//! The compiler and linker of the kernel programs.
//!
//! `bpfel-unknown-none` has no prebuilt `core`, so the compiler must come with the library's source: a rustup nightly
//! with `rust-src`, else Debian's `rustc-web` (the newest Rust that Debian backports, in its security suite) with
//! `rust-web-src`, which is a stable release that builds `core` when told to bootstrap. bpf-linker reads the compiler's
//! bitcode and so must be linked to the same major version of LLVM.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    packages::{self, Need},
    paths::{Paths, is_executable, which},
    ui,
};

/// The version that `cargo install` builds when there is none.
const LINKER_VERSION: &str = "0.13.0";
/// cargo-deny, likewise.
const DENY_VERSION: &str = "0.18.9";
/// cargo-deb, likewise.
const DEB_VERSION: &str = "3.8.0";
/// cargo-fuzz, likewise.
const FUZZ_VERSION: &str = "0.13.1";
/// LLVM's major versions that this bpf-linker has a feature for.
const LINKER_LLVM: [u32; 3] = [21, 22, 23];
/// The workspace's `rust-version`: the kernel programs share a crate with the daemon.
const OLDEST_RUST: (u32, u32) = (1, 95);

/// A compiler that can build `core` for BPF, and its linker.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

#[derive(Debug, Clone)]
struct Compiler {
    /// The directory of its `rustc` and `cargo`.
    bin: PathBuf,
    /// LLVM's major version.
    llvm: u32,
    /// For people: where it comes from, and its version.
    name: String,
}

impl Toolchain {
    /// This toolchain's cargo, ready to compile for BPF; the caller adds the subcommand.
    pub(crate) fn cargo(&self, paths: &Paths) -> Command {
        let mut command = Command::new(self.compiler.bin.join("cargo"));
        // What the stable cargo set for us would be taken for the user's wish.
        for name in env::vars_os().map(|(name, _)| name) {
            let text = name.to_string_lossy();
            let ours = text.starts_with("CARGO_PKG_")
                || text.starts_with("CARGO_MANIFEST_")
                || text.starts_with("CARGO_BUILD_")
                || text.starts_with("CARGO_PROFILE_")
                || text.starts_with("RUSTC")
                || ["CARGO", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"].contains(&text.as_ref());
            if ours {
                command.env_remove(&name);
            }
        }
        let mut path = vec![self.compiler.bin.clone()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        command
            .current_dir(&paths.root)
            .env("PATH", env::join_paths(path).unwrap_or_default())
            .env("RUSTC", self.compiler.bin.join("rustc"))
            // Debian's is a stable release; build-std is open to nightlies alone.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", paths.target.join("bpf"))
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                [
                    &format!("-Clinker={}", self.linker.display()),
                    "-Clink-arg=--btf",
                    // bpf-linker turns debug information into BTF, which the kernel and the loader need.
                    "-Cdebuginfo=2",
                    "-Cpanic=abort",
                ]
                .join("\x1f"),
            )
            // The workspace's release profile is the daemon's: stripping and LTO are bpf-linker's own business here.
            .env("CARGO_PROFILE_RELEASE_STRIP", "none")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
        command
    }

    /// Whether this compiler comes with clippy.
    pub(crate) fn has_clippy(&self) -> bool {
        is_executable(&self.compiler.bin.join("cargo-clippy"))
            && is_executable(&self.compiler.bin.join("clippy-driver"))
    }

    /// For people: compiler and version.
    pub(crate) fn name(&self) -> &str {
        &self.compiler.name
    }
}

/// Installs what building and booting guests needs, and finds the compiler and linker. Quick when all is there.
pub(crate) fn setup(paths: &Paths) -> Result<Toolchain> {
    packages::ensure(paths, &tools())?;
    let compiler = match find_compiler() {
        Some(compiler) => compiler,
        None => install_compiler(paths)?,
    };
    let linker = match find_linker(paths, compiler.llvm) {
        Some(linker) => linker,
        None => install_linker(paths, compiler.llvm)?,
    };
    Ok(Toolchain { compiler, linker })
}

/// Installs what only continuous integration needs.
pub(crate) fn setup_ci(paths: &Paths) -> Result<()> {
    let toolchain = setup(paths)?;
    if !toolchain.has_clippy() && toolchain.compiler.bin == Path::new("/usr/bin") {
        packages::ensure(paths, &[Need::new("rust-web-clippy", "/usr/bin/clippy-driver")])?;
    }
    if cargo_deny(paths).is_none() {
        ui::quiet(
            paths,
            "installing cargo-deny",
            "cargo-deny",
            Duration::from_mins(30),
            cargo_install(paths, &tools_root(paths))
                .args(["cargo-deny", "--version", DENY_VERSION, "--locked"])
                // Unoptimized: it compiles in half the time, and checks this tree in a second all the same.
                .args(["--profile", "dev", "--config", "profile.dev.debug=false"]),
        )?;
    }
    Ok(())
}

/// cargo-deny, wherever it is.
pub(crate) fn cargo_deny(paths: &Paths) -> Option<PathBuf> {
    let own = tools_root(paths).join("bin/cargo-deny");
    if is_executable(&own) {
        return Some(own);
    }
    which("cargo-deny")
}

/// What makes and checks a Debian package: cargo-deb, which is installed if it is not there, and lintian.
pub(crate) fn setup_package(paths: &Paths) -> Result<PathBuf> {
    packages::ensure(paths, &[Need::new("dpkg-dev", "dpkg-deb"), Need::new("lintian", "lintian")])?;
    own_tool(paths, "cargo-deb", DEB_VERSION)
}

/// cargo-fuzz, and a C++ compiler for libFuzzer.
pub(crate) fn setup_fuzz(paths: &Paths) -> Result<PathBuf> {
    packages::ensure(paths, &[Need::new("g++", "c++")])?;
    own_tool(paths, "cargo-fuzz", FUZZ_VERSION)
}

/// A subcommand of cargo's, installed if it is not there.
fn own_tool(paths: &Paths, name: &str, version: &str) -> Result<PathBuf> {
    let own = tools_root(paths).join("bin").join(name);
    if !is_executable(&own) {
        let mut install = cargo_install(paths, &tools_root(paths));
        // Unoptimized: they compile in half the time, and do little themselves.
        install.args([
            name,
            "--version",
            version,
            "--locked",
            "--profile",
            "dev",
            "--config",
            "profile.dev.debug=false",
        ]);
        ui::quiet(paths, &format!("installing {name}"), name, Duration::from_mins(30), &mut install)?;
    }
    Ok(own)
}

/// What is needed besides the compiler and linker of the kernel programs.
fn tools() -> Vec<Need> {
    vec![
        Need {
            package: "libc6-dev".into(),
            any_of: vec![
                format!("/usr/lib/{}-linux-gnu/libc.a", env::consts::ARCH),
                "/usr/lib64/libc.a".into(),
                "/usr/lib/libc.a".into(),
            ],
        },
        Need::new("qemu-system-x86", "qemu-system-x86_64"),
        Need::new("busybox-static", "busybox"),
        Need::new("kmod", "depmod"),
        Need::new("xz-utils", "xz"),
        Need::new("zstd", "zstd"),
        Need::new("e2fsprogs", "mkfs.ext4"),
        Need::new("iproute2", "ip"),
        Need::new("util-linux", "setpriv"),
    ]
}

fn find_compiler() -> Option<Compiler> {
    nightlies()
        .into_iter()
        .chain([PathBuf::from("/usr")])
        .find_map(|sysroot| compiler_at(&sysroot).filter(|found| can_link(found.llvm)))
}

/// The sysroots of rustup's nightlies, the plain `nightly` first.
fn nightlies() -> Vec<PathBuf> {
    let Ok(list) = ui::capture(Command::new("rustup").args(["toolchain", "list", "-v"])) else {
        return Vec::new();
    };
    parse_nightlies(&list)
}

fn parse_nightlies(list: &str) -> Vec<PathBuf> {
    let mut found: Vec<(&str, &str)> = list
        .lines()
        .filter(|line| line.starts_with("nightly"))
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            // The path comes last, after "(default)" and the like.
            let path = line.find(" /").or_else(|| line.find("\t/"))?;
            Some((name, line[path + 1..].trim()))
        })
        .collect();
    // A dated nightly is there for a reason of the user's: after the plain one, newest first.
    found.sort_by_key(|(name, _)| {
        let dated = name.chars().nth("nightly-".len()).is_some_and(|c| c.is_ascii_digit());
        (dated, std::cmp::Reverse(*name))
    });
    found.into_iter().map(|(_, path)| path.into()).collect()
}

/// The compiler in `sysroot`, if it is recent enough and has the library's source.
fn compiler_at(sysroot: &Path) -> Option<Compiler> {
    let bin = sysroot.join("bin");
    if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() || !is_executable(&bin.join("cargo")) {
        return None;
    }
    let text = ui::capture(Command::new(bin.join("rustc")).arg("-vV").env_remove("LD_LIBRARY_PATH")).ok()?;
    let version = parse_version(&text)?;
    (version.release >= OLDEST_RUST).then(|| Compiler {
        name: text.split(" (").next().unwrap_or_default().to_owned(),
        bin,
        llvm: version.llvm,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct RustVersion {
    release: (u32, u32),
    llvm: u32,
}

/// Reads `rustc -vV`.
fn parse_version(text: &str) -> Option<RustVersion> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let mut release = field("release: ")?.split('.');
    let major = release.next()?.parse().ok()?;
    let minor = release.next()?.parse().ok()?;
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some(RustVersion { release: (major, minor), llvm })
}

/// Whether a bpf-linker for this LLVM could be had.
fn can_link(llvm: u32) -> bool {
    LINKER_LLVM.contains(&llvm) && (llvm_config(llvm).is_some() || packages::is_available(&format!("llvm-{llvm}-dev")))
}

fn llvm_config(llvm: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-config"));
    if is_executable(&debian) {
        return Some(debian);
    }
    which(&format!("llvm-config-{llvm}"))
}

fn install_compiler(paths: &Paths) -> Result<Compiler> {
    const HOW: &str = "the kernel programs need a Rust compiler with the source of `core`: either\n  \
                       rustup toolchain install nightly --component rust-src\nor, on Debian,\n  \
                       sudo apt-get install rustc-web cargo-web rust-web-src";
    if which("apt-get").is_none() || !packages::is_root() {
        bail!("{HOW}");
    }
    let needs = [
        Need::new("rustc-web", "/usr/bin/rustc"),
        Need::new("cargo-web", "/usr/bin/cargo"),
        Need::new("rust-web-src", "/usr/lib/rustlib/src/rust/library/core/Cargo.toml"),
    ];
    packages::ensure(paths, &needs).context(HOW)?;
    let mut found = compiler_at(Path::new("/usr"));
    if found.is_none() {
        // Debian's own suite has an older one than its security suite, whose list may not have been there.
        let names: Vec<&str> = needs.iter().map(|need| need.package.as_str()).collect();
        packages::upgrade(paths, &names).context(HOW)?;
        found = compiler_at(Path::new("/usr"));
    }
    let compiler = found.with_context(|| {
        format!(
            "/usr/bin/rustc is older than {}.{} or is not the one that rust-web-src belongs to; {HOW}",
            OLDEST_RUST.0, OLDEST_RUST.1
        )
    })?;
    if !LINKER_LLVM.contains(&compiler.llvm) {
        bail!("bpf-linker {LINKER_VERSION} has no LLVM {}, which {} uses", compiler.llvm, compiler.name);
    }
    Ok(compiler)
}

/// Where tools that we build go: the user's own `~/.cargo/bin` stays as it is.
fn tools_root(paths: &Paths) -> PathBuf {
    paths.cache.join("tools")
}

fn find_linker(paths: &Paths, llvm: u32) -> Option<PathBuf> {
    let own = tools_root(paths).join(format!("llvm-{llvm}/bin/bpf-linker"));
    [Some(own), which("bpf-linker")].into_iter().flatten().find(|linker| linker_fits(linker, llvm))
}

/// Whether `linker` runs, is recent, and reads the bitcode of `llvm`.
fn linker_fits(linker: &Path, llvm: u32) -> bool {
    let recent = ui::capture(Command::new(linker).arg("--version")).is_ok_and(|text| linker_is_recent(&text));
    recent
        && ui::capture(Command::new("ldd").arg(linker)).is_ok_and(|libraries| {
            libraries.contains(&format!("libLLVM.so.{llvm}.")) || libraries.contains(&format!("libLLVM-{llvm}.so"))
        })
}

/// Whether `bpf-linker --version` is not older than the one tried here.
fn linker_is_recent(text: &str) -> bool {
    let number = |version: &str| -> Option<(u32, u32)> {
        let mut parts = version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    text.trim().strip_prefix("bpf-linker ").and_then(number).is_some_and(|found| Some(found) >= number(LINKER_VERSION))
}

fn install_linker(paths: &Paths, llvm: u32) -> Result<PathBuf> {
    packages::ensure(
        paths,
        &[
            Need::new("g++", "c++"),
            Need {
                package: format!("llvm-{llvm}-dev"),
                any_of: vec![format!("/usr/lib/llvm-{llvm}/bin/llvm-config"), format!("llvm-config-{llvm}")],
            },
            Need::new("libzstd-dev", "/usr/include/zstd.h"),
            Need::new("zlib1g-dev", "/usr/include/zlib.h"),
        ],
    )?;
    let prefix = ui::capture(Command::new(llvm_config(llvm).context("llvm-config is missing")?).arg("--prefix"))?;
    ui::quiet(
        paths,
        &format!("building bpf-linker {LINKER_VERSION} for LLVM {llvm}"),
        "bpf-linker",
        Duration::from_mins(30),
        cargo_install(paths, &tools_root(paths).join(format!("llvm-{llvm}")))
            .args(["bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
            // Unoptimized: what takes time is in LLVM's library, which is Debian's.
            .args(["--profile", "dev", "--config", "profile.dev.debug=false"])
            .env("LLVM_PREFIX", prefix.trim()),
    )?;
    find_linker(paths, llvm).with_context(|| format!("the bpf-linker just built does not run, or not with LLVM {llvm}"))
}

fn cargo_install(paths: &Paths, root: &Path) -> Command {
    let mut cargo = paths.cargo();
    cargo.arg("install").arg("--root").arg(root).env("CARGO_TARGET_DIR", paths.target.join("tools"));
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_version_is_read() {
        let text = "rustc 1.96.0 (ac68 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                    release: 1.96.0\nLLVM version: 22.1.8\n";
        let expected = RustVersion { release: (1, 96), llvm: 22 };
        assert_eq!(parse_version(text), Some(expected));
        let nightly = "release: 1.98.0-nightly\nLLVM version: 23.0.0\n";
        assert_eq!(parse_version(nightly).map(|version| version.llvm), Some(23));
        assert_eq!(parse_version("release: 1.96.0\n"), None);
    }

    #[test]
    fn nightlies_are_found_plain_first() {
        let list = "stable-x86_64-unknown-linux-gnu (default) /h/stable\n\
                    nightly-2026-01-01-x86_64-unknown-linux-gnu /h/old\n\
                    nightly-x86_64-unknown-linux-gnu /h/with space/nightly\n";
        assert_eq!(parse_nightlies(list), ["/h/with space/nightly", "/h/old"].map(PathBuf::from));
        assert!(parse_nightlies("no installed toolchains\n").is_empty());
    }

    #[test]
    fn old_linkers_are_not_taken() {
        assert!(linker_is_recent("bpf-linker 0.13.0\n"));
        assert!(linker_is_recent("bpf-linker 1.0.0\n"));
        assert!(!linker_is_recent("bpf-linker 0.9.15\n"));
        assert!(!linker_is_recent("something else"));
    }
}
