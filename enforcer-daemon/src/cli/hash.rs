//! `enforcer hash`: the digests of files, as lines to paste into a manifest.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::measure::{self, Meter};

/// Print the SHA-256 of files as lines of a manifest's lists
#[derive(Debug, clap::Args)]
pub struct HashArgs {
    /// Regular files; symbolic links are followed
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Prints one line per file, `- "sha256:…"  # /PATH`. A file that cannot be hashed is reported on standard error, the
/// others are still printed, and the exit status is 1.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn run(args: &HashArgs) -> anyhow::Result<ExitCode> {
    Ok(hash(&args.files, &mut io::stdout().lock(), &mut io::stderr().lock())?)
}

fn hash(files: &[PathBuf], out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut meter = Meter::default();
    let measured = measure::files(files, |progress| meter.show(progress));
    for (file, outcome) in files.iter().filter_map(|file| Some((file, measured.get(file)?))) {
        match outcome {
            Ok(digest) => {
                writeln!(out, "- \"{digest}\"  # {}", comment(file))?;
                out.flush()?;
            }
            Err(error) => {
                writeln!(err, "enforcer: {error}")?;
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// The absolute path, on one line whatever is in it.
fn comment(file: &Path) -> String {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).display().to_string();
    if path.contains(char::is_control) { path.escape_debug().to_string() } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    #[test]
    fn lines_go_into_a_manifest_and_errors_do_not_stop_the_rest() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b\nc"));
        std::fs::write(&a, "abc").expect("written");
        std::fs::write(&b, "").expect("written");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = hash(&[a.clone(), dir.path().to_owned(), b], &mut out, &mut err).expect("output");
        assert_eq!(code, ExitCode::FAILURE);
        let out = String::from_utf8(out).expect("UTF-8");
        let line = "- \"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"  # ";
        assert_eq!(out.lines().next(), Some(format!("{line}{}", a.display()).as_str()));
        assert_eq!(out.lines().count(), 2);
        let err = String::from_utf8(err).expect("UTF-8");
        assert_eq!(err, format!("enforcer: {}: is a directory, not a regular file\n", dir.path().display()));

        let list = out.replace("- ", "      - ");
        let text = format!("skills:\n  a:\n    allow_binaries:\n{list}");
        let source = manifest::Source::from_bytes("m", text.into_bytes()).expect("text");
        let parsed = manifest::parse(&source).expect("a manifest");
        assert_eq!(parsed.skills["a"].allow_binaries.as_ref().map(|list| list.entries().len()), Some(2));
    }
}
