//! The Debian package on a system that systemd runs: installed, used as a service, upgraded, removed and purged.
//!
//! The tests are one story and run in this order.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::certificate;
use crate::harness::{
    ENFORCER, SELF, command,
    daemon::{START_LIMIT, ask, signal_process, unload},
    eventually,
    runner::Suite,
    scene::{Scene, there},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "package",
    policy: None,
    tests: &[
        ("installed_it_is_in_force_and_hardened", install),
        ("reload_takes_a_good_manifest_and_refuses_a_bad_one", reload),
        ("an_agent_starts_only_under_enforcement", agent),
        ("the_watchdog_restarts_a_daemon_that_hangs", watchdog),
        ("a_kill_brings_it_back_and_an_unload_does_not", unloaded),
        ("an_upgrade_keeps_the_configuration", upgrade),
        ("attacks_beside_the_service", attacks),
        ("removed_and_purged", purge),
    ],
};

const PACKAGE: &str = "/opt/enforcer.deb";
const POLICY: &str = "/etc/enforcer/policy.yaml";
const UNIT: &str = "enforcer.service";

/// The manifest that the administrator writes. It names the unit, not its cgroup: what systemd does there before the unit's own
/// program, such as to connect its output to the journal, is systemd's.
fn manifest(mode: &str, binaries: &str) -> String {
    format!(
        "version: 1\naudit_level: strict\nskills:\n  agent:\n    mode: {mode}\n    match: {{unit: agent.service}}\n    \
         allow_binaries: [{binaries}]\n    reason: mine\n"
    )
}

/// Runs dpkg as an unattended machine does. The guest's own configuration leaves documents out.
fn dpkg(words: &[&str]) -> anyhow::Result<String> {
    let mut all = vec!["env", "DEBIAN_FRONTEND=noninteractive", "dpkg"];
    all.extend(["--force-confdef", "--force-confold", "--path-include=/usr/share/doc/*"]);
    all.extend(["--path-include=/usr/share/man/*"]);
    all.extend(words);
    succeed(&all)
}

/// One property of the service.
fn property(name: &str) -> anyhow::Result<String> {
    Ok(succeed(&["systemctl", "show", "--value", "--property", name, UNIT])?.trim().to_owned())
}

fn pid() -> anyhow::Result<u32> {
    let pid = property("MainPID")?.parse().context("the main process")?;
    // A signal to it would go to this process's own group.
    ensure!(pid != 0, "the service has no process");
    Ok(pid)
}

fn is_active(unit: &str) -> anyhow::Result<bool> {
    Ok(command(&["systemctl", "is-active", "--quiet", unit])?.status == 0)
}

fn run(program: &str) -> anyhow::Result<i32> {
    Ok(command(&[ENFORCER, "run", "--skill", "agent", "--", "/usr/bin/bash", "-c", program])?.status)
}

