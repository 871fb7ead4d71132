//! A client of several shards: a lane to each, with a socket, a leader and sessions of its own, opened when the first call goes there.
//!
//! ```text
//!   call ──► shard of its key, by the map ──► lane ──► (client.rs, running.rs: as for a single shard)
//!                      ▲                        │ WrongShard: nothing of it was applied
//!                      └── the map, asked for ◄─┘
//! ```
//!
//! A client begins with the belief that there is one shard. A cluster of more refuses a call made in that belief, which is how the
//! client learns better: where there is one shard, nobody is ever asked. The number of a cluster's shards never changes, so that a
//! map is wrong only until it is learned, or when another cluster has taken this one's place.

use super::error::{CallError, NotApplied};
use super::exchange::{Shared, Tries, What};
use super::route::Route;
use super::running::{Failure, own_header};
use super::{ClientConfig, Lane, Manner, MethodCall, Reply, follow};
use crate::admin::{PROBE, Probe};
use crate::r2p2::message::Segmenter;
use crate::r2p2::{Policy, RequestBlock, ResponseBlock};
use crate::service::method_key;
use crate::shards::ShardMap;
use std::cell::{Cell, RefCell};
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, NetError, UdpSocket, shard_address};
use trimaran_runtime::channel::Notify;
use trimaran_runtime::{Instant, Lane as TaskLane, now, recv_or_deadline, sleep, spawn_in};

/// Times that one call asks for the map anew.
const REFRESHES_MAX: u32 = 3;
/// Time for one server to tell the map.
const WITHIN: Duration = Duration::from_millis(200);

/// The lanes of one client.
pub(super) struct Lanes {
    net: Net,
    /// Where lane 0 receives.
    local: SocketAddrV4,
    config: ClientConfig,
    servers: Vec<SocketAddrV4>,
    nonce: u128,
    map: Cell<ShardMap>,
    /// A call has met silence: the map may be of a cluster that is no more.
    is_in_doubt: Cell<bool>,
    is_asking: Cell<bool>,
    asked: Notify,
    lanes: RefCell<Vec<Option<Rc<Lane>>>>,
    first: Rc<Lane>,
}

impl Lanes {
    /// Opens lane 0 on `local`.
    pub(super) fn new(
        net: &Net,
        local: SocketAddrV4,
        servers: Vec<SocketAddrV4>,
        config: ClientConfig,
        nonce: u128,
    ) -> Result<Lanes, NetError> {
        let first = Rc::new(open(net, net.bind(local, config.socket)?, 0, servers.clone(), config, nonce));
        Ok(Lanes {
            net: net.clone(),
            local: first.shared.socket.local_addr(),
            config,
            servers,
            nonce,
            map: Cell::new(ShardMap::ONE),
            is_in_doubt: Cell::new(false),
            is_asking: Cell::new(false),
            asked: Notify::new(),
            lanes: RefCell::new(vec![Some(first.clone())]),
            first,
        })
    }

    /// That of shard 0, which is always there.
    pub(super) fn first(&self) -> &Rc<Lane> {
        &self.first
    }

    /// All that are open.
    pub(super) fn each(&self, mut tell: impl FnMut(&Lane)) {
        self.lanes.borrow().iter().flatten().for_each(|lane| tell(lane));
    }

    /// The map as far as it is known.
    pub(super) fn map(&self) -> ShardMap {
        self.map.get()
    }

    /// The lane to a shard, opened if it must be.
    pub(super) fn lane(&self, shard: u16) -> Result<Rc<Lane>, CallError> {
        let place = usize::from(shard);
        if let Some(lane) = self.lanes.borrow().get(place).and_then(Option::as_ref) {
            return Ok(lane.clone());
        }
        let local = SocketAddrV4::new(*self.local.ip(), 0);
        let socket =
            self.net.bind(local, self.config.socket).map_err(|_| CallError::NotApplied(NotApplied::NotSent))?;
        let servers = self.servers.iter().filter_map(|server| shard_address(*server, shard)).collect();
        let lane = Rc::new(open(&self.net, socket, shard, servers, self.config, self.nonce));
        let mut lanes = self.lanes.borrow_mut();
        if lanes.len() <= place {
            lanes.resize(place + 1, None);
        }
        lanes[place] = Some(lane.clone());
        Ok(lane)
    }

