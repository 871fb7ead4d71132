//! What a node does besides answering at once: ticks for log timers, effects of the outbox, handlers of one replica.

use crate::apply::OpenEffects;
use crate::outbox::{Effect, EffectId, encode_done};
use crate::pins::Pins;
use crate::replica::panic_message;
use crate::replicated::Replicated;
use crate::request::Request;
use crate::service::{Answer, LocalCx, Service};
use crate::stats::Event;
use futures::FutureExt;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::Net;
use trimaran_raft::{EntryKind, Fault, Proposal, Term};
use trimaran_runtime::{Instant, now, sleep, sleep_until, timeout};

/// Between two tries to append what was refused because the log is full.
const PAUSE: Duration = Duration::from_millis(10);
/// Effects carried out at a time, and most of them that one entry calls done.
const EFFECTS_AT_ONCE: usize = 64;
/// Pause after the first panic of an effect; each further one doubles it.
const EFFECT_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two tries of an effect.
const EFFECT_PAUSE_MAX: Duration = Duration::from_secs(10);
/// One try of an effect is given up after so long, and tried again.
const EFFECT_LIMIT: Duration = Duration::from_secs(30);
/// A local handler is given up after so long: R2P2 has no way to say that a client has left.
const LOCAL_LIMIT: Duration = Duration::from_secs(300);

