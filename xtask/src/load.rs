//! `cargo xtask build-and-load`: build, load the programs, apply a policy, and show what it does.
//!
//! On this machine where its kernel can enforce, else in a guest; `enforcer doctor` decides, and its reasons are shown.

use std::{
    ffi::OsString,
    fmt::Write as _,
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::{
    build::{self, Binaries},
    guest::{self, Copied, Job, Machine},
    kernels::{self, Series},
    packages,
    paths::{Paths, which},
    ui,
    vm::{self, MachineArgs},
};

/// Where the guest finds the policy.
const GUEST_POLICY: &str = "/etc/enforcer/policy.yaml";
/// Where the guest finds the demo's agent.
const GUEST_AGENT: &str = "/usr/share/enforcer/demo-agent.sh";

/// Build everything, load it, apply a policy and run the demo agent, or a command, under it.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The policy; without it, the demo's.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// In a guest, whatever this machine can do.
    #[arg(long, conflicts_with = "host")]
    vm: bool,
    /// On this machine, whatever it can do.
    #[arg(long, conflicts_with = "kernel")]
    host: bool,
    /// The guest's kernel: 6.1, 6.12, 7.2 or latest.
    #[arg(long)]
    kernel: Option<Series>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Run this as the governed agent instead of the demo's.
    #[arg(last = true, value_name = "CMD")]
    words: Vec<OsString>,
}

pub(crate) fn run(paths: &Paths, args: &LoadArgs) -> Result<ExitCode> {
    let policy = args.policy.clone().unwrap_or_else(|| paths.root.join("policies/demo.yaml"));
    // Before the build: a typing error should not take minutes to show.
    ensure!(policy.exists(), "the policy {} does not exist", policy.display());
    let binaries = build::all(paths)?;
    if args.host {
        return on_host(&binaries, &policy, &args.words);
    }
    // Asking for a kernel is asking for a guest.
    if !args.vm && args.kernel.is_none() {
        match doctor(&binaries)? {
            Verdict::Full => return on_host(&binaries, &policy, &args.words),
            Verdict::Less(why) => ui::note(&format!("{why}\n==> running in a guest instead")),
        }
    }
    in_guest(paths, args, &binaries, policy)
}

/// What `enforcer doctor` thinks of this machine.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Full,
    /// With every reason, as text.
    Less(String),
}

fn doctor(binaries: &Binaries) -> Result<Verdict> {
    // Its exit status repeats the verdict.
    let output = as_root(&binaries.enforcer)
        .args(["doctor", "--json"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run enforcer doctor")?;
    parse_doctor(&output.stdout)
}

fn parse_doctor(json: &[u8]) -> Result<Verdict> {
    let report: Value = serde_json::from_slice(json).context("enforcer doctor printed no JSON")?;
    let verdict = report["verdict"].as_str().context("enforcer doctor gave no verdict")?;
    if verdict == "full" {
        return Ok(Verdict::Full);
    }
    let mut text = match verdict {
        "partial" => "this kernel cannot enforce everything:".to_owned(),
        _ => "this kernel cannot enforce:".to_owned(),
    };
    for missing in report["missing"].as_array().into_iter().flatten() {
        let part = |name: &str| missing[name].as_str().unwrap_or_default();
        write!(text, "\n  {}: {}", part("what"), part("why"))?;
        if !part("fix").is_empty() {
            write!(text, "\n      {}", part("fix"))?;
        }
    }
    Ok(Verdict::Less(text))
}

/// A command run as root: with sudo where we are not.
fn as_root(program: &Path) -> Command {
    if packages::is_root() || which("sudo").is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

fn on_host(binaries: &Binaries, policy: &Path, words: &[OsString]) -> Result<ExitCode> {
    let mut command = as_root(&binaries.enforcer);
    command.args(["demo", "--policy"]).arg(policy);
    if !words.is_empty() {
        command.arg("--").args(words);
    }
    let status = command.status().with_context(|| format!("cannot run {}", ui::describe(&command)))?;
    let code =
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn in_guest(paths: &Paths, args: &LoadArgs, binaries: &Binaries, policy: PathBuf) -> Result<ExitCode> {
    let kernel = kernels::get(paths, args.kernel.unwrap_or(Series::V6_12))?;
    ui::note(&format!("booting a guest with kernel {} ({})", kernel.version, kernel.release));
    let mut copies = vec![Copied { from: policy, to: GUEST_POLICY.to_owned() }];
    let agent = paths.root.join("policies/demo-agent.sh");
    if agent.is_file() {
        copies.push(Copied { from: agent, to: GUEST_AGENT.to_owned() });
    }
    let mut words: Vec<OsString> = ["enforcer", "demo", "--policy", GUEST_POLICY].map(OsString::from).to_vec();
    if !args.words.is_empty() {
        words.push("--".into());
        words.extend(args.words.iter().cloned());
    }
    let job = Job {
        kernel,
        machine: Machine::from(&args.machine),
        root: None,
        copies,
        environment: vm::environment(),
        words,
    };
    let ending = guest::run(paths, binaries, &job, &mut io::stdout(), &mut io::stderr())?;
    Ok(vm::exit_code(&job, &ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_full() -> Result<()> {
        assert_eq!(parse_doctor(br#"{"verdict":"full","missing":[]}"#)?, Verdict::Full);
        Ok(())
    }

    #[test]
    fn less_says_why_and_what_to_type() -> Result<()> {
        let json = br#"{"verdict":"none","missing":[{"what":"bpf","why":"not in the list","fix":"lsm=bpf"},
                        {"what":"btf","why":"absent"}]}"#;
        let expected = "this kernel cannot enforce:\n  bpf: not in the list\n      lsm=bpf\n  btf: absent";
        assert_eq!(parse_doctor(json)?, Verdict::Less(expected.to_owned()));
        let partial = parse_doctor(br#"{"verdict":"partial"}"#)?;
        assert_eq!(partial, Verdict::Less("this kernel cannot enforce everything:".to_owned()));
        Ok(())
    }

    #[test]
    fn no_verdict_is_an_error() {
        assert!(parse_doctor(b"").is_err());
        assert!(parse_doctor(b"{}").is_err());
    }
}
