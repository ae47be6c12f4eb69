//! Where events go: a sink that is full, blocked or absent slows neither enforcement nor the others, and is told what it lost.

use std::{
    fs,
    os::unix::{net::UnixDatagram, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::harness::{
    ENFORCER, command,
    daemon::{Daemon, START_LIMIT, ask, signal_process},
    eventually,
    files::Mount,
    runner::Suite,
    scene::{Scene, there},
    succeed,
    worker::{Entry, Worker},
};

pub(super) const SUITE: Suite = Suite {
    name: "sinks",
    policy: None,
    tests: &[
        ("two_sinks_to_one_file", twice),
        ("full_blocked_and_absent", full),
        ("a_full_and_then_closed_pipe", pipe),
        ("what_waited_for_a_sink_when_the_daemon_was_killed", killed),
        ("a_clock_that_jumps", clock),
        ("a_group_for_the_control_socket", group),
    ],
};

const SKILL: &str = "told";
const GROUP: u32 = 4242;
/// More than the small disk holds.
const EVENTS: u64 = 400;

fn manifest(scene: &Scene) -> anyhow::Result<String> {
    scene.make_dir("denied")?;
    Ok(format!("version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [\"*\"]\n"))
}

fn twice(scene: &Scene) -> anyhow::Result<()> {
    let policy = scene.dir.join("policy.yaml");
    fs::write(&policy, manifest(scene)?)?;
    let (policy, log) = (policy.to_string_lossy().into_owned(), scene.dir.join("log"));
    let sink = format!("file:{}", log.display());
    let outcome = command(&[ENFORCER, "daemon", "--policy", &policy, "--sink", &sink, "--sink", &sink])?;
    ensure!(outcome.status == 1 && outcome.err.contains("two sinks go to"), "{outcome:?}");
    ensure!(!log.exists(), "it was opened");
    let outcome = command(&[ENFORCER, "daemon", "--policy", &policy, "--sink", "printer"])?;
    ensure!(outcome.status == 2 && outcome.err.contains("is no sink"), "{outcome:?}");
    Ok(())
}

/// What the status says of the sink whose name begins so.
fn state(status: &Value, name: &str) -> anyhow::Result<(u64, u64, Option<String>)> {
    let sinks = status["sinks"].as_array().context("no sinks")?;
    let sink =
        sinks.iter().find(|s| s["sink"].as_str().is_some_and(|n| n.starts_with(name))).context("no such sink")?;
    let number = |key: &str| sink[key].as_u64().unwrap_or_default();
    Ok((number("written"), number("lost"), sink["error"].as_str().map(str::to_owned)))
}

/// How often a log was rotated.
fn rotations(log: &Path) -> usize {
    (1..=50).take_while(|n| log.with_file_name(format!("log.{n}")).exists()).count()
}

/// A governed process that tries to write a log all the time.
struct Forger {
    end: Arc<AtomicBool>,
    tried: Arc<AtomicU32>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Forger {
    fn start(log: &Path) -> anyhow::Result<Self> {
        let (worker, end) = (Worker::start(&Entry::Run(SKILL))?, Arc::new(AtomicBool::new(false)));
        let (log, ended) = (log.to_string_lossy().into_owned(), Arc::clone(&end));
        let tried = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&tried);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // There is always a file of that name, and it is always the daemon's: also who would make one finds it.
                worker.act(&["append", &log, "forged"])?.refused()?;
                worker.act(&["create", &log])?.failed(libc::EEXIST)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self { end, tried, thread })
    }

    /// How often it was refused so far.
    fn tried(&self) -> u32 {
        self.tried.load(Ordering::Relaxed)
    }

    /// Ends it; an error when it was not refused.
    fn end(self) -> anyhow::Result<()> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the forger died"))?
    }
}

