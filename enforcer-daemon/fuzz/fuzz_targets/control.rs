//! `enforcer_daemon::fuzz::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer_daemon::fuzz::control(bytes));
