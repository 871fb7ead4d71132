//! What single values cannot show: members that clash, budgets that contradict each other, timeouts too short.

use super::place::Place;
use super::section::{Found, Section};
use super::{Durability, ELECTION_HEARTBEATS_MIN, Limits, Net, PlacedMember, Timing};
use crate::program::error::Error;
use crate::program::port::{DpdkPlan, PortKind};
use std::path::PathBuf;
use thiserror::Error;

/// A configuration that works but serves its owner badly.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Warning {
    /// An even number of members.
    #[error("{members} members survive no more failures than {}", members - 1)]
    EvenCluster {
        /// How many there are.
        members: usize,
        /// The last one.
        place: Box<Place>,
    },
    /// A device of DPDK's is described and not used.
    #[error("[dpdk] is not used: the port is \"udp\"")]
    UnusedDpdk {
        /// The section.
        place: Box<Place>,
    },
}

impl Warning {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Warning::EvenCluster { .. } => "E0214",
            Warning::UnusedDpdk { .. } => "E0217",
        }
    }

    /// The line that it is about.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Warning::EvenCluster { place, .. } | Warning::UnusedDpdk { place } => Some(place),
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Warning::EvenCluster { .. } => "add a [[member]], or remove one: 3, 5 or 7 are sensible",
            Warning::UnusedDpdk { .. } => "write `port = \"dpdk\"` in [net], or add `--port dpdk` to `serve`",
        }
    }
}

pub(super) fn members(members: &[PlacedMember], slot: u8, slot_found: &Found<'_>) -> Result<(), Error> {
    let mut addresses = Vec::new();
    for (nth, (member, [slot_place, client_place, peer_place])) in members.iter().enumerate() {
        let earlier = members.iter().take(nth).find(|(other, _)| other.slot == member.slot);
        if let Some((_, [first, ..])) = earlier {
            let place = Box::new(slot_place.clone());
            return Err(Error::DuplicateSlot { slot: member.slot, first_line: first.line, place });
        }
        for (address, place) in [(member.client, client_place), (member.peer, peer_place)] {
            if let Some((_, first_line)) = addresses.iter().find(|(other, _)| *other == address) {
                let place = Box::new(place.clone());
                return Err(Error::DuplicateAddress { address, first_line: *first_line, place });
            }
            addresses.push((address, place.line));
        }
    }
    if members.iter().any(|(member, _)| member.slot == slot) {
        return Ok(());
    }
    let list = members.iter().map(|(member, _)| member.slot.to_string()).collect::<Vec<_>>().join(", ");
    Err(Error::SlotNotMember { slot, members: list, place: slot_found.place() })
}

pub(super) fn warnings(members: &[PlacedMember]) -> Vec<Warning> {
    let last = members.last().filter(|_| members.len().is_multiple_of(2));
    last.map(|(_, [slot, ..])| Warning::EvenCluster { members: members.len(), place: Box::new(slot.clone()) })
        .into_iter()
        .collect()
}

/// The section that says which device to use.
pub(super) fn port(net: &Net, dpdk: &Option<DpdkPlan>, place: Box<Place>) -> Result<(), Error> {
    match (net.port, dpdk) {
        (PortKind::Dpdk, None) => Err(Error::KeysContradict {
            problem: "`port = \"dpdk\"` needs a [dpdk] section that names a device".into(),
            help: "add [dpdk] with `device = \"net_af_packet0,iface=eth0\"`, or a card's PCI address".into(),
            place,
        }),
        _ => Ok(()),
    }
}

pub(super) fn unused_dpdk(net: &Net, root: &Section<'_>) -> Option<Warning> {
    let section = root.find("dpdk").filter(|_| net.port == PortKind::Udp)?;
    Some(Warning::UnusedDpdk { place: section.place() })
}

pub(super) fn timing(timing: &Timing, blamed: &Found<'_>) -> Result<(), Error> {
    let Timing { heartbeat, election_min, .. } = *timing;
    if election_min < heartbeat * ELECTION_HEARTBEATS_MIN {
        return Err(Error::TimingTight { heartbeat, election_min, place: blamed.place() });
    }
    Ok(())
}

pub(super) fn durability(durability: Durability, data_dir: &Option<PathBuf>, found: &Found<'_>) -> Result<(), Error> {
    let contradicts = |problem, help| {
        Err(Error::DurabilityContradicts { durability: durability.name(), problem, help, place: found.place() })
    };
    match (durability, data_dir) {
        (Durability::Volatile, None) => Ok(()),
        (Durability::Volatile, Some(_)) => {
            contradicts("keeps nothing in `data_dir`", "remove `data_dir`: this node's log lives in memory")
        }
        (_, None) => contradicts("needs a `data_dir`", "write `durability = \"volatile\"`, or name a `data_dir`"),
        (_, Some(_)) => Ok(()),
    }
}

pub(super) fn limits(limits: &Limits, section: &Section<'_>) -> Result<(), Error> {
    let Limits {
        log_bytes, uncommitted_bytes, request_bytes, pending_messages, pending_per_source, pending_bytes, ..
    } = *limits;
    let ordered = [
        ("uncommitted_bytes", uncommitted_bytes, "log_bytes", log_bytes),
        ("request_bytes", request_bytes, "uncommitted_bytes", uncommitted_bytes),
        ("request_bytes", request_bytes, "pending_bytes", pending_bytes),
        ("pending_per_source", pending_per_source, "pending_messages", pending_messages),
    ];
    match ordered.into_iter().find(|(_, small, _, large)| small > large) {
        None => Ok(()),
        Some((smaller, _, larger, _)) => {
            let blamed = section.find(smaller).or_else(|| section.find(larger));
            let place = blamed.map_or_else(|| section.place(), |found| found.place());
            Err(Error::LimitsContradict { smaller, larger, place })
        }
    }
}
