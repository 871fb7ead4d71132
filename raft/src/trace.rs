//! What every replica of this thread does, as one line of JSON for each event: for models outside that check real runs.
//!
//! Compiled in by the feature `trace` only, and silent until [`record`] is called; without the feature nothing is left of it.
//! Lines come in causal order: each after everything on this thread that it can depend on, a message's `send` before its
//! `receive`. So the lines of a simulation, which runs on one thread, are a history as they stand. The files of several
//! processes are to be merged by the reader: each is in order, and each `receive` follows a `send` of the same content.
//!
//! | event | when | besides the state |
//! |---|---|---|
//! | `start` `bootstrap` `recover` | a life begins; takes its first configuration; takes up what was durable | |
//! | `receive` | a message was taken in, or dropped | `from`, `message`, `dropped` |
//! | `propose` `read` `change` `transfer` | a request, refused or not | `refused`, `index` or `ticket` |
//! | `tick` `persisted` `applied` `other` | anything else, where it changed the state | |
//! | `persist` | a write was handed to the storage | `from`, `to`, `hard_term`, `hard_vote` |
//! | `send` | a message left; an append may arrive in parts | `to`, `message` |
//! | `reads_ready` `reads_failed` | reads up to a ticket are done with | `ticket`, `index` |
//!
//! Every line has `seq` (from 0, one more each line), `at` (the node's clock, ns), `shard`, `node` (`slot#incarnation`),
//! `event`, and the state **after** the event: `role`, `term`, `vote`, `leader`, `commit`, `applied`, `durable`,
//! `durable_term`, `durable_vote`, `first`, `last`, `base_term` (of the entry before `first`), `terms` (the log as runs: first
//! index and term of each), `config` (`at`, `voters`, `old_voters`, `learners`). Indexes, terms and counts are numbers, nodes
//! are strings, what is not known is null.

#[cfg(feature = "trace")]
mod line;

#[cfg(feature = "trace")]
pub(crate) use recording::{Before, flushed, life, stepped};
#[cfg(feature = "trace")]
pub use recording::{Sink, record};
#[cfg(not(feature = "trace"))]
pub(crate) use silent::{Before, flushed, life, stepped};

#[cfg(feature = "trace")]
mod recording {
    use std::cell::RefCell;

    use super::line::{Line, Shown};
    use crate::log::Log;
    use crate::machine::{Accepted, Action, Input, Machine, Refused};

    /// Takes the lines, without their ends.
    pub type Sink = Box<dyn FnMut(&str)>;

    thread_local! {
        static SINK: RefCell<Option<(u64, Sink)>> = const { RefCell::new(None) };
    }

    /// From now on every event of this thread's replicas goes to `sink`, one line of JSON each, without a line end; none
    /// stops that. The sink must not call a replica. Costs about a microsecond an event, and what the sink costs.
    pub fn record(sink: Option<Sink>) {
        SINK.with_borrow_mut(|current| *current = sink.map(|sink| (0, sink)));
    }

    fn is_on() -> bool {
        SINK.with_borrow(|current| current.is_some())
    }

    fn write(machine: &Machine, log: &Log, event: &str, more: impl FnOnce(&mut Line)) {
        SINK.with_borrow_mut(|current| {
            let Some((seq, sink)) = current else { return };
            let mut line = Line::new(*seq, event, machine, log);
            more(&mut line);
            *seq += 1;
            sink(&line.finish());
        });
    }

    /// The state before an input, where anybody wants to know.
    pub(crate) struct Before(Option<Shown>);

    impl Before {
        pub(crate) fn of(machine: &Machine, log: &Log) -> Before {
            Before(is_on().then(|| Shown::of(machine, log)))
        }
    }

    /// A life begins, or takes up an earlier one.
    pub(crate) fn life(event: &str, machine: &Machine, log: &Log) {
        write(machine, log, event, |_| {});
    }

    pub(crate) fn stepped(
        before: &Before,
        machine: &Machine,
        log: &Log,
        input: &Input<'_>,
        result: &Result<Accepted, Refused>,
    ) {
        let Some(shown) = &before.0 else { return };
        let event = match input {
            Input::Message(..) => "receive",
            Input::Propose(_) => "propose",
            Input::Read | Input::ReadHere => "read",
            Input::ChangeMembers(_) | Input::CancelChange => "change",
            Input::Transfer(_) => "transfer",
            _ if *shown == Shown::of(machine, log) => return,
            Input::Tick => "tick",
            Input::LeaderWanted => "wanted",
            Input::Persisted(_) => "persisted",
            Input::Applied(..) => "applied",
            _ => "other",
        };
        write(machine, log, event, |line| {
            if let Input::Message(_, message) = input {
                line.received(message);
            }
            line.result(result);
        });
    }

    pub(crate) fn flushed(_before: &Before, machine: &Machine, log: &Log, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Send(to, term, outgoing) => {
                    write(machine, log, "send", |line| line.sent(to, *term, outgoing, log));
                }
                Action::Persist(persist) => write(machine, log, "persist", |line| line.persist(persist)),
                Action::ReadsReady(ticket, index) => {
                    write(machine, log, "reads_ready", |line| line.reads(*ticket, Some(*index)));
                }
                Action::ReadsFailed(ticket) => write(machine, log, "reads_failed", |line| line.reads(*ticket, None)),
                _ => {}
            }
        }
    }
}

/// Nothing, at no cost.
#[cfg(not(feature = "trace"))]
mod silent {
    use crate::log::Log;
    use crate::machine::{Accepted, Action, Input, Machine, Refused};

    pub(crate) struct Before;

    impl Before {
        #[inline(always)]
        pub(crate) fn of(_machine: &Machine, _log: &Log) -> Before {
            Before
        }
    }

    #[inline(always)]
    pub(crate) fn life(_event: &str, _machine: &Machine, _log: &Log) {}

    #[inline(always)]
    pub(crate) fn stepped(
        _before: &Before,
        _machine: &Machine,
        _log: &Log,
        _input: &Input<'_>,
        _result: &Result<Accepted, Refused>,
    ) {
    }

    #[inline(always)]
    pub(crate) fn flushed(_before: &Before, _machine: &Machine, _log: &Log, _actions: &[Action]) {}
}