fn full(scene: &Scene) -> anyhow::Result<()> {
    let disk = scene.make_dir("disk")?;
    succeed(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", &disk])?;
    scene.keep_mounts(vec![Mount::of(&disk)]);
    let (small, rotated, socket) = (format!("{disk}/log"), scene.dir.join("kept/log"), scene.dir.join("syslog"));
    scene.make_dir("kept")?;
    // A syslog daemon that reads nothing, and a journal that is not there.
    let deaf = UnixDatagram::bind(&socket)?;
    let options = [
        "--sink".into(),
        "stdout".into(),
        "--sink".into(),
        format!("file:{small},max_size=10M"),
        "--sink".into(),
        format!("file:{},max_size=40K,keep=50", rotated.display()),
        "--sink".into(),
        format!("syslog:{}", socket.display()),
        "--sink".into(),
        format!("journald:{}", scene.dir.join("journal").display()),
        "--control-group".to_owned(),
        GROUP.to_string(),
    ];
    let daemon = Daemon::start_as(&scene.dir.join("daemon"), &manifest(scene)?, &[], &options)?;
    let worker = Worker::start(&Entry::Run(SKILL))?;
    let victim = scene.make_file("denied/file")?;
    let mark = daemon.events.mark();
    let started = Instant::now();
    for _ in 0..EVENTS / 40 {
        worker.act(&["unlink-many", &victim, "4", "10"])?.refused()?;
    }
    let took = started.elapsed();
    there(&victim)?;
    let count = || daemon.events.since(mark).iter().filter(|e| e.is("delete", "deny", &victim)).count() as u64;
    ensure!(eventually(Duration::from_secs(30), || count() == EVENTS), "{} of {EVENTS} came to stdout", count());
    ensure!(took < Duration::from_secs(30), "the acts took {took:?}");
    let lost = || daemon.status().and_then(|status| state(&status, &format!("file:{small}")));
    ensure!(eventually(Duration::from_secs(20), || lost().is_ok_and(|(_, lost, _)| lost > 0)), "{:?}", lost());
    let (_, missing, error) = lost()?;
    ensure!(error.is_some_and(|e| e.contains("No space left")) && missing > 0, "{missing}");
    let text = fs::read_to_string(&small)?;
    ensure!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "a line is torn");
    // All are in the file that is rotated.
    let all = || -> anyhow::Result<u64> {
        let mut found = 0;
        for entry in fs::read_dir(rotated.with_file_name(""))? {
            found += fs::read_to_string(entry?.path())?.lines().filter(|line| line.contains(&victim)).count() as u64;
        }
        Ok(found)
    };
    ensure!(eventually(Duration::from_secs(20), || all().is_ok_and(|n| n == EVENTS)), "{:?} of {EVENTS}", all());
    ensure!(rotated.with_file_name("log.2").exists(), "it was not rotated");
    // Nobody but the daemon writes them, though the skill's writes are not governed.
    for name in ["log", "log.1"] {
        let (file, mark) = (rotated.with_file_name(name).to_string_lossy().into_owned(), daemon.events.mark());
        worker.act(&["append", &file, "forged"])?.refused()?;
        let event = daemon.events.wait(mark, "the refusal", |e| e.is("write", "deny", &file))?;
        ensure!(event.text("reason") == "it is Enforcer's own", "{}", event.0);
    }
    let status = daemon.status()?;
    ensure!(state(&status, "journald:")?.1 > EVENTS, "{status}");
    ensure!(state(&status, "stdout")?.1 == 0, "{status}");
    // With room again it goes on, and says what is missing.
    succeed(&["mount", "-o", "remount,size=4m", &disk])?;
    worker.act(&["unlink", &victim])?.refused()?;
    let told = || {
        let text = fs::read_to_string(&small).unwrap_or_default();
        let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of = |kind: &str| records.iter().filter(|r| r["kind"] == kind).count() as u64;
        let dropped: u64 = records.iter().filter_map(|r| r["dropped"].as_u64()).sum();
        (of("delete"), dropped, records.iter().any(|r| r["reason"].as_str().is_some_and(|t| t.contains(&small))))
    };
    let accounted = eventually(Duration::from_secs(20), || told().0 > 0 && told().2 && told().1 >= missing);
    ensure!(accounted, "{:?}, {missing} were missing", told());
    let (deletes, dropped, _) = told();
    // Every delete is there or among the lost, beside which are few records of other kinds.
    ensure!(deletes + dropped > EVENTS && deletes + dropped < EVENTS + 60, "{deletes} and {dropped} of {EVENTS}");
    // Nor is there an instant at which a new file can be written.
    let (forger, before) = (Forger::start(&rotated)?, rotations(&rotated));
    // As long as it takes until both have happened often enough.
    let mut rounds = 0;
    while (rounds < EVENTS / 40 || forger.tried() <= 20) && !forger.thread.is_finished() {
        ensure!(rounds < EVENTS, "{} attempts to forge", forger.tried());
        worker.act(&["unlink-many", &victim, "4", "10"])?.refused()?;
        rounds += 1;
    }
    ensure!(eventually(Duration::from_secs(20), || rotations(&rotated) > before + 3), "{}", rotations(&rotated));
    forger.end()?;
    group_of(&daemon)?;
    drop(deaf);
    Ok(())
}

/// A daemon whose standard output nobody reads.
struct Unread(Child);

impl Drop for Unread {
    fn drop(&mut self) {
        signal_process(self.0.id(), libc::SIGTERM);
        let _ = self.0.wait();
    }
}

