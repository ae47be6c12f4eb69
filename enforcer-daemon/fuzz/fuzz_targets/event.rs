//! `enforcer_daemon::fuzz::event`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer_daemon::fuzz::event(bytes));
