//! Being asked to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP become an error that ends the command in good order.

use crate::program::error::Error;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Remembers that a signal has come. A second one ends the process at once.
#[derive(Debug)]
pub struct Signals {
    came: Arc<AtomicBool>,
}

impl Signals {
    /// From now on signals are noted instead of ending the process.
    pub fn watch() -> Result<Self, Error> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag unset and sets it, the second finds it set.
            flag::register_conditional_default(signal, came.clone())
                .and_then(|_| flag::register(signal, came.clone()))
                .map_err(|source| Error::io("handle signals", source))?;
        }
        Ok(Signals { came })
    }

    /// [`Error::Interrupted`] once a signal has come.
    pub fn check(&self) -> Result<(), Error> {
        if self.came.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
