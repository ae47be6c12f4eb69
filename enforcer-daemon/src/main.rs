//! The `enforcer` command.

fn main() -> std::process::ExitCode {
    enforcer_daemon::cli::main()
}
