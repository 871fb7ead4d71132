//! libFuzzer's entry to [`trimaran_fuzz::values`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimaran_fuzz::values::run(data));
