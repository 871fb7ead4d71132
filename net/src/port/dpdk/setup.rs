//! From a description to queues, in one call.

use super::preflight::{self, ThisMachine};
use super::{Device, DeviceConfig, DeviceSpec, DpdkError, Eal, EalOptions, FrameQueue, Mempool};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Everything that a device needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// How DPDK starts, if it does not run yet.
    pub eal: EalOptions,
    /// The device.
    pub device: DeviceSpec,
    /// How it is set up.
    pub config: DeviceConfig,
    /// Mbufs of the device's own pool: frames that wait in its queues and packets that anybody holds. Each takes 2.4 KiB of DPDK's
    /// memory, a page of 4 KiB where that is ordinary memory.
    pub mbufs: u32,
}

impl OpenOptions {
    /// 64 MiB of ordinary memory, 8191 mbufs (20 MiB) of it for a device with one pair of queues. `file_prefix` as in [`EalOptions`].
    /// A card on uio_pci_generic or igb_uio needs huge pages instead.
    pub fn new(file_prefix: &str, device: DeviceSpec) -> OpenOptions {
        OpenOptions { eal: EalOptions::new(file_prefix), device, config: DeviceConfig::default(), mbufs: 8191 }
    }
}

/// Opens a device: looks whether the machine has what it takes, starts DPDK, makes a pool and the device. Gives the device and one
/// queue for each core, as [`Device::open`].
///
/// DPDK starts once in a process: later calls use the one that runs, and must ask for the same [`OpenOptions::eal`]. Whoever opens
/// several cards names them all in [`EalOptions::cards`]; one alone need not be named there. Each call makes
/// a pool, which lasts as long as the process; open a device once, not again and again.
pub fn open(options: &OpenOptions) -> Result<(Device, Vec<FrameQueue>), DpdkError> {
    open_on(&pool(options, &[])?, options, &options.device)
}

/// As [`open`] that, and `links` with it, over the same pool: the devices of one host, each with one pair of queues, which a
/// [`Bundle`](crate::Bundle) makes one device of. All take frames for any station.
pub fn open_links(options: &OpenOptions, links: &[DeviceSpec]) -> Result<Vec<FrameQueue>, DpdkError> {
    let pool = pool(options, links)?;
    let config = DeviceConfig { queues: 1, promiscuous: !links.is_empty(), ..options.config.clone() };
    let options = OpenOptions { config, ..options.clone() };
    let mut queues = Vec::new();
    for device in std::iter::once(&options.device).chain(links) {
        queues.extend(open_on(&pool, &options, device)?.1);
    }
    Ok(queues)
}

/// A pool for these devices, once nothing is in their way.
fn pool(options: &OpenOptions, links: &[DeviceSpec]) -> Result<(Eal, Mempool), DpdkError> {
    static POOLS: AtomicU32 = AtomicU32::new(0);
    let mut eal = options.eal.clone();
    for device in std::iter::once(&options.device).chain(links) {
        if let DeviceSpec::Pci(address) = *device {
            if !eal.cards.contains(&address) {
                eal.cards.push(address);
            }
            preflight::check_card(address, &eal, &options.config, &ThisMachine)?;
        }
    }
    let eal = shared_eal(&eal)?;
    let pool = Mempool::create(eal, &format!("mbufs-{}", POOLS.fetch_add(1, Ordering::Relaxed)), options.mbufs)?;
    Ok((eal, pool))
}

fn open_on(
    (eal, pool): &(Eal, Mempool),
    options: &OpenOptions,
    device: &DeviceSpec,
) -> Result<(Device, Vec<FrameQueue>), DpdkError> {
    match device {
        DeviceSpec::Vdev(vdev) => Device::open(*eal, vdev, &options.config, pool),
        DeviceSpec::Pci(address) => Device::open_card(*eal, *address, &options.config, pool),
    }
}

/// DPDK as `options` say, started by the first call.
fn shared_eal(options: &EalOptions) -> Result<Eal, DpdkError> {
    static RUNNING: Mutex<Option<(EalOptions, Eal)>> = Mutex::new(None);
    // A panic in between leaves None, which is true.
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    match &*running {
        Some((started, eal)) if started == options => Ok(*eal),
        Some(_) => Err(DpdkError::StartedBefore),
        None => {
            let eal = Eal::start(options)?;
            *running = Some((options.clone(), eal));
            Ok(eal)
        }
    }
}