fn install(_: &Scene) -> anyhow::Result<()> {
    // The suite's own copy is in the way of the package's.
    fs::copy("/usr/bin/enforcer", "/opt/enforcer").context("a copy of the program")?;
    unload()?;
    dpkg(&["--install", PACKAGE])?;
    // A unit of this type has started when it says so: there is nothing to wait for.
    succeed(&[ENFORCER, "status", "--require-enforcing"])?;
    ensure!(is_active(UNIT)? && command(&["systemctl", "is-enabled", "--quiet", UNIT])?.status == 0);
    ensure!(property("Type")? == "notify" && property("StatusText")? == format!("enforcing {POLICY}"));
    let status = ask(&serde_json::json!({"op": "status"}))?;
    ensure!(status["pid"] == pid()? && status["policy"] == POLICY, "{status}");
    let process = fs::read_to_string(format!("/proc/{}/status", pid()?))?;
    let of = |key: &str| process.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    ensure!(of("NoNewPrivs:") == Some("1") && of("Seccomp:") == Some("2"), "{process}");
    let bounding = u64::from_str_radix(of("CapBnd:").context("no bounding set")?, 16)?;
    // CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME, CAP_MKNOD.
    ensure!([16, 17, 22, 25, 27].iter().all(|cap| bounding >> cap & 1 == 0), "{bounding:x}");
    for file in ["usr/share/man/man1/enforcer.1.gz", "usr/share/bash-completion/completions/enforcer"] {
        there(&format!("/{file}"))?;
    }

    ensure!(run("/usr/bin/cat /dev/null")? == 0);
    ensure!(run("/usr/bin/id")? == 126, "an unlisted binary ran");
    let journal = || -> anyhow::Result<bool> {
        let text = succeed(&["journalctl", "--unit", UNIT, "--output", "json", "ENFORCER_VERDICT=deny"])?;
        Ok(text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|entry| {
            entry["ENFORCER_OBJECT_PATH"] == "/usr/bin/id"
                && entry["PRIORITY"] == "4"
                && entry["ENFORCER_SKILL"] == "agent"
        }))
    };
    ensure!(eventually(Duration::from_secs(30), || journal().is_ok_and(|found| found)), "{:?}", journal());
    let log = fs::read_to_string("/var/log/enforcer/events.json")?;
    ensure!(log.lines().any(|line| line.contains("\"/usr/bin/id\"") && line.contains("\"deny\"")), "{log}");
    Ok(())
}

fn reload(_: &Scene) -> anyhow::Result<()> {
    fs::write(POLICY, manifest("enforce", "/usr/bin/bash, /usr/bin/id, /usr/bin/sleep"))?;
    let before = pid()?;
    succeed(&["systemctl", "reload", UNIT])?;
    ensure!(run("/usr/bin/id >/dev/null")? == 0 && run("/usr/bin/cat /dev/null")? == 126);
    fs::write(POLICY, "version: 1\nskils: {}\n")?;
    ensure!(command(&["systemctl", "reload", UNIT])?.status != 0, "a wrong manifest was taken");
    ensure!(is_active(UNIT)? && pid()? == before);
    ensure!(run("/usr/bin/id >/dev/null")? == 0 && run("/usr/bin/cat /dev/null")? == 126);
    Ok(())
}

/// Starts the agent's service, which may fail.
fn start_agent() -> anyhow::Result<bool> {
    let started = command(&["systemctl", "start", "agent.service"])?.status == 0;
    if started != is_active("agent.service")? {
        let journal = command(&["journalctl", "--no-pager", "--lines", "60", "--output", "cat"])?;
        bail!("started: {started}, and now it is otherwise: {}", journal.out);
    }
    Ok(started)
}

fn agent(_: &Scene) -> anyhow::Result<()> {
    let unit = "[Service]\nSlice=agents.slice\nExecStart=/usr/bin/sleep infinity\n";
    fs::write("/etc/systemd/system/agent.service", unit)?;
    let example = fs::read_to_string("/usr/share/doc/enforcer/examples/agent-requires-enforcer.conf")?;
    fs::create_dir_all("/etc/systemd/system/agent.service.d")?;
    fs::write("/etc/systemd/system/agent.service.d/enforcer.conf", example.replace("SKILL", "agent"))?;
    succeed(&["systemctl", "daemon-reload"])?;

    // Only watched; not there; no policy at all.
    for text in
        [manifest("audit", "/usr/bin/sleep"), manifest("enforce", "/usr/bin/sleep").replace(" agent:", " other:")]
    {
        fs::write(POLICY, text)?;
        succeed(&["systemctl", "reload", UNIT])?;
        ensure!(!start_agent()?, "it started without enforcement");
    }
    fs::write(POLICY, "version: 1\nskils: {}\n")?;
    succeed(&["systemctl", "stop", UNIT])?;
    ensure!(!start_agent()?, "it started without a daemon");

    // It starts the daemon, and itself when that is in force. The daemon that could not start would try again by itself.
    succeed(&["systemctl", "stop", UNIT])?;
    fs::write(POLICY, manifest("enforce", "/usr/bin/bash, /usr/bin/id, /usr/bin/sleep"))?;
    command(&["systemctl", "reset-failed"])?;
    let journal = || command(&["journalctl", "--no-pager", "--lines", "40"]);
    ensure!(start_agent()?, "it did not start: {}", journal()?.out);
    ensure!(is_active(UNIT)? && ask(&serde_json::json!({"op": "status"}))?["pid"] == pid()?);
    // It is governed: its service may run nothing else.
    succeed(&["systemctl", "stop", "agent.service"])?;
    fs::write("/etc/systemd/system/agent.service", unit.replace("sleep infinity", "cat /dev/null"))?;
    succeed(&["systemctl", "daemon-reload"])?;
    let start = command(&["systemctl", "start", "--no-block", "agent.service"])?;
    ensure!(start.status == 0, "{start:?}");
    let failed = || command(&["systemctl", "show", "--value", "--property", "Result", "agent.service"]);
    ensure!(
        eventually(Duration::from_mins(1), || failed().is_ok_and(|o| o.out.trim() == "exit-code")),
        "{:?}",
        failed()?
    );
    Ok(())
}

