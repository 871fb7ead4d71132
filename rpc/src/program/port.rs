//! Which port a node or a client of this program uses, and how it is opened: the kernel's sockets, or a device of DPDK's
//! (feature `dpdk`).

#[cfg(feature = "dpdk")]
mod dpdk;
mod loss;
mod several;

pub use loss::{Loss, parse_share};

use crate::client::{ConnectError, Remote};
use crate::program::connect::{net_error, runtime_error};
use crate::program::error::Error;
use clap::ValueEnum;
use std::fs::File;
use std::future::Future;
use std::io::BufWriter;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use trimaran_net::{Net, NetConfig, NetDriver, PcapWriter, Port, Tap, UdpConfig, UdpPort};
#[cfg(feature = "dpdk")]
use trimaran_runtime::Idle;
use trimaran_runtime::{Clock, CoreConfig, Monotonic};

/// Whether this build can open devices of DPDK's.
pub const IS_DPDK_BUILT: bool = cfg!(feature = "dpdk");
/// Leading bits of an address that name its network, where nobody says otherwise.
pub const PREFIX_BITS: u8 = 24;
/// Memory that DPDK takes at its start.
pub const MEMORY_MIB: u32 = 64;
/// Buffers of a device, one less than a power of two, which wastes least.
pub const MBUFS: u32 = 8191;
/// What a prefix of DPDK's files must look like.
pub const FILE_PREFIX_FORM: &str = "1 to 24 letters, digits, `_` and `-`";
const FILE_PREFIX_MAX: usize = 24;
/// What a buffer takes with all that belongs to it: 2176 bytes of room, its header, the pool's own records.
const MBUF_BYTES: u64 = 2560;
/// What DPDK and the drivers want for themselves.
const OVERHEAD_MIB: u64 = 8;

/// What carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PortKind {
    /// The kernel's sockets
    #[default]
    Udp,
    /// A device of DPDK's
    Dpdk,
}

impl PortKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            PortKind::Udp => "udp",
            PortKind::Dpdk => "dpdk",
        }
    }
}

/// A device of DPDK's, what it is given, and this host's address there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DpdkPlan {
    /// As DPDK writes it: a card's PCI address, or a virtual device with its arguments.
    pub device: String,
    /// Further devices of this host, written alike, where it has a link to each of those whom it talks to: together with `device` they are
    /// one, and each frame leaves by the link on which its receiver was last heard ([`Bundle`](trimaran_net::Bundle)).
    pub links: Vec<String>,
    /// This host's address, which the kernel must not have.
    pub ip: Ipv4Addr,
    /// Further addresses of this host, where it runs several nodes on the device.
    pub more_ips: Vec<Ipv4Addr>,
    /// Leading bits of `ip` that name its network.
    pub prefix_bits: u8,
    /// Who takes packets for other networks.
    pub gateway: Option<Ipv4Addr>,
    /// Largest payload of a datagram; lowered to what the device carries.
    pub payload_bytes: usize,
    /// The processor on which the core's thread stays.
    pub core: Option<usize>,
    /// Memory that DPDK takes at its start.
    pub memory_mib: u32,
    /// That memory is huge pages of 2 MiB.
    pub huge_pages: bool,
    /// Buffers, about 2.4 KiB each, 4 KiB in ordinary memory.
    pub mbufs: u32,
    /// Sets DPDK's files of this process apart from others'.
    pub file_prefix: String,
}

impl DpdkPlan {
    /// The usual values for a host `ip`, without a device.
    pub fn new(ip: Ipv4Addr) -> Self {
        DpdkPlan {
            device: String::new(),
            links: Vec::new(),
            ip,
            more_ips: Vec::new(),
            prefix_bits: PREFIX_BITS,
            gateway: None,
            payload_bytes: UdpConfig::default().payload_bytes,
            core: None,
            memory_mib: MEMORY_MIB,
            huge_pages: false,
            mbufs: MBUFS,
            file_prefix: file_prefix("trimaran", &std::process::id().to_string()),
        }
    }

