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
    bench,
    build::{self, Binaries},
    guest::{self, Copied, Ending, Job, Machine, Root},
    kernels::{self, Series},
    matrix::Matrix,
    package,
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
    /// Guests with a root of Debian's only on this kernel.
    #[arg(long, value_name = "KERNEL")]
    pub(crate) rootfs_on: Option<Series>,
    /// Guests that run at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Instead of running the tests, leave one program after another unattached, each time until an attack gets through.
    #[arg(long)]
    mutants: bool,
    /// While the tests run, kill the daemon and reload its policy all the time.
    #[arg(long, conflicts_with = "mutants")]
    storm: bool,
    /// Write which attacks held on which kernel to this file. What earlier runs of this daemon have shown counts, too; an attack
    /// that none of them tried is an error.
    #[arg(long, value_name = "FILE")]
    matrix: Option<PathBuf>,
    /// Also measure what each operation costs, in a guest of its own, and fail where it is more than `xtask/budgets.json` allows.
    #[arg(long)]
    pub(crate) bench: bool,
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
    let mut failures = Vec::new();
    let binaries = if args.only == Some(Part::Unit) {
        // The daemon's build needs them, tests or not.
        build::ebpf(paths)?;
        None
    } else {
        let mut binaries = build::all(paths)?;
        if places(args, &binaries)?.contains(&Place::Loads)
            && list(args, &binaries, Place::Loads)?.lines().any(|test| test.starts_with(UPGRADES))
        {
            binaries.next = Some(build::next(paths)?);
        }
        if boots(args, &binaries)?.iter().any(|(_, place)| *place == Place::Elder) {
            binaries.elder = Some(build::elder(paths)?);
        }
        Some(binaries)
    };
    if args.only.is_none_or(|part| part == Part::Unit) {
        total += unit(paths, &mut failures)?;
    }
    if let Some(binaries) = binaries {
        total += guests(paths, args, &binaries, &mut failures)?;
    }
    if !failures.is_empty() {
        println!("\nwhat failed:\n{}\n", failures.join("\n"));
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Cargo's tests.
fn unit(paths: &Paths, failures: &mut Vec<String>) -> Result<Tally> {
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
        if line.starts_with("test ") && line.ends_with("... FAILED") {
            failures.push(line.into_owned());
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // It did not compile, or a test binary died or hung before its summary.
        let what = format!("cargo test ended with {status}");
        println!("{what}");
        failures.push(what);
        tally += Tally::BROKEN;
    }
    Ok(tally)
}

/// One boot: a kernel, and what runs on it.
type Boot = (Series, Place);

/// What runs in one guest.
enum Guest {
    /// The suite's part for a kind of guest.
    Suite(Boot),
    /// The measurement of what operations cost.
    Bench,
}

/// A kind of guest, with the tests that are for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// This machine's own programs.
    Plain,
    /// The same, for what loads programs again and again, with CPUs that run in turns; it has the second build of the daemon.
    Loads,
    /// The same as the first, where IMA has a policy, so that the kernel's measuring cannot be relied on.
    Ima,
    /// The same as the first, with the daemon for elder kernels, on the eldest of ours.
    Elder,
    /// A root on a disk.
    Root(Root),
}

impl Place {
    fn all() -> impl Iterator<Item = Self> {
        [Self::Plain, Self::Loads, Self::Ima, Self::Elder].into_iter().chain(Root::ALL.into_iter().map(Self::Root))
    }

    fn root(self) -> Option<Root> {
        match self {
            Self::Root(root) => Some(root),
            Self::Plain | Self::Loads | Self::Ima | Self::Elder => None,
        }
    }

    /// What its kernel is booted with beside the rest.
    fn parameters(self) -> Option<&'static str> {
        match self {
            Self::Ima => Some("ima_policy=tcb"),
            Self::Plain | Self::Loads | Self::Elder | Self::Root(_) => None,
        }
    }

    /// As the guest suite calls it.
    fn name(self) -> String {
        match self {
            Self::Plain => "plain".to_owned(),
            Self::Loads => "loads".to_owned(),
            Self::Ima => "ima".to_owned(),
            Self::Elder => "elder".to_owned(),
            Self::Root(root) => root.to_string(),
        }
    }
}

