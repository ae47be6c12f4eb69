//! Where things lie: the workspace, its target directory, and the cache of what was downloaded or built once.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// The directories that all subcommands share.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// The workspace's root.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// Kernels, guest images, tools and logs; `ENFORCER_CACHE` moves it.
    pub(crate) cache: PathBuf,
}

impl Paths {
    /// Finds the workspace from the place cargo started us, and creates the cache.
    pub(crate) fn find() -> Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask's manifest has no parent directory")?.to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let cache = env::var_os("ENFORCER_CACHE").map_or_else(|| root.join(".cache"), PathBuf::from);
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
        Ok(Self {
            root,
            // Children run elsewhere: only absolute paths mean the same to them.
            target: target.canonicalize()?,
            cache: cache.canonicalize()?,
        })
    }

    /// The file that a quiet command's output goes to.
    pub(crate) fn log(&self, name: &str) -> Result<PathBuf> {
        let dir = self.cache.join("log");
        fs::create_dir_all(&dir)?;
        Ok(dir.join(format!("{name}.log")))
    }

    /// The stable cargo that runs this very command.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target).env("ENFORCER_BPF_DIR", &self.target);
        // Set by `cargo run` for this process alone: a build that saw them would not be the build that the user's own
        // `cargo build` makes, and would be done twice.
        for name in env::vars_os().map(|(name, _)| name) {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&name);
            }
        }
        cargo
    }
}

/// The file `name` in the directories of `PATH`, and in those that a user's `PATH` often leaves out.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether `file` is a regular file that someone may execute.
pub(crate) fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
