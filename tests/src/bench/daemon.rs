//! What the daemon itself costs: while nothing happens, for each event, and for each byte that it hashes.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    nanoseconds,
    ops::{self, now},
    states::{self, Ground, State},
};
use crate::harness::{
    ENFORCER, SELF,
    daemon::{Daemon, unload},
    eventually, exit_status,
};

/// How long the daemon is left alone before it counts as idle: counts of lost events are looked at for a second after an event.
const SETTLE: Duration = Duration::from_secs(10);
/// How long it is watched then.
const IDLE: Duration = Duration::from_mins(1);
/// How many acts are refused in a row: several times what the ring holds.
const FLOOD: u64 = 30_000;
/// How long their events may take to be written.
const DRAIN_LIMIT: Duration = Duration::from_mins(2);

/// Measures everything, and prints a JSON object a line.
pub(super) fn measure() -> anyhow::Result<()> {
    let (ground, _servers) = states::ground()?;
    let bare = read(&ground)?;
    let manifest = states::policy(State::Denied, 0, &ground)?;
    let mut daemon = Daemon::start(Path::new("/tmp/enforcer-bench/daemon"), &manifest)?;
    idle(daemon.pid())?;
    let watched = read(&ground)?;
    flood(&daemon, &ground)?;
    // What is in force stays, and the watches of the policy's paths go.
    daemon.terminate()?;
    println!("{}", json!({ "figure": "read", "bare": bare, "watched": watched, "unwatched": read(&ground)? }));
    unload()?;
    hashing(&ground)
}

/// What a read costs a process outside every skill, which has one thread: with more, the kernel counts who uses the descriptor.
fn read(ground: &Ground) -> anyhow::Result<u64> {
    let [tcp, udp] = [ground.tcp, ground.udp].map(|port| port.to_string());
    let output = Command::new(SELF).args(["bench-worker", "read", "1", &tcp, &udp]).output()?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut results = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    results.find_map(|result| result["ns"].as_u64()).with_context(|| format!("no read was measured: {lines}"))
}

/// Wake-ups while nothing happens, and memory.
fn idle(pid: u32) -> anyhow::Result<()> {
    thread::sleep(SETTLE);
    let before = threads(pid)?;
    thread::sleep(IDLE);
    let after = threads(pid)?;
    let switches = |threads: &[Thread]| threads.iter().map(|thread| thread.switches).sum::<u64>();
    let awake: Vec<&str> = after
        .iter()
        .filter(|now| before.iter().all(|then| then.tid != now.tid || then.switches != now.switches))
        .map(|thread| thread.name.as_str())
        .collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let memory = |key| field(&status, key).with_context(|| format!("{key} of the daemon"));
    println!(
        "{}",
        json!({ "figure": "idle", "seconds": IDLE.as_secs(), "switches": switches(&after).saturating_sub(switches(&before)),
                "awake": awake, "threads": after.len(), "resident_kb": memory("VmRSS:")?, "anonymous_kb": memory("RssAnon:")?,
                "ring_kb": ring(pid)? })
    );
    Ok(())
}

/// How much of the memory is the events' ring and other maps of the kernel's, in KiB: what is mapped of them.
fn ring(pid: u32) -> anyhow::Result<u64> {
    let (mut sum, mut is_map) = (0, false);
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        // A mapping's first line begins with its addresses, the others with a key.
        if line.split_whitespace().next().is_some_and(|word| !word.ends_with(':')) {
            is_map = line.contains("bpf-map");
        } else if is_map {
            sum += field(line, "Rss:").unwrap_or(0);
        }
    }
    Ok(sum)
}

/// A thread of the daemon.
struct Thread {
    tid: String,
    name: String,
    /// How often it was put on a CPU, of its own will or not.
    switches: u64,
    /// How long it ran, in nanoseconds.
    ran: u64,
}

fn threads(pid: u32) -> anyhow::Result<Vec<Thread>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let dir = entry?.path();
        let status = fs::read_to_string(dir.join("status"))?;
        let times = fs::read_to_string(dir.join("schedstat"))?;
        let switches = |key| field(&status, key).with_context(|| format!("{key} in {}", dir.display()));
        found.push(Thread {
            tid: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            name: fs::read_to_string(dir.join("comm"))?.trim().to_owned(),
            switches: switches("voluntary_ctxt_switches:")? + switches("nonvoluntary_ctxt_switches:")?,
            ran: times.split_whitespace().next().and_then(|ran| ran.parse().ok()).context("schedstat")?,
        });
    }
    Ok(found)
}

/// A number of a `status` file.
fn field(status: &str, key: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// What an event costs the daemon from the ring to its standard output, where they come faster than it can read: those that found
/// the ring full are counted.
fn flood(daemon: &Daemon, ground: &Ground) -> anyhow::Result<()> {
    let before = threads(daemon.pid())?;
    let mark = daemon.events.mark();
    let mut command = Command::new(ENFORCER);
    command.args(["run", "--skill", "bench", "--", SELF, "bench-flood", &FLOOD.to_string()]);
    let status = exit_status(command.status()?);
    ensure!(status == 0, "the flood ended with {status}");
    let victim = ground.dir(3).join("standing-0");
    let victim = victim.to_string_lossy();
    let (mut taken, mut lost) = (0, 0);
    let complete = eventually(DRAIN_LIMIT, || {
        let events = daemon.events.since(mark);
        let count = |wanted: &dyn Fn(&crate::harness::events::Event) -> u64| events.iter().map(wanted).sum::<u64>();
        taken = count(&|event| u64::from(event.is("delete", "deny", &victim)));
        lost = count(&|event| event.number("dropped"));
        taken + lost >= FLOOD
    });
    ensure!(complete && taken + lost == FLOOD, "of {FLOOD} events {taken} were written and {lost} counted as lost");
    let after = threads(daemon.pid())?;
    let ran = |threads: &[Thread]| threads.iter().map(|thread| thread.ran).sum::<u64>();
    let cost = ran(&after).saturating_sub(ran(&before)) / taken;
    println!("{}", json!({ "figure": "events", "made": FLOOD, "written": taken, "lost": lost, "instructions": cost }));
    Ok(())
}

/// In a governed process: so many deletes that are refused.
pub(crate) fn refused(count: u64) -> anyhow::Result<()> {
    super::worker::alone()?;
    ops::refused_deletes(&states::ground_at(0, 0), count)
}

/// Hashing against `sha256sum`, on the same file.
fn hashing(ground: &Ground) -> anyhow::Result<()> {
    let run = |program: &str, options: &[&str]| {
        let start = now();
        let output =
            Command::new(program).args(options).arg(&ground.large).output().with_context(|| program.to_owned())?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok((nanoseconds(now().saturating_sub(start)), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (theirs, line) = run("sha256sum", &[])?;
    let (ours, own_line) = run(ENFORCER, &["hash"])?;
    let digest = line.split_whitespace().next().unwrap_or_default();
    ensure!(!digest.is_empty() && own_line.contains(digest), "{own_line} is not {line}");
    println!("{}", json!({ "figure": "hashing", "sha256sum": theirs, "enforcer": ours }));
    Ok(())
}
