//! Filesystems to attack on.

use std::fs;

use anyhow::Context as _;

use super::succeed;

/// A mounted filesystem; it is unmounted when this is dropped.
pub(crate) struct Mount(String);

impl Mount {
    /// The mount point.
    pub(crate) fn path(&self) -> &str {
        &self.0
    }

    /// What is mounted there already.
    pub(crate) fn of(at: &str) -> Self {
        Self(at.to_owned())
    }

    /// A tmpfs.
    pub(crate) fn tmpfs(at: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        succeed(&["mount", "-t", "tmpfs", "tmpfs", at])?;
        Ok(Self(at.to_owned()))
    }

    /// A filesystem without a device.
    pub(crate) fn new(kind: &str, at: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        succeed(&["mount", "-t", kind, kind, at])?;
        Ok(Self(at.to_owned()))
    }

    /// The same, with options.
    pub(crate) fn with(kind: &str, at: &str, options: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        succeed(&["mount", "-t", kind, "-o", options, kind, at])?;
        Ok(Self(at.to_owned()))
    }

    /// An ext4 in a file of its own.
    pub(crate) fn ext4(at: &str) -> anyhow::Result<Self> {
        const BYTES: u64 = 8 << 20;
        fs::create_dir_all(at)?;
        let image = format!("{at}.img");
        fs::File::create(&image)?.set_len(BYTES).with_context(|| image.clone())?;
        succeed(&["mkfs.ext4", "-q", "-F", &image])?;
        succeed(&["mount", "-o", "loop", &image, at])?;
        Ok(Self(at.to_owned()))
    }

    /// An ext4 on a disk: a part of this machine's memory, as the block layer sees it.
    pub(crate) fn ext4_on_disk(at: &str) -> anyhow::Result<Self> {
        const DISK: &str = "/dev/ram0";
        fs::create_dir_all(at)?;
        succeed(&["modprobe", "brd", "rd_nr=1", "rd_size=65536"])?;
        succeed(&["mkfs.ext4", "-q", "-F", DISK])?;
        succeed(&["mount", DISK, at])?;
        Ok(Self(at.to_owned()))
    }

    /// An overlay of a lower directory that holds `files`, on a tmpfs.
    pub(crate) fn overlay(at: &str, files: &[&str]) -> anyhow::Result<(Self, Self)> {
        let base = Self::tmpfs(&format!("{at}.base"))?;
        let below = |name: &str| format!("{}/{name}", base.path());
        for dir in ["lower", "upper", "work"] {
            fs::create_dir_all(below(dir))?;
        }
        for file in files {
            let path = below(&format!("lower/{file}"));
            if let Some((parent, _)) = path.rsplit_once('/') {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, file)?;
        }
        Ok((Self::overlay_of(at, base.path())?, base))
    }

    /// An overlay of the directories `lower`, `upper` and `work` in `base`.
    pub(crate) fn overlay_of(at: &str, base: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        let options = format!("lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work");
        succeed(&["mount", "-t", "overlay", "overlay", "-o", &options, at])?;
        Ok(Self(at.to_owned()))
    }

    /// A bind mount.
    pub(crate) fn bind(from: &str, at: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        succeed(&["mount", "--bind", from, at])?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a worker may still stand in it.
        let _ = succeed(&["umount", "-l", &self.0]);
    }
}
