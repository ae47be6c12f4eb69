//! `cargo xtask bench --daemon`: what the daemon costs, each figure beside a baseline that the same run measured.

use std::{ffi::OsString, fmt::Write as _, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Boot, commit};
use crate::{build, kernels, paths::Paths, suite::Lines, ui};

/// A figure.
struct Figure {
    what: &'static str,
    /// What was measured, in words.
    measured: String,
    /// What it is compared with, in words, and how many times that.
    baseline: Option<(String, f64)>,
    /// What it should be, in words.
    allowed: &'static str,
    met: bool,
}

/// Measures and prints a table; fails when the measurements cannot be made, not when a figure is large.
pub(super) fn run(paths: &Paths, json: Option<&Path>) -> Result<ExitCode> {
    let binaries = build::all(paths)?;
    let mut cargo = build::host_cargo(paths, &build::host_triple()?, "bench");
    cargo.args(["--package", "enforcer-daemon", "--bench", "policy", "--bench", "stream"]);
    ensure!(cargo.status().context("cargo bench")?.success(), "cargo bench failed");
    let kernel = kernels::get(paths, super::CHECKED_ON)?;
    ui::note(&format!("the daemon on kernel {} ({})", kernel.version, kernel.release));
    let mut said = Vec::new();
    let mut lines = Lines::new(|line| said.extend(serde_json::from_str::<Value>(line).ok()));
    let words = ["enforcer-tests", "bench-daemon"].map(OsString::from).to_vec();
    Boot { paths, binaries: &binaries, kernel: &kernel }.run(words, &mut lines)?;
    lines.end();
    let figures = figures(&Host(paths), &said)?;
    println!("kernel {} ({}), commit {}\n", kernel.version, kernel.release, commit(paths));
    print!("{}", table(&figures));
    if let Some(file) = json {
        let rows: Vec<Value> = figures.iter().map(Figure::json).collect();
        let all = json!({ "kernel": kernel.version, "commit": commit(paths), "figures": rows, "guest": said });
        fs::write(file, serde_json::to_string_pretty(&all)?).with_context(|| file.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Criterion's results on this host.
struct Host<'a>(&'a Paths);

impl Host<'_> {
    /// The median of a benchmark, in nanoseconds of CPU time for one iteration.
    fn median(&self, name: &str) -> Result<f64> {
        let file = self.0.target.join("criterion").join(name).join("new/estimates.json");
        let text = fs::read(&file).with_context(|| file.display().to_string())?;
        let value: Value = serde_json::from_slice(&text)?;
        value["median"]["point_estimate"].as_f64().with_context(|| format!("{}: no median", file.display()))
    }
}

fn figures(host: &Host<'_>, guest: &[Value]) -> Result<Vec<Figure>> {
    let said = |figure: &str, key: &str| said(guest, figure, key);
    let ms = |ns: f64| ns / 1e6;
    // How many events a benchmark's iteration has: `BATCH` in `benches/stream.rs`.
    let per_second = |ns: f64| 1024e9 / ns;
    let large = host.median("100000_digests/all")?;
    let yaml = host.median("100000_digests/baseline_yaml_alone")?;
    let elements = host.median("100000_digests/baseline_map_elements")?;
    let mut figures = vec![Figure {
        what: "100,000 digests: text to maps",
        measured: format!("{:.0} ms", ms(large)),
        baseline: Some((
            format!("YAML alone and as many map elements, {:.0} ms", ms(yaml + elements)),
            large / (yaml + elements),
        )),
        allowed: "1 s",
        met: large <= 1e9,
    }];
    for (what, name) in [
        ("one changed rule of 10: to the maps", "load_of_10"),
        ("one changed rule of 100,000: to the maps", "load_of_100000"),
    ] {
        let changed = host.median(&format!("one_changed_rule/{name}"))?;
        figures.push(Figure {
            what,
            measured: format!("{:.2} ms", ms(changed)),
            baseline: None,
            allowed: "10 ms",
            met: changed <= 1e7,
        });
    }
    let (theirs, ours) = (host.median("hashing_64_mib/baseline_sha256sum")?, host.median("hashing_64_mib/enforcer")?);
    let (emulated, emulated_ours) = (said("hashing", "sha256sum")?, said("hashing", "enforcer")?);
    for (what, ours, theirs) in
        [("hashing 64 MiB, here", ours, theirs), ("hashing 20 MB, in the guest", emulated_ours, emulated)]
    {
        figures.push(Figure {
            what,
            measured: format!("{:.0} ms", ms(ours)),
            baseline: Some((format!("sha256sum, {:.0} ms", ms(theirs)), ours / theirs)),
            allowed: "1.1 times",
            met: ours <= 1.1 * theirs,
        });
    }
    let copied = host.median("events/baseline_copy")?;
    for (what, name) in
        [("events given to a listener", "given_to_a_listener"), ("events written as JSON", "written_as_json")]
    {
        let cost = host.median(&format!("events/{name}"))?;
        figures.push(Figure {
            what,
            measured: format!("{:.0} a second", per_second(cost)),
            baseline: Some((
                format!("copying them out of the ring, {:.0} a second", per_second(copied)),
                cost / copied,
            )),
            allowed: "500,000 a second",
            met: per_second(cost) >= 500_000.0,
        });
    }
    let (made, written, lost) = (said("events", "made")?, said("events", "written")?, said("events", "lost")?);
    figures.push(Figure {
        what: "a ring that overflows, in the guest",
        measured: format!(
            "{made:.0} made, {written:.0} written, {lost:.0} counted as lost; {:.0} instructions each, from the ring to standard output",
            said("events", "instructions")?
        ),
        baseline: None,
        allowed: "none uncounted",
        met: made.to_bits() == (written + lost).to_bits(),
    });
    figures.extend(at_rest(guest)?);
    Ok(figures)
}

/// A number that the guest measured.
fn said(guest: &[Value], figure: &str, key: &str) -> Result<f64> {
    let line = guest.iter().find(|line| line["figure"] == figure);
    line.and_then(|line| line[key].as_f64()).with_context(|| format!("the guest did not measure {figure}: {key}"))
}

/// What the daemon costs while nothing happens.
fn at_rest(guest: &[Value]) -> Result<Vec<Figure>> {
    let said = |figure: &str, key: &str| said(guest, figure, key);
    let mut figures = Vec::new();
    let switches = said("idle", "switches")?;
    figures.push(Figure {
        what: "idle for a minute",
        measured: format!("{switches:.0} times on a CPU, {:.0} threads", said("idle", "threads")?),
        baseline: None,
        allowed: "none",
        met: switches < 1.0,
    });
    let memory = |key: &str| Ok::<f64, anyhow::Error>(said("idle", key)? * 1.024e-3);
    let (resident, own, ring) = (memory("resident_kb")?, memory("anonymous_kb")?, memory("ring_kb")?);
    figures.push(Figure {
        what: "resident memory",
        measured: format!(
            "{resident:.1} MB: {own:.1} its own, {ring:.1} the ring, {:.1} the program's file",
            resident - own - ring
        ),
        baseline: None,
        allowed: "15 MB",
        met: resident <= 15.0,
    });
    let (bare, watched, unwatched) = (said("read", "bare")?, said("read", "watched")?, said("read", "unwatched")?);
    figures.push(Figure {
        what: "read, outside every skill",
        measured: format!(
            "{:+.0} instructions while the daemon watches paths, {:+.0} without it",
            watched - bare,
            unwatched - bare
        ),
        baseline: Some((format!("bare, {bare:.0}"), watched / bare)),
        allowed: "none",
        met: watched.to_bits() == bare.to_bits(),
    });
    Ok(figures)
}

impl Figure {
    fn json(&self) -> Value {
        let Self { what, measured, baseline, allowed, met } = self;
        let (baseline, ratio) = baseline.as_ref().map_or((None, None), |(words, ratio)| (Some(words), Some(ratio)));
        json!({ "figure": what, "measured": measured, "baseline": baseline, "ratio": ratio, "allowed": allowed, "met": met })
    }
}

fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| figure | measured | baseline | ratio | allowed | met |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for Figure { what, measured, baseline, allowed, met } in figures {
        let (words, ratio) =
            baseline.as_ref().map_or_else(Default::default, |(words, ratio)| (words.clone(), format!("{ratio:.2}")));
        let met = if *met { "yes" } else { "**no**" };
        let _ = writeln!(text, "| {what} | {measured} | {words} | {ratio} | {allowed} | {met} |");
    }
    text
}
