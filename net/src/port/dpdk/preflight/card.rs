//! Whether a card can be taken from the kernel: where it is, who has it, and what that asks of this process.

use super::{Lack, Machine, Memory};
use crate::port::dpdk::{DeviceConfig, EalOptions, PciAddress};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const CAP_SYS_ADMIN: u64 = 1 << 21;
/// Drivers of the kernel's beside which DPDK works: the card is not taken from them.
const SHARING_DRIVERS: [&str; 3] = ["mlx4_core", "mlx5_core", "mana"];
/// Interfaces on top of interfaces (a bond in a bridge, say) that are followed down.
const LAYERS_MAX: usize = 4;

/// What the kernel knows of a card.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CardState {
    /// It is a network card, not some other device.
    pub is_network: bool,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The network interfaces that the kernel has made of it.
    pub interfaces: Vec<String>,
    /// It is behind an IOMMU, or in a group of vfio's own where there is none.
    pub in_iommu_group: bool,
    /// Another device of the same group that a driver of the kernel's has, which must let go of it: a group is handed out as one.
    pub group_held_by: Option<String>,
    /// The file by which its driver hands it to programs, where there is one.
    pub file: Option<PathBuf>,
    /// This process may open that file.
    pub may_open: bool,
}

/// The first thing that hinders a card, if any.
pub fn check_card(
    address: PciAddress,
    eal: &EalOptions,
    config: &DeviceConfig,
    machine: &impl Machine,
) -> Result<(), Lack> {
    let Some(card) = machine.card(address) else { return Err(Lack::Card { address }) };
    if !card.is_network {
        return Err(Lack::NotNetwork { address });
    }
    let routes = machine.default_route_interfaces();
    if let Some(interface) = card.interfaces.iter().find(|interface| routes.contains(interface)) {
        return Err(Lack::DefaultRoute { address, interface: interface.clone() });
    }
    let processors = machine.processors();
    if usize::from(config.queues) > processors {
        return Err(Lack::Processors { queues: config.queues, processors });
    }
    let driver = card.driver.as_deref();
    match driver {
        Some(driver) if SHARING_DRIVERS.contains(&driver) => Ok(()),
        Some("vfio-pci") => check_vfio(address, &card),
        Some("uio_pci_generic" | "igb_uio") => check_uio(address, eal, &card, machine),
        _ => {
            let to = if card.in_iommu_group { "vfio-pci" } else { "uio_pci_generic" };
            Err(Lack::Driver { address, driver: driver.unwrap_or("no driver").to_owned(), to })
        }
    }
}

fn check_vfio(address: PciAddress, card: &CardState) -> Result<(), Lack> {
    if !card.in_iommu_group {
        return Err(Lack::Iommu { address });
    }
    if let Some(other) = &card.group_held_by {
        return Err(Lack::SharedGroup { address, other: other.clone() });
    }
    may_open(card)
}

fn check_uio(address: PciAddress, eal: &EalOptions, card: &CardState, machine: &impl Machine) -> Result<(), Lack> {
    may_open(card)?;
    if machine.capabilities() & CAP_SYS_ADMIN == 0 {
        return Err(Lack::PhysicalAddresses { address });
    }
    match eal.memory {
        Memory::Huge { .. } => Ok(()),
        Memory::Ordinary { .. } => Err(Lack::PhysicalMemory { address }),
    }
}

fn may_open(card: &CardState) -> Result<(), Lack> {
    match &card.file {
        Some(file) if !card.may_open => Err(Lack::CardFile { file: file.display().to_string() }),
        _ => Ok(()),
    }
}

/// What /sys says of a card; `None` where there is none at the address.
pub(super) fn read(address: PciAddress) -> Option<CardState> {
    let place = PathBuf::from(format!("/sys/bus/pci/devices/{address}"));
    let class = fs::read_to_string(place.join("class")).ok()?;
    let driver = target_name(&place.join("driver"));
    let group = target_name(&place.join("iommu_group"));
    let file = match (driver.as_deref(), &group) {
        (Some("vfio-pci"), Some(group)) => {
            // Where there is no IOMMU, vfio gives its groups another name.
            let names = [group.clone(), format!("noiommu-{group}")];
            names.iter().map(|name| Path::new("/dev/vfio").join(name)).find(|file| file.exists())
        }
        (Some("uio_pci_generic" | "igb_uio"), _) => {
            entries(&place.join("uio")).into_iter().next().map(|name| Path::new("/dev").join(name))
        }
        _ => None,
    };
    let may_open = file.as_ref().is_some_and(|file| {
        let wanted = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
        rustix::fs::access(file, wanted).is_ok()
    });
    Some(CardState {
        is_network: class.trim().starts_with("0x02"),
        interfaces: interfaces(&place),
        in_iommu_group: group.is_some(),
        group_held_by: group.and_then(|group| held_by(&group)),
        driver,
        file,
        may_open,
    })
}

