//! Opens a device of DPDK's, and says what keeps it from being opened.

use super::DpdkPlan;
use crate::program::error::Error;
use std::io::Write;
use trimaran_net::port::dpdk::{
    DeviceConfig, DeviceSpec, DpdkError, DpdkPort, EalOptions, FrameQueue, Memory, OpenOptions, open as open_device,
};
use trimaran_net::stack::StackConfig;
use trimaran_net::{FramePort, FrameTap, Framed, MultiHomed, PcapWriter};

/// A port over the plan's device. Takes some 0.2 s: DPDK starts.
pub(super) fn open(plan: &DpdkPlan) -> Result<DpdkPort, Error> {
    let (queue, stack) = open_queue(plan, &eal(plan, std::slice::from_ref(plan))?)?;
    Ok(DpdkPort::new(queue, stack))
}

/// The same, with every frame written down.
pub(super) fn open_captured<W: Write>(
    plan: &DpdkPlan,
    pcap: PcapWriter<W>,
) -> Result<Framed<FrameTap<FrameQueue, W>>, Error> {
    let (queue, stack) = open_queue(plan, &eal(plan, std::slice::from_ref(plan))?)?;
    Ok(Framed::new(FrameTap::new(queue, pcap), stack))
}

/// A port over the devices of several plans.
pub(super) fn open_several(plans: &[DpdkPlan]) -> Result<MultiHomed<FrameQueue>, Error> {
    together(open_queues(plans)?.into_iter().map(|(queue, stack)| Framed::new(queue, stack)))
}

/// The same, with every frame written down: those of each device by the writer in its place.
pub(super) fn open_several_captured<W: Write>(
    plans: &[DpdkPlan],
    pcaps: Vec<PcapWriter<W>>,
) -> Result<MultiHomed<FrameTap<FrameQueue, W>>, Error> {
    let queues = open_queues(plans)?.into_iter().zip(pcaps);
    together(queues.map(|((queue, stack), pcap)| Framed::new(FrameTap::new(queue, pcap), stack)))
}

fn together<P: FramePort>(mut ports: impl Iterator<Item = Framed<P>>) -> Result<MultiHomed<P>, Error> {
    let first = ports.next().ok_or_else(no_device)?;
    Ok(MultiHomed::new(first, ports))
}

fn no_device() -> Error {
    Error::DpdkRefused { problem: "the device has no queue".into(), help: "name another".into() }
}

/// How DPDK starts for devices of a process. Each brings the memory that its plan asks for; the rest is as `first` has it.
fn eal(first: &DpdkPlan, plans: &[DpdkPlan]) -> Result<EalOptions, Error> {
    let mib = plans.iter().fold(0u32, |sum, plan| sum.saturating_add(plan.memory_mib));
    let memory = if first.huge_pages { Memory::Huge { mib } } else { Memory::Ordinary { mib } };
    let mut cards = Vec::new();
    for plan in plans {
        if let DeviceSpec::Pci(address) = device(plan)? {
            cards.push(address);
        }
    }
    Ok(EalOptions { memory, cards, ..EalOptions::new(&first.file_prefix) })
}

fn device(plan: &DpdkPlan) -> Result<DeviceSpec, Error> {
    parse_device(&plan.device).map_err(|expected| Error::Usage {
        problem: format!("`{}` is no device of DPDK's", plan.device),
        help: format!("write {expected}"),
    })
}

/// One after the other, on DPDK as all of them need it.
fn open_queues(plans: &[DpdkPlan]) -> Result<Vec<(FrameQueue, StackConfig)>, Error> {
    let eal = eal(plans.first().ok_or_else(no_device)?, plans)?;
    plans.iter().map(|plan| open_queue(plan, &eal)).collect()
}

fn open_queue(plan: &DpdkPlan, eal: &EalOptions) -> Result<(FrameQueue, StackConfig), Error> {
    let options = OpenOptions {
        eal: eal.clone(),
        device: device(plan)?,
        // One core, one pair of queues.
        config: DeviceConfig { queues: 1, ..DeviceConfig::default() },
        mbufs: plan.mbufs,
    };
    let (_device, queues) = open_device(&options).map_err(|error| dpdk_error(&error))?;
    let queue = queues.into_iter().next().ok_or_else(no_device)?;
    let stack = StackConfig {
        more_ips: plan.more_ips.clone(),
        gateway: plan.gateway,
        payload_bytes: plan.payload_bytes,
        ..StackConfig::new(plan.ip, plan.prefix_bits)
    };
    Ok((queue, stack))
}

/// A device as it is written, or what was expected.
pub(super) fn parse_device(text: &str) -> Result<DeviceSpec, String> {
    text.parse().map_err(|_| {
        "a card's PCI address such as \"0000:03:00.0\", or a virtual device such as \"net_af_packet0,iface=eth0\""
            .to_owned()
    })
}

/// What DPDK or the machine says, in this program's words.
fn dpdk_error(error: &DpdkError) -> Error {
    let text = error.to_string();
    match error {
        // What the machine lacks ends with the command that mends it.
        DpdkError::Lacking(_) => {
            let (problem, help) =
                text.split_once(": ").unwrap_or((&text, "see `dpdk-devbind.py --status` and `ip link`"));
            Error::MachineLacks { problem: problem.to_owned(), help: help.to_owned() }
        }
        DpdkError::BadName { .. } | DpdkError::TooManyQueues { .. } => {
            Error::DpdkRefused { problem: text, help: "correct [dpdk] in the configuration, or --device".into() }
        }
        _ => Error::DpdkRefused {
            problem: text,
            help:
                "`dmesg | tail` and DPDK's lines above may say more; another `memory_mib`, `mbufs` or `device` may do"
                    .into(),
        },
    }
}
