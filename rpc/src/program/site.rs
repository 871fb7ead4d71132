//! Where the nodes of a demo run: on this machine's loopback addresses, or each on a host of a lab.

use crate::program::error::Error;
use crate::program::lab::{self, Lab};
use crate::program::nodes::Placement;
use crate::program::port::{self, DpdkPlan, PortKind, PortPlan};
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// The last byte of the address of a lab's own client.
const CLIENT: u8 = 100;
/// The last byte of the address of that client on the kernel's sockets: no interface may have both.
const KERNEL_CLIENT: u8 = 101;

/// Buffers of such a client: few, since each opening of its device takes as many anew.
const CLIENT_MBUFS: u32 = 2047;

/// A place for nodes.
#[derive(Debug, Clone)]
pub enum Site {
    /// 127.0.0.1 and the addresses after it, with the kernel's sockets.
    Loopback,
    /// The hosts of a lab, with this port.
    Lab(Rc<Lab>, PortKind),
}

impl Site {
    /// The place for `nodes` nodes that a demo of `service` runs on `port`: a lab where that is DPDK's, for which this process's
    /// program is started anew. Call it before anything else.
    ///
    /// # Errors
    /// E0109 and E0110: a build without DPDK, a machine that makes no lab.
    pub fn of(port: PortKind, service: &str, nodes: u8) -> Result<Site, Error> {
        match port {
            PortKind::Udp => Ok(Site::Loopback),
            PortKind::Dpdk => Site::lab(port, service, nodes),
        }
    }

    /// A lab of `nodes` hosts, for either port. Call it before anything else, as [`Site::of`].
    ///
    /// # Errors
    /// As [`Site::of`].
    pub fn lab(port: PortKind, service: &str, nodes: u8) -> Result<Site, Error> {
        if !port::IS_DPDK_BUILT {
            return Err(Error::DpdkNotBuilt);
        }
        lab::enter(&directory(service))?;
        Ok(Site::Lab(Rc::new(Lab::build(nodes)?), port))
    }

    /// The same lab, with nodes on another port; what is no lab stays as it is.
    #[must_use]
    pub fn with_port(&self, port: PortKind) -> Site {
        match self {
            Site::Loopback => Site::Loopback,
            Site::Lab(lab, _) => Site::Lab(Rc::clone(lab), port),
        }
    }

    /// The address of a node's host.
    pub(super) fn ip(&self, slot: u8) -> Ipv4Addr {
        match self {
            Site::Loopback => Ipv4Addr::new(127, 0, 0, slot),
            Site::Lab(..) => lab::address(slot),
        }
    }

    /// What a node's configuration says about its port.
    pub(super) fn config_text(&self, slot: u8, placement: Placement, members: &[u8]) -> String {
        match self {
            Site::Lab(_, PortKind::Dpdk) => {
                let (device, links) = match placement {
                    Placement::Apart | Placement::Together => (device(lab::HOST_INTERFACE), Vec::new()),
                    Placement::DeviceEach => {
                        (format!("net_af_packet{slot},iface={}", lab::interface(slot)), Vec::new())
                    }
                    Placement::Links => links::of_node(slot, members),
                };
                let links = if links.is_empty() { String::new() } else { format!("links = {links:?}\n") };
                format!("\n[net]\nport = \"dpdk\"\n\n[dpdk]\ndevice = \"{device}\"\n{links}")
            }
            Site::Loopback | Site::Lab(_, PortKind::Udp) => String::new(),
        }
    }

    /// A command that runs `program` where the node shall run. What it leaves behind is in `directory`.
    pub(super) fn command(
        &self,
        slot: u8,
        placement: Placement,
        program: impl AsRef<OsStr>,
        directory: &Path,
    ) -> Command {
        match self {
            Site::Loopback => Command::new(program),
            Site::Lab(lab, kind) => {
                // The ends of links meet in one namespace, and this is the client's.
                let is_linked = placement == Placement::Links && *kind == PortKind::Dpdk;
                let mut command = if is_linked { Command::new(program) } else { lab.command(slot, program) };
                command.env(lab::RUNTIME_DIRECTORY, directory);
                command
            }
        }
    }

    /// The port of a client in this process.
    pub fn client_port(&self, placement: Placement, nodes: u8) -> PortPlan {
        match self {
            Site::Lab(_, PortKind::Dpdk) => {
                let (device, links) = match placement {
                    Placement::Links => links::of_client(nodes),
                    Placement::Apart | Placement::Together | Placement::DeviceEach => (device(lab::CLIENT), Vec::new()),
                };
                PortPlan::Dpdk(DpdkPlan {
                    device,
                    links,
                    mbufs: CLIENT_MBUFS,
                    prefix_bits: lab::PREFIX_BITS,
                    ..DpdkPlan::new(lab::address(CLIENT))
                })
            }
            Site::Loopback | Site::Lab(_, PortKind::Udp) => PortPlan::default(),
        }
    }

