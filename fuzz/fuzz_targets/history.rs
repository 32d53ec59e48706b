#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| holmes_fuzz::run("history", bytes));
