//! What the daemon does with each event, and how fast it hashes, on this host: `cargo xtask bench --daemon`.
//!
//! An event is what a governed process makes most often, a delete that is refused, in the ring's layout. One thread decodes it, looks its
//! names up, gives the record to a listener, which takes it, and writes it as JSON where a sink would: all that the daemon
//! does of it, on one core. What it costs to have the kernel's ring in between is measured in a guest, with the events that are
//! lost there. Hashing stands beside `sha256sum` on the same file.

mod cpu;

use std::{
    fs,
    hint::black_box,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, RwLock},
    time::Duration,
};

use cpu::CpuTime;
use criterion::{Criterion, SamplingMode, Throughput};
use enforcer_common::{
    event::{Event, Kind, RawPath, Reason, Verdict},
    ids::{RuleId, SkillId},
};
use enforcer_daemon::{
    compile::ruleset::{RuleText, SkillText},
    engine::Directory,
    events::{decode, enrich::Enricher, stream::Stream, text::Format},
    hash, mounts,
};

/// How many events are read before whoever listens has its turn: fewer than it may lag behind.
const BATCH: usize = 1024;
/// How large the file is that is hashed, in bytes.
const FILE: usize = 64 << 20;

/// A path as the kernel has it: from the leaf to the root.
fn raw<const N: usize>(path: &str, dev: u32) -> RawPath<N> {
    let text: String = path.split('/').rev().filter(|part| !part.is_empty()).flat_map(|part| [part, "\0"]).collect();
    let mut bytes = [0; N];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    RawPath { len: u32::try_from(text.len()).expect("short"), dev, truncated: 0, reserved: 0, bytes }
}

/// The cgroup that this process is in, as the kernel numbers it; 0 where there is none.
fn cgroup() -> u64 {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    fs::metadata(Path::new("/sys/fs/cgroup").join(path)).map_or(0, |meta| meta.ino())
}

/// A delete that was refused to this process.
fn event() -> Vec<u8> {
    let mut event = decode::event(&vec![0; size_of::<Event>()]).expect("as long as an event");
    let mounts = mounts::read(Path::new("/proc/self/mountinfo")).expect("the mounts");
    let dev = mounts.iter().find(|mount| mount.mount_point == Path::new("/")).map_or(1, |mount| mount.dev);
    event.pid = std::process::id();
    event.tid = event.pid;
    event.cgroup = cgroup();
    event.object.ino = 4711;
    event.object.dev = dev;
    event.skill = SkillId(1);
    event.rule = RuleId(1);
    (event.kind, event.verdict) = (Kind::Delete as u8, Verdict::Deny as u8);
    event.reason = Reason::PathNotListed as u8;
    event.comm[..2].copy_from_slice(b"rm");
    event.path = raw("/srv/agent/workspace/build/objects/main.o", dev);
    event.exe = raw("/usr/bin/rm", dev);
    let (start, length) = ((&raw const event).cast::<u8>(), size_of::<Event>());
    // SAFETY: the event is plain integers without padding, and lives until the bytes are copied.
    unsafe { std::slice::from_raw_parts(start, length) }.to_vec()
}

/// The rules behind the numbers.
fn directory() -> Arc<RwLock<Directory>> {
    let mut directory = Directory::default();
    let reason = Some("deletes outside the workspace need a human".into());
    directory.ruleset.names.insert(SkillId(1), SkillText { name: "agent".into(), reason, mode: "enforce" });
    let rule = RuleText { skill: "agent".into(), text: "allow_delete: /srv/agent/tmp".into() };
    directory.ruleset.rules.insert(RuleId(1), rule);
    Arc::new(RwLock::new(directory))
}

fn events(c: &mut Criterion<CpuTime>) {
    let bytes = event();
    let mut group = c.benchmark_group("events");
    group.throughput(Throughput::Elements(BATCH as u64)).warm_up_time(Duration::from_secs(1)).sample_size(30);
    group.bench_function("baseline_copy", |b| {
        b.iter(|| {
            for _ in 0..BATCH {
                black_box(decode::event(black_box(&bytes)));
            }
        });
    });
    for json in [false, true] {
        let (stream, mut enricher) = (Stream::default(), Enricher::new(directory()));
        let (_, mut listener) = stream.listen();
        let mut sink = fs::OpenOptions::new().write(true).open("/dev/null").expect("/dev/null");
        group.bench_function(if json { "written_as_json" } else { "given_to_a_listener" }, |b| {
            b.iter(|| {
                for _ in 0..BATCH {
                    let event = decode::event(black_box(&bytes)).expect("as long as an event");
                    stream.publish(enricher.record(&event));
                }
                let mut count = 0;
                while let Ok(record) = listener.try_recv() {
                    if json {
                        let mut line = Format::Json.line(&record);
                        line.push('\n');
                        sink.write_all(line.as_bytes()).expect("written");
                    }
                    count += 1;
                }
                assert_eq!(count, BATCH, "none is lost");
            });
        });
    }
    group.finish();
}

fn hashing(c: &mut Criterion<CpuTime>) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let content: Vec<u8> = (0..FILE).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect();
    file.write_all(&content).expect("written");
    let mut group = c.benchmark_group("hashing_64_mib");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes(FILE as u64));
    group.bench_function("baseline_sha256sum", |b| {
        b.iter_custom(|rounds| {
            let run = || cpu::of_child(Command::new("sha256sum").arg(file.path()).stdout(Stdio::null()));
            (0..rounds).map(|_| run().expect("sha256sum")).sum()
        });
    });
    group.bench_function("enforcer", |b| b.iter(|| hash::sha256_file(black_box(file.path())).expect("hashed")));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().with_measurement(CpuTime).configure_from_args();
    events(&mut criterion);
    hashing(&mut criterion);
    criterion.final_summary();
}
