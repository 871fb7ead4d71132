//! Looks at the machine before DPDK does, whose own messages name other causes than the true one.

mod card;

pub use card::{CardState, check_card};

use super::{EalOptions, Memory, PciAddress, SocketRole, Vdev, interface};
use rustix::thread::{CpuSet, sched_getaffinity};
use std::fs;

const CAP_NET_RAW: u64 = 1 << 13;
/// Huge pages of this size are the ones that every x86-64 and arm64 kernel has.
const HUGE_PAGE_KIB: u64 = 2048;

/// What the machine lacks, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// Less memory is free than DPDK is to take.
    #[error("DPDK is to take {wanted_mib} MiB of memory and {free_mib} MiB are free: ask for less, or stop something")]
    Memory {
        /// Asked for.
        wanted_mib: u64,
        /// Available without swapping.
        free_mib: u64,
    },
    /// Fewer huge pages of 2 MiB are free than DPDK is to take.
    #[error(
        "DPDK is to take {wanted} huge pages and {free} are free: as root, sysctl -w vm.nr_hugepages={reserve}; or use ordinary memory"
    )]
    HugePages {
        /// Pages asked for.
        wanted: u64,
        /// Pages free.
        free: u64,
        /// Pages to reserve, so that as many as asked for are free.
        reserve: u64,
    },
    /// No file system for huge pages is mounted.
    #[error("no file system for huge pages is mounted: as root, mount -t hugetlbfs none /dev/hugepages")]
    HugeMount,
    /// This process may not open packet sockets.
    #[error(
        "net_af_packet needs the right to open packet sockets: run as root, or setcap cap_net_raw,cap_net_admin+ep <program>"
    )]
    PacketSockets,
    /// There is no such network interface in this network namespace.
    #[error(
        "there is no network interface {interface} here: see `ip link`, or add it with ip link add {interface} type veth"
    )]
    Interface {
        /// Its name.
        interface: String,
    },
    /// There is no device at that address of the PCI bus.
    #[error("there is no card at {address}: see dpdk-devbind.py --status, or lspci")]
    Card {
        /// The address.
        address: PciAddress,
    },
    /// The device at that address is something else.
    #[error("the device at {address} is no network card: see dpdk-devbind.py --status for those that are")]
    NotNetwork {
        /// The address.
        address: PciAddress,
    },
    /// The machine reaches the world by this card.
    #[error(
        "the card {address} is {interface}, which has the default route of this machine, and taking it would cut the machine off: choose another (dpdk-devbind.py --status), or first move the route, ip route replace default dev <other>"
    )]
    DefaultRoute {
        /// The card's address.
        address: PciAddress,
        /// The kernel's name of it.
        interface: String,
    },
    /// There are fewer processors than queues, each of which has a core of its own.
    #[error("{queues} queues and {processors} processors that this process may use: ask for fewer queues, or allow it more, taskset -c 0-{last} <program>", last = queues - 1)]
    Processors {
        /// Queues asked for.
        queues: u16,
        /// Processors that this process may run on.
        processors: usize,
    },
    /// A driver of the kernel's has the card, or none.
    #[error("{driver} has the card {address}: as root, modprobe {to} && dpdk-devbind.py --bind={to} {address}")]
    Driver {
        /// The card's address.
        address: PciAddress,
        /// The driver's name.
        driver: String,
        /// The driver that it should have.
        to: &'static str,
    },
    /// Bound to vfio-pci, but there is neither an IOMMU nor vfio's consent to do without.
    #[error(
        "the card {address} is bound to vfio-pci, and this machine has no IOMMU: turn it on (in the firmware, and intel_iommu=on for the kernel), or trust the card with all memory: as root, echo 1 >/sys/module/vfio/parameters/enable_unsafe_noiommu_mode && dpdk-devbind.py --unbind {address} && dpdk-devbind.py --bind=vfio-pci {address}"
    )]
    Iommu {
        /// The card's address.
        address: PciAddress,
    },
    /// A device that the IOMMU cannot tell from the card is still the kernel's.
    #[error(
        "{other} is in the same IOMMU group as the card {address} and still the kernel's: as root, dpdk-devbind.py --bind=vfio-pci {other}"
    )]
    SharedGroup {
        /// The card's address.
        address: PciAddress,
        /// The other's.
        other: String,
    },
    /// The file by which the card is handed out may not be opened.
    #[error("this process may not open {file}: as root, chown $USER {file}; or run as root")]
    CardFile {
        /// Its path.
        file: String,
    },
    /// Without an IOMMU DPDK must know physical addresses, which the kernel tells root only.
    #[error(
        "the card {address} works with physical addresses, which the kernel tells root only: run as root, or bind it to vfio-pci behind an IOMMU"
    )]
    PhysicalAddresses {
        /// The card's address.
        address: PciAddress,
    },
    /// Physical addresses are stable in huge pages only.
    #[error(
        "the card {address} works with physical addresses, and ordinary pages move: take huge pages, or bind it to vfio-pci behind an IOMMU"
    )]
    PhysicalMemory {
        /// The card's address.
        address: PciAddress,
    },
    /// The network interface is down.
    #[error("the network interface {interface} is down: as root, ip link set {interface} up")]
    InterfaceDown {
        /// Its name.
        interface: String,
    },
    /// There is a file where a device is to make its socket.
    #[error(
        "{socket} is there already: where no program uses it any more, one that was killed has left it: rm {socket}"
    )]
    SocketTaken {
        /// Its path.
        socket: String,
    },
    /// There is no socket to connect to.
    #[error("{socket} is not there: start the other end first, which makes it")]
    NoSocket {
        /// Its path.
        socket: String,
    },
}

