//! A device of DPDK's, from its making to its end.

use super::mempool::Mempool;
use super::opened::Opened;
use super::preflight::{self, ThisMachine};
use super::sleep::Sleeper;
use super::sockets::QueueSocket;
use super::{DpdkError, Eal, FrameQueue, PciAddress, checked, checked_name, interface, sockets};
use crate::stack::MacAddr;
use dpdk_sys::rte_ether_addr;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

/// With the driver's name in front, what the shortest of DPDK's own limits leaves.
const NAME_BYTES_MAX: usize = 15;
/// The kernel takes 107 bytes, of which abstract names lose one.
const SOCKET_BYTES_MAX: usize = 100;
/// Of a capture's path: two fit what DPDK takes as one device's arguments.
const FILE_BYTES_MAX: usize = 200;
/// Bytes of Ethernet's header.
pub(super) const HEADER_BYTES: usize = 14;

/// A virtual device, made when it is opened and gone when it is closed. Names are unique in a process: 1 to 15 letters, digits, `_`, `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vdev {
    /// What is sent is received again, in order, by the same queue; up to 1023 frames wait. One queue.
    Ring {
        /// Its name.
        name: String,
    },
    /// Receives frames of 64 bytes, whatever they are, as fast as it is asked, and swallows what is sent.
    Null {
        /// Its name.
        name: String,
    },
    /// A network interface of the kernel, by packet sockets. The kernel goes on receiving from it, too.
    AfPacket {
        /// Its name.
        name: String,
        /// The kernel's name of the interface, which must be up.
        interface: String,
    },
    /// Receives the frames of a capture, each once and as fast as it is asked, and then none; writes what is sent into another, with
    /// nanosecond timestamps. Its address is 02:70:63:61:70:00, and one more for each further device of its kind in the process.
    Pcap {
        /// Its name.
        name: String,
        /// The capture that is played: Ethernet frames. A path of 1 to 200 letters, digits, `_`, `-`, `.`, `/`.
        rx_file: String,
        /// The capture that is made, whatever was there before; whole when the device is closed.
        tx_file: String,
    },
    /// One end of rings in memory that two processes share; frames are copied in and out. The link is up while the other end is there. Both
    /// ends may also be in one process. Its station is made of the socket's name and the role.
    ///
    /// DPDK takes the memory away, on a thread of its own, when the other end goes; a burst that is under way at that very moment is a
    /// segmentation fault, as in two of fifteen kills under full load. And a server ends when a client goes before it was heard: opening a
    /// client waits for that, for a second at most, but may be killed meanwhile. For benches, tests and peers that end after this process; a
    /// [`Vdev::Vhost`] has no such fault.
    Memif {
        /// Its name.
        name: String,
        /// The abstract socket on which the ends meet, known in one network namespace: 1 to 100 letters, digits, `_`, `-`, `.`, `/`.
        socket: String,
        /// The client gives the memory. It finds the server when it opens and never again: where the server has gone, open it anew.
        role: SocketRole,
    },
    /// A virtual network card as a guest sees it. The other end is a [`Vdev::Vhost`] of another process, or a virtual machine's host.
    VirtioUser {
        /// Its name.
        name: String,
        /// The path of the socket on which the ends meet, as for [`Vdev::Memif`].
        socket: String,
        /// A server waits for its client while it opens, for ever; a client fails where no server is there.
        role: SocketRole,
    },
    /// The host's side of virtual network cards. The link is up while the other end is there, which may come, go and come again.
    Vhost {
        /// Its name.
        name: String,
        /// The path of the socket on which the ends meet, as for [`Vdev::Memif`]. A file left behind by a server that was killed must be removed.
        socket: String,
        /// A client finds its server whenever that comes.
        role: SocketRole,
    },
    /// Any other, as DPDK's `--vdev` takes it. What it lacks is not looked for beforehand.
    Other {
        /// Its name, the driver's in front: `net_memif0`. 1 to 24 letters, digits, `_`, `-`.
        name: String,
        /// What the driver is told: `role=server,id=1`.
        arguments: String,
    },
}

/// Which end of a pair of devices waits on the socket where they meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketRole {
    /// Makes the socket.
    Server,
    /// Connects to it.
    Client,
}

impl SocketRole {
    pub(super) fn is_server(self) -> bool {
        self == SocketRole::Server
    }
}

/// A file's path. DPDK would take a comma for the end of it.
fn checked_file(file: &str) -> Result<&str, DpdkError> {
    if (1..=FILE_BYTES_MAX).contains(&file.len()) && is_plain(file) {
        return Ok(file);
    }
    let reason = format!("use 1 to {FILE_BYTES_MAX} letters, digits, `_`, `-`, `.` and `/` for its path");
    Err(DpdkError::BadFile { file: file.to_owned(), reason })
}