fn watchdog(_: &Scene) -> anyhow::Result<()> {
    let dir = "/etc/systemd/system/enforcer.service.d";
    fs::create_dir_all(dir)?;
    fs::write(format!("{dir}/test.conf"), "[Service]\nWatchdogSec=10s\n")?;
    succeed(&["systemctl", "daemon-reload"])?;
    if command(&["systemctl", "restart", UNIT])?.status != 0 {
        let journal = command(&["journalctl", "--no-pager", "--lines", "40", "--output", "cat", "--unit", UNIT])?;
        bail!("it did not start again: {}", journal.out);
    }
    let first = pid()?;
    std::thread::sleep(Duration::from_secs(25));
    ensure!(pid()? == first && property("NRestarts")? == "0", "it was restarted although it lives");
    signal_process(first, libc::SIGSTOP);
    let again = || -> anyhow::Result<bool> { Ok(is_active(UNIT)? && pid()? != first) };
    ensure!(eventually(START_LIMIT, || again().is_ok_and(|again| again)), "{:?}", property("NRestarts")?);
    ensure!(run("/usr/bin/id >/dev/null")? == 0 && run("/usr/bin/cat /dev/null")? == 126);
    fs::remove_dir_all(dir)?;
    succeed(&["systemctl", "daemon-reload"]).map(drop)
}

fn unloaded(_: &Scene) -> anyhow::Result<()> {
    let killed = pid()?;
    signal_process(killed, libc::SIGKILL);
    let back = || -> anyhow::Result<bool> { Ok(is_active(UNIT)? && pid()? != killed) };
    ensure!(eventually(START_LIMIT, || back().is_ok_and(|back| back)), "{:?}", property("Result"));
    ensure!(run("/usr/bin/id >/dev/null")? == 0 && run("/usr/bin/cat /dev/null")? == 126);
    unload()?;
    ensure!(eventually(Duration::from_mins(1), || is_active(UNIT).is_ok_and(|active| !active)), "it goes on");
    // Longer than it waits before it restarts.
    std::thread::sleep(Duration::from_secs(5));
    ensure!(!is_active(UNIT)? && property("ActiveState")? == "inactive" && property("Result")? == "success");
    ensure!(command(&[ENFORCER, "status"])?.status == 1, "something is in force");
    succeed(&["systemctl", "start", UNIT])?;
    ensure!(run("/usr/bin/id >/dev/null")? == 0 && run("/usr/bin/cat /dev/null")? == 126);
    Ok(())
}

