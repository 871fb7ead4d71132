//! libFuzzer's entry to [`trimaran_fuzz::frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimaran_fuzz::frames::run(data));
