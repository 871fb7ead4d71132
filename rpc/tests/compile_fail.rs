//! What the macros say about mistakes, word by word, and what they must not complain about.
//!
//! `TRYBUILD=overwrite cargo test -p trimaran-rpc --test compile_fail` writes the expected words anew.

/// Each file is one mistake with its variations, beside the words that the compiler prints: no more errors than mistakes.
#[test]
fn mistakes_are_named_at_once_and_where_they_are() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

/// These pass by compiling with this file, under the lints of the workspace.
#[allow(dead_code, reason = "nobody calls them")]
#[path = "ui/pass"]
mod pass {
    mod arguments;
    mod helpers;
    mod raw;
    mod shadowed;
}