    /// Makes a call in the lane of its key, or of `call.shard` where it has none; where that turns out to be the wrong one, in
    /// another.
    pub(super) async fn call(
        &self,
        call: &MethodCall<'_>,
        key: Option<u64>,
        manner: &Manner,
        deadline: Instant,
    ) -> Result<Reply, CallError> {
        let mut refreshes = 0;
        if self.is_in_doubt.take() {
            self.refresh(now() + WITHIN.min(deadline.saturating_since(now()))).await;
        }
        loop {
            let map = self.map.get();
            let shard = key.map_or(call.shard, |hash| map.shard_of(hash));
            if shard >= map.shards() {
                // Asked for by its number: perhaps it is there all the same.
                if refreshes > 0 || !self.refresh(deadline).await {
                    return Err(CallError::NotApplied(NotApplied::WrongShard));
                }
                refreshes += 1;
                continue;
            }
            let lane = self.lane(shard)?;
            let end = lane.call(call, map.version(), manner, deadline).await;
            match end {
                Ok(reply) => return Ok(reply),
                Err(Failure::WrongShard { untouched: true }) if refreshes < REFRESHES_MAX && now() < deadline => {
                    refreshes += 1;
                    if self.map.get() == map && !self.refresh(deadline).await {
                        // The server is wrong, not the map: perhaps another one is not.
                        sleep(self.config.probe.min(deadline.saturating_since(now()))).await;
                    }
                }
                Err(Failure::WrongShard { untouched: true }) => {
                    return Err(CallError::NotApplied(NotApplied::WrongShard));
                }
                Err(Failure::WrongShard { untouched: false } | Failure::SessionExpired { .. }) => {
                    return Err(CallError::Unknown { call_id: None });
                }
                Err(Failure::Call(error)) => {
                    let is_silence =
                        matches!(error, CallError::Unknown { .. } | CallError::NotApplied(NotApplied::NotTaken));
                    self.is_in_doubt.set(is_silence && map != ShardMap::ONE);
                    return Err(error);
                }
            }
        }
    }

    /// Asks one server after the other how many shards there are, those that belong to a cluster before others. True where the map
    /// is another one than before. Several calls that ask at once are answered by one question.
    pub(super) async fn refresh(&self, deadline: Instant) -> bool {
        let before = self.map.get();
        if self.is_asking.get() {
            while self.is_asking.get() && now() < deadline {
                recv_or_deadline(self.asked.notified(), deadline).await;
            }
            // One notification wakes one call.
            self.asked.notify();
            return self.map.get() != before;
        }
        let _asking = Asking::begin(self);
        let shared = &self.first.shared;
        let mut second_best = None;
        let servers = shared.route.borrow().servers();
        for turn in 0..=servers {
            let Some(server) = shared.route.borrow().server(turn) else { break };
            if now() >= deadline {
                break;
            }
            let Some(probe) = ask(shared, server, deadline.min(now() + WITHIN)).await else { continue };
            let Some(map) = ShardMap::new(probe.shards) else { continue };
            if probe.cluster.is_some() {
                self.map.set(map);
                return map != before;
            }
            second_best.get_or_insert(map);
        }
        // Before `init` this is all there is to know.
        self.map.set(second_best.unwrap_or(before));
        self.map.get() != before
    }
}

/// A question about the map is on its way, however it ends.
struct Asking<'a>(&'a Lanes);

impl<'a> Asking<'a> {
    fn begin(lanes: &'a Lanes) -> Asking<'a> {
        lanes.is_asking.set(true);
        Asking(lanes)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.is_asking.set(false);
        self.0.asked.notify();
    }
}

fn open(
    net: &Net,
    socket: UdpSocket,
    shard: u16,
    servers: Vec<SocketAddrV4>,
    config: ClientConfig,
    nonce: u128,
) -> Lane {
    let segmenter = Segmenter::new(net.payload_bytes(), config.request_packets);
    let route = Route::new(servers, nonce as u64 ^ (nonce >> 64) as u64);
    let shared = Rc::new(Shared::new(config, shard, socket, segmenter, route, nonce));
    let receiving = Rc::clone(&shared);
    let receive = spawn_in(TaskLane::Normal, "client receive", async move { receiving.receive().await });
    let following = Rc::clone(&shared);
    let follow = spawn_in(TaskLane::Normal, "client members", async move { follow::follow(&following).await });
    Lane { shared, _receive: receive, _follow: follow, registering: RefCell::default() }
}

async fn ask(shared: &Shared, node: SocketAddrV4, until: Instant) -> Option<Probe> {
    let block = RequestBlock { method: method_key(PROBE), acked: shared.next_number(), ..RequestBlock::default() };
    let (echo, block) = (block.echo(), block.emit());
    let segments = shared.segmenter.own_request(block.len()).ok()?;
    let mut tries = Tries::new(shared);
    tries.send(node, own_header(Policy::FixedRoute), &segments, [&block, &[]], Some(echo)).ok()?;
    let What::Answered(answer) = tries.event(until).await?.what else { return None };
    let (_, body) = ResponseBlock::parse(answer.bytes()).ok()?;
    serde_json::from_slice(body).ok()
}
