//! Sinks that fail, block and come back.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixDatagram},
    path::Path,
};

use super::*;

fn spec(text: &str) -> Spec {
    text.parse().expect("a sink")
}

fn file(path: &Path, options: &str) -> Spec {
    spec(&format!("file:{}{options}", path.display()))
}

fn event(n: u64) -> Record {
    Record { pid: u32::try_from(n).expect("few"), ..enrich::own("delete", "test") }
}

fn start(specs: &[Spec], stream: &Stream) -> Sinks {
    Sinks::open(specs, Format::Json).and_then(|sinks| sinks.start(stream, vec![])).expect("they open")
}

/// Publishes `count` records and ends the sinks, so that everything has been written or counted.
fn through(specs: &[Spec], count: u64) -> Vec<SinkStatus> {
    let stream = Stream::default();
    let sinks = start(specs, &stream);
    let states = sinks.states();
    for n in 1..=count {
        stream.publish(event(n));
    }
    sinks.end();
    states.iter().map(|state| state.status()).collect()
}

fn lines(path: &Path) -> Vec<Record> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a whole line")).collect()
}

#[test]
fn a_sink_is_asked_for_in_a_word() {
    assert_eq!(spec("stdout"), Spec::Stdout);
    assert_eq!(spec("syslog"), Spec::Syslog("/dev/log".into()));
    assert_eq!(spec("journald:/tmp/j"), Spec::Journald("/tmp/j".into()));
    let Spec::File(file) = spec("file:/var/log/e.json,max_size=2M,max_age=12h,keep=3") else { panic!("a file") };
    assert_eq!((file.max_size, file.max_age, file.keep), (2 << 20, Some(Duration::from_hours(12)), 3));
    for wrong in ["", "file", "file:", "file:relative", "file:/x,keep=a", "file:/x,max_size=0", "file:/x,size=1", "udp"]
    {
        assert!(wrong.parse::<Spec>().is_err(), "{wrong}");
    }
}

#[test]
fn two_sinks_to_one_file_are_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    symlink(dir.path(), dir.path().join("link")).expect("a link");
    let other = dir.path().join("link/log");
    let (one, other_name) = (dir.path().join("a file"), dir.path().join("its other name"));
    fs::write(&one, "").and_then(|()| fs::hard_link(&one, &other_name)).expect("two names");
    for (a, b) in [
        (file(&path, ""), file(&path, ",keep=2")),
        (file(&path, ""), file(&other, "")),
        (file(&one, ""), file(&other_name, "")),
        (file(&path, ",keep=2"), file(&dir.path().join("log.2"), "")),
        (Spec::Stdout, Spec::Stdout),
        (spec("syslog"), spec("syslog:/dev/log")),
    ] {
        assert!(matches!(check(&[a, b]), Err(SpecError::Twice(_))));
    }
    assert_eq!(check(&[Spec::Stdout, file(&path, ""), file(&dir.path().join("log2"), ""), spec("journald")]), Ok(()));
}

#[test]
fn a_file_is_rotated_by_size_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let status = through(&[file(&path, ",max_size=2K,keep=100")], 200);
    assert_eq!((status[0].written, status[0].lost), (200, 0));
    let Spec::File(names) = file(&path, ",keep=100") else { panic!("a file") };
    let mut found: Vec<u32> = names.names().flat_map(|name| lines(&name)).map(|record| record.pid).collect();
    assert!(names.names().skip(1).filter(|name| name.exists()).count() > 5, "it was not rotated");
    found.sort_unstable();
    assert_eq!(found, (1..=200).collect::<Vec<u32>>());
    for name in names.names().filter(|name| name.exists()) {
        assert!(fs::metadata(name).expect("it is there").len() <= 2048);
    }
}

#[test]
fn a_file_is_rotated_by_age_and_keeps_what_it_shall() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let spec = file(&path, ",max_age=1s,keep=1");
    let stream = Stream::default();
    let sinks = start(std::slice::from_ref(&spec), &stream);
    for n in 1..=3 {
        stream.publish(event(n));
        thread::sleep(Duration::from_millis(1100));
    }
    sinks.end();
    let pids = |name: &str| lines(&dir.path().join(name)).iter().map(|r| r.pid).collect::<Vec<_>>();
    assert_eq!((pids("log"), pids("log.1"), pids("log.2")), (vec![3], vec![2], vec![]));
}

