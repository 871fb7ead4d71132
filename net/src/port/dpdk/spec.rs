//! Devices by their names, as people write them.

use super::{DpdkError, SocketRole, Vdev};
use std::fmt;
use std::str::FromStr;

/// A device that DPDK can open.
///
/// Written as DPDK's own programs take it: `0000:03:00.0` is a card on the PCI bus, `net_af_packet0,iface=eth0` a virtual device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSpec {
    /// A virtual device.
    Vdev(Vdev),
    /// A card.
    Pci(PciAddress),
}

/// The place of a card on the PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    /// Almost always 0.
    pub domain: u16,
    /// The bus.
    pub bus: u8,
    /// The device on the bus, 0 to 31.
    pub device: u8,
    /// The function of the device, 0 to 7.
    pub function: u8,
}

impl FromStr for DeviceSpec {
    type Err = DpdkError;

    /// Where a colon comes before any comma it is a card's address.
    fn from_str(text: &str) -> Result<Self, DpdkError> {
        let name = text.split(',').next().unwrap_or_default();
        if name.contains(':') { text.parse().map(DeviceSpec::Pci) } else { text.parse().map(DeviceSpec::Vdev) }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Vdev(vdev) => vdev.fmt(f),
            DeviceSpec::Pci(address) => address.fmt(f),
        }
    }
}

impl FromStr for PciAddress {
    type Err = DpdkError;

    /// In hexadecimal, with or without the domain.
    fn from_str(text: &str) -> Result<Self, DpdkError> {
        let read = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.split_once(':').unwrap_or(("0", rest));
            let number = |digits: &str, limit: u16| {
                // `from_str_radix` would also take a sign.
                let plain = digits.len() <= 4 && digits.chars().all(|c| c.is_ascii_hexdigit());
                u16::from_str_radix(digits, 16).ok().filter(|number| plain && *number <= limit)
            };
            Some(PciAddress {
                domain: number(domain, u16::MAX)?,
                bus: number(bus, 255)? as u8,
                device: number(device, 31)? as u8,
                function: number(function, 7)? as u8,
            })
        };
        read().ok_or_else(|| DpdkError::BadDevice { text: text.to_owned() })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl FromStr for Vdev {
    type Err = DpdkError;

    /// What is not exactly one of the other kinds is [`Vdev::Other`]; its name must begin with `net_` and a letter.
    fn from_str(text: &str) -> Result<Self, DpdkError> {
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let is_driver =
            name.strip_prefix("net_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        if !is_driver || !name.chars().all(plain) || arguments.contains(['\0', ' ']) {
            return Err(DpdkError::BadDevice { text: text.to_owned() });
        }
        let of = |driver: &str| {
            let own = name.strip_prefix(driver)?;
            Some(own.strip_prefix('_').unwrap_or(own).to_owned()).filter(|own| !own.is_empty())
        };
        let interface = arguments.strip_prefix("iface=").filter(|interface| interface.chars().all(plain));
        // A typed kind where its own arguments are all there are.
        let met = |driver: &str, path: &str, role: &str| {
            let (socket, role) = arguments.strip_prefix(path)?.split_once(role)?;
            of(driver).filter(|_| !socket.contains(',')).map(|name| (name, socket.to_owned(), role))
        };
        let pcap = arguments.strip_prefix("rx_pcap=").and_then(|rest| rest.split_once(",tx_pcap="));
        let memif = arguments.strip_prefix("role=").and_then(|rest| rest.split_once(",socket-abstract=yes,socket="));
        Ok(if let (Some(name), true) = (of("net_ring"), arguments.is_empty()) {
            Vdev::Ring { name }
        } else if let (Some(name), true) = (of("net_null"), arguments.is_empty()) {
            Vdev::Null { name }
        } else if let (Some(name), Some(interface)) = (of("net_af_packet"), interface) {
            Vdev::AfPacket { name, interface: interface.to_owned() }
        } else if let (Some(name), Some((rx_file, tx_file))) = (of("net_pcap"), pcap)
            && !rx_file.contains(',')
            && !tx_file.contains(',')
        {
            Vdev::Pcap { name, rx_file: rx_file.to_owned(), tx_file: tx_file.to_owned() }
        } else if let (Some(name), Some((role @ ("server" | "client"), socket))) = (of("net_memif"), memif)
            && !socket.contains(',')
        {
            Vdev::Memif { name, socket: socket.to_owned(), role: role_of(role == "server") }
        } else if let Some((name, socket, role @ ("0" | "1"))) = met("net_virtio_user", "path=", ",server=") {
            Vdev::VirtioUser { name, socket, role: role_of(role == "1") }
        } else if let Some((name, socket, role @ ("0" | "1"))) = met("net_vhost", "iface=", ",client=") {
            Vdev::Vhost { name, socket, role: role_of(role == "0") }
        } else {
            Vdev::Other { name: name.to_owned(), arguments: arguments.to_owned() }
        })
    }
}

impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Vdev::Ring { name } => write!(f, "net_ring_{name}"),
            Vdev::Null { name } => write!(f, "net_null_{name}"),
            Vdev::AfPacket { name, interface } => write!(f, "net_af_packet_{name},iface={interface}"),
            Vdev::Pcap { name, rx_file, tx_file } => {
                write!(f, "net_pcap_{name},rx_pcap={rx_file},tx_pcap={tx_file}")
            }
            Vdev::Memif { name, socket, role } => {
                let role = if role.is_server() { "server" } else { "client" };
                write!(f, "net_memif_{name},role={role},socket-abstract=yes,socket={socket}")
            }
            Vdev::VirtioUser { name, socket, role } => {
                write!(f, "net_virtio_user_{name},path={socket},server={}", u8::from(role.is_server()))
            }
            Vdev::Vhost { name, socket, role } => {
                write!(f, "net_vhost_{name},iface={socket},client={}", u8::from(!role.is_server()))
            }
            Vdev::Other { name, arguments } if arguments.is_empty() => f.write_str(name),
            Vdev::Other { name, arguments } => write!(f, "{name},{arguments}"),
        }
    }
}