/// Interfaces of the card itself, and of what its driver has made of it, as virtio's does.
fn interfaces(place: &Path) -> Vec<String> {
    let children = entries(place).into_iter().filter(|name| name.starts_with("virtio"));
    let places = std::iter::once(place.to_owned()).chain(children.map(|child| place.join(child)));
    places.flat_map(|place| entries(&place.join("net"))).collect()
}

/// The first device of an IOMMU group that neither vfio nor nobody has. Bridges do not count.
fn held_by(group: &str) -> Option<String> {
    let devices = PathBuf::from(format!("/sys/kernel/iommu_groups/{group}/devices"));
    entries(&devices).into_iter().find(|device| {
        let driver = target_name(&devices.join(device).join("driver"));
        !matches!(driver.as_deref(), None | Some("vfio-pci" | "pci-stub" | "pcieport"))
    })
}

/// Interfaces that carry a default route, with those that they consist of.
pub(super) fn default_route_interfaces() -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut found = default_routes(&read("/proc/self/net/route"), &read("/proc/self/net/ipv6_route"));
    for _ in 0..LAYERS_MAX {
        let lower = found.iter().flat_map(|name| {
            let links = entries(&Path::new("/sys/class/net").join(name)).into_iter();
            links.filter_map(|link| link.strip_prefix("lower_").map(str::to_owned))
        });
        let lower: Vec<String> = lower.collect();
        found.extend(lower);
    }
    found.into_iter().collect()
}

/// The interfaces of routes to everywhere, in the kernel's two tables.
fn default_routes(ipv4: &str, ipv6: &str) -> BTreeSet<String> {
    const REJECT: u32 = 0x0200;
    let of_ipv4 = ipv4.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let everywhere = words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000");
        words.first().filter(|_| everywhere).map(|name| (*name).to_owned())
    });
    let of_ipv6 = ipv6.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let everywhere = words.first()?.bytes().all(|digit| digit == b'0') && words.get(1) == Some(&"00");
        // The kernel itself keeps a route that refuses, on `lo`.
        let flags = u32::from_str_radix(words.get(8)?, 16).ok()?;
        words.get(9).filter(|_| everywhere && flags & REJECT == 0).map(|name| (*name).to_owned())
    });
    of_ipv4.chain(of_ipv6).collect()
}

