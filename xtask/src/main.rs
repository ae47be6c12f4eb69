//! `cargo xtask`: from a bare machine to a loaded policy, and to tests on three kernels.

mod bench;
mod build;
mod ci;
mod fuzz;
mod guest;
mod kernels;
mod load;
mod matrix;
mod package;
mod packages;
mod paths;
mod suite;
mod tally;
mod toolchain;
mod ui;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::paths::Paths;

/// Builds Enforcer, runs it in guests on stock kernels, and tests it there.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building needs: packages, the compiler for the kernel programs and its linker. The others do it too.
    Setup {
        /// Also what continuous integration needs.
        #[arg(long)]
        ci: bool,
    },
    /// Compile the kernel programs to `target/enforcer.bpf.o`, and with debug messages to `target/enforcer-log.bpf.o`.
    BuildEbpf,
    /// Compile the kernel programs, the daemon and the guest suite; the binaries are static.
    Build,
    Vm(vm::VmArgs),
    BuildAndLoad(load::LoadArgs),
    Test(suite::TestArgs),
    Bench(bench::BenchArgs),
    Fuzz(fuzz::FuzzArgs),
    /// Make a Debian package of what is built, with manual pages and completions, and check it with lintian.
    Package,
    /// Format, clippy, licences and all tests: what `.ci/run` does.
    Ci,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let paths = Paths::find()?;
    match task {
        Task::Setup { ci } => {
            toolchain::setup(&paths)?;
            if ci {
                toolchain::setup_ci(&paths)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::BuildEbpf => {
            build::ebpf(&paths)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Build => {
            build::all(&paths)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Vm(args) => vm::run(&paths, args),
        Task::BuildAndLoad(args) => load::run(&paths, &args),
        Task::Bench(args) => bench::run(&paths, &args),
        Task::Fuzz(args) => fuzz::run(&paths, &args),
        Task::Package => {
            let package = package::make(&paths, &build::all(&paths)?)?;
            println!("{}", package.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Test(args) => suite::run(&paths, &args),
        Task::Ci => ci::run(&paths),
    }
}
