//! The `[dpdk]` section: which device a node on the DPDK port drives, and what it is given.

use super::place::Place;
use super::section::{self, Found, Section};
use super::{PlacedMember, subsection};
use crate::program::config::place::Document;
use crate::program::error::Error;
use crate::program::port::{self, DpdkPlan};
use std::net::Ipv4Addr;
use toml::Spanned;
use toml::de::DeTable;

/// Reads the section, if there is one, for the member `slot` of `cluster`.
pub(super) fn read(
    document: &Document<'_>,
    root: &Section<'_>,
    cluster: &str,
    slot: u8,
    members: &[PlacedMember],
) -> Result<Option<DpdkPlan>, Error> {
    let (found, empty) = (root.find("dpdk"), Spanned::new(0..0, DeTable::new()));
    let Some((me, [_, client_place, peer_place])) = members.iter().find(|(member, _)| member.slot == slot) else {
        return Ok(None);
    };
    if found.is_none() {
        return Ok(None);
    }
    let section = subsection(document, &found, &empty, "[dpdk]", section::DPDK)?;
    let device = section.required("device", "device = \"net_af_packet0,iface=eth0\"")?;
    let ip = *me.client.ip();
    let plan = DpdkPlan {
        device: device_text(&device)?,
        links: match section.find("links") {
            Some(found) => links(&found, &device)?,
            None => Vec::new(),
        },
        prefix_bits: section.integer_or("prefix_bits", port::PREFIX_BITS.into(), 1, 32)? as u8,
        gateway: section.find("gateway").map(|found| found.host()).transpose()?,
        core: section.find("core").map(|found| found.integer(0, 1023)).transpose()?.map(|core| core as usize),
        memory_mib: section.integer_or("memory_mib", port::MEMORY_MIB as usize, 16, 1 << 20)? as u32,
        huge_pages: section.find("huge_pages").map_or(Ok(false), |found| found.boolean())?,
        mbufs: section.integer_or("mbufs", port::MBUFS as usize, 1023, 1 << 24)? as u32,
        file_prefix: match section.find("file_prefix") {
            Some(found) => file_prefix(&found)?,
            None => port::file_prefix(cluster, &slot.to_string()),
        },
        ..DpdkPlan::new(ip)
    };
    let contradicts = |problem: String, help: &str, place: Box<Place>| {
        Err(Error::KeysContradict { problem, help: help.into(), place })
    };
    if let Some(queues) = section.find("queues")
        && queues.integer(1, 1024)? > 1
    {
        let problem = "a node serves on one core, which uses one pair of queues".to_owned();
        return contradicts(problem, "write `queues = 1`, or leave it out", queues.place());
    }
    if me.peer.ip() != me.client.ip() {
        let problem =
            format!("on the DPDK port a node has one address, and member {slot} has {ip} and {}", me.peer.ip());
        return contradicts(problem, "write the same address in `client` and `peer`", Box::new(peer_place.clone()));
    }
    if ip.is_loopback() {
        let problem = format!("{ip} is on no network that a device of DPDK's could reach");
        return contradicts(
            problem,
            "give the members addresses of the device's network, or write `port = \"udp\"` and remove [dpdk]",
            Box::new(client_place.clone()),
        );
    }
    if let Some(gateway) = plan.gateway
        && !plan.is_near(gateway)
    {
        let problem = format!("the gateway {gateway} is not in {ip}/{}", plan.prefix_bits);
        let place = section.find("gateway").map_or_else(|| section.place(), |found| found.place());
        return contradicts(problem, "name a router of this network, or correct `prefix_bits`", place);
    }
    let far = members.iter().find(|(member, _)| plan.gateway.is_none() && !plan.is_near(*member.peer.ip()));
    if let Some((member, [_, _, place])) = far {
        let (slot, address) = (member.slot, member.peer.ip());
        let problem = format!("member {slot}, {address}, is not in {ip}/{}, and there is no gateway", plan.prefix_bits);
        return contradicts(problem, "correct `prefix_bits` in [dpdk], or add a `gateway`", Box::new(place.clone()));
    }
    if let Some(least_mib) = plan.memory_short_mib() {
        let problem = format!("{} mbufs do not fit into {} MiB", plan.mbufs, plan.memory_mib);
        let found = section.find("mbufs").or_else(|| section.find("memory_mib"));
        let place = found.map_or_else(|| section.place(), |found| found.place());
        return contradicts(problem, &format!("write `memory_mib = {least_mib}` or more, or fewer `mbufs`"), place);
    }
    Ok(Some(plan))
}

fn device_text(found: &Found<'_>) -> Result<String, Error> {
    let text = found.text()?;
    port::check_device(text).map_err(|expected| found.bad(expected))?;
    Ok(text.to_owned())
}

/// Further devices, none of them named like another.
fn links(found: &Found<'_>, device: &Found<'_>) -> Result<Vec<String>, Error> {
    let links = found.list(port::LINKS_MAX, device_text)?;
    let mut names = vec![port::device_parts(device.text()?).0];
    for link in &links {
        let (name, _) = port::device_parts(link);
        if names.contains(&name) {
            return Err(found.bad(format!("devices that are numbered: there is another {name}")));
        }
        names.push(name);
    }
    Ok(links)
}

fn file_prefix(found: &Found<'_>) -> Result<String, Error> {
    let text = found.text()?;
    if port::is_file_prefix(text) { Ok(text.to_owned()) } else { Err(found.bad(port::FILE_PREFIX_FORM)) }
}

impl Found<'_> {
    fn host(&self) -> Result<Ipv4Addr, Error> {
        self.text()?.parse().map_err(|_| self.bad("an IPv4 address such as \"10.0.0.254\""))
    }
}

#[cfg(test)]
mod tests;
