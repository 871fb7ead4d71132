//! The store with a fuse: when it blows, the handler that runs panics, on one replica and for no reason in the log, as one does
//! that runs out of memory or meets a bad processor.
//!
//! The replica stops applying before that entry and serves nothing, and the others must go on without it. What the panic left of its
//! state must never be seen again.

use crate::service::Kv;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::Cell;
use std::future::Future;
use trimaran_rpc::prelude::*;
use trimaran_rpc::service::{Answer, Mark, Method};
use trimaran_rpc::sim::chaos::Chaos;
use trimaran_rpc::sim::cluster::Cluster;
use trimaran_rpc::state::{Reader, StateError, Turns, Writer};

/// Handlers that run, on all replicas together, before one panics.
const CALLS_MAX: u32 = 600;

thread_local! {
    /// Handlers until one panics; 0: none will. A seed's cluster lives on one thread, and a state that comes out of a snapshot knows nothing.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

/// The handler after so many others panics, on whatever replica it is; 0: none does.
pub(super) fn set(calls: u32) {
    LEFT.set(calls);
}

/// Whether a handler has yet to panic.
fn is_set() -> bool {
    LEFT.get() > 0
}

fn burn() {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    if left == 1 {
        // Not by `panic!`, whose hook would print it.
        std::panic::resume_unwind(Box::new("a handler's fuse has blown"));
    }
}

/// [`Kv`], which panics when its fuse blows. Its local methods are refused.
#[derive(Default)]
pub(super) struct Fused(Kv);

impl State for Fused {
    const VERSION: u32 = Kv::VERSION;

    fn save(&self, to: &mut Writer) -> impl Future<Output = ()> {
        self.0.save(to)
    }

    async fn load(version: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        match version == Self::VERSION {
            true => Kv::load(version, from).await.map(Fused),
            false => Err(StateError::Version { found: version, known: Self::VERSION }),
        }
    }

    fn discard(self, turns: &mut Turns) -> impl Future<Output = ()> {
        self.0.discard(turns)
    }
}

impl Service for Fused {
    const NAME: &'static str = Kv::NAME;

    fn mark(method: u32) -> Option<Mark> {
        Kv::mark(method)
    }

    fn methods() -> &'static [Method] {
        Kv::methods()
    }

    async fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        // The state has changed then, which nobody may see.
        let answer = self.0.apply(cx, request, reply).await;
        burn();
        answer
    }

    fn query(&self, cx: &ReadCx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        let answer = self.0.query(cx, request, reply);
        burn();
        answer
    }
}

/// Handlers that panic, one at a time, and whoever starts again the nodes on which they did.
pub(super) struct Panics {
    rng: Pcg64Mcg,
    /// A fuse was set, and had not blown when last looked at.
    is_due: bool,
    count: u64,
}

impl Panics {
    pub(super) fn new(seed: u64) -> Panics {
        Panics { rng: Pcg64Mcg::seed_from_u64(seed), is_due: false, count: 0 }
    }

    /// How many have struck.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Looks after both.
    pub(super) fn gust(&mut self, cluster: &mut Cluster<Fused>, chaos: &mut Chaos) {
        if self.is_due && !is_set() {
            self.is_due = false;
            self.count += 1;
        }
        // Some stay as they are for a while.
        if self.rng.random() && chaos.restart_halted(cluster) && !self.is_due {
            set(self.rng.random_range(1..CALLS_MAX));
            self.is_due = true;
        }
    }
}