fn is_plain(path: &str) -> bool {
    path.chars().all(|c: char| c.is_ascii_alphanumeric() || "_-./".contains(c))
}

/// A socket's path or abstract name. DPDK would cut it after 107 bytes, and take a comma for the end of it.
fn checked_socket(socket: &str) -> Result<&str, DpdkError> {
    let good = (1..=SOCKET_BYTES_MAX).contains(&socket.len()) && is_plain(socket);
    if good { Ok(socket) } else { Err(DpdkError::BadSocket { socket: socket.to_owned() }) }
}

/// The station at one end of a socket, which is the same whenever that end is opened: by itself DPDK would draw another each time, for which
/// neighbours that know the last one have no ear.
fn station_of(socket: &str, role: &str) -> String {
    // FNV-1a; the stations of one network are few.
    let bytes = socket.bytes().chain(role.bytes());
    let hash =
        bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let [.., a, b, c, d] = (hash ^ hash >> 32).to_be_bytes();
    // Locally given, and 'm'; written with colons, as nothing else would be read.
    format!("02:6d:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

impl Vdev {
    /// Its name as DPDK knows it, and what DPDK's driver is told.
    fn description(&self, queues: u16) -> Result<(CString, CString), DpdkError> {
        let (driver, name, arguments) = match self {
            Vdev::Other { name, arguments } => return Ok((checked_name(name)?, checked_text(arguments)?)),
            Vdev::Ring { name } => ("ring", name, String::new()),
            Vdev::Null { name } => ("null", name, String::new()),
            Vdev::AfPacket { name, interface } => {
                checked_name(interface)?;
                ("af_packet", name, format!("iface={interface},qpairs={queues}"))
            }
            Vdev::Pcap { name, rx_file, tx_file } => {
                let (rx, tx) = (checked_file(rx_file)?, checked_file(tx_file)?);
                File::open(rx)
                    .map_err(|error| DpdkError::BadFile { file: rx.to_owned(), reason: error.to_string() })?;
                ("pcap", name, format!("rx_pcap={rx},tx_pcap={tx}"))
            }
            Vdev::Memif { name, socket, role } => {
                let role = if role.is_server() { "server" } else { "client" };
                let (socket, mac) = (checked_socket(socket)?, station_of(socket, role));
                ("memif", name, format!("role={role},socket-abstract=yes,mac={mac},socket={socket}"))
            }
            Vdev::VirtioUser { name, socket, role } => {
                let server = u8::from(role.is_server());
                let path = checked_socket(socket)?;
                ("virtio_user", name, format!("path={path},server={server},queues={queues},queue_size=1024"))
            }
            Vdev::Vhost { name, socket, role } => {
                let client = u8::from(!role.is_server());
                ("vhost", name, format!("iface={},client={client},queues={queues}", checked_socket(socket)?))
            }
        };
        let bad = || DpdkError::BadName { name: name.clone() };
        if checked_name(name)?.count_bytes() > NAME_BYTES_MAX {
            return Err(bad());
        }
        let full = CString::new(format!("net_{driver}_{name}")).map_err(|_| bad())?;
        Ok((full, checked_text(&arguments)?))
    }

    /// The kernel's interface behind a device of af_packet, whatever else its driver is told.
    pub(super) fn interface(&self) -> Option<&str> {
        match self {
            Vdev::AfPacket { interface, .. } => Some(interface),
            Vdev::Other { name, arguments } if name.starts_with("net_af_packet") => {
                arguments.split(',').find_map(|argument| argument.strip_prefix("iface="))
            }
            _ => None,
        }
    }
}

fn checked_text(arguments: &str) -> Result<CString, DpdkError> {
    CString::new(arguments).map_err(|_| DpdkError::BadName { name: arguments.to_owned() })
}

/// How a device is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Pairs of queues, one for each core that uses the device. At least one.
    pub queues: u16,
    /// Frames that a receive queue holds; the driver may round it. Each takes an mbuf from the pool.
    pub rx_descriptors: u16,
    /// Frames that a transmit queue holds; the driver may round it.
    pub tx_descriptors: u16,
    /// Receive frames for other stations, too.
    pub promiscuous: bool,
    /// Largest payload of a frame, in bytes: without Ethernet's header. `None` leaves a card at 1500 and a virtual device at what is
    /// behind it. At most 1948, which a packet's buffer holds; what the kernel has behind a virtual device is told, too.
    pub mtu_bytes: Option<u16>,
    /// Let a card check and fill in checksums, as far as it can; the stack does the rest, and all of it for virtual devices.
    pub card_checksums: bool,
}

impl Default for DeviceConfig {
    /// One pair of queues of 1024, own frames only, the usual MTU, checksums by the card.
    fn default() -> Self {
        DeviceConfig {
            queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            promiscuous: false,
            mtu_bytes: None,
            card_checksums: true,
        }
    }
}

/// What the device itself has counted since it was opened. All but bytes are frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceStats {
    /// Received.
    pub rx_frames: u64,
    /// Bytes of these.
    pub rx_bytes: u64,
    /// Dropped because no descriptor was free: the core was too slow.
    pub rx_missed: u64,
    /// Received with an error and dropped.
    pub rx_errors: u64,
    /// Dropped because the pool was empty.
    pub rx_no_mbuf: u64,
    /// Sent.
    pub tx_frames: u64,
    /// Bytes of these.
    pub tx_bytes: u64,
    /// Not sent, and dropped.
    pub tx_errors: u64,
}