/// The last part of where a link leads to.
fn target_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// Names in a directory, sorted; none where it cannot be read.
fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: PciAddress = PciAddress { domain: 0, bus: 3, device: 0, function: 0 };

    /// A machine with one card at [`ADDRESS`].
    struct Sample {
        card: CardState,
        routes: Vec<String>,
        capabilities: u64,
        processors: usize,
    }

    impl Machine for Sample {
        fn free_mib(&self) -> u64 {
            1000
        }
        fn huge_pages(&self) -> (u64, u64) {
            (64, 64)
        }
        fn huge_mounted(&self) -> bool {
            true
        }
        fn capabilities(&self) -> u64 {
            self.capabilities
        }
        fn interface_up(&self, _name: &str) -> Option<bool> {
            Some(true)
        }
        fn exists(&self, _path: &str) -> bool {
            false
        }
        fn listens(&self, _abstract_name: &str) -> bool {
            false
        }
        fn card(&self, address: PciAddress) -> Option<CardState> {
            (address == ADDRESS).then(|| self.card.clone())
        }
        fn default_route_interfaces(&self) -> Vec<String> {
            self.routes.clone()
        }
        fn processors(&self) -> usize {
            self.processors
        }
    }

    /// A machine whose card is ready, but for what `change` does to it.
    fn machine(change: impl FnOnce(&mut Sample)) -> Sample {
        let card = CardState {
            is_network: true,
            driver: Some("vfio-pci".to_owned()),
            interfaces: Vec::new(),
            in_iommu_group: true,
            group_held_by: None,
            file: Some("/dev/vfio/7".into()),
            may_open: true,
        };
        let mut sample = Sample { card, routes: vec!["eth0".to_owned()], capabilities: !0, processors: 2 };
        change(&mut sample);
        sample
    }

    fn uio(sample: &mut Sample) {
        sample.card.driver = Some("uio_pci_generic".to_owned());
        sample.card.in_iommu_group = false;
        sample.card.file = Some("/dev/uio0".into());
    }

    fn check(memory: Memory, queues: u16, machine: &Sample) -> String {
        let eal = EalOptions { memory, ..EalOptions::new("sample") };
        let config = DeviceConfig { queues, ..DeviceConfig::default() };
        check_card(ADDRESS, &eal, &config, machine).map_or_else(|lack| lack.to_string(), |()| "well".to_owned())
    }

    const ORDINARY: Memory = Memory::Ordinary { mib: 64 };
    const HUGE: Memory = Memory::Huge { mib: 64 };

    #[test]
    fn a_card_that_is_ready() {
        for memory in [ORDINARY, HUGE] {
            assert_eq!(check(memory, 2, &machine(|_| ())), "well");
        }
        assert_eq!(check(HUGE, 1, &machine(uio)), "well");
        let sharing = |sample: &mut Sample| {
            sample.card.driver = Some("mlx5_core".to_owned());
            sample.card.interfaces = vec!["enp3s0".to_owned()];
            sample.card.file = None;
        };
        assert_eq!(check(ORDINARY, 1, &machine(sharing)), "well");
    }

    #[test]
    fn one_cause_and_the_command_that_mends_it() {
        type Change = fn(&mut Sample);
        let table: [(Change, Memory, &str); 12] = [
            (|sample| sample.card.is_network = false, ORDINARY, "0000:03:00.0 is no network card"),
            (
                |sample| sample.card.interfaces = vec!["eth0".to_owned()],
                ORDINARY,
                "is eth0, which has the default route",
            ),
            (|sample| sample.card.driver = Some("ixgbe".to_owned()), ORDINARY, "ixgbe has the card 0000:03:00.0"),
            (|sample| sample.card.driver = None, ORDINARY, "dpdk-devbind.py --bind=vfio-pci 0000:03:00.0"),
            (
                |sample| {
                    sample.card.driver = Some("e1000".to_owned());
                    sample.card.in_iommu_group = false;
                },
                ORDINARY,
                "modprobe uio_pci_generic && dpdk-devbind.py --bind=uio_pci_generic 0000:03:00.0",
            ),
            (|sample| sample.card.in_iommu_group = false, ORDINARY, "enable_unsafe_noiommu_mode"),
            (
                |sample| sample.card.group_held_by = Some("0000:03:00.1".to_owned()),
                ORDINARY,
                "dpdk-devbind.py --bind=vfio-pci 0000:03:00.1",
            ),
            (|sample| sample.card.may_open = false, ORDINARY, "chown $USER /dev/vfio/7"),
            (
                |sample| {
                    uio(sample);
                    sample.card.may_open = false;
                },
                HUGE,
                "chown $USER /dev/uio0",
            ),
            (uio, ORDINARY, "take huge pages"),
            (
                |sample| {
                    uio(sample);
                    sample.capabilities = !CAP_SYS_ADMIN;
                },
                HUGE,
                "run as root",
            ),
            (|sample| sample.processors = 1, ORDINARY, "2 queues and 1 processors"),
        ];
        for (change, memory, expected) in table {
            let said = check(memory, 2, &machine(change));
            assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        }
        let elsewhere = PciAddress { bus: 4, ..ADDRESS };
        let lack = check_card(elsewhere, &EalOptions::new("a"), &DeviceConfig::default(), &machine(|_| ()));
        assert!(lack.is_err_and(|lack| lack.to_string().contains("no card at 0000:04:00.0")));
    }

    #[test]
    fn the_default_route_is_found_among_others() {
        let ipv4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth1\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n\
            eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth2\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zeroes = "0".repeat(32);
        let ipv6 = format!(
            "{zeroes} 00 {zeroes} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth3\n\
             {zeroes} 00 {zeroes} 00 {zeroes} ffffffff 00000001 00000000 00200200       lo\n\
             fe800000000000000000000000000000 40 {zeroes} 00 {zeroes} 00000100 00000001 00000000 00000001     eth4\n"
        );
        assert_eq!(default_routes(ipv4, &ipv6).into_iter().collect::<Vec<_>>(), ["eth0", "eth3"]);
        assert!(default_routes("", "a b c").is_empty());
    }

    #[test]
    fn this_machine_is_read_without_harm() {
        assert_eq!(read(PciAddress { domain: 0xFFFF, ..ADDRESS }), None);
        // Whatever it is connected to, it is not `lo` by which everything is reached.
        assert!(!default_route_interfaces().contains(&"lo".to_owned()));
    }
}
