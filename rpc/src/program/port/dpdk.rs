//! Opens a device of DPDK's, and says what keeps it from being opened.

use super::DpdkPlan;
use crate::program::error::Error;
use std::io::Write;
use trimaran_net::port::dpdk::preflight::{ThisMachine, check_device};
use trimaran_net::port::dpdk::{
    DeviceConfig, DeviceSpec, DpdkError, DpdkPort, EalOptions, FrameQueue, Memory, OpenOptions, open_links,
};
use trimaran_net::stack::StackConfig;
use trimaran_net::{Bundle, FramePort, FrameTap, Framed, MultiHomed, PcapWriter};

/// A port over the plan's device, which has no links beside it. Takes some 0.2 s: DPDK starts.
pub(super) fn open(plan: &DpdkPlan) -> Result<DpdkPort, Error> {
    let (queues, stack) = open_host(plan, &eal(plan, std::slice::from_ref(plan))?)?;
    Ok(DpdkPort::new(queues.into_iter().next().ok_or_else(no_device)?, stack))
}

/// The same, with every frame written down.
pub(super) fn open_captured<W: Write>(
    plan: &DpdkPlan,
    pcap: PcapWriter<W>,
) -> Result<Framed<FrameTap<FrameQueue, W>>, Error> {
    let (queues, stack) = open_host(plan, &eal(plan, std::slice::from_ref(plan))?)?;
    Ok(Framed::new(FrameTap::new(queues.into_iter().next().ok_or_else(no_device)?, pcap), stack))
}

/// A port over the devices of several plans, or of one that has links.
pub(super) fn open_several(plans: &[DpdkPlan]) -> Result<MultiHomed<Bundle<FrameQueue>>, Error> {
    together(open_bundles(plans)?.into_iter().map(|(bundle, stack)| Framed::new(bundle, stack)))
}

/// The same, with every frame written down: those of each host by the writer in its place.
pub(super) fn open_several_captured<W: Write>(
    plans: &[DpdkPlan],
    pcaps: Vec<PcapWriter<W>>,
) -> Result<MultiHomed<FrameTap<Bundle<FrameQueue>, W>>, Error> {
    let bundles = open_bundles(plans)?.into_iter().zip(pcaps);
    together(bundles.map(|((bundle, stack), pcap)| Framed::new(FrameTap::new(bundle, pcap), stack)))
}

fn together<P: FramePort>(mut ports: impl Iterator<Item = Framed<P>>) -> Result<MultiHomed<P>, Error> {
    let first = ports.next().ok_or_else(no_device)?;
    Ok(MultiHomed::new(first, ports))
}

/// The first thing that hinders one of a plan's virtual devices, if any.
pub(super) fn check(plan: &DpdkPlan) -> Result<(), Error> {
    for text in std::iter::once(&plan.device).chain(&plan.links) {
        if let DeviceSpec::Vdev(vdev) = device(text)? {
            check_device(&vdev, &ThisMachine).map_err(|lack| dpdk_error(&lack.into()))?;
        }
    }
    Ok(())
}

fn no_device() -> Error {
    Error::DpdkRefused { problem: "the device has no queue".into(), help: "name another".into() }
}

/// How DPDK starts for devices of a process. Each brings the memory that its plan asks for; the rest is as `first` has it.
fn eal(first: &DpdkPlan, plans: &[DpdkPlan]) -> Result<EalOptions, Error> {
    let mib = plans.iter().fold(0u32, |sum, plan| sum.saturating_add(plan.memory_mib));
    let memory = if first.huge_pages { Memory::Huge { mib } } else { Memory::Ordinary { mib } };
    let mut cards = Vec::new();
    for text in plans.iter().flat_map(|plan| std::iter::once(&plan.device).chain(&plan.links)) {
        if let DeviceSpec::Pci(address) = device(text)? {
            cards.push(address);
        }
    }
    Ok(EalOptions { memory, cards, ..EalOptions::new(&first.file_prefix) })
}

fn device(text: &str) -> Result<DeviceSpec, Error> {
    parse_device(text).map_err(|expected| Error::Usage {
        problem: format!("`{text}` is no device of DPDK's"),
        help: format!("write {expected}"),
    })
}

/// One after the other, on DPDK as all of them need it.
fn open_bundles(plans: &[DpdkPlan]) -> Result<Vec<(Bundle<FrameQueue>, StackConfig)>, Error> {
    let eal = eal(plans.first().ok_or_else(no_device)?, plans)?;
    let open = |plan| {
        let (queues, stack) = open_host(plan, &eal)?;
        let mut queues = queues.into_iter();
        let first = queues.next().ok_or_else(no_device)?;
        Ok((Bundle::new(first, queues), stack))
    };
    plans.iter().map(open).collect()
}

/// The queue of the plan's device, and those of its links.
fn open_host(plan: &DpdkPlan, eal: &EalOptions) -> Result<(Vec<FrameQueue>, StackConfig), Error> {
    let options = OpenOptions {
        eal: eal.clone(),
        device: device(&plan.device)?,
        // One core, one pair of queues.
        config: DeviceConfig { queues: 1, ..DeviceConfig::default() },
        mbufs: plan.mbufs,
    };
    let links = plan.links.iter().map(|link| device(link)).collect::<Result<Vec<_>, _>>()?;
    let queues = open_links(&options, &links).map_err(|error| dpdk_error(&error))?;
    let stack = StackConfig {
        more_ips: plan.more_ips.clone(),
        gateway: plan.gateway,
        payload_bytes: plan.payload_bytes,
        ..StackConfig::new(plan.ip, plan.prefix_bits)
    };
    Ok((queues, stack))
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