    /// Whether `other` can be reached without a gateway.
    pub fn is_near(&self, other: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits.min(32))).unwrap_or(0);
        u32::from(self.ip) & mask == u32::from(other) & mask
    }

    /// The memory that the buffers need, where that is more than there is to be.
    pub fn memory_short_mib(&self) -> Option<u64> {
        let least = (u64::from(self.mbufs) * MBUF_BYTES).div_ceil(1 << 20) + OVERHEAD_MIB;
        (least > u64::from(self.memory_mib)).then_some(least)
    }
}

/// A host's address and the length of its network's prefix: `10.0.0.9/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddress {
    /// The host.
    pub ip: Ipv4Addr,
    /// Leading bits of `ip` that name its network.
    pub prefix_bits: u8,
}

impl FromStr for HostAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "an address with the length of its prefix, such as 10.0.0.9/24".to_owned();
        let (ip, bits) = text.split_once('/').ok_or_else(expected)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| expected())?;
        let prefix_bits = bits.parse().ok().filter(|bits| (1..=32).contains(bits)).ok_or_else(expected)?;
        let usable = !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast() && !ip.is_loopback();
        if usable { Ok(HostAddress { ip, prefix_bits }) } else { Err(expected()) }
    }
}

/// A port to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortPlan {
    /// The kernel's sockets.
    Udp {
        /// Largest payload of a datagram.
        payload_bytes: usize,
    },
    /// A device of DPDK's.
    Dpdk(DpdkPlan),
    /// Several of them, each with its own addresses, under nodes of one process. The first says what DPDK and the core are given.
    Devices(Vec<DpdkPlan>),
}

impl Default for PortPlan {
    fn default() -> Self {
        PortPlan::Udp { payload_bytes: UdpConfig::default().payload_bytes }
    }
}

/// Where a node's packets are written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The pcap file, made anew. Of several devices the first has this one, the others the same with `.2`, `.3` behind it.
    pub path: PathBuf,
    /// It grows no longer than this; what comes then is not in it.
    pub limit_bytes: u64,
}

/// What stands between a port and its core, if anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Between {
    /// Writes down every packet; not those that are lost on purpose.
    pub capture: Option<Capture>,
    /// Loses some of those that are sent.
    pub loss: Option<Loss>,
}

impl Capture {
    #[allow(clippy::disallowed_methods, reason = "a capture shows the time of day; no task sees it")]
    fn open(&self, device: usize) -> Result<PcapWriter<BufWriter<File>>, Error> {
        let mut path = self.path.clone();
        if device > 1 {
            path.as_mut_os_string().push(format!(".{device}"));
        }
        let failed = |source| Error::io(format!("write the capture {}", path.display()), source);
        let file = File::create(&path).map_err(failed)?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let origin = since_1970.saturating_sub(Duration::from_nanos(Monotonic.now().as_nanos()));
        let pcap = PcapWriter::new(BufWriter::new(file), self.limit_bytes).map_err(failed)?;
        Ok(pcap.with_origin(origin))
    }
}

impl PortPlan {
    /// Which kind it is.
    pub fn kind(&self) -> PortKind {
        match self {
            PortPlan::Udp { .. } => PortKind::Udp,
            PortPlan::Dpdk(_) | PortPlan::Devices(_) => PortKind::Dpdk,
        }
    }

    /// A device of DPDK's, as DPDK writes it, for this host's `address` there; the rest as usual.
    pub fn dpdk(device: &str, address: HostAddress) -> Self {
        let HostAddress { ip, prefix_bits } = address;
        PortPlan::Dpdk(DpdkPlan { device: device.to_owned(), prefix_bits, ..DpdkPlan::new(ip) })
    }

