//! libFuzzer's entry to [`trimaran_fuzz::config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimaran_fuzz::config::run(data));
