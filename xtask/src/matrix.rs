//! Which attacks held on which kernel: the catalogue that the guest suite carries, with the outcomes of a run.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    kernels::{Kernel, Series},
    ui,
};

/// What a run has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Matrix {
    kernels: BTreeMap<Series, String>,
    outcomes: BTreeMap<(String, Series), Outcome>,
}

/// What became of one attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Held,
    GotThrough,
}

impl Matrix {
    /// Takes notice of a kernel that takes part.
    pub(crate) fn kernel(&mut self, kernel: &Kernel) {
        self.kernels.insert(kernel.series, kernel.version.clone());
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
        self.outcomes.insert((test.to_owned(), series), outcome);
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
                for (series, version) in &self.kernels {
                    write!(text, " {series} ({version}) |")?;
                }
                write!(text, "\n|---|---|---|---|{}\n", "---|".repeat(self.kernels.len()))?;
            }
            let hooks: Vec<_> = attack.hooks.iter().map(|hook| format!("`{hook}`")).collect();
            write!(text, "| {} | {} | {} | `{}` |", attack.number, attack.tries, hooks.join(", "), attack.test)?;
            for series in self.kernels.keys() {
                let outcome = self.outcomes.get(&(attack.test.clone(), *series));
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
const HEAD: &str = "# Attacks\n\nMade by `cargo xtask test --only attacks --matrix docs/attacks.md`; not to be edited by hand. Each attack runs within a \
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
        matrix.kernels.insert(Series::V6_1, "6.1.1".to_owned());
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
    fn what_was_not_tried_is_an_error() -> Result<()> {
        let attack = [parse(LINE)?];
        for lines in [&[][..], &["test exec::y ... ok"], &["test exec::x ... ignored, why"]] {
            assert!(matrix(lines).document(&attack).is_err(), "{lines:?}");
        }
        Ok(())
    }
}
