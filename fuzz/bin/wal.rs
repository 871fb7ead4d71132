//! libFuzzer's entry to [`trimaran_fuzz::wal`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimaran_fuzz::wal::run(data));