fn pipe(scene: &Scene) -> anyhow::Result<()> {
    let (policy, log) = (scene.dir.join("policy.yaml"), scene.dir.join("beside"));
    fs::write(&policy, manifest(scene)?)?;
    let mut child = Command::new(ENFORCER)
        .args(["daemon", "--sink", "stdout", "--sink"])
        .arg(format!("file:{}", log.display()))
        .arg("--policy")
        .arg(&policy)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the daemon")?;
    let unread = child.stdout.take();
    let daemon = Unread(child);
    let status = || ask(&json!({"op": "status"}));
    ensure!(eventually(START_LIMIT, || status().is_ok_and(|s| s["pid"] == daemon.0.id())), "it does not answer");
    let worker = Worker::start(&Entry::Run(SKILL))?;
    let victim = scene.make_file("denied/file")?;
    let (mut expected, started) = (0, Instant::now());
    let mut some = |count: u64| -> anyhow::Result<()> {
        for _ in 0..count / 40 {
            worker.act(&["unlink-many", &victim, "4", "10"])?.refused()?;
        }
        expected += count;
        let there =
            || fs::read_to_string(&log).unwrap_or_default().lines().filter(|l| l.contains(&victim)).count() as u64;
        ensure!(eventually(Duration::from_secs(30), || there() == expected), "{} of {expected} in the file", there());
        Ok(())
    };
    // Full: the kernel keeps 64 KiB of a pipe.
    some(EVENTS)?;
    let (written, _, error) = state(&status()?, "stdout")?;
    ensure!(written < EVENTS && error.is_none(), "{written} {error:?}");
    drop(unread);
    some(40)?;
    let closed = || -> anyhow::Result<(u64, u64, Option<String>)> { state(&status()?, "stdout") };
    let accounted = || closed().is_ok_and(|(written, lost, _)| written < EVENTS && written + lost > EVENTS + 40);
    ensure!(eventually(Duration::from_secs(20), accounted), "{:?}", closed()?);
    ensure!(closed()?.2.is_some_and(|e| e.contains("Broken pipe")), "{:?}", closed()?);
    ensure!(started.elapsed() < Duration::from_mins(1), "the acts took {:?}", started.elapsed());
    drop(worker);
    drop(daemon);
    there(&victim)
}

/// What syslog hears, once it listens: how many refusals, and how many lost events it is told of.
struct Listening {
    end: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Listening {
    fn start(socket: UnixDatagram) -> anyhow::Result<Self> {
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let (mut buffer, mut refusals, mut lost) = (vec![0; 1 << 16], 0, 0);
            loop {
                let Ok(length) = socket.recv(&mut buffer) else {
                    if ended.load(Ordering::Relaxed) {
                        return (refusals, lost);
                    }
                    continue;
                };
                let text = String::from_utf8_lossy(&buffer[..length]);
                let record = text.split_once("] ").and_then(|(_, json)| serde_json::from_str::<Value>(json).ok());
                let record = record.unwrap_or_default();
                refusals += u64::from(record["verdict"] == "deny");
                lost += record["dropped"].as_u64().unwrap_or_default();
            }
        });
        Ok(Self { end, thread })
    }

    fn end(self) -> anyhow::Result<(u64, u64)> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the listener died"))
    }
}

/// The next daemon tells that sink of them, exactly, and no other.
fn killed(scene: &Scene) -> anyhow::Result<()> {
    let (log, socket) = (scene.dir.join("waiting.log"), scene.dir.join("waiting.socket"));
    let deaf = UnixDatagram::bind(&socket)?;
    let options = ["stdout".into(), format!("file:{}", log.display()), format!("syslog:{}", socket.display())]
        .map(|sink| ["--sink".to_owned(), sink]);
    let mut daemon = Daemon::start_as(&scene.dir.join("daemon"), &manifest(scene)?, &[], &options.concat())?;
    let worker = Worker::start(&Entry::Run(SKILL))?;
    let (victim, mark) = (scene.make_file("denied/file")?, daemon.events.mark());
    for _ in 0..EVENTS / 40 {
        worker.act(&["unlink-many", &victim, "4", "10"])?.refused()?;
    }
    let refusals = |text: &str| text.lines().filter(|line| line.contains(&victim)).count() as u64;
    let in_file = || fs::read_to_string(&log).map_or(0, |text| refusals(&text));
    let out = || daemon.events.since(mark).iter().filter(|e| e.is("delete", "deny", &victim)).count() as u64;
    let there_all = eventually(Duration::from_secs(30), || in_file() == EVENTS && out() == EVENTS);
    ensure!(there_all, "{} and {} of {EVENTS}", in_file(), out());
    let lost = |daemon: &Daemon| daemon.status().and_then(|status| Ok(state(&status, "syslog:")?.1));
    ensure!(eventually(Duration::from_secs(20), || lost(&daemon).is_ok_and(|n| n > 0)), "{:?}", lost(&daemon));
    let (_, missing, _) = state(&daemon.status()?, "syslog:")?;
    ensure!(missing < EVENTS / 2, "{missing} were lost already: nothing waits");
    daemon.kill()?;
    let listening = Listening::start(deaf)?;
    daemon.restart()?;
    worker.act(&["unlink", &victim])?.refused()?;
    ensure!(eventually(Duration::from_secs(20), || in_file() == EVENTS + 1), "{} in the file", in_file());
    drop(worker);
    // It writes what waits, and ends.
    daemon.terminate()?;
    let (heard, told) = listening.end()?;
    ensure!(heard + told == EVENTS + 1, "{heard} heard and {told} lost are not {}", EVENTS + 1);
    ensure!(told > EVENTS / 2, "{told}: the queue was not lost");
    let dropped = |text: &str| text.lines().filter(|line| line.contains("\"dropped\":")).count();
    ensure!(dropped(&fs::read_to_string(&log)?) == 0, "the file's sink lost nothing, and is told it did");
    let told_out = daemon.events.since(mark).iter().any(|e| e.0["dropped"].is_u64());
    ensure!(!told_out, "standard output lost nothing, and is told it did");
    there(&victim)
}

