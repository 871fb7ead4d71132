//! What a device is and can do, and the rules that it can be given.

use super::{Device, DpdkError, checked, control};
use dpdk_sys::dpdk_shim_info;
use std::ffi::{CStr, c_char};
use std::fmt;

/// What a device is and can do. It is used as far as [`DeviceConfig`](super::DeviceConfig) allows; none of it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// DPDK's name of its driver: `net_virtio`, `net_e1000_em`.
    pub driver: String,
    /// Pairs of queues, at most.
    pub queues: u16,
    /// Largest payload of a frame that it could be told to carry, in bytes: without Ethernet's header.
    pub mtu_max_bytes: u16,
    /// Spreads the flows of its senders over its receive queues (RSS).
    pub spreads_flows: bool,
    /// Says of received datagrams whether UDP's checksum is good.
    pub checks_udp: bool,
    /// Fills in IPv4's checksums.
    pub fills_ipv4: bool,
    /// Fills in UDP's checksums.
    pub fills_udp: bool,
}

impl fmt::Display for DeviceInfo {
    /// One line for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} queues at most", self.driver, self.queues)?;
        let can = [
            (self.spreads_flows, "spreads flows"),
            (self.checks_udp, "checks UDP"),
            (self.fills_ipv4, "fills in IPv4's checksums"),
            (self.fills_udp, "fills in UDP's checksums"),
        ];
        can.iter().filter(|(can, _)| *can).try_for_each(|(_, what)| write!(f, ", {what}"))
    }
}

/// Asks a port that exists, open or not.
pub(super) fn of_port(port: u16) -> Result<DeviceInfo, DpdkError> {
    let mut info =
        dpdk_shim_info { driver: [0; 32], queues: 0, mtu_max: 0, spreads: 0, checks: 0, fills_ipv4: 0, fills_udp: 0 };
    // SAFETY: the EAL runs, any number may be asked about, and the call fills one struct of numbers.
    checked("ask what the device can do", unsafe { dpdk_sys::dpdk_shim_info(port, &mut info) })?;
    let driver: &[c_char] = &info.driver;
    let bytes: Vec<u8> = driver.iter().map(|byte| *byte as u8).collect();
    let driver = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    Ok(DeviceInfo {
        driver: driver.to_string_lossy().into_owned(),
        queues: info.queues,
        mtu_max_bytes: info.mtu_max,
        spreads_flows: info.spreads != 0,
        checks_udp: info.checks != 0,
        fills_ipv4: info.fills_ipv4 != 0,
        fills_udp: info.fills_udp != 0,
    })
}

impl Device {
    /// What it is and can do.
    pub fn info(&self) -> Result<DeviceInfo, DpdkError> {
        of_port(self.port())
    }

    /// Has it put datagrams for a UDP port into one queue, whoever sends them. `false` where it cannot: then they come on whichever queue
    /// their flow is spread to, and whoever gets them hands them on. The rule lasts until the device closes; there is no limit but the
    /// device's own. Costs a few calls into the driver, up to milliseconds.
    pub fn steer(&self, udp_port: u16, queue: u16) -> bool {
        let _control = control();
        // SAFETY: the port is open; the driver refuses a queue that it has not.
        let steered = unsafe { dpdk_sys::dpdk_shim_steer_udp(self.port(), udp_port, queue) == 1 };
        tracing::debug!(port = self.port(), udp_port, queue, steered, "a rule for a UDP port");
        steered
    }
}