/// The kinds of guest that were asked for and that have tests to run.
fn places(args: &TestArgs, binaries: &Binaries) -> Result<Vec<Place>> {
    if args.mutants {
        // They stand on pins of a daemon that nobody else manages.
        return Ok(vec![Place::Plain]);
    }
    let mut wanted = Vec::new();
    for place in Place::all() {
        let asked = match (args.only, place.root()) {
            (Some(Part::Rootfs), None) | (Some(Part::Guest), Some(_)) => false,
            (_, Some(root)) => args.rootfs.is_none_or(|only| only == root),
            (_, None) => true,
        };
        if asked && !list(args, binaries, place)?.trim().is_empty() {
            wanted.push(place);
        }
    }
    ensure!(!wanted.is_empty(), "no test of the guest suite has such a name");
    Ok(wanted)
}

/// What runs where: the longest first, so that they end together.
fn boots(args: &TestArgs, binaries: &Binaries) -> Result<Vec<Boot>> {
    let mut kernels = if args.kernel.is_empty() { Series::ALL.to_vec() } else { args.kernel.clone() };
    kernels.sort_unstable();
    kernels.dedup();
    let boots =
        places(args, binaries)?.into_iter().flat_map(|place| kernels.iter().map(move |series| (*series, place)));
    let wanted = |(series, place): &Boot| match place {
        Place::Elder => *series == Series::ALL[0],
        place => place.root().is_none() || args.rootfs_on.is_none_or(|only| only == *series),
    };
    let mut boots: Vec<Boot> = boots.filter(wanted).collect();
    // Of systemd's there are few, and it takes as long as the others; that of the agents is short.
    boots.sort_by_key(|(_, place)| match place {
        Place::Root(Root::Systemd) => 0,
        Place::Plain => 1,
        Place::Loads => 2,
        Place::Root(Root::Agents) => 3,
        Place::Ima => 4,
        Place::Elder => 5,
    });
    Ok(boots)
}

/// The names of the tests that would run. The suite is static: it knows here as well as there.
fn list(args: &TestArgs, binaries: &Binaries, place: Place) -> Result<String> {
    let mut list = Command::new(&binaries.tests);
    list.args(suite_words(args, place)).arg("--list");
    ui::capture(&mut list)
}

/// What the suite is called with.
fn suite_words(args: &TestArgs, place: Place) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![if args.mutants { "mutate" } else { "run" }.into()];
    words.extend(["--place".into(), place.name().into()]);
    if args.only == Some(Part::Attacks) {
        words.push("--attacks".into());
    }
    if args.storm {
        words.push("--storm".into());
    }
    words.extend(args.filters.iter().flat_map(|filter| ["--filter".into(), filter.clone()]));
    words
}

/// The guest suite, on the kernels that were asked for.
fn guests(paths: &Paths, args: &TestArgs, binaries: &Binaries, failures: &mut Vec<String>) -> Result<Tally> {
    let boots = boots(args, binaries)?;
    // Where systemd runs, the package is installed.
    let package = if boots.iter().any(|(_, place)| place.root() == Some(Root::Systemd)) {
        Some(Copied { from: package::make(paths, binaries)?, to: "/opt/enforcer.deb".to_owned() })
    } else {
        None
    };
    // The shortest comes last.
    let measured = args.bench.then_some(Guest::Bench);
    let queue = Mutex::new(boots.into_iter().map(Guest::Suite).chain(measured));
    let total = Mutex::new(Tally::default());
    let failed = Mutex::new(Vec::new());
    let matrix = Mutex::new(Matrix::begin(paths, binaries)?);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let next = lock(&queue).next();
                        let outcome = match next {
                            None => return Ok(()),
                            Some(Guest::Suite(boot)) => guest(paths, args, binaries, package.as_ref(), &matrix, boot),
                            Some(Guest::Bench) => Some(bench(paths, binaries)),
                        };
                        let Some((tally, notes)) = outcome else {
                            lock(&queue).by_ref().for_each(drop);
                            anyhow::bail!("interrupted");
                        };
                        lock(&matrix).keep()?;
                        *lock(&total) += tally;
                        lock(&failed).extend(notes);
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
    failures.append(&mut lock(&failed));
    let total = *lock(&total);
    Ok(total)
}

