//! Datagrams that come much later than the call that they were sent for: what was refused stays so, and what was applied is not applied
//! again.

mod cluster_support;
mod ledger_support;

use cluster_support::{SECOND, status};
use ledger_support::{Ledger, METHOD, MILLI, WRITE, leader, ledger, times, worker, write};
use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use trimaran_net::SocketOptions;
use trimaran_raft::{ClusterId, LogIndex};
use trimaran_rpc::client::CallError;
use trimaran_rpc::r2p2::{Flags, Header, MessageType, Refusal, RequestBlock, ResponseBlock, Rid, Status};
use trimaran_rpc::service::method_key;
use trimaran_rpc::session::{REGISTER, SessionId};
use trimaran_rpc::sim::cluster::{Cluster, node_ip};
use trimaran_runtime::sleep;

/// Cuts the nodes off from each other, so that soon nobody leads and writes are refused.
fn scatter(cluster: &mut Cluster<Ledger>) {
    cluster.network().partition(&[&[node_ip(0)], &[node_ip(1)], &[node_ip(2)]]);
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_none()), "somebody leads without a majority");
}

/// Delivers old datagrams once more, in any order and most of them several times.
fn replay(cluster: &mut Cluster<Ledger>) {
    for _ in 0..400 {
        cluster.network().replay(cluster.now(), None);
        cluster.run_for(MILLI / 10);
    }
}

/// A write whose every copy was refused is reported as not applied. Its datagrams, delivered once more when there is a leader
/// again, change nothing.
#[test]
fn late_copies_of_what_was_refused_are_not_executed() {
    for seed in 300..310 {
        let mut cluster = ledger(seed);
        let worker = worker(&mut cluster, |client| async move { write(&client, b"refused", 300 * MILLI).await });
        scatter(&mut cluster);
        cluster.network().keep_packets(100_000);
        worker.start(&mut cluster, MILLI);
        let end = worker.finish(&mut cluster);
        assert!(matches!(end, Err(CallError::NotApplied(_) | CallError::NoQuorum { .. })), "seed {seed}: {end:?}");
        cluster.network().heal();
        assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()), "nobody leads");
        replay(&mut cluster);
        cluster.run_for(SECOND);
        assert_eq!(times(&mut cluster, b"refused"), 0, "seed {seed}");
    }
}

/// A write was applied; its datagram, delivered once more while nobody leads, is not answered as one that was refused. Another
/// copy of the call is.
#[test]
fn late_copies_of_what_was_applied_are_not_refused() {
    let mut cluster = ledger(320);
    let to = cluster.addresses()[leader(&cluster).0];
    let (is_scattered, told) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Vec::new())));
    let (scattered, tell) = (is_scattered.clone(), told.clone());
    let ip = Ipv4Addr::new(10, 0, 2, 1);
    cluster.machine(ip, move |net, _| async move {
        let socket = net.bind(SocketAddrV4::new(ip, 0), SocketOptions::default()).expect("a socket");
        let flags = Flags { own_block: true, ..Flags::SINGLE };
        let ask = async |rid: u16, block: RequestBlock, body: &[u8]| {
            let header = Header { flags, ..Header::single(MessageType::Request, WRITE, Rid(rid)) };
            let mut packet = socket.alloc().expect("a packet");
            packet.extend_from_slices([&header.emit(), &block.emit(), body]).expect("room");
            assert!(socket.send_to(packet, to).is_ok());
            let answer = socket.recv_or_deadline(trimaran_runtime::now() + 100 * MILLI).await?;
            let (block, body) = ResponseBlock::parse(&answer.data()[8..]).expect("a block");
            Some((block, body.to_vec()))
        };
        let register = RequestBlock { method: method_key(REGISTER), ..RequestBlock::default() };
        let (opened, id) = ask(1, register, &77u128.to_le_bytes()).await.expect("a session");
        let cluster = ClusterId(u128::from_le_bytes(id.try_into().expect("the cluster's id")));
        let session = SessionId::new(cluster, LogIndex(opened.index)).0;
        let first = RequestBlock { method: METHOD, copy: 1, session, seq: 1, ..RequestBlock::default() };
        for (rid, copy) in [(2, 1), (2, 1), (3, 2)] {
            let answer = ask(rid, RequestBlock { copy, ..first }, b"applied").await;
            tell.borrow_mut().push(answer.map(|(block, _)| block.status));
            while !scattered.get() {
                sleep(MILLI).await;
            }
        }
    });
    cluster.run_for(200 * MILLI);
    assert_eq!(*told.borrow(), [Some(Status::Ok)]);
    scatter(&mut cluster);
    is_scattered.set(true);
    cluster.run_for(300 * MILLI);
    assert_eq!(*told.borrow(), [Some(Status::Ok), None, Some(Status::NoQuorum)]);
    cluster.network().heal();
    cluster.run_for(SECOND);
    assert_eq!(times(&mut cluster, b"applied"), 1);
    let counters: Vec<_> = (0..3).map(|node| status(&mut cluster, node).counters).collect();
    assert_eq!(counters.iter().filter_map(|of| of.get("r2p2.copy_seen")).sum::<u64>(), 1);
}

