//! `cargo xtask ci`: what a change has to pass.

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use wait_timeout::ChildExt as _;

use crate::{
    build,
    kernels::Series,
    paths::Paths,
    suite::{self, TestArgs},
    toolchain, ui,
};

const LIMIT: Duration = Duration::from_mins(20);

pub(crate) fn run(paths: &Paths) -> Result<ExitCode> {
    check("format", paths.cargo().args(["fmt", "--all", "--check"]), LIMIT)?;
    toolchain::setup_ci(paths)?;
    let compiler = toolchain::setup(paths)?;
    // The daemon embeds them; without them it cannot even be checked.
    build::ebpf(paths)?;
    check(
        "clippy",
        paths.cargo().args(["clippy", "--quiet", "--locked", "--workspace", "--exclude", "enforcer-ebpf"]).args([
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
        LIMIT,
    )?;
    if compiler.has_clippy() {
        // Those for kernels before 6.1 are what all features make.
        for (what, features) in [("", &["--features", "log"][..]), (" before 6.1", &["--all-features"])] {
            let mut kernel_side = compiler.cargo(paths);
            kernel_side.arg("clippy").args(build::EBPF).args(features).args(["--quiet", "--", "-D", "warnings"]);
            check(&format!("clippy, kernel programs{what}"), &mut kernel_side, LIMIT)?;
        }
    } else {
        ui::note(&format!("{} has no clippy: the kernel programs are only compiled", compiler.name()));
    }
    deny(paths)?;
    let mut tests = TestArgs::default();
    // Under emulation, a container engine and its like take as long as all the rest of a kernel's tests: `cargo xtask test` has the time.
    tests.rootfs_on = Some(Series::V6_12);
    tests.bench = true;
    suite::run(paths, &tests)
}

/// Licences, sources and bans always; advisories if their database can be had.
fn deny(paths: &Paths) -> Result<()> {
    let program = toolchain::cargo_deny(paths).context("cargo-deny is not installed")?;
    let deny = || {
        let mut command = Command::new(&program);
        command.current_dir(&paths.root).args(["--workspace", "--all-features", "check"]);
        command
    };
    check("licences, bans, sources", deny().args(["bans", "licenses", "sources"]), LIMIT)?;
    // A database that cannot be reached is no fault of the change; an advisory is.
    let fetched = wait(Command::new(&program).current_dir(&paths.root).arg("fetch").arg("db"), Duration::from_mins(2));
    if !fetched.unwrap_or(false) {
        ui::note("advisories: not checked, their database cannot be reached");
        return Ok(());
    }
    check("advisories", deny().args(["--disable-fetch", "advisories"]), LIMIT)
}

/// Runs one check with its output shown.
fn check(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    ui::note(what);
    if !wait(command, limit)? {
        bail!("{what}: {} failed", ui::describe(command));
    }
    Ok(())
}

/// Whether the command succeeded within the limit.
fn wait(command: &mut Command, limit: Duration) -> Result<bool> {
    let mut child = command.spawn().with_context(|| format!("cannot run {}", ui::describe(command)))?;
    if let Some(status) = child.wait_timeout(limit)? {
        return Ok(status.success());
    }
    child.kill()?;
    child.wait()?;
    bail!("{} was not done after {} s", ui::describe(command), limit.as_secs());
}
