//! The states in which the operations are measured, and the files and servers that they are done on.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

use crate::harness::{ENFORCER, SELF, exit_status};

/// Where the files lie: a tmpfs in the guest.
const ROOT: &str = "/tmp/enforcer-bench";
/// How many files stand in each directory, one per call of a batch.
const STANDING: usize = 32;
/// How many skills the policy with many skills has.
const MANY_SKILLS: usize = 1000;
const SKILL: &str = "bench";
/// What the measured process says when the servers shall take what was sent.
const DRAIN: &str = "drain";

/// A state of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No program is loaded.
    Bare,
    /// Loaded, and the process is in no skill.
    Outside,
    /// In a skill with about ten rules.
    Governed,
    /// In a skill that allows very many digests.
    ManyDigests,
    /// In a skill that allows very many prefixes.
    ManyPrefixes,
    /// In one of very many skills.
    ManySkills,
    /// In a skill that allows none of it.
    Denied,
}

impl State {
    /// Those with the programs loaded.
    pub(crate) const LOADED: [Self; 6] =
        [Self::Outside, Self::Governed, Self::ManyDigests, Self::ManyPrefixes, Self::ManySkills, Self::Denied];

    /// The one with this name.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        Self::LOADED.into_iter().find(|state| state.name() == name).ok_or(format!("there is no state {name}"))
    }

    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Outside => "outside",
            Self::Governed => "governed",
            Self::ManyDigests => "many digests",
            Self::ManyPrefixes => "many prefixes",
            Self::ManySkills => "many skills",
            Self::Denied => "denied",
        }
    }

    fn is_governed(self) -> bool {
        !matches!(self, Self::Bare | Self::Outside)
    }
}

/// What the operations are done on.
#[derive(Debug)]
pub(crate) struct Ground {
    /// A program of 20 KB that ends at once.
    pub(crate) small: PathBuf,
    /// One of 20 MB.
    pub(crate) large: PathBuf,
    /// A file that is read and written.
    pub(crate) data: PathBuf,
    /// The port of the server that takes connections.
    pub(crate) tcp: u16,
    /// The port of the one that takes datagrams.
    pub(crate) udp: u16,
}

/// The servers, which are no part of the measured process: a skill need not be allowed to listen.
#[derive(Debug)]
pub(crate) struct Servers {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Servers {
    /// Takes what has arrived.
    fn drain(&self) {
        while self.tcp.accept().is_ok() {}
        let mut buffer = [0; 8];
        while self.udp.recv(&mut buffer).is_ok() {}
    }
}

impl Ground {
    /// The directory that lies so many directories below the filesystem's root.
    #[expect(clippy::unused_self, reason = "there are directories only where the ground was made")]
    pub(crate) fn dir(&self, depth: usize) -> PathBuf {
        let mut dir = PathBuf::from(ROOT).join("tree");
        // The filesystem is mounted at /tmp: two of them are above.
        for level in 2..depth {
            dir.push(format!("d{level}"));
        }
        dir
    }

