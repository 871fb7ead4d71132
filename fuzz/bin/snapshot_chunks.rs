//! libFuzzer's entry to [`trimaran_fuzz::snapshot_chunks`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimaran_fuzz::snapshot_chunks::run(data));
