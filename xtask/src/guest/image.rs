//! The guest's system: an initramfs of this machine's own programs and the kernel's modules.
//!
//! The programs are real ones, with their libraries, in Debian's layout: tests are about what `rm` and `bash` do, not
//! about busybox's idea of them. It is packed once for each kernel and kept; what changes from run to run goes into a
//! second archive behind it. It is not compressed: QEMU copies it in no time, while an emulated CPU unpacks slowly.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use super::archive::Archive;
use crate::{
    kernels::Kernel,
    paths::{Paths, is_executable},
    ui,
};

const INIT: &str = include_str!("init.sh");
const ROOTFS_INIT: &str = include_str!("rootfs.sh");
pub(super) const SESSION: &str = include_str!("session.sh");
pub(super) const COMMAND: &str = include_str!("command.sh");

/// The first process where the root is a disk.
pub(super) const ROOTFS_INIT_PATH: &str = "/.vm/rootfs";

/// Changes when this file does: then images are packed anew.
const RECIPE: &str = include_str!("image.rs");

/// Programs without which there is no guest.
const REQUIRED: &str = "\
    bash busybox cat cp ls mkdir modprobe mount mv rm sh sleep";

/// Programs that are taken along where this machine has them.
const WANTED: &str = "\
    awk base64 basename blkid bridge capsh chcon chgrp chmod chown chroot chrt cmp comm cut date dash dd \
    debugfs depmod df diff dirname dmesg du echo env expr fallocate false find findmnt flock free fuser \
    gawk getcap getfattr getopt getpcaps grep gzip head hexdump hostname id insmod install ionice ip kill \
    kmod link ln losetup lsmod lsns lsof mawk md5sum mke2fs mkfifo mkfs.btrfs mkfs.ext4 mkfs.xfs \
    mknod mkswap mktemp modinfo mountpoint nc nice nohup nproc nsenter od pgrep pidof pivot_root \
    pkill printenv printf prlimit ps pwd python3 readlink realpath rename rmdir rmmod sed seq setcap \
    setfattr setpriv setsid sha256sum shred sort split ss stat stdbuf strace switch_root sync sysctl \
    tail tar taskset tc tee test timeout touch tr true truncate umount uname uniq unlink unshare uptime wc which \
    xargs yes";

/// Kernel modules that are taken along, with what they depend on; those that a kernel has built in are skipped.
const MODULES: &str = "\
    virtio_pci virtio_console virtio_blk virtio_net virtiofs 9p 9pnet_virtio overlay ext4 btrfs xfs \
    fuse loop brd squashfs erofs isofs vfat nls_iso8859_1 nls_ascii nls_cp437 dm_mod dm_verity dummy \
    veth tun bridge macvlan ipv6 vsock vsock_loopback unix_diag tcp_diag udp_diag sctp algif_hash \
    af_alg crc32c_generic crc32c_intel crc32c_cryptoapi libcrc32c sha256_generic xor raid6_pq \
    binfmt_misc";

