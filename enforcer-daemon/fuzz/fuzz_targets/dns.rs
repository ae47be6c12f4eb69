//! `enforcer_daemon::fuzz::dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer_daemon::fuzz::dns(bytes));
