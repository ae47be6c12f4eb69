//! `enforcer policy`: looking at manifests, and pinning them, without loading them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::pin::PinArgs;
use crate::manifest::{self, KeyPath, ManifestErrors, Source, ValidManifest};
use crate::measure::Meter;
use crate::pins;

/// Check manifests, pin them and print their schema; needs no privileges and loads nothing
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Check manifests: exit status 0 if all are valid, else 1
    Check(CheckArgs),
    Pin(PinArgs),
    /// Print the JSON Schema of the manifest
    Schema,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Manifests; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Also fail where this host differs: a pinned binary is another, or a file that is named is missing
    #[arg(long)]
    strict: bool,
    /// Print one JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// Runs `enforcer policy …`.
///
/// # Errors
///
/// If standard output cannot be written. A bad manifest is an exit status.
pub fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match &args.command {
        PolicyCommand::Check(args) => Ok(check(args, &super::home(), &mut out)?),
        PolicyCommand::Pin(args) => {
            drop(out);
            super::pin::run(args)
        }
        PolicyCommand::Schema => {
            serde_json::to_writer_pretty(&mut out, &manifest::json_schema())?;
            writeln!(out)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What was found of one manifest.
struct Checked {
    file: String,
    result: Result<ValidManifest, ManifestErrors>,
    /// With `--strict`: where this host differs.
    differences: Vec<(KeyPath, String)>,
}

impl Checked {
    fn new(file: &Path, strict: bool, home: &Path) -> Self {
        let result = load(file);
        let mut meter = Meter::default();
        let differences = match &result {
            Ok(valid) if strict => pins::differences(valid.manifest(), home, |progress| meter.show(progress)),
            _ => vec![],
        };
        Self { file: file.display().to_string(), result, differences }
    }

    fn is_good(&self) -> bool {
        self.result.is_ok() && self.differences.is_empty()
    }
}

fn check(args: &CheckArgs, home: &Path, out: &mut impl Write) -> io::Result<ExitCode> {
    let results: Vec<_> = args.files.iter().map(|file| Checked::new(file, args.strict, home)).collect();
    if args.json {
        let reports: Vec<_> = results.iter().map(Report::new).collect();
        serde_json::to_writer_pretty(&mut *out, &reports)?;
        writeln!(out)?;
    } else {
        for Checked { file, result, differences } in &results {
            match result {
                Ok(valid) if !differences.is_empty() => {
                    writeln!(out, "{file}: {}", count(differences.len(), "difference"))?;
                    for (key, why) in differences {
                        let at = valid.manifest().position(key).map_or_else(String::new, |at| format!(":{at}"));
                        writeln!(out, "{file}{at}: {key}: {why}")?;
                    }
                }
                Ok(valid) => {
                    let (skills, warnings) = (valid.manifest().skills.len(), valid.warnings().len());
                    writeln!(out, "{file}: ok ({}, {})", count(skills, "skill"), count(warnings, "warning"))?;
                    valid.warnings().iter().try_for_each(|warning| writeln!(out, "{warning}"))?;
                    for key in pins::of_containers(valid.manifest()).iter().filter(|_| args.strict) {
                        let at = valid.manifest().position(key).map_or_else(String::new, |at| format!(":{at}"));
                        writeln!(
                            out,
                            "{file}{at}: {key}: not compared: paths of a skill with match.container are the container's"
                        )?;
                    }
                }
                Err(errors) => writeln!(out, "{errors}")?,
            }
        }
    }
    out.flush()?;
    Ok(if results.iter().all(Checked::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn load(file: &Path) -> Result<ValidManifest, ManifestErrors> {
    if file == "-" { manifest::parse(&Source::read_stdin()?)?.validate() } else { manifest::load(file) }
}

pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What `--json` says of one file.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    ok: bool,
    skills: Vec<&'a str>,
    errors: Vec<ErrorReport<'a>>,
    /// How many errors there are beyond those listed.
    more_errors: usize,
    warnings: Vec<WarningReport<'a>>,
    /// With `--strict`: where this host differs from the manifest.
    differences: Vec<WarningReport<'a>>,
}

#[derive(Serialize)]
struct ErrorReport<'a> {
    line: Option<u32>,
    column: Option<u32>,
    path: &'a str,
    found: &'a str,
    expected: &'a str,
    hint: Option<&'a str>,
    message: String,
}

#[derive(Serialize)]
struct WarningReport<'a> {
    line: Option<u32>,
    column: Option<u32>,
    path: &'a str,
    message: &'a str,
}

impl<'a> Report<'a> {
    fn new(Checked { file, result, differences }: &'a Checked) -> Self {
        let (skills, warnings) = match result {
            Ok(valid) => (valid.manifest().skills.keys().map(manifest::SkillName::as_str).collect(), valid.warnings()),
            Err(_) => (Vec::new(), [].as_slice()),
        };
        let errors = result.as_ref().err().map_or_else(Vec::new, |errors| errors.iter().collect());
        Self {
            file,
            ok: result.is_ok() && differences.is_empty(),
            skills,
            errors: errors
                .into_iter()
                .map(|error| ErrorReport {
                    line: error.position.map(|at| at.line),
                    column: error.position.map(|at| at.column),
                    path: error.path.as_str(),
                    found: &error.found,
                    expected: &error.expected,
                    hint: error.hint.as_deref(),
                    message: error.message(),
                })
                .collect(),
            more_errors: result.as_ref().err().map_or(0, ManifestErrors::more),
            warnings: warnings
                .iter()
                .map(|warning| WarningReport {
                    line: warning.position.map(|at| at.line),
                    column: warning.position.map(|at| at.column),
                    path: warning.path.as_str(),
                    message: &warning.message,
                })
                .collect(),
            differences: differences
                .iter()
                .map(|(key, message)| {
                    let position = result.as_ref().ok().and_then(|valid| valid.manifest().position(key));
                    let (line, column) = (position.map(|at| at.line), position.map(|at| at.column));
                    WarningReport { line, column, path: key.as_str(), message }
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str, json: bool) -> (ExitCode, String, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("policy.yaml");
        std::fs::write(&file, text).expect("written");
        let mut out = Vec::new();
        let args = CheckArgs { files: vec![file.clone()], strict: false, json };
        let code = check(&args, dir.path(), &mut out).expect("output");
        (code, String::from_utf8(out).expect("UTF-8"), file.display().to_string())
    }

    #[test]
    fn text_and_status() {
        let (code, out, file) =
            checked("skills: {a: {allow_binaries: [], allow_delete: [], network_scope: []}}\n", false);
        assert_eq!(code, ExitCode::SUCCESS);
        assert_eq!(
            out,
            format!(
                "{file}: ok (1 skill, 1 warning)\n{file}:1:10: skills.a: warning: allow_write is absent: writing is not governed\n"
            )
        );
        let (code, out, file) = checked("skills: {a: {allow_binary: []}}\n", false);
        assert_eq!(code, ExitCode::FAILURE);
        assert_eq!(
            out,
            format!(
                "{file}:1:14: skills.a.allow_binary: found the unknown key \"allow_binary\", expected a key of a skill\n  hint: did you mean `allow_binaries`?\n"
            )
        );
    }

    #[test]
    fn strict_fails_where_the_host_differs() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("tool"), "abc").expect("written");
        let file = dir.path().join("policy.yaml");
        let run = |list: &str, json| {
            let text = format!("skills: {{a: {{allow_binaries: [{list}], allow_delete: [], network_scope: []}}}}\n");
            std::fs::write(&file, text).expect("written");
            let mut out = Vec::new();
            let args = CheckArgs { files: vec![file.clone()], strict: true, json };
            let code = check(&args, dir.path(), &mut out).expect("output");
            (code, String::from_utf8(out).expect("UTF-8"))
        };
        let pinned = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let good = format!("~/tool, {{path: {}, sha256: \"{pinned}\"}}", at("tool"));
        assert_eq!(run(&good, false).0, ExitCode::SUCCESS);
        std::fs::write(at("tool"), "abcd").expect("written");
        let (code, out) = run(&good, false);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(out.contains("allow_binaries[1]: ") && out.contains(" now, which `sha256` does not name"), "{out}");
        assert_eq!(out.lines().count(), 2, "{out}");
        let (code, out) = run("~/missing", true);
        assert_eq!(code, ExitCode::FAILURE);
        let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((&value[0]["ok"], &value[0]["differences"][0]["line"]), (&false.into(), &1.into()));
    }

    #[test]
    fn json() {
        let (code, out, file) = checked("skills: {a: {via: 'x'}}\n", true);
        assert_eq!(code, ExitCode::FAILURE);
        let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let error = &value[0]["errors"][0];
        assert_eq!(value[0]["file"], file);
        assert_eq!(value[0]["ok"], false);
        assert_eq!((&error["line"], &error["column"]), (&1.into(), &19.into()));
        assert_eq!(error["path"], "skills.a.via");
        assert_eq!(error["found"], "\"x\"");
        for key in ["expected", "message"] {
            assert!(error[key].is_string(), "{key}");
        }
        let (code, out, _) = checked("skills: {a: {}, b: {}}\n", true);
        assert_eq!(code, ExitCode::SUCCESS);
        let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(value[0]["skills"], serde_json::json!(["a", "b"]));
        assert_eq!(value[0]["warnings"].as_array().map(Vec::len), Some(8));
    }
}
