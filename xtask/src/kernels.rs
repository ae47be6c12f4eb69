//! Stock Debian kernels for the guests, downloaded and unpacked without installing anything.
//!
//! apt fetches them, with the host's own settings (proxy, trust, dates), but with sources, lists and state under the
//! cache: nothing of the host's apt changes, and signatures are checked as ever. The mirror is the one that the host
//! uses. What was unpacked is kept by its exact version, and used for a day without asking again, or for as long as the
//! mirror is away.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    paths::{Paths, is_executable},
    ui,
};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Depends on the image of the day.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// How long a downloaded kernel is used before the mirror is asked for a newer one.
const FRESH: Duration = Duration::from_hours(24);

/// A kernel series that guests can boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Series {
    /// Debian 12's.
    V6_1,
    /// Debian 13's.
    V6_12,
    /// The newest that Debian has, in its unstable suite.
    V7_2,
}

impl Series {
    /// The three that the tests run on.
    pub(crate) const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7_2];

    fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::V7_2 => "sid",
        }
    }

    /// The suite of security updates; unstable has none.
    fn security_suite(self) -> Option<String> {
        match self {
            Self::V6_1 | Self::V6_12 => Some(format!("{}-security", self.suite())),
            Self::V7_2 => None,
        }
    }

    /// QEMU's CPU model: all that emulation can do, except where that breaks the kernel.
    pub(crate) fn cpu(self) -> &'static str {
        match self {
            // With cmpxchg16b emulated, 6.12 now and then panics before init. On 7.2, on the other hand, inode storage
            // needs it.
            Self::V6_12 => "max,-cx16",
            Self::V6_1 | Self::V7_2 => "max",
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_2 => "7.2",
        })
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "6.1" => Ok(Self::V6_1),
            "6.12" => Ok(Self::V6_12),
            "7.2" | "latest" => Ok(Self::V7_2),
            other => Err(format!("no kernel `{other}`: 6.1, 6.12, 7.2 or latest")),
        }
    }
}

/// A kernel on disk.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) series: Series,
    /// The package's version: the exact one.
    pub(crate) version: String,
    /// What `uname -r` will say.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// The root of the module tree: `lib/modules/RELEASE` lies below.
    pub(crate) modules: PathBuf,
}

/// The newest kernel of a series, from the cache or from Debian.
pub(crate) fn get(paths: &Paths, series: Series) -> Result<Kernel> {
    let dir = paths.cache.join("kernels").join(series.to_string());
    fs::create_dir_all(&dir)?;
    // Two of us may be at it: guests for two kernels, or two terminals.
    let lock = fs::File::create(dir.join("lock"))?;
    lock.lock().context("cannot lock the kernel cache")?;
    let cached = cached(&dir, series);
    if let Some((kernel, age)) = &cached
        && *age < FRESH
    {
        return Ok(kernel.clone());
    }
    let found = Apt::new(paths, series).and_then(|apt| apt.fetch(paths, &dir));
    match (found, cached) {
        (Ok(version), _) => {
            fs::write(dir.join("current"), &version)?;
            let kernel = open(&dir, series, &version)?;
            ui::note(&format!("kernel {series} is {version} ({})", kernel.release));
            Ok(kernel)
        }
        (Err(error), Some((kernel, _))) => {
            ui::note(&format!(
                "kernel {series}: the mirror is away, using {} from the cache ({error:#})",
                kernel.version
            ));
            Ok(kernel)
        }
        (Err(error), None) => Err(error.context(format!("cannot get kernel {series}"))),
    }
}

/// A kernel of the user's own, below `dir` as a package unpacks to: `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`. The guest is
/// as for `series`.
pub(crate) fn own(dir: &Path, series: Series) -> Result<Kernel> {
    let dir = dir.canonicalize().with_context(|| format!("no {}", dir.display()))?;
    let version = dir.display().to_string();
    // An absolute path, which joining leaves as it is.
    open(Path::new("/"), series, &version)
}

/// The kernel that the last download left, and how long ago that was.
fn cached(dir: &Path, series: Series) -> Option<(Kernel, Duration)> {
    let current = dir.join("current");
    let version = fs::read_to_string(&current).ok()?;
    let age = fs::metadata(&current)
        .and_then(|meta| meta.modified())
        .ok()
        // A time in the future is no reason to download.
        .map(|time| SystemTime::now().duration_since(time).unwrap_or_default())?;
    Some((open(dir, series, version.trim()).ok()?, age))
}