/// What of a machine matters to DPDK.
pub trait Machine {
    /// Memory that can be taken without swapping, in MiB.
    fn free_mib(&self) -> u64;
    /// Huge pages of 2 MiB: reserved and free.
    fn huge_pages(&self) -> (u64, u64);
    /// A file system for huge pages is mounted.
    fn huge_mounted(&self) -> bool;
    /// The effective capabilities of this process, as bits.
    fn capabilities(&self) -> u64;
    /// The network interface is up; `None` where there is none of that name.
    fn interface_up(&self, name: &str) -> Option<bool>;
    /// There is a file of this path.
    fn exists(&self, path: &str) -> bool;
    /// Somebody in this network namespace waits on an abstract socket of this name.
    fn listens(&self, abstract_name: &str) -> bool;
    /// The card at an address of the PCI bus; `None` where there is nothing.
    fn card(&self, address: PciAddress) -> Option<CardState>;
    /// Network interfaces with a default route, and those that such a one consists of.
    fn default_route_interfaces(&self) -> Vec<String>;
    /// Processors that this process may run on.
    fn processors(&self) -> usize;
}

/// The machine that we run on, by /proc, /sys and its kernel. What cannot be read counts as absent.
#[derive(Debug, Clone, Copy)]
pub struct ThisMachine;

/// The first thing that hinders DPDK itself, if any.
pub fn check_eal(options: &EalOptions, machine: &impl Machine) -> Result<(), Lack> {
    let free_mib = machine.free_mib();
    match options.memory {
        Memory::Ordinary { mib } if u64::from(mib) > free_mib => Err(Lack::Memory { wanted_mib: mib.into(), free_mib }),
        Memory::Ordinary { .. } => Ok(()),
        Memory::Huge { mib } => {
            let wanted = (u64::from(mib) * 1024).div_ceil(HUGE_PAGE_KIB);
            let (reserved, free) = machine.huge_pages();
            if free < wanted {
                return Err(Lack::HugePages { wanted, free, reserve: reserved + wanted - free });
            }
            if machine.huge_mounted() { Ok(()) } else { Err(Lack::HugeMount) }
        }
    }
}

/// The first thing that hinders a device, if any.
pub fn check_device(device: &Vdev, machine: &impl Machine) -> Result<(), Lack> {
    match device {
        Vdev::Vhost { socket, role: SocketRole::Server, .. }
        | Vdev::VirtioUser { socket, role: SocketRole::Server, .. }
            if machine.exists(socket) =>
        {
            return Err(Lack::SocketTaken { socket: socket.clone() });
        }
        // A host that is a client waits for its card's socket; a card does not wait.
        Vdev::VirtioUser { socket, role: SocketRole::Client, .. } if !machine.exists(socket) => {
            return Err(Lack::NoSocket { socket: socket.clone() });
        }
        Vdev::Memif { socket, role: SocketRole::Client, .. } if !machine.listens(socket) => {
            return Err(Lack::NoSocket { socket: format!("@{socket}") });
        }
        _ => {}
    }
    let Some(interface) = device.interface() else { return Ok(()) };
    if machine.capabilities() & CAP_NET_RAW == 0 {
        return Err(Lack::PacketSockets);
    }
    match machine.interface_up(interface) {
        Some(true) => Ok(()),
        Some(false) => Err(Lack::InterfaceDown { interface: interface.to_owned() }),
        None => Err(Lack::Interface { interface: interface.to_owned() }),
    }
}

