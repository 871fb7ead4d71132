//! Handlers with a core of their own: whatever holds for those on the node's core holds for them. The same tests once more, with
//! an applier beside each node.

#![allow(clippy::duplicate_mod, reason = "each of the files brings its support along")]

#[path = "background.rs"]
mod background;
#[path = "late_copies.rs"]
mod late_copies;
#[path = "misbehaving.rs"]
mod misbehaving;
#[path = "sessions.rs"]
mod sessions;
#[path = "snapshots.rs"]
mod snapshots;
#[path = "typed_calls.rs"]
mod typed_calls;
