//! libFuzzer's entry to [`trimaran_fuzz::raft_machine`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimaran_fuzz::raft_machine::run(data));