    /// Makes the place ready for nodes so placed: interfaces where the first host needs more of them, and addresses for the kernel's
    /// sockets where they are used, of a lab's hosts, all on the first where the nodes are in one process, and of this process's own
    /// interface.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn prepare(&self, nodes: u8, placement: Placement) -> Result<(), Error> {
        let Site::Lab(lab, kind) = self else { return Ok(()) };
        if self.needs_interfaces(placement) {
            lab.attach(nodes)?;
        }
        if *kind == PortKind::Dpdk {
            return Ok(());
        }
        lab.address_own(lab::GUEST, KERNEL_CLIENT)?;
        match placement {
            Placement::Apart => (1..=nodes).try_for_each(|slot| lab.address_host(slot, slot)),
            Placement::Together => (1..=nodes).try_for_each(|slot| lab.address_host(1, slot)),
            Placement::DeviceEach | Placement::Links => lab.address_apart(nodes),
        }
    }

    /// The first host has an interface for each node. Links stand for them, but the kernel's sockets have no such thing.
    fn needs_interfaces(&self, placement: Placement) -> bool {
        match (placement, self) {
            (Placement::DeviceEach, Site::Lab(..)) | (Placement::Links, Site::Lab(_, PortKind::Udp)) => true,
            (_, Site::Lab(..) | Site::Loopback) => false,
        }
    }

    /// Undoes that: where DPDK's port has an address the kernel must have none, or it answers, too.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn clear(&self, nodes: u8, placement: Placement) -> Result<(), Error> {
        let Site::Lab(lab, kind) = self else { return Ok(()) };
        if *kind == PortKind::Udp {
            lab.unaddress_own(lab::GUEST)?;
            (1..=nodes).try_for_each(|slot| lab.unaddress_host(slot))?;
        }
        if !self.needs_interfaces(placement) {
            return Ok(());
        }
        match kind {
            PortKind::Udp => lab.unaddress_apart(nodes).and_then(|()| lab.detach(nodes)),
            PortKind::Dpdk => lab.detach(nodes),
        }
    }

    /// What is to be typed from another terminal: in front of a command, and behind its words to name the `servers`.
    pub fn typed(&self, servers: &[SocketAddrV4]) -> (String, String) {
        let list = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match self {
            Site::Loopback => (String::new(), format!(" --servers {list}")),
            Site::Lab(_, kind) => {
                let enter = format!("sudo nsenter --net=/proc/{}/ns/net ", std::process::id());
                let (guest, bits) = (lab::address(KERNEL_CLIENT), lab::PREFIX_BITS);
                let own = match kind {
                    PortKind::Udp => String::new(),
                    PortKind::Dpdk => format!(" --device {} --address {guest}/{bits}", device(lab::GUEST)),
                };
                (enter, format!(" --servers {list}{own}"))
            }
        }
    }
}

/// The device of DPDK's over an interface of the kernel's.
fn device(interface: &str) -> String {
    format!("net_af_packet0,iface={interface}")
}

/// Links of shared memory, each between two whose names it has: of the nodes, and of the client. A node waits for the client, and for nodes
/// of higher slots.
mod links {
    use super::lab;

    const CLIENT: &str = "c";

    /// One end; the server is the one who comes first.
    fn end(own: &str, other: &str, is_server: bool) -> String {
        let (role, ends) =
            if is_server { ("server", format!("{own}-{other}")) } else { ("client", format!("{other}-{own}")) };
        format!("net_memif_{own}{other},role={role},socket-abstract=yes,socket=link-{ends}")
    }

    fn split(mut ends: Vec<String>) -> (String, Vec<String>) {
        let first = if ends.is_empty() { String::new() } else { ends.remove(0) };
        (first, ends)
    }

    /// The first device and the others of a node, to the client and to each of `members`.
    pub(super) fn of_node(slot: u8, members: &[u8]) -> (String, Vec<String>) {
        let others = members.iter().filter(|member| **member != slot);
        let to_nodes = others.map(|other| end(&slot.to_string(), &other.to_string(), slot < *other));
        split(std::iter::once(end(&slot.to_string(), CLIENT, true)).chain(to_nodes).collect())
    }

    /// The client's, to each node.
    pub(super) fn of_client(nodes: u8) -> (String, Vec<String>) {
        split((1..=nodes.min(lab::HOSTS_MAX)).map(|slot| end(CLIENT, &slot.to_string(), false)).collect())
    }
}

/// Where a demo of `service` keeps what it needs.
pub(super) fn directory(service: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{service}-demo-{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The devices of all nodes in the order in which they are opened, then the client's.
    fn devices(nodes: u8) -> Vec<String> {
        let members: Vec<u8> = (1..=nodes).collect();
        let all = members.iter().map(|slot| links::of_node(*slot, &members)).chain([links::of_client(nodes)]);
        all.flat_map(|(first, others)| std::iter::once(first).chain(others)).collect()
    }

    #[test]
    fn each_link_has_two_ends_and_who_makes_the_socket_comes_first() {
        for nodes in [1, 3, 5] {
            let mut sockets: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let devices = devices(nodes);
            for device in &devices {
                port::check_device(device).unwrap_or_else(|expected| panic!("{device}: {expected}"));
                let (end, socket) = device.split_once(",socket-abstract=yes,socket=").expect("a socket");
                let (_, role) = end.split_once(",role=").expect("a role");
                sockets.entry(socket.to_owned()).or_default().push(role.to_owned());
            }
            assert!(sockets.values().all(|roles| roles[..] == ["server", "client"]), "{sockets:?}");
            let between = usize::from(nodes) * usize::from(nodes + 1) / 2;
            assert_eq!((sockets.len(), devices.len()), (between, 2 * between), "one between any two");
            let names: std::collections::BTreeSet<_> =
                devices.iter().map(|device| port::device_parts(device).0).collect();
            assert_eq!(names.len(), devices.len());
        }
    }
}
