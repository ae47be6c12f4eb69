//! `cargo xtask package`: a Debian package by cargo-deb, checked by lintian.
//!
//! What is in it stands in `enforcer-daemon/Cargo.toml`, `[package.metadata.deb]`, and below `packaging/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Binaries},
    paths::Paths,
    toolchain, ui,
};

const LIMIT: Duration = Duration::from_mins(10);

/// Makes the package and returns where it lies.
pub(crate) fn make(paths: &Paths, binaries: &Binaries) -> Result<PathBuf> {
    let program = toolchain::setup_package(paths)?;
    let dir = paths.target.join("package");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let mut pages = Command::new(&binaries.enforcer);
    ui::quiet(paths, "writing manual pages and completions", "package-pages", LIMIT, pages.arg("generate").arg(&dir))?;
    let mut command = Command::new(program);
    command
        .current_dir(&paths.root)
        .args(["--package", "enforcer-daemon", "--no-build", "--target", &build::host_triple()?])
        .arg("--output")
        .arg(&dir);
    ui::quiet(paths, "making the package", "package", LIMIT, &mut command)?;
    let package = found(&dir)?;
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error", "--tag-display-limit", "0"]).arg(&package);
    // As root it warns of being so.
    let remarks = ui::quiet(paths, "checking the package", "lintian", LIMIT, lintian.arg("--allow-root"))?;
    eprint!("{remarks}");
    Ok(package)
}

/// The one package in a directory.
fn found(dir: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    bail!("cargo-deb left no package in {}", dir.display());
}
