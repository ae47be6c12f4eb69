//! How long a policy takes from its text into the kernel's maps, on this host: `cargo xtask bench --daemon`, as root.
//!
//! The maps are those of the product; the programs are not loaded, so that this runs where the kernel refuses them. Beside each
//! figure stands its baseline: what the YAML library alone takes for the same text, and what the kernel takes for as many elements.

mod cpu;

use std::{
    collections::HashSet,
    fmt::Write as _,
    hint::black_box,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::maps::{HashMap, MapData};
use cpu::CpuTime;
use criterion::{BatchSize, Criterion, SamplingMode};
use enforcer_common::{
    ids::{Generation, ObjectId, SkillId},
    names::map,
    rules::{BinaryKey, BinaryRule, Versioned},
};
use enforcer_daemon::{
    compile::{
        Ids, compile,
        ruleset::Ruleset,
        world::{NoObject, World},
    },
    kernel::{
        Kernel,
        maps::PolicyMaps,
        pins::{self, Sets},
    },
    manifest::{Digest, Manifest, ManifestPath, Source, ValidManifest, parse},
};

/// How many digests the large policy lists.
const DIGESTS: u32 = 100_000;

/// A host without files, whose paths lead to themselves: digests and prefixes ask nothing of it.
struct Bare;

impl World for Bare {
    fn expand(&self, path: &ManifestPath) -> String {
        path.to_string()
    }
    fn digest(&mut self, path: &Path) -> Result<Digest, String> {
        Err(format!("{}: not found", path.display()))
    }
    fn objects(&mut self, path: &Path, _widens: bool) -> Result<Vec<(ObjectId, u32)>, NoObject> {
        Ok(self.object(path)?.map(|object| (object, 0)).into_iter().collect())
    }
    fn object(&mut self, _path: &Path) -> Result<Option<ObjectId>, NoObject> {
        Ok(None)
    }
    fn own(&self) -> Vec<PathBuf> {
        vec![]
    }
    fn cgroups(&mut self, _path: &str) -> Result<Vec<(u64, u32)>, String> {
        Ok(vec![])
    }
}

/// A policy of that many digests, the first of which is `first`.
fn text(digests: u32, first: u32) -> String {
    let mut text = "version: 1\nskills:\n  agent:\n    allow_binaries:\n".to_owned();
    for number in std::iter::once(first).chain(1..digests) {
        writeln!(text, "      - sha256:{number:064x}").expect("writing to a string");
    }
    text
}

fn manifest(text: &str) -> ValidManifest {
    let source = Source::from_bytes("bench.yaml", text.as_bytes().to_vec()).expect("text");
    parse(&source).and_then(Manifest::validate).expect("a manifest")
}

fn ruleset(text: &str) -> Ruleset {
    // The same names give the same numbers.
    compile(manifest(text).manifest(), &mut Bare, &mut Ids::default()).expect("it compiles").ruleset
}

fn maps() -> (Kernel, PolicyMaps) {
    pins::prepare().expect("bpffs; run this as root");
    let sets = Sets::find().expect("the pins");
    assert!(sets.in_force.is_none(), "something is in force on this host");
    let kernel = Kernel::maps_alone(&sets).expect("the maps");
    let maps = PolicyMaps::open(&kernel, Generation(0)).expect("new maps");
    (kernel, maps)
}

fn large(c: &mut Criterion<CpuTime>) {
    let text = text(DIGESTS, DIGESTS);
    let mut group = c.benchmark_group("100000_digests");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).warm_up_time(Duration::from_secs(1));
    group.bench_function("baseline_yaml_alone", |b| {
        b.iter(|| serde_yaml::from_str::<serde_yaml::Value>(black_box(&text)).expect("YAML"));
    });
    group.bench_function("parse_and_compile", |b| b.iter(|| ruleset(black_box(&text))));
    let rules = ruleset(&text);
    group.bench_function("baseline_map_elements", |b| {
        b.iter_batched(
            maps,
            |(kernel, maps)| {
                let mut map: HashMap<MapData, BinaryKey, Versioned<BinaryRule>> =
                    kernel.map(map::BINARIES).expect("the map");
                for number in 0..DIGESTS {
                    let mut digest = [0; 32];
                    digest[..4].copy_from_slice(&number.to_be_bytes());
                    let key = BinaryKey { skill: SkillId(1), digest: enforcer_common::ids::Digest(digest) };
                    map.insert(key, Versioned::default(), 0).expect("room");
                }
                (kernel, maps)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("load", |b| {
        b.iter_batched(
            || (maps(), rules.clone()),
            |((kernel, mut maps), rules)| {
                maps.apply(rules, &HashSet::new()).expect("it fits");
                (kernel, maps)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("all", |b| {
        b.iter_batched(
            maps,
            |(kernel, mut maps)| {
                maps.apply(ruleset(black_box(&text)), &HashSet::new()).expect("it fits");
                (kernel, maps)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// One rule of many changes: what is written is that rule.
fn small(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("one_changed_rule");
    group.sample_size(20).sampling_mode(SamplingMode::Flat).warm_up_time(Duration::from_secs(1));
    for digests in [10, DIGESTS] {
        let (kernel, mut maps) = maps();
        let sides = [ruleset(&text(digests, DIGESTS)), ruleset(&text(digests, DIGESTS + 1))];
        maps.apply(sides[0].clone(), &HashSet::new()).expect("it fits");
        let mut turn = 0;
        group.bench_function(format!("load_of_{digests}"), |b| {
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    turn += 1;
                    let rules = sides[turn % 2].clone();
                    // Not part of it: what no program can need any more is cleared away when there is nothing else to do.
                    maps.collect();
                    let began = cpu::now();
                    maps.apply(rules, &HashSet::new()).expect("it fits");
                    took += cpu::now().saturating_sub(began);
                    assert_eq!(maps.written(), 2, "one went, one came");
                }
                took
            });
        });
        drop((maps, kernel));
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().with_measurement(CpuTime).configure_from_args();
    large(&mut criterion);
    small(&mut criterion);
    criterion.final_summary();
}