fn open(dir: &Path, series: Series, version: &str) -> Result<Kernel> {
    let modules = dir.join(version);
    let tree = modules.join("lib/modules");
    let release = fs::read_dir(&tree)
        .with_context(|| format!("no {}", tree.display()))?
        .next()
        .with_context(|| format!("no modules in {}", tree.display()))??
        .file_name()
        .to_string_lossy()
        .into_owned();
    // Up to 6.12 the image is in /boot, later it lies with the modules.
    let image = [modules.join(format!("boot/vmlinuz-{release}")), tree.join(&release).join("vmlinuz")]
        .into_iter()
        .find(|image| image.is_file())
        .with_context(|| format!("no kernel image for {release} in {}", modules.display()))?;
    Ok(Kernel { series, version: version.to_owned(), release, image, modules })
}

/// An apt of our own for one suite.
struct Apt {
    series: Series,
    state: PathBuf,
}

impl Apt {
    fn new(paths: &Paths, series: Series) -> Result<Self> {
        let state = paths.cache.join("apt").join(series.suite());
        for dir in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(dir))?;
        }
        fs::write(state.join("status"), "")?;
        let sources = debian_sources(series.suite(), series.security_suite().as_deref())?;
        fs::write(state.join("sources.sources"), sources)?;
        Ok(Self { series, state })
    }

    fn command(&self, program: &str) -> Command {
        let at = |name: &str| self.state.join(name).display().to_string();
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").current_dir(&self.state);
        // On the command line, not by APT_CONFIG: so the host's own settings are read first and these win.
        for (key, value) in [
            ("Dir::Etc::sourcelist", at("sources.sources")),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::Etc::preferences", "/dev/null".into()),
            ("Dir::Etc::preferencesparts", "/dev/null".into()),
            ("Dir::State", at("")),
            ("Dir::State::lists", at("lists")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("")),
            ("Dir::Cache::archives", at("archives")),
            ("APT::Architecture", "amd64".into()),
            ("APT::Architectures", "amd64".into()),
            // apt's own user may not enter this directory; what it fetches is checked all the same.
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Retries", "3".into()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
            ("Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled", "false".into()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }

    /// Unpacks the newest kernel into `dir` and returns its version.
    fn fetch(&self, paths: &Paths, dir: &Path) -> Result<String> {
        let series = self.series;
        // A suite without an index is an error only with this.
        ui::quiet(
            paths,
            &format!("looking for the newest kernel {series}"),
            &format!("apt-{series}"),
            Duration::from_mins(5),
            self.command("apt-get").args(["update", "--error-on=any"]),
        )?;
        let show = |package: &str| ui::capture(self.command("apt-cache").args(["show", "--no-all-versions", package]));
        let meta = show(META_PACKAGE)?;
        let version = field(&meta, "Version").context("apt knows no version of the kernel")?.to_owned();
        if open(dir, series, &version).is_ok() {
            return Ok(version);
        }
        let image = dependencies(&meta)
            .into_iter()
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{META_PACKAGE} depends on no image"))?;
        // Up to 6.12 all is in the image; later it is an empty package that depends on the parts.
        let mut packages = dependencies(&show(&image)?);
        packages.push(image);
        let unpacked = tempfile::tempdir_in(dir)?;
        ui::quiet(
            paths,
            &format!("downloading kernel {series} ({version})"),
            &format!("apt-{series}"),
            Duration::from_mins(20),
            self.command("apt-get").arg("download").args(&packages).current_dir(unpacked.path()),
        )?;
        let root = unpacked.path().join("root");
        for entry in fs::read_dir(unpacked.path())? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                ui::capture(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root))?;
            }
        }
        merge_usr(&root)?;
        let depmod = ["/usr/sbin/depmod", "/sbin/depmod"]
            .map(Path::new)
            .into_iter()
            .find(|file| is_executable(file))
            .context("no depmod")?;
        let release = open(unpacked.path(), series, "root")?.release;
        ui::capture(Command::new(depmod).arg("-b").arg(&root).arg(&release))?;
        fs::rename(&root, dir.join(&version)).with_context(|| format!("cannot keep kernel {version}"))?;
        Ok(version)
    }
}