/// A device that runs. It closes when this handle and all its queues are dropped.
#[derive(Debug, Clone)]
pub struct Device {
    opened: Arc<Opened>,
}

impl Device {
    /// Makes the device and starts it. Gives one [`FrameQueue`] for each pair of queues, in order, to be moved to their cores.
    ///
    /// Received frames lie in mbufs of `pool`, and heap packets that are sent are copied into such.
    pub fn open(
        eal: Eal,
        vdev: &Vdev,
        config: &DeviceConfig,
        pool: &Mempool,
    ) -> Result<(Device, Vec<FrameQueue>), DpdkError> {
        let _: Eal = eal; // the proof that the calls below may be made
        let (name, arguments) = vdev.description(config.queues)?;
        preflight::check_device(vdev, &ThisMachine)?;
        let mut opened = Opened::new(name, pool, config);
        // One device at a time, so that the sockets found below are this one's.
        static OPENING: Mutex<()> = Mutex::new(());
        let opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sockets::open_descriptors();
        opened.make(&arguments)?;
        // From here on dropping `opened` removes the device, whatever fails.
        opened.start(config)?;
        let sockets = sockets::opened_since(&before);
        // Where the sockets are not one for each queue, nobody knows whose is whose.
        let sockets = if sockets.len() == usize::from(config.queues) { sockets } else { Vec::new() };
        // The server may be of this process, and still to be opened.
        drop(opening);
        opened.wait_to_be_heard();
        Device { opened: Arc::new(opened) }.with_queues(vdev.interface().and_then(interface::mtu_bytes), &sockets)
    }

    /// Opens a card, which must be among [`EalOptions::cards`](super::EalOptions::cards). Like [`Device::open`] otherwise, but that
    /// nothing is looked at beforehand: [`preflight::check_card`] does that before DPDK starts, as [`open`](super::open) has it.
    pub fn open_card(
        eal: Eal,
        address: PciAddress,
        config: &DeviceConfig,
        pool: &Mempool,
    ) -> Result<(Device, Vec<FrameQueue>), DpdkError> {
        let _: Eal = eal; // the proof that the calls below may be made
        let name = checked_text(&address.to_string())?;
        // From here on dropping `opened` gives the card back, whatever fails.
        let mut opened = Opened::of_card(address, name, pool, config)?;
        if opened.find().is_err() {
            // DPDK finds cards as it starts; this one was closed since then, or is not what it can use.
            opened.make(c"")?;
        }
        opened.start(config)?;
        Device { opened: Arc::new(opened) }.with_queues(None, &[])
    }

    /// The queues of a device that runs, which `sockets` serve where they are known. What is behind it may carry less than it says.
    fn with_queues(
        self,
        behind_bytes: Option<usize>,
        sockets: &[RawFd],
    ) -> Result<(Device, Vec<FrameQueue>), DpdkError> {
        let mac = MacAddr(self.mac()?);
        let frame_bytes = HEADER_BYTES + behind_bytes.unwrap_or(usize::MAX).min(self.mtu_bytes()?.into());
        let queue = |number: u16| -> Result<FrameQueue, DpdkError> {
            // SAFETY: the driver keeps the socket open until the device closes, which the queue prevents.
            let socket = sockets.get(usize::from(number)).map(|fd| unsafe { QueueSocket::new(*fd) });
            socket.iter().for_each(QueueSocket::widen);
            let sleeper = match self.opened.interrupt(number) {
                Some(interrupt) => Sleeper::with_interrupt(interrupt)?,
                None => Sleeper::new(socket)?,
            };
            Ok(FrameQueue::new(Arc::clone(&self.opened), number, mac, frame_bytes, sleeper))
        };
        let queues = (0..self.opened.queues()).map(queue).collect::<Result<_, _>>()?;
        Ok((self, queues))
    }

    /// DPDK's number of it.
    pub(super) fn port(&self) -> u16 {
        self.opened.port
    }

    /// A handle of a device that one of its queues holds open.
    pub(super) fn of(opened: &Arc<Opened>) -> Device {
        Device { opened: Arc::clone(opened) }
    }

