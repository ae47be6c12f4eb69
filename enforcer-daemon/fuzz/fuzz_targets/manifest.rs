//! `enforcer_daemon::fuzz::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer_daemon::fuzz::manifest(bytes));
