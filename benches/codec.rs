//! Prints what it costs to write and read what travels: Raft's appends and acknowledgements with their check sums, and the headers
//! of R2P2. `cargo bench -p trimaran-benches --bench codec`.

use std::hint::black_box;
use trimaran_benches::{rounds, tell};
use trimaran_raft::{
    Ack, AppendHead, AppendWriter, Body, ClusterId, EntryHeader, Envelope, Log, LogIndex, Message, NodeId, Term,
};
use trimaran_rpc::r2p2::{Header, MessageType, Policy, RequestBlock, Rid};
use trimaran_runtime::{Clock, Monotonic};

const PAYLOAD_BYTES: usize = 1464;
/// A key of 16 bytes and a value of 64.
const BODY: [u8; 80] = [7; 80];
const BATCHES: [u64; 2] = [1, 8];

/// The best of five runs, in nanoseconds for each.
fn best(mut work: impl FnMut()) -> f64 {
    let count = rounds(2_000_000);
    let mut once = || {
        let start = Monotonic.now();
        (0..count).for_each(|_| work());
        (Monotonic.now() - start).as_nanos() as f64 / count as f64
    };
    (0..5).map(|_| once()).fold(f64::MAX, f64::min)
}

fn report(id: &str, what: &str, work: impl FnMut()) {
    let ns = best(work);
    tell(&format!("codec.{id}"), ns, "ns", &format!("{what:<44} {ns:8.1} ns"));
}

fn append(buffer: &mut [u8], envelope: &Envelope, log: &Log, entries: u64) -> usize {
    let head = AppendHead { commit: LogIndex(entries), round: 9, ack_wanted: true, ..AppendHead::default() };
    let mut writer = AppendWriter::new(buffer, envelope, &head);
    (1..=entries).for_each(|index| assert!(writer.push(log, LogIndex(index)), "it fits"));
    writer.finish()
}

fn main() {
    let envelope = Envelope {
        cluster: ClusterId(1),
        from: NodeId::new(1, 1),
        to: NodeId::new(2, 1),
        term: Term(1),
        ..Envelope::default()
    };
    let mut log = Log::default();
    for _ in 0..8 {
        let header = EntryHeader { term: Term(1), body_len: BODY.len() as u32, ..EntryHeader::default() };
        log.append(header, &[&BODY]);
    }
    let mut buffer = [0; PAYLOAD_BYTES];
    for entries in BATCHES {
        let what = format!("append of {entries}, written");
        report(&format!("append.{entries}.write"), &what, || {
            black_box(append(black_box(&mut buffer), &envelope, &log, entries));
        });
        let length = append(&mut buffer, &envelope, &log, entries);
        let written = &buffer[..length];
        report(&format!("append.{entries}.read"), &format!("append of {entries}, read"), || {
            let message = Message::decode(black_box(written)).expect("just written");
            let Body::Append(_, carried) = message.body else { panic!("an append") };
            assert_eq!(carried.map(black_box).count() as u64, entries);
        });
    }
    let ack = Ack { matched: LogIndex(8), verified: LogIndex(8), round: 9, credit_bytes: 1 << 20, ..Ack::default() };
    let message = Message { header: envelope, body: Body::Ack(ack) };
    report("ack.write", "acknowledgement, written", || {
        black_box(black_box(&message).encode(black_box(&mut buffer)));
    });
    let length = message.encode(&mut buffer);
    let written = &buffer[..length];
    report("ack.read", "acknowledgement, read", || {
        black_box(Message::decode(black_box(written)).expect("just written"));
    });
    let header = Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(7));
    report("r2p2_header.write", "header of R2P2, written", || {
        black_box(black_box(&header).emit());
    });
    let mut datagram = header.emit().to_vec();
    datagram.extend_from_slice(&BODY);
    report("r2p2_header.read", "header of R2P2, read", || {
        black_box(Header::parse(black_box(&datagram)).expect("just written"));
    });
    let block = RequestBlock::default().emit();
    report("request_block.read", "block of our own clients, read", || {
        black_box(RequestBlock::parse(black_box(&block)).expect("just written"));
    });
}
