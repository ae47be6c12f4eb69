//! `cargo xtask test`: unit and property tests here, the guest suite on every kernel.

use std::{
    ffi::OsString,
    io::{self, BufRead as _, BufReader, Write},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use crate::{
    build::{self, Binaries},
    guest::{self, Ending, Job, Machine, Root},
    kernels::{self, Series},
    matrix::Matrix,
    paths::Paths,
    tally::{Suite, Tally},
    ui,
    vm::MachineArgs,
};

/// Compiling the tests included.
const UNIT_LIMIT: Duration = Duration::from_mins(30);

/// The tests that need a second build of the daemon.
const UPGRADES: &str = "upgrade::";
/// How often the storms of the suite do what they do, if it is set.
const ROUNDS: &str = "ENFORCER_STORM_ROUNDS";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Unit and property tests, on this machine.
    Unit,
    /// The suite, in guests that run this machine's own programs.
    Guest,
    /// The suite's part for guests with a root of Debian's: agents' runtimes, servers, systemd.
    Rootfs,
    /// The tests of both that are attacks.
    Attacks,
}

/// Run all tests: on this machine, then in a guest for each kernel.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Only this kernel, or these: 6.1, 6.12, 7.2 or latest.
    #[arg(long)]
    kernel: Vec<Series>,
    /// Only one part.
    #[arg(long)]
    only: Option<Part>,
    /// Of the guests with a root of Debian's, only those with this one.
    #[arg(long, value_name = "NAME")]
    rootfs: Option<Root>,
    /// Guests that run at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Instead of running the tests, leave one program after another unattached, each time until an attack gets through.
    #[arg(long)]
    mutants: bool,
    /// Write which attacks held on which kernel to this file; a run that did not try them all is an error.
    #[arg(long, value_name = "FILE")]
    matrix: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
    /// For the guest suite: names of tests, or parts of them.
    #[arg(last = true, value_name = "FILTER")]
    filters: Vec<OsString>,
}

impl Default for TestArgs {
    fn default() -> Self {
        /// A parser of nothing but these arguments, to have their defaults written down once.
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            args: TestArgs,
        }
        <Alone as clap::Parser>::parse_from(["test"]).args
    }
}

pub(crate) fn run(paths: &Paths, args: &TestArgs) -> Result<ExitCode> {
    let mut total = Tally::default();
    let binaries = if args.only == Some(Part::Unit) {
        // The daemon's build needs them, tests or not.
        build::ebpf(paths)?;
        None
    } else {
        let mut binaries = build::all(paths)?;
        if list(args, &binaries, None)?.lines().any(|test| test.starts_with(UPGRADES)) {
            binaries.next = Some(build::next(paths)?);
        }
        Some(binaries)
    };
    if args.only.is_none_or(|part| part == Part::Unit) {
        total += unit(paths)?;
    }
    if let Some(binaries) = binaries {
        total += guests(paths, args, &binaries)?;
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Cargo's tests.
fn unit(paths: &Paths) -> Result<Tally> {
    ui::note("unit and property tests");
    let mut cargo = paths.cargo();
    cargo.args(["test", "--locked", "--workspace", "--exclude", "enforcer-ebpf", "--no-fail-fast"]);
    let mut child = ui::bounded(&cargo, UNIT_LIMIT)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().context("cargo test has no stdout")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.cargo_line(&line);
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // It did not compile, or a test binary died or hung before its summary.
        println!("cargo test ended with {status}");
        tally += Tally::BROKEN;
    }
    Ok(tally)
}

/// One boot: a kernel, and the root if it is on a disk.
type Boot = (Series, Option<Root>);

/// The boots that were asked for and that have tests to run.
fn boots(args: &TestArgs, binaries: &Binaries) -> Result<Vec<Boot>> {
    let mut kernels = if args.kernel.is_empty() { Series::ALL.to_vec() } else { args.kernel.clone() };
    kernels.sort_unstable();
    kernels.dedup();
    let mut roots = Vec::new();
    if args.only != Some(Part::Rootfs) {
        roots.push(None);
    }
    if args.only != Some(Part::Guest) {
        roots.extend(Root::ALL.into_iter().filter(|root| args.rootfs.is_none_or(|only| only == *root)).map(Some));
    }
    let mut wanted = Vec::new();
    for root in roots {
        if args.mutants {
            // They stand on pins of a daemon that nobody else manages.
            wanted.extend(root.is_none().then_some(root));
            continue;
        }
        if !list(args, binaries, root)?.trim().is_empty() {
            wanted.push(root);
        }
    }
    ensure!(!wanted.is_empty(), "no test of the guest suite has such a name");
    Ok(kernels.into_iter().flat_map(|series| wanted.iter().map(move |root| (series, *root))).collect())
}

/// The names of the tests that would run. The suite is static: it knows here as well as there.
fn list(args: &TestArgs, binaries: &Binaries, root: Option<Root>) -> Result<String> {
    let mut list = Command::new(&binaries.tests);
    list.args(suite_words(args, root)).arg("--list");
    ui::capture(&mut list)
}

/// What the suite is called with.
fn suite_words(args: &TestArgs, root: Option<Root>) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![if args.mutants { "mutate" } else { "run" }.into()];
    if let Some(root) = root {
        words.extend(["--place".into(), root.to_string().into()]);
    }
    if args.only == Some(Part::Attacks) {
        words.push("--attacks".into());
    }
    words.extend(args.filters.iter().flat_map(|filter| ["--filter".into(), filter.clone()]));
    words
}

