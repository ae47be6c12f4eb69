//! The guest suite: scenarios and attacks, run for real on the kernel under test.
//!
//! `enforcer-tests run [--place plain|loads|agents|systemd] [--attacks] [--filter SUBSTR] [--list]` is the suite;
//! `enforcer-tests mutate` leaves one program after another unattached and looks for an attack that notices. `enforcer-tests host --scratch DIR` makes the attacks on a
//! host that is in use, which `enforcer doctor --attack` calls. `enforcer-tests attacks` prints the catalogue of attacks, which are tests of the suite. `enforcer-tests act ACT…`
//! is the attacker: one act, done with raw system calls, whose exit status is its errno. `enforcer-tests worker` is an
//! attacker that takes acts on its standard input; the suite starts it inside a skill. `enforcer-tests bench` measures what
//! enforcement costs.
//!
//! What a test believes is what really happened: which files are left, which bytes a listener got, which program printed
//! its token. The errno and the event come second.

mod act;
mod attacks;
mod bench;
mod harness;
mod suites;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", options @ ..] => match harness::runner::Options::parse(options) {
            Ok(options) => harness::runner::run(&options, suites::of(options.place)),
            Err(e) => usage(&e),
        },
        ["mutate", options @ ..] => match harness::runner::Options::parse(options) {
            Ok(options) => harness::mutation::run(&options, suites::of(options.place)),
            Err(e) => usage(&e),
        },
        ["host", options @ ..] => match harness::host::Options::parse(options) {
            Ok(options) => harness::host::run(&options, suites::of(harness::runner::Place::Plain)),
            Err(e) => usage(&e),
        },
        ["attacks"] => {
            attacks::print();
            ExitCode::SUCCESS
        }
        ["act", act @ ..] => ExitCode::from(act::status(act)),
        ["worker"] => act::worker::serve(),
        ["bench", options @ ..] => match bench::Options::parse(options) {
            Ok(options) => bench::run(&options),
            Err(e) => usage(&e),
        },
        ["bench-daemon"] => bench::run_daemon(),
        ["bench-flood", count] => count.parse().map_or_else(|_| usage("bench-flood takes a number"), bench::flood),
        ["bench-worker", state, round, tcp, udp] => match (round.parse(), tcp.parse(), udp.parse()) {
            (Ok(round), Ok(tcp), Ok(udp)) => bench::worker::run(state, round, tcp, udp),
            _ => usage("bench-worker takes numbers"),
        },
        _ => usage("no command"),
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!(
        "enforcer-tests: {problem}\nusage: enforcer-tests run [--place PLACE] [--attacks] [--filter SUBSTR]… [--list]\n       enforcer-tests act ACT…\n       \
         enforcer-tests bench [--rounds N] [--many N] [--states STATE,…]\n       enforcer-tests bench-daemon"
    );
    ExitCode::from(2)
}