fn role_of(is_server: bool) -> SocketRole {
    if is_server { SocketRole::Server } else { SocketRole::Client }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DeviceSpec {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn virtual_devices_as_dpdk_writes_them() {
        let af_packet = Vdev::AfPacket { name: "0".to_owned(), interface: "eth0".to_owned() };
        assert_eq!(parse("net_af_packet0,iface=eth0"), DeviceSpec::Vdev(af_packet.clone()));
        assert_eq!(parse("net_af_packet_0,iface=eth0"), DeviceSpec::Vdev(af_packet));
        assert_eq!(parse("net_ring1"), DeviceSpec::Vdev(Vdev::Ring { name: "1".to_owned() }));
        assert_eq!(parse("net_null_x"), DeviceSpec::Vdev(Vdev::Null { name: "x".to_owned() }));
        let pcap = Vdev::Pcap { name: "p".to_owned(), rx_file: "a.pcap".to_owned(), tx_file: "/b".to_owned() };
        assert_eq!(parse("net_pcap_p,rx_pcap=a.pcap,tx_pcap=/b"), DeviceSpec::Vdev(pcap));
        for other in [
            "net_pcap0,iface=lo",
            "net_pcap0,rx_pcap=a,rx_pcap=b,tx_pcap=c",
            "net_af_packet0,iface=eth0,qdisc_bypass=0",
            "net_memif0,role=server,id=1",
            "net_ring",
            "net_ring1,a",
        ] {
            let (name, arguments) = other.split_once(',').unwrap_or((other, ""));
            let other = Vdev::Other { name: name.to_owned(), arguments: arguments.to_owned() };
            assert_eq!(parse(&other.to_string()), DeviceSpec::Vdev(other));
        }
    }

    #[test]
    fn cards_with_and_without_a_domain() {
        let card = PciAddress { domain: 0, bus: 3, device: 0x1F, function: 7 };
        assert_eq!(parse("0000:03:1f.7"), DeviceSpec::Pci(card));
        assert_eq!(parse("3:1F.7"), DeviceSpec::Pci(card));
        assert_eq!(card.to_string(), "0000:03:1f.7");
        assert_eq!(parse("abcd:ff:00.0").to_string(), "abcd:ff:00.0");
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "net_ring_1",
            "net_null_a-b",
            "net_pcap_0,rx_pcap=a,tx_pcap=b",
            "net_af_packet_0,iface=veth-1",
            "net_tap0,iface=t,mac=fixed",
            "0000:00:00.0",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        let cards =
            ["0000:03:20.0", "03:00.8", "03:00", "1:2:3:4.0", "10000:00:00.0", "+3:00.0", ":00.0", "03:00.", "100:0.0"];
        let others =
            ["", ",", "eth0", "10.0.0.1", "net_", "net_0", "ring0", "net_ring 1", "net_null\n", "net_tap0,a b"];
        for text in cards.iter().chain(&others) {
            let refused = text.parse::<DeviceSpec>().expect_err(text);
            assert!(refused.to_string().contains("net_af_packet0,iface=eth0"), "{refused}");
        }
    }
}
