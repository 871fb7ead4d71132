//! libFuzzer's entry to [`trimaran_fuzz::peer_messages`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimaran_fuzz::peer_messages::run(data));