    /// Looks whether something is in the way of its opening, such as a link whose other end has to be there first.
    ///
    /// # Errors
    /// What it is, E0109 and E0110.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            PortPlan::Udp { .. } => Ok(()),
            #[cfg(feature = "dpdk")]
            PortPlan::Dpdk(plan) => dpdk::check(plan),
            #[cfg(feature = "dpdk")]
            PortPlan::Devices(plans) => plans.iter().try_for_each(dpdk::check),
            #[cfg(not(feature = "dpdk"))]
            PortPlan::Dpdk(_) | PortPlan::Devices(_) => Err(Error::DpdkNotBuilt),
        }
    }

    /// A client of the cluster of `servers` over this port, on a thread of its own: as [`Remote::connect`], for calls from any
    /// thread.
    ///
    /// # Errors
    /// As [`Remote::connect`].
    pub fn connect(&self, servers: &str) -> Result<Remote, ConnectError> {
        match self.clone() {
            PortPlan::Udp { payload_bytes } => {
                Remote::connect_over(servers, move || UdpPort::new(UdpConfig { payload_bytes }))
            }
            #[cfg(feature = "dpdk")]
            PortPlan::Dpdk(plan) if plan.links.is_empty() => Remote::connect_over(servers, move || dpdk::open(&plan)),
            #[cfg(feature = "dpdk")]
            PortPlan::Dpdk(plan) => Remote::connect_over(servers, move || dpdk::open_several(&[plan])),
            #[cfg(feature = "dpdk")]
            PortPlan::Devices(plans) => Remote::connect_over(servers, move || dpdk::open_several(&plans)),
            #[cfg(not(feature = "dpdk"))]
            PortPlan::Dpdk(_) | PortPlan::Devices(_) => Err(ConnectError::Start(Error::DpdkNotBuilt.to_string())),
        }
    }

    /// Opens the port and runs `main` over it, on a core on this thread.
    ///
    /// # Errors
    /// Those of `main`, and those of the environment, E01xx.
    pub fn run<F, T>(&self, core: CoreConfig, between: &Between, main: impl FnOnce(Net) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + 'static,
        T: 'static,
    {
        let loss = between.loss;
        let pcap = || between.capture.as_ref().map(|capture| capture.open(1)).transpose();
        match self {
            PortPlan::Udp { payload_bytes } => {
                let pcap = pcap()?;
                let port = UdpPort::new(UdpConfig { payload_bytes: *payload_bytes }).map_err(net_error)?;
                match pcap {
                    Some(pcap) => run_losing(Tap::new(port, pcap), loss, core, main),
                    None => run_losing(port, loss, core, main),
                }
            }
            #[cfg(feature = "dpdk")]
            PortPlan::Dpdk(plan) if plan.links.is_empty() => {
                let core = CoreConfig { cpu: plan.core.or(core.cpu), idle: DPDK_IDLE, ..core };
                match pcap()? {
                    Some(pcap) => run_losing(dpdk::open_captured(plan, pcap)?, loss, core, main),
                    None => run_losing(dpdk::open(plan)?, loss, core, main),
                }
            }
            #[cfg(feature = "dpdk")]
            PortPlan::Dpdk(plan) => run_several(std::slice::from_ref(plan), between, core, main),
            #[cfg(feature = "dpdk")]
            PortPlan::Devices(plans) => run_several(plans, between, core, main),
            #[cfg(not(feature = "dpdk"))]
            PortPlan::Dpdk(_) | PortPlan::Devices(_) => Err(Error::DpdkNotBuilt),
        }
    }
}

/// A sleep costs its wake-up, so it is worth looking for a while, longer than a round trip of a replicated call takes; but with
/// yields, almost from the first look on: who has the answer may be waiting for this very processor. Each heartbeat costs an
/// idle node these looks, too.
#[cfg(feature = "dpdk")]
const DPDK_IDLE: Idle = Idle::Hybrid { polls: 2, yields: 80 };

/// A client that waits for one answer gets it before the followers hear that its call is committed.
const EARLY_PACKETS: usize = 4;

fn run_losing<P, F, T>(port: P, loss: Option<Loss>, core: CoreConfig, main: impl FnOnce(Net) -> F) -> Result<T, Error>
where
    P: Port + 'static,
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    match loss {
        Some(loss) => run_over(loss.inject(port), core, main),
        None => run_over(port, core, main),
    }
}

