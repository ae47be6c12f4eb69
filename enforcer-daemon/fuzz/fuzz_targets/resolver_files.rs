//! `enforcer_daemon::fuzz::resolver_files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer_daemon::fuzz::resolver_files(bytes));
