//! `cargo xtask vm`: any command in a guest.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Args;

use crate::{
    build,
    guest::{self, Copied, Ending, Job, Machine, Root},
    kernels::{self, Series},
    paths::Paths,
};

/// What a guest is like.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineArgs {
    /// Count instructions instead of time: one virtual nanosecond each, on one CPU. For measuring.
    #[arg(long)]
    icount: bool,
    /// Run the guest's two CPUs in turns: where programs are attached and detached while others run into them.
    #[arg(long, conflicts_with = "icount")]
    in_turns: bool,
    /// Seconds that the command may take.
    #[arg(long, default_value_t = 3600)]
    timeout: u64,
    /// Memory, in MiB; without it 1024, and 2048 for a root on a disk.
    #[arg(long)]
    memory: Option<u32>,
    /// More parameters for the kernel; of one that is given twice the last holds, as with lsm=.
    #[arg(long, value_name = "PARAMETERS")]
    append: Option<String>,
}

impl From<&MachineArgs> for Machine {
    fn from(args: &MachineArgs) -> Self {
        Self {
            memory: args.memory,
            icount: args.icount,
            in_turns: args.in_turns,
            timeout: Duration::from_secs(args.timeout),
            append: args.append.clone(),
        }
    }
}

/// Run a command in a guest; its exit status is the command's, or 125 when the guest died or hung.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    /// 6.1, 6.12, 7.2 or latest.
    #[arg(long, default_value = "6.12")]
    kernel: Series,
    /// A kernel of your own instead: a directory with `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`. QEMU's CPU is that for --kernel.
    #[arg(long, value_name = "DIR")]
    kernel_dir: Option<PathBuf>,
    /// A root of Debian's on a disk, instead of this machine's own programs. The first time, it is made, as root.
    #[arg(long, value_name = "NAME")]
    rootfs: Option<Root>,
    /// A file or directory for the guest.
    #[arg(long, value_name = "SRC:DST")]
    copy: Vec<Copied>,
    #[command(flatten)]
    machine: MachineArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    words: Vec<OsString>,
}

pub(crate) fn run(paths: &Paths, args: VmArgs) -> Result<ExitCode> {
    let binaries = build::all(paths)?;
    let job = Job {
        kernel: match &args.kernel_dir {
            Some(dir) => kernels::own(dir, args.kernel)?,
            None => kernels::get(paths, args.kernel)?,
        },
        machine: Machine::from(&args.machine),
        root: args.rootfs,
        copies: args.copy,
        environment: environment(),
        words: args.words,
    };
    let ending = guest::run(paths, &binaries, &job, &mut io::stdout(), &mut io::stderr())?;
    Ok(exit_code(&job, &ending))
}

/// The command's environment; it knows whether someone is looking.
pub(crate) fn environment() -> Vec<(String, String)> {
    let mut variables = vec![
        ("HOME".to_owned(), "/root".to_owned()),
        ("USER".to_owned(), "root".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ];
    if io::stdout().is_terminal() {
        let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
        variables.push(("TERM".to_owned(), term));
        variables.push(("CLICOLOR_FORCE".to_owned(), "1".to_owned()));
    }
    variables
}

/// The status to exit with; says so when it is not the command's.
pub(crate) fn exit_code(job: &Job, ending: &Ending) -> ExitCode {
    match ending {
        Ending::Exited(status) => ExitCode::from(*status),
        Ending::Lost(why) => {
            eprintln!("error: guest {}: {why}", job.kernel.version);
            ExitCode::from(guest::LOST)
        }
        Ending::Interrupted => ExitCode::from(130),
    }
}
