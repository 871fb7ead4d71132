//! A capture of requests, played by DPDK's net_pcap into a node and answered into another capture, which is checked frame by frame.
//! Needs neither root nor a network. The requests are cut by this crate's own codec, the frames around them made by hand.

#[path = "../../net/tests/common/mod.rs"]
mod common;

use common::corpus::bad_frames;
use common::frame::{arp, checksum, echo, ethernet, ipv4, pcap_frames};
use common::{B, C, addr};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use trimaran_net::port::dpdk::{DpdkPort, OpenOptions, open};
use trimaran_net::{MacAddr, NetConfig, NetDriver, PcapWriter, SocketOptions, StackConfig};
use trimaran_raft::{Incarnation, Slot, Timing};
use trimaran_rpc::node::{Node, NodeConfig};
use trimaran_rpc::r2p2::{Header, MessageType, Policy, Rid, Segmenter, drop_packet, response};
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_runtime::{Clock, Core, CoreConfig, Driver, Instant};

/// The node, as the device's address says: `pcap` in hexadecimal.
const MAC: MacAddr = MacAddr([2, b'p', b'c', b'a', b'p', 0]);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const SERVICE: u16 = 8_000;
const USER: u16 = 33_000;

/// Sends back what it is asked, backwards.
#[derive(Default)]
struct Mirror;

impl State for Mirror {
    async fn save(&self, _: &mut Writer) {}

    async fn load(_: u32, _: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Mirror)
    }
}

impl Service for Mirror {
    const NAME: &'static str = "mirror";

    async fn apply(&mut self, _: &mut Cx, _: &[u8], _: &mut Vec<u8>) -> Answer {
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend(request.iter().rev());
        Answer::Ok
    }
}

/// Files that go with the test.
struct Files(PathBuf);

