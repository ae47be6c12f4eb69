//! Which attacks held on which kernel: the catalogue that the guest suite carries, with the outcomes of the runs.
//!
//! All attacks on three kernels take most of an hour under emulation. So what a run has shown is kept, and counts as long as the daemon,
//! which has the kernel programs in it, and the kernel are the same: several runs may make one matrix, and a test is run again by itself.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    build::Binaries,
    kernels::{Kernel, Series},
    paths::Paths,
    ui,
};

/// Where it is kept, below `target`.
const KEPT: &str = "attacks.json";

/// What the runs have shown so far.
#[derive(Debug, Default)]
pub(crate) struct Matrix {
    file: PathBuf,
    kept: Kept,
}

/// The same as it is kept.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The SHA-256 of the daemon.
    daemon: String,
    kernels: BTreeMap<Series, OnKernel>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OnKernel {
    version: String,
    /// By the test's name.
    outcomes: BTreeMap<String, Outcome>,
}

/// What became of one attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Held,
    GotThrough,
}

impl Matrix {
    /// What earlier runs of this daemon have shown.
    ///
    /// # Errors
    /// When the daemon cannot be read.
    pub(crate) fn begin(paths: &Paths, binaries: &Binaries) -> Result<Self> {
        let content = fs::read(&binaries.enforcer).with_context(|| binaries.enforcer.display().to_string())?;
        let daemon = Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
            // Text takes everything.
            let _ = write!(text, "{byte:02x}");
            text
        });
        let file = paths.target.join(KEPT);
        let kept: Option<Kept> = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let kept = kept.filter(|kept| kept.daemon == daemon).unwrap_or(Kept { daemon, kernels: BTreeMap::new() });
        Ok(Self { file, kept })
    }

    /// Keeps it for runs to come.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep(&self) -> Result<()> {
        fs::write(&self.file, serde_json::to_vec(&self.kept)?).with_context(|| self.file.display().to_string())
    }

    /// Takes notice of a kernel that takes part. What another version of it has shown counts no more.
    pub(crate) fn kernel(&mut self, kernel: &Kernel) {
        self.version(kernel.series, &kernel.version);
    }

    fn version(&mut self, series: Series, version: &str) {
        let known = self.kept.kernels.entry(series).or_default();
        if known.version != version {
            *known = OnKernel { version: version.to_owned(), outcomes: BTreeMap::new() };
        }
    }

    /// Takes notice of one line of the suite's output.
    pub(crate) fn line(&mut self, series: Series, line: &str) {
        let Some((test, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
            return;
        };
        let outcome = match outcome {
            "ok" => Outcome::Held,
            "FAILED" => Outcome::GotThrough,
            _ => return,
        };
        self.kept.kernels.entry(series).or_default().outcomes.insert(test.to_owned(), outcome);
    }

    /// Writes the document.
    ///
    /// # Errors
    /// When an attack of the catalogue was not tried on one of the kernels: the document would say less than it seems to.
    pub(crate) fn write(&self, tests: &Path, file: &Path) -> Result<()> {
        let attacks = catalogue(tests)?;
        let text = self.document(&attacks)?;
        fs::write(file, text).with_context(|| file.display().to_string())
    }

    fn document(&self, attacks: &[Attack]) -> Result<String> {
        let mut text = HEAD.to_owned();
        let mut section = "";
        for attack in attacks {
            if attack.section != section {
                section = &attack.section;
                write!(text, "\n## {section}\n\n| | What is tried | Stopped by | Test |")?;
                for (series, OnKernel { version, .. }) in &self.kept.kernels {
                    write!(text, " {series} ({version}) |")?;
                }
                write!(text, "\n|---|---|---|---|{}\n", "---|".repeat(self.kept.kernels.len()))?;
            }
            let hooks: Vec<_> = attack.hooks.iter().map(|hook| format!("`{hook}`")).collect();
            write!(text, "| {} | {} | {} | `{}` |", attack.number, attack.tries, hooks.join(", "), attack.test)?;
            for (series, on) in &self.kept.kernels {
                let outcome = on.outcomes.get(&attack.test);
                let outcome = outcome.with_context(|| format!("{} was not tried on {series}", attack.test))?;
                text += match outcome {
                    Outcome::Held => " held |",
                    Outcome::GotThrough => " **failed** |",
                };
            }
            text.push('\n');
        }
        Ok(text)
    }
}

