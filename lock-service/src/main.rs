//! The program `locks`: nodes, calls and a demo; `locks help` lists its commands.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    trimaran_rpc::serve::<lock_service::Locks>()
}
