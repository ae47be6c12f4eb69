//! `enforcer doctor --attack`: the attack suite on this host, and a certificate of what held.
//!
//! The attacks are another program's ([`PROGRAM`]): what an agent may try is no code of the daemon's. It tells of each in a line of
//! JSON.

use std::{
    io::{BufRead as _, BufReader, IsTerminal as _},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::checks::Report;

/// Where the package has the attacks.
const PROGRAM: &str = "/usr/lib/enforcer/enforcer-tests";
/// Where the attackers' files are made: on a disk, as agents' are.
const SCRATCH: &str = "/var/tmp";
/// Where the ways round are named that nothing here stops.
const THREAT_MODEL: &str = include_str!("../../../docs/threat-model.md");
/// How long the attacks may take beyond their limit: loading the programs, the last attack, and putting everything back.
const GRACE: Duration = Duration::from_mins(15);

/// What came of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// It was refused, nothing happened, and what is allowed went on.
    Held,
    /// It got through.
    Through,
    /// The test failed without showing either.
    Unclear,
    /// It was not made.
    Untried,
}

/// An attack, as the attack program tells of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Attack {
    section: String,
    number: String,
    tries: String,
    hooks: Vec<String>,
    test: String,
    outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    ms: u64,
}

/// What held on this host.
#[derive(Debug, Serialize)]
struct Certificate<'a> {
    version: &'static str,
    time: String,
    host: String,
    checks: &'a Report,
    held: usize,
    through: usize,
    unclear: usize,
    untried: usize,
    seconds: u64,
    attacks: Vec<Attack>,
    /// What no host is promised.
    not_promised: Vec<String>,
}

impl Certificate<'_> {
    fn of(&self, outcome: Outcome) -> impl Iterator<Item = &Attack> {
        self.attacks.iter().filter(move |attack| attack.outcome == outcome)
    }

    fn status(&self) -> u8 {
        match (self.held, self.through + self.unclear) {
            (_, 1..) => 1,
            (0, 0) => 2,
            (1.., 0) => 0,
        }
    }
}

/// Makes the attacks and prints the certificate.
///
/// # Errors
/// When they cannot be made, or the certificate cannot be written.
pub fn run(report: &Report, limit: Duration, only: &[String], json: bool) -> anyhow::Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "attacks are made by root: only root can put a policy in force");
    // The policies of the suites name it there.
    ensure!(
        Path::new(PROGRAM).is_file(),
        "the attacks are not installed: {PROGRAM} comes with the Debian package, or copy a build's `enforcer-tests` there"
    );
    let scratch = tempfile::Builder::new()
        .prefix("enforcer-attack-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(SCRATCH)
        .with_context(|| format!("a directory for the attackers in {SCRATCH}"))?;
    let started = Instant::now();
    let mut child = start(scratch.path(), limit, only)?;
    let attacks = listen(&mut child, limit, json)?;
    let status = child.wait()?;
    drop(scratch);
    ensure!(status.success() || !attacks.is_empty(), "the attacks could not be made: see above");
    let count = |outcome| attacks.iter().filter(|attack| attack.outcome == outcome).count();
    let certificate = Certificate {
        version: env!("CARGO_PKG_VERSION"),
        time: jiff::Timestamp::now().to_string(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        checks: report,
        held: count(Outcome::Held),
        through: count(Outcome::Through),
        unclear: count(Outcome::Unclear),
        untried: count(Outcome::Untried),
        seconds: started.elapsed().as_secs(),
        attacks,
        not_promised: not_promised(),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&certificate)?);
    } else {
        print(&certificate);
    }
    ensure!(status.success(), "what was in force may not be in force again: see above, and `enforcer status`");
    Ok(ExitCode::from(certificate.status()))
}

/// The first sentence of each point of the threat model's list of what is not promised.
fn not_promised() -> Vec<String> {
    let list = THREAT_MODEL.split_once("\n## Not promised\n").map_or("", |(_, list)| list);
    let list = list.split("\n## ").next().unwrap_or_default();
    let mut points: Vec<String> = Vec::new();
    let mut open = false;
    for line in list.lines() {
        if let Some(point) = line.strip_prefix("- ") {
            points.push(point.to_owned());
            open = true;
        } else if let (true, Some(rest), Some(point)) = (open, line.strip_prefix("  "), points.last_mut()) {
            point.push(' ');
            point.push_str(rest.trim_start());
        } else {
            open = false;
        }
    }
    for point in &mut points {
        let end = point.match_indices(". ").map(|(at, _)| at + 1).find(|at| *at > 1).unwrap_or(point.len());
        point.truncate(end);
        *point = point.replace("**", "");
    }
    points
}

fn start(scratch: &Path, limit: Duration, only: &[String]) -> anyhow::Result<Child> {
    let mut command = Command::new(PROGRAM);
    command.arg("host").arg("--scratch").arg(scratch).arg("--limit").arg(limit.as_secs().to_string());
    command.args(only.iter().flat_map(|name| ["--filter", name]));
    // It calls `enforcer`, and means this one.
    let own = std::env::current_exe().context("this program's place")?;
    let mut path = own.parent().map(|dir| dir.as_os_str().to_owned()).unwrap_or_default();
    path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().context(PROGRAM)
}

