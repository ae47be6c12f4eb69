//! Guests: a stock kernel in QEMU, with this machine's own programs or a root of Debian's, that runs one command and is
//! gone.

mod archive;
mod image;
mod qemu;
mod rootfs;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use self::archive::Archive;
pub(crate) use self::rootfs::Root;
use crate::{build::Binaries, kernels::Kernel, paths::Paths, ui};

/// What `xtask` exits with when there is no command's status to pass on, because the guest died or hung.
pub(crate) const LOST: u8 = 125;
/// A boot that fails this often does not fail by chance.
const ATTEMPTS: u32 = 3;
/// Where the guest has the suite: where the package has it, too.
const TESTS: &str = "/usr/lib/enforcer/enforcer-tests";

/// A file or directory of the host that the guest gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) from: PathBuf,
    /// An absolute path in the guest.
    pub(crate) to: String,
}

impl std::str::FromStr for Copied {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((from, to)) if !from.is_empty() && to.starts_with('/') => {
                Ok(Self { from: from.into(), to: to.to_owned() })
            }
            _ => Err(format!("`{text}` is not SRC:DST with an absolute DST")),
        }
    }
}

/// How a guest is run.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// MiB; without it, what the guest's root needs.
    pub(crate) memory: Option<u32>,
    /// Count instructions instead of time: one virtual nanosecond each, on one CPU.
    pub(crate) icount: bool,
    /// Run the two CPUs in turns, instead of each in a thread of its own. QEMU's threads do not always notice that another CPU
    /// changed the code that they are running, and the guest then executes freed memory; the kernel changes code whenever a
    /// program is attached or detached.
    pub(crate) in_turns: bool,
    /// From the moment that the command starts.
    pub(crate) timeout: Duration,
    /// More parameters for the kernel, behind our own.
    pub(crate) append: Option<String>,
}

/// What runs in a guest.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) kernel: Kernel,
    pub(crate) machine: Machine,
    /// A root on a disk, instead of the initramfs alone.
    pub(crate) root: Option<Root>,
    pub(crate) copies: Vec<Copied>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) words: Vec<OsString>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The command's exit status, as a shell gives it.
    Exited(u8),
    /// The guest did not get to the command's end; the text says how, with the console's last lines.
    Lost(String),
    /// Ctrl-C.
    Interrupted,
}

/// Boots a guest and runs the job's command in it; its output goes to `out` and `err` as it comes.
pub(crate) fn run(
    paths: &Paths,
    binaries: &Binaries,
    job: &Job,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<Ending> {
    let base = image::base(paths, &job.kernel)?;
    let disk = job.root.map(|root| rootfs::disk(paths, root)).transpose()?;
    let dir = tempfile::Builder::new().prefix("enforcer-vm-").tempdir()?;
    let initrd = initrd(&dir, base, binaries, job)?;
    let mut attempt = 1;
    loop {
        let (ending, started) = qemu::run(&dir, &initrd, disk.as_deref(), job, out, err)?;
        match ending {
            // Emulated kernels panic before init once in a while. Later than that, it is a result.
            Ending::Lost(why) if !started && attempt < ATTEMPTS => {
                ui::note(&format!(
                    "kernel {} did not boot, trying again: {}",
                    job.kernel.series,
                    why.lines().next().unwrap_or_default()
                ));
                attempt += 1;
            }
            ending => return Ok(ending),
        }
    }
}

/// The base image with this run's files behind it.
fn initrd(dir: &TempDir, mut base: File, binaries: &Binaries, job: &Job) -> Result<PathBuf> {
    let path = dir.path().join("initrd");
    let mut file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    io::copy(&mut base, &mut file).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive::new(io::BufWriter::new(file));
    let top = if job.root.is_some() { rootfs::PAYLOAD } else { "" };
    // First come, first kept: a copy may replace our own binaries.
    for copied in &job.copies {
        ensure!(copied.from.exists(), "{} does not exist", copied.from.display());
        archive.copy(&copied.from, &format!("{top}{}", image::merged(Path::new(&copied.to))))?;
    }
    archive.copy(&binaries.enforcer, &format!("{top}/usr/bin/enforcer"))?;
    archive.copy(&binaries.tests, &format!("{top}{TESTS}"))?;
    archive.symlink(&format!("{top}/usr/bin/enforcer-tests"), TESTS)?;
    if let Some(next) = &binaries.next {
        archive.copy(next, &format!("{top}/usr/bin/enforcer-next"))?;
    }
    archive.file(
        &format!("{top}/.vm/words"),
        0o644,
        0,
        &nul_separated(job.words.iter().map(|word| word.as_bytes())),
    )?;
    let variables: Vec<String> = job.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    archive.file(
        &format!("{top}/.vm/environment"),
        0o644,
        0,
        &nul_separated(variables.iter().map(String::as_bytes)),
    )?;
    if let Some(root) = job.root {
        root.add_session(&mut archive)?;
    }
    archive.finish()?;
    Ok(path)
}

/// No word can hold a NUL: what comes out is exactly what went in.
fn nul_separated<'a>(words: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    words.flat_map(|word| word.iter().copied().chain([0])).collect()
}

/// The text of the guest's console, without what only a terminal would want.
fn console(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        // What can be read is better than nothing.
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_apart() {
        let words: [&[u8]; 3] = [b"a b", b"", b"c\n\""];
        assert_eq!(nul_separated(words.into_iter()), b"a b\0\0c\n\"\0");
        assert!(nul_separated(std::iter::empty()).is_empty());
    }

    #[test]
    fn copies_are_parsed() {
        let copied = Copied { from: "a/b".into(), to: "/c:d".into() };
        assert_eq!("a/b:/c:d".parse(), Ok(copied));
        for wrong in ["a", "a:b", ":/b", ""] {
            assert!(wrong.parse::<Copied>().is_err(), "{wrong}");
        }
    }
}