/// The wall clock, which is set right again in the end.
struct Clock {
    wall: libc::timespec,
    boot: libc::timespec,
}

impl Clock {
    fn read(clock: libc::clockid_t) -> anyhow::Result<libc::timespec> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is valid for the call to write.
        ensure!(unsafe { libc::clock_gettime(clock, &raw mut now) } == 0, "{}", std::io::Error::last_os_error());
        Ok(now)
    }

    fn new() -> anyhow::Result<Self> {
        Ok(Self { wall: Self::read(libc::CLOCK_REALTIME)?, boot: Self::read(libc::CLOCK_BOOTTIME)? })
    }

    /// Sets it so many hours wrong.
    fn jump(&self, hours: i64) -> anyhow::Result<()> {
        let passed = Self::read(libc::CLOCK_BOOTTIME)?.tv_sec - self.boot.tv_sec;
        let to = libc::timespec { tv_sec: self.wall.tv_sec + passed + 3600 * hours, tv_nsec: self.wall.tv_nsec };
        // SAFETY: `to` is valid for the call to read.
        ensure!(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const to) } == 0, "the clock cannot be set");
        Ok(())
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // Of a guest that is thrown away.
        let _ = self.jump(0);
    }
}

fn clock(scene: &Scene) -> anyhow::Result<()> {
    let log = scene.dir.join("log").to_string_lossy().into_owned();
    let options = ["--sink".into(), "stdout".into(), "--sink".into(), format!("file:{log},max_age=1h")];
    let daemon = Daemon::start_as(&scene.dir.join("daemon"), &manifest(scene)?, &[], &options)?;
    let worker = Worker::start(&Entry::Run(SKILL))?;
    let victim = scene.make_file("denied/file")?;
    let clock = Clock::new()?;
    for (n, hours) in [0, -24, 24].into_iter().enumerate() {
        clock.jump(hours)?;
        let mark = daemon.events.mark();
        worker.act(&["unlink", &victim])?.refused()?;
        let event = daemon.events.wait(mark, "the refusal", |e| e.is("delete", "deny", &victim))?;
        let written = || fs::read_to_string(&log).unwrap_or_default().lines().filter(|l| l.contains(&victim)).count();
        ensure!(eventually(Duration::from_secs(20), || written() == n + 1), "{} of {} are written", written(), n + 1);
        // It has the time by the clock as it is.
        let date = succeed(&["date", "--utc", "+%Y-%m-%d"])?;
        ensure!(event.text("time").starts_with(date.trim()), "{} at {date}", event.text("time"));
    }
    // Nothing is old because the clock says so.
    ensure!(!Path::new(&format!("{log}.1")).exists(), "it was rotated");
    there(&victim)
}

/// `enforcer status` of a user with these groups.
fn status_of(uid: u32, gid: u32) -> anyhow::Result<bool> {
    let mut command = Command::new(ENFORCER);
    command.arg("status").uid(uid).gid(gid).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status()?.success())
}

/// Members of the group are let in, and nobody else.
fn group_of(daemon: &Daemon) -> anyhow::Result<()> {
    daemon.status()?;
    ensure!(status_of(1000, GROUP)?, "a member of the group is refused");
    ensure!(!status_of(1000, 1000)?, "a stranger is let in");
    ensure!(status_of(0, 0)?, "root is refused");
    Ok(())
}

fn group(scene: &Scene) -> anyhow::Result<()> {
    let policy = scene.dir.join("policy.yaml");
    fs::write(&policy, manifest(scene)?)?;
    let policy = policy.to_string_lossy().into_owned();
    let outcome = command(&[ENFORCER, "daemon", "--policy", &policy, "--control-group", "no-such-group"])?;
    ensure!(outcome.status == 1 && outcome.err.contains("there is no group no-such-group"), "{outcome:?}");
    Ok(())
}
