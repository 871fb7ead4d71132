//! Datagrams as a pcap file that every analyser reads.

use crate::packet::Packet;
use crate::stack::MacAddr;
use std::io::{self, Write};
use trimaran_runtime::Instant;

/// Ethernet, IPv4 and UDP headers put before each payload.
const HEADERS_BYTES: usize = 14 + 20 + 8;
/// Marks a file with nanosecond timestamps.
const MAGIC_NANOS: u32 = 0xA1B2_3C4D;
const LINKTYPE_ETHERNET: u32 = 1;
/// More than any packet has.
const SNAP_BYTES: u32 = 65_535;

/// Writes datagrams in pcap format, with nanosecond timestamps and made-up Ethernet, IPv4 and UDP headers: hardware
/// addresses are derived from the IP addresses, the UDP checksum is absent.
///
/// A failed write is counted and ends the recording; traffic goes on. Wrap files in a `BufWriter`.
pub struct PcapWriter<W: Write> {
    out: W,
    limit_bytes: u64,
    written_bytes: u64,
    packets: u64,
    unwritten: u64,
    failed: bool,
    /// Records made but not written, and where each ends.
    scratch: Vec<u8>,
    ends: Vec<usize>,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header. No more than `limit_bytes` are ever written; later packets are only counted.
    pub fn new(mut out: W, limit_bytes: u64) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend_from_slice(&MAGIC_NANOS.to_le_bytes());
        header.extend_from_slice(&2u16.to_le_bytes());
        header.extend_from_slice(&4u16.to_le_bytes());
        header.extend_from_slice(&[0; 8]); // UTC, no accuracy claimed
        header.extend_from_slice(&SNAP_BYTES.to_le_bytes());
        header.extend_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        out.write_all(&header)?;
        Ok(PcapWriter {
            out,
            limit_bytes,
            written_bytes: header.len() as u64,
            packets: 0,
            unwritten: 0,
            failed: false,
            scratch: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// Writes one packet as seen at `now`.
    pub fn record(&mut self, now: Instant, packet: &Packet) {
        self.prepare(now, std::iter::once(packet));
        self.commit(1);
    }

    /// Writes one Ethernet frame as it is.
    pub fn record_frame(&mut self, now: Instant, frame: &[u8]) {
        self.scratch.clear();
        self.ends.clear();
        append_record_header(&mut self.scratch, now, frame.len() as u32); // a packet buffer is far shorter than 4 GiB
        self.scratch.extend_from_slice(frame);
        self.ends.push(self.scratch.len());
        self.commit(1);
    }

    /// Makes records of packets that may yet be taken or not.
    pub(super) fn prepare<'a>(&mut self, now: Instant, packets: impl Iterator<Item = &'a Packet>) {
        self.scratch.clear();
        self.ends.clear();
        for packet in packets {
            append_record(&mut self.scratch, now, packet);
            self.ends.push(self.scratch.len());
        }
    }

    /// Writes the first `count` of the records made.
    pub(super) fn commit(&mut self, count: usize) {
        let count = count.min(self.ends.len());
        let fits = |end: &&usize| self.written_bytes + **end as u64 <= self.limit_bytes;
        let written = if self.failed { 0 } else { self.ends[..count].iter().take_while(fits).count() };
        let bytes = written.checked_sub(1).map_or(0, |last| self.ends[last]);
        self.unwritten += (count - written) as u64;
        match self.out.write_all(&self.scratch[..bytes]) {
            Ok(()) => {
                self.written_bytes += bytes as u64;
                self.packets += written as u64;
            }
            Err(error) => {
                tracing::warn!(%error, "the packet capture ends here");
                self.failed = true;
                self.unwritten += written as u64;
            }
        }
    }

    /// Packets written.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Packets not written, because of the limit or an error.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// Flushes the underlying writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the recording and returns the underlying writer, flushed.
    pub fn into_inner(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

fn append_record_header(out: &mut Vec<u8>, now: Instant, frame_bytes: u32) {
    let nanos = now.as_nanos();
    out.extend_from_slice(&((nanos / 1_000_000_000) as u32).to_le_bytes());
    out.extend_from_slice(&((nanos % 1_000_000_000) as u32).to_le_bytes());
    out.extend_from_slice(&frame_bytes.to_le_bytes());
    out.extend_from_slice(&frame_bytes.to_le_bytes());
}

fn append_record(out: &mut Vec<u8>, now: Instant, packet: &Packet) {
    let udp_bytes = (8 + packet.len()) as u16; // a packet buffer is far shorter than 64 KiB
    append_record_header(out, now, (HEADERS_BYTES + packet.len()) as u32);

    let (src, dst) = (packet.src(), packet.dst());
    out.extend_from_slice(&MacAddr::derived(*dst.ip()).0);
    out.extend_from_slice(&MacAddr::derived(*src.ip()).0);
    out.extend_from_slice(&0x0800u16.to_be_bytes());

    let ip_at = out.len();
    out.extend_from_slice(&[0x45, 0]);
    out.extend_from_slice(&(20 + udp_bytes).to_be_bytes());
    out.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]); // no fragments, 64 hops, UDP, checksum to come
    out.extend_from_slice(&src.ip().octets());
    out.extend_from_slice(&dst.ip().octets());
    let checksum = internet_checksum(&out[ip_at..]);
    out[ip_at + 10..ip_at + 12].copy_from_slice(&checksum.to_be_bytes());

    out.extend_from_slice(&src.port().to_be_bytes());
    out.extend_from_slice(&dst.port().to_be_bytes());
    out.extend_from_slice(&udp_bytes.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(packet.data());
}

fn internet_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Priority;

    fn packet(payload: &[u8]) -> Packet {
        let mut packet = Packet::alloc(Priority::Normal).unwrap();
        packet.extend_from_slice(payload).unwrap();
        packet.set_src("10.0.0.1:8000".parse().unwrap());
        packet.set_dst("10.0.0.2:9000".parse().unwrap());
        packet
    }

    const FILE_HEADER: [u8; 24] =
        [0x4D, 0x3C, 0xB2, 0xA1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 1, 0, 0, 0];

    #[test]
    fn one_datagram_byte_by_byte() {
        let mut pcap = PcapWriter::new(Vec::new(), u64::MAX).unwrap();
        pcap.record(Instant::from_nanos(3_000_000_007), &packet(b"hey"));
        assert_eq!((pcap.packets(), pcap.unwritten()), (1, 0));
        let bytes = pcap.into_inner().unwrap();
        let mut expected = FILE_HEADER.to_vec();
        expected.extend_from_slice(&[3, 0, 0, 0, 7, 0, 0, 0, 45, 0, 0, 0, 45, 0, 0, 0]); // 3 s 7 ns, 45 of 45 bytes
        expected.extend_from_slice(&[2, 0, 10, 0, 0, 2, 2, 0, 10, 0, 0, 1, 8, 0]); // Ethernet
        // The checksum, worked out by hand: the other words add up to 0xD933, whose complement is 0x26CC.
        expected.extend_from_slice(&[0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x26, 0xCC, 10, 0, 0, 1, 10, 0, 0, 2]);
        expected.extend_from_slice(&[0x1F, 0x40, 0x23, 0x28, 0, 11, 0, 0]); // UDP 8000 -> 9000, 11 bytes
        expected.extend_from_slice(b"hey");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn the_limit_ends_the_file_at_a_whole_packet() {
        let one_bytes = 16 + HEADERS_BYTES as u64 + 3;
        let mut pcap = PcapWriter::new(Vec::new(), 24 + 2 * one_bytes + 1).unwrap();
        for _ in 0..3 {
            pcap.record(Instant::ZERO, &packet(b"abc"));
        }
        assert_eq!((pcap.packets(), pcap.unwritten()), (2, 1));
        assert_eq!(pcap.into_inner().unwrap().len() as u64, 24 + 2 * one_bytes);
    }

    #[test]
    fn what_the_port_left_is_not_written() {
        let mut pcap = PcapWriter::new(Vec::new(), u64::MAX).unwrap();
        let packets = [packet(b"one"), packet(b"two"), packet(b"three")];
        pcap.prepare(Instant::ZERO, packets.iter());
        pcap.commit(2);
        assert_eq!((pcap.packets(), pcap.unwritten()), (2, 0));
        let bytes = pcap.into_inner().unwrap();
        assert!(bytes.ends_with(b"two"));
    }

    /// Takes the file header and nothing more.
    struct Broken(usize);

    impl Write for Broken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 == 1 { Ok(bytes.len()) } else { Err(io::ErrorKind::StorageFull.into()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failed_write_ends_the_recording_and_is_not_tried_again() {
        let mut pcap = PcapWriter::new(Broken(0), u64::MAX).unwrap();
        pcap.record(Instant::ZERO, &packet(b"x"));
        pcap.record(Instant::ZERO, &packet(b"x"));
        assert_eq!((pcap.packets(), pcap.unwritten()), (0, 2));
        assert!(pcap.out.0 <= 3, "writes after the failure carry nothing");
    }
}
