//! What can go wrong when a core starts or ends.

use crate::task::Panicked;

/// Why [`run`](crate::run()) or [`start`](crate::start) gave no output.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The configured CPU does not exist or this process may not use it. Probably a mistake in the configuration.
    #[error("cannot pin the core's thread to CPU {cpu}: {source}")]
    Pin {
        /// The CPU asked for.
        cpu: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel gave no thread: the process or the machine is at its limit.
    #[error("cannot start the core's thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The main task panicked; a fault of the program.
    #[error(transparent)]
    MainPanicked(#[from] Panicked),
    /// The core was shut down before its main task had ended.
    #[error("the core was shut down before its main task ended")]
    Stopped,
}
