//! A device of DPDK's, from its making to its end.

use super::mempool::{Mempool, no_frames};
use super::preflight::{self, ThisMachine};
use super::sleep::Sleeper;
use super::sockets::QueueSocket;
use super::{DpdkError, Eal, FrameQueue, checked, checked_name, control, interface, sockets};
use crate::stack::MacAddr;
use dpdk_sys::{dpdk_shim_received, rte_eth_dev_info, rte_eth_stats, rte_ether_addr};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

const BUS: &CStr = c"vdev";
/// With the driver's name in front, what the shortest of DPDK's own limits leaves.
const NAME_BYTES_MAX: usize = 15;
/// The kernel takes 107 bytes, of which abstract names lose one.
const SOCKET_BYTES_MAX: usize = 100;
/// Of a capture's path: two fit what DPDK takes as one device's arguments.
const FILE_BYTES_MAX: usize = 200;
/// Bytes of Ethernet's header.
const HEADER_BYTES: usize = 14;
/// Bursts taken from a queue before its device is closed: more than any queue holds.
const DRAIN_BURSTS: usize = 2048;

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
    /// One end of rings in memory that two processes share; frames are copied in and out. The link is up while the other end is there.
    ///
    /// DPDK takes the memory away, on a thread of its own, when the other end goes; a burst that is under way at that very moment may
    /// fault. For benches, tests and peers that end after this process.
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
                ("memif", name, format!("role={role},socket-abstract=yes,socket={}", checked_socket(socket)?))
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

    /// The kernel's interface behind it, if that is all there is to it.
    fn interface(&self) -> Option<&str> {
        match self {
            Vdev::AfPacket { interface, .. } => Some(interface),
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
}

impl Default for DeviceConfig {
    /// One pair of queues of 1024, own frames only.
    fn default() -> Self {
        DeviceConfig { queues: 1, rx_descriptors: 1024, tx_descriptors: 1024, promiscuous: false }
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

/// What closes the device when it is dropped.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) name: CString,
    pub(super) port: u16,
    pub(super) pool: Mempool,
    queues: u16,
    running: bool,
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
        let full_name = name.to_string_lossy().into_owned();
        let mut opened = Opened { name, port: 0, pool: pool.clone(), queues: config.queues, running: false };
        // One device at a time, so that the sockets found below are this one's.
        static OPENING: Mutex<()> = Mutex::new(());
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sockets::open_descriptors();
        {
            let _control = control();
            let mut port = 0;
            // DPDK would take the device of somebody else for the new one.
            // SAFETY: the EAL runs, and the call fills one number.
            if unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(opened.name.as_ptr(), &mut port) } == 0 {
                std::mem::forget(opened); // there is nothing of ours to close
                return Err(DpdkError::NameInUse { name: full_name });
            }
            // SAFETY: the EAL runs and the strings outlive the call, which copies them.
            let added =
                unsafe { dpdk_sys::rte_eal_hotplug_add(BUS.as_ptr(), opened.name.as_ptr(), arguments.as_ptr()) };
            if let Err(error) = checked("make the device", added) {
                std::mem::forget(opened); // there is nothing of ours to close
                return Err(error);
            }
        }
        // From here on dropping `opened` removes the device, whatever fails.
        opened.start(config)?;
        let sockets = sockets::opened_since(&before);
        // Where the sockets are not one for each queue, nobody knows whose is whose.
        let socket_of = |queue: u16| sockets.get(usize::from(queue)).filter(|_| sockets.len() == config.queues.into());
        let device = Device { opened: Arc::new(opened) };
        let mac = MacAddr(device.mac()?);
        let mtu_bytes = vdev.interface().and_then(interface::mtu_bytes).unwrap_or(usize::MAX);
        let frame_bytes = HEADER_BYTES + mtu_bytes.min(device.mtu_bytes()?.into());
        let queue = |number| -> Result<FrameQueue, DpdkError> {
            // SAFETY: the driver keeps the socket open until the device closes, which the queue prevents.
            let socket = socket_of(number).map(|fd| unsafe { QueueSocket::new(*fd) });
            socket.iter().for_each(QueueSocket::widen);
            Ok(FrameQueue::new(Arc::clone(&device.opened), number, mac, frame_bytes, Sleeper::new(socket)?))
        };
        let queues = (0..config.queues).map(queue).collect::<Result<_, _>>()?;
        Ok((device, queues))
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

impl Opened {
    /// The device's own counters.
    pub(super) fn stats(&self) -> Result<DeviceStats, DpdkError> {
        let mut stats = MaybeUninit::<rte_eth_stats>::zeroed();
        // SAFETY: the port is open, and the call fills one struct of numbers, for which zeroes are valid, too.
        let (result, stats) = unsafe {
            let result = dpdk_sys::rte_eth_stats_get(self.port, stats.as_mut_ptr());
            (result, stats.assume_init())
        };
        checked("read the device's counters", result)?;
        Ok(DeviceStats {
            rx_frames: stats.ipackets,
            rx_bytes: stats.ibytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            rx_no_mbuf: stats.rx_nombuf,
            tx_frames: stats.opackets,
            tx_bytes: stats.obytes,
            tx_errors: stats.oerrors,
        })
    }

    fn start(&mut self, config: &DeviceConfig) -> Result<(), DpdkError> {
        let _control = control();
        // SAFETY: the device of this name was just made; the call fills one number.
        let found = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(self.name.as_ptr(), &mut self.port) };
        checked("find the device", found)?;
        let port = self.port;
        let limit = self.queue_limit()?;
        if config.queues == 0 || config.queues > limit {
            let device = self.name.to_string_lossy().into_owned();
            return Err(DpdkError::TooManyQueues { device, wanted: config.queues, limit });
        }
        // SAFETY: the port exists and is stopped.
        let configured = unsafe { dpdk_sys::dpdk_shim_configure(port, config.queues, config.queues) };
        checked("configure the device", configured)?;
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: the port is configured, and the call changes two numbers.
        let adjusted = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &mut rx, &mut tx) };
        checked("size the device's queues", adjusted)?;
        for queue in 0..config.queues {
            // SAFETY: the port is configured for these queues, null stands for the driver's own settings, and the pool is never freed.
            let (receive, transmit) = unsafe {
                (
                    dpdk_sys::rte_eth_rx_queue_setup(port, queue, rx, 0, ptr::null(), self.pool.as_ptr()),
                    dpdk_sys::rte_eth_tx_queue_setup(port, queue, tx, 0, ptr::null()),
                )
            };
            checked("set up a receive queue", receive)?;
            checked("set up a transmit queue", transmit)?;
        }
        // SAFETY: all queues are set up.
        checked("start the device", unsafe { dpdk_sys::rte_eth_dev_start(port) })?;
        self.running = true;
        // SAFETY: the port is open.
        if let Err(error) = checked("receive groups", unsafe { dpdk_sys::dpdk_shim_receive_groups(port) }) {
            // Drivers that receive everything have nothing to turn on, af_packet's is told by its socket.
            tracing::debug!(%error, name = ?self.name, "no filter for groups");
        }
        if config.promiscuous {
            // SAFETY: the port is open.
            checked("receive all frames", unsafe { dpdk_sys::rte_eth_promiscuous_enable(port) })?;
        }
        Ok(())
    }

    /// Pairs of queues that the device can have.
    fn queue_limit(&self) -> Result<u16, DpdkError> {
        let mut info = MaybeUninit::<rte_eth_dev_info>::zeroed();
        // SAFETY: the port exists, and the call fills one struct of numbers and pointers, for which zeroes are valid, too.
        let (result, info) = unsafe {
            let result = dpdk_sys::rte_eth_dev_info_get(self.port, info.as_mut_ptr());
            (result, info.assume_init())
        };
        checked("ask for the device's limits", result)?;
        Ok(info.max_rx_queues.min(info.max_tx_queues))
    }

    /// Frees what waits in the receive queues: some drivers forget it when they close.
    fn drain(&self) {
        let mut frames = no_frames();
        for queue in 0..self.queues {
            for _ in 0..DRAIN_BURSTS {
                let mut also = dpdk_shim_received { free_mbufs: 0, odd: 0 };
                // SAFETY: the port runs, nobody else has its queues any more, and the array holds a burst of frames that are freed once.
                let taken = unsafe {
                    let (pool, max) = (self.pool.as_ptr(), frames.len() as u16);
                    let frames = frames.as_mut_ptr();
                    let taken = dpdk_sys::dpdk_shim_rx_burst(self.port, queue, pool, frames, max, &mut also);
                    dpdk_sys::dpdk_shim_free(frames, taken);
                    taken
                };
                if taken + also.odd == 0 {
                    break;
                }
            }
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let _control = control();
        if self.running {
            self.drain();
            // SAFETY: the port runs, and no queue of it is left to be used.
            let stopped = unsafe { dpdk_sys::rte_eth_dev_stop(self.port) };
            if let Err(error) = checked("stop the device", stopped) {
                tracing::warn!(%error, name = ?self.name, "a device of DPDK's stays behind");
            }
        }
        // SAFETY: the device of this name was made by `Device::open` and is stopped; removing closes it.
        let removed = unsafe { dpdk_sys::rte_eal_hotplug_remove(BUS.as_ptr(), self.name.as_ptr()) };
        if let Err(error) = checked("remove the device", removed) {
            tracing::warn!(%error, name = ?self.name, "a device of DPDK's stays behind");
        }
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
        assert_eq!(memif(SocketRole::Server), "net_memif_a,role=server,socket-abstract=yes,socket=/run/a.sock");
        assert_eq!(memif(SocketRole::Client), "net_memif_a,role=client,socket-abstract=yes,socket=/run/a.sock");
        let virtio = |role| text(&Vdev::VirtioUser { name: name(), socket: socket(), role });
        assert_eq!(virtio(SocketRole::Client), "net_virtio_user_a,path=/run/a.sock,server=0,queues=2,queue_size=1024");
        let vhost = |role| text(&Vdev::Vhost { name: name(), socket: socket(), role });
        assert_eq!(vhost(SocketRole::Server), "net_vhost_a,iface=/run/a.sock,client=0,queues=2");
        assert_eq!(vhost(SocketRole::Client), "net_vhost_a,iface=/run/a.sock,client=1,queues=2");
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