#[test]
fn a_file_from_the_future_is_not_rotated_by_age() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    fs::write(&path, "{}\n").expect("it is written");
    // As after a clock that was set back by a day.
    let ahead = std::time::SystemTime::now() + Duration::from_hours(24);
    fs::File::options().write(true).open(&path).and_then(|f| f.set_modified(ahead)).expect("a time");
    through(&[file(&path, ",max_age=1h")], 1);
    assert!(!dir.path().join("log.1").exists());
    assert_eq!(fs::read_to_string(&path).expect("text").lines().count(), 2);
}

#[test]
fn a_full_disk_loses_whole_lines_is_counted_and_slows_nobody() {
    // `/dev/full` is not a regular file and is refused; what a full disk does to a write is tried by a sink that is one.
    assert!(Sinks::open(&[spec("file:/dev/full")], Format::Json).is_err());
    let stream = Stream::default();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let good = start(&[file(&path, "")], &stream);
    let state = Arc::new(SinkState::new("full".into()));
    let room = Arc::new(AtomicU64::new(0));
    let taken = Arc::new(Mutex::new(vec![]));
    let sink = Box::new(Bounded { room: Arc::clone(&room), taken: Arc::clone(&taken) });
    let driver = Driver::new(sink, Arc::clone(&state), stream.clone()).expect("a timer");
    let watched = Arc::clone(&state);
    let Records { recent, to_come, losses, .. } = stream.listen_watched();
    losses.name(state.name.clone());
    let thread = thread::spawn(move || driver.run(recent, to_come, None));
    let settled = |count: u64| {
        let until = Instant::now() + Duration::from_secs(20);
        while watched.status().written + watched.status().lost < count && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    };
    for n in 1..=50 {
        stream.publish(event(n));
    }
    // What says that it loses is for the others.
    settled(50);
    let status = state.status();
    assert_eq!((status.written, status.lost), (0, 50), "{status:?}");
    assert!(status.error.is_some());
    room.store(u64::MAX, Ordering::Relaxed);
    stream.publish(event(51));
    settled(51);
    stream.close();
    thread.join().expect("it ended");
    good.end();
    let taken = taken.lock().expect("a list").clone();
    let told: u64 = taken.iter().filter_map(|record: &Record| record.dropped).sum();
    assert_eq!((told, taken.len()), (50, 2), "it is told what it lost, then goes on: {taken:?}");
    assert!(taken[0].reason.contains("sink full"), "{}", taken[0].reason);
    assert_eq!(state.status().error, None);
    let other = lines(&path);
    assert_eq!(other.iter().filter(|r| r.kind == "delete").count(), 51, "the other sink has all");
    assert!(other.iter().any(|r| r.kind == "drop" && r.reason.contains("sink full loses events")));
}

/// A sink with room for so many.
struct Bounded {
    room: Arc<AtomicU64>,
    taken: Arc<Mutex<Vec<Record>>>,
}

impl Sink for Bounded {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.room.load(Ordering::Relaxed) == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.taken.lock().expect("a list").push(record.clone());
        Ok(())
    }
}

#[test]
fn a_blocked_sink_slows_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let (socket, path) = (dir.path().join("log.sock"), dir.path().join("log"));
    // A syslog daemon that reads nothing: the kernel's queue of datagrams fills, and each further one waits for its time.
    let _daemon = UnixDatagram::bind(&socket).expect("a socket");
    let started = Instant::now();
    let stream = Stream::default();
    let specs = [spec(&format!("syslog:{}", socket.display())), file(&path, "")];
    let sinks = start(&specs, &stream);
    let shown = sinks.states();
    // More than syslog's queue takes, which alone would take hours; in portions, so that the file keeps up.
    let (portion, count) = (2000, 12_000);
    for n in 1..=count {
        stream.publish(event(n));
        while n % portion == 0 && shown[1].status().written < n && started.elapsed() < Duration::from_mins(2) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    let status: Vec<SinkStatus> = shown.iter().map(|state| state.status()).collect();
    assert!(status[1].written >= count && status[1].lost == 0, "the file waited for syslog: {status:?}");
    // It is counted and told while it is blocked, and not only when it goes on.
    assert!(status[0].written < 1000 && status[0].lost > 500, "{status:?}");
    assert!(status[0].error.is_some(), "{status:?}");
    sinks.end();
    let told = |r: &Record| r.kind == "drop" && r.reason.contains("sink syslog:") && r.reason.contains("too slowly");
    assert!(lines(&path).iter().any(told));
}