/// The package in another version, with another manifest in it.
fn next_version(scene: &Scene) -> anyhow::Result<String> {
    let tree = scene.dir.join("tree").to_string_lossy().into_owned();
    succeed(&["dpkg-deb", "--raw-extract", PACKAGE, &tree])?;
    let control = format!("{tree}/DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let version = text.lines().find(|line| line.starts_with("Version: ")).context("no version")?;
    fs::write(&control, text.replace(version, &format!("{version}+next")))?;
    let policy = format!("{tree}{POLICY}");
    fs::write(&policy, fs::read_to_string(&policy)? + "# of the next version\n")?;
    let package = scene.dir.join("next.deb").to_string_lossy().into_owned();
    succeed(&["dpkg-deb", "--root-owner-group", "-Znone", "--build", &tree, &package])?;
    Ok(package)
}

fn upgrade(scene: &Scene) -> anyhow::Result<()> {
    let next = next_version(scene)?;
    let (before, mine) = (pid()?, fs::read_to_string(POLICY)?);
    let start = Instant::now();
    dpkg(&["--install", &next])?;
    eprintln!("the upgrade took {:?}", start.elapsed());
    ensure!(is_active(UNIT)? && pid()? != before, "the new daemon was not started");
    succeed(&[ENFORCER, "status", "--require-enforcing", "--skill", "agent"])?;
    ensure!(run("/usr/bin/id >/dev/null")? == 0 && run("/usr/bin/cat /dev/null")? == 126);
    // What the administrator wrote stays; the package's is beside it.
    ensure!(fs::read_to_string(POLICY)? == mine);
    ensure!(fs::read_to_string(format!("{POLICY}.dpkg-dist"))?.ends_with("# of the next version\n"));
    Ok(())
}

/// The package brings the attacks along, and the service's policy is in force after them as it was before.
fn attacks(_: &Scene) -> anyhow::Result<()> {
    let skills = || anyhow::Ok(ask(&serde_json::json!({"op": "status"}))?["skills"].clone());
    let before = skills()?;
    let (status, certificate) = certificate::certificate(&["--limit", "2m"])?;
    ensure!(status == 0, "{status}: {:?}", certificate::others(&certificate));
    eprintln!("{} held, {} were not made", certificate["held"], certificate["untried"]);
    ensure!(certificate["held"].as_u64().is_some_and(|held| held >= 20), "{certificate}");
    ensure!(skills()? == before, "{} instead of {before}", skills()?);
    succeed(&[ENFORCER, "status", "--require-enforcing", "--skill", "agent"])?;
    ensure!(run("/usr/bin/id >/dev/null")? == 0 && run("/usr/bin/cat /dev/null")? == 126);
    certificate::nothing_is_left()
}

fn purge(_: &Scene) -> anyhow::Result<()> {
    fs::copy(SELF, "/opt/enforcer-tests").context("the suite's copy")?;
    dpkg(&["--remove", "enforcer"])?;
    ensure!(!Path::new("/usr/bin/enforcer").exists() && !is_active(UNIT)?);
    // Configuration, events, and what is in force are kept until a purge.
    there("/sys/fs/bpf/enforcer")?;
    for file in [POLICY, "/etc/default/enforcer", "/var/log/enforcer/events.json"] {
        there(file)?;
    }
    dpkg(&["--purge", "enforcer"])?;
    fs::remove_file(format!("{POLICY}.dpkg-dist")).or_else(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(e),
    })?;
    for dir in ["/etc/enforcer", "/var/log/enforcer", "/var/lib/enforcer", "/run/enforcer", "/sys/fs/bpf/enforcer"] {
        ensure!(!Path::new(dir).exists(), "{dir} is left");
    }
    ensure!(!Path::new("/usr/lib/systemd/system/enforcer.service").exists());
    ensure!(Command::new("/usr/bin/cat").arg("/dev/null").status()?.success());
    // For the suites that follow.
    fs::create_dir_all("/usr/lib/enforcer")?;
    fs::copy("/opt/enforcer-tests", SELF).context("the suite's copy")?;
    fs::rename("/opt/enforcer", "/usr/bin/enforcer").context("the suite's copy")
}
