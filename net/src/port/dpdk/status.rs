//! What a device says about itself beyond the counters that all have: its link, and its driver's own statistics.
//!
//! For people and logs, not for the turn of a core: a driver may read dozens of registers for it.

use super::{Device, DpdkError, checked, control};
use dpdk_sys::{rte_eth_xstat, rte_eth_xstat_name};
use std::ffi::c_char;

/// Most statistics of one device; large cards have some hundreds.
const XSTATS_MAX: usize = 4096;

/// One of a driver's statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xstat {
    /// What the driver calls it, at most 63 bytes: `rx_good_packets`, `tx_q0_bytes`. Its unit is in the name.
    pub name: String,
    /// What it has counted since the device was opened.
    pub value: u64,
}

/// The state of a device's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Frames can pass.
    pub up: bool,
    /// Megabits a second, where the device knows.
    pub mbps: Option<u32>,
}

/// Tells when a device's link has changed, to whoever asks from time to time. A change and its undoing in between are not seen.
#[derive(Debug)]
pub struct LinkWatch {
    device: Device,
    last: LinkState,
    changes: u64,
}

impl Device {
    /// The driver's own statistics, in its order. Costs a walk over all of them; any thread may ask while cores use the queues.
    pub fn xstats(&self) -> Result<Vec<Xstat>, DpdkError> {
        const ACTION: &str = "read the device's statistics";
        let _control = control();
        let port = self.port();
        // SAFETY: the port is open, and without room the call only counts.
        let count = checked(ACTION, unsafe { dpdk_sys::rte_eth_xstats_get(port, std::ptr::null_mut(), 0) })? as usize;
        if count > XSTATS_MAX {
            let reason = format!("it has {count} of them, and {XSTATS_MAX} are the most that are read");
            return Err(DpdkError::Refused { action: ACTION, reason });
        }
        let mut names = vec![rte_eth_xstat_name { name: [0; 64] }; count];
        let mut values = vec![rte_eth_xstat { id: 0, value: 0 }; count];
        // SAFETY: the port is open, and the two vectors have room for as many as the calls are told.
        let (named, valued) = unsafe {
            let room = count as u32; // at most XSTATS_MAX
            (
                dpdk_sys::rte_eth_xstats_get_names(port, names.as_mut_ptr(), room),
                dpdk_sys::rte_eth_xstats_get(port, values.as_mut_ptr(), room),
            )
        };
        let (named, valued) = (checked(ACTION, named)? as usize, checked(ACTION, valued)? as usize);
        names.truncate(named);
        values.truncate(valued);
        let stat = |stat: &rte_eth_xstat| {
            let name = names.get(usize::try_from(stat.id).ok()?)?;
            Some(Xstat { name: text(&name.name), value: stat.value })
        };
        Ok(values.iter().filter_map(stat).collect())
    }

    /// The link as the device last knew it.
    pub fn link(&self) -> Result<LinkState, DpdkError> {
        let mut mbps = 0;
        // SAFETY: the port is open, and the call fills one number.
        let up = checked("read the link's state", unsafe { dpdk_sys::dpdk_shim_link(self.port(), &mut mbps) })?;
        let known = mbps != 0 && mbps != dpdk_sys::DPDK_SHIM_MBPS_UNKNOWN;
        Ok(LinkState { up: up == 1, mbps: known.then_some(mbps) })
    }
}

impl LinkWatch {
    /// Watches the link of `device` from now on.
    pub fn new(device: &Device) -> Result<LinkWatch, DpdkError> {
        Ok(LinkWatch { device: device.clone(), last: device.link()?, changes: 0 })
    }

    /// The state, where it is not the one of the last look.
    pub fn look(&mut self) -> Result<Option<LinkState>, DpdkError> {
        let link = self.device.link()?;
        if link == self.last {
            return Ok(None);
        }
        self.last = link;
        self.changes += 1;
        Ok(Some(link))
    }

    /// The state at the last look.
    pub fn last(&self) -> LinkState {
        self.last
    }

    /// Changes seen so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

/// The characters up to the first zero, or all.
fn text(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