const ETC: [(&str, &str); 8] = [
    (
        "passwd",
        "root:x:0:0:root:/root:/bin/bash\nagent:x:1000:1000:agent:/home/agent:/bin/bash\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\ntty:x:5:\nagent:x:1000:\nnogroup:x:65534:\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("hosts", "127.0.0.1 localhost guest\n::1 localhost ip6-localhost\n"),
    ("hostname", "guest\n"),
    ("resolv.conf", ""),
    ("protocols", "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n"),
    ("os-release", "ID=enforcer-guest\nNAME=\"Enforcer's test guest\"\nPRETTY_NAME=\"Enforcer's test guest\"\n"),
];

const DIRECTORIES: [&str; 12] =
    ["dev", "proc", "sys", "run", "tmp", "var/tmp", "var/lib", "var/log", "mnt", "root", "home/agent", "usr/local/bin"];

/// The base image for `kernel`, packed if it is not there. It is open, because another run may pack one for programs that have
/// changed meanwhile, and removes this one.
pub(crate) fn base(paths: &Paths, kernel: &Kernel) -> Result<File> {
    let programs = programs()?;
    let dir = paths.cache.join("images");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let series = kernel.series;
    // Guests of one kernel start at the same time.
    let lock = File::create(dir.join(format!("{series}.lock"))).context("cannot lock the cache of images")?;
    lock.lock().context("cannot lock the cache of images")?;
    let image = dir.join(format!("{series}-{}.cpio", key(kernel, &programs)?));
    let open = || File::open(&image).with_context(|| format!("cannot open {}", image.display()));
    if image.is_file() {
        return open();
    }
    ui::note(&format!("packing the guest image for {series}"));
    // Built aside: a half-written image would be taken for a whole one.
    let temporary = tempfile::NamedTempFile::new_in(&dir)?;
    pack(kernel, &programs, temporary.as_file())?;
    for old in fs::read_dir(&dir)? {
        let old = old?;
        if old.file_name().to_string_lossy().starts_with(&format!("{series}-")) {
            fs::remove_file(old.path()).with_context(|| format!("cannot remove {}", old.path().display()))?;
        }
    }
    temporary.persist(&image).with_context(|| format!("cannot keep {}", image.display()))?;
    open()
}

/// What the image is made of: the recipe, the kernel, and the state of the programs.
fn key(kernel: &Kernel, programs: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for part in [RECIPE, INIT, ROOTFS_INIT, SESSION, COMMAND, &kernel.version] {
        hash.update(part);
        hash.update([0]);
    }
    for program in programs {
        let meta = fs::metadata(program).with_context(|| format!("cannot look at {}", program.display()))?;
        hash.update(program.to_string_lossy().as_bytes());
        hash.update(meta.size().to_le_bytes());
        hash.update(meta.mtime().to_le_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let (start, _) = digest.split_first_chunk().context("a digest has 32 bytes")?;
    Ok(format!("{:016x}", u64::from_be_bytes(*start)))
}

fn pack(kernel: &Kernel, programs: &[PathBuf], out: &File) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(out));
    for link in ["bin", "sbin", "lib", "lib64"] {
        archive.directory(&format!("usr/{link}"))?;
        archive.symlink(link, &format!("usr/{link}"))?;
    }
    for path in DIRECTORIES {
        archive.directory(path)?;
    }
    // The kernel opens it for init before devtmpfs is there.
    archive.device("dev/console", 0o600, 5, 1)?;
    archive.device("dev/null", 0o666, 1, 3)?;
    archive.file("init", 0o755, 0, INIT.as_bytes())?;
    archive.file(ROOTFS_INIT_PATH, 0o755, 0, ROOTFS_INIT.as_bytes())?;
    archive.file(".vm/session", 0o644, 0, SESSION.as_bytes())?;
    archive.file(".vm/command", 0o644, 0, COMMAND.as_bytes())?;
    for (name, text) in ETC {
        archive.file(&format!("etc/{name}"), 0o644, 0, text.as_bytes())?;
    }
    archive.symlink("etc/mtab", "/proc/self/mounts")?;
    archive.symlink("var/run", "/run")?;

    let mut binaries: BTreeSet<PathBuf> = BTreeSet::new();
    for program in programs {
        let real = program.canonicalize()?;
        let (from, to) = (merged(program), merged(&real));
        archive.copy(&real, &to)?;
        if from != to {
            archive.symlink(&from, &to)?;
        }
        binaries.insert(real);
    }
    if let Some(library) = python_library() {
        for file in python_files(&library) {
            if file.extension().is_some_and(|extension| extension == "so") {
                binaries.insert(file.clone());
            }
            archive.copy(&file, &merged(&file))?;
        }
    }
    for library in libraries(&binaries)? {
        archive.copy(&library.canonicalize()?, &merged(&library))?;
    }
    modules(kernel, &mut archive)?;
    archive.finish().map(drop)
}

/// The programs, by their names on this machine.
fn programs() -> Result<Vec<PathBuf>> {
    // Not by PATH: what lies in /usr/local or in a home is not the distribution's.
    let find = |name: &str| {
        ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
            .iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|file| is_executable(file))
    };
    let mut found = Vec::new();
    for name in REQUIRED.split_whitespace() {
        found.push(find(name).with_context(|| format!("this machine has no {name} for the guest"))?);
    }
    found.extend(WANTED.split_whitespace().filter_map(find));
    Ok(found)
}

/// Where a file lies in a system whose `/bin`, `/sbin` and `/lib` are links into `/usr`.
pub(crate) fn merged(path: &Path) -> String {
    let text = path.to_string_lossy();
    let top = text.trim_start_matches('/').split('/').next().unwrap_or_default();
    if ["bin", "sbin", "lib", "lib64"].contains(&top) { format!("/usr{text}") } else { text.into_owned() }
}

/// The shared libraries, and the dynamic linker, that `binaries` load.
fn libraries(binaries: &BTreeSet<PathBuf>) -> Result<BTreeSet<PathBuf>> {
    // ldd fails when one of the files is static; the rest of what it says is right even so.
    let output = Command::new("ldd")
        .args(binaries)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .context("cannot run ldd")?;
    let found = parse_ldd(&String::from_utf8_lossy(&output.stdout));
    ensure!(!found.is_empty(), "ldd names no libraries at all");
    Ok(found)
}

fn parse_ldd(text: &str) -> BTreeSet<PathBuf> {
    text.lines()
        .filter(|line| line.starts_with(char::is_whitespace))
        .filter_map(|line| {
            let (library, _) = line.trim().rsplit_once(" (")?;
            let path = library.rsplit_once("=> ").map_or(library, |(_, path)| path);
            path.starts_with('/').then(|| path.into())
        })
        .collect()
}