impl Files {
    fn new() -> Files {
        let directory = std::env::temp_dir().join(format!("trimaran-replay-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Files(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A datagram as a frame, padded as a link wants it. Its checksum is there, and true.
fn framed(from: (MacAddr, SocketAddrV4), to: (MacAddr, SocketAddrV4), payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (from.1, to.1);
    let length = (8 + payload.len() as u16).to_be_bytes();
    let head = [&src.port().to_be_bytes()[..], &dst.port().to_be_bytes(), &length].concat();
    let sum = checksum(&[&src.ip().octets(), &dst.ip().octets(), &[0, 17], &length, &head, &[0, 0], payload]);
    let carried = ipv4(*src.ip(), *dst.ip(), 17, &[&head[..], &sum, payload].concat());
    padded(ethernet(to.0, from.0, 0x0800, &carried))
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A host that asks: who it is, what it sends and what it must get, each in order.
struct Host {
    ip: Ipv4Addr,
    sent: Vec<Vec<u8>>,
    expected: Vec<Vec<u8>>,
    rid: u16,
}

impl Host {
    fn new(ip: Ipv4Addr) -> Host {
        Host { ip, sent: Vec::new(), expected: Vec::new(), rid: 0 }
    }

    fn end(&self) -> (MacAddr, SocketAddrV4) {
        (MacAddr::derived(self.ip), addr(self.ip, USER))
    }

    fn sends(&mut self, payload: &[u8]) {
        self.sent.push(framed(self.end(), (MAC, addr(NODE, SERVICE)), payload));
    }

    fn gets(&mut self, payload: &[u8]) {
        self.expected.push(framed((MAC, addr(NODE, SERVICE)), self.end(), payload));
    }

    /// The packets of a request of so many bytes, and its body.
    fn request(&mut self, policy: Policy, bytes: usize) -> (Rid, Vec<Vec<u8>>, Vec<u8>) {
        self.rid += 1;
        let rid = Rid(self.rid);
        let body: Vec<u8> = (0..bytes).map(|at| (at ^ (at >> 8) ^ usize::from(self.rid)) as u8).collect();
        let message = Header::single(MessageType::Request, policy, rid);
        let packets = Segmenter::default().request(bytes).unwrap().packets_from(message, 0);
        (rid, packets.map(|(header, range)| [&header.emit(), &body[range]].concat()).collect(), body)
    }

    fn gets_mirrored(&mut self, rid: Rid, body: &[u8]) {
        let mirrored: Vec<u8> = body.iter().rev().copied().collect();
        for (header, range) in Segmenter::default().reply(body.len()).unwrap().packets_from(response(rid, false), 0) {
            self.gets(&[&header.emit(), &mirrored[range]].concat());
        }
    }

    /// A request of one packet and its answer.
    fn asks(&mut self, policy: Policy, bytes: usize) {
        let (rid, packets, body) = self.request(policy, bytes);
        assert_eq!(packets.len(), 1);
        self.sends(&packets[0]);
        self.gets_mirrored(rid, &body);
    }

    /// A request of several packets, the rest of them turned by `order`.
    fn asks_at_length(&mut self, bytes: usize, order: fn(&mut [Vec<u8>])) {
        let (rid, mut packets, body) = self.request(Policy::LbRoute, bytes);
        order(&mut packets[1..]);
        self.sends(&packets[0]);
        // One ACK, byte by byte: magic, 8, ACK by policy 1, whole, the id, one packet.
        self.gets(&[&[0xCC, 8, 0x31, 0xC0], &rid.0.to_be_bytes()[..], &[0, 1], b"ACK"].concat());
        packets[1..].iter().for_each(|packet| self.sends(packet));
        self.gets_mirrored(rid, &body);
    }
}

/// What the member sends whose address the node was told.
fn known_host() -> Host {
    let mut host = Host::new(B);
    for bytes in [0, 1, 10, 11, 1_464] {
        host.asks(Policy::LbRoute, bytes);
        host.asks(Policy::FixedRoute, bytes);
    }
    host.asks_at_length(1_465, |_| {});
    host.asks_at_length(1_479, |_| {});
    host.asks_at_length(5_000, |rest| rest.reverse());
    // Nobody leads: what needs a leader is refused at once.
    for policy in [Policy::ReplicatedRoute, Policy::ReplicatedRouteNoSideEffects] {
        let (rid, packets, _) = host.request(policy, 5);
        host.sends(&packets[0]);
        host.gets(&drop_packet(rid));
    }
    // None of these is answered: each is cut, damaged, out of place, or no request.
    let (_, packets, _) = host.request(Policy::LbRoute, 5);
    for (at, value) in [(0, 0xCD), (1, 9), (2, 0xF0), (2, 0x0F), (2, 0x11), (2, 0x50), (3, 0x40), (7, 2)] {
        let mut bad = packets[0].clone();
        bad[at] = value;
        host.sends(&bad);
    }
    for cut in 0..8 {
        host.sends(&packets[0][..cut]);
    }
    host.sends(&[0; 300]);
    host
}

/// What the whole link brings: questions, pings and every bad frame in between; and what the node says to these by itself.
fn link(known: &Host, stranger: &Host) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let to_us =
        |src: Ipv4Addr, ethertype, payload: &[u8]| padded(ethernet(MAC, MacAddr::derived(src), ethertype, payload));
    let mut expected = Vec::new();
    let mut frames = Vec::new();
    // The stranger asks first, and its address is asked for; the answer comes a whole burst and more after that.
    frames.extend(stranger.sent.iter().cloned());
    let mut question = arp(1, NODE, stranger.ip);
    question[8..14].copy_from_slice(&MAC.0);
    question[18..24].fill(0);
    let question = padded(ethernet(MacAddr::BROADCAST, MAC, 0x0806, &question));

    frames.push(padded(ethernet(MacAddr::BROADCAST, MacAddr::derived(B), 0x0806, &arp(1, B, NODE))));
    let mut answer = arp(2, NODE, B);
    answer[8..14].copy_from_slice(&MAC.0);
    expected.push(padded(ethernet(MacAddr::derived(B), MAC, 0x0806, &answer)));
    for bytes in [0, 1, 56, 1_400, 1_472] {
        let ping = echo(&vec![bytes as u8; bytes]);
        frames.push(to_us(B, 0x0800, &ipv4(B, NODE, 1, &ping)));
        let mut pong = ping;
        pong[0] = 0;
        pong[2..4].fill(0);
        let sum = checksum(&[&pong]);
        pong[2..4].copy_from_slice(&sum);
        expected.push(padded(ethernet(MacAddr::derived(B), MAC, 0x0800, &ipv4(NODE, B, 1, &pong))));
    }
    // All this comes in one burst: what the service has to say follows when the turn ends.
    expected.push(question);
    // Frames of the corpus are for another host and another station: made ours where that leaves them as bad as they were.
    let bad = bad_frames().into_iter().map(|bad| bad.frame);
    let mut bad = bad.filter(|frame| frame.len() >= 14 && frame[..6] == MacAddr::derived(common::A).0);
    for frame in &known.sent {
        frames.push(frame.clone());
        frames.extend(bad.by_ref().take(4).map(|frame| [&MAC.0[..], &frame[6..]].concat()));
    }
    assert!(frames.len() > 100, "the answer must come later than the question");
    frames.push(to_us(stranger.ip, 0x0806, &{
        let mut answer = arp(2, stranger.ip, NODE);
        answer[18..24].copy_from_slice(&MAC.0);
        answer
    }));
    (frames, expected)
}

/// The clock of a core whose every look takes a microsecond, so that a slow machine changes nothing.
#[derive(Default)]
struct Ticks(Cell<u64>);

impl Clock for Ticks {
    fn now(&self) -> Instant {
        self.0.set(self.0.get() + 1_000);
        Instant::from_nanos(self.0.get())
    }
}

#[track_caller]
fn same(who: &str, answers: &[&Vec<u8>], expected: &[Vec<u8>]) {
    for (number, (answer, expected)) in answers.iter().zip(expected).enumerate() {
        assert!(*answer == expected, "{who}, answer {number}: {answer:02x?}\nexpected {expected:02x?}");
    }
    assert_eq!(answers.len(), expected.len(), "{who}");
}

fn node_config() -> NodeConfig {
    NodeConfig {
        cluster_name: "replay".into(),
        slot: Slot(1),
        place: trimaran_rpc::shards::ShardPlace::ALONE,
        incarnation: Incarnation(1),
        client: addr(NODE, SERVICE),
        peer: addr(NODE, 8_100),
        contacts: vec![addr(NODE, 8_100)],
        timing: Timing::SHARED,
        log_limits: Default::default(),
        request_limits: Default::default(),
        reply_bytes: 1 << 20,
        queued_reads: 64,
        reads: Default::default(),
        rcvbuf_bytes: 1 << 20,
        router: None,
        seed: 1,
        sabotage: Default::default(),
    }
}

#[test]
fn a_capture_is_answered_into_another_frame_by_frame() {
    let files = Files::new();
    let (rx_file, tx_file) = (files.path("in.pcap"), files.path("out.pcap"));
    let known = known_host();
    let mut stranger = Host::new(C);
    stranger.asks(Policy::LbRoute, 100);
    let (frames, said) = link(&known, &stranger);
    let mut capture = PcapWriter::new(Vec::new(), u64::MAX).unwrap();
    for (number, frame) in frames.iter().enumerate() {
        capture.record_frame(Instant::from_nanos(number as u64), frame);
    }
    std::fs::write(&rx_file, capture.into_inner().unwrap()).unwrap();

    let device = format!("net_pcap_0,rx_pcap={rx_file},tx_pcap={tx_file}").parse().unwrap();
    let options = OpenOptions { mbufs: 2_047, ..OpenOptions::new(&format!("replay-{}", std::process::id()), device) };
    let (device, mut queues) = open(&options).expect("needs no rights");
    let mut port = DpdkPort::new(queues.remove(0), StackConfig::new(NODE, 24));
    assert!(port.stack_mut().pin(B, Some(MacAddr::derived(B))));
    let pool = port.device_mut().pool().clone();
    let (mut driver, net) = NetDriver::new(port, NetConfig::default());
    driver.start();
    let mut core = Core::new(CoreConfig::default(), Ticks::default(), driver);
    let node = core.enter(|| Node::start(&net, node_config(), Mirror)).unwrap();
    let expected = said.len() + known.expected.len() + stranger.expected.len();
    let turn_until = |core: &mut Core<NetDriver<DpdkPort>, Ticks>, sent: u64| {
        // Far more turns than are needed: what is missing then will not come.
        let mut turns = (0..200_000).map(|_| core.turn());
        _ = turns.find(|_| net.stats().port.tx_packets >= sent);
        (0..1_000).for_each(|_| _ = core.turn());
    };
    turn_until(&mut core, expected as u64);
    assert_eq!(net.stats().port.rx_packets, frames.len() as u64);

    // The file has ended; the port has not.
    let socket = core.enter(|| net.bind(addr(NODE, 77), SocketOptions::default())).unwrap();
    let mut last = socket.alloc().unwrap();
    last.extend_from_slice(b"and on it goes").unwrap();
    socket.send_to(last, addr(B, 7)).unwrap();
    turn_until(&mut core, expected as u64 + 1);
    let stats = device.stats().unwrap();
    assert_eq!((stats.rx_frames, stats.tx_frames), (frames.len() as u64, expected as u64 + 1));
    drop((socket, node, net, device));
    core.shutdown();
    assert_eq!(pool.in_use(), 0);

    let answers: Vec<Vec<u8>> =
        pcap_frames(&std::fs::read(&tx_file).unwrap()).into_iter().map(|(_, frame)| frame).collect();
    let is_udp = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 17;
    let to = |ip: Ipv4Addr| -> Vec<&Vec<u8>> {
        answers.iter().filter(|frame| is_udp(frame) && frame[30..34] == ip.octets()).collect()
    };
    let by_itself = answers.iter().filter(|frame| !is_udp(frame)).cloned();
    let by_itself: Vec<_> = by_itself.collect();
    same("what the stack says by itself", &by_itself.iter().collect::<Vec<_>>(), &said);
    same("the stranger", &to(C), &stranger.expected);
    // An ACK may overtake the answers to earlier requests; the frames of one request, by its id, come in order.
    let by_rid = |frame: &Vec<u8>| [frame[46], frame[47]];
    let mut to_known = to(B);
    let last = framed((MAC, addr(NODE, 77)), (MacAddr::derived(B), addr(B, 7)), b"and on it goes");
    assert_eq!(to_known.pop(), Some(&last));
    to_known.sort_by_key(|frame| by_rid(frame));
    let mut known_expected = known.expected;
    known_expected.sort_by_key(by_rid);
    same("the member", &to_known, &known_expected);
    assert_eq!(answers.len(), expected + 1);
}