/// Over several devices of DPDK's, each captured in a file of its own.
#[cfg(feature = "dpdk")]
fn run_several<F, T>(
    plans: &[DpdkPlan],
    between: &Between,
    core: CoreConfig,
    main: impl FnOnce(Net) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    let cpu = plans.first().and_then(|plan| plan.core).or(core.cpu);
    let core = CoreConfig { cpu, idle: DPDK_IDLE, ..core };
    match &between.capture {
        Some(capture) => {
            let pcaps = (1..=plans.len()).map(|number| capture.open(number)).collect::<Result<_, _>>()?;
            run_losing(dpdk::open_several_captured(plans, pcaps)?, between.loss, core, main)
        }
        None => run_losing(dpdk::open_several(plans)?, between.loss, core, main),
    }
}

fn run_over<P, F, T>(port: P, core: CoreConfig, main: impl FnOnce(Net) -> F) -> Result<T, Error>
where
    P: Port + 'static,
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    let (driver, net) = NetDriver::new(port, NetConfig { early_packets: EARLY_PACKETS, ..NetConfig::default() });
    trimaran_runtime::run(core, move || driver, move || main(net)).map_err(runtime_error)?
}

/// Whether a text may set DPDK's files apart.
pub fn is_file_prefix(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=FILE_PREFIX_MAX).contains(&text.len()) && text.chars().all(plain)
}

/// A prefix for DPDK's files made of a name and what tells this process from others of that name.
pub fn file_prefix(name: &str, which: &str) -> String {
    let room = FILE_PREFIX_MAX.saturating_sub(which.len() + 1);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let name: String = name.chars().map(plain).take(room).collect();
    format!("{name}-{which}")
}

/// Whether a text names a device; what was expected, where not. A build without DPDK takes any.
pub fn check_device(text: &str) -> Result<(), String> {
    #[cfg(feature = "dpdk")]
    dpdk::parse_device(text)?;
    let _ = text;
    Ok(())
}

/// Most links of one host beside its first device.
pub const LINKS_MAX: usize = trimaran_net::port::bundle::LINKS_MAX - 1;

/// A device as DPDK knows it, so that two texts that name the same one are equal: its name, and what its driver is told. A build without
/// DPDK takes texts as they are.
pub(in crate::program) fn device_parts(text: &str) -> (String, String) {
    #[cfg(feature = "dpdk")]
    let text = &dpdk::parse_device(text).map_or_else(|_| text.to_owned(), |device| device.to_string());
    let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
    (name.to_owned(), arguments.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_prefix() {
        let parse = |text: &str| text.parse::<HostAddress>();
        assert_eq!(parse("10.0.0.9/24"), Ok(HostAddress { ip: Ipv4Addr::new(10, 0, 0, 9), prefix_bits: 24 }));
        for wrong in
            ["10.0.0.9", "10.0.0.9/", "10.0.0.9/0", "10.0.0.9/33", "10.0.0/8", "127.0.0.1/8", "0.0.0.0/8", "/24"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prefix_says_who_is_near() {
        let plan = |prefix_bits| DpdkPlan { prefix_bits, ..DpdkPlan::new(Ipv4Addr::new(10, 0, 0, 1)) };
        let (near, far) = (Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::new(10, 0, 1, 1));
        assert!(plan(24).is_near(near) && !plan(24).is_near(far));
        assert!(plan(23).is_near(far) && !plan(32).is_near(near) && plan(0).is_near(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn file_prefixes_fit() {
        assert_eq!(file_prefix("kv", "1"), "kv-1");
        assert_eq!(file_prefix("my cluster/é of a very long name", "3"), "my_cluster___of_a_very-3");
        assert!(is_file_prefix(&file_prefix("a cluster of a very long name", "4194304")));
        assert!(!is_file_prefix("") && !is_file_prefix("a/b") && !is_file_prefix("a234567890123456789012345"));
    }

    #[test]
    fn buffers_must_fit_into_the_memory() {
        let plan = |mbufs, memory_mib| DpdkPlan { mbufs, memory_mib, ..DpdkPlan::new(Ipv4Addr::new(10, 0, 0, 1)) };
        assert_eq!(plan(MBUFS, MEMORY_MIB).memory_short_mib(), None);
        assert_eq!(plan(65_535, 64).memory_short_mib(), Some(168));
        assert_eq!(plan(65_535, 168).memory_short_mib(), None);
    }
}