/// A lock that another thread's panic does not take away: the panic itself is reported when that thread is joined.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The suite in one guest, and what it says of each failure; `None` when it was interrupted.
fn guest(
    paths: &Paths,
    args: &TestArgs,
    binaries: &Binaries,
    package: Option<&Copied>,
    matrix: &Mutex<Matrix>,
    (series, place): Boot,
) -> Option<(Tally, Vec<String>)> {
    let prefix = match place {
        Place::Plain => format!("[{series}] "),
        place => format!("[{series} {}] ", place.name()),
    };
    let kernel = match kernels::get(paths, series) {
        Ok(kernel) => kernel,
        // One kernel that cannot be had says nothing about the others.
        Err(error) => {
            let what = format!("{prefix}{error:#}");
            println!("{what}");
            return Some((Tally::BROKEN, vec![what]));
        }
    };
    println!("{prefix}kernel {} ({})", kernel.version, kernel.release);
    lock(matrix).kernel(&kernel);
    let mut words: Vec<OsString> = vec!["enforcer-tests".into()];
    words.extend(suite_words(args, place));
    let mut environment = vec![("HOME".to_owned(), "/root".to_owned()), ("RUST_BACKTRACE".to_owned(), "1".to_owned())];
    environment.extend(std::env::var(ROUNDS).map(|rounds| (ROUNDS.to_owned(), rounds)));
    let mut machine = Machine::from(&args.machine);
    // Where nothing races on purpose, it is also the faster way for two guests on two CPUs.
    machine.in_turns |= place != Place::Plain;
    machine.append = match (machine.append.take(), place.parameters()) {
        (Some(asked), Some(own)) => Some(format!("{own} {asked}")),
        (asked, own) => asked.or(own.map(str::to_owned)),
    };
    let root = place.root();
    let mut copies: Vec<Copied> = package.filter(|_| root == Some(Root::Systemd)).cloned().into_iter().collect();
    if let (Place::Elder, Some(elder)) = (place, &binaries.elder) {
        copies.push(Copied { from: elder.clone(), to: "/usr/bin/enforcer".to_owned() });
    }
    let job = Job { kernel, machine, root, copies, environment, words };
    let mut suite = Suite::default();
    let mut out = Lines::new(|line| {
        suite.line(line);
        // What another object holds says nothing of the one for this kernel.
        if place != Place::Elder {
            lock(matrix).line(series, line);
        }
        println!("{prefix}{line}");
    });
    let mut err = Lines::new(|line| eprintln!("{prefix}{line}"));
    let ending = guest::run(paths, binaries, &job, &mut out, &mut err);
    out.end();
    err.end();
    // One guest that cannot be run says nothing about the others.
    let (tally, wrong) = match ending.unwrap_or_else(|error| Ending::Lost(format!("{error:#}"))) {
        Ending::Exited(status) => suite.end(status),
        Ending::Lost(why) => (suite.died(), Some(why)),
        Ending::Interrupted => return None,
    };
    if let Some(wrong) = &wrong {
        println!("{prefix}{wrong}");
    }
    Some((tally, suite.failures().chain(wrong).map(|what| format!("{prefix}{what}")).collect()))
}

/// The measurement, counted as one test, and what costs more than it may.
fn bench(paths: &Paths, binaries: &Binaries) -> (Tally, Vec<String>) {
    let mut say = |line: &str| println!("[bench] {line}");
    let over = bench::check(paths, binaries, &mut say).unwrap_or_else(|error| vec![format!("{error:#}")]);
    if over.is_empty() {
        println!("[bench] test budgets ... ok");
        return (Tally { passed: 1, failed: 0 }, over);
    }
    println!("[bench] test budgets ... FAILED");
    (Tally::BROKEN, over.into_iter().map(|line| format!("[bench] {line}")).collect())
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