/// The document up to its first section.
const HEAD: &str = "# Attacks\n\nMade by `cargo xtask test --only attacks --matrix docs/attacks.md`, by one run or several of one daemon; not to be edited by hand. Each attack runs within a \
skill on a real kernel,\nbeside the same act on something allowed, and is judged by what really happened to the object, the bytes or the program.\n\
What is not stopped is in [the threat model](threat-model.md).\n";

/// One attack of the catalogue.
#[derive(Debug)]
struct Attack {
    section: String,
    number: String,
    tries: String,
    hooks: Vec<String>,
    test: String,
}

/// Asks the guest suite, which is static, for its catalogue.
fn catalogue(tests: &Path) -> Result<Vec<Attack>> {
    let lines = ui::capture(Command::new(tests).arg("attacks"))?;
    let attacks: Vec<Attack> = lines.lines().map(parse).collect::<Result<_>>()?;
    ensure!(!attacks.is_empty(), "the guest suite has no attacks");
    Ok(attacks)
}

fn parse(line: &str) -> Result<Attack> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("the attack {line:?}"))?;
    let text = |key: &str| {
        let text = value[key].as_str().with_context(|| format!("the attack {line:?} has no {key}"))?;
        anyhow::Ok(text.to_owned())
    };
    let hooks = value["hooks"].as_array().into_iter().flatten().filter_map(|hook| hook.as_str().map(str::to_owned));
    Ok(Attack {
        section: text("section")?,
        number: text("number")?,
        tries: text("tries")?,
        hooks: hooks.collect(),
        test: text("test")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"section":"Exec","number":"1.1","tries":"this","hooks":["a","b"],"test":"exec::x"}"#;

    fn matrix(lines: &[&str]) -> Matrix {
        let mut matrix = Matrix::default();
        matrix.version(Series::V6_1, "6.1.1");
        for line in lines {
            matrix.line(Series::V6_1, line);
        }
        matrix
    }

    #[test]
    fn an_attack_is_a_row() -> Result<()> {
        let text = matrix(&["test exec::x ... ok"]).document(&[parse(LINE)?])?;
        assert!(text.ends_with("| 1.1 | this | `a`, `b` | `exec::x` | held |\n"), "{text}");
        let text = matrix(&["test exec::x ... FAILED"]).document(&[parse(LINE)?])?;
        assert!(text.contains("**failed**"), "{text}");
        Ok(())
    }

    #[test]
    fn what_another_kernel_has_shown_does_not_count() -> Result<()> {
        let mut matrix = matrix(&["test exec::x ... ok"]);
        let kept: Kept = serde_json::from_slice(&serde_json::to_vec(&matrix.kept)?)?;
        assert_eq!(kept, matrix.kept, "what is kept is what was shown");
        matrix.version(Series::V6_1, "6.1.1");
        assert!(matrix.document(&[parse(LINE)?]).is_ok());
        matrix.version(Series::V6_1, "6.1.2");
        assert!(matrix.document(&[parse(LINE)?]).is_err());
        Ok(())
    }

    #[test]
    fn what_was_not_tried_is_an_error() -> Result<()> {
        let attack = [parse(LINE)?];
        for lines in [&[][..], &["test exec::y ... ok"], &["test exec::x ... ignored, why"]] {
            assert!(matrix(lines).document(&attack).is_err(), "{lines:?}");
        }
        Ok(())
    }
}