/// The standard library of the system's Python.
fn python_library() -> Option<PathBuf> {
    let python = Path::new("/usr/bin/python3").canonicalize().ok()?;
    let library = Path::new("/usr/lib").join(python.file_name()?);
    library.is_dir().then_some(library)
}

/// The parts of the library that a test script may want.
fn python_files(library: &Path) -> Vec<PathBuf> {
    const SKIPPED: [&str; 10] = [
        "test",
        "idlelib",
        "lib2to3",
        "ensurepip",
        "dist-packages",
        "tkinter",
        "turtledemo",
        "pydoc_data",
        "distutils",
        "unittest",
    ];
    WalkDir::new(library)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            // `config-3.x-TRIPLE` is for linking against Python.
            !SKIPPED.contains(&name.as_ref()) && !name.starts_with("config-")
        })
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

/// Puts the wanted modules and what they depend on into the archive, unpacked, with an index for modprobe.
fn modules<W: std::io::Write>(kernel: &Kernel, archive: &mut Archive<W>) -> Result<()> {
    let release = &kernel.release;
    let tree = format!("lib/modules/{release}");
    let from = kernel.modules.join(&tree);
    let index =
        fs::read_to_string(from.join("modules.dep")).with_context(|| format!("no module index for {release}"))?;
    let stage = tempfile::tempdir()?;
    let to = stage.path().join(&tree);
    // A kernel may have all of them built in.
    fs::create_dir_all(&to)?;
    for module in closure(&index, MODULES) {
        let (tool, name) = if let Some(name) = module.strip_suffix(".xz") {
            ("xz", name)
        } else if let Some(name) = module.strip_suffix(".zst") {
            ("zstd", name)
        } else {
            ("cat", module.as_str())
        };
        let target = to.join(name);
        fs::create_dir_all(target.parent().context("a module has no directory")?)?;
        let mut unpack = Command::new(tool);
        if tool != "cat" {
            unpack.arg("-dc");
        }
        let status = unpack
            .arg(from.join(&module))
            .stdout(File::create(&target)?)
            .status()
            .with_context(|| format!("cannot run {tool}"))?;
        ensure!(status.success(), "cannot unpack {module}");
    }
    for name in ["modules.builtin", "modules.order", "modules.builtin.modinfo"] {
        if from.join(name).is_file() {
            fs::copy(from.join(name), to.join(name))?;
        }
    }
    let depmod = crate::paths::which("depmod").context("no depmod")?;
    ui::capture(Command::new(depmod).arg("-b").arg(stage.path()).arg(release))?;
    archive.copy(&to, &format!("usr/{tree}"))
}

/// The files of `wanted` modules and of all that they need, from the text of `modules.dep`.
fn closure(index: &str, wanted: &str) -> BTreeSet<String> {
    let mut by_name: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for line in index.lines() {
        if let Some((file, needs)) = line.split_once(':') {
            by_name.insert(module_name(file), (file, needs));
        }
    }
    let mut found = BTreeSet::new();
    for name in wanted.split_whitespace() {
        if let Some((file, needs)) = by_name.get(name) {
            found.insert((*file).to_owned());
            // modules.dep lists the needs of needs as well.
            found.extend(needs.split_whitespace().map(str::to_owned));
        }
    }
    found
}

/// A module's name from its file: the kernel takes `-` and `_` for the same.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_read() {
        let text = "/bin/ls:\n\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x3)\n/bin/busybox:\n\tnot a dynamic executable\n\
                    \tlibgone.so => not found\n";
        let found: Vec<_> = parse_ldd(text).into_iter().collect();
        assert_eq!(found, ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
    }

    #[test]
    fn links_into_usr_are_followed() {
        assert_eq!(merged(Path::new("/bin/ls")), "/usr/bin/ls");
        assert_eq!(merged(Path::new("/lib64/ld.so")), "/usr/lib64/ld.so");
        assert_eq!(merged(Path::new("/usr/bin/ls")), "/usr/bin/ls");
        assert_eq!(merged(Path::new("/library/x")), "/library/x");
    }

    #[test]
    fn modules_bring_what_they_need() {
        let index = "kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz\n\
                     kernel/lib/crc16.ko.xz:\nkernel/drivers/virtio-blk.ko:\nkernel/other.ko:\n";
        let found: Vec<_> = closure(index, "ext4 virtio_blk builtin").into_iter().collect();
        assert_eq!(
            found,
            [
                "kernel/drivers/virtio-blk.ko",
                "kernel/fs/ext4/ext4.ko.xz",
                "kernel/fs/mbcache.ko.xz",
                "kernel/lib/crc16.ko.xz"
            ]
        );
    }
}