/// Timers fire with entries: a leader without requests appends a tick when one is due. Members that the log has brought are pinned
/// on the way. Runs until the node ends.
pub(crate) async fn run_ticks(node: Rc<Replicated>, mut pins: Pins) {
    let mut leadership = node.shard.leadership();
    loop {
        node.shard.with_machine(|machine| pins.follow(machine.configuration_index(), machine.configuration()));
        let until = match node.next_timer_at.get() {
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
pub(crate) async fn run_effects<S: Service>(node: Rc<Replicated>, net: Net) {
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
        lead::<S>(&node, &net, term).await;
    }
}

async fn lead<S: Service>(node: &Rc<Replicated>, net: &Net, term: Term) {
    let mut leadership = node.shard.leadership();
    let mut running = FuturesUnordered::new();
    let mut again = Retries::default();
    let is_broken = |fault| node.shard.with_machine(|machine| machine.sabotaged(fault));
    let earlier = EffectId { index: node.applied().0, number: u32::MAX };
    let mut begun = is_broken(Fault::OwnEffectsOnly).then_some(earlier);
    let mut done: Vec<EffectId> = Vec::new();
    // There may be effects after `begun`.
    let mut more = true;
    while node.shard.is_leader() && node.shard.with_machine(|machine| machine.term()) == term && node.halted().is_none()
    {
        let room = EFFECTS_AT_ONCE.saturating_sub(running.len() + done.len());
        let due = again.take_due(now(), room);
        let mut refused = false;
        if room > 0 && (more || !due.is_empty()) {
            // What another entry has called done meanwhile is no more.
            match node.open_effects(OpenEffects { ids: due, after: begun, most: room }).await {
                Ok(open) => {
                    more = open.len() == room;
                    if is_broken(Fault::DoneWhenBegun) {
                        done.extend(open.iter().map(|(id, _)| *id));
                    }
                    begun = open.iter().map(|(id, _)| Some(*id)).fold(begun, Option::max);
                    running.extend(
                        open.into_iter().map(|(id, effect)| carry_out::<S>(node.clone(), net.clone(), id, effect)),
                    );
                }
                // Too many wait for the state: those that are due again stay so.
                Err(asked) => {
                    asked.ids.into_iter().for_each(|id| again.add(id, now()));
                    (more, refused) = (true, true);
                }
            }
        }
        if !done.is_empty() {
            let body = encode_done(&done);
            let proposal = Proposal { kind: EntryKind::Done, body: &[&body], ..Proposal::default() };
            if node.shard.propose(proposal).is_ok() {
                done.clear();
            }
        }
        let until = if done.is_empty() && !refused { again.next_at() } else { now() + PAUSE };
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
        match select(pin!(ended), other).await {
            Either::Left(((id, end), _)) => match end {
                Tried::Done => {
                    again.forget(id);
                    done.push(id);
                }
                Tried::Failed => again.add(id, now()),
                // It stays open, for a build that knows it.
                Tried::Unknown => again.forget(id),
            },
            Either::Right(_) => more = true,
        }
    }
}

/// Effects that wait for another try. They hold no place among those that run: some that fail must not keep all others from
/// being carried out.
#[derive(Default)]
struct Retries {
    waiting: BTreeMap<EffectId, (Instant, Duration)>,
    /// Taken for another try, with the pause after the next failure.
    pauses: BTreeMap<EffectId, Duration>,
}

impl Retries {
    fn add(&mut self, id: EffectId, at: Instant) {
        let pause = self.pauses.remove(&id).unwrap_or(EFFECT_PAUSE);
        self.waiting.insert(id, (at + pause, (pause * 2).min(EFFECT_PAUSE_MAX)));
    }

    fn forget(&mut self, id: EffectId) {
        self.pauses.remove(&id);
    }

    fn take_due(&mut self, now: Instant, most: usize) -> Vec<EffectId> {
        let due = self.waiting.iter().filter(|(_, (at, _))| *at <= now).map(|(id, _)| *id).take(most);
        let due: Vec<EffectId> = due.collect();
        for id in &due {
            let pause = self.waiting.remove(id).map_or(EFFECT_PAUSE, |(_, pause)| pause);
            self.pauses.insert(*id, pause);
        }
        due
    }

    fn next_at(&self) -> Instant {
        self.waiting.values().map(|(at, _)| *at).min().unwrap_or(Instant::FAR)
    }
}

/// How one try of an effect ended.
enum Tried {
    Done,
    /// It panicked, or took too long.
    Failed,
    /// This build has no such effect, or not with such arguments.
    Unknown,
}

async fn carry_out<S: Service>(node: Rc<Replicated>, net: Net, id: EffectId, effect: Effect) -> (EffectId, Tried) {
    let method = effect.method;
    let cx = LocalCx { node: node.clone(), net, method, client: None, effect: Some(id), service: PhantomData };
    let call = AssertUnwindSafe(async { S::effect(cx, effect.body).await }).catch_unwind();
    let tried = match timeout(EFFECT_LIMIT, call).await {
        Ok(Ok(Answer::Ok | Answer::App)) => Tried::Done,
        Ok(Ok(Answer::Refused(why))) => {
            tracing::error!(method, index = id.index, ?why, "an effect that this build does not know stays open");
            node.counters.count(Event::EffectUnknown);
            Tried::Unknown
        }
        Ok(Err(panic)) => {
            let message = panic_message(panic.as_ref());
            tracing::error!(method, index = id.index, message, "an effect panicked");
            node.counters.count(Event::EffectFailed);
            Tried::Failed
        }
        Err(_) => {
            tracing::error!(method, index = id.index, "an effect took too long");
            node.counters.count(Event::EffectFailed);
            Tried::Failed
        }
    };
    (id, tried)
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

async fn local<S: Service>(node: Rc<Replicated>, net: Net, mut request: Request) {
    let cx = LocalCx {
        node: node.clone(),
        net,
        method: request.method(),
        client: Some(request.triple.client),
        effect: None,
        service: PhantomData,
    };
    // The packet goes back to its pool: a handler may wait for long, and packets are what others are heard by.
    let body = request.take_body();
    let call = AssertUnwindSafe(async { S::local(cx, body).await }).catch_unwind();
    match timeout(LOCAL_LIMIT, call).await {
        Ok(Ok((answer, reply))) => node.answer(&request, node.applied(), answer, &reply),
        Ok(Err(panic)) => node.handler_panicked(&request, &panic_message(panic.as_ref())),
        Err(_) => node.counters.count(Event::LocalTooLong),
    }
}
