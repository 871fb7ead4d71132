//! Directories for a test, and cores without packets.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use trimaran_runtime::sim::{CoreIndex, World};
use trimaran_runtime::{Driver, Flushed, Instant, Polled};

/// Where real disks are tried: a file system on a device, and one in memory where the machine has it.
pub(crate) fn places() -> Vec<PathBuf> {
    let memory = PathBuf::from("/dev/shm");
    let mut places = vec![PathBuf::from(env!("CARGO_TARGET_TMPDIR"))];
    places.extend(memory.is_dir().then_some(memory));
    places
}

/// An empty directory that goes with this value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(place: &Path) -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("trimaran-disk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = place.join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// No packets; it sleeps until it is woken, without a limit where no timer is pending.
pub(crate) struct Still;

impl Driver for Still {
    fn poll(&mut self, _: Instant, _: usize) -> Polled {
        Polled::default()
    }

    fn flush(&mut self, _: Instant) -> Flushed {
        Flushed::default()
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        let wake = wake.expect("a core that can sleep has an eventfd");
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        let mut fds = [rustix::event::PollFd::new(&wake, rustix::event::PollFlags::IN)];
        // A signal ends it early, as it may.
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    }
}

/// A simulated machine without a network.
pub(crate) fn sim_world(seed: u64) -> (World<Still>, CoreIndex) {
    let mut world = World::new(seed);
    let core = world.add_core("machine", Still);
    (world, core)
}