/// Takes what the attack program tells, until it ends. An interrupt reaches it as well, and it puts everything back first.
fn listen(child: &mut Child, limit: Duration, json: bool) -> anyhow::Result<Vec<Attack>> {
    ignore_interrupts();
    let pid = rustix::process::Pid::from_child(child);
    let (ended, told) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        // Whoever hangs is told to end and put everything back.
        if told.recv_timeout(limit + GRACE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    });
    let mut attacks = Vec::new();
    let output = child.stdout.take().context("the attacks' output")?;
    let shown = !json && std::io::stderr().is_terminal();
    for line in BufReader::new(output).lines() {
        let line = line.context("the attacks' output")?;
        // It is waited for whatever it says: it has something to put back.
        let Ok(attack) = serde_json::from_str::<Attack>(&line) else {
            eprintln!("the attacks said {line:?}");
            continue;
        };
        if shown {
            eprint!("\r\x1b[K{} {}", attack.number, attack.tries);
        }
        attacks.push(attack);
    }
    if shown {
        eprint!("\r\x1b[K");
    }
    drop(ended);
    watch.join().map_err(|_| anyhow::anyhow!("the thread that waits panicked"))?;
    attacks.sort_by_key(|attack| numbers(&attack.number));
    Ok(attacks)
}

/// `13.4` in the order of numbers.
fn numbers(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect()
}

/// The attack program answers to them.
fn ignore_interrupts() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    });
}

fn print(certificate: &Certificate<'_>) {
    println!(
        "Enforcer {} on {}, kernel {}, {}\n",
        certificate.version, certificate.host, certificate.checks.kernel, certificate.time
    );
    let mut section = "";
    for attack in &certificate.attacks {
        if attack.section != section {
            section = &attack.section;
            println!("{section}");
        }
        let mark = match attack.outcome {
            Outcome::Held => "held",
            Outcome::Through => "GOT THROUGH",
            Outcome::Unclear => "UNCLEAR",
            Outcome::Untried => "not tried",
        };
        println!("  {:<11} {:>6}  {}", mark, attack.number, attack.tries);
        if let Some(why) = attack.why.as_ref().filter(|_| attack.outcome != Outcome::Untried) {
            println!("  {:<11} {:>6}  {}: {}", "", "", attack.test, why.replace('\n', "\n                      "));
        }
    }
    let mut reasons: Vec<&str> = certificate.of(Outcome::Untried).filter_map(|attack| attack.why.as_deref()).collect();
    reasons.sort_unstable();
    println!();
    for group in reasons.chunk_by(PartialEq::eq) {
        println!("not tried, because {}: {}", group[0], group.len());
    }
    for missing in &certificate.checks.missing {
        println!("not enforced here: {}: {}", missing.what, missing.why);
    }
    println!("not promised on any host (docs/threat-model.md says more):");
    for point in &certificate.not_promised {
        println!("  - {point}");
    }
    println!(
        "{} held, {} got through, {} unclear, {} not tried, in {} s",
        certificate.held, certificate.through, certificate.unclear, certificate.untried, certificate.seconds
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attack(number: &str, outcome: &str) -> Attack {
        let line = format!(
            r#"{{"section":"Exec","number":"{number}","tries":"x","hooks":["file_open"],"test":"a::b","outcome":"{outcome}","ms":1}}"#
        );
        serde_json::from_str(&line).expect("a line of the attack program")
    }

    #[test]
    fn the_status_says_what_came_of_it() {
        let report =
            Report { verdict: crate::checks::Verdict::Full, kernel: "6.12".into(), missing: vec![], checks: vec![] };
        for (outcomes, status) in [
            (&["held", "untried"][..], 0),
            (&["held", "through"], 1),
            (&["held", "unclear"], 1),
            (&["untried"], 2),
            (&[], 2),
        ] {
            let attacks: Vec<Attack> = outcomes.iter().map(|outcome| attack("1.1", outcome)).collect();
            let count = |outcome| attacks.iter().filter(|attack| attack.outcome == outcome).count();
            let certificate = Certificate {
                version: "0",
                time: String::new(),
                host: String::new(),
                checks: &report,
                held: count(Outcome::Held),
                through: count(Outcome::Through),
                unclear: count(Outcome::Unclear),
                untried: count(Outcome::Untried),
                seconds: 0,
                attacks,
                not_promised: vec![],
            };
            assert_eq!(certificate.status(), status, "{outcomes:?}");
        }
    }

    #[test]
    fn what_is_not_promised_is_said() {
        let points = not_promised();
        assert!(points.len() > 40, "{}", points.len());
        let begins = |text: &str| points.iter().any(|point| point.starts_with(text));
        assert!(begins("What a listed interpreter runs is not looked at."), "{points:#?}");
        assert!(begins("The kernel and the processor: an exploit of either ends everything."), "{points:#?}");
        assert!(points.iter().all(|point| !point.contains('\n') && !point.contains("**") && point.len() < 600));
    }

    #[test]
    fn attacks_are_in_the_order_of_their_numbers() {
        let mut all = ["13.10", "2.1", "13.9"].map(|number| attack(number, "held"));
        all.sort_by_key(|attack| numbers(&attack.number));
        assert_eq!(all.map(|attack| attack.number), ["2.1", "13.9", "13.10"]);
    }
}
