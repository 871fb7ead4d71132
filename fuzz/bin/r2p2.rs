//! libFuzzer's entry to [`trimaran_fuzz::r2p2`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimaran_fuzz::r2p2::run(data));
