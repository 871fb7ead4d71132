//! Raw bindings to DPDK 22.11: what `trimaran-net` needs of it, and nothing clever.
//!
//! Empty unless the feature `link` is on, which `trimaran-net` does with its feature `dpdk`; a build without it needs neither
//! DPDK nor a C compiler.
//!
//! ```text
//!   wrapper.h    the headers, read by `cargo xtask bindings`
//!   bindings.rs  what it made of them; checked in, so that a build needs no libclang
//!   shim.h, .c   inline functions, once per burst; refuses headers that the bindings do not fit
//! ```
//!
//! Names, arguments and errors are DPDK's own: see its documentation of 22.11, and `shim.h` for `dpdk_shim_*`.

#[cfg(feature = "link")]
#[allow(missing_docs, non_camel_case_types, non_upper_case_globals, reason = "C's names, documented there")]
#[allow(clippy::all, reason = "generated")]
#[rustfmt::skip]
mod bindings;

#[cfg(feature = "link")]
pub use bindings::*;
