//! Datagrams as a pcap file that every analyser reads.

use crate::packet::Packet;
use crate::stack::MacAddr;
use std::io::{self, Write};
use std::time::Duration;
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
/// A failed write is counted and ends the recording; traffic goes on. Wrap files in a `BufWriter`; the ports around ports flush it
/// before their core sleeps.
pub struct PcapWriter<W: Write> {
    out: W,
    /// Added to every timestamp.
    origin: Duration,
    /// Something was written since the last flush.
    dirty: bool,
    limit_bytes: u64,
    written_bytes: u64,
    packets: u64,
    unwritten: u64,
    /// The limit was reached, or a write has failed.
    ended: bool,
    /// Records made but not written, and where each ends.
    scratch: Vec<u8>,
    ends: Vec<usize>,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header. No more than `limit_bytes` are ever written: the first packet that does not fit ends the recording,
    /// with a warning in the log, and from then on packets are only counted.
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
            origin: Duration::ZERO,
            dirty: true,
            limit_bytes,
            written_bytes: header.len() as u64,
            packets: 0,
            unwritten: 0,
            ended: false,
            scratch: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// Counts the time of packets from `origin`, which is when the core's clock was zero: with the time since 1970 a capture shows
    /// the time of day.
    pub fn with_origin(mut self, origin: Duration) -> Self {
        self.origin = origin;
        self
    }

    /// Writes one packet as seen at `now`.
    pub fn record(&mut self, now: Instant, packet: &Packet) {
        self.prepare(now, std::iter::once(packet));
        self.commit(1);
    }

    /// Writes one Ethernet frame as it is.
    pub fn record_frame(&mut self, now: Instant, frame: &[u8]) {
        self.make(now, std::iter::once(frame), append_frame);
        self.commit(1);
    }

    /// Makes records of packets that may yet be taken or not.
    pub(super) fn prepare<'a>(&mut self, now: Instant, packets: impl Iterator<Item = &'a Packet>) {
        self.make(now, packets, append_record);
    }

    /// The same of packets that are frames.
    pub(super) fn prepare_frames<'a>(&mut self, now: Instant, frames: impl Iterator<Item = &'a Packet>) {
        self.make(now, frames, |out, now, frame| append_frame(out, now, frame.data()));
    }

    fn make<T>(&mut self, now: Instant, items: impl Iterator<Item = T>, append: fn(&mut Vec<u8>, Duration, T)) {
        self.scratch.clear();
        self.ends.clear();
        let at = self.origin + Duration::from_nanos(now.as_nanos());
        for item in items {
            append(&mut self.scratch, at, item);
            self.ends.push(self.scratch.len());
        }
    }

    /// Writes the first `count` of the records made.
    pub(super) fn commit(&mut self, count: usize) {
        let count = count.min(self.ends.len());
        let fits = |end: &&usize| self.written_bytes + **end as u64 <= self.limit_bytes;
        let written = if self.ended { 0 } else { self.ends[..count].iter().take_while(fits).count() };
        let bytes = written.checked_sub(1).map_or(0, |last| self.ends[last]);
        self.unwritten += (count - written) as u64;
        if written < count && !self.ended {
            tracing::warn!(self.limit_bytes, "the packet capture has reached its limit and ends here");
            self.ended = true;
        }
        self.dirty |= bytes > 0;
        match self.out.write_all(&self.scratch[..bytes]) {
            Ok(()) => {
                self.written_bytes += bytes as u64;
                self.packets += written as u64;
            }
            Err(error) => {
                self.fail(&error);
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

    /// Flushes the underlying writer, where something was written since.
    pub fn flush(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.dirty) { self.out.flush() } else { Ok(()) }
    }

    /// As [`PcapWriter::flush`]; where it fails, the recording ends.
    pub(super) fn rest(&mut self) {
        if let Err(error) = self.flush() {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the packet capture ends here");
        self.ended = true;
    }

    /// Ends the recording and returns the underlying writer, flushed.
    pub fn into_inner(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

fn append_record_header(out: &mut Vec<u8>, at: Duration, frame_bytes: u32) {
    out.extend_from_slice(&(at.as_secs() as u32).to_le_bytes());
    out.extend_from_slice(&at.subsec_nanos().to_le_bytes());
    out.extend_from_slice(&frame_bytes.to_le_bytes());
    out.extend_from_slice(&frame_bytes.to_le_bytes());
}

fn append_frame(out: &mut Vec<u8>, at: Duration, frame: &[u8]) {
    append_record_header(out, at, frame.len() as u32); // a packet buffer is far shorter than 4 GiB
    out.extend_from_slice(frame);
}

fn append_record(out: &mut Vec<u8>, at: Duration, packet: &Packet) {
    let udp_bytes = (8 + packet.len()) as u16; // a packet buffer is far shorter than 64 KiB
    append_record_header(out, at, (HEADERS_BYTES + packet.len()) as u32);

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
        let mut pcap = PcapWriter::new(Vec::new(), 24 + 2 * one_bytes + 20).unwrap();
        for _ in 0..3 {
            pcap.record(Instant::ZERO, &packet(b"abc"));
        }
        assert_eq!((pcap.packets(), pcap.unwritten()), (2, 1));
        pcap.record_frame(Instant::ZERO, b"");
        assert_eq!((pcap.packets(), pcap.unwritten()), (2, 2), "nothing follows a gap");
        assert_eq!(pcap.into_inner().unwrap().len() as u64, 24 + 2 * one_bytes);
    }

    #[test]
    fn the_time_of_day_is_the_origin_and_what_has_passed_since() {
        let mut pcap =
            PcapWriter::new(Vec::new(), u64::MAX).unwrap().with_origin(Duration::new(1_700_000_000, 999_999_999));
        pcap.record_frame(Instant::from_nanos(2), b"frame");
        let bytes = pcap.into_inner().unwrap();
        assert_eq!(bytes[24..32], [1_700_000_001u32.to_le_bytes(), 1u32.to_le_bytes()].concat());
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
