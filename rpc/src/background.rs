//! What a node does besides answering at once: ticks for log timers, effects of the outbox, handlers of one replica.

use crate::outbox::{EffectId, Outbox, encode_done};
use crate::replica::panic_message;
use crate::replicated::Replicated;
use crate::request::Request;
use crate::service::{LocalCx, Service};
use crate::stats::Event;
use crate::timers::Timers;
use futures::FutureExt;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::Net;
use trimaran_raft::{EntryKind, Proposal, Term};
use trimaran_runtime::{Instant, now, sleep, sleep_until};

/// Between two tries to append what was refused because the log is full.
const PAUSE: Duration = Duration::from_millis(10);
/// Effects carried out at a time, and most of them that one entry calls done.
const EFFECTS_AT_ONCE: usize = 64;
/// Pause after the first panic of an effect; each further one doubles it.
const EFFECT_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two tries of an effect.
const EFFECT_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Timers fire with entries: a leader without requests appends a tick when one is due. Runs until the node ends.
pub(crate) async fn run_ticks(node: Rc<Replicated>, timers: Rc<RefCell<Timers>>) {
    let mut leadership = node.shard.leadership();
    loop {
        let until = match timers.borrow().next_at() {
            Some(at) if node.shard.is_leader() && node.halted().is_none() => tick(&node, at.as_nanos()),
            _ => Instant::FAR,
        };
        let moved = pin!(node.timers_moved.notified());
        let changed = pin!(leadership.changed());
        select(select(moved, changed), pin!(sleep_until(until))).await;
    }
}

/// Appends a tick where the earliest timer is due and no entry is on its way that fires it. When to look again.
fn tick(node: &Replicated, at_ns: u64) -> Instant {
    let newest_ns = node.shard.with_log(|log| log.last_header().map_or(0, |header| header.log_time));
    let now_ns = node.shard.log_time();
    if at_ns > now_ns {
        return now() + Duration::from_nanos(at_ns - now_ns);
    }
    if newest_ns < at_ns || node.shard.with_log(|log| log.last()) == node.applied() {
        // Refused: the next look tries again.
        let _ = node.shard.propose(Proposal { kind: EntryKind::Tick, ..Proposal::default() });
    }
    now() + PAUSE
}

/// Carries out the effects of the outbox while this node leads. Runs until the node ends.
pub(crate) async fn run_effects<S: Service>(node: Rc<Replicated>, net: Net, outbox: Rc<RefCell<Outbox>>) {
    let mut leadership = node.shard.leadership();
    loop {
        let term = node.shard.with_machine(|machine| machine.term());
        if !node.shard.is_leader() {
            leadership.changed().await;
            continue;
        }
        // What earlier leaders have called done is out of the outbox by then.
        let Ok(index) = node.shard.read_barrier().await else {
            sleep(PAUSE).await;
            continue;
        };
        node.shard.applied_at_least(index).await;
        lead::<S>(&node, &net, &outbox, term).await;
    }
}

async fn lead<S: Service>(node: &Rc<Replicated>, net: &Net, outbox: &RefCell<Outbox>, term: Term) {
    let mut leadership = node.shard.leadership();
    let mut running = FuturesUnordered::new();
    let mut begun: Option<EffectId> = None;
    let mut done: Vec<EffectId> = Vec::new();
    while node.shard.is_leader() && node.shard.with_machine(|machine| machine.term()) == term && node.halted().is_none()
    {
        let room = EFFECTS_AT_ONCE.saturating_sub(running.len() + done.len());
        let next: Vec<_> = outbox.borrow().after(begun).take(room).map(|(id, effect)| (id, effect.clone())).collect();
        for (id, effect) in next {
            begun = Some(id);
            let cx = LocalCx {
                node: node.clone(),
                net: net.clone(),
                method: effect.method,
                client: None,
                effect: Some(id),
                service: PhantomData,
            };
            running.push(carry_out::<S>(cx, effect.body, id));
        }
        if !done.is_empty() {
            let body = encode_done(&done);
            let proposal = Proposal { kind: EntryKind::Done, body: &[&body], ..Proposal::default() };
            if node.shard.propose(proposal).is_ok() {
                done.clear();
            }
        }
        let until = if done.is_empty() { Instant::FAR } else { now() + PAUSE };
        let is_idle = running.is_empty();
        let ended = async {
            match is_idle {
                true => std::future::pending().await,
                false => running.select_next_some().await,
            }
        };
        let added = pin!(node.effects_added.notified());
        let changed = pin!(leadership.changed());
        let later = pin!(sleep_until(until));
        let other = select(select(added, changed), later);
        if let Either::Left((id, _)) = select(pin!(ended), other).await {
            done.push(id);
        }
    }
}

/// Runs an effect until it ends without a panic.
async fn carry_out<S: Service>(cx: LocalCx<S>, body: Vec<u8>, id: EffectId) -> EffectId {
    let mut pause = EFFECT_PAUSE;
    loop {
        let call = async { S::effect(cx.clone(), body.clone()).await };
        let Err(panic) = AssertUnwindSafe(call).catch_unwind().await else { return id };
        tracing::error!(
            method = cx.method,
            index = id.index,
            message = panic_message(panic.as_ref()),
            "an effect panicked"
        );
        cx.node.counters.count(Event::EffectPanicked);
        sleep(pause).await;
        pause = (pause * 2).min(EFFECT_PAUSE_MAX);
    }
}

/// Runs the handlers of this replica alone, at most `limit` at a time; more wait. Runs until the node ends.
pub(crate) async fn run_locals<S: Service>(node: Rc<Replicated>, net: Net, limit: usize) {
    let mut running = FuturesUnordered::new();
    loop {
        let is_idle = running.is_empty();
        let has_room = running.len() < limit;
        let ended = async {
            match is_idle {
                true => std::future::pending().await,
                false => running.select_next_some().await,
            }
        };
        let next = async {
            match has_room {
                true => node.next_local().await,
                false => std::future::pending().await,
            }
        };
        match select(pin!(ended), pin!(next)).await {
            Either::Left(((), _)) => {}
            Either::Right((request, _)) => running.push(local::<S>(node.clone(), net.clone(), request)),
        }
    }
}

async fn local<S: Service>(node: Rc<Replicated>, net: Net, request: Request) {
    let cx = LocalCx {
        node: node.clone(),
        net,
        method: request.method(),
        client: Some(request.triple.client),
        effect: None,
        service: PhantomData,
    };
    let body = request.body.bytes().to_vec();
    let call = async { S::local(cx, body).await };
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok((answer, reply)) => node.answer(&request, node.applied(), answer, &reply),
        Err(panic) => node.handler_panicked(&request, &panic_message(panic.as_ref())),
    }
}