impl Machine for ThisMachine {
    fn free_mib(&self) -> u64 {
        let kib = field("/proc/meminfo", "MemAvailable:").and_then(|kib| kib.parse::<u64>().ok());
        kib.unwrap_or(0) / 1024
    }

    fn huge_pages(&self) -> (u64, u64) {
        let read = |name: &str| {
            let path = format!("/sys/kernel/mm/hugepages/hugepages-{HUGE_PAGE_KIB}kB/{name}");
            fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        (read("nr_hugepages"), read("free_hugepages"))
    }

    fn huge_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(2) == Some("hugetlbfs"))
    }

    fn capabilities(&self) -> u64 {
        field("/proc/self/status", "CapEff:").and_then(|bits| u64::from_str_radix(&bits, 16).ok()).unwrap_or(0)
    }

    fn interface_up(&self, name: &str) -> Option<bool> {
        interface::is_up(name)
    }

    fn exists(&self, path: &str) -> bool {
        fs::exists(path).unwrap_or(false)
    }

    fn listens(&self, abstract_name: &str) -> bool {
        listens(&fs::read_to_string("/proc/net/unix").unwrap_or_default(), abstract_name)
    }

    fn card(&self, address: PciAddress) -> Option<CardState> {
        card::read(address)
    }

    fn default_route_interfaces(&self) -> Vec<String> {
        card::default_route_interfaces()
    }

    fn processors(&self) -> usize {
        let count = |set: CpuSet| set.count() as usize; // at most 1024
        sched_getaffinity(None).map_or(1, count)
    }
}

/// Whether a list as /proc/net/unix has somebody who waits on this abstract socket.
fn listens(list: &str, abstract_name: &str) -> bool {
    // Num RefCount Protocol Flags Type St Inode Path; the flag says that it takes connections.
    let is_it = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, "00010000", _, _, _, path] = words[..] else { return false };
        path.strip_prefix('@').is_some_and(|name| name.trim_end_matches('@') == abstract_name)
    };
    list.lines().any(is_it)
}

