//! What closes a device: how it is found or made, configured, started and taken down.

use super::device::{DeviceConfig, DeviceStats, HEADER_BYTES};
use super::info::{self, DeviceInfo};
use super::interrupt::RxInterrupt;
use super::mempool::Mempool;
use super::queue::FRAME_MAX_BYTES;
use super::{DpdkError, PciAddress, checked, control};
use crate::burst::BURST_PACKETS;
use crate::offload::Offloads;
use dpdk_sys::{dpdk_shim_config, dpdk_shim_frame, dpdk_shim_received, rte_eth_stats};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Cards that this process has open. DPDK finds them when it starts, so that a port's being there does not tell.
static CARDS: Mutex<BTreeSet<PciAddress>> = Mutex::new(BTreeSet::new());
/// Largest payload of a frame that fits into a packet's buffer.
const MTU_MAX_BYTES: u16 = (FRAME_MAX_BYTES - HEADER_BYTES) as u16; // less than 2048
/// Bursts taken from a queue before its device is closed: more than any queue holds.
const DRAIN_BURSTS: usize = 2048;

/// A memif client that opens waits so long to be heard by its server. One that goes before that, as when the server of another link is
/// not there yet, would end the server's process: DPDK closes the connection, goes on waiting for it, and panics over that.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What closes the device when it is dropped.
#[derive(Debug)]
pub(super) struct Opened {
    /// `None` of a virtual device.
    card: Option<PciAddress>,
    pub(super) name: CString,
    pub(super) port: u16,
    pub(super) pool: Mempool,
    pub(super) offloads: Offloads,
    /// It is configured to have them.
    interrupts: bool,
    queues: u16,
    /// It connects to a memif server.
    is_memif_client: bool,
    /// There is something to be closed.
    made: bool,
    running: bool,
}

impl Opened {
    /// A virtual device, still to be made.
    pub(super) fn new(name: CString, pool: &Mempool, config: &DeviceConfig) -> Opened {
        Opened {
            card: None,
            name,
            port: 0,
            pool: pool.clone(),
            offloads: Offloads::default(),
            interrupts: false,
            queues: config.queues,
            is_memif_client: false,
            made: false,
            running: false,
        }
    }

    /// A card, which nobody else in this process has.
    pub(super) fn of_card(
        address: PciAddress,
        name: CString,
        pool: &Mempool,
        config: &DeviceConfig,
    ) -> Result<Opened, DpdkError> {
        if !CARDS.lock().unwrap_or_else(PoisonError::into_inner).insert(address) {
            return Err(DpdkError::NameInUse { name: address.to_string() });
        }
        let mut opened = Opened::new(name, pool, config);
        (opened.card, opened.made) = (Some(address), true);
        Ok(opened)
    }

    /// Pairs of queues.
    pub(super) fn queues(&self) -> u16 {
        self.queues
    }