/// A write of several packets of which the last was missing was refused; all of them, delivered much later, execute nothing. Another
/// copy of the call does.
#[test]
fn late_packets_of_what_was_given_up_as_incomplete_execute_nothing() {
    let mut cluster = ledger(321);
    let to = cluster.addresses()[leader(&cluster).0];
    let told = Rc::new(RefCell::new(Vec::new()));
    let tell = told.clone();
    let ip = Ipv4Addr::new(10, 0, 2, 1);
    cluster.machine(ip, move |net, _| async move {
        let socket = net.bind(SocketAddrV4::new(ip, 0), SocketOptions::default()).expect("a socket");
        let send = |rid: u16, flags: Flags, p_order: u16, parts: [&[u8]; 2]| {
            let header = Header { flags, p_order, ..Header::single(MessageType::Request, WRITE, Rid(rid)) };
            let mut packet = socket.alloc().expect("a packet");
            packet.extend_from_slices([&header.emit(), parts[0], parts[1]]).expect("room");
            assert!(socket.send_to(packet, to).is_ok());
        };
        let hear = async || {
            let answer = socket.recv_or_deadline(trimaran_runtime::now() + 600 * MILLI).await?;
            let (header, payload) = Header::parse(answer.data()).expect("a header");
            match header.kind {
                MessageType::Response => ResponseBlock::parse(payload).ok().map(|(block, body)| (block, body.to_vec())),
                _ => Some((ResponseBlock::default(), b"ack".to_vec())),
            }
        };
        let register = RequestBlock { method: method_key(REGISTER), ..RequestBlock::default() };
        send(1, Flags { own_block: true, ..Flags::SINGLE }, 1, [&register.emit(), &77u128.to_le_bytes()]);
        let (opened, id) = hear().await.expect("a session");
        let cluster = ClusterId(u128::from_le_bytes(id.try_into().expect("the cluster's id")));
        let session = SessionId::new(cluster, LogIndex(opened.index)).0;
        // All but the last packet of a copy; later all of it, and at last another copy.
        for (rid, copy, packets) in [(2, 1, 2), (2, 1, 3), (3, 2, 3)] {
            let block = RequestBlock { method: METHOD, copy, session, seq: 1, ..RequestBlock::default() };
            let [first, middle, last] = [(true, false), (false, false), (false, true)].map(|(first, last)| Flags {
                first,
                last,
                own_block: first,
            });
            send(rid, first, 3, [&block.emit(), b"in three"]);
            send(rid, middle, 1, [b" packets", b""]);
            if packets == 3 {
                send(rid, last, 2, [b" or none", b""]);
            }
            while let Some((block, body)) = hear().await {
                tell.borrow_mut().push((copy, (body != b"ack").then_some((block.status, block.reason))));
            }
        }
    });
    cluster.run_for(SECOND * 4);
    let (acked, refused) = (None, Some((Status::NotApplied, Refusal::Incomplete)));
    assert_eq!(*told.borrow(), [(1, acked), (1, refused), (2, acked), (2, Some((Status::Ok, Refusal::Unspecified)))]);
    assert_eq!(times(&mut cluster, b"in three packets"), 1);
    let counters: Vec<_> = (0..3).map(|node| status(&mut cluster, node).counters).collect();
    assert_eq!(counters.iter().filter_map(|of| of.get("r2p2.copy_seen")).sum::<u64>(), 1);
}
