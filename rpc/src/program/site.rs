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
    pub(super) fn config_text(&self, slot: u8, placement: Placement) -> String {
        match self {
            Site::Lab(_, PortKind::Dpdk) => {
                let device = match placement {
                    Placement::Apart | Placement::Together => device(lab::HOST_INTERFACE),
                    Placement::DeviceEach => format!("net_af_packet{slot},iface={}", lab::interface(slot)),
                };
                format!("\n[net]\nport = \"dpdk\"\n\n[dpdk]\ndevice = \"{device}\"\n")
            }
            Site::Loopback | Site::Lab(_, PortKind::Udp) => String::new(),
        }
    }

    /// A command that runs `program` where the node shall run. What it leaves behind is in `directory`.
    pub(super) fn command(&self, slot: u8, program: impl AsRef<OsStr>, directory: &Path) -> Command {
        match self {
            Site::Loopback => Command::new(program),
            Site::Lab(lab, _) => {
                let mut command = lab.command(slot, program);
                command.env(lab::RUNTIME_DIRECTORY, directory);
                command
            }
        }
    }

    /// The port of a client in this process.
    pub fn client_port(&self) -> PortPlan {
        match self {
            Site::Lab(_, PortKind::Dpdk) => PortPlan::Dpdk(DpdkPlan {
                device: device(lab::CLIENT),
                mbufs: CLIENT_MBUFS,
                prefix_bits: lab::PREFIX_BITS,
                ..DpdkPlan::new(lab::address(CLIENT))
            }),
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
        if placement == Placement::DeviceEach {
            lab.attach(nodes)?;
        }
        if *kind == PortKind::Dpdk {
            return Ok(());
        }
        lab.address_own(lab::GUEST, KERNEL_CLIENT)?;
        match placement {
            Placement::Apart => (1..=nodes).try_for_each(|slot| lab.address_host(slot, slot)),
            Placement::Together => (1..=nodes).try_for_each(|slot| lab.address_host(1, slot)),
            Placement::DeviceEach => lab.address_apart(nodes),
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
        match (placement, kind) {
            (Placement::DeviceEach, PortKind::Udp) => lab.unaddress_apart(nodes).and_then(|()| lab.detach(nodes)),
            (Placement::DeviceEach, PortKind::Dpdk) => lab.detach(nodes),
            (Placement::Apart | Placement::Together, _) => Ok(()),
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

/// Where a demo of `service` keeps what it needs.
pub(super) fn directory(service: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{service}-demo-{}", std::process::id()))
}