/// The first word after `name` in a file of one field a line.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_and_no_other_of_its_name() {
        assert!(ThisMachine.interface_up("lo").is_some());
        assert_eq!(ThisMachine.interface_up("lo0"), None);
    }

    /// A machine on which everything is well but what a test takes away.
    struct Sample {
        free_mib: u64,
        huge_pages: (u64, u64),
        huge_mounted: bool,
        capabilities: u64,
        up: Option<bool>,
    }

    const WELL: Sample =
        Sample { free_mib: 1000, huge_pages: (40, 32), huge_mounted: true, capabilities: CAP_NET_RAW, up: Some(true) };

    impl Machine for Sample {
        fn free_mib(&self) -> u64 {
            self.free_mib
        }
        fn huge_pages(&self) -> (u64, u64) {
            self.huge_pages
        }
        fn huge_mounted(&self) -> bool {
            self.huge_mounted
        }
        fn capabilities(&self) -> u64 {
            self.capabilities
        }
        fn interface_up(&self, name: &str) -> Option<bool> {
            if name == "veth1" { self.up } else { None }
        }
        fn exists(&self, path: &str) -> bool {
            path == "/run/old.sock"
        }
        fn listens(&self, abstract_name: &str) -> bool {
            abstract_name == "/run/there.sock"
        }
        fn card(&self, _address: PciAddress) -> Option<CardState> {
            None
        }
        fn default_route_interfaces(&self) -> Vec<String> {
            Vec::new()
        }
        fn processors(&self) -> usize {
            2
        }
    }

    fn eal(memory: Memory, machine: &Sample) -> String {
        let options = EalOptions { memory, ..EalOptions::new("sample") };
        check_eal(&options, machine).map_or_else(|lack| lack.to_string(), |()| "well".to_owned())
    }

    #[test]
    fn one_cause_and_the_command_that_mends_it() {
        assert_eq!(eal(Memory::Ordinary { mib: 1000 }, &WELL), "well");
        assert!(eal(Memory::Ordinary { mib: 1001 }, &WELL).contains("1000 MiB are free"));
        assert_eq!(eal(Memory::Huge { mib: 64 }, &WELL), "well");
        // Eight of the forty pages are somebody else's.
        assert!(eal(Memory::Huge { mib: 65 }, &WELL).contains("sysctl -w vm.nr_hugepages=41"));
        assert!(eal(Memory::Huge { mib: 64 }, &Sample { huge_mounted: false, ..WELL }).contains("mount -t hugetlbfs"));
    }

    #[test]
    fn packet_sockets_need_a_right_and_an_interface_that_is_up() {
        let device = |interface: &str| Vdev::AfPacket { name: "a".to_owned(), interface: interface.to_owned() };
        assert_eq!(check_device(&device("veth1"), &WELL), Ok(()));
        let powerless = Sample { capabilities: !CAP_NET_RAW, ..WELL };
        assert_eq!(check_device(&device("veth1"), &powerless), Err(Lack::PacketSockets));
        assert!(
            check_device(&device("veth2"), &WELL)
                .is_err_and(|lack| lack.to_string().contains("no network interface veth2"))
        );
        let down = Sample { up: Some(false), ..WELL };
        assert!(
            check_device(&device("veth1"), &down).is_err_and(|lack| lack.to_string().contains("ip link set veth1 up"))
        );
        // Also where the driver is told more than its interface.
        let told = "net_af_packet0,iface=veth1,qdisc_bypass=0".parse().expect("a device");
        assert_eq!((check_device(&told, &WELL), check_device(&told, &powerless)), (Ok(()), Err(Lack::PacketSockets)));
        assert!(check_device(&told, &down).is_err());
        assert_eq!(check_device(&Vdev::Null { name: "n".to_owned() }, &powerless), Ok(()));
    }

    #[test]
    fn who_waits_on_an_abstract_socket_is_found_in_the_kernels_list() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    0000000000000000: 00000002 00000000 00010000 0005 01 11 @waits\n\
                    0000000000000000: 00000002 00000000 00010000 0005 01 12 @padded@@@\n\
                    0000000000000000: 00000003 00000000 00000000 0005 03 13 @talks\n\
                    0000000000000000: 00000002 00000000 00010000 0005 01 14 /file\n\
                    0000000000000000: 00000003 00000000 00000000 0001 03 15\n";
        assert!(listens(list, "waits") && listens(list, "padded"));
        assert!(["wait", "talks", "file", "/file", ""].iter().all(|name| !listens(list, name)));
    }

    #[test]
    fn sockets_are_made_where_nothing_is_and_found_where_something_is() {
        let (name, socket) = (|| "a".to_owned(), |socket: &str| format!("/run/{socket}.sock"));
        let memif =
            |name: &str, role| check_device(&Vdev::Memif { name: "0".to_owned(), socket: socket(name), role }, &WELL);
        assert_eq!((memif("there", SocketRole::Client), memif("gone", SocketRole::Server)), (Ok(()), Ok(())));
        assert_eq!(memif("gone", SocketRole::Client), Err(Lack::NoSocket { socket: format!("@{}", socket("gone")) }));
        let vhost = |path: &str, role| check_device(&Vdev::Vhost { name: name(), socket: socket(path), role }, &WELL);
        let card =
            |path: &str, role| check_device(&Vdev::VirtioUser { name: name(), socket: socket(path), role }, &WELL);
        for left in [vhost("old", SocketRole::Server), card("old", SocketRole::Server)] {
            assert!(left.is_err_and(|lack| lack.to_string().ends_with("rm /run/old.sock")));
        }
        assert_eq!(card("new", SocketRole::Client), Err(Lack::NoSocket { socket: socket("new") }));
        for good in [
            vhost("new", SocketRole::Server),
            vhost("new", SocketRole::Client),
            vhost("old", SocketRole::Client),
            card("new", SocketRole::Server),
            card("old", SocketRole::Client),
        ] {
            assert_eq!(good, Ok(()));
        }
    }
}
