//! Configuration files: a configuration, or an error whose text shows the place; never a panic.

use trimaran_rpc::program::config::{self, Config};

/// Does what the bytes say.
///
/// # Panics
/// Where something is wrong with the code under test.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::parse("fuzz.toml", text) {
        assert!(!error.to_string().is_empty());
    }
    // And the example with something else in it.
    let example = config::example("kv", "kv");
    let _ = Config::parse("fuzz.toml", &format!("{example}\n{text}"));
    let _ = Config::parse("fuzz.toml", &format!("{text}\n{example}"));
}
