//! The command line that every service has: a node, what operators ask it, calls from a terminal.
//!
//! ```text
//!  entry.rs   serve::<S>(): a whole program in one line          cli.rs    what may be typed
//!     |
//!     +-- serve.rs      nodes, from their configurations to a signal       config.rs, data.rs, machine.rs, signals.rs
//!     |     hosted.rs   whether several fit into one process, and the port under them
//!     +-- init.rs, status.rs      the operator's questions      \
//!     +-- methods.rs    what the service offers                  connect.rs    a client on this thread
//!     +-- check.rs, recover.rs, snapshot.rs      data directories and backups
//!     +-- call.rs       one call; arguments.rs: words to JSON   /
//!     +-- demo.rs       three nodes of this very program; cluster.rs, nodes.rs, site.rs, lab.rs
//!
//!  port.rs    the kernel's sockets or a device of DPDK's, under nodes and clients alike
//!
//!  error.rs -> report.rs      what went wrong, the line to blame, what mends it
//! ```
//!
//! A program with commands of its own flattens [`cli::Common`] into its command line and calls the modules that it
//! needs; `kv-example` does. Nothing here is used by a node while it serves, nor by the simulator.

pub mod arguments;
pub mod call;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod connect;
pub mod data;
pub mod demo;
pub mod entry;
pub mod error;
mod hosted;
pub mod init;
pub mod lab;
pub mod machine;
pub mod member;
pub mod methods;
pub mod nodes;
pub mod port;
pub mod recover;
pub mod report;
pub mod serve;
pub mod signals;
pub mod site;
pub mod snapshot;
pub mod status;

use crate::service::Service;
use error::Error;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

/// The `clippy.toml` that keeps clocks, randomness, threads and unordered maps out of a service, each with the reason.
pub const LINTS: &str = include_str!("../templates/clippy.toml");

/// Writes lines to standard output. A reader that has gone, as in `.. | head -1`, has read enough: that is no error.
///
/// # Errors
/// What else keeps them from being written.
pub fn say(lines: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::io("write to standard output", error)),
        _ => Ok(()),
    }
}

/// How a program and its service are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What messages call it: the file name of what was typed.
    pub name: String,
    /// What was typed to start it, perhaps with a path.
    pub typed: String,
    /// The service: names clusters, configurations and the demo's files.
    pub service: &'static str,
}

impl Program {
    /// This process, whose service is `S`.
    pub fn of<S: Service>() -> Self {
        let service = S::NAME;
        let path = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| service.to_owned());
        let typed = if path.is_empty() { name.clone() } else { path.to_string_lossy().into_owned() };
        Program { name, typed, service }
    }

    /// Ends a program: prints the error, if there is one, and chooses the exit code.
    pub fn end(&self, result: Result<(), Error>) -> ExitCode {
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprint!("{}", report::error(&error, &self.name));
                ExitCode::from(error.exit_code())
            }
        }
    }
}