    /// Makes the files that stand in a directory.
    pub(crate) fn make_standing(&self, depth: usize) -> io::Result<()> {
        let dir = self.dir(depth);
        fs::create_dir_all(&dir)?;
        (0..STANDING).try_for_each(|n| fs::write(dir.join(format!("standing-{n}")), "x"))
    }
}

/// Makes the files and the servers.
pub(crate) fn ground() -> anyhow::Result<(Ground, Servers)> {
    let servers = Servers { tcp: TcpListener::bind("127.0.0.1:0")?, udp: UdpSocket::bind("127.0.0.1:0")? };
    servers.tcp.set_nonblocking(true)?;
    servers.udp.set_nonblocking(true)?;
    let ground = ground_at(servers.tcp.local_addr()?.port(), servers.udp.local_addr()?.port());
    fs::create_dir_all(Path::new(ROOT).join("secret"))?;
    program(&ground.small, 20_000)?;
    program(&ground.large, 20_000_000)?;
    fs::write(&ground.data, [0; 4096])?;
    for depth in [3, 12] {
        ground.make_standing(depth)?;
    }
    Ok((ground, servers))
}

/// In the measured process: the same, with the servers' ports.
pub(crate) fn ground_at(tcp: u16, udp: u16) -> Ground {
    let file = |name: &str| Path::new(ROOT).join(name);
    Ground { small: file("small"), large: file("large"), data: file("data"), tcp, udp }
}

/// Writes a static program of `size` bytes that does nothing but end: an ELF header, one segment, and `exit(0)`.
fn program(path: &Path, size: usize) -> anyhow::Result<()> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // mov edi, 0; mov eax, 60; syscall
    const CODE: [u8; 12] = [0xbf, 0, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let mut image = Vec::with_capacity(size);
    image.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + HEADERS, 64, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    image.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let used = HEADERS + CODE.len() as u64;
    for word in [0, BASE, BASE, used, used, 4096] {
        image.extend(word.to_le_bytes());
    }
    image.extend(CODE);
    image.resize(size, 0);
    fs::write(path, image)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    ensure!(Command::new(path).status()?.success(), "{} does not run", path.display());
    Ok(())
}

/// The manifest of a state.
pub(crate) fn policy(state: State, many: usize, ground: &Ground) -> anyhow::Result<String> {
    let (tcp, udp) = (ground.tcp, ground.udp);
    let mut text = String::from("version: 1\naudit_level: basic\nskills:\n");
    if state == State::ManySkills {
        for n in 0..MANY_SKILLS {
            writeln!(text, "  other-{n}:\n    allow_binaries: [{SELF}]\n    allow_delete: [{ROOT}/secret]")?;
        }
    }
    writeln!(text, "  {SKILL}:")?;
    if state == State::Denied {
        writeln!(text, "    allow_binaries: [{SELF}]\n    allow_write: []\n    protect: [{ROOT}/tree]")?;
        return Ok(text);
    }
    writeln!(text, "    allow_write: [{ROOT}]\n    allow_delete: [{ROOT}]\n    protect: [{ROOT}/secret]")?;
    writeln!(text, "    allow_binaries:\n      - {SELF}\n      - {ROOT}/small\n      - {ROOT}/large")?;
    if state == State::ManyDigests {
        for n in 0..many {
            let digest: [u8; 32] = Sha256::digest(n.to_le_bytes()).into();
            text.push_str("      - \"sha256:");
            digest.iter().try_for_each(|byte| write!(text, "{byte:02x}"))?;
            text.push_str("\"\n");
        }
    }
    writeln!(
        text,
        "    network_scope:\n      - 127.0.0.1:{tcp}/tcp\n      - 127.0.0.1:{udp}/udp\n      - 10.0.0.0/8:443"
    )?;
    if state == State::ManyPrefixes {
        for n in 0..many {
            writeln!(text, "      - 172.{}.{}.{}:443", 16 + (n >> 16), (n >> 8) & 0xff, n & 0xff)?;
        }
    }
    Ok(text)
}

/// Lets a fresh process measure in this state, and passes its results on.
pub(crate) fn in_state(state: State, round: u32, ground: &Ground, servers: &Servers) -> anyhow::Result<()> {
    let mut command = if state.is_governed() {
        let mut command = Command::new(ENFORCER);
        command.args(["run", "--skill", SKILL, "--", SELF]);
        command
    } else {
        Command::new(SELF)
    };
    command.args(["bench-worker", state.name(), &round.to_string(), &ground.tcp.to_string(), &ground.udp.to_string()]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().context("the worker")?;
    let mut answers = child.stdin.take().context("the worker's input")?;
    let lines = BufReader::new(child.stdout.take().context("the worker's output")?).lines();
    for line in lines.map_while(Result::ok) {
        if line == DRAIN {
            servers.drain();
            writeln!(answers)?;
        } else {
            println!("{line}");
        }
    }
    let status = exit_status(child.wait()?);
    ensure!(status == 0, "in state {} the measured process ended with {status}", state.name());
    Ok(())
}

/// In the measured process: lets the servers take what was sent.
pub(crate) fn drain() -> io::Result<()> {
    println!("{DRAIN}");
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}