/// Newer packages have their modules in `usr/lib`; depmod of Debian 12 looks in `lib`.
fn merge_usr(root: &Path) -> Result<()> {
    let (merged, plain) = (root.join("usr/lib/modules"), root.join("lib/modules"));
    if merged.is_dir() && !plain.exists() {
        fs::create_dir_all(root.join("lib"))?;
        fs::rename(merged, plain)?;
    }
    Ok(())
}

/// The sources file for a suite of Debian and that of its security updates, with the addresses of the host's own sources.
pub(crate) fn debian_sources(suite: &str, security: Option<&str>) -> Result<String> {
    let targets =
        ui::capture(Command::new("apt-get").args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"]))
            .context("kernels and roots come by apt, from the mirror that this machine uses")?;
    sources(suite, security, &targets)
}

fn sources(suite: &str, security: Option<&str>, targets: &str) -> Result<String> {
    let uri = |label: &str| {
        targets.lines().find_map(|line| {
            let mut parts = line.splitn(3, '|');
            let (origin, found, uri) = (parts.next()?, parts.next()?, parts.next()?);
            (origin == "Debian" && found == label).then_some(uri)
        })
    };
    let Some(main) = uri("Debian") else {
        bail!("no Debian archive among this machine's apt sources: kernels and roots come from there");
    };
    let stanza = |uri: &str, suite: &str| {
        format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n\n")
    };
    let mut text = stanza(main, suite);
    if let (Some(uri), Some(suite)) = (uri("Debian-Security"), security) {
        text += &stanza(uri, suite);
    }
    Ok(text)
}

/// The value of a field of a package's record.
fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The packages with a part of the kernel that a record depends on.
fn dependencies(record: &str) -> Vec<String> {
    field(record, "Depends")
        .unwrap_or_default()
        .split([',', '|'])
        .filter_map(|clause| clause.split_whitespace().next())
        .filter(|name| {
            ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_names() {
        for series in Series::ALL {
            assert_eq!(series.to_string().parse(), Ok(series));
        }
        assert_eq!("latest".parse(), Ok(Series::V7_2));
        assert!("5.4".parse::<Series>().is_err());
    }

    #[test]
    fn sources_come_from_the_host() -> Result<()> {
        let targets = "Other|Other|http://o.example/\nDebian|Debian|http://m.example/debian/\n\
                       Debian|Debian-Security|http://m.example/security/\n";
        let text = sources("bookworm", Series::V6_1.security_suite().as_deref(), targets)?;
        assert!(text.contains("URIs: http://m.example/debian/\nSuites: bookworm\n"));
        assert!(text.contains("URIs: http://m.example/security/\nSuites: bookworm-security\n"));
        assert!(!text.contains("o.example"));
        let sid = sources("sid", Series::V7_2.security_suite().as_deref(), targets)?;
        assert!(!sid.contains("security"));
        assert!(sources("bookworm", None, "Other|Other|http://o.example/\n").is_err());
        Ok(())
    }

    #[test]
    fn a_kernel_of_ones_own_is_found_by_its_modules() -> Result<()> {
        let dir = tempfile::tempdir()?;
        assert!(own(dir.path(), Series::V6_1).is_err());
        fs::create_dir_all(dir.path().join("lib/modules/5.15.0-x"))?;
        assert!(own(dir.path(), Series::V6_1).is_err(), "it has no image");
        fs::create_dir(dir.path().join("boot"))?;
        fs::write(dir.path().join("boot/vmlinuz-5.15.0-x"), "")?;
        let kernel = own(dir.path(), Series::V6_1)?;
        assert_eq!(kernel.release, "5.15.0-x");
        assert_eq!(kernel.image, dir.path().canonicalize()?.join("boot/vmlinuz-5.15.0-x"));
        Ok(())
    }

    #[test]
    fn dependencies_are_the_kernel_alone() {
        let record = "Package: linux-image-7\nVersion: 7.2.13-1\nDepends: dracut | initramfs-tools (>= 1), linux-base (>= 4), \
                      linux-base-7 (= 1), linux-binary-7 (= 1), linux-modules-7 (= 1)\n";
        let expected = ["linux-base-7", "linux-binary-7", "linux-modules-7"];
        assert_eq!(dependencies(record), expected);
        assert_eq!(field(record, "Version"), Some("7.2.13-1"));
        assert!(dependencies("Package: x\n").is_empty());
    }
}
