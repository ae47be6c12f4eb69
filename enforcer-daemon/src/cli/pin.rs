//! `enforcer policy pin`: the digests of what lies at a manifest's paths, written into the manifest.

use std::io::{self, BufRead, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::manifest::edit::{self, Pin};
use crate::manifest::{self, MAX_BYTES, Manifest, Source};
use crate::measure::Meter;
use crate::pins::{self, Pinned};
use crate::replace::Original;

/// Write the digests of what lies at the paths of `allow_binaries` into the manifest
///
/// Comments and order are kept. What is pinned already and differs is reported, and replaced with --update alone.
#[derive(Debug, clap::Args)]
pub struct PinArgs {
    /// The manifest; a regular file, no symbolic link
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace digests that are not of what lies there any more, once the difference was shown and agreed to
    #[arg(long)]
    update: bool,
    /// Agree to the difference beforehand; without a terminal, --update needs it
    #[arg(long)]
    yes: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs `enforcer policy pin`. The exit status is 1 when something is left to do: a file could not be measured, a pinned
/// digest differs and was not replaced, or the answer was no.
///
/// # Errors
///
/// If the manifest cannot be read, is wrong, or cannot be written; then it is as it was.
pub fn run(args: &PinArgs) -> anyhow::Result<ExitCode> {
    let ask = io::stdin().is_terminal().then(|| io::stdin().lock());
    pin(args, &super::home(), ask, &mut io::stdout().lock(), &mut io::stderr().lock())
}

fn pin(
    args: &PinArgs,
    home: &Path,
    ask: Option<impl BufRead>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let file = args.file.display().to_string();
    let (original, bytes) = Original::read(&args.file, MAX_BYTES)?;
    let source = Source::from_bytes(&file, bytes)?;
    let manifest = manifest::parse(&source)?;
    let mut meter = Meter::default();
    let (mut changes, mut is_complete) = (vec![], true);
    for pinned in pins::look(&manifest, home, |progress| meter.show(progress)) {
        let left = match &pinned.found {
            Err(why) => Some(why.clone()),
            Ok(now) if pinned.differs() && (!args.update || pinned.named.len() > 1) => {
                Some(not_replaced(&pinned, now, args.update))
            }
            Ok(_) => None,
        };
        if let Some(why) = left {
            is_complete = false;
            writeln!(err, "{}: {why}", place(&manifest, &pinned))?;
        } else if pinned.named.is_empty() || pinned.differs() {
            changes.push(pinned);
        }
    }
    let code = if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if changes.is_empty() {
        writeln!(out, "{file}: nothing to pin")?;
        return Ok(code);
    }
    let new: Vec<Pin> = changes
        .iter()
        .filter_map(|p| Some(Pin { skill: p.skill.clone(), entry: p.entry, digest: *p.found.as_ref().ok()? }))
        .collect();
    let text = edit::pin(&source, &manifest, &new).map_err(|e| anyhow::anyhow!("{file}: {e}"))?;
    for pinned in &changes {
        show(&manifest, pinned, out)?;
    }
    out.flush()?;
    if args.dry_run {
        return Ok(code);
    }
    if changes.iter().any(|p| !p.named.is_empty()) && !args.yes && !agreed(&file, ask, err)? {
        return Ok(ExitCode::FAILURE);
    }
    original.replace(text.as_bytes())?;
    writeln!(
        out,
        "{file}: {} pinned; `enforcer reload` puts it in force",
        super::policy::count(changes.len(), "path")
    )?;
    Ok(code)
}

fn not_replaced(pinned: &Pinned, now: &manifest::Digest, update: bool) -> String {
    let path = &pinned.path;
    if update {
        format!("{path} is {now} now, which is none of the digests in the list `sha256`; such a list is edited by hand")
    } else {
        format!("{path} is {now} now, which `sha256` does not name; --update replaces it")
    }
}

/// `FILE:LINE:COLUMN: KEY`.
fn place(manifest: &Manifest, pinned: &Pinned) -> String {
    let key = pinned.key();
    let at = manifest.position(&key).map_or_else(String::new, |at| format!(":{at}"));
    format!("{}{at}: {key}", manifest.file())
}

fn show(manifest: &Manifest, pinned: &Pinned, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}: {}", place(manifest, pinned), pinned.path)?;
    pinned.named.iter().try_for_each(|digest| writeln!(out, "  - {digest}"))?;
    pinned.found.iter().try_for_each(|digest| writeln!(out, "  + {digest}"))
}

/// Whether someone agrees; nobody to ask is a no.
fn agreed(file: &str, ask: Option<impl BufRead>, err: &mut impl Write) -> io::Result<bool> {
    let Some(mut ask) = ask else {
        writeln!(err, "{file}: nothing was written: there is no terminal to ask at; --yes agrees to the difference")?;
        return Ok(false);
    };
    write!(err, "write this to {file}? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    ask.read_line(&mut answer)?;
    let yes = matches!(answer.trim(), "y" | "Y" | "yes");
    if !yes {
        writeln!(err, "{file}: nothing was written")?;
    }
    Ok(yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        dir: tempfile::TempDir,
    }

    impl Case {
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join("tool"), "abc").expect("written");
            std::fs::write(dir.path().join("policy.yaml"), text.replace("DIR", &dir.path().display().to_string()))
                .expect("written");
            Self { dir }
        }

        fn policy(&self) -> PathBuf {
            self.dir.path().join("policy.yaml")
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.policy()).expect("read").replace(&self.dir.path().display().to_string(), "DIR")
        }

        fn pin(&self, options: &[&str], answer: Option<&str>) -> (ExitCode, String, String) {
            let has = |option| options.contains(&option);
            let args =
                PinArgs { file: self.policy(), update: has("--update"), yes: has("--yes"), dry_run: has("--dry-run") };
            let (mut out, mut err) = (vec![], vec![]);
            let code = pin(&args, self.dir.path(), answer.map(str::as_bytes), &mut out, &mut err).expect("it runs");
            let text =
                |bytes| String::from_utf8(bytes).expect("UTF-8").replace(&self.dir.path().display().to_string(), "DIR");
            (code, text(out), text(err))
        }
    }

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const CHANGED: &str = "sha256:cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34";

    #[test]
    fn a_path_is_pinned_then_reported_then_updated() {
        let case = Case::new("skills:\n  a:\n    allow_binaries:\n      - ~/tool # mine\n");
        let pinned =
            format!("skills:\n  a:\n    allow_binaries:\n      - path: ~/tool # mine\n        sha256: \"{ABC}\"\n");
        let (code, out, err) = case.pin(&["--dry-run"], None);
        assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""));
        assert_eq!(out, format!("DIR/policy.yaml:4:9: skills.a.allow_binaries[0]: ~/tool\n  + {ABC}\n"));
        assert!(!case.text().contains("sha256"));
        let (code, out, _) = case.pin(&[], None);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(out.ends_with("DIR/policy.yaml: 1 path pinned; `enforcer reload` puts it in force\n"), "{out}");
        assert_eq!(case.text(), pinned);
        assert_eq!(case.pin(&[], None).1, "DIR/policy.yaml: nothing to pin\n");

        std::fs::write(case.dir.path().join("tool"), "abcdef").expect("written");
        let expected = "sha256:bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";
        let (code, out, err) = case.pin(&[], None);
        assert_eq!((code, out.as_str()), (ExitCode::FAILURE, "DIR/policy.yaml: nothing to pin\n"));
        assert!(err.contains(expected) && err.contains("--update"), "{err}");
        // Nobody to ask, and then someone who says no.
        for answer in [None, Some("n\n"), Some("")] {
            let (code, out, _) = case.pin(&["--update"], answer);
            assert_eq!(code, ExitCode::FAILURE);
            assert!(out.ends_with(&format!("  - {ABC}\n  + {expected}\n")), "{out}");
            assert_eq!(case.text(), pinned);
        }
        let (code, ..) = case.pin(&["--update"], Some("y\n"));
        assert_eq!((code, case.text()), (ExitCode::SUCCESS, pinned.replace(ABC, expected)));
        std::fs::write(case.dir.path().join("tool"), "abcdefg").expect("written");
        let (code, ..) = case.pin(&["--update", "--yes"], None);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(!case.text().contains(expected));
    }

    #[test]
    fn what_cannot_be_measured_is_reported_and_the_rest_is_pinned() {
        let case = Case::new("skills: {a: {allow_binaries: [DIR/missing, DIR/tool, DIR]}}\n");
        let (code, out, err) = case.pin(&[], None);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(out.contains("allow_binaries[1]: DIR/tool"), "{out}");
        assert!(err.contains("allow_binaries[0]: DIR/missing: No such file"), "{err}");
        assert!(err.contains("allow_binaries[2]: DIR: is a directory"), "{err}");
        assert_eq!(
            case.text(),
            format!("skills: {{a: {{allow_binaries: [DIR/missing, {{path: DIR/tool, sha256: \"{ABC}\"}}, DIR]}}}}\n")
        );
    }

    #[test]
    fn a_list_of_digests_is_left_to_its_author() {
        let text = format!(
            "skills:\n  a:\n    allow_binaries:\n      - path: DIR/tool\n        sha256: [\"{CHANGED}\", \"{ABC}\"]\n"
        );
        let case = Case::new(&text);
        assert_eq!(case.pin(&["--update", "--yes"], None).0, ExitCode::SUCCESS);
        std::fs::write(case.dir.path().join("tool"), "other").expect("written");
        let (code, _, err) = case.pin(&["--update", "--yes"], None);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(err.contains("edited by hand"), "{err}");
        assert_eq!(case.text(), text);
    }
}