#[test]
fn a_named_pipe_that_nobody_reads_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    assert!(Sinks::open(&[file(&path, "")], Format::Json).is_err());
}

#[test]
fn syslog_and_the_journal_get_datagrams_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let (syslog, journal) = (dir.path().join("syslog"), dir.path().join("journal"));
    let specs = [spec(&format!("syslog:{}", syslog.display())), spec(&format!("journald:{}", journal.display()))];
    let stream = Stream::default();
    let bind = || [&syslog, &journal].map(|path| UnixDatagram::bind(path).expect("a socket"));
    let receive = |socket: &UnixDatagram| {
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
        let mut buffer = [0; 8192];
        let len = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    let first = bind();
    let sinks = start(&specs, &stream);
    stream.publish(event(7));
    let [a, b] = first.each_ref().map(receive);
    assert!(a.starts_with("<86>1 ") && a.contains("\"pid\":7"), "{a}");
    assert!(b.starts_with("MESSAGE\n") && b.contains("ENFORCER_PID\n"), "{b}");
    drop(first);
    fs::remove_file(&syslog).and_then(|()| fs::remove_file(&journal)).expect("they are there");
    let second = bind();
    stream.publish(event(8));
    let [a, b] = second.each_ref().map(receive);
    assert!(a.contains("\"pid\":8") && b.contains("ENFORCER_PID\n"), "{a} {b}");
    let states = sinks.states();
    sinks.end();
    assert!(states.iter().all(|s| s.status().lost == 0 && s.status().written == 2));
}

#[test]
fn every_sink_has_what_happened_before_it_began() {
    let dir = tempfile::tempdir().expect("a directory");
    let paths = [dir.path().join("a"), dir.path().join("b")];
    let stream = Stream::default();
    let records = paths.iter().map(|_| stream.listen_watched()).collect();
    // More than the stream keeps for who comes later.
    for n in 1..=5000 {
        stream.publish(event(n));
    }
    let specs: Vec<Spec> = paths.iter().map(|path| file(path, "")).collect();
    let sinks = Sinks::open(&specs, Format::Json).and_then(|sinks| sinks.start(&stream, records)).expect("they open");
    let states = sinks.states();
    let until = Instant::now() + Duration::from_mins(2);
    while states.iter().any(|state| state.status().written < 5000) && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    sinks.end();
    assert!(paths.iter().all(|path| lines(path).len() == 5000));
}

#[test]
fn a_disk_that_does_not_keep_what_it_took_is_told_once() {
    /// Takes all and keeps nothing.
    struct Forgetful;
    impl Sink for Forgetful {
        fn write(&mut self, _: &Record) -> io::Result<()> {
            Ok(())
        }
        fn settle(&mut self) -> io::Result<Option<Duration>> {
            Err(io::Error::from(io::ErrorKind::QuotaExceeded))
        }
    }
    let stream = Stream::default();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let good = start(&[file(&path, "")], &stream);
    let state = Arc::new(SinkState::new("forgetful".into()));
    let driver = Driver::new(Box::new(Forgetful), Arc::clone(&state), stream.clone()).expect("a timer");
    let Records { recent, to_come, losses, .. } = stream.listen_watched();
    losses.name(state.name.clone());
    let thread = thread::spawn(move || driver.run(recent, to_come, None));
    for n in 1..=100 {
        stream.publish(event(n));
    }
    let until = Instant::now() + Duration::from_secs(20);
    while state.status().written < 100 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(state.status().error.is_some(), "it says so as long as it is so");
    stream.close();
    thread.join().expect("it ended");
    good.end();
    assert_eq!(lines(&path).iter().filter(|record| record.kind == "drop").count(), 1);
}