/// The guest suite, on the kernels that were asked for.
fn guests(paths: &Paths, args: &TestArgs, binaries: &Binaries) -> Result<Tally> {
    let queue = Mutex::new(boots(args, binaries)?.into_iter());
    let total = Mutex::new(Tally::default());
    let matrix = Mutex::new(Matrix::default());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let next = lock(&queue).next();
                        let Some(boot) = next else { return Ok(()) };
                        let Some(tally) = guest(paths, args, binaries, &matrix, boot) else {
                            lock(&queue).by_ref().for_each(drop);
                            anyhow::bail!("interrupted");
                        };
                        *lock(&total) += tally;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a guest's thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    if let Some(file) = &args.matrix {
        lock(&matrix).write(&binaries.tests, file)?;
    }
    let total = *lock(&total);
    Ok(total)
}

/// A lock that another thread's panic does not take away: the panic itself is reported when that thread is joined.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The suite in one guest; `None` when it was interrupted.
fn guest(
    paths: &Paths,
    args: &TestArgs,
    binaries: &Binaries,
    matrix: &Mutex<Matrix>,
    (series, root): Boot,
) -> Option<Tally> {
    let prefix = match root {
        Some(root) => format!("[{series} {root}] "),
        None => format!("[{series}] "),
    };
    let kernel = match kernels::get(paths, series) {
        Ok(kernel) => kernel,
        // One kernel that cannot be had says nothing about the others.
        Err(error) => {
            println!("{prefix}{error:#}");
            return Some(Tally::BROKEN);
        }
    };
    println!("{prefix}kernel {} ({})", kernel.version, kernel.release);
    lock(matrix).kernel(&kernel);
    let mut words: Vec<OsString> = vec!["enforcer-tests".into()];
    words.extend(suite_words(args, root));
    let mut environment = vec![("HOME".to_owned(), "/root".to_owned()), ("RUST_BACKTRACE".to_owned(), "1".to_owned())];
    environment.extend(std::env::var(ROUNDS).map(|rounds| (ROUNDS.to_owned(), rounds)));
    let job = Job { kernel, machine: Machine::from(&args.machine), root, copies: Vec::new(), environment, words };
    let mut suite = Suite::default();
    let mut out = Lines::new(|line| {
        suite.line(line);
        lock(matrix).line(series, line);
        println!("{prefix}{line}");
    });
    let mut err = Lines::new(|line| eprintln!("{prefix}{line}"));
    let ending = guest::run(paths, binaries, &job, &mut out, &mut err);
    out.end();
    err.end();
    // One guest that cannot be run says nothing about the others.
    match ending.unwrap_or_else(|error| Ending::Lost(format!("{error:#}"))) {
        Ending::Exited(status) => {
            let (tally, wrong) = suite.end(status);
            if let Some(wrong) = wrong {
                println!("{prefix}{wrong}");
            }
            Some(tally)
        }
        Ending::Lost(why) => {
            println!("{prefix}{why}");
            Some(suite.died())
        }
        Ending::Interrupted => None,
    }
}

/// Cuts a stream into lines.
pub(crate) struct Lines<F> {
    rest: Vec<u8>,
    each: F,
}

impl<F: FnMut(&str)> Lines<F> {
    pub(crate) fn new(each: F) -> Self {
        Self { rest: Vec::new(), each }
    }

    /// What came without a newline is a line as well.
    pub(crate) fn end(&mut self) {
        if !self.rest.is_empty() {
            (self.each)(&String::from_utf8_lossy(&self.rest));
            self.rest.clear();
        }
    }
}

impl<F: FnMut(&str)> Write for Lines<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            (self.each)(&String::from_utf8_lossy(&line[..end]));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() -> Result<()> {
        let mut found = Vec::new();
        let mut lines = Lines::new(|line| found.push(line.to_owned()));
        for chunk in ["a\nb", "c\n\n", "d"] {
            lines.write_all(chunk.as_bytes())?;
        }
        lines.end();
        lines.end();
        assert_eq!(found, ["a", "bc", "", "d"]);
        Ok(())
    }

    #[test]
    fn defaults_are_the_command_lines() {
        let args = TestArgs::default();
        assert!(args.kernel.is_empty() && args.only.is_none() && args.jobs > 0);
    }
}