    /// Its address.
    pub fn mac(&self) -> Result<[u8; 6], DpdkError> {
        let mut mac = rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: the port is open, and the call fills one address.
        checked("read the device's address", unsafe { dpdk_sys::rte_eth_macaddr_get(self.opened.port, &mut mac) })?;
        Ok(mac.addr_bytes)
    }

    /// Largest payload of a frame, in bytes: without Ethernet's header.
    pub fn mtu_bytes(&self) -> Result<u16, DpdkError> {
        let mut mtu = 0;
        // SAFETY: the port is open, and the call fills one number.
        checked("read the device's MTU", unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.opened.port, &mut mtu) })?;
        Ok(mtu)
    }

    /// The link is up, as far as the device knows.
    pub fn link_up(&self) -> Result<bool, DpdkError> {
        // SAFETY: the port is open.
        checked("read the link's state", unsafe { dpdk_sys::dpdk_shim_link_up(self.opened.port) }).map(|up| up == 1)
    }

    /// The device's own counters.
    pub fn stats(&self) -> Result<DeviceStats, DpdkError> {
        self.opened.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(vdev: &Vdev) -> String {
        let (name, arguments) = vdev.description(2).expect("the names are good");
        format!("{},{}", name.to_string_lossy(), arguments.to_string_lossy())
    }

    #[test]
    fn ends_of_a_socket_are_described_as_dpdk_wants_them() {
        let (name, socket) = (|| "a".to_owned(), || "/run/a.sock".to_owned());
        let memif = |role| text(&Vdev::Memif { name: name(), socket: socket(), role });
        let memif_as = |role: &str| {
            let mac = station_of("/run/a.sock", role);
            format!("net_memif_a,role={role},socket-abstract=yes,mac={mac},socket=/run/a.sock")
        };
        assert_eq!(memif(SocketRole::Server), memif_as("server"));
        assert_eq!(memif(SocketRole::Client), memif_as("client"));
        assert_ne!(station_of("/run/a.sock", "server"), station_of("/run/a.sock", "client"));
        assert_eq!(station_of("a", "server").len(), "02:6d:00:00:00:00".len());
        let virtio = |role| text(&Vdev::VirtioUser { name: name(), socket: socket(), role });
        assert_eq!(virtio(SocketRole::Client), "net_virtio_user_a,path=/run/a.sock,server=0,queues=2,queue_size=1024");
        let vhost = |role| text(&Vdev::Vhost { name: name(), socket: socket(), role });
        assert_eq!(vhost(SocketRole::Server), "net_vhost_a,iface=/run/a.sock,client=0,queues=2");
        assert_eq!(vhost(SocketRole::Client), "net_vhost_a,iface=/run/a.sock,client=1,queues=2");
    }

    #[test]
    fn an_interface_is_known_whatever_else_the_driver_is_told() {
        let interface = |text: &str| {
            let vdev: Vdev = text.parse().expect("a device");
            vdev.interface().map(str::to_owned)
        };
        for known in ["iface=eth0", "iface=eth0,qdisc_bypass=0", "qpairs=2,iface=eth0"] {
            assert_eq!(interface(&format!("net_af_packet0,{known}")).as_deref(), Some("eth0"), "{known}");
        }
        for none in ["net_af_packet0", "net_af_packet0,xiface=eth0", "net_vhost0,iface=/run/a,client=1,queues=2"] {
            assert_eq!(interface(none), None, "{none}");
        }
    }

    #[test]
    fn a_capture_must_be_there_and_have_a_plain_path() {
        let pcap = |rx: &str| {
            let (rx_file, tx_file) = (rx.to_owned(), "/tmp/out.pcap".to_owned());
            Vdev::Pcap { name: "a".to_owned(), rx_file, tx_file }
        };
        assert_eq!(text(&pcap("/dev/null")), "net_pcap_a,rx_pcap=/dev/null,tx_pcap=/tmp/out.pcap");
        for bad in ["", "/no/such/file", "/dev/null,iface=lo", "/dev/nu ll", &"/".repeat(201)] {
            assert!(matches!(pcap(bad).description(1), Err(DpdkError::BadFile { .. })), "{bad}");
        }
    }

    #[test]
    fn a_socket_that_dpdk_would_misread_is_refused() {
        for bad in ["", "a,role=server", "a b", "a\0b", &"x".repeat(101)] {
            let vdev = Vdev::Memif { name: "a".to_owned(), socket: bad.to_owned(), role: SocketRole::Client };
            assert!(matches!(vdev.description(1), Err(DpdkError::BadSocket { .. })), "{bad:?}");
        }
        assert!(checked_socket(&"x".repeat(100)).is_ok());
    }
}