    /// Makes a virtual device, or looks at a card again.
    pub(super) fn make(&mut self, arguments: &CStr) -> Result<(), DpdkError> {
        let _control = control();
        let mut port = 0;
        // DPDK would take the device of somebody else for the new one.
        // SAFETY: the EAL runs, and the call fills one number.
        if unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(self.name.as_ptr(), &mut port) } == 0 {
            return Err(DpdkError::NameInUse { name: self.name.to_string_lossy().into_owned() });
        }
        // SAFETY: the EAL runs and the strings outlive the call, which copies them.
        let added =
            unsafe { dpdk_sys::rte_eal_hotplug_add(self.bus().as_ptr(), self.name.as_ptr(), arguments.as_ptr()) };
        checked("make the device", added)?;
        self.made = true;
        // DPDK takes the older name as well.
        let is_client =
            |arguments: &str| arguments.split(',').any(|argument| matches!(argument, "role=client" | "role=slave"));
        self.is_memif_client =
            self.name.to_bytes().starts_with(b"net_memif") && arguments.to_str().is_ok_and(is_client);
        Ok(())
    }

    /// Learns the number of the device that has our name.
    pub(super) fn find(&mut self) -> Result<(), DpdkError> {
        let _control = control();
        // SAFETY: the EAL runs, and the call fills one number.
        let found = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(self.name.as_ptr(), &mut self.port) };
        checked("find the device", found).map(drop)
    }

    fn bus(&self) -> &'static CStr {
        if self.card.is_some() { c"pci" } else { c"vdev" }
    }

    pub(super) fn start(&mut self, config: &DeviceConfig) -> Result<(), DpdkError> {
        self.find()?;
        let _control = control();
        let port = self.port;
        let info = info::of_port(port)?;
        self.check_limits(config, &info)?;
        let on_card = self.card.is_some();
        let checksums = on_card && config.card_checksums;
        self.offloads = Offloads { ipv4: checksums && info.fills_ipv4, udp: checksums && info.fills_udp };
        self.interrupts = on_card;
        if self.interrupts
            && let Err(error) = self.configure_and_start(config, checksums)
        {
            tracing::debug!(%error, name = ?self.name, "tried again without interrupts");
            self.interrupts = false;
        }
        if !self.interrupts {
            self.configure_and_start(config, checksums)?;
        }
        // SAFETY: the port is open.
        if let Err(error) = checked("receive groups", unsafe { dpdk_sys::dpdk_shim_receive_groups(port) }) {
            // Drivers that receive everything have nothing to turn on, af_packet's is told by its socket.
            tracing::debug!(%error, name = ?self.name, "no filter for groups");
        }
        if config.promiscuous {
            // SAFETY: the port is open.
            checked("receive all frames", unsafe { dpdk_sys::rte_eth_promiscuous_enable(port) })?;
        }
        Ok(())
    }

    /// See [`HEARD_WITHIN`]; other devices than memif clients wait for nobody. A server that takes longer has a link that comes up later.
    #[allow(clippy::disallowed_methods, reason = "a device opens before its core polls")]
    pub(super) fn wait_to_be_heard(&self) {
        if !self.is_memif_client {
            return;
        }
        for _ in 0..HEARD_WITHIN.as_millis() / LOOK_EVERY.as_millis() {
            // SAFETY: the port is open.
            if unsafe { dpdk_sys::dpdk_shim_link_up(self.port) } == 1 {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        tracing::warn!(name = ?self.name, "the memif server is there but does not answer");
    }

    fn configure_and_start(&mut self, config: &DeviceConfig, checksums: bool) -> Result<(), DpdkError> {
        let port = self.port;
        let shim = dpdk_shim_config {
            queues: config.queues,
            mtu: config.mtu_bytes.unwrap_or(0),
            spread: self.card.is_some().into(),
            checksums: checksums.into(),
            interrupts: self.interrupts.into(),
        };
        // SAFETY: the port exists and is stopped.
        checked("configure the device", unsafe { dpdk_sys::dpdk_shim_configure(port, &shim) })?;
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: the port is configured, and the call changes two numbers.
        let adjusted = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &mut rx, &mut tx) };
        checked("size the device's queues", adjusted)?;
        for queue in 0..config.queues {
            // SAFETY: the port is configured for these queues, null stands for the driver's own settings, and the pool is never freed.
            let (receive, transmit) = unsafe {
                (
                    dpdk_sys::rte_eth_rx_queue_setup(port, queue, rx, 0, ptr::null(), self.pool.as_ptr()),
                    dpdk_sys::rte_eth_tx_queue_setup(port, queue, tx, 0, ptr::null()),
                )
            };
            checked("set up a receive queue", receive)?;
            checked("set up a transmit queue", transmit)?;
        }
        // SAFETY: all queues are set up.
        checked("start the device", unsafe { dpdk_sys::rte_eth_dev_start(port) })?;
        self.running = true;
        Ok(())
    }

    fn check_limits(&self, config: &DeviceConfig, info: &DeviceInfo) -> Result<(), DpdkError> {
        let device = || self.name.to_string_lossy().into_owned();
        if config.queues == 0 || config.queues > info.queues {
            return Err(DpdkError::TooManyQueues { device: device(), wanted: config.queues, limit: info.queues });
        }
        let limit = info.mtu_max_bytes.min(MTU_MAX_BYTES);
        match config.mtu_bytes {
            Some(wanted) if wanted > limit => Err(DpdkError::MtuTooLarge { device: device(), wanted, limit }),
            _ => Ok(()),
        }
    }

    /// The interrupt of a queue, where the device has one.
    pub(super) fn interrupt(&self, queue: u16) -> Option<RxInterrupt> {
        let info = info::of_port(self.port).ok().filter(|_| self.interrupts)?;
        RxInterrupt::of_queue(self.port, queue, &info.driver)
    }

    /// The device's own counters.
    pub(super) fn stats(&self) -> Result<DeviceStats, DpdkError> {
        let mut stats = MaybeUninit::<rte_eth_stats>::zeroed();
        // SAFETY: the port is open, and the call fills one struct of numbers, for which zeroes are valid, too.
        let (result, stats) = unsafe {
            let result = dpdk_sys::rte_eth_stats_get(self.port, stats.as_mut_ptr());
            (result, stats.assume_init())
        };
        checked("read the device's counters", result)?;
        Ok(DeviceStats {
            rx_frames: stats.ipackets,
            rx_bytes: stats.ibytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            rx_no_mbuf: stats.rx_nombuf,
            tx_frames: stats.opackets,
            tx_bytes: stats.obytes,
            tx_errors: stats.oerrors,
        })
    }

    /// Frees what waits in the receive queues: some drivers forget it when they close.
    fn drain(&self) {
        let mut frames = [const { MaybeUninit::<dpdk_shim_frame>::uninit() }; BURST_PACKETS];
        for queue in 0..self.queues {
            for _ in 0..DRAIN_BURSTS {
                let mut also = dpdk_shim_received { free_mbufs: 0, odd: 0 };
                // SAFETY: the port runs, nobody else has its queues any more, and the array holds a burst of frames that are freed once.
                let taken = unsafe {
                    let (pool, max) = (self.pool.as_ptr(), frames.len() as u16);
                    let frames = frames.as_mut_ptr().cast();
                    let taken = dpdk_sys::dpdk_shim_rx_burst(self.port, queue, pool, frames, max, &mut also);
                    dpdk_sys::dpdk_shim_free(frames, taken);
                    taken
                };
                if taken + also.odd == 0 {
                    break;
                }
            }
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !self.made {
            return;
        }
        let _control = control();
        if self.running {
            self.drain();
            // SAFETY: the port runs, and no queue of it is left to be used.
            let stopped = unsafe { dpdk_sys::rte_eth_dev_stop(self.port) };
            if let Err(error) = checked("stop the device", stopped) {
                tracing::warn!(%error, name = ?self.name, "a device of DPDK's stays behind");
            }
        }
        // SAFETY: the device of this name is ours and is stopped; removing closes it.
        let removed = unsafe { dpdk_sys::rte_eal_hotplug_remove(self.bus().as_ptr(), self.name.as_ptr()) };
        if let Err(error) = checked("remove the device", removed) {
            tracing::warn!(%error, name = ?self.name, "a device of DPDK's stays behind");
        }
        if let Some(card) = &self.card {
            CARDS.lock().unwrap_or_else(PoisonError::into_inner).remove(card);
        }
    }
}
