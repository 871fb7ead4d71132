//! Frames in, datagrams out: packets, ports and datagram sockets for one core.
//!
//! ```text
//!              UdpSocket               NetDriver                     Port
//!
//!        <- recv -- [rx queue] <- demux -- poll  <- rx_burst --  udp   kernel sockets      -> network
//!   task                                                         sim   simulated network
//!        -- send -> [tx queue] -- Control, -> flush -- tx_burst ->  Tap, FaultInjector: wrap any port
//!                                 then Normal
//! ```
//!
//! The way of a packet, file by file:
//!
//! * [`packet`], [`pool`], [`burst`]: an owned buffer, where it comes from, and how buffers travel together
//! * [`port`]: the seam; [`port::udp`] over kernel sockets, [`port::sim`] over a simulated network in virtual time
//! * [`stack`], [`port::framed`]: Ethernet, ARP, IPv4, ICMP, IGMP and UDP for ports that carry raw frames
//! * [`port::multihomed`]: several of these as one port; [`port::bundle`]: several links as one device of frames
//! * `driver`, `demux`, [`steer`]: from the port to the right socket and back, once per turn of the core; to another core where
//!   the socket is there
//! * `net`, `socket`: what tasks hold
//! * [`tap`]: wrap any port, or a device of frames, to write a pcap file; wrap a port to inject faults
//!
//! Everything is bounded. What is lost at a bound is counted, see [`NetStats`]; what cannot be sent is given back.

pub mod burst;
mod demux;
mod driver;
mod error;
mod net;
pub mod offload;
pub mod packet;
pub mod pool;
pub mod port;
mod socket;
pub mod stack;
mod stats;
pub mod steer;
pub mod tap;

pub use burst::{Burst, PacketQueue};
pub use driver::NetDriver;
pub use error::{NetError, Refusal, SendError};
pub use net::{Net, NetConfig};
pub use offload::{Checksum, Checksums, Offloads};
pub use packet::Packet;
pub use port::bundle::Bundle;
pub use port::framed::Framed;
pub use port::multihomed::MultiHomed;
pub use port::sim::{FaultCounters, Link, SimCounters, SimFramePort, SimNet, SimPort};
pub use port::udp::{UdpConfig, UdpPort, device_payload_bytes};
pub use port::{Capabilities, FramePort, Port, PortDescription};
pub use socket::{Priority, SocketOptions, UdpSocket};
pub use stack::{MacAddr, Stack, StackConfig, StackCounters};
pub use stats::{NetStats, PortStats, SocketStats};
pub use steer::{Layout, SHARDS_MAX, Steering, shard_address};
pub use tap::{FaultInjector, FrameTap, PcapWriter, Tap};
