//! `enforcer generate`: manual pages and completions, for a package.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory that gets `man` and `completions`.
    dir: PathBuf,
}

/// Runs it.
///
/// # Errors
/// When a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (man, completions) = (args.dir.join("man"), args.dir.join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    clap_mangen::generate_to(Cli::command(), &man).with_context(|| man.display().to_string())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "enforcer", &completions)
            .with_context(|| completions.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_a_completion() {
        let dir = tempfile::tempdir().expect("a directory");
        run(&Args { dir: dir.path().to_owned() }).expect("they are written");
        for file in ["man/enforcer.1", "man/enforcer-daemon.1", "man/enforcer-policy-check.1", "completions/_enforcer"]
        {
            let text = fs::read_to_string(dir.path().join(file)).expect(file);
            assert!(text.len() > 100, "{file}: {text}");
        }
        assert!(dir.path().join("completions/enforcer.bash").exists());
        assert!(dir.path().join("completions/enforcer.fish").exists());
    }
}
